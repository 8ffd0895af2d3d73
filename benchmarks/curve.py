"""Table of studies of one task with different numbers of training rows.

    python benchmarks/curve.py runs/memes-500 runs/memes-1000 runs/memes-2000 --out curve-memes.md

Each folder is an output of `msd compare`. A row is a number of training rows and a budget; its
columns are the methods' test metric per view, and the difference of msd-fixed to each control that
all studies have, paired by seed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msd_deploy.artifacts.manifest import Json, read_versioned_json, write_text
from msd_deploy.study.compare import RESULT_NAME
from msd_deploy.study.tables import difference_text, percent_text, spread_text
from msd_deploy.views import View

_OURS = "msd-fixed"
_METHODS = ("none", "kd", "kd-dropout", _OURS)


def curve_markdown(studies: Sequence[Json]) -> str:
    """Return the table of studies in Markdown, by budget, fewest training rows first.

    Args:
        studies: Contents of compare.json, of one task, each with msd-fixed.
    """
    results: list[Any] = sorted(studies, key=lambda study: (study["budget"], _labelled(study)))
    first = results[0]
    methods = [name for name in _METHODS if all(name in each["methods"] for each in results)]
    lines = [
        f"# {first['data']}: gain of msd by the number of training rows",
        "",
        f"- {first['metric']} in % on {first['examples']['test']:,} test examples, student"
        f" {first['student']}",
        f"- host: {first['host']}",
    ]
    lines += [f"- {_labelled(result):,} rows: `{result['command']}`" for result in results]
    for view in View:
        lines += ["", f"## {view.value}", "", *_table(results, methods, view)]
    return "\n".join(lines) + "\n"


def _read_study(folder: Path) -> Json:
    study: Any = read_versioned_json(folder / RESULT_NAME)
    if _OURS not in study["methods"]:
        sys.exit(f"error: {folder}: has no {_OURS}; add it with msd compare")
    return dict(study)


def _labelled(study: Any) -> int:
    return int(study["labelled"])


def _table(results: Sequence[Any], methods: Sequence[str], view: View) -> list[str]:
    differences = [f"{_OURS} - {name}" for name in methods if name.startswith("kd")]
    lines = [
        f"| training rows | budget | teacher | {' | '.join((*methods, *differences))} |",
        f"|---:|---|---:|{'---:|' * (len(methods) + len(differences))}",
    ]
    for result in results:
        cells = [spread_text(result["methods"][method][view.value]) for method in methods]
        cells += [difference_text(result["paired"][name][view.value]) for name in differences]
        teacher = percent_text(result["teacher"][view])
        start = f"{_labelled(result):,} | {result['budget']} | {teacher}"
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, nargs="+", help="folders of `msd compare`")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    arguments = parser.parse_args()
    studies = [_read_study(folder) for folder in arguments.studies]
    write_text(arguments.out, curve_markdown(studies))


if __name__ == "__main__":
    main()
