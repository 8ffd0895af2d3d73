import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.batch import Batch
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.folders import load_classifier
from msd_deploy.views import View
from msd_export.signature import Logits, ModelInputs
from msd_mobile_bench.baselines.architectures import (
    BASELINES,
    NOTE,
    Baseline,
    FastVitSizes,
    baseline_named,
    timed_inputs,
)
from msd_mobile_bench.baselines.exports import (
    BuiltBaseline,
    Form,
    baselines_folder,
    build_baseline,
    count_published,
    random_model,
)
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import run_bench
from msd_mobile_bench.runtimes.worker import Session, save_arrays
from msd_mobile_bench.schema import Bench

SIDE, LENGTH, WORDS, CLASSES = 32, 12, 90, 3
NARROW: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
TEXT = {**NARROW, "vocab_size": WORDS, "max_position_embeddings": LENGTH}
IMAGE = {**NARROW, "image_size": SIDE, "patch_size": 16}
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "clip-vit-b32": {
        "projection_dim": 24,
        "text_config": {**TEXT, "eos_token_id": WORDS - 1},
        "vision_config": IMAGE,
    },
    "siglip-base": {"text_config": {**TEXT, "projection_size": 32}, "vision_config": IMAGE},
    "visualbert-base": {**TEXT, "visual_embedding_dim": 16},
    "vilt-b32": {**TEXT, **IMAGE},
    "mobileclip2-s0": {
        "text_config": {**TEXT, "eos_token_id": WORDS - 1},
        "vision_config": {"hidden_size": 32},
    },
}


def tiny(name: str) -> Baseline:
    """The published architecture with few, narrow layers, otherwise as it is."""
    published = BASELINES[name]
    backbone = {**published.backbone}
    for key, value in SMALLER[name].items():
        whole = backbone[key]
        backbone[key] = {**whole, **value} if isinstance(whole, dict) else value
    vision = published.vision and {
        **published.vision,
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
    }
    fastvit = published.fastvit and FastVitSizes((8, 16), (1, 1), (False, True), head_width=8)
    return dataclasses.replace(
        published,
        backbone=backbone,
        vision=vision,
        fastvit=fastvit,
        image_size=SIDE,
        max_length=LENGTH,
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> BuiltBaseline:
    """A tiny CLIP as ONNX, in a cache of its own; read it, never write into it."""
    cache = tmp_path_factory.mktemp("baselines")
    return build_baseline(tiny("clip-vit-b32"), classes=CLASSES, cache=cache)


def build_in_torch(cache: Path, notes: list[str] | None = None) -> BuiltBaseline:
    """A model folder for PyTorch, which takes a moment where an ONNX file takes seconds."""
    hooks = StageHooks(on_note=([] if notes is None else notes).append)
    return build_baseline(
        tiny("clip-vit-b32"), classes=CLASSES, form="torch-fp32", cache=cache, hooks=hooks
    )


def answers_of_torch(baseline: Baseline, inputs: ModelInputs, view: View) -> Logits:
    """The logits of training's own code, which takes each view by itself."""
    rows = len(inputs["image"])
    batch = Batch(
        torch.from_numpy(inputs["image"]).permute(0, 3, 1, 2),
        torch.arange(rows),
        torch.ones(rows, dtype=torch.bool),
        torch.from_numpy(inputs["input_ids"]).long(),
        torch.from_numpy(inputs["attention_mask"]).long(),
        torch.zeros(rows, dtype=torch.int64),
        torch.arange(rows),
    )
    with torch.inference_mode():
        logits: Logits = random_model(baseline, CLASSES).logits_by_view(batch, [view])[view].numpy()
    return logits


def answers_of_onnx(path: Path, inputs: ModelInputs) -> Logits:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits: Logits = session.run(["logits"], dict(inputs))[0]
    return logits


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", BASELINES)
def test_an_architecture_has_the_published_number_of_parameters(name: str) -> None:
    baseline = BASELINES[name]
    with torch.device("meta"):  # no memory is taken
        model = random_model(baseline, CLASSES)
    assert count_published(model, baseline) == pytest.approx(baseline.parameters, rel=0.01)


@pytest.mark.parametrize("name", BASELINES)
def test_an_architecture_says_that_its_weights_are_random(name: str) -> None:
    assert NOTE in BASELINES[name].label
    assert "random" in NOTE
    assert BASELINES[name].as_json()["note"] == NOTE
    assert BASELINES[name].sources


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'clip'.*clip-vit-b32, siglip-base") as error:
        baseline_named("clip")
    assert all(name in str(error.value) for name in BASELINES)
    assert baseline_named("vilt-b32") is BASELINES["vilt-b32"]


def test_a_tower_that_no_family_has_is_not_built_as_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MobileCLIP2-S0 is built for ONNX Runtime alone"):
        build_baseline(
            BASELINES["mobileclip2-s0"], classes=CLASSES, form="torch-fp32", cache=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_the_list_of_architectures_loads_no_torch() -> None:
    line = "import sys, msd_mobile_bench.baselines.architectures; print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize("view", View)
def test_timed_inputs_are_noise_within_the_vocabulary(view: View) -> None:
    baseline = tiny("clip-vit-b32")
    inputs = timed_inputs(baseline, view)
    assert inputs["image"].shape == (64, SIDE, SIDE, 3)
    assert inputs["image"].dtype == np.uint8
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (64, LENGTH)
    assert inputs["input_ids"].min() >= 0
    assert WORDS * 0.9 < inputs["input_ids"].max() < WORDS
    assert len(set(inputs["input_ids"][:, 0])) == 1
    assert inputs["attention_mask"].sum() == 64 * (LENGTH if view.has_text else 1)
    assert inputs["image_present"].tolist() == [int(view.has_image)] * 64
    assert (len(np.unique(inputs["image"])) > 200) == view.has_image
    again = timed_inputs(baseline, view)
    assert all((inputs[name] == again[name]).all() for name in inputs)


def test_weights_are_the_same_each_time_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (random_model(tiny("vilt-b32"), CLASSES).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.rand(1), expected)


def check_answers(built: BuiltBaseline) -> None:
    for view in View:
        inputs = timed_inputs(built.baseline, view, examples=3)
        expected = answers_of_torch(built.baseline, inputs, view)
        assert expected.shape == (3, CLASSES)
        assert answers_of_onnx(built.model_path, inputs) == pytest.approx(expected, abs=1e-5)


def test_a_batch_may_mix_the_views(clip: BuiltBaseline) -> None:
    by_view = [timed_inputs(clip.baseline, view, examples=1) for view in View]
    batch = {name: np.concatenate([one[name] for one in by_view]) for name in by_view[0]}
    alone = [answers_of_onnx(clip.model_path, one)[0] for one in by_view]
    assert answers_of_onnx(clip.model_path, batch) == pytest.approx(np.stack(alone), abs=1e-5)


def test_the_encoder_of_an_absent_modality_is_not_run(clip: BuiltBaseline, tmp_path: Path) -> None:
    norms = {}
    for view in View:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / view)
        session = onnxruntime.InferenceSession(str(clip.model_path), options)
        session.run(None, dict(timed_inputs(clip.baseline, view, examples=1)))
        events = json.loads(Path(session.end_profiling()).read_text())
        run = [event["args"].get("op_name") for event in events if "args" in event]
        norms[view] = run.count("LayerNormalization")
    # Two a layer; CLIP's image encoder has one before them, and both have one after.
    assert norms == {View.MULTIMODAL: 11, View.IMAGE: 6, View.TEXT: 5}


def test_onnx_runtime_answers_as_pytorch_does(clip: BuiltBaseline) -> None:
    check_answers(clip)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BASELINES if name != "clip-vit-b32"])
