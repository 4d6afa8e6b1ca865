"""Labels given by their path."""

from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk

from ... import columns


def at_path(dataset: Any) -> Any:
    """The dataset itself; of a path, the labels there: what labelling wrote, a saved dataset, or Parquet files.

    Raises:
        ValueError: nothing of the kind is there; says what was looked for.
    """
    if not isinstance(dataset, str | Path):
        return dataset
    folder = Path(dataset)
    for place in (folder / "dataset", folder):
        if (place / "dataset_info.json").is_file():
            return load_from_disk(str(place))
    for place in (folder / "dataset", folder / "data", folder):
        files = sorted(place.glob("train-*.parquet")) if place.is_dir() else []
        if files:
            return Dataset.from_parquet([str(file) for file in files])
    if folder.suffix == ".parquet" and folder.is_file():
        return Dataset.from_parquet(str(folder))
    split = next((p for p in (folder / "dataset", folder) if (p / "dataset_dict.json").is_file()), None)
    if split is not None:
        names = sorted(part.name for part in split.iterdir() if part.is_dir())
        raise ValueError(
            f"{dataset!r} holds several splits, {names}; give the folder of one, {str(split / names[0])!r}."
        )
    raise ValueError(
        f"{dataset!r} holds no labels: neither it nor its folder `dataset` is a saved dataset or has "
        "files train-*.parquet. Give the output folder "
        "of a labelling run that has ended, or load a dataset of the Hub with `datasets.load_dataset`."
    )


def unweighed(dataset: Any) -> Any:
    """The dataset, or that at a path, without `triage_weight`: predictions are of every row alike."""
    dataset = at_path(dataset)
    names = getattr(dataset, "column_names", None) or ()
    return dataset.remove_columns(columns.TRAIN_WEIGHT) if columns.TRAIN_WEIGHT in names else dataset
