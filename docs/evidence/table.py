"""Tables of docs/evidence: python docs/evidence/table.py docs/evidence/results/NAME.json"""

import json
import sys
from pathlib import Path


def tables(results: dict) -> str:
    """Rows with interval and PGR, then the comparisons of the plan, in Markdown."""
    key = results["measure"]
    lines = [f"| system | {key} [95 % interval] | PGR [95 % interval] |", "|---|---|---|"]
    for row in (*results["weak"].values(), *results["methods"].values()):
        low, high = row[f"{key}_interval"]
        pgr = "" if row.get("pgr") is None else f"{row['pgr']:+.3f} [{row['pgr_interval'][0]:+.3f}, "
        pgr += "" if not pgr else f"{row['pgr_interval'][1]:+.3f}]"
        lines.append(f"| {row['label']} | {row[key]:.3f} [{low:.3f}, {high:.3f}] | {pgr} |")
    names = {n: r["label"] for n, r in {**results["weak"], **results["methods"]}.items()}
    lines += ["", "| first | second | difference [95 % interval] | p, Holm |", "|---|---|---|---|"]
    for pair in results["comparisons"]:
        low, high = pair["interval"]
        difference = f"{pair['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(f"| {names[pair['first']]} | {names[pair['second']]} | {difference} | {pair['p_holm']:.2g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
