"""Labels on the Hub: parquet files, and a card that says what each column is, for labels by models and by people."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from ... import columns
from ...markdown import table

TAGS = ["trl", "trl-weaks", "weak-supervision"]
MEANING = {
    columns.EXAMPLE_ID: "id of the prompt; several rows may answer one prompt",
    columns.PROMPT: "the prompt, text or messages",
    columns.COMPLETION: "an answer; every distinct one has a row",
    columns.SUPERVISORS: "who gave this answer",
    columns.WEIGHTS: "their weights; over all rows of an example they sum to 1",
    columns.OFFSETS: "for each of them, its tokens as `[start, end)` characters of the completion; the end of the "
    "sequence is the empty span at the end",
    columns.LOGPS: "for each of them, the log-probabilities of those tokens, in nats; 0 where it gave no confidence",
    columns.SCORE: "the committee's score of the completion, nats per token",
    columns.FINISHED: "whether the answer ends here; where it was cut, no end is taught",
    columns.CONFIDENCE_SOURCE: "where each log-probability comes from; null: nowhere, a hard label",
    columns.TOP_LOGPS: "what else a server would have said in each token's place",
    columns.TEXT: "the text to classify",
    columns.LABEL: "the gold class, for metrics only",
    columns.WEAK_PROBS: "one row of class probabilities for each vote; rows sum to 1",
    columns.VOTERS: "who voted, where the votes of a row were aggregated",
    columns.VOTES: "their votes, in that order",
    columns.CLASSES: "what the classes are called, the same in every row",
    columns.CHOSEN: "the better completion",
    columns.REJECTED: "the worse completion",
    columns.CHOSEN_SCORE: "the committee's score of the better completion, nats per token",
    columns.REJECTED_SCORE: "the committee's score of the worse one, nats per token",
    columns.MARGIN: "the difference of the scores",
    columns.PAIR_WEIGHT: "what the pair's loss is multiplied by",
    columns.PAIR_EPSILON: "probability that the preference is the other way round, in [0, 0.5)",
}
LONGEST, MOST = 400, 12  # characters and list elements of the row that is shown


def push_labels(
    labels: Dataset | str | Path,
    repository: str,
    card: str | Path | None = None,
    config_name: str = "default",
    split: str = "train",
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> None:
    """Push a labelled dataset to the Hub as parquet, with a card: columns, an example row, and code that loads it.

    The stages of one experiment go to one repository under several `config_name`s; each has its section of the card,
    and what you wrote around the sections stays.

    Args:
        labels: a dataset with weak columns (completions, classes or pairs), or the folder that labelling wrote, whose
            card is then used.
        card: markdown, or a file of it, on how the labels came about, such as the `README.md` beside the labels.
        license: a licence identifier of the Hub, such as `"cc-by-4.0"`; an earlier one stays by default.
        private: whether a new repository is; None as the account's or the organisation's default is.

    Raises:
        ValueError: a private repository was asked for, and it exists and is public; nothing is uploaded then.
    """
    if not isinstance(labels, Dataset):
        folder = Path(labels)
        card = card or (folder / "README.md" if (folder / "README.md").is_file() else None)
        labels = load_from_disk(str(folder / "dataset" if (folder / "dataset").is_dir() else folder))
    api = HfApi(token=token)
    repository = new_or_same(api, repository, "dataset", private)
    whole = _there(api, repository)
    whole.data.license = license or whole.data.license
    whole.data.tags = sorted({*TAGS, *(whole.data.tags or [])})
    text = Path(card).read_text(encoding="utf-8") if isinstance(card, Path) else card
    made = labels_section(labels, repository, config_name, split, text)
    before, _, rest = whole.text.partition(_mark(config_name))
    after = rest.partition(END)[2] if rest else ""
    whole.text = f"{before.rstrip()}\n\n{made}\n{after.lstrip()}"
    # the card first, so that `datasets` adds its description of the files to it instead of being overwritten
    api.upload_file(
        path_or_fileobj=str(whole).encode(), path_in_repo="README.md", repo_id=repository, repo_type="dataset"
    )
    labels.push_to_hub(repository, config_name=config_name, split=split, private=private, token=token)


def new_or_same(api: HfApi, repository: str, kind: str, private: bool | None) -> str:
    """The id of a repository, made where there is none.

    Args:
        kind: `dataset` or `model`.

    Raises:
        ValueError: a private one was asked for, and it exists and is public.
    """
    repository = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True).repo_id
    if private and not api.repo_info(repository, repo_type=kind).private:
        raise ValueError(
            f"{repository} exists and is public. Nothing was uploaded; make it private in its settings, or choose "
            "another name."
        )
    return repository


END = "<!-- end of these labels -->"


def _mark(config_name: str) -> str:
    return f"<!-- trl_weaks labels: {config_name} -->"


def _there(api: HfApi, repository: str) -> DatasetCard:
    """The repository's card, or an empty one."""
    if api.file_exists(repository, "README.md", repo_type="dataset"):
        path = api.hf_hub_download(repository, "README.md", repo_type="dataset")
        return DatasetCard(Path(path).read_text(encoding="utf-8"))
    return DatasetCard(f"---\n{DatasetCardData(tags=TAGS)}\n---\n\n# {repository.split('/')[-1]}\n")


def labels_section(labels: Dataset, repository: str, config_name: str, split: str, card: str | None = None) -> str:
    """What a reader of the Hub must know of these labels, as markdown between two marks."""
    named = "" if config_name == "default" else f", {json.dumps(config_name)}"
    head = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S) if card else who_labelled(labels)
    row = json.dumps(_short(labels[0]), indent=1, ensure_ascii=False)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", row)), default=0))
    known = [[f"`{name}`", MEANING.get(name, "carried through")] for name in labels.column_names]
    lines = [_mark(config_name), f"## Labels `{config_name}`", re.sub("^# ", "### ", head.strip(), flags=re.M)]
    lines += ["```python\nfrom datasets import load_dataset\n"]
    lines[-1] += f"\nlabels = load_dataset({json.dumps(repository)}{named}, split={json.dumps(split)})\n```"
    lines += [table(["column", "meaning"], known), f"The first row:\n\n{fence}json\n{row}\n{fence}"]
    lines += ["Made with trl_weaks (`pip install trl-weaks`), whose trainers read these columns.", END]
    return "\n\n".join(lines)


def who_labelled(labels: Dataset) -> str:
    """How many rows, and of whom; whether they are people or programs is not in the columns."""
    size = f"{len(labels)} rows"
    if columns.EXAMPLE_ID in labels.column_names:
        size += f" for {len(set(labels[columns.EXAMPLE_ID][:]))} examples"
    column = next((c for c in (columns.SUPERVISORS, columns.VOTERS) if c in labels.column_names), None)
    if column is None:
        return f"{size}."
    counts = Counter(name for names in labels[column][:] for name in names or ())
    return f"{size}, labelled by weak supervisors.\n\n{table(['supervisor', 'rows'], sorted(counts.items()))}"


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[:LONGEST] + " …"
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value[:MOST]] + (["…"] if len(value) > MOST else [])
    return value if isinstance(value, int | float | bool | None) else str(value)
