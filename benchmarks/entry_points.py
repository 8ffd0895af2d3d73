"""What image and text together cost, and one of them alone, with the entry points and without.

    python benchmarks/entry_points.py runs/mobile --out entry-points.json

Exports the student of RUN, a finished run, to ONNX flat and with the branch around its image
encoder, and to LiteRT and ExecuTorch, whose texts alone have an entry point of their own. In one
process, on one thread, all are timed in interleaved rounds, every other one in reverse order.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel, load_model
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View
from msd_export.converters import converter_for
from msd_export.formats import FORMATS, Precision, Target
from msd_export.predictors import open_predictor
from msd_export.signature import TimedPredictor, single_examples
from msd_export.source import ExportSource
from msd_mobile_bench.host import describe_host
from msd_mobile_bench.latency import SamplingPlan, describe, interleaved, time_calls

_ROUNDS, _EXAMPLES = 10, 32
_PLAN = SamplingPlan(warm_up=10, runs=100, most_seconds=1.5)
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
_TARGETS: tuple[Target, ...] = ("onnx", "ort", "litert", "executorch")


def write_variants(
    loaded: LoadedModel[ViewClassifier], data: PreparedData, folder: Path
) -> dict[str, tuple[Target, Path]]:
    """Write every file that is timed; return its target and path by name."""
    written: dict[str, tuple[Target, Path]] = {}
    for is_flat in (True, False):
        scratch = folder / f"scratch-{is_flat}"
        scratch.mkdir()
        source = ExportSource(loaded, data, "bench", scratch, skips_image_encoder=not is_flat)
        for target in ("onnx", "ort") if is_flat else _TARGETS:
            converter = converter_for(target, source)
            for precision in _PRECISIONS:
                name = f"{target}-{precision}" + ("-flat" if is_flat else "")
                path = folder / name / FORMATS[target].model_file
                path.parent.mkdir()
                converter.convert(precision, path)
                written[name] = (target, path)
    return written


def calls_of(
    predictor: TimedPredictor, split: PreparedSplit, view: View
) -> Callable[[int], object]:
    """Return a call that predicts another example each time."""
    rows = np.linspace(0, len(split) - 1, min(_EXAMPLES, len(split))).astype(np.int64)
    calls = [predictor.prepare(each) for each in single_examples(split.inputs(rows, view))]
    return lambda number: calls[number % len(calls)]()


def measure(run: RunDirectory, rounds: int) -> dict[str, dict[str, float]]:
    """Return the file size in bytes and the p50 latency of each view in ms, by variant."""
    loaded = load_model(run.student)
    data = data_of_run(read_run(run), loaded.preprocessor)
    with tempfile.TemporaryDirectory() as name:
        written = write_variants(loaded, data, Path(name))
        predictors = {key: open_predictor(*where, threads=1) for key, where in written.items()}
        calls = {
            (variant, view): calls_of(predictor, data.splits["test"], view)
            for variant, predictor in predictors.items()
            for view in View
        }
        samples: dict[tuple[str, View], list[list[float]]] = {key: [] for key in calls}
        for order in interleaved(len(calls), rounds):
            for key in (list(calls)[index] for index in order):
                samples[key].append(time_calls(calls[key], _PLAN))
        return {
            variant: {
                "size_bytes": path.stat().st_size,
                **{view.value: describe(samples[variant, view])["p50"] for view in View},
            }
            for variant, (_, path) in written.items()
        }


def shown(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table in Markdown."""
    names = ["variant", "bytes", "image and text", "image", "text", "text / both"]
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    for name, facts in results.items():
        pair, image, text = (facts[view.value] for view in View)
        cells = [f"{facts['size_bytes']:,}", *(f"{value:.3f} ms" for value in (pair, image, text))]
        lines.append(f"| {name} | {' | '.join(cells)} | {text / pair:.1%} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    results = measure(RunDirectory(options.run), options.rounds)
    sys.stdout.write(shown(results) + "\n")
    if options.out is not None:
        write_json(options.out, {"host": describe_host(), "variants": results})


if __name__ == "__main__":
    main()
