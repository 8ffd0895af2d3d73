"""Our exports beside the tools' own quantization, of one student, as their documentation says.

    python benchmarks/against_defaults.py runs/demo --work runs/demo-defaults --out demo.json
    python benchmarks/against_defaults.py runs/demo/student --data synthetic:memes --work ...

MODEL is a finished run, or a model folder with `--data`. What `tool_defaults.py` has as recipes is
quantized from the student's float graph and the training examples that calibrate our exports. Every
file, of theirs and of ours, is given the test split one example at a time, as an app does, under
each view. Compared are size, the metric, decisions and logits with PyTorch's float32, and ours with
theirs, by paired bootstrap intervals over the test examples. Latency is that of image and text on
one thread; all files of a target are timed in interleaved rounds in one process. Core ML packages
are run by the MIL evaluator, which gives no latency.

Exports that are missing are written first, into the run or below `--work`. Every row is made in a
process of its own and kept in `--work`, so that an interrupted comparison continues; a failure is a
row with the tool's own words. A run's exports have been verified on the same test split: where a
variant failed the gate there, layers that are kept in higher precision were chosen with its help.
The tools' files were not chosen by anything.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.default_differences import (
    DATA_NAME,
    FACTS_NAME,
    compare,
    latency_path,
    result_path,
    shown,
)
from benchmarks.tool_defaults import (
    FLOAT,
    RECIPES,
    Row,
    Student,
    open_runner,
    rows_of,
    write_float,
)
from msd_deploy.artifacts.atomic import new_file, remove_path
from msd_deploy.artifacts.manifest import (
    files_below,
    read_json,
    sha256_of_file,
    utc_now,
    write_json,
)
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError, ConfigError, ExportError, MsdError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitsByView
from msd_deploy.views import View
from msd_export.folder import PARITY_NAME, recorded_source
from msd_export.formats import FORMATS, Target, variant_name
from msd_export.signature import ModelInputs, single_examples
from msd_mobile_bench.host import describe_host
from msd_mobile_bench.latency import (
    SamplingPlan,
    host_drift,
    interleaved,
    time_calls,
    time_control_kernel,
)

if TYPE_CHECKING:
    from msd_deploy.data.prepared import PreparedData
    from msd_deploy.models.folders import LoadedModel
    from msd_deploy.models.fusion import FusionForClassification

_LONGEST_REASON = 160
_TIMED_EXAMPLES = 32
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""How a library's own fault ends a process; what ends others is not the row's result."""
_PLAN = SamplingPlan(warm_up=10, runs=100, most_seconds=1.5)


@dataclass(frozen=True, slots=True)
class Work:
    """What is compared, and the folder that keeps what is done.

    Attributes:
        model: A run, or a model folder.
        data: The data set of a model folder.
        folder: The folder.
        examples: Test examples; None: all.
    """

    model: Path
    data: str | None
    folder: Path
    examples: int | None

    @property
    def is_run(self) -> bool:
        """Whether the model is a run."""
        return RunDirectory(self.model).run_json.is_file()

    @property
    def student(self) -> Path:
        """The model folder."""
        return RunDirectory(self.model).student if self.is_run else self.model

    @property
    def exports(self) -> Path:
        """The folder of our exports."""
        return RunDirectory(self.model).exports if self.is_run else self.folder / "ours"

    def path(self, row: Row) -> Path:
        """Return the model's file or package of a row."""
        file = FORMATS[row.target].model_file
        if row.is_ours:
            return self.exports / f"{row.target}-{row.precision}" / file
        return self.folder / "files" / row.name / file

    def arguments(self) -> list[str]:
        """Return the arguments of the script that state what is compared."""
        data = [] if self.data is None else ["--data", self.data]
        examples = [] if self.examples is None else ["--examples", str(self.examples)]
        return [str(self.model), *data, *examples, "--work", str(self.folder)]


