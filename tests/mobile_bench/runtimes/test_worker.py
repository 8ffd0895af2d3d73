import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError, MsdError
from msd_deploy.models.folders import load_model
from msd_deploy.views import View
from msd_export.converters import converter_for
from msd_export.formats import FORMATS
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.predictors import TorchPredictor
from msd_export.source import ExportSource
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.quality import predict_setups
from msd_mobile_bench.runtimes.process import (
    ModelWorker,
    RemotePredictor,
    WorkerError,
    WorkerProcess,
    control_worker,
)
from msd_mobile_bench.runtimes.setup import Setup, python_runtimes, worker_environment
from msd_mobile_bench.runtimes.worker import save_arrays
from msd_mobile_bench.timing import ControlError, Timing, count_turns, measure_timing
from msd_mobile_bench.variants import Variant, find_variants

_CONFIG = BenchConfig(
    rounds=2,
    warm_up=1,
    warm_up_seconds=0,
    settle_seconds=0,
    runs=12,
    seconds=0,
    batches=2,
    batch_size=3,
)
_NATIVE = {runtime.key: runtime for runtime in python_runtimes()}


@pytest.fixture(scope="session")
def forms(untrained_run: RunDirectory) -> dict[str, Variant]:
    return {form.name: form for form in find_variants(untrained_run)}


