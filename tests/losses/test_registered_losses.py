"""The contract of a loss, run over every loss that is registered; and what registration refuses."""

import doctest
import importlib
import pkgutil

import pytest
import torch
from token_forms import closed, plain, problem

import trl_weaks.losses
from trl_weaks import WeakClassificationConfig, WeakSupervisionConfig
from trl_weaks.losses import (
    LOSSES,
    AuxiliaryConfidence,
    CallableLoss,
    NaiveLoss,
    WeakLoss,
    as_weak_loss,
    register_loss,
)
from trl_weaks.losses.base import DirichletReading

KINDS = {cls.__name__: cls for cls in LOSSES.values()}
SETTINGS = {"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": "none"}


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))


def data(n=5, classes=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(classes)
    logits = torch.randn(n, classes, generator=g, dtype=torch.float64) * 2
    targets = torch.randn(n, classes, generator=g, dtype=torch.float64).mul(2).softmax(-1)
    return logits.to(dtype), targets.to(dtype)


def value(loss, logits, targets, progress=0.7):
    """A loss of votes gets each target as the votes of two supervisors who say the same."""
    if not loss.needs_votes:
        return loss(logits, targets, progress)
    weights = torch.tensor([[0.4, 0.6]], dtype=targets.dtype).expand(len(targets), 2)
    return loss(logits, targets.unsqueeze(1).expand(-1, 2, -1), progress, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", KINDS)
def test_one_finite_number_per_row_in_full_precision(name, dtype):
    logits, targets = data(dtype=dtype)
    extreme = torch.tensor([[1e4, -1e4, 0.0, 3.0], [-1e4, 1e4, 1e4, 0.0]], dtype=dtype)
    sure = torch.eye(4, dtype=dtype)[[1, 0]]
    for progress in (0.0, 1.0):
        for z, y in ((logits, targets), (extreme, sure)):
            z = z.clone().requires_grad_()
            found = value(KINDS[name](), z, y, progress)
            assert found.shape == z.shape[:1]
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert torch.isfinite(found).all()
            assert torch.isfinite(torch.autograd.grad(found.sum(), z)[0]).all()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", [n for n in KINDS if not KINDS[n].trusts_student])
def test_the_gradient_is_that_of_the_value(name, classes):
    """Losses that trust the student hold its prediction constant; their own tests know what their gradient is."""
    logits, targets = data(classes=classes)
    found = torch.autograd.gradcheck(lambda z: value(KINDS[name](), z, targets), logits.requires_grad_())
    assert found


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_apart_classes_are_alike_and_targets_are_constant(name):
    logits, targets = data()
    loss = KINDS[name]()
    expected = value(loss, logits, targets)
    rows, classes = [3, 0, 4, 2, 1], [2, 3, 1, 0]
    torch.testing.assert_close(value(loss, logits[rows], targets[rows]), expected[rows])
    torch.testing.assert_close(value(loss, logits[2:3], targets[2:3]), expected[2:3])
    torch.testing.assert_close(value(loss, logits[:, classes], targets[:, classes]), expected)
    leaf, given = logits.clone().requires_grad_(), targets.clone().requires_grad_()
    to_logits, to_targets = torch.autograd.grad(value(loss, leaf, given).sum(), (leaf, given), allow_unused=True)
    assert to_logits.any() and to_targets is None


@pytest.mark.parametrize("name", KINDS)
def test_a_step_down_the_gradient_brings_the_label_closer(name):
    logits, _ = data()
    hard, loss = torch.eye(4, dtype=torch.float64)[[1, 0, 2, 3, 1]], KINDS[name]()
    for _ in range(300):
        logits = logits.detach().requires_grad_()
        logits = logits - 0.2 * torch.autograd.grad(value(loss, logits, hard).sum(), logits)[0]
    learnt = logits.argmax(-1) == hard.argmax(-1)
    assert learnt.all() or loss.trusts_student and learnt.any()


@pytest.mark.parametrize("name", [n for n in KINDS if not KINDS[n].needs_votes])
def test_linearity_in_the_target_is_what_the_attribute_says(name):
    for loss in (KINDS[name](), *variants(name)):
        logits, first = data()
        second = first.flip(0)
        mixed = loss(logits, 0.3 * first + 0.7 * second, 0.8)
        apart = 0.3 * loss(logits, first, 0.8) + 0.7 * loss(logits, second, 0.8)
        assert torch.allclose(mixed, apart, rtol=1e-10) or not loss.linear_in_targets


def variants(name):
    return [KINDS[name](kl_coef=0.5, kl_target="expected")] if name == "EvidentialLoss" else []


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("name", [n for n in KINDS if KINDS[n].has_closed_form])
def test_the_closed_form_over_a_vocabulary_is_the_loss(name, hard):
    loss = KINDS[name]()
    logits, ids, labels = problem(hard=hard)
    assert loss.token_form_plan(hard, logits.dtype) is not None
    found, gradient = closed(loss, logits, ids, labels, 0.6)
    expected, slope = plain(loss, logits, ids, labels, 0.6)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, slope, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_name_is_a_choice_of_the_configurations_that_can_use_it(name):
    settings = WeakClassificationConfig(**SETTINGS, weak_loss=name, gamma_max=0.0)
    assert type(settings.build_loss()) is LOSSES[name]
    if LOSSES[name].needs_votes:
        with pytest.raises(ValueError, match=f"must be one of naive, .*got '{name}'"):
            WeakSupervisionConfig(**SETTINGS, weak_loss=name, gamma_max=0.0)
    else:
        built = WeakSupervisionConfig(**SETTINGS, weak_loss=name, gamma_max=0.0).build_loss()
        assert type(built) is LOSSES[name]


def test_settings_of_equal_name_and_loss_kwargs_reach_the_loss():
    own = {"kl_clamp": 3.0, "kl_target": "soft"}
    given = {"kl_coef": 0.5, "evidence": "softplus", "kl_anneal": 0.1, "gamma_max": 0.0}
    for config in (WeakSupervisionConfig, WeakClassificationConfig):
        loss = config(**SETTINGS, **given, loss_kwargs='{"kl_clamp": 3.0, "kl_target": "soft"}').build_loss()
        assert (loss.kl_coef, loss.evidence, loss.kl_anneal) == (0.5, "softplus", 0.1)
        assert {name: getattr(loss, name) for name in own} == own
    votes = WeakClassificationConfig(**SETTINGS, weak_loss="dirichlet_votes", gamma_max=0.0, vote_precision=7.0)
    assert votes.build_loss() == LOSSES["dirichlet_votes"](precision=7.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_kwargs": {"kl_coef": 1.0}}, "`loss_kwargs` has `kl_coef`, which is a setting of its own"),
        (
            {"loss_kwargs": {"alpha": 1.0}},
            "has `alpha`, which is no argument of `EvidentialLoss`. There is `kl_clamp`",
        ),
        ({"weak_loss": "naive", "loss_kwargs": {"alpha": 1.0}}, "no argument of `NaiveLoss`. There is none"),
        ({"loss_kwargs": {"kl_clamp": -1.0}}, "`weak_loss='bayesian'`: kl_clamp must be a positive number"),
        ({"loss_kwargs": "kl_clamp=3"}, "`loss_kwargs` must be a JSON object"),
    ],
)
def test_loss_kwargs_that_cannot_be_honoured_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WeakSupervisionConfig(**SETTINGS, **settings)


def nothing(logits, targets, progress):
    return logits.sum(-1)


class NoCall(WeakLoss):
    pass


@pytest.mark.parametrize(
    ("loss", "name", "message"),
    [
        (nothing, "naive", "a loss 'naive' already, trl_weaks.losses.cross_entropy.NaiveLoss"),
        (nothing, "two words", "under a plain word"),
        (object, "mine", "must be a subclass of WeakLoss or a function"),
        (3, "mine", "callable"),
        (NoCall, "mine", "has no `__call__"),
        (type("Votes", (NaiveLoss,), {"needs_votes": property(bool)}), "mine", "`needs_votes` must be True or False"),
    ],
)
def test_what_cannot_be_registered_is_refused(registry, loss, name, message):
    before = LOSSES.names()
    with pytest.raises(ValueError, match=message):
        register_loss(name)(loss)
    assert LOSSES.names() == before


def test_a_function_is_registered_as_a_class_and_stays_a_function(registry):
    @register_loss("first", "second")
    def squared(logits, targets, progress):
        return (logits - targets).square().sum(-1)

    assert LOSSES["first"] is LOSSES["second"] and LOSSES["first"]() == LOSSES["second"]()
    logits, targets = data()
    assert torch.equal(LOSSES["first"]()(logits, targets, 0.0), squared(logits, targets, 0.0))
    assert isinstance(LOSSES["first"](), CallableLoss) and LOSSES["first"]().title == "squared"


class Foreign:
    """An object with fields of its own that are called as some of ours."""

    linear_in_targets, needs_votes, window, dirichlet, gamma = "yes", 1, 5, "strong", 2.0

    def __call__(self, logits, targets, progress):
        return -(targets * logits.log_softmax(-1)).sum(-1)

    def token_form(self, *given):
        raise AssertionError("nobody asked for it")

    token_form_plan = logged = token_form


def test_nothing_is_read_of_a_foreign_object_but_what_it_says_exactly():
    for loss in (as_weak_loss(Foreign()), AuxiliaryConfidence(Foreign(), 0.2)):
        assert not loss.linear_in_targets and not loss.needs_votes and loss.window is None and loss.dirichlet is None
    assert not as_weak_loss(Foreign()).has_closed_form and as_weak_loss(Foreign()).logged(0.5) == {}
    assert as_weak_loss(Foreign()).title == "Foreign"
    exact = Foreign()
    exact.linear_in_targets = exact.sees_votes = True
    votes = as_weak_loss(exact)
    assert votes.needs_votes
    exact.sees_votes = False
    assert as_weak_loss(exact).linear_in_targets and as_weak_loss(votes) is votes


def test_a_class_that_changes_the_call_does_not_inherit_the_closed_form():
    class Doubled(NaiveLoss):
        def __call__(self, logits, targets, progress=0.0):
            return 2 * super().__call__(logits, targets, progress)

    class Renamed(NaiveLoss):
        pass

    class Mixin:
        def __call__(self, logits, targets, progress=0.0):
            return logits.sum(-1)

    class Mixed(Mixin, NaiveLoss):
        pass

    found = [cls.has_closed_form for cls in (NaiveLoss, Renamed, Doubled, Mixed)]
    assert found == [True, True, False, False]


def test_the_auxiliary_loss_stands_for_its_inner_one():
    loss = AuxiliaryConfidence(LOSSES["bayesian"](evidence="softplus", evidence_offset=2.0), 0.4, warmup=0.5)
    assert loss.dirichlet == DirichletReading("softplus", 1.0, 2.0)
    assert loss.logged(0.25) == {"weak/gamma": 0.2} and loss.title == "EvidentialLoss"


def test_every_loss_has_an_example_that_runs(registry):
    seen = set()
    for found in pkgutil.iter_modules(trl_weaks.losses.__path__, "trl_weaks.losses."):
        module = importlib.import_module(found.name)
        tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
        seen |= {test.name.rpartition(".")[2] for test in tests}
        assert sum(doctest.DocTestRunner().run(test).failed for test in tests) == 0
    assert seen >= {*KINDS, "AuxiliaryConfidence", "PredictionWindow", "WeakLoss"}
