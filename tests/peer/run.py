"""TRL's own trainer tests with our classes in place of theirs, and a table of what differs.

    python tests/peer/run.py /path/to/a/checkout/of/trl [sft dpo]

The checkout's tests are copied into a temporary folder, models and data sets under the names they use are made there
with random weights, and each file runs with TRL's class, and with ours on plain rows and on rows with weak columns.
Tests that need what is not made here (vision models, quantisation, the hub) fail with TRL's class and are not counted.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {"sft": ("test_sft_trainer.py", "TestSFTTrainer"), "dpo": ("test_dpo_trainer.py", "TestDPOTrainer")}
UNCOUNTED = "not Slow and not vlm and not vision and not peft_with_quantization"
RUNS = {"TRL's class": ("trl", "plain"), "ours, plain rows": ("ours", "plain"), "ours, weak rows": ("ours", "weak")}


def run(folder: Path, which: str, classes: str, rows: str) -> dict[str, str]:
    """Test -> "" where it passed, else the last line of its error."""
    file, group = FILES[which]
    report = folder / f"{which}-{classes}-{rows}.xml"
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "PEER_CLASS": classes,
        "PEER_ROWS": rows,
        "HF_HUB_OFFLINE": "1",
        "CI": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "peer_plugin", "-p", "no:cacheprovider", f"tests/{file}"]
    command += ["-k", f"{group} and {UNCOUNTED}", "--tb=line", f"--junitxml={report}"]
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [part for part in case if part.tag in ("failure", "error")]
        if not any(part.tag == "skipped" for part in case):
            found[case.get("name")] = " ".join((bad[0].get("message") or "failed").split())[:300] if bad else ""
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("which", nargs="*", choices=list(FILES))  # a default list would be held against the choices
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(given.checkout / "tests", folder / "tests")
        from models import make_models

        make_models(folder / "trl-internal-testing", given.checkout / "trl" / "chat_templates")
        for which in given.which or FILES:
            found = {title: run(folder, which, *how) for title, how in RUNS.items()}
            stock = {test for test, error in found["TRL's class"].items() if not error}
            print(f"\n{FILES[which][0]}: {len(stock)} pass with TRL's class")
            for title in list(RUNS)[1:]:
                failed = {test: found[title].get(test, "did not run") for test in sorted(stock)}
                failed = {test: error for test, error in failed.items() if error}
                print(f"  {title}: {len(stock) - len(failed)} of {len(stock)}")
                for reason in sorted(set(failed.values())):
                    tests = [test for test, error in failed.items() if error == reason]
                    print(f"    {len(tests)} x {reason}")
                    print(*(f"        {test}" for test in tests), sep="\n")


if __name__ == "__main__":
    main()
