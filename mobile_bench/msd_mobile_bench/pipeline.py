"""Benchmark a run: write reports/bench.json, bench.md and bench.html."""

import itertools
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np

from msd_deploy import __version__
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import Json, read_versioned_json, utc_now
from msd_deploy.artifacts.output import check_writable
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.describe import shown_path
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.setting import declarations
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import name_of_spec
from msd_deploy.distillation.teacher_cache import TeacherPredictions, read_predictions
from msd_deploy.errors import ArtifactError, ConfigError, MsdError
from msd_deploy.hooks import StageHooks
from msd_deploy.metrics import LogitsByView, metric_name
from msd_deploy.models.folders import read_labels, read_operating_point
from msd_deploy.operating_point import OperatingPoint
from msd_deploy.run.operating_points import teacher_point_of
from msd_deploy.run.record import (
    RunRecord,
    prepare_for_run,
    read_finished_run,
    source_of_run,
)
from msd_deploy.views import View
from msd_export.pipeline import export_teacher_reference
from msd_mobile_bench.baselines.architectures import (
    TIMED_EXAMPLES,
    Baseline,
    baseline_named,
    timed_inputs,
)
from msd_mobile_bench.baselines.exports import BuiltBaseline, build_baseline
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.footprint import compressed_bytes
from msd_mobile_bench.host import describe_host
from msd_mobile_bench.import_apps import apps_of_before
from msd_mobile_bench.make_rows import make_row, ratios_of, write_notes
from msd_mobile_bench.quality import SPLIT, Quality, evaluate, predict_setups
from msd_mobile_bench.regression import Comparison, compare
from msd_mobile_bench.report import write_reports
from msd_mobile_bench.runtimes.process import ModelWorker, control_worker
from msd_mobile_bench.runtimes.setup import Runtime, Setup, requested_runtimes, setups_of
from msd_mobile_bench.runtimes.worker import save_arrays
from msd_mobile_bench.schema import BENCH_SCHEMA_VERSION, Bench, DataFacts, ModelRole, Row
from msd_mobile_bench.timing import Timing, count_turns, measure_timing, summarize_control
from msd_mobile_bench.variants import (
    TORCH,
    Variant,
    baseline_variant,
    exported_variant,
    find_variants,
)


def run_bench(
    run: RunDirectory,
    config: BenchConfig | None = None,
    hooks: StageHooks | None = None,
    *,
    export_teacher: bool = False,
    against: Comparison | None = None,
) -> Json:
    """Measure a run's teacher and student in every variant and runtime, and write the reports.

    Files are verified first, and nothing is written before everything is measured; earlier reports
    are then replaced. A runtime that is missing, crashes, hangs or returns NaN has a row that says
    so; the others are measured.

    Args:
        run: A finished run; its exports, and its teacher's ONNX export where there is one, count.
        config: How.
        hooks: Progress.
        export_teacher: Export the teacher to float32 ONNX first, unless that was done.
        against: An earlier benchmark to compare with.

    Returns:
        The content of bench.json; see `msd_mobile_bench.schema.Bench`.

    Raises:
        ArtifactError: The run is unfinished or in use, or a model's file is missing or altered.
        DataError: The data set has changed since the run.
        ConfigError: A runtime is unknown, or the earlier benchmark was made on another machine.
        MsdError: A model cannot be run in PyTorch, which all others are compared with.
    """
    config, hooks = config or BenchConfig(), hooks or StageHooks()
    runtimes = requested_runtimes(config.runtimes, config.threads)
    baselines = _requested_baselines(config, runtimes)
    with claimed(run.root):
        record, host = read_finished_run(run), describe_host()
        earlier = None if against is None else against.read(host)
        check_writable(run.reports, fix="Copy the run to a folder that can be written")
        hooks.on_stage("Verifying the models' files")
        variants = find_variants(run, replace_reference=export_teacher, on_note=hooks.on_note)
        hooks.on_stage("Reading the test split")
        data = _data_by_model(record, hooks)
        teacher, second = variants[0], variants[1]
        if export_teacher and second.model != "teacher":
            export = export_teacher_reference(run, data["teacher"], teacher.manifest, hooks=hooks)
            if export is not None:
                variants.insert(1, exported_variant("teacher", export, teacher.manifest))
        built = _built(baselines, len(data["student"].info.labels), hooks)
        with (
            # A browser may still be writing its profile when it is removed.
            tempfile.TemporaryDirectory(prefix="msd-bench-", ignore_cleanup_errors=True) as scratch,
            ExitStack() as stack,
        ):
            setups = setups_of([*variants, *map(baseline_variant, built)], runtimes)
            setups = [each for each in setups if each.is_timed or not each.variant.baseline]
            workers = _prepare_workers(setups, data, config, Path(scratch), stack)
            timings = _time(workers, config, hooks, Path(scratch))
            points = _operating_points(run, data["student"])
            qualities = _evaluate(workers, timings, data, run, config, hooks, points)
        timed = {key: each for key, each in timings.items() if isinstance(each, Timing)}
        compressed = cache(compressed_bytes)
        rows = [
            make_row(
                run,
                setup,
                timed.get(setup.key),
                quality,
                config,
                size_compressed_bytes=compressed(setup.variant.weights_path),
            )
            for setup, quality in zip(setups, qualities, strict=True)
        ]
        control = summarize_control(list(timed.values()))
        prepared = data["student"]
        bench: Bench = {
            "schema_version": BENCH_SCHEMA_VERSION,
            "kind": "bench",
            "msd_deploy": __version__,
            "created_utc": utc_now(),
            "run": run.root.resolve().name,
            "command": command_line(run, config),
            "config": config_as_json(config),
            "data": _data_facts(record, prepared, rows),
            "metric": _metric_of(prepared),
            "host": host,
            "control": control,
            "operating_points": {
                model: {"rule": point.rule, "expected": point.expected_by_name()}
                for model, point in points.items()
            },
            "rows": rows,
            "apps": apps_of_before(run, variants, hooks),
            "ratios": ratios_of(rows),
            "against": None,
            "notes": write_notes(rows, control, host, config),
        }
        if earlier is not None and against is not None:
            bench["against"] = compare(earlier, bench, against.limits)
        write_reports(run.reports, bench)
        return cast(Json, bench)


