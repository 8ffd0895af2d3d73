"""The functions for notebooks: light to import, the same as the commands, documented by a page."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import msd_deploy
import msd_export
import msd_mobile_bench
from msd_deploy.api import DistilledRun
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError, ConfigError, DataError
from msd_deploy.run.record import read_run
from msd_export.folder import ExportFolder
from msd_export.opened_model import OpenedModel

ROOT = Path(__file__).parents[2]
HEAVY = ("datasets", "numpy", "onnx", "onnxruntime", "PIL", "tokenizers", "torch", "transformers")
MEMES = "synthetic:memes"
TEXT = "look at him go"


@pytest.mark.parametrize("package", ["msd_deploy", "msd_export", "msd_mobile_bench"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    script = f"import sys, {package}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path, write_memes: Callable[..., Path]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    # Its data set has 2,000 test examples, which would take most of the time.
    few = write_memes(tmp_path, 200, others=100)
    assert code.count(MEMES) == 4
    code = (
        code.replace(MEMES, str(few)).replace('"examples": 200', "").replace(", examples=200", "")
    )
    (tmp_path / "page.py").write_text(code)
    answer = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert (tmp_path / "runs/memes/reports/bench.html").is_file()


@pytest.mark.slow
def test_a_run_of_the_function_is_a_run_of_the_command(
    small_config: RunConfig, finished_run: RunDirectory, tmp_path: Path
) -> None:
    run = msd_deploy.distill(out=tmp_path / "run", config=small_config)
    assert read_run(RunDirectory(run.folder)).config == read_run(finished_run).config
    assert Path(run) == run.folder == tmp_path / "run"
    assert (run.folder / "metrics.json").read_bytes() == finished_run.metrics.read_bytes()
    assert run.metric == "accuracy"
    for view in ("multimodal", "image", "text"):
        assert 0 <= run.student[view]["value"] <= 1
        assert run.teacher[view]["examples"] == run.student[view]["examples"]


def test_arguments_override_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[RunConfig] = []

    def stop(config: RunConfig, *rest: object, **options: object) -> None:
        seen.append(config)
        raise DataError("stopped")

    monkeypatch.setattr("msd_deploy.pipeline.run_distillation", stop)
    (tmp_path / "run.toml").write_text('seed = 3\n[distill]\nmethod = "kd"\nepochs = 7\n')
    with pytest.raises(DataError):
        msd_deploy.distill(
            tmp_path / "rows.jsonl",
            out=tmp_path / "run",
            teacher=tmp_path / "teacher",
            student="small",
            epochs=9,
            config=tmp_path / "run.toml",
        )
    (config,) = seen
    assert config.data.spec == str(tmp_path / "rows.jsonl")
    assert config.teacher.path == tmp_path / "teacher"
    assert (config.student.size, config.distill.method) == ("small", "kd")
    assert (config.distill.epochs, config.seed) == (9, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": {"distill": {"temprature": 4.0}}}, "distill.temprature: unknown key"),
        ({"student": "huge"}, "student.size: must be one of tiny, small, mobile, not 'huge'"),
        ({"seed": -1}, "seed: must lie between 0 and"),
    ],
)
def test_a_wrong_setting_is_named(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        msd_deploy.distill(out=tmp_path / "run", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [5, 2.5, b"runs/memes", ["runs/memes"]])
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda value: msd_deploy.distill(value, out="run"), "data"),
        (lambda value: msd_deploy.distill(out=value), "out"),
        (lambda value: msd_deploy.distill(out="run", teacher=value), "teacher"),
        (lambda value: msd_export.export(value), "model"),
        (lambda value: msd_export.export("model", data=value), "data"),
        (lambda value: msd_export.export("model", data=MEMES, out=value), "out"),
        (lambda value: msd_export.load(value), "path"),
        (lambda value: msd_mobile_bench.bench(value), "run"),
    ],
)
def test_a_path_of_another_type_is_named(
    call: Callable[[object], object], argument: str, wrong: object
) -> None:
    message = f"{argument}: must be a string or a path, not {wrong!r}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        call(wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: msd_deploy.distill(out="run", config=3),  # type: ignore[arg-type]
            "config: must be a RunConfig, a mapping or the path of a TOML file, not 3",
        ),
        (
            lambda: msd_mobile_bench.bench("run", config=3),  # type: ignore[arg-type]
            "config: must be a BenchConfig or a mapping, not 3",
        ),
        (
            lambda: msd_mobile_bench.bench("run", config={"rouns": 2}),
            "rouns: unknown key",
        ),
        (
            lambda: msd_mobile_bench.bench("run", config={"rounds": "2"}),
            "rounds: must be an integer, not '2'",
        ),
        (
            lambda: msd_mobile_bench.BenchConfig(rounds="2"),  # type: ignore[arg-type]
            "rounds: must be a number, not '2'",
        ),
        (
            lambda: msd_export.load("model", threads="2"),  # type: ignore[arg-type]
            "threads: must be a number, not '2'",
        ),
        (lambda: msd_export.load("model", threads=0), "threads: must lie between 1 and 256"),
    ],
)
def test_a_setting_of_another_type_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        call()


def test_a_benchmark_takes_its_settings_as_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[object] = []

    def run_bench(run: object, config: object, *rest: object, **options: object) -> None:
        configs.append(config)

    monkeypatch.setattr("msd_mobile_bench.pipeline.run_bench", run_bench)
    msd_mobile_bench.bench("run", config={"rounds": 2, "examples": 100})
    assert configs == [msd_mobile_bench.BenchConfig(rounds=2, examples=100)]


def test_a_run_that_exists_is_not_replaced(finished_run: RunDirectory) -> None:
    with pytest.raises(ArtifactError, match=r"overwrite"):
        msd_deploy.distill(out=finished_run.root, config=read_run(finished_run).config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "tflite"}, "target: unknown: tflite. Known: onnx, ort"),
        ({"target": []}, "target: is empty"),
        ({"target": 5}, "target: must be a name or a list of names, not 5"),
        ({"target": ["onnx", 5]}, "target: unknown: 5. Known: onnx, ort"),
        ({"precision": None}, "precision: must be a name or a list of names, not None"),
        ({"max_drop": "1"}, "max_drop_points: must be a number, not '1'"),
        ({"precision": ["fp32", "int9"]}, "precision: unknown: int9. Known: fp32, fp16"),
        ({"target": "coreml", "end_to_end": True}, "end_to_end: requires the target onnx"),
        ({"max_drop": -1.0}, "max_drop_points: must lie between 0 and 100"),
    ],
)
def test_a_wrong_argument_of_an_export_is_named(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        msd_export.export(tmp_path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": MEMES}, "data: a run is exported with the data that it was trained on"),
        ({"out": "exports"}, "out: a run is exported with the data that it was trained on"),
        ({"options": SourceOptions(strict=True)}, "options: a run's own data set is read as for"),
        ({"cut_vocabulary": 9}, "cut_vocabulary: a run is exported with the vocabulary that its"),
    ],
)
def test_a_run_is_exported_with_its_own_data_only(
    finished_run: RunDirectory, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        msd_export.export(finished_run.root, **settings)  # type: ignore[arg-type]


def test_a_model_folder_is_exported_with_data_only(finished_run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="data: a model or export folder has no data set"):
        msd_export.export(finished_run.teacher)


@pytest.fixture(scope="module")
def model(finished_run: RunDirectory) -> OpenedModel:
    return msd_export.load(str(finished_run.root))


def test_an_opened_model_leaves_pytorchs_threads_as_they_were(finished_run: RunDirectory) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        msd_export.load(finished_run.root, threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_results_have_short_reprs_for_notebooks(
    model: OpenedModel, finished_run: RunDirectory
) -> None:
    metrics = read_json(finished_run.metrics)
    run = DistilledRun(Path("runs/memes"), "accuracy", {}, {}, metrics)
    manifest = read_json(finished_run.student / "manifest.json")
    export = ExportFolder(Path("runs/memes/exports/onnx-fp32"), "onnx", "fp32", manifest)
    many = replace(model, labels=tuple(f"class {n}" for n in range(1000)))
    for result in (run, export, many):
        assert type(result).__name__ in repr(result)
        assert len(repr(result)) < 200


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_every_kind_of_image_gives_the_same_logits(
    model: OpenedModel, mode: str, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    array = generator.integers(0, 256, (70, 50, *channels), np.uint8)
    image = Image.fromarray(array)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    kept = array.copy()
    results = [
        model.predict(image=source, text=TEXT).logits
        for source in (path, str(path), path.read_bytes(), image, array, Image.open(path))
    ]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert np.array_equal(array, kept)
    assert np.array_equal(np.asarray(image), kept)


def test_a_prediction_states_its_view_its_probabilities_and_its_logits(model: OpenedModel) -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    found = {
        "multimodal": model.predict(image=image, text=TEXT),
        "image": model.predict(image=image, text=" "),
        "text": model.predict(text=TEXT),
    }
    for view, prediction in found.items():
        assert prediction.view == view
        assert tuple(prediction.probabilities) == model.labels
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.label == model.labels[prediction.logits.argmax()]
        assert prediction.logits.shape == (len(model.labels),)
        assert not prediction.is_text_cut
    assert len({prediction.logits.tobytes() for prediction in found.values()}) == 3
    assert model.predict(text="word " * 100).is_text_cut


@pytest.mark.parametrize(
    ("predict", "kind", "message"),
    [
        (lambda model: model.predict(), ConfigError, "nothing to predict from"),
        (lambda model: model.predict(text="\t"), ConfigError, "nothing to predict from"),
        (lambda model: model.predict(text=5), ConfigError, "text: must be a string, not 5"),
        (lambda model: model.predict(text=b"a"), ConfigError, "text: must be a string, not b'a'"),
        (lambda model: model.predict(text=[]), ConfigError, "text: must be a string, not []"),
        *(
            (
                partial(OpenedModel.predict, image=source),
                DataError,
                f"an object of type {type(source).__name__} is not an image. Give a path, bytes",
            )
            for source in (5, [[0]], io.BytesIO(b"x"), bytearray(b"x"))
        ),
        (lambda model: model.predict(image="gone.png"), DataError, "gone.png"),
        (
            lambda model: model.predict(image=np.zeros((3, 8, 8), np.float32)),
            DataError,
            "an array of float32 [3, 8, 8] is not an image. Give uint8 [height, width]",
        ),
        (
            lambda model: model.predict(image=np.zeros((3, 8, 8), np.uint8)),
            DataError,
            "an array of uint8 [3, 8, 8] is not an image",
        ),
    ],
)
def test_what_cannot_be_predicted_from_is_refused(
    model: OpenedModel,
    predict: Callable[[OpenedModel], object],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        predict(model)
