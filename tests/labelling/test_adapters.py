"""Several adapters on one base model: each supervisor reads with its own, and everything is as it was found."""

import pytest
import torch
from adapter_kinds import ANSWERS, KINDS, PROMPTS, close, scores
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from tiny import classifier

from trl_weaks.fingerprint import supervisor_fingerprint
from trl_weaks.labelling.label_completions import label_completions
from trl_weaks.supervisors.adapters import adapter_layers
from trl_weaks.supervisors.classifier import WeakClassifier
from trl_weaks.supervisors.ensemble import WeakEnsemble
from trl_weaks.supervisors.supervisor import WeakSupervisor


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny.tokenizer("llama")


@pytest.fixture(scope="module")
def new_base(tiny, tokenizer):
    return lambda: tiny.model("llama", len(tokenizer), seed=3)


@pytest.fixture(scope="module")
def saved(new_base, tmp_path_factory):
    """Two adapters of one base, for other layers and of other scalings."""
    folders = {}
    for i, (name, targets) in enumerate({"a": ["q_proj", "v_proj"], "b": ["q_proj", "o_proj"]}.items()):
        config = LoraConfig(r=2 + i, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(new_base(), config)
        torch.manual_seed(10 + i)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_" in key:
                    value.copy_(torch.randn_like(value) * 0.3)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def right(saved, tokenizer, new_base):
    """The scores of separately loaded models."""
    alone = {n: PeftModel.from_pretrained(new_base(), saved[n]) for n in saved}
    found = {name: scores(WeakSupervisor(model, tokenizer, name)) for name, model in alone.items()}
    found["base"] = scores(WeakSupervisor(new_base(), tokenizer, "base"))
    assert not close(found["a"], found["b"]) and not close(found["a"], found["base"])
    return found


def state(model):
    layers = {
        name: (list(layer.active_adapters), layer.disable_adapters) for name, layer in adapter_layers(model).items()
    }
    return layers, {name: p.requires_grad for name, p in model.named_parameters()}


def test_two_peft_models_of_one_base_read_each_with_its_own(saved, tokenizer, new_base, right):
    base = new_base()
    models = [PeftModel.from_pretrained(base, saved[n], adapter_name=n) for n in "ab"]
    one, two = (WeakSupervisor(m, tokenizer, n) for m, n in zip(models, "ab", strict=True))
    before = state(base)
    for _ in range(2):
        assert close(scores(one), right["a"]) and close(scores(two), right["b"])
    assert state(base) == before
    ensemble = WeakEnsemble([one, two])
    expected = [sum(sum(right[n][i]) / len(right[n][i]) for n in "ab") / 2 for i in range(2)]
    assert ensemble.score(PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["peft", "transformers"])
def test_adapters_by_name(saved, tokenizer, new_base, right, kind):
    base = new_base()
    if kind == "peft":
        model = PeftModel.from_pretrained(base, saved["a"], adapter_name="a", is_trainable=True)
        model.load_adapter(saved["b"], adapter_name="b")
    else:
        model = base
        for name in "ab":
            model.load_adapter(str(saved[name]), adapter_name=name)
    choices = {"a": "a", "b": "b", "base": []}
    supervisors = {n: WeakSupervisor(model, tokenizer, n, adapter=chosen) for n, chosen in choices.items()}
    WeakEnsemble(list(supervisors.values()))
    before = state(base)
    for name, supervisor in supervisors.items():
        assert close(scores(supervisor), right[name])
        supervisor.generate(PROMPTS, 2, 4)
        assert state(base) == before
    with pytest.raises(RuntimeError, match="stop"):
        supervisors["a"].answer(PROMPTS, 2, 4, advance=lambda _: (_ for _ in ()).throw(RuntimeError("stop")))
    assert state(base) == before
    with pytest.raises(ValueError, match=r"has no adapter 'c', only \['a', 'b'\]"):
        WeakSupervisor(model, tokenizer, "c", adapter="c")
    layers = adapter_layers(base)
    known = [n for n, m in base.named_modules() if isinstance(m, BaseTunerLayer | ModulesToSaveWrapper)]
    assert list(layers) == known, "PEFT's layers are recognised by what they have in common"
    for layer in layers.values():
        layer.enable_adapters(False)
    assert close(scores(supervisors["b"]), right["b"]), "an adapter asked for by name answers, also if switched off"
    assert all(layer.disable_adapters for layer in layers.values())


def test_an_adapter_that_took_anothers_place_is_seen(saved, tokenizer, new_base):
    base = new_base()
    first = PeftModel.from_pretrained(base, saved["a"])
    early = WeakSupervisor(first, tokenizer, "a")
    second = PeftModel.from_pretrained(base, saved["b"])
    with pytest.raises(ValueError, match="its adapter 'default' was replaced since"):
        scores(early)
    late = [WeakSupervisor(first, tokenizer, "a"), WeakSupervisor(second, tokenizer, "b")]
    with pytest.raises(ValueError, match="'a' and 'b' are the same model with the same adapters .*adapter_name"):
        WeakEnsemble(late)
    plain = new_base()
    with pytest.raises(ValueError, match="'x' and 'y' are the same model object"):
        WeakEnsemble([WeakSupervisor(plain, tokenizer, n) for n in "xy"])


def test_merged_adapters_are_not_exchanged_in_silence(saved, tokenizer, new_base, right):
    model = PeftModel.from_pretrained(new_base(), saved["a"], adapter_name="a")
    live, chosen = WeakSupervisor(model, tokenizer, "live"), WeakSupervisor(model, tokenizer, "chosen", adapter=[])
    model.merge_adapter()
    assert close(scores(live), right["a"])
    with pytest.raises(ValueError, match=r"adapters \['a'\] are merged into the weights"):
        scores(chosen)
    with model.disable_adapter(), pytest.raises(ValueError, match="unmerge_adapter"):
        scores(live)


def test_kept_prefixes_are_those_of_the_adapter(saved, tokenizer, new_base):
    """A prefix of the shared beginning is kept between calls; switching, merging or scaling must not meet an old."""
    model = PeftModel.from_pretrained(new_base(), saved["a"], adapter_name="a")
    model.load_adapter(saved["b"], adapter_name="b")
    long = [f"USER: turn on the light in the kitchen, wake me up at nine {i} ASSISTANT:" for i in range(4)]

    def read(supervisor):
        return [r.logps for r in supervisor.score(long, ["x"] * 4)]

    def fresh():
        return read(WeakSupervisor(model, tokenizer, "fresh"))

    supervisor = WeakSupervisor(model, tokenizer, "s")
    supervisor.sharing.expect([p.ids for p in supervisor.encoder.prompts(long)])
    assert supervisor.sharing.prefixes

    def scale():
        for layer in adapter_layers(model.get_base_model()).values():
            layer.scaling = {name: 2 * value for name, value in layer.scaling.items()}

    def write_through_data():
        for parameter in model.parameters():
            parameter.data.mul_(1.01)

    before = read(supervisor)
    for change in (lambda: model.set_adapter("b"), scale, model.merge_adapter, write_through_data):
        change()
        after = read(supervisor)
        assert close(after, fresh())
        assert change == model.merge_adapter or not close(after, before)
        before = after


def test_labels_of_one_adapter_are_not_taken_for_anothers(saved, tokenizer, new_base, tmp_path):
    """Issue 19, item 2: with one folder for both, B's labels were A's."""
    from datasets import Dataset

    data = Dataset.from_dict({"example_id": ["1", "2"], "prompt": PROMPTS})
    model = PeftModel.from_pretrained(new_base(), saved["a"], adapter_name="a")
    model.load_adapter(saved["b"], adapter_name="b")
    run = {"mode": "joint", "num_candidates": 4, "max_new_tokens": 6, "output_dir": tmp_path}
    ensemble = WeakEnsemble([WeakSupervisor(model, tokenizer, "s")])
    found = {}
    for name in ("a", "b"):
        model.set_adapter(name)
        found[name] = label_completions(ensemble, data, **run).to_list()
    alone = PeftModel.from_pretrained(new_base(), saved["b"])
    lonely = WeakEnsemble([WeakSupervisor(alone, tokenizer, "s")])
    right = label_completions(lonely, data, **run | {"output_dir": None}).to_list()
    assert found["b"] == right and found["a"] != right
    card = (tmp_path / "README.md").read_text()
    size = sum(p.numel() for p in alone.parameters())
    assert f"llama (local) + b | - | {size:,} |" in card, "the adapter that answered, and no other's weights"
    alone_print, by_name = (
        supervisor_fingerprint(lonely.supervisors[0]),
        supervisor_fingerprint(ensemble.supervisors[0]),
    )
    assert alone_print == by_name, "neither an adapter's name nor adapters that rest decide"


def test_classifiers_on_one_base(tokenizer, tmp_path):
    """The head is part of the adapter (`modules_to_save`), and switches with it."""

    def fresh():
        sizes = {"width": 32, "layers": 2, "heads": 4}
        return classifier("gpt2", len(tokenizer), 3, **sizes, pad_token_id=tokenizer.pad_token_id).eval()

    for i, name in enumerate("ab"):
        config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="SEQ_CLS")
        model = get_peft_model(fresh(), config)
        torch.manual_seed(i)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_" in key or "modules_to_save" in key:
                    value.copy_(torch.randn_like(value))
        model.save_pretrained(tmp_path / name)
    right = {}
    for name in "ab":
        alone = WeakClassifier(PeftModel.from_pretrained(fresh(), tmp_path / name), tokenizer, name)
        right[name] = alone.predict(PROMPTS).probabilities
    assert not torch.allclose(right["a"], right["b"], atol=1e-3)
    shared = fresh()
    models = {n: PeftModel.from_pretrained(shared, tmp_path / n, adapter_name=n) for n in "ab"}
    both = {n: WeakClassifier(models[n], tokenizer, n) for n in "ab"}
    both |= {f"{n} by name": WeakClassifier(models["b"], tokenizer, n, adapter=n) for n in "ab"}
    before = state(shared)
    for name, judge in both.items():
        assert torch.allclose(judge.predict(PROMPTS).probabilities, right[name[0]], atol=1e-5), name
        assert state(shared) == before
    assert len({supervisor_fingerprint(c) for c in both.values()}) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_switches_and_has_its_key(tokenizer, new_base, tmp_path, kind):
    """By name, on one base, beside a plain LoRA: scores and keys of separately loaded models; the base as it was."""
    made = {"a": KINDS[kind](), "b": LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM")}
    if kind in ("ia3", "loha", "oft", "new tokens"):
        made["b"] = KINDS[kind]()  # PEFT loads them beside their like alone
    for i, (name, config) in enumerate(made.items()):
        model = get_peft_model(new_base(), config)
        torch.manual_seed(20 + i)
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.add_(torch.randn_like(value) * 0.3)
        model.save_pretrained(tmp_path / name)
    alone = {n: WeakSupervisor(PeftModel.from_pretrained(new_base(), tmp_path / n), tokenizer, n) for n in made}
    right = {name: scores(supervisor) for name, supervisor in alone.items()}
    right["base"] = scores(WeakSupervisor(new_base(), tokenizer, "base"))
    assert not close(right["a"], right["b"]) and not close(right["a"], right["base"])
    model = PeftModel.from_pretrained(new_base(), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", adapter_name="b")
    shared = {n: WeakSupervisor(model, tokenizer, n, adapter=[] if n == "base" else n) for n in right}
    before = state(model.get_base_model())
    for name in ("a", "b", "base", "b", "a"):
        assert close(scores(shared[name]), right[name]), name
        assert state(model.get_base_model()) == before
    for name in made:
        assert supervisor_fingerprint(shared[name]) == supervisor_fingerprint(alone[name])
    assert len({supervisor_fingerprint(s) for s in shared.values()}) == 3
    plain = supervisor_fingerprint(WeakSupervisor(new_base(), tokenizer, "plain"))
    assert supervisor_fingerprint(shared["base"]) == plain, "adapters that rest change nothing"
