"""`trl-weaks report` and `trl-weaks view`: what stored labels say, as text and as a page."""

import argparse
import shutil
from pathlib import Path

from .sources import refuse_missing


def add_report_options(parser: argparse.ArgumentParser) -> None:
    add_labels_and_gold(parser)
    parser.add_argument("--figure", type=Path, help="also draw accuracy and agreement to this PNG")


def add_view_options(parser: argparse.ArgumentParser) -> None:
    add_labels_and_gold(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("view.html"), help="the page to write (view.html)")
    parser.add_argument("--limit", type=int, default=10_000, help="most examples on the page (10000: ours)")


def report(options: argparse.Namespace) -> None:
    """Print the supervisors' report card."""
    labels, gold = read_labels(options)
    from ..labelling.reliability.report_card import supervisor_report

    card = supervisor_report(labels, gold)
    print(card.markdown(), end="")
    if options.figure:
        card.figure(options.figure)
        print(f"Figure: {options.figure}")


def view(options: argparse.Namespace) -> None:
    """Write the page."""
    if options.limit < 1:
        raise ValueError(f"--limit {options.limit}: show at least one example.")
    made = options.labels / "view.html"
    if (options.labels / "results.json").is_file() and made.is_file():  # a study, which wrote its own
        if options.output.resolve() != made.resolve():
            shutil.copyfile(made, options.output)
        print(f"Page: {options.output} (the study's own)")
        return
    labels, gold = read_labels(options)
    from ..viewer.from_labels import page_of_labels

    page = page_of_labels(labels, gold, title=f"Weak labels: {options.labels.name}", limit=options.limit)
    print(f"Page: {page.write(options.output)} ({page.about})")


def add_labels_and_gold(parser: argparse.ArgumentParser) -> None:
    """The options that `read_labels` reads."""
    parser.add_argument(
        "labels", type=Path, help="the output folder of a labelling run or, to view, of a study; or a saved dataset"
    )
    parser.add_argument(
        "--gold",
        type=Path,
        help="a .csv, .jsonl or .parquet file with the columns example_id and label (or completion)",
    )
    parser.add_argument("--gold_column", help="of the gold answers in that file (label, else completion)")


def read_labels(options: argparse.Namespace):
    """The labels, and gold labels by id where there are some."""
    folder = options.labels
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the output folder of a labelling run.")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if options.gold:
        refuse_missing("--gold", str(options.gold))
    elif options.gold_column:
        raise ValueError(f"--gold_column {options.gold_column} is a column of gold answers; give their file, --gold.")
    inside = folder / "dataset" if (folder / "dataset").is_dir() else folder
    if not (inside / "dataset_info.json").is_file():
        raise ValueError(f"{folder} holds no dataset; give the output folder of a labelling run that has ended.")
    from datasets import load_from_disk

    from ..labelling.sources.tables import as_id, read_table

    labels, gold = load_from_disk(str(inside)), None
    if options.gold:
        rows = read_table(options.gold, "--gold", ("example_id",), ("label", "completion"))
        wanted = [options.gold_column] if options.gold_column else ["label", "completion"]
        column = next((name for name in wanted if name in rows[0]), None)
        if column is None:
            raise ValueError(
                f"--gold {options.gold}: there is no column {' or '.join(map(repr, wanted))}, only {list(rows[0])}; "
                "choose with --gold_column."
            )
        gold = {as_id(row["example_id"], "--gold", i, "example_id"): row[column] for i, row in enumerate(rows)}
        if len(gold) < len(rows):
            raise ValueError(f"--gold {options.gold}: an example_id is there twice.")
    return labels, gold