def test_onnx_runtime_answers_as_pytorch_does_in_every_architecture(
    name: str, tmp_path: Path
) -> None:
    check_answers(build_baseline(tiny(name), classes=CLASSES, cache=tmp_path))


def test_a_baseline_states_what_it_is(clip: BuiltBaseline) -> None:
    assert clip.name == "clip-vit-b32-onnx-fp32"
    assert (clip.target, clip.precision) == ("onnx", "fp32")
    assert clip.size_bytes == clip.model_path.stat().st_size
    model = random_model(clip.baseline, CLASSES)
    assert clip.parameters == sum(parameter.numel() for parameter in model.parameters())
    manifest = read_json(clip.folder / "manifest.json")
    assert manifest["kind"] == "baseline"
    assert manifest["baseline"] == clip.baseline.as_json()
    assert manifest["classes"] == CLASSES
    properties = onnxruntime.InferenceSession(str(clip.model_path)).get_modelmeta()
    assert properties.custom_metadata_map["description"] == clip.baseline.label


def test_a_file_has_the_signature_of_every_export(clip: BuiltBaseline) -> None:
    session = onnxruntime.InferenceSession(str(clip.model_path))
    assert {each.name: (each.type, each.shape) for each in session.get_inputs()} == {
        "image": ("tensor(uint8)", ["batch", SIDE, SIDE, 3]),
        "image_present": ("tensor(int32)", ["batch"]),
        "input_ids": ("tensor(int32)", ["batch", LENGTH]),
        "attention_mask": ("tensor(int32)", ["batch", LENGTH]),
    }
    assert [each.name for each in session.get_outputs()] == ["logits", "probabilities"]


@pytest.mark.slow
def test_int8_stores_its_matrices_in_8_bits(clip: BuiltBaseline, tmp_path: Path) -> None:
    built = build_baseline(clip.baseline, classes=CLASSES, form="onnx-int8-dynamic", cache=tmp_path)
    weights = built.manifest["conversion"]["weights"]  # type: ignore[index]  # JSON
    assert weights["int8"] > weights["float32"]
    assert built.size_bytes < clip.size_bytes
    inputs = timed_inputs(clip.baseline, View.MULTIMODAL, examples=2)
    assert np.isfinite(answers_of_onnx(built.model_path, inputs)).all()