def prepare(work: Work) -> None:
    """Write what every row needs: test examples under each view, calibration, float32 logits.

    Raises:
        MsdError: Model or data cannot be read, or no test example has a label.
    """
    from msd_deploy.models.folders import load_model
    from msd_export.predictors import TorchPredictor
    from msd_export.source import ExportSource

    loaded = load_model(work.student)
    data = _data_of(work, loaded)
    split = data.splits["test"]
    labelled = np.flatnonzero(split.has_label())
    if not len(labelled):
        raise ExportError("no test example has a label, so that nothing can be compared")
    count = min(work.examples or len(labelled), len(labelled))
    chosen = labelled[np.linspace(0, len(labelled) - 1, count).astype(np.int64)]
    source = ExportSource(loaded, data, "", work.folder)
    calibration = source.calibration()
    # The views in turn: where a tool's ranges are moving averages, the last examples decide.
    turns = np.arange(len(calibration["image"])).reshape(len(View), -1).T.ravel()
    arrays = {f"calibration/{name}": value[turns] for name, value in calibration.items()}
    predictor = TorchPredictor(loaded)
    for view in View:
        inputs = split.inputs(chosen, view)
        arrays |= {f"{view}/{name}": value for name, value in inputs.items()}
        logits = [predictor.predict(example) for example in single_examples(inputs)]
        arrays[f"logits/{view}"] = np.concatenate(logits)
    with new_file(work.folder / DATA_NAME) as path, path.open("wb") as file:
        np.savez(file, labels=split.labels[chosen], **arrays)
    facts = {
        "weights": _digest(work),
        "data": work.data,
        "examples": work.examples,
        "problem": loaded.problem,
        "labels": list(loaded.labels),
        "test_examples": count,
        "calibration_examples": len(arrays["calibration/image"]),
        "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
    }
    write_json(work.folder / FACTS_NAME, facts)


def _data_of(work: Work, loaded: "LoadedModel[FusionForClassification]") -> "PreparedData":
    from msd_deploy.run.record import data_of_run, read_finished_run
    from msd_export.opened_model import prepare_for_model, source_of_model

    if work.is_run:
        return data_of_run(read_finished_run(RunDirectory(work.model)), loaded.preprocessor)
    assert work.data is not None
    raw = source_of_model(loaded, work.data, SourceOptions())
    return prepare_for_model(loaded, raw, work.data, options=SourceOptions(), hooks=StageHooks())


def _digest(work: Work) -> str:
    return sha256_of_file(work.student / "model.safetensors")


def export_ours(work: Work, target: Target) -> None:
    """Write those of our exports of a target that are missing, as `msd export` does.

    What the gate refuses is not written; the reasons are kept for the rows.
    """
    from msd_deploy.models.folders import load_model
    from msd_export.config import ExportConfig
    from msd_export.pipeline import Failures, export_model, export_student

    digest = load_model(work.student).digest
    precisions = dict.fromkeys(recipe.precision for recipe in RECIPES[target].values())
    missing = tuple(
        (target, precision)
        for precision in precisions
        if recorded_source(work.exports / variant_name((target, precision))) != digest
    )
    failures: Failures = {}
    config = ExportConfig(missing, overwrite=True)
    hooks = StageHooks(on_stage=_say, on_note=_say)
    if missing and work.is_run:
        export_student(RunDirectory(work.model), config, hooks, failures=failures)
    elif missing:
        assert work.data is not None
        export_model(
            work.model,
            work.data,
            config,
            options=SourceOptions(),
            out=work.exports,
            hooks=hooks,
            failures=failures,
        )
    reasons = {name: error.what for name, error in failures.items()}
    write_json(work.folder / f"exported-{target}.json", {"failures": reasons})


def make_row(work: Work, row: Row) -> None:
    """Write a row's file, unless it is ours, and its logits of every test example.

    What fails is a result too: its reason is written.
    """
    facts: dict[str, Any] = {}
    try:
        path = _written(work, row)
        facts["size_bytes"] = size_of(path)
        facts |= _kept_layers(path)
        logits = _logits(work, row, path)
        with (
            new_file(result_path(work.folder, row).with_suffix(".npz")) as file,
            file.open("wb") as opened,
        ):
            np.savez(opened, **{view.value: values for view, values in logits.items()})
        facts["error"] = _not_finite(logits)
    except Exception as error:  # tools and runtimes raise anything
        facts["error"] = reason(error)
    write_json(result_path(work.folder, row), facts)


