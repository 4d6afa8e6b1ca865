"""The balanced threshold against the quantile rule, an optimal assignment, and itself cut differently."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from trl_weaks.losses import AuxiliaryConfidence, NaiveLoss, PredictionWindow
from trl_weaks.losses.prediction_window import _balancing_shift, _quantile


def test_balanced_threshold_of_two_classes_is_the_quantile_rule():
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(64, 2, generator=g, dtype=torch.float64) + torch.tensor([1.0, 0.0])
    targets = torch.rand(64, 2, generator=g, dtype=torch.float64).softmax(-1)
    p0 = logits.softmax(-1)[:, 0]
    threshold = np.quantile(p0.numpy(), targets[:, 1].mean().item())
    expected = (p0 < threshold).long()
    loss = AuxiliaryConfidence(NaiveLoss(), threshold="balanced")
    assert torch.equal(loss.predict(logits, targets), expected)  # nothing fed: the rows themselves
    loss.window.update(logits.softmax(-1), targets)
    assert torch.equal(torch.cat([loss.predict(z[None], None) for z in logits]), expected)
    assert 0 < expected.sum() < 64


def test_balanced_shares_of_several_classes_equal_the_weak_prior():
    g = torch.Generator().manual_seed(4)
    probs = (torch.randn(200, 3, generator=g) + torch.tensor([2.0, 0.0, -1.0])).softmax(-1)
    prior = torch.tensor([0.2, 0.5, 0.3])
    window = PredictionWindow(200)
    window.update(probs, prior.expand(200, 3))
    shares = window.predict(probs.log()).bincount(minlength=3) / 200
    assert torch.allclose(shares, prior, atol=0.011)
    assert (probs.argmax(-1).bincount(minlength=3) / 200 - prior).abs().max() > 0.2


def test_two_classes_and_the_general_rule_agree_inside_the_window():
    g = torch.Generator().manual_seed(5)
    probs = torch.randn(101, 2, generator=g, dtype=torch.float64).softmax(-1)
    prior = torch.tensor([0.4, 0.6], dtype=torch.float64)
    window = PredictionWindow(101)
    window.update(probs, prior.expand(101, 2))
    general = (probs.log() + _balancing_shift(probs.log(), prior)).argmax(-1)
    assert (window.predict(probs.log()) != general).sum() <= 1  # the row exactly on the threshold is a tie


def test_the_window_forgets_the_oldest_rows_and_survives_a_checkpoint():
    window = PredictionWindow(size=3)
    rows = torch.rand(5, 2, dtype=torch.float64).softmax(-1)
    window.update(rows[:2], rows[:2])
    window.update(rows[2:], rows[2:])
    assert torch.equal(window.state_dict()["probs"], rows[2:])
    other = PredictionWindow(size=3)
    other.load_state_dict(window.state_dict())
    assert torch.equal(other.predict(rows), window.predict(rows))
    other.load_state_dict({})
    assert len(other) == 0


@pytest.mark.parametrize(("classes", "rows", "strays"), [(2, 90, 0), (3, 90, 0), (7, 140, 0), (18, 180, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_balancing_is_the_best_assignment_with_these_shares(classes, rows, strays, seed):
    """Shifts are the prices of the assignment of rows to places, `prior * n` per class, of highest likelihood."""
    g = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(rows, classes, generator=g, dtype=torch.float64) * 2 + torch.randn(classes, generator=g)
    log_probs = log_probs.log_softmax(-1)
    drawn = torch.cat([torch.arange(classes), torch.randint(classes, (rows - classes,), generator=g)])
    places = drawn.sort().values.numpy()
    _, chosen = linear_sum_assignment(-log_probs.numpy()[:, places])
    shift = _balancing_shift(log_probs, drawn.bincount().double() / rows)
    assert ((log_probs + shift).argmax(-1).numpy() != places[chosen]).sum() <= strays
    assert (log_probs.argmax(-1).numpy() != places[chosen]).sum() > 5 + strays  # there was something to balance


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_quick_quantile_is_the_quantile(rows):
    values = torch.randn(rows, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    for share in (-0.1, 0.0, 0.13, 0.5, 0.99, 1.0, 1.2):
        torch.testing.assert_close(_quantile(values, share), torch.quantile(values, min(max(share, 0), 1)))


@pytest.mark.parametrize("classes", [2, 4])
def test_rows_on_hold_count_from_their_release_on(classes):
    g = torch.Generator().manual_seed(6)
    probs, targets = torch.randn(2, 24, classes, generator=g, dtype=torch.float64).softmax(-1)
    window, whole = PredictionWindow(16), PredictionWindow(16)
    for rows in (range(8), range(8, 10), range(10, 24)):
        window.hold(probs[rows], targets[rows])
        assert window.holding and not len(window) and not window.state_dict()
    window.release()
    whole.update(probs, targets)
    assert len(window) == 16 and not window.holding
    assert torch.equal(window.predict(probs.log()), whole.predict(probs.log()))
    before = window.predict(probs.log())
    window.hold(1 - probs, 1 - targets)
    assert torch.equal(window.predict(probs.log()), before)
    window.release()
    assert not torch.equal(window.predict(probs.log()), before)  # thresholds are not those of the rows before
    window.release()
    assert len(window) == 16


def test_the_first_update_takes_the_argmax_however_it_is_cut():
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    targets = torch.tensor([[0.0, 1.0]] * 3)
    loss = AuxiliaryConfidence(NaiveLoss(), threshold="balanced")
    assert loss.predict(logits, targets).tolist() == [1, 1, 0]  # nothing fed: balanced over these very rows
    loss.window.hold(logits.softmax(-1), targets)
    assert loss.predict(logits, targets).tolist() == [0, 0, 0]