def _requested_baselines(
    config: BenchConfig, runtimes: Sequence[tuple[Runtime, int]]
) -> list[Baseline]:
    """Return the baselines to measure, each once.

    Raises:
        ConfigError: One is unknown, or no runtime measures them.
    """
    baselines = [baseline_named(name) for name in dict.fromkeys(config.baselines)]
    timed = [each for each, _ in runtimes if each.runs("onnx") and "latency" in each.measures]
    if baselines and not timed:
        raise ConfigError(
            "are files for ONNX Runtime, and no runtime that times these is requested",
            where="baselines",
            fix="Add onnxruntime to --runtimes",
        )
    return baselines


def _built(baselines: Sequence[Baseline], classes: int, hooks: StageHooks) -> list[BuiltBaseline]:
    """Return the baselines that can be built; a note names the others."""
    built = []
    for baseline in baselines:
        try:
            built.append(build_baseline(baseline, classes=classes, hooks=hooks))
        except MsdError as error:
            hooks.on_note(f"{baseline.name} is not measured: {error}")
    return built


def command_line(run: RunDirectory, config: BenchConfig) -> str:
    """Return the command that repeats a benchmark: every setting is an option of `msd bench`.

    The run's path is written as in every report; see `shown_path`.
    """
    options = {item.key: item.option.name for item in declarations(config) if item.option}
    words = ["msd", "bench", shown_path(run.root)]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += [options[field.name], text]
    return shlex.join(words)


def _data_by_model(record: RunRecord, hooks: StageHooks) -> dict[ModelRole, PreparedData]:
    """Read the data once, and prepare it as each model saw it; once if both saw the same."""
    run, source = record.run, source_of_run(record)
    student, teacher = Preprocessor.load(run.student), Preprocessor.load(run.distilled_teacher)
    data = prepare_for_run(record, source, student, on_count=hooks.on_count)
    if teacher.digest() == student.digest():
        return {"teacher": data, "student": data}
    other = prepare_for_run(record, source, teacher, on_count=hooks.on_count)
    return {"teacher": other, "student": data}


def _metric_of(data: PreparedData) -> str:
    """Return the metric's name; without labels the score is the agreement with the teacher."""
    return metric_name(data.info.problem) if data.splits[SPLIT].has_label().any() else "agreement"


def _data_facts(record: RunRecord, data: PreparedData, rows: Sequence[Row]) -> DataFacts:
    return {
        "name": name_of_spec(record.config.data.spec),
        "split": SPLIT,
        "examples": rows[0]["scores"][View.MULTIMODAL]["examples"],
        "digest": data.digest,
    }


