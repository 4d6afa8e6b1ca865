"""`trl-weaks config`: the launch configurations that come with the package."""

import argparse
from pathlib import Path

from .errors import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="which one to print, e.g. zero3; without a name: list them")
    parser.add_argument("--deepspeed", action="store_true", help="DeepSpeed's own JSON instead of accelerate's YAML")


def config(options: argparse.Namespace) -> None:
    """Print a configuration, or the names of all.

    Raises:
        ValueError: there is none of this name.
    """
    found = configurations(options.deepspeed)
    if options.name is None:
        print("\n".join(found))
    elif options.name in found:
        print(runs_anywhere(found[options.name].read_text(encoding="utf-8")), end="")
    else:
        hint = did_you_mean(options.name, found)
        raise ValueError(f"there is no configuration {options.name!r}.{hint} Known: {', '.join(found)}.")


def runs_anywhere(text: str) -> str:
    """A configuration that names its DeepSpeed file where it lies, instead of from the root of the repository."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("# Run from the root of")]
    return "".join(lines).replace(
        "deepspeed_config_file: ds_configs/", f"deepspeed_config_file: {shipped('ds_configs')}/"
    )


def configurations(deepspeed: bool = False) -> dict[str, Path]:
    """The files by name: accelerate's, or DeepSpeed's."""
    folder = shipped("ds_configs")
    paths = folder.glob("*.json") if deepspeed else (folder / "accelerate").glob("*.yaml")
    return {path.stem: path for path in sorted(paths)}


def shipped(folder: str) -> Path:
    """A folder of the repository: inside an installed package, or beside the package in a checkout."""
    inside = PACKAGE / "_shipped" / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder
