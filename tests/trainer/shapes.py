"""The four architectures of the paper, tiny and without dropout; texts of very unequal lengths."""

import torch
from tiny import causal_lm

SIZES = dict(width=32, layers=2, positions=128)
TEXTS = [
    ("wake me up at five pm tomorrow\n", '{"time": "five pm", "date": "tomorrow"}'),
    ("play something\n", "{}"),
    ("what is the weather in new york city on friday morning\n", '{"place": "new york city", "date": "friday"}'),
    ("call ann\n", '{"person": "ann"}'),
    ("add milk and eggs and bread to my shopping list\n", '{"list": "shopping", "item": "milk & eggs & bread"}'),
    ("stop\n", "{}"),
    ("remind me about the meeting with john smith\n", '{"event": "meeting", "person": "john smith"}'),
    ("lights off\n", '{"device": "lights"}'),
]
NO_DROPOUT = dict(attention_dropout=0.0, hidden_dropout=0.0, dropout=0.0)
OWN = {
    "llama": dict(inner=48, kv_heads=1),
    "gpt2": dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "opt": dict(inner=48) | NO_DROPOUT,
    "gpt_neox": dict(inner=48) | NO_DROPOUT,
}


def shape(name: str, tokenizer, **overrides) -> torch.nn.Module:
    """A model of architecture `name` with larger weights than its initialisation, so that attention matters."""
    end = tokenizer.eos_token_id
    ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=end, bos_token_id=end)
    return causal_lm(name, len(tokenizer), scale=4, **SIZES | OWN[name] | ids | overrides)


def one_step(trainer) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    """Loss, gradients and logged metrics of one step, the way the trainer computes them."""
    trainer.train()
    log = next(log for log in trainer.state.log_history if "loss" in log)
    return log["loss"], trainer.gradients, log


def watch_gradients(trainer):
    """Keep the gradients that the first optimizer step sees, in full precision; the weights stay as they are."""
    trainer.gradients = None
    create = trainer.create_optimizer

    def spying(*args, **kwargs):
        optimizer = create(*args, **kwargs)
        step = optimizer.step

        def look(*a, **k):
            if trainer.gradients is None:
                trainer.gradients = {
                    name: p.grad.detach().clone() for name, p in trainer.model.named_parameters() if p.grad is not None
                }
            return step(*a, **k)

        optimizer.step = look
        return optimizer

    trainer.create_optimizer = spying
    return trainer


def relative_error(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm, all parameters together."""
    assert ours.keys() == theirs.keys() and ours
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in theirs)
    whole = sum(float(value.double().square().sum()) for value in theirs.values())
    assert whole > 0
    return (apart / whole) ** 0.5