def test_the_worker_times_every_view(clip: BuiltBaseline, tmp_path: Path) -> None:
    for view in View:
        save_arrays(tmp_path / view.value, timed_inputs(clip.baseline, view, examples=4))
    for built in (clip, build_in_torch(tmp_path / "cache")):
        session = Session(
            target=built.target,
            path=str(built.model_path),
            manifest=built.manifest,
            threads=1,
            examples=str(tmp_path),
        )
        answer = session.latency(plans={view: {"warm_up": 0, "runs": 6} for view in View})
        latency = answer["latency_ms"]
        assert isinstance(latency, dict)
        assert {view: len(samples) for view, samples in latency.items()} == dict.fromkeys(View, 6)


def test_a_baseline_in_the_cache_is_used_again(clip: BuiltBaseline) -> None:
    stages: list[str] = []
    before = clip.model_path.stat()
    again = build_baseline(
        clip.baseline,
        classes=CLASSES,
        cache=clip.folder.parent,
        hooks=StageHooks(on_stage=stages.append),
    )
    assert again == clip
    assert not stages
    after = again.model_path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_baseline_is_built_again_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    built = build_in_torch(tmp_path, notes)
    weights = built.folder / "model.safetensors"
    content = weights.read_bytes()
    damage(weights)
    again = build_in_torch(tmp_path, notes)
    assert len(notes) == 1
    assert "model.safetensors: was altered" in notes[0]
    assert again.folder == built.folder
    assert weights.read_bytes() == content


def test_an_incomplete_baseline_is_built_again(tmp_path: Path) -> None:
    notes: list[str] = []
    (build_in_torch(tmp_path).folder / "manifest.json").unlink()
    load_classifier(build_in_torch(tmp_path, notes).folder)
    assert "no manifest.json" in notes[0]


def test_what_differs_lies_in_another_folder(tmp_path: Path) -> None:
    built = build_in_torch(tmp_path)
    others = [
        build_baseline(baseline, classes=classes, form="torch-fp32", cache=tmp_path)
        for baseline, classes in (
            (built.baseline, CLASSES + 1),
            (dataclasses.replace(built.baseline, max_length=LENGTH - 1), CLASSES),
        )
    ]
    assert len({each.folder for each in (built, *others)}) == 3
    assert sorted(tmp_path.iterdir()) == sorted(each.folder for each in (built, *others))


def test_leftovers_of_an_interrupted_build_are_removed(tmp_path: Path) -> None:
    built = build_in_torch(tmp_path)
    left = tmp_path / f".{built.folder.name}.building-0123abcd"
    shutil.copytree(built.folder, left)
    shutil.rmtree(built.folder)
    build_in_torch(tmp_path)
    assert list(tmp_path.iterdir()) == [built.folder]


def test_baselines_lie_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert baselines_folder() == tmp_path / "msd-deploy" / "baselines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert baselines_folder() == tmp_path / ".cache" / "msd-deploy" / "baselines"


@pytest.mark.parametrize(
    ("classes", "form", "reason"),
    [(0, "onnx-fp32", "1 class or more, not 0"), (3, "onnx-int4", "no baseline.*'onnx-int4'")],
)
def test_invalid_requests_are_errors(classes: int, form: Form, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_baseline(tiny("clip-vit-b32"), classes=classes, form=form, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"cannot be created.*Set XDG_CACHE_HOME"):
        build_in_torch(tmp_path / "file" / "cache")


@pytest.mark.slow
def test_a_benchmark_measures_a_baseline_beside_the_students_variants(
    untrained_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("msd_mobile_bench.pipeline.baseline_named", tiny)
    run = RunDirectory(Path(shutil.copytree(untrained_run.root, tmp_path / "run")))
    config = BenchConfig(
        baselines=("clip-vit-b32",), rounds=1, runs=5, seconds=0, warm_up=1, batches=1, examples=20
    )
    bench = cast(Bench, run_bench(run, config))
    (row,) = (row for row in bench["rows"] if row["model"] == "baseline")
    assert row["key"] == "clip-vit-b32-onnx-fp32@onnxruntime-1"
    assert row["status"] == "measured"
    assert row["note"] == NOTE
    assert row["scores"] == {}
    assert row["latency_ms"] is not None
    assert len(row["single_view_latency_ms"]) == 2
    markdown = (run.reports / "bench.md").read_text()
    assert "| clip-vit-b32, ONNX fp32 |" in markdown
    assert "clip-vit-b32 in ONNX fp32, and" in markdown
    page = (run.reports / "bench.html").read_text()
    assert NOTE in page
