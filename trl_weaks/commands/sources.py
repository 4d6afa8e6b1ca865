"""Files, folders and models that options name: what is not there is refused in a moment, before anything is loaded.

What is not a path may be the id of something on the Hub. `prompts.jsonl` with a slip of the pen is also of that form,
and asking the Hub for it ends minutes later in an error about the Hub.
"""

import os
import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".safetensors", ".bin", ".gguf")
CONFIGS = ("config.json", "adapter_config.json")
PATIENCE = 3.0  # seconds for the Hub to say whether it has a model or a dataset


def refuse_missing(option: str, source: str) -> None:
    """Refuse a path at which there is nothing; what may be a Hub id passes.

    Raises:
        FileNotFoundError: names the option and the path.
    """
    if Path(source).exists():
        return
    if Path(source).suffix.lower() in FILES:
        raise FileNotFoundError(f"{option}: no such file: {source}")
    if not HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"{option}: no such file or folder: {source}")


def refuse_missing_model(option: str, source: str, weights: bool = False) -> None:
    """Refuse a path at which there is no model; what may be a Hub id passes.

    Args:
        weights: whether more than its configuration is needed; they are read from safetensors alone.

    Raises:
        FileNotFoundError: names the option and the path.
    """
    refuse_missing(option, source)
    if Path(source).exists() and not any((Path(source) / name).is_file() for name in CONFIGS):
        raise FileNotFoundError(f"{option}: {source} is no folder of a model: it has no {CONFIGS[0]}.")
    if weights and Path(source).exists() and not any(Path(source).glob("*.safetensors")):
        raise FileNotFoundError(f"{option}: {source} has no weights: there is no .safetensors file in it.")


def refuse_unknown_model(option: str, source: str, revision: str | None = None) -> None:
    """Refuse the id of a model that the Hub, or what was kept of it, does not have. Needs no library of models.

    Raises:
        ValueError: there is none, it is not given out, or the Hub cannot be reached.
    """
    if Path(source).exists():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(source, name, revision=revision), str) for name in CONFIGS):
        return
    try:
        HfApi().model_info(source, revision=revision, timeout=PATIENCE)
    except Exception as error:  # of the Hub, or of whatever client of HTTP it uses
        asked = f"{source}@{revision}" if revision else source
        raise ValueError(
            f"{option}: {asked} is no folder here, and the Hub does not give it: {first_line(error).rstrip('.')}. "
            "Name the folder of a model, or an id that can be fetched from here."
        ) from error


def refuse_unknown_dataset(option: str, source: str) -> None:
    """Refuse the id of a dataset that the Hub, or what was kept of it, does not have; asks once, without the library.

    Raises:
        ValueError: there is none, it is not given out, or the Hub cannot be reached.
    """
    if Path(source).exists():
        return
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(source, timeout=PATIENCE)
    except Exception as error:  # of the Hub, or of whatever client of HTTP it uses
        if _plain(source) in _kept_datasets():
            return
        raise ValueError(
            f"{option}: {source} is no file or folder here, and the Hub does not give it: "
            f"{first_line(error).rstrip('.')}. Name a file, or an id that can be fetched from here."
        ) from error


def _kept_datasets() -> set[str]:
    """Datasets that were loaded before and are found without the Hub: `datasets` keeps them as `owner___name`."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    return {_plain(one.name) for one in folder.glob("*") if one.is_dir()}


def _plain(name: str) -> str:
    """Without what `datasets` changes of an id in the name of a folder: slash, capitals, underscores."""
    return re.sub(r"[/_]", "", name).lower()


def first_line(error: BaseException) -> str:
    """The first line of a message, or the error's kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
