"""The ensemble as a reward function: its numbers, its canary, and a short GRPO run."""

import math

import pytest
import torch
from datasets import Dataset
from scipy.stats import kendalltau

from trl_weaks.labelling.reward import WeakEnsembleReward, agreement
from trl_weaks.supervisors.ensemble import WeakEnsemble

PROMPTS = ["USER: wake me up at nine ASSISTANT:", "USER: play some jazz ASSISTANT:"]
ANSWERS = [' {"time": "nine"}', " nothing", ' {"music": "jazz"}', " 你好"]


@pytest.fixture(scope="module")
def ensemble(build):
    return WeakEnsemble([build("gpt2", 1), build("opt", 2)], [0.7, 0.3])


def test_reward_is_the_joint_score_and_nothing_else(build, ensemble):
    prompts, completions = PROMPTS * 2, ANSWERS
    expected = ensemble.score(prompts, completions)
    assert WeakEnsembleReward(ensemble)(prompts=prompts, completions=completions) == expected
    watched = WeakEnsembleReward(ensemble, build("neox", 3))
    assert watched(prompts=prompts, completions=completions, label=[1, 2, 3, 4], completion_ids=[[0]] * 4) == expected


def test_canary_reports_its_score_and_how_far_it_drifts(build, ensemble):
    canary = build("neox", 3)
    reward, logged = WeakEnsembleReward(ensemble, canary), []
    first = reward(PROMPTS, ANSWERS[:2], log_metric=lambda name, value: logged.append((name, value)))
    second = reward(PROMPTS, ANSWERS[2:], log_metric=lambda name, value: logged.append((name, value)))
    canaries = [sum(r.mean_logp for r in canary.score(PROMPTS, half)) / 2 for half in (ANSWERS[:2], ANSWERS[2:])]
    drift = (sum(second) / 2 - sum(first) / 2) - (canaries[1] - canaries[0])
    assert logged == [
        ("weak_ensemble/unscored", 0.0),
        ("canary/score", pytest.approx(canaries[0], abs=1e-5)),
        ("canary/divergence", 0.0),
        ("weak_ensemble/unscored", 0.0),
        ("canary/score", pytest.approx(canaries[1], abs=1e-5)),
        ("canary/divergence", pytest.approx(drift, abs=1e-5)),
    ]  # one completion per prompt: no agreement to report
    assert len(reward.history) == 2


def test_agreement_counts_ordered_pairs_within_a_prompt():
    generator = torch.Generator().manual_seed(0)
    rewards, scores = torch.randn(2, 12, generator=generator).tolist()
    tau = kendalltau(rewards, scores).statistic  # no ties: agreement = (1 + tau) / 2
    share = agreement(["p"] * 12, [str(i) for i in range(12)], rewards, scores)
    assert share == pytest.approx((1 + tau) / 2)
    assert agreement(["p", "p", "q", "q"], list("abab"), [1, 2, 1, 2], [5, 6, 6, 5]) == 0.5
    assert agreement(["p", "p"], ["a", "b"], [1, 2], [5, 5]) == 0.5
    assert math.isnan(agreement(["p", "p", "q"], ["a", "a", "b"], [1, 1, 2], [3, 3, 4]))


def test_a_canary_that_rewards_is_refused(build, ensemble):
    with pytest.raises(ValueError, match="'gpt2-1' is in the ensemble"):
        WeakEnsembleReward(ensemble, build("gpt2", 1))
    inside = ensemble.supervisors[0]
    renamed = type(inside)(inside.model, inside.tokenizer, "renamed")
    with pytest.raises(ValueError, match="hold out"):
        WeakEnsembleReward(ensemble, renamed)


def say(content, **more):
    return [{"role": "assistant", "content": content, **more}]


UNREADABLE = [
    say(None, tool_calls=[{"type": "function", "function": {"name": "play", "arguments": {}}}]),
    say(" I call", tool_calls=[{"type": "function", "function": {"name": "play", "arguments": {}}}]),
    say(None),
    say([{"type": "text", "text": " jazz"}]),
    [*say(" one"), {"role": "tool", "content": "two"}, *say(" three")],
    [],
    say(" jazz" * 300),
]


def chat(supervisor):
    supervisor.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + supervisor.tokenizer.eos_token + "{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return supervisor


