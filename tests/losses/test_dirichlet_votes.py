"""The vote loss against scipy's Dirichlet density, its known optimum, and what it must tell apart."""

import math

import pytest
import torch
from scipy.stats import dirichlet

from trl_weaks.dirichlet import concentration
from trl_weaks.losses.dirichlet_votes import DirichletVotes


def random_votes(n: int, supervisors: int, classes: int) -> torch.Tensor:
    return torch.distributions.Dirichlet(torch.full((classes,), 0.8, dtype=torch.float64)).sample((n, supervisors))


@pytest.mark.parametrize("classes", [2, 3, 50])
@pytest.mark.parametrize("evidence, prior", [("exp", 0.0), ("exp", 1.0), ("softplus", 0.0), ("relu", 1.0)])
def test_infinite_precision_is_scipys_density(classes, evidence, prior):
    logits, votes = torch.randn(4, classes, dtype=torch.float64), random_votes(4, 3, classes)
    weights = torch.rand(4, 3, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    loss = DirichletVotes(evidence, math.inf, prior)(logits, votes, 0.5, weights)
    for row in range(4):
        alpha = (concentration(logits[row], evidence) - 1 + prior).numpy()
        expected = 0.0
        for i in range(3):
            vote = votes[row, i].numpy()
            expected -= float(weights[row, i]) * dirichlet.logpdf(vote / vote.sum(), alpha)
        assert math.isclose(float(loss[row]), expected, rel_tol=1e-8, abs_tol=1e-8)


@pytest.mark.parametrize("precision", [2.0, 100.0])
def test_finite_precision_is_a_mean_over_votes_drawn_around_the_vote(precision):
    torch.manual_seed(0)
    logits, votes = torch.randn(2, 3, dtype=torch.float64), random_votes(2, 2, 3)
    drawn = torch.distributions.Dirichlet(1 + precision * votes).sample((100_000,)).flatten(0, 1)
    exact = DirichletVotes(precision=math.inf)
    repeated = exact(logits.repeat(100_000, 1), drawn, 1.0).unflatten(0, (100_000, 2)).mean(0)
    torch.testing.assert_close(DirichletVotes(precision=precision)(logits, votes, 1.0), repeated, rtol=0, atol=0.02)


def test_precision_tends_to_the_printed_formula():
    logits, votes = torch.randn(5, 4, dtype=torch.float64), random_votes(5, 3, 4).clamp_min(0.01)
    printed = DirichletVotes(precision=math.inf)(logits, votes, 1.0)
    torch.testing.assert_close(DirichletVotes(precision=1e7)(logits, votes, 1.0), printed, rtol=0, atol=1e-3)


def fit(votes: torch.Tensor, precision: float = 100.0) -> torch.Tensor:
    logits = torch.zeros(1, votes.shape[-1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = DirichletVotes(precision=precision)(logits, votes[None], 1.0).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach().exp()[0]


def test_one_vote_is_fitted_by_its_own_counts():
    vote = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(fit(vote), 1 + 100 * vote[0], rtol=1e-4, atol=1e-4)


def test_strength_tells_shared_doubt_from_conflict():
    doubt = torch.full((4, 2), 0.5, dtype=torch.float64)
    conflict = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    mild = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)
    strengths = [float(fit(votes).sum()) for votes in (doubt, mild, conflict)]
    assert math.isclose(strengths[0], 102, rel_tol=1e-3)  # K + precision
    assert strengths[0] > strengths[1] > 10 > 1 > strengths[2]
    for votes in (doubt, mild, conflict):
        alpha = fit(votes)
        assert math.isclose(float(alpha[0]), float(alpha[1]), rel_tol=1e-3)  # the mean is 0.5 in all three


def test_supervisors_have_no_order_and_rows_do_not_mix():
    logits, votes = torch.randn(6, 3), random_votes(6, 4, 3)
    loss = DirichletVotes()
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(loss(logits, votes[:, order], 1.0), loss(logits, votes, 1.0))
    torch.testing.assert_close(loss(logits[2:4], votes[2:4], 1.0), loss(logits, votes, 1.0)[2:4])
    uniform = torch.full((6, 4), 0.25)
    torch.testing.assert_close(loss(logits, votes, 1.0, uniform), loss(logits, votes, 1.0))
    assert loss(logits, votes, 1.0).shape == (6,)


@pytest.mark.parametrize("precision", [100.0, math.inf])
@pytest.mark.parametrize("size", [0.0, 1e3, 1e4])
def test_loss_and_gradient_stay_finite(size, precision):
    logits = (torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]) * size).bfloat16().requires_grad_()
    votes = torch.tensor([[[1.0, 0.0, 0.0]], [[0.2, 0.3, 0.5]]])
    loss = DirichletVotes(precision=precision)(logits, votes, 1.0)
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()


def test_a_mixed_vote_keeps_the_majority_in_its_mean():
    votes = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    alpha = fit(votes)
    assert 0.55 < float(alpha[0] / alpha.sum()) < 0.8 and float(alpha.sum()) < 2


def test_the_prior_of_the_evidential_loss_would_be_a_trap():
    """Before the student tells 18 classes apart every vote looks like a draw of corners; see the class's docstring."""
    votes = torch.eye(18, dtype=torch.float64)[None]  # (1, 18, 18): all classes, all sure
    gradients = []
    for prior in (0.0, 1.0):
        logits = torch.full((1, 18), -8.0, dtype=torch.float64, requires_grad=True)
        DirichletVotes(prior=prior)(logits, votes, 1.0).sum().backward()
        gradients.append(float(logits.grad.sum()))
    assert gradients[0] < -0.5  # pulled back up
    assert 0 < gradients[1] < 0.02  # still pushed down, and flat


@pytest.mark.parametrize(
    "bad", [{"evidence": "square"}, {"precision": 0.0}, {"precision": math.nan}, {"prior": -1.0}, {"prior": math.inf}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DirichletVotes(**bad)
    with pytest.raises(ValueError, match="needs evidence above 0, or a prior above 0 with relu"):
        DirichletVotes("relu")
