"""`trl-weaks report` and `trl-weaks view` on stored labels; what they refuse."""

import pytest
from datasets import ClassLabel, Dataset

from trl_weaks.cli import main
from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.labelling.sources.from_votes import labels_from_votes


@pytest.fixture
def stored(tmp_path):
    examples = [{"example_id": "007", "prompt": "play"}, {"example_id": "8", "prompt": "stop"}]
    answers = [
        {"example_id": e, "supervisor": s, "completion": t}
        for e, s, t in (("007", "ann", " jazz"), ("007", "bob", " rock"), ("8", "ann", " ok"), ("8", "bob", " ok"))
    ]
    labels_from_completions(examples, answers).save_to_disk(tmp_path / "labels" / "dataset")
    (tmp_path / "gold.csv").write_text("example_id,completion\n007, jazz\n8, ok\n")
    return tmp_path


def test_report_prints_the_card(stored, capsys):
    pytest.importorskip("matplotlib")
    main(["report", str(stored / "labels"), "--gold", str(stored / "gold.csv"), "--figure", str(stored / "card.png")])
    printed = capsys.readouterr().out
    assert "| ann | 2 | 0 | 1.000 | 1.000 |" in printed and "| bob | 2 | 0 | 1.000 | 0.500 |" in printed
    assert (stored / "card.png").exists()


def test_gold_of_a_file_is_read_by_the_names_of_its_classes(tmp_path, capsys):
    """Ann is always right. The file lists the classes as they first come, the labels in the order of the alphabet."""
    truth = ["yes", "no", "yes", "maybe"]
    votes = [{"example_id": str(i), "supervisor": "ann", "label": name} for i, name in enumerate(truth)]
    texts = [{"example_id": str(i), "text": f"t {i}"} for i in range(len(truth))]
    labels_from_votes(texts, votes).save_to_disk(tmp_path / "labels" / "dataset")
    gold = Dataset.from_dict({"example_id": [str(i) for i in range(4)], "label": [0, 1, 0, 2], "mine": [0, 1, 0, 2]})
    for column in ("label", "mine"):
        gold = gold.cast_column(column, ClassLabel(names=["yes", "no", "maybe"]))
    gold.to_parquet(tmp_path / "gold.parquet")
    for more in ([], ["--gold_column", "mine"]):
        main(["report", str(tmp_path / "labels"), "--gold", str(tmp_path / "gold.parquet"), *more])
        assert "| ann | 4 | 0 | 1.000 | 1.000 |" in capsys.readouterr().out


def test_view_writes_the_page(stored, capsys):
    main(["view", str(stored / "labels" / "dataset"), "-o", str(stored / "out" / "view.html"), "--limit", "1"])
    assert "1 of 2 examples" in capsys.readouterr().out
    assert '"id":"007"' in (stored / "out" / "view.html").read_text()


def test_triage_prints_its_bound_and_writes_the_queue(tmp_path, capsys):
    examples = [{"example_id": str(i), "prompt": f"play {i}"} for i in range(60)]
    answers = [
        {"example_id": str(i), "supervisor": s, "completion": " jazz" if s != "cem" or i % 2 else " rock"}
        for i in range(60)
        for s in ("ann", "bob", "cem")
    ]
    labels_from_completions(examples, answers).save_to_disk(tmp_path / "labels" / "dataset")
    rows = ["example_id,completion", *(f"{i}, jazz" if i % 2 else f"{i}, rock" for i in range(60))]
    (tmp_path / "gold.csv").write_text("\n".join(rows) + "\n")
    asked = ["triage", str(tmp_path / "labels"), "--gold", str(tmp_path / "gold.csv"), "--risk", "0.3"]
    main([*asked, "--budget", "10", "--audit", "0", "-o", str(tmp_path / "queue.csv")])
    printed = capsys.readouterr().out
    assert "30 of 60 labels (50.0%) are accepted" in printed and "10 go to a person" in printed
    written = (tmp_path / "queue.csv").read_text().splitlines()
    assert len(written) == 11 and written[0].startswith("example_id")
    main([*asked, "-o", str(tmp_path / "tasks.json"), "--tool", "label_studio"])
    assert '"predictions"' in (tmp_path / "tasks.json").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["triage", "{folder}/labels"], "how often the committee is right: give --gold"),
        (["triage", "{folder}/labels", "--gold", "x", "-o", "queue.xls"], "-o queue.xls: write a .csv or .jsonl"),
        (["triage", "{folder}/labels", "--gold", "x", "--tool", "argilla"], "give a file, -o"),
        (["report", "{folder}/labels", "--gold", "{folder}/gold.csv", "--gold_column", "x"], "no column 'x', only"),
        (["view", "nowhere"], "no such folder: nowhere"),
        (["report", "{folder}/gold.csv"], "gold.csv is a file; give the output folder"),
        (["report", "{folder}"], "holds no dataset"),
        (["view", "{folder}/labels", "--limit", "0"], "--limit 0"),
        (["report", "{folder}/labels", "--gold", "{folder}/none.csv"], "no such file"),
        (["report", "{folder}/labels", "--gold", "{folder}/bad.csv"], "no column 'label' or 'completion'"),
        (["report", "{folder}/labels", "--gold", "{folder}/twice.csv"], "an example_id is there twice"),
        (["report", "{folder}/labels", "--gold", "{folder}/other.csv"], "gold has the id '7', which no label has"),
    ],
)
def test_bad_input_ends_with_its_message(stored, arguments, message):
    (stored / "bad.csv").write_text("example_id,x\n007,1\n")
    (stored / "twice.csv").write_text("example_id,label\n007,a\n007,a\n")
    (stored / "other.csv").write_text("example_id,completion\n7, jazz\n")
    with pytest.raises(SystemExit, match=message):
        main([part.format(folder=stored) for part in arguments])
