"""What the benchmark's tests share: a finished run without training, and an invented benchmark."""

import copy
import shutil
from pathlib import Path

import pytest
import torch

from msd_deploy.artifacts.manifest import sha256_of_json, write_json, write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.confidence import ConfidenceJson
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import DataConfig, RunConfig
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.teacher_cache import cache_predictions
from msd_deploy.models.folders import LABELS_NAME, load_model, save_model
from msd_deploy.models.sizes import build_student
from msd_deploy.models.teachers import load_teacher
from msd_export.config import ExportConfig
from msd_export.folder import KIND
from msd_export.formats import FORMATS
from msd_export.graph import ExportGraph, signature_of
from msd_export.onnx.export import export_onnx
from msd_export.pipeline import export_student
from msd_mobile_bench.schema import Bench, Distribution, ModelRole, Row


@pytest.fixture(scope="session")
def untrained_run(
    tmp_path_factory: pytest.TempPathFactory, memes: tuple[PreparedData, Preprocessor]
) -> RunDirectory:
    """A run of two seeded tiny models that learned nothing, the student exported to ONNX.

    Read it, never write into it.
    """
    data, preprocessor = memes
    run = RunDirectory(tmp_path_factory.mktemp("bench") / "untrained")
    config = RunConfig(data=DataConfig(spec="synthetic:memes", examples=120))
    run.root.mkdir()
    stated = {"config": config_as_json(config), "dataset_digest": data.digest}
    write_json(run.run_json, {"schema_version": 1, **stated})
    for seed, folder in enumerate((run.teacher, run.student)):
        torch.manual_seed(seed)
        _save_untrained(folder, data, preprocessor)
    teacher = load_teacher(run.teacher, labels=data.info.labels, problem=data.info.problem)
    cache_predictions(teacher, data, run.teacher_predictions)
    export_by_hand(run.student, run.exports / "onnx-fp32")
    write_json(run.metrics, {"schema_version": 1})
    return run


def _save_untrained(folder: Path, data: PreparedData, preprocessor: Preprocessor) -> None:
    model = build_student(RunConfig().student, data, preprocessor).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    save_model(
        folder,
        model,
        preprocessor,
        labels=data.info.labels,
        problem=data.info.problem,
        facts={"parameters": parameters},
    )


def export_by_hand(source: Path, folder: Path) -> None:
    """Export a model folder to ONNX as `msd export` does, without its verification."""
    loaded = load_model(source)
    folder.mkdir(parents=True)
    graph = ExportGraph(loaded.model, problem=loaded.problem, image_layout="nhwc")
    export_onnx(graph, signature_of(loaded), {}, folder / FORMATS["onnx"].model_file)
    (folder / LABELS_NAME).write_bytes((source / LABELS_NAME).read_bytes())
    facts = {"target": "onnx", "precision": "fp32", "source_digest": loaded.digest}
    write_manifest(folder, KIND, facts)


