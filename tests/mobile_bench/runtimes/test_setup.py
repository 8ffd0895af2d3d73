from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ConfigError, RuntimeUnavailableError
from msd_mobile_bench.runtimes.process import ModelWorker
from msd_mobile_bench.runtimes.setup import (
    PythonRuntime,
    Setup,
    python_runtimes,
    requested_runtimes,
    setups_of,
)
from msd_mobile_bench.variants import find_variants


def keys(names: list[str], threads: int = 1) -> list[str]:
    return [f"{runtime.key}-{count}" for runtime, count in requested_runtimes(names, threads)]


def test_native_is_every_runtime_of_this_python_and_each_target_has_one() -> None:
    runtimes = python_runtimes()
    assert [runtime.key for runtime in runtimes][:2] == ["torch", "onnxruntime"]
    assert runtimes[1].targets == ("onnx", "ort")
    assert keys(["native"]) == [f"{runtime.key}-1" for runtime in runtimes]


def test_a_name_may_have_its_own_number_of_threads_and_counts_once() -> None:
    assert keys(["onnxruntime", "onnxruntime:4", "onnxruntime:2", "onnxruntime:4"], 2) == [
        "onnxruntime-2",
        "onnxruntime-4",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorrt"], "unknown: tensorrt. Known: native, web, arm64, torch, onnxruntime"),
        (["onnxruntime:0"], "number of threads from 1 to 256 after the colon: onnxruntime:0"),
        (["onnxruntime:"], "number of threads from 1 to 256 after the colon"),
        ([], "is empty"),
    ],
)
def test_a_wrong_name_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        requested_runtimes(names, 1)


def test_every_variant_has_a_setup_in_each_runtime_that_runs_it(
    untrained_run: RunDirectory,
) -> None:
    variants = find_variants(untrained_run)
    setups = setups_of(variants, requested_runtimes(["onnxruntime:2", "onnxruntime:1"], 1))
    assert [setup.key for setup in setups] == [
        "teacher-torch-fp32@torch-1",  # which all others are compared with
        "student-torch-fp32@torch-1",
        "student-onnx-fp32@onnxruntime-2",
        "student-onnx-fp32@onnxruntime-1",
    ]


@dataclass(frozen=True, slots=True)
class Missing(PythonRuntime):
    """A runtime that is not installed."""

    key: str = "missing"
    title: str = "Missing"
    targets: tuple[str, ...] = field(default=("onnx",))

    def unavailable(self) -> str | None:
        return "not installed: run msd doctor"


def test_a_runtime_that_is_missing_is_an_error_with_what_to_install(
    untrained_run: RunDirectory, tmp_path: Path
) -> None:
    variant = find_variants(untrained_run)[2]
    with (
        ModelWorker(Setup(variant, Missing()), examples=tmp_path, scratch=tmp_path) as worker,
        pytest.raises(RuntimeUnavailableError, match="Missing: not installed: run msd"),
    ):
        worker.ensure_open()


def test_a_target_whose_packages_are_missing_is_named() -> None:
    (onnx,) = (runtime for runtime in python_runtimes() if runtime.key == "onnxruntime")
    assert onnx.unavailable() is None
    assert replace(onnx, key="other").runs("ort")
