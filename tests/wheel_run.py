"""What an installed wheel must do without the repository; run by `make test-wheel` with the wheel's own Python."""

import platform
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import trl_weaks

assert "site-packages" in trl_weaks.__file__, trl_weaks.__file__
TOOL = [str(Path(sys.executable).with_name("trl-weaks"))]


def run(*arguments: str) -> str:
    return subprocess.run([*TOOL, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    from trl_weaks.losses.vocabulary.cpu_kernels import find_kernels

    assert find_kernels() is not None, "the wheel has no compiled passes"
    check_libraries(Path(find_kernels()._name).parent)
    assert run("--version").strip() == f"trl-weaks {trl_weaks.__version__}"
    assert "zero3" in run("config").split() and "deepspeed_config" in run("config", "zero3")
    example = (Path(trl_weaks.__file__).parent / "_shipped" / "examples" / "votes.py").read_text(encoding="utf-8")
    assert '# dependencies = ["trl-weaks"]\n# ///\n' in example, "a path of the repository in an example's header"
    with TemporaryDirectory() as folder:
        answers = [{"example_id": "1", "supervisor": s, "completion": " jazz"} for s in ("ann", "bob")]
        labels = trl_weaks.labels_from_completions([{"example_id": "1", "prompt": "play"}], answers)
        labels.save_to_disk(f"{folder}/labels/dataset")
        assert "| ann |" in run("report", f"{folder}/labels")
        run("view", f"{folder}/labels", "-o", f"{folder}/view.html")
        train(labels, folder)
    print("The wheel works without the repository.")


def check_libraries(folder: Path) -> None:
    """One for each instruction set, which need nothing but a glibc of 2012: no OpenMP, no C++, no PyTorch."""
    libraries = {path.name.split(".")[0]: path.read_bytes() for path in folder.glob("_row_kernels_*.so")}
    sets = {"plain", "avx2", "avx512"} if platform.machine() == "x86_64" else {"plain"}
    assert set(libraries) == {f"_row_kernels_{name}" for name in sets}, set(libraries)
    for name, content in libraries.items():
        versions = {(int(a), int(b)) for a, b in re.findall(rb"GLIBC_(\d+)\.(\d+)", content)}
        assert versions and max(versions) <= (2, 17), (name, versions)
        needed = set(re.findall(rb"lib[a-z_+0-9]+\.so\.\d+", content))
        assert needed <= {b"libc.so.6", b"libm.so.6"}, (name, needed)


def train(labels, folder: str) -> None:
    """One step of the drop-in on a model made in place."""
    from trl_weaks import WeakSupervisionConfig, WeakSupervisionTrainer
    from trl_weaks.study.models.tiny import build_model, train_tokenizer

    tokenizer = train_tokenizer("llama", ["play some jazz"] * 10, 420)
    model = build_model("llama", tokenizer, hidden_size=16, layers=1, heads=2, max_length=64, seed=0)
    settings = WeakSupervisionConfig(folder, max_steps=1, use_cpu=True, bf16=False, report_to="none")
    WeakSupervisionTrainer(model=model, args=settings, train_dataset=labels, processing_class=tokenizer).train()


main()
