"""How often a command opens the same file; processes that run the models are not counted."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.pipeline import run_distillation
from msd_export.api import export
from msd_mobile_bench.api import bench
from msd_mobile_bench.config import BenchConfig

pytestmark = pytest.mark.slow


@pytest.fixture
def opened() -> Iterator[Counter[Path]]:
    """The files that Python opened for reading; a hook cannot be removed, only switched off."""
    counts: Counter[Path] = Counter()
    is_on = True

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if not is_on or event != "open" or not isinstance(arguments[0], str | Path):
            return
        if str(arguments[1] or "r")[0] == "r":
            counts[Path(arguments[0]).resolve()] += 1

    sys.addaudithook(count)
    yield counts
    is_on = False


@pytest.fixture(scope="module")
def memes_run(
    tmp_path_factory: pytest.TempPathFactory, write_memes: Callable[..., Path]
) -> RunDirectory:
    """A run of memes.jsonl, which lies beside it."""
    folder = tmp_path_factory.mktemp("reads")
    config = RunConfig(
        data=DataConfig(spec=str(write_memes(folder, 120))),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1),
    )
    run = RunDirectory(folder / "run")
    run_distillation(config, run)
    return run


@pytest.fixture
def run(memes_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of that run, to write into."""
    return RunDirectory(Path(shutil.copytree(memes_run.root, tmp_path / "run")))


def test_an_export_reads_run_data_and_model_once(
    run: RunDirectory, memes_run: RunDirectory, opened: Counter[Path]
) -> None:
    pytest.importorskip("onnxruntime_extensions")
    opened.clear()
    precisions = ("fp32", "int8-dynamic")
    export(
        run.root,
        target="onnx",
        precision=precisions,
        max_drop=100.0,
        end_to_end=True,
        overwrite=True,
    )
    assert opened[run.run_json] == 1
    assert opened[run.student / "model.safetensors"] == 1
    assert opened[memes_run.root.parent / "memes.jsonl"] == 1


def test_a_benchmark_reads_run_data_once_and_models_for_their_digest_and_compressed_size(
    run: RunDirectory, memes_run: RunDirectory, opened: Counter[Path]
) -> None:
    export(run.root, target="onnx", precision="fp32", max_drop=100.0, overwrite=True)
    config = BenchConfig(rounds=1, warm_up=0, warm_up_seconds=0, runs=5, seconds=0, batches=1)
    reference = run.teacher_exports / "onnx-fp32/model.onnx"
    for expected in (0, 1):  # the teacher's export is written; it is verified and used again
        opened.clear()
        bench(run.root, config=config)
        assert opened[reference] == expected + 1
        for path in (run.run_json, memes_run.root.parent / "memes.jsonl"):
            assert opened[path] == 1, path
        for path in (
            run.student / "model.safetensors",
            run.teacher / "model.safetensors",
            run.exports / "onnx-fp32/model.onnx",
        ):
            assert opened[path] == 2, path