@pytest.fixture(scope="session")
def examples(
    memes: tuple[PreparedData, Preprocessor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for view in View:
        save_arrays(folder / view.value, memes[0].splits["test"].inputs(np.arange(4), view))
    return folder


@pytest.fixture
def onnx_worker(forms: dict[str, Variant], examples: Path, tmp_path: Path) -> Iterator[ModelWorker]:
    setup = Setup(forms["student-onnx-fp32"], _NATIVE["onnxruntime"])
    with ModelWorker(setup, examples=examples, scratch=tmp_path) as worker:
        yield worker


@pytest.fixture
def control(tmp_path: Path) -> Iterator[WorkerProcess]:
    with control_worker(scratch=tmp_path, timeout=60) as worker:
        yield worker


def test_a_worker_is_opened_and_sampled_in_rounds(
    onnx_worker: ModelWorker, control: WorkerProcess
) -> None:
    turns: list[None] = []
    (timing,) = measure_timing([onnx_worker], control, _CONFIG, on_turn=lambda: turns.append(None))
    assert isinstance(timing, Timing)
    rounds = timing.latency
    assert {view: list(map(len, rounds[view])) for view in View} == {key: [6, 6] for key in View}
    assert len(timing.control) == 2
    assert len(timing.batches) == 2
    assert (
        min(map(min, [*itertools.chain(*rounds.values()), *itertools.chain(*timing.control)])) > 0
    )
    assert timing.load_time_ms > 0
    assert timing.first_ms > 0
    assert timing.rss_before_load_bytes is not None
    assert timing.peak_rss_bytes is not None
    assert timing.peak_rss_bytes >= timing.rss_before_load_bytes > 1_000_000
    assert len(turns) == count_turns(1, _CONFIG)


@pytest.mark.parametrize("view", list(View))
def test_a_worker_gives_the_logits_that_the_model_gives_here(
    onnx_worker: ModelWorker, memes: tuple[PreparedData, Preprocessor], view: View
) -> None:
    inputs = memes[0].splits["test"].inputs(np.arange(5), view)
    onnx_worker.open()
    expected = OnnxPredictor(onnx_worker.setup.variant.model_path).predict(inputs)
    assert np.array_equal(RemotePredictor(onnx_worker).predict(inputs), expected)


def test_a_worker_runs_a_model_folder(
    forms: dict[str, Variant],
    examples: Path,
    memes: tuple[PreparedData, Preprocessor],
    tmp_path: Path,
) -> None:
    form = forms["teacher-torch-fp32"]
    inputs = memes[0].splits["test"].inputs(np.arange(5))
    setup = Setup(form, _NATIVE["torch"])
    with ModelWorker(setup, examples=examples, scratch=tmp_path) as worker:
        worker.ensure_open()
        answer = RemotePredictor(worker).predict(inputs)
    expected = TorchPredictor(form.folder).predict(inputs)
    assert np.allclose(answer, expected, atol=1e-5)  # other processes may sum in another order


def test_a_worker_brings_no_torch_and_no_datasets_by_itself() -> None:
    script = (
        "import sys, msd_mobile_bench.runtimes.worker;"
        "heavy = {'torch', 'transformers', 'datasets', 'onnx', 'coremltools', 'onnxruntime'};"
        "heavy |= {'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = worker_environment(1)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


_OPEN_AND_LIST_MODULES = """
import json, sys
from msd_mobile_bench.runtimes import worker

loaded = []

def rss_bytes():  # read just before the clock starts
    loaded.append(set(sys.modules))
    return 0

worker.rss_bytes = rss_bytes
session = worker.Session(**json.loads(sys.argv[1]))
print(json.dumps([sorted(sys.modules), sorted(sys.modules.keys() - loaded[0])]))
"""
_WATCHED = frozenset({"transformers", "datasets", "accelerate", "pyarrow", "torch"})
_ALLOWED: dict[str, frozenset[str]] = {
    "onnx": frozenset(),
    "ort": frozenset(),
    # coremltools imports all that it converts from, and scikit-learn, which imports pandas.
    "coreml": frozenset({"transformers", "pyarrow", "torch"}),
    "executorch": frozenset({"torch"}),
    "litert": frozenset(),
    "coreai": frozenset(),
    # The model's class is one of transformers', which imports accelerate.
    "torch": _WATCHED,
}


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=[] if target in ("torch", "onnx") else pytest.mark.slow)
        for target in ("torch", *FORMATS)
    ],
)
def test_a_worker_loads_its_runtime_alone_and_before_the_clock_starts(
    target: str,
    untrained_run: RunDirectory,
    memes: tuple[PreparedData, Preprocessor],
    examples: Path,
    tmp_path: Path,
) -> None:
    path = untrained_run.student
    if target != "torch":
        if not all(map(importlib.util.find_spec, FORMATS[target].modules)):
            pytest.skip(f"{target} is not installed")
        source = ExportSource(load_model(path), memes[0], "untrained", tmp_path)
        path = tmp_path / FORMATS[target].model_file
        converter_for(target, source).convert("fp32", path)
    opened = {"target": target, "path": str(path), "threads": 1}
    command = [sys.executable, "-P", "-c", _OPEN_AND_LIST_MODULES]
    done = subprocess.run(
        [*command, json.dumps({**opened, "examples": str(examples)})],
        env=worker_environment(1),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, within_the_clock = json.loads(done.stdout.splitlines()[-1])
    assert set(loaded) & _WATCHED <= _ALLOWED[target]
    assert within_the_clock == []


def test_threads_are_set_before_anything_is_imported() -> None:
    environment = worker_environment(3)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "3"


def test_a_model_that_the_runtime_refuses_is_an_error_of_its_kind(
    onnx_worker: ModelWorker, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.onnx").write_bytes(b"no model")
    variant = replace(onnx_worker.setup.variant, folder=tmp_path / "broken")
    onnx_worker.setup = replace(onnx_worker.setup, variant=variant)
    with pytest.raises(ArtifactError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        onnx_worker.open()


def process_of(worker: ModelWorker) -> "subprocess.Popen[str]":
    process = worker._process._process
    assert process is not None
    return process


def test_a_worker_that_was_killed_is_named_with_its_model(onnx_worker: ModelWorker) -> None:
    onnx_worker.open()
    os.kill(process_of(onnx_worker).pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"onnx-fp32: .*during 'memory' .*killed by signal 9"):
        onnx_worker.request("memory")


def test_a_worker_that_does_not_answer_is_ended(
    forms: dict[str, Variant], examples: Path, tmp_path: Path
) -> None:
    setup = Setup(forms["student-onnx-fp32"], _NATIVE["onnxruntime"])
    with ModelWorker(setup, examples=examples, scratch=tmp_path, timeout=20) as worker:
        worker.open()
        os.kill(process_of(worker).pid, signal.SIGSTOP)
        worker._process._timeout = 0.2
        with pytest.raises(WorkerError, match=r"did not answer 'memory' within 0\.2 s") as caught:
            worker.request("memory")
        assert caught.value.has_timed_out
        assert process_of(worker).wait() == -signal.SIGKILL


def test_one_that_fails_does_not_end_the_others(
    forms: dict[str, Variant], examples: Path, control: WorkerProcess, tmp_path: Path
) -> None:
    good = Setup(forms["student-onnx-fp32"], _NATIVE["onnxruntime"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.onnx").write_bytes(b"no model")
    bad = replace(good, variant=replace(good.variant, folder=tmp_path / "broken"))
    with (
        ModelWorker(bad, examples=examples, scratch=tmp_path) as first,
        ModelWorker(good, examples=examples, scratch=tmp_path) as second,
    ):
        failed, timing = measure_timing([first, second], control, _CONFIG)
    assert isinstance(failed, ArtifactError)
    assert isinstance(timing, Timing)
    assert len(timing.latency[View.TEXT]) == 2


def test_a_turn_in_which_the_machine_was_slow_is_measured_again(
    onnx_worker: ModelWorker, control: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Around the only turn, then around the two in its place.
    times = iter([[1.0], [2.0], [1.0], [1.2], [1.0], [1.05]])
    monkeypatch.setattr(control, "request", lambda task: {"control_ms": next(times)})
    config = replace(_CONFIG, rounds=1)
    (timing,) = measure_timing([onnx_worker], control, config)
    assert isinstance(timing, Timing)
    assert timing.control == [[[1.0], [1.05]]]
    assert timing.repeats == 2
    assert timing.unsteady_turns == 0
    assert {view: len(rounds) for view, rounds in timing.latency.items()} == dict.fromkeys(View, 1)


def test_an_answer_that_is_not_json_is_an_error_of_the_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.readline(); print('hello', flush=True)"]
    with WorkerProcess(
        command, dict(os.environ), name="odd", where="x", scratch=tmp_path, timeout=60
    ) as worker:
        worker.start()
        with pytest.raises(WorkerError, match=r"x: answered 'open' with 'hello.*not JSON"):
            worker.request("open")


def test_a_control_kernel_that_ends_is_not_blamed_on_a_model(
    onnx_worker: ModelWorker, control: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(task: str) -> None:
        raise WorkerError("its worker process died", where="control kernel")

    monkeypatch.setattr(control, "request", end)
    with pytest.raises(ControlError, match="control kernel: its worker process died"):
        measure_timing([onnx_worker], control, _CONFIG)


def test_a_traceback_of_a_worker_is_reported_by_its_last_line(onnx_worker: ModelWorker) -> None:
    onnx_worker.open()
    with pytest.raises(MsdError, match=r"exit code 1\): KeyError: 'dance'"):
        onnx_worker.request("dance")


def test_a_stop_while_variants_predict_ends_their_processes(
    onnx_worker: ModelWorker, memes: tuple[PreparedData, Preprocessor]
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_setups([onnx_worker], [memes[0].splits["test"].head(8)], on_done=stop)
    assert process_of(onnx_worker).wait(timeout=60) != 0
    with pytest.raises(MsdError, match="was stopped"):
        onnx_worker.request("memory")
