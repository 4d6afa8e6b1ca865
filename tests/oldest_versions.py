"""Prints the oldest version of each package that pyproject.toml allows, as pip's constraints: `make test-oldest`."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
ELSEWHERE = {"vllm"}  # needs a GPU, and a torch of its own


def oldest() -> dict[str, str]:
    """Package names and their lower bounds, extras included.

    Raises:
        ValueError: two extras ask for different ones.
    """
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    found: dict[str, str] = {}
    for line in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
        requirement = line.partition(";")[0]
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?(?:>=([\w.]+))?(?:,<[\w.]+)?", requirement).groups()
        if bound and name not in ELSEWHERE and found.setdefault(name, bound) != bound:
            raise ValueError(f"{name} has two lower bounds: {found[name]} and {bound}.")
    return found


if __name__ == "__main__":
    print(*(f"{name}=={bound}" for name, bound in oldest().items()), sep="\n")