def _written(work: Work, row: Row) -> Path:
    path = work.path(row)
    if row.is_ours:
        failures = read_json(work.folder / f"exported-{row.target}.json")["failures"]
        if (error := cast(Mapping[str, str], failures).get(row.name)) is not None:
            raise ExportError(f"not written: {error}")
        return path
    from msd_deploy.models.folders import load_model  # loads torch, which running ours does not

    remove_path(path.parent)
    path.parent.mkdir(parents=True)
    loaded = load_model(work.student)
    if row.recipe is None:
        write_float(row.target, loaded, path)
        return path
    calibration = _inputs(work, "calibration")
    student = Student(loaded, work.path(Row(row.target, FLOAT)), calibration)
    RECIPES[row.target][row.recipe].write(student, path)
    return path


def _kept_layers(path: Path) -> dict[str, Any]:
    """Return the layers that the gate had in higher precision, of one of our exports."""
    report = path.parent / PARITY_NAME
    if not report.is_file():
        return {}
    mixed = cast(Any, read_json(report))["conversion"].get("mixed", {})
    return {"kept": mixed.get("kept", []), "judged_on_test": mixed.get("judged_on_test", 1)}


def _logits(work: Work, row: Row, path: Path) -> LogitsByView:
    run = open_runner(row.target, path)
    return {
        view: np.concatenate(
            [np.asarray(run(example)) for example in single_examples(_inputs(work, view.value))]
        )
        for view in View
    }


def _inputs(work: Work, part: str) -> ModelInputs:
    with np.load(work.folder / DATA_NAME, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if name.startswith(f"{part}/")]
        return {name.partition("/")[2]: arrays[name] for name in names}


def _not_finite(logits: LogitsByView) -> str | None:
    wrong = {view: int((~np.isfinite(values)).any(axis=1).sum()) for view, values in logits.items()}
    if not any(wrong.values()):
        return None
    counts = ", ".join(f"{count} ({view})" for view, count in wrong.items())
    return f"gives NaN or infinite logits for {counts} of {len(logits[View.TEXT])} examples"


def reason(error: BaseException) -> str:
    """Return the first line of an error, shortened, behind its type."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if isinstance(error, MsdError) else f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a package."""
    files = [path] if path.is_file() else files_below(path)
    return sum(file.stat().st_size for file in files)


def time_rows(work: Work, target: Target, rounds: int) -> None:
    """Time all files of a target that run, image and text, in interleaved rounds."""
    from msd_export.predictors import open_predictor

    rows = [
        row
        for row in rows_of([target])
        if read_json(result_path(work.folder, row))["error"] is None
    ]
    inputs = _inputs(work, View.MULTIMODAL.value)
    count = len(inputs["image"])
    chosen = np.linspace(0, count - 1, min(_TIMED_EXAMPLES, count)).astype(np.int64)
    examples = list(single_examples({name: value[chosen] for name, value in inputs.items()}))
    calls = []
    for row in rows:
        predictor = open_predictor(target, work.path(row), threads=1)
        calls.append([predictor.prepare(example) for example in examples])
    medians: list[list[float]] = [[] for _ in rows]
    least: list[list[float]] = [[] for _ in rows]
    control = []
    for order in interleaved(len(rows), rounds):
        control.append(float(np.median(time_control_kernel())))
        for index in order:
            each = calls[index]
            samples = time_calls(lambda number, each=each: each[number % len(each)](), _PLAN)
            medians[index].append(round(float(np.median(samples)), 4))
            least[index].append(round(min(samples), 4))
    names = [row.name for row in rows]
    host = describe_host()
    write_json(
        latency_path(work.folder, target),
        {
            "rounds": rounds,
            "p50_ms": dict(zip(names, medians, strict=True)),
            # Of a busy machine, whose medians have the turns of other processes in them.
            "least_ms": {name: min(values) for name, values in zip(names, least, strict=True)},
            "host_drift": host_drift(control),
            "load_average_1min": host["load_average_1min"],
            "measured_utc": utc_now(),
        },
    )