@pytest.fixture(scope="session")
def complete_run(
    untrained_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """The untrained run with a Core ML export of the student and an ONNX one of the teacher."""
    run = RunDirectory(tmp_path_factory.mktemp("complete") / "untrained")
    shutil.copytree(untrained_run.root, run.root)
    config = ExportConfig((("coreml", "fp16"),), max_drop_points=100, examples=40)
    export_student(run, config)
    export_by_hand(run.teacher, run.teacher_exports / "onnx-fp32")
    return run


def example_row(
    role: ModelRole, target: str, precision: str, *, p50: float | None, value: float
) -> Row:
    """An invented row."""
    latency: Distribution | None = None
    if p50 is not None:
        latency = {
            "p50": p50,
            "p50_interval": [p50 * 0.98, p50 * 1.02],
            "p90": p50 * 1.1,
            "p95": p50 * 1.2,
            "p99": p50 * 1.5,
            "min": p50 * 0.9,
            "max": p50 * 2,
            "mean": p50,
            "std": p50 * 0.1,
            "p50_per_round": [p50, p50],
            "samples": [[p50], [p50]],
        }
    views = ("multimodal", "image", "text")
    interval = [value - 0.01, value + 0.01]
    is_timed = p50 is not None
    return {
        "key": f"{role}-{target}-{precision}@{_RUNTIME_KEYS[target]}-1",
        "name": f"{role}-{target}-{precision}",
        "model": role,
        "target": target,
        "precision": precision,
        "runtime": "ONNX Runtime" if target == "onnx" else "MIL evaluator",
        "runtime_key": _RUNTIME_KEYS[target],
        "threads": 1,
        "status": "measured" if is_timed else "accuracy_only",
        "path": f"exports/{target}-{precision}",
        "digest": sha256_of_json([role, target, precision]),
        "size_bytes": 240_000 if role == "student" else 2_600_000,
        "size_compressed_bytes": 210_000 if role == "student" else 2_300_000,
        "parameters": 53_502 if role == "student" else 641_570,
        "load_time_ms": 30.0 if is_timed else None,
        "first_ms": 2.0 if is_timed else None,
        "latency_ms": latency,
        "single_view_latency_ms": (
            {"image": latency, "text": {**latency, "p50": latency["p50"] / 4}} if latency else {}
        ),
        "relative_p50": p50 and p50 / 0.2,
        "repeated_turns": 0,
        "flags": [],
        "throughput_per_second": 2648.0 if is_timed else None,
        "throughput_batch_size": 32 if is_timed else None,
        "throughput_batch_ms": [12.0] if is_timed else [],
        "rss_before_load_bytes": 50_000_000 if is_timed else None,
        "peak_rss_bytes": 72_000_000 if is_timed else None,
        "peak_rss_increase_bytes": 22_000_000 if is_timed else None,
        "scores": {
            view: {"value": value, "interval": list(interval), "examples": 2000} for view in views
        },
        "agreement": dict.fromkeys(views, 0.98),
        "confidence": dict.fromkeys(views, _CONFIDENCE),
        "decisions": {},
        "note": None if is_timed else "latency needs a Mac or an iPhone",
    }


_RUNTIME_KEYS = {"onnx": "onnxruntime", "coreml": "milevaluator"}
_CONFIDENCE: ConfidenceJson = {
    "ece": {"value": 0.021, "interval": [0.015, 0.034]},
    "ece_by_chance": 0.018,
    "brier": {"value": 0.11, "interval": [0.1, 0.12]},
    "confidence": 0.93,
    "outcome": 0.94,
    "reliability": [{"decisions": 2000, "confidence": 0.93, "outcome": 0.94}],
}
_EXAMPLE: Bench = {
    "schema_version": 2,
    "kind": "bench",
    "msd_deploy": "0.1.0",
    "created_utc": "2026-01-02T03:04:05+00:00",
    "run": "memes",
    "command": "msd bench runs/memes",
    "config": {
        "threads": 1,
        "rounds": 2,
        "warm_up": 10,
        "warm_up_seconds": 0.25,
        "settle_seconds": 2.0,
        "runs": 200,
        "seconds": 3.0,
        "most_seconds": 30.0,
        "batch_size": 32,
        "batches": 8,
        "examples": None,
    },
    "data": {"name": "synthetic:memes", "split": "test", "examples": 2000, "digest": "0" * 64},
    "metric": "accuracy",
    "host": {
        "cpu": "An invented CPU",
        "instructions": ["avx2"],
        "logical_cores": 2,
        "physical_cores": 2,
        "memory_bytes": 8_000_000_000,
        "os": "An invented system",
        "python": "3.11.0",
        "versions": {"numpy": "2.3.5"},
        "load_average_1min": 0.1,
    },
    "operating_points": {},
    "control": {
        "kernel": "a product",
        "p50_ms_per_round": [0.2, 0.21],
        "host_drift": 1.05,
        "repeated_turns": 0,
    },
    "rows": [
        example_row("teacher", "onnx", "fp32", p50=1.45, value=0.962),
        example_row("student", "onnx", "fp32", p50=0.27, value=0.941),
        example_row("student", "onnx", "int8", p50=0.25, value=0.9385),
        example_row("student", "coreml", "fp16", p50=None, value=0.9412),
    ],
    "apps": [],
    "ratios": {
        "form": "onnx-fp32",
        "parameters": 0.083,
        "size": 0.0923,
        "latency": 0.186,
        "metric": 0.978,
    },
    "against": None,
    "notes": ["A note."],
}


@pytest.fixture
def example_bench() -> Bench:
    """An invented benchmark of four forms, one of them without latency; change it as you like."""
    return copy.deepcopy(_EXAMPLE)
