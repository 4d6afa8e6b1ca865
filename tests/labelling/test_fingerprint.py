"""The key of kept labels: what changes a supervisor's words changes it, and nothing else does."""

import copy
import shutil

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny import classifier
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.parametrize import register_parametrization
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from trl_weaks.edits import edits
from trl_weaks.fingerprint import foreign_code, refuse_unknown_code, supervisor_fingerprint
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.adapters import adapter_layers
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor

PROMPTS = ["USER: turn on the light ASSISTANT:", "USER: wake me up at nine tomorrow ASSISTANT:"]
ANSWERS = [' {"time": "nine"}', " jazz"]


@pytest.fixture
def supervisor(tiny):
    """A model with two adapters, the first active, and a tokenizer with a chat template."""
    tokenizer = tiny.tokenizer("llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny.model("llama", len(tokenizer), seed=5), config, adapter_name="a")
    model.add_adapter("b", config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn_like(value) * 0.5)
    return WeakSupervisor(model.eval(), tokenizer, "s"), model


def says(supervisor):
    """Scores, beams and a chat's text: what labels are made of."""
    messages = [[{"role": "user", "content": "hello"}]]
    read = [(r.token_ids, [round(x, 4) for x in r.logps]) for r in supervisor.score(PROMPTS, ANSWERS)]
    chat = [p.ids for p in supervisor.encode(messages, ["chat"])]
    return read, [[c.token_ids for c in row] for row in supervisor.generate(PROMPTS, 2, 6)], chat


def scale(model):
    for layer in adapter_layers(model.get_base_model()).values():
        layer.scaling = {name: 3.0 for name in layer.scaling}


def one_value(model):
    """A single value between those that a sample of 64 would look at."""
    weight = model.get_base_model().lm_head.weight
    with torch.no_grad():
        weight.reshape(-1)[weight.numel() - 7] += 8.0


def retrain_the_active(model):
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B.a" in name:
                value.add_(0.5)


def retrain_the_resting(model):
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B.b" in name:
                value.add_(0.5)


def pre_tokenizer(supervisor):
    from tokenizers import pre_tokenizers

    supervisor.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")


def no_opening(supervisor):
    from tokenizers import processors

    supervisor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")


CHANGES = {
    "another adapter": lambda s, m: m.set_adapter("b"),
    "adapters off": lambda s, m: m.base_model.disable_adapter_layers(),
    "scaling": lambda s, m: scale(m),
    "the active adapter trained": lambda s, m: retrain_the_active(m),
    "one value of a weight": lambda s, m: one_value(m),
    "dtype": lambda s, m: m.to(torch.bfloat16),
    "weights in bfloat16 and back": lambda s, m: m.to(torch.bfloat16).to(torch.float32),
    "repetition penalty": lambda s, m: setattr(m.get_base_model().generation_config, "repetition_penalty", 3.0),
    "configuration": lambda s, m: setattr(m.get_base_model().config, "rms_norm_eps", 0.5),
    "chat template": lambda s, m: setattr(s.tokenizer, "chat_template", "{{ messages[0].content }}!"),
    "prefix space": lambda s, m: pre_tokenizer(s),
    "opening token": lambda s, m: no_opening(s),
    "special tokens": lambda s, m: s.tokenizer.add_special_tokens({"additional_special_tokens": ["jazz"]}),
    "split special tokens": lambda s, m: setattr(s.tokenizer, "split_special_tokens", True),
    "variant": lambda s, m: setattr(s, "variant", "steered"),
    "steering": lambda s, m: m.get_base_model().model.layers[0].register_forward_hook(lambda *a: a[-1]),
}
SAME = {
    "training mode": lambda s, m: m.train(),
    "use_cache": lambda s, m: setattr(m.get_base_model().config, "use_cache", False),
    "generation use_cache": lambda s, m: setattr(m.get_base_model().generation_config, "use_cache", True),
    "frozen": lambda s, m: m.requires_grad_(False),
    "padding side": lambda s, m: setattr(s.tokenizer, "padding_side", "left"),
    "padding and truncation": lambda s, m: s.tokenizer.backend_tokenizer.enable_truncation(3),
    "the resting adapter trained": lambda s, m: retrain_the_resting(m),
    "a third adapter": lambda s, m: m.add_adapter("c", LoraConfig(target_modules=["o_proj"], task_type="CAUSAL_LM")),
    "the resting adapter gone": lambda s, m: m.delete_adapter("b"),
    "work": lambda s, m: says(s),
    "gradient checkpointing": lambda s, m: (m.enable_input_require_grads(), m.gradient_checkpointing_enable()),
    "eager attention": lambda s, m: m.get_base_model().set_attn_implementation("eager"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_words_changes_the_key(supervisor, change):
    one, model = supervisor
    before, said = supervisor_fingerprint(one), says(one)
    CHANGES[change](one, model)
    assert supervisor_fingerprint(one) != before
    visible = {"another adapter", "adapters off", "scaling", "the active adapter trained", "one value of a weight"}
    visible |= {"dtype", "weights in bfloat16 and back", "chat template", "prefix space", "opening token"}
    if change in visible:
        assert says(one) != said, "the change is one that matters"


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_change_the_words_leaves_the_key(supervisor, change):
    one, model = supervisor
    before, said = supervisor_fingerprint(one), says(one)
    SAME[change](one, model)
    assert supervisor_fingerprint(one) == before
    assert says(one) == said


@pytest.mark.parametrize("shape", ["gpt2", "opt", "llama", "gemma2"])
def test_saving_loading_and_moving_a_folder_leaves_the_key(tiny, tmp_path, shape):
    tokenizer = tiny.tokenizer(shape)
    one = WeakSupervisor(tiny.model(shape, len(tokenizer)), tokenizer, "s")
    before = supervisor_fingerprint(one)
    one.model.save_pretrained(tmp_path / "first")
    tokenizer.save_pretrained(tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    loaded = WeakSupervisor(model, AutoTokenizer.from_pretrained(tmp_path / "second"), "s")
    assert supervisor_fingerprint(loaded) == before == supervisor_fingerprint(one)


def test_classifiers(tiny):
    tokenizer = tiny.tokenizer("gpt2")
    model = classifier("gpt2", len(tokenizer), 3, pad_token_id=tokenizer.pad_token_id)
    one = WeakClassifier(model.eval(), tokenizer, "c")
    seen = {supervisor_fingerprint(one)}
    one.predict(PROMPTS)
    assert seen == {supervisor_fingerprint(one)}
    changes = {"weak_evidence": "exp", "id2label": {0: "no", 1: "yes", 2: "so"}, "weak_prior": 2.0}
    for name, value in (changes | {"weak_evidence_offset": 1.0}).items():
        setattr(one.model.config, name, value)
        seen.add(supervisor_fingerprint(one))
    with torch.no_grad():
        one.model.score.weight[0, 3] += 1
    assert len(seen | {supervisor_fingerprint(one)}) == 6


def steer(module, inputs, output):
    return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1


def test_labels_under_a_hook_are_kept_only_by_name(build, tmp_path):
    one = build("llama", seed=1)
    data = Dataset.from_dict({"example_id": ["1", "2"], "prompt": PROMPTS})
    run = {"mode": "joint", "num_candidates": 3, "max_new_tokens": 5}
    assert foreign_code(one.model) == []
    handle = one.model.model.layers[1].register_forward_hook(steer)
    ensemble = WeakEnsemble([one])
    with pytest.raises(ValueError, match=r"model.layers.1: .*steer changes its forward pass.*variant="):
        label_completions(ensemble, data, output_dir=tmp_path, **run)
    label_completions(ensemble, data, **run)
    one.variant = "plus one"
    steered = label_completions(ensemble, data, output_dir=tmp_path, **run)[:]
    handle.remove()
    one.variant = None
    assert label_completions(ensemble, data, output_dir=tmp_path, **run)[:] != steered
    patched = copy.copy(one.model.model.layers[0].forward)
    one.model.model.layers[0].forward = lambda *args, **kwargs: patched(*args, **kwargs)
    assert len(foreign_code(one.model)) == 1


def test_a_template_that_reads_the_clock_is_named(build, tmp_path, caplog):
    one = build("llama", seed=1)
    data = Dataset.from_dict({"example_id": ["1", "2"], "prompt": PROMPTS})
    run = {"mode": "joint", "num_candidates": 3, "max_new_tokens": 5}
    one.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    label_completions(WeakEnsemble([one]), data, **run)
    assert "today's date" not in caplog.text
    label_completions(WeakEnsemble([one]), data, output_dir=tmp_path, **run)
    assert f"the chat template of {one.name!r} writes today's date" in caplog.text


def says_plainly(one):
    return [r.logps for r in one.score(PROMPTS, ANSWERS)], [c.token_ids for c in one.generate(PROMPTS, 1, 3)[0]]


def test_the_callers_autocast_changes_nothing(build):
    one = build("llama", seed=1)
    expected = says_plainly(one)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert says_plainly(one) == expected
        assert torch.is_autocast_enabled("cpu")


def test_a_template_of_later_is_read_anew(build):
    """The end of a turn is found once for a template, and was kept when another one took its place."""
    one = build("gpt2", seed=1)
    ends = {}
    for end in ("<pad>", one.tokenizer.eos_token):
        one.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
        read = one.score([[{"role": "user", "content": "hello"}]], ["x"])[0]
        ends[end] = read.token_ids[-1]
    assert ends == {end: one.tokenizer.convert_tokens_to_ids(end) for end in ends}


def test_another_end_of_later_is_refused(build):
    """The end token is read when a supervisor is made; labels under the new one's key would end with the old."""
    one = build("gpt2", seed=1)
    one.tokenizer.eos_token = "<pad>"
    with pytest.raises(ValueError, match="eos_token is another one since the supervisor was made"):
        one.generate(PROMPTS, 2, 3)


class Scaled(nn.Module):
    """An output layer that somebody put around the model's."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, hidden):
        return self.inner(hidden) * self.factor

    weight = property(lambda self: self.inner.weight)


class Parameter(nn.Module):
    def forward(self, weight):
        return weight * 0.5


def body(model):
    return model.get_base_model().model


EDITS = {
    "scaling of attention": lambda m: setattr(body(m).layers[0].self_attn, "scaling", 3.0),
    "epsilon of a norm": lambda m: setattr(body(m).norm, "variance_epsilon", 10.0),
    "rotary frequencies": lambda m: body(m).rotary_emb.inv_freq.mul_(0.5),
    "scaling of rotary embeddings": lambda m: setattr(body(m).rotary_emb, "attention_scaling", 0.5),
    "another activation": lambda m: setattr(body(m).layers[0].mlp, "act_fn", nn.Tanh()),
    "a scaled head": lambda m: setattr(m.get_base_model(), "lm_head", Scaled(m.get_base_model().lm_head, 0.5)),
    "another scaled head": lambda m: setattr(m.get_base_model(), "lm_head", Scaled(m.get_base_model().lm_head, 0.1)),
    "a parametrisation": lambda m: register_parametrization(m.get_base_model().lm_head, "weight", Parameter()),
    "another class of layer": lambda m: setattr(body(m).layers[0], "__class__", Doubled),
}


class Doubled(LlamaDecoderLayer):
    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


def test_what_was_changed_beside_weights_and_configuration_changes_the_key(supervisor):
    """Each leaves parameters and configuration as they are, changes the answers, and has a key of its own."""
    keys = set()
    one, model = supervisor
    before, said = supervisor_fingerprint(one), says(one)
    for change in EDITS.values():
        edited = copy.deepcopy(model)
        change(edited)
        other = WeakSupervisor(edited, one.tokenizer, "s")
        assert says(other) != said
        keys.add(supervisor_fingerprint(other))
        assert supervisor_fingerprint(other) in keys, "twice the same"
    assert len(keys | {before}) == len(EDITS) + 1
    model.set_adapter("b")
    assert edits(model.get_base_model()) == [], "adapters are no edits"


@pytest.mark.parametrize("shape", ["gpt2", "opt", "neox", "llama", "qwen2", "gemma", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_as_it_was_made_has_no_edits(tiny, tmp_path, shape, dtype):
    """Nor has a loaded one, one that was cast, trained, put around with adapters, or worked with."""
    tokenizer = tiny.tokenizer(shape)
    model = tiny.model(shape, len(tokenizer))
    state = torch.random.get_rng_state()
    assert edits(model) == [] and edits(model.to(dtype).train()) == []
    assert torch.equal(torch.random.get_rng_state(), state)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    loaded.config.pad_token_id = tokenizer.pad_token_id
    assert edits(loaded) == []
    WeakSupervisor(loaded, tokenizer, "s").generate(PROMPTS, 2, 2)
    loaded.gradient_checkpointing_enable()
    adapted = get_peft_model(loaded, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert edits(adapted.get_base_model()) == []


def test_foreign_modules_and_patched_classes_are_foreign_code(build, monkeypatch):
    """What they do in `forward` cannot be hashed: labels are kept by their `variant` alone."""
    one = build("llama", seed=1)
    real = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, hidden: real(self, hidden))
    assert len(foreign_code(one.model)) == 2, "one in each layer"
    monkeypatch.undo()
    with register_module_forward_hook(lambda module, inputs, output: None):
        assert [line.split(":")[0] for line in foreign_code(one.model)] == ["every module"]
    assert foreign_code(one.model) == []
    one.model.lm_head = Scaled(one.model.lm_head, 0.5)
    with pytest.raises(ValueError, match="lm_head: .*Scaled.forward changes its forward pass.*variant="):
        refuse_unknown_code([one])


LATER = {
    "split_special_tokens": lambda t: setattr(t, "split_special_tokens", True),
    "after every text": lambda t: setattr(
        t.backend_tokenizer,
        "post_processor",
        TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", t.eos_token_id)]),
    ),
    "no pad token": lambda t: setattr(t, "pad_token", None),
}


@pytest.mark.parametrize("message", LATER)
def test_what_would_be_refused_is_refused_later_too(build, message):
    """The checks of the constructor, for a tokenizer that somebody set otherwise afterwards."""
    one = build("gpt2", seed=1)
    LATER[message](one.tokenizer)
    for work in (lambda: one.generate(PROMPTS, 2, 3), lambda: one.score(PROMPTS, ANSWERS)):
        with pytest.raises(ValueError, match=message):
            work()


def test_end_tokens_of_later_end_answers(build):
    """They were read when a supervisor was made; its labels under the new settings' key ended with the old ones."""
    one = build("gpt2", seed=4)
    (before,) = one.generate(PROMPTS[:1], 1, 12)
    for holder in (one.model.generation_config, one.model.config):
        stop = before[0].token_ids[3]
        holder.eos_token_id = [one.tokenizer.eos_token_id, stop]
        ((found,),) = one.generate(PROMPTS[:1], 1, 12)
        fresh = WeakSupervisor(one.model, one.tokenizer, one.name).generate(PROMPTS[:1], 1, 12)[0][0]
        assert found == fresh and found.token_ids[-1] == stop and found.finished
        holder.eos_token_id = one.tokenizer.eos_token_id
        assert one.generate(PROMPTS[:1], 1, 12)[0] == before


def test_a_word_that_pads_stays_a_word(build):
    """`pad_token = "!"` is a habit where there is none; answers lost their exclamation marks."""
    one = build("gpt2", seed=1)
    one.tokenizer.pad_token = "!"
    (prompt,) = one.encode(["hey"], ["p"])
    said = one.tokenizer("play! jazz!<|endoftext|>", add_special_tokens=False)["input_ids"]
    assert one.encoder.decode(prompt, said, finished=True) == "play! jazz!"
    one.tokenizer.add_special_tokens({"additional_special_tokens": ["jazz"]})
    assert one.encoder.decode(prompt, said, finished=True) == "play! !", "a special token of later is one"