def test_what_cannot_be_judged_is_none_and_counted(build, caplog):
    """Issue 19, item 19: one such completion stopped the run."""
    ensemble = WeakEnsemble([chat(build("gpt2", 1)), chat(build("llama", 2))], [0.7, 0.3])
    canary, logged = chat(build("neox", 3)), []
    reward = WeakEnsembleReward(ensemble, canary)
    prompt = [{"role": "user", "content": "play some jazz"}]
    blocks = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    long = [{"role": "user", "content": "jazz " * 300}]
    prefilled = [*prompt, {"role": "assistant", "content": "Sure,"}]
    prompts = [prompt] * (len(UNREADABLE) + 1) + [blocks, long, prefilled, prompt]
    completions = [say(" jazz"), *UNREADABLE, say(" a"), say(" b"), say(" c"), say(" five pm")]
    given = reward(prompts, completions, log_metric=lambda name, value: logged.append((name, value)))
    readable = [0, len(prompts) - 1]
    expected = ensemble.score([prompts[i] for i in readable], [completions[i] for i in readable])
    assert [i for i, value in enumerate(given) if value is not None] == readable
    assert [given[i] for i in readable] == pytest.approx(expected, abs=1e-5)
    assert sum(reward.unscored.values()) == len(prompts) - 2 and len(reward.unscored) == 6
    assert ("weak_ensemble/unscored", pytest.approx((len(prompts) - 2) / len(prompts))) in logged
    assert len([r for r in caplog.records if "has no reward" in r.message]) == len(reward.unscored)
    again = reward(prompts[1:3], completions[1:3])
    assert again == [None, None] and reward.history[-1] == {"weak_ensemble/unscored": 1.0}
    assert reward(prompts[:1], completions[:1])[0] == pytest.approx(expected[0], abs=1e-5)
    assert reward.history[-1]["canary/divergence"] != 0.0
    assert reward([], []) == []
    for supervisor in ensemble.supervisors:
        supervisor.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        reward(prompts[:1], completions[:1])


def test_a_canary_may_share_its_base_with_the_ensemble(tiny):
    from peft import LoraConfig, get_peft_model

    from trl_weaks.supervisors.supervisor import WeakSupervisor

    tokenizer = tiny.tokenizer("gpt2")
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(tiny.model("gpt2", len(tokenizer)), config, adapter_name="a")
    model.add_adapter("b", config)
    one = WeakEnsemble([WeakSupervisor(model, tokenizer, "one", adapter="a")])
    WeakEnsembleReward(one, WeakSupervisor(model, tokenizer, "canary", adapter="b"))
    with pytest.raises(ValueError, match="hold out"):
        WeakEnsembleReward(one, WeakSupervisor(model, tokenizer, "canary", adapter="a"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_short_grpo_run_is_rewarded_by_the_ensemble_and_watched_by_the_canary(build, ensemble, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    seen = []

    class Recorded(WeakEnsembleReward):
        def __call__(self, prompts, completions, **columns):
            seen.append((list(prompts), list(completions)))
            return super().__call__(prompts, completions, **columns)

    student = build("llama", 7)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    reward = Recorded(ensemble, build("neox", 3))
    args = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=5,
        max_steps=3,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )
    trainer = GRPOTrainer(
        model=student.model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": p, "gold": "x"} for p in PROMPTS]),
        processing_class=student.tokenizer,
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(entries) == len(seen) == len(reward.history) == 3
    for entry, (prompts, completions), watched in zip(entries, seen, reward.history, strict=True):
        expected = ensemble.score(prompts, completions)
        assert entry["rewards/weak_ensemble/mean"] == pytest.approx(sum(expected) / 8, abs=1e-4)
        assert entry["canary/score"] == pytest.approx(watched["canary/score"], abs=1e-4)
        assert entry["canary/divergence"] == pytest.approx(watched["canary/divergence"], abs=1e-4)
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_grpo_run_goes_on_past_what_a_supervisor_cannot_read(build, tmp_path):
    """One prompt does not fit the context of one supervisor; the other prompt still trains the student."""
    from trl import GRPOConfig, GRPOTrainer

    small = build("gpt2", 1)
    small.context = 64
    reward = WeakEnsembleReward(WeakEnsemble([small, build("opt", 2)]))
    student = build("llama", 7)
    prompts = [PROMPTS[0], "USER: " + "wake me up at nine " * 8 + "ASSISTANT:"]
    args = GRPOConfig(
        **dict(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], save_strategy="no", max_steps=2),
        **dict(per_device_train_batch_size=8, num_generations=4, max_completion_length=4, logging_steps=1),
        **dict(disable_tqdm=True, gradient_checkpointing=False, dataloader_pin_memory=False),
    )
    data = Dataset.from_list([{"prompt": p} for p in prompts])
    trainer = GRPOTrainer(
        model=student.model, reward_funcs=reward, args=args, train_dataset=data, processing_class=student.tokenizer
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "weak_ensemble/unscored" in entry]
    assert [entry["weak_ensemble/unscored"] for entry in entries] == [0.5, 0.5]
    assert sum(reward.unscored.values()) == 8 and all(math.isfinite(entry["loss"]) for entry in entries)