def _prepare_workers(
    setups: Sequence[Setup],
    data: Mapping[ModelRole, PreparedData],
    config: BenchConfig,
    scratch: Path,
    stack: ExitStack,
) -> list[ModelWorker]:
    """Write the inputs that are timed, spread over the test split; return workers not yet begun."""
    examples: dict[str, Path] = {who: scratch / f"examples-{who}" for who in data}
    for name in {setup.variant.baseline for setup in setups} - {""}:
        examples[name] = scratch / f"examples-{name}"
        for view in View:
            inputs = timed_inputs(baseline_named(name), view)
            save_arrays(examples[name] / view.value, inputs)
    for who, prepared in data.items():
        split = prepared.splits[SPLIT]
        rows = np.linspace(0, len(split) - 1, min(TIMED_EXAMPLES, len(split))).astype(np.int64)
        for view in View:
            save_arrays(examples[who] / view.value, split.inputs(rows, view))
    workers = [
        ModelWorker(
            setup,
            examples=examples[setup.variant.baseline or setup.variant.model],
            scratch=scratch,
            timeout=config.timeout,
        )
        for setup in setups
    ]
    return [stack.enter_context(worker) for worker in workers]


def _time(
    workers: Sequence[ModelWorker], config: BenchConfig, hooks: StageHooks, scratch: Path
) -> dict[str, Timing | MsdError]:
    """Return the timing of every setup whose runtime is timed, or why it has none, by its key."""
    timed = [worker for worker in workers if worker.setup.is_timed]
    hooks.on_stage(f"Timing {len(timed)} setups, each in its own process, {config.rounds} rounds")
    total = count_turns(len(timed), config)
    turns = itertools.count(1)
    with control_worker(scratch=scratch, timeout=config.timeout) as control:
        timings = measure_timing(
            timed,
            control,
            config,
            on_turn=lambda: hooks.on_count("measurements", next(turns), total),
        )
    by_key = {worker.setup.key: each for worker, each in zip(timed, timings, strict=True)}
    for worker in timed:
        failure = by_key[worker.setup.key]
        if isinstance(failure, MsdError) and worker.setup.variant.target == TORCH:
            raise failure
    return by_key


def _operating_points(run: RunDirectory, data: PreparedData) -> dict[ModelRole, OperatingPoint]:
    """Return the operating points of teacher and student, in the data's order of classes."""
    labels, _ = read_labels(run.student)
    student = read_operating_point(run.student)
    points: dict[ModelRole, OperatingPoint | None] = {
        "teacher": teacher_point_of(read_versioned_json(run.metrics), data.info),
        "student": student and student.in_order([labels.index(each) for each in data.info.labels]),
    }
    return {model: point for model, point in points.items() if point is not None}


def _evaluate(
    workers: Sequence[ModelWorker],
    timings: Mapping[str, Timing | MsdError],
    data: Mapping[ModelRole, PreparedData],
    run: RunDirectory,
    config: BenchConfig,
    hooks: StageHooks,
    points: Mapping[ModelRole, OperatingPoint],
) -> list[Quality | MsdError | None]:
    """Return the quality of each setup on the configured examples, or why there is none.

    None of a baseline, whose weights are random.
    """
    splits = {
        who: prepared.splits[SPLIT].head(config.examples or len(prepared.splits[SPLIT]))
        for who, prepared in data.items()
    }
    hooks.on_stage(
        f"Predicting {len(splits['student']):,} test examples with every variant and view"
    )
    failures = {key: each for key, each in timings.items() if isinstance(each, MsdError)}
    trained = [worker for worker in workers if not worker.setup.variant.baseline]
    running = [worker for worker in trained if worker.setup.key not in failures]
    logits = predict_setups(
        running,
        [splits[_role_of(worker)] for worker in running],
        on_done=lambda done, total: hooks.on_count("variants and views", done, total),
    )
    predicted = {worker.setup.key: each for worker, each in zip(running, logits, strict=True)}
    predictions = read_predictions(run.teacher_predictions)
    qualities: list[Quality | MsdError | None] = []
    for worker in workers:
        variant = worker.setup.variant
        if variant.baseline:
            qualities.append(failures.get(worker.setup.key))
            continue
        quality = _quality(
            variant,
            failures.get(worker.setup.key) or predicted[worker.setup.key],
            data["student"],
            predictions,
            points.get(_role_of(worker)),
        )
        if isinstance(quality, MsdError) and variant.target == TORCH:
            raise quality
        qualities.append(quality)
    return qualities


def _role_of(worker: ModelWorker) -> ModelRole:
    return "teacher" if worker.setup.variant.model == "teacher" else "student"


def _quality(
    variant: Variant,
    logits: LogitsByView | MsdError,
    data: PreparedData,
    predictions: TeacherPredictions,
    point: OperatingPoint | None,
) -> Quality | MsdError:
    if isinstance(logits, MsdError):
        return logits
    try:
        return evaluate(variant, logits, data, predictions, point)
    except ArtifactError as error:
        return error
