"""Table of the learned weights of studies over training.

    python benchmarks/meta_weights.py runs/compare-memes runs/compare-listings --out meta-weights.md

Each folder is an output of `msd compare` with msd-meta. A row is an interval of the training: the
mean over seeds and steps of each view's mean weight in a batch, and of its standard deviation over
the batch. `msd report` draws these curves for a single run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from msd_deploy.artifacts.manifest import read_versioned_json, write_text
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.report.run_files import read_training
from msd_deploy.report.schema import TrainingJson
from msd_deploy.study.cells import cell_directory, finished_cells
from msd_deploy.study.compare import RESULT_NAME
from msd_deploy.views import View

_METHOD, _STRETCHES = "msd-meta", 5


def weights_markdown(folders: Sequence[Path]) -> str:
    """Return the tables of studies in Markdown."""
    lines = ["# The learned weights over training", ""]
    for folder in folders:
        study = read_versioned_json(folder / RESULT_NAME)
        trainings = [
            read_training(_history(folder, seed), metric=str(study["metric"]))
            for method, seed in finished_cells(folder)
            if method == _METHOD
        ]
        if not trainings or len(trainings[0]["steps"]) < _STRETCHES:
            sys.exit(f"error: {folder}: has no {_METHOD} of {_STRETCHES} logged steps")
        lines += [f"## {study['data']}", "", *_table(trainings), ""]
    return "\n".join(lines)


def _history(folder: Path, seed: int) -> Path:
    cell: RunDirectory = cell_directory(folder, _METHOD, seed)
    return cell.history


def _table(trainings: Sequence[TrainingJson]) -> list[str]:
    """Return rows of training intervals with mean ± standard deviation of each view's weight."""
    lines = [
        f"Mean over {len(trainings)} seeds; ± is the standard deviation over a batch.",
        "",
        f"| steps | {' | '.join(View)} |",
        f"|---|{'---:|' * len(View)}",
    ]
    steps = trainings[0]["steps"]
    for part in range(_STRETCHES):
        chosen = range(part * len(steps) // _STRETCHES, (part + 1) * len(steps) // _STRETCHES)
        cells = [
            f"{_mean(trainings, view, 'mean', chosen):.2f}"
            f" ± {_mean(trainings, view, 'std', chosen):.2f}"
            for view in View
        ]
        lines.append(f"| {steps[chosen[0]]} to {steps[chosen[-1]]} | {' | '.join(cells)} |")
    return lines


def _mean(trainings: Sequence[TrainingJson], view: View, what: str, chosen: range) -> float:
    series = [
        training["weights"][view.value]["mean" if what == "mean" else "std"]
        for training in trainings
    ]
    return mean(value for values in series for i in chosen if (value := values[i]) is not None)


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, nargs="+", help="folders of `msd compare`")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    arguments = parser.parse_args()
    write_text(arguments.out, weights_markdown(arguments.studies))


if __name__ == "__main__":
    main()