def measured_targets(targets: Sequence[Target]) -> list[Target]:
    """Return the targets whose runtime here is a phone's, so that latency means something."""
    return [target for target in targets if target != "coreml"]


def run_steps(work: Work, targets: Sequence[Target], rounds: int) -> None:
    """Do what is missing, each step in a process of its own.

    Raises:
        ArtifactError: The folder belongs to another comparison.
        ExportError: A step other than a row failed.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    _refuse_another(work)
    if not (work.folder / FACTS_NAME).is_file():
        _step(work, "prepare", rounds)
    for target in targets:
        if not (work.folder / f"exported-{target}.json").is_file():
            _step(work, f"export:{target}", rounds)
        for row in rows_of([target]):
            if not result_path(work.folder, row).is_file():
                _step(work, f"row:{row.name}", rounds)
    for target in measured_targets(targets):
        if not latency_path(work.folder, target).is_file():
            _step(work, f"latency:{target}", rounds)


def _refuse_another(work: Work) -> None:
    path = work.folder / FACTS_NAME
    if not path.is_file():
        return
    facts = read_json(path)
    own = {"weights": _digest(work), "data": work.data, "examples": work.examples}
    if other := [name for name, value in own.items() if facts[name] != value]:
        raise ArtifactError(
            f"holds a comparison with other {', '.join(other)}",
            where=work.folder,
            fix="Name another --work, or remove it",
        )


def _step(work: Work, step: str, rounds: int) -> None:
    _say(step)
    command = [sys.executable, "-m", "benchmarks.against_defaults", *work.arguments()]
    log = work.folder / "logs" / f"{step.replace(':', '-')}.txt"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, "--rounds", str(rounds), "--step", step],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    if -done.returncode in _CRASHES and step.startswith("row:"):
        ended = f"the process was ended by {signal.Signals(-done.returncode).name}"
        write_json(work.folder / "rows" / f"{step[4:]}.json", {"error": ended})
    elif done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ExportError(f"{step} failed ({lines[-1] if lines else 'no output'})", where=log)


def do_step(work: Work, step: str, rounds: int) -> None:
    """Do one step; see `run_steps`."""
    kind, _, name = step.partition(":")
    if kind == "prepare":
        prepare(work)
    elif kind == "export":
        export_ours(work, cast(Target, name))
    elif kind == "latency":
        time_rows(work, cast(Target, name), rounds)
    else:
        make_row(work, next(row for row in rows_of(list(RECIPES)) if row.name == name))


def _say(sentence: str) -> None:
    sys.stderr.write(f"> {sentence}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print both tables, and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", help="data set of a model folder")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--examples", type=int, help="test examples (default: all)")
    parser.add_argument("--rounds", type=int, default=10, help="of timing (default: 10)")
    parser.add_argument("--targets", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    work = Work(options.model, options.data, options.work, options.examples)
    if work.is_run == (work.data is not None):
        raise ConfigError("a run has its data, and a model folder needs --data", where="--data")
    if options.step is not None:
        do_step(work, options.step, options.rounds)
        return
    run_steps(work, options.targets, options.rounds)
    result = compare(work.folder, options.targets)
    sys.stdout.write(shown(result) + "\n")
    if options.out is not None:
        command = shlex.join(
            ["python", "benchmarks/against_defaults.py", *(arguments or sys.argv[1:])]
        )
        stated = {"command": command, "created_utc": utc_now(), "host": describe_host()}
        write_json(options.out, {**stated, "versions": _versions(options.targets), **result})


def _versions(targets: Sequence[Target]) -> dict[str, str]:
    from importlib.metadata import version

    named = {
        "onnx": ["onnxruntime", "onnx"],
        "coreml": ["coremltools"],
        "litert": ["ai-edge-quantizer", "ai-edge-litert", "litert-torch"],
        "executorch": ["executorch", "torchao"],
    }
    names = ["torch", *(name for target in targets for name in named[target])]
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main()
