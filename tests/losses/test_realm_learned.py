"""Learned expertise: the running mean by loops, a planted crowd, and what a trainer keeps of it."""

import pytest
import torch
from classification_runs import classifier, settings, tokenizer, trajectory, weak_dataset

from trl_weaks.losses.realm_learned import LearnedRealm
from trl_weaks.trainer.weak_classification_trainer import WeakClassificationTrainer


def told(loss, logits, votes, weights):
    loss.window.hold(*loss.observed(logits, votes, weights, None).unbind(1))


def test_the_estimate_is_that_of_loops_however_an_update_is_cut():
    torch.manual_seed(1)
    logits, votes = torch.randn(6, 3), torch.rand(6, 2, 3).softmax(-1)
    weights = torch.tensor([[0.5, 0.5]] * 5 + [[1.0, 0.0]])
    expected = []
    for i, counted in enumerate((6, 5)):
        total = 0.0
        for n in range(counted):
            p = logits[n].softmax(-1).tolist()
            total += sum(y * 0.8 * q / (0.8 * q + 0.2 / 3) for y, q in zip(votes[n, i].tolist(), p, strict=True))
        stay = (9 / 10) ** counted
        expected.append(stay * 0.8 + (1 - stay) * total / counted)
    whole, cut = LearnedRealm(0.8, rows=10), LearnedRealm(0.8, rows=10)
    told(whole, logits, votes, weights)
    for part in (slice(0, 1), slice(1, 6)):
        told(cut, logits[part], votes[part], weights[part])
        assert cut.window.values is None and cut(logits, votes).tolist() == whole(logits, votes).tolist()
    for loss in (whole, cut):
        loss.window.release()
        assert loss.window.values.tolist() == pytest.approx(expected, rel=1e-6)
        assert loss.logged(0.5) == pytest.approx({f"weak/expertise_{i}": e for i, e in enumerate(expected)})
    again = LearnedRealm(0.8, rows=10)
    again.window.load_state_dict(whole.window.state_dict())
    assert again(logits, votes).tolist() == whole(logits, votes).tolist() != cut.__class__(0.8)(logits, votes).tolist()
    gold = votes[:, :1]
    assert whole(logits, gold).tolist() == LearnedRealm(0.8)(logits, gold).tolist(), "gold is nobody's vote"


def test_a_student_that_knows_nothing_moves_nothing():
    loss = LearnedRealm(0.7, rows=1)
    told(
        loss, torch.zeros(4, 2), torch.eye(2)[torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]])], torch.full((4, 2), 0.5)
    )
    loss.window.release()
    assert loss.window.values.tolist() == pytest.approx([0.7, 0.7])


def test_planted_expertise_is_found_and_the_majority_of_guessers_is_beaten():
    """Two supervisors know 80 % of the rows and guess the others, three know nothing: e = .8, .8, 0, 0, 0."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 3, generator=g)
    gold = (x[:, 0] > 0).long()
    knows = torch.rand(2000, 5, generator=g) < torch.tensor([0.8, 0.8, 0.0, 0.0, 0.0])
    said = torch.where(knows, gold[:, None], torch.randint(0, 2, (2000, 5), generator=g))
    votes, weights = torch.eye(2)[said], torch.full((2000, 5), 0.2)
    loss, layer = LearnedRealm(), torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    search = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(200):
        loss.window.release()
        logits = layer(x)
        told(loss, logits, votes, weights)
        search.zero_grad()
        loss(logits, votes, 0.5, weights).mean().backward()
        search.step()
    values = loss.window.values
    assert values[:2] == pytest.approx([0.8, 0.8], abs=0.1) and values[2:].max() < 0.15
    right = (layer(x).argmax(-1) == gold).float().mean()
    assert right > 0.95 > 0.85 > (said.float().mean(1).round() == gold).float().mean()


def trainer_of(folder, dataset, **changes):
    settings_ = settings(folder, weak_loss="realm_learned", gamma_max=0.0, loss_kwargs={"rows": 8}, **changes)
    return WeakClassificationTrainer(classifier(), settings_, dataset, processing_class=tokenizer())


def test_training_does_not_depend_on_accumulation_and_resumes(tmp_path):
    runs = []
    for batch in (4, 1):
        trainer = trainer_of(
            tmp_path / str(batch), weak_dataset(rows=12), num_train_epochs=2, save_strategy="steps", save_steps=3,
            per_device_train_batch_size=batch, gradient_accumulation_steps=4 // batch,
        )  # fmt: skip
        trainer.train()
        runs.append(trainer)
    torch.testing.assert_close(trajectory(runs[1]), trajectory(runs[0]), rtol=1e-3, atol=1e-5)
    logged = [log["weak/expertise_0"] for log in runs[0].state.log_history if "weak/expertise_0" in log]
    assert len(logged) == 5 and len(set(logged)) > 1, "all but the first update, before which nothing is known"
    resumed = trainer_of(
        tmp_path / "resumed", weak_dataset(rows=12), num_train_epochs=2, save_strategy="steps", save_steps=3,
        per_device_train_batch_size=4,
    )  # fmt: skip
    resumed.train(resume_from_checkpoint=str(tmp_path / "4" / "checkpoint-3"))
    torch.testing.assert_close(trajectory(resumed)[-3:], trajectory(runs[0])[-3:], rtol=1e-5, atol=1e-6)
    assert resumed.evaluate(weak_dataset(rows=3, seed=4).remove_columns("weak_probs"))["eval_loss"] > 0


def test_one_supervisor_is_refused_by_name(tmp_path):
    """Its expertise would stay where it started, as that of `realm` does; gold that is evaluated is one vote alone."""
    rows = weak_dataset(rows=4)
    one = rows.map(lambda row: {"weak_probs": row["weak_probs"][:1]})
    one = one.remove_columns([c for c in ("weak_weights", "weak_supervisors") if c in one.column_names])
    with pytest.raises(ValueError, match="train dataset has 1 vote a row, and `LearnedRealm` learns .* 2 or more"):
        trainer_of(tmp_path, one)


def test_supervisors_in_another_order_are_refused(tmp_path):
    rows = weak_dataset(rows=4)
    names = [["a", "b", "c"][: len(votes)] for votes in rows["weak_probs"]]
    swapped = [*names[:3], names[3][::-1]]
    with pytest.raises(ValueError, match="The train dataset, row 3: its votes are by .*tells supervisors apart"):
        trainer_of(tmp_path, rows.add_column("weak_supervisors", swapped))
    lacking = rows.map(lambda row, n: {"weak_probs": row["weak_probs"][: 1 if n == 2 else None]}, with_indices=True)
    lacking = lacking.remove_columns([c for c in ("weak_weights",) if c in lacking.column_names])
    with pytest.raises(ValueError, match=r"row 2: its votes are by \[1\]"):
        trainer_of(tmp_path, lacking)
