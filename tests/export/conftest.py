"""What the export tests share."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.folders import LoadedModel, load_model, save_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.vision import EFFICIENTNET_LITE
from msd_deploy.quiet import quiet_python
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.temperatures import Temperatures
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.folder import ExportFolder, open_export
from msd_export.formats import Variant, variant_name
from msd_export.graph import ExportableGraph, ExportGraph, ImageLayout, as_tensors
from msd_export.parity import predict_every_view, predict_split
from msd_export.pipeline import export_student
from msd_export.predictors import TorchPredictor
from msd_export.signature import Logits, ModelInputs, single_example
from msd_export.source import ExportSource

SaveProgram = Callable[..., Path]
TEMPERATURES = Temperatures(dict(zip(View, (2.0, 0.5, 3.0), strict=True)), dict.fromkeys(View, 100))
"""Of every exported model: each predictor compares its probabilities with these temperatures."""
MakeSource = Callable[[dict[str, object]], ExportSource]


@pytest.fixture
def save_program(tmp_path: Path) -> Iterator[SaveProgram]:
    """Yield a function that saves what `build(x, y, ...)` makes with coremltools' Builder.

    The program's inputs have the names of build's parameters and the shapes and types of the given
    arrays. No optimisation touches it: the operations saved are those built.
    """
    with quiet_python():
        import coremltools as ct
        from coremltools.converters.mil import Builder
        from coremltools.converters.mil.mil.types import numpy_type_to_builtin_type

    def save(
        build: Callable[..., Any],
        inputs: Sequence[np.ndarray[Any, Any]],
        *,
        target: str = "iOS16",
        features: Sequence[Any] | None = None,
    ) -> Path:
        specs = [
            Builder.TensorSpec(array.shape, dtype=numpy_type_to_builtin_type(array.dtype.type))
            for array in inputs
        ]
        with quiet_python():
            model = ct.convert(
                Builder.program(input_specs=specs, opset_version=ct.target[target])(build),
                inputs=features,
                convert_to="mlprogram",
                minimum_deployment_target=ct.target[target],
                compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.EMPTY,
                skip_model_load=True,
            )
        package = tmp_path / "program.mlpackage"
        model.save(str(package))
        return package

    gc.freeze()  # ct.convert collects garbage each time, 0.4 s where torch's objects are looked at
    yield save
    gc.unfreeze()


@pytest.fixture(scope="session")
def make_source(
    memes: tuple[PreparedData, Preprocessor], tmp_path_factory: pytest.TempPathFactory
) -> MakeSource:
    """Makes what a converter converts: a tiny seeded model with a vision encoder, and memes.

    The model is untrained, but its BatchNorm statistics are those of the pictures.
    """
    data, preprocessor = memes

    def make(vision: dict[str, object]) -> ExportSource:
        torch.manual_seed(0)
        config = FusionConfig(
            vision=vision,
            image_size=(48, 48),
            vocab_size=300,
            max_text_length=16,
            hidden_size=16,
            num_hidden_layers=2,
            intermediate_size=32,
            num_labels=2,
        )
        model = FusionForClassification(config).train()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    torch.nn.init.normal_(module.bias, std=0.1)
            model.classifier.weight *= 10  # decisions beyond rounding, as a trained model's
            pixels = torch.from_numpy(data.splits["train"].pixels[:32].copy()).permute(0, 3, 1, 2)
            for _ in range(20):
                model.embed_image(pixels)
        loaded = LoadedModel(
            model.eval(),
            preprocessor,
            data.info.labels,
            data.info.problem,
            "0" * 64,
            Path("student"),
            TEMPERATURES,
        )
        return ExportSource(loaded, data, "memes", tmp_path_factory.mktemp("scratch"))

    return make


@pytest.fixture(scope="session")
def source(make_source: MakeSource) -> ExportSource:
    """What a converter converts, its vision encoder three convolutions."""
    return make_source({"kind": "conv_stem", "channels": [8, 12, 16]})


@pytest.fixture
def own_source(source: ExportSource, tmp_path: Path) -> ExportSource:
    """The same with a scratch folder of the test's own, into which converters write."""
    return replace(source, scratch=tmp_path)


class _Exotic(ExportGraph):
    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, probabilities = super().forward(*inputs)
        return torch.special.bessel_j0(logits), probabilities


class _ExoticSource(ExportSource):
    def graph(self, image_layout: ImageLayout) -> ExportableGraph:
        model = ExportSource.graph(self, image_layout).model
        return _Exotic(model, problem="single_label", image_layout=image_layout)


@pytest.fixture
def exotic_source(source: ExportSource, tmp_path: Path) -> ExportSource:
    """A source whose graph holds an operation that phones do not know."""
    return _ExoticSource(source.loaded, source.data, source.name, tmp_path)


@pytest.fixture(scope="session")
def hard_inputs(memes: tuple[PreparedData, Preprocessor]) -> dict[str, ModelInputs]:
    """Four rows of each view, and what is never seen in training.

    Absent pictures and texts are noise, not zeros; in "nothing" even [CLS] is masked.
    """
    test = memes[0].splits["test"]
    generator = np.random.default_rng(0)
    inputs = {view.value: test.inputs(slice(0, 4), view) for view in View}
    noise = generator.integers(0, 256, inputs["text"]["image"].shape, dtype=np.uint8)
    ids = generator.integers(0, 300, inputs["text"]["input_ids"].shape, dtype=np.int32)
    ids[:, 0] = inputs["image"]["input_ids"][:, 0]
    inputs["text"] = inputs["text"] | {"image": noise}
    inputs["image"] = inputs["image"] | {"input_ids": ids}
    nothing = inputs["text"] | {"attention_mask": np.zeros_like(ids)}
    inputs["nothing"] = nothing | {"image_present": np.zeros(4, np.int32)}
    return inputs


@pytest.fixture(scope="session")
def torch_logits() -> Callable[[ExportSource, ModelInputs], np.ndarray[Any, Any]]:
    """Asks PyTorch: logits, float32 [rows, classes]."""

    def ask(source: ExportSource, inputs: ModelInputs) -> np.ndarray[Any, Any]:
        graph = source.graph("nhwc")
        with torch.inference_mode():
            rows = [
                graph(*as_tensors(single_example(inputs, row)))[0]
                for row in range(len(inputs["image"]))
            ]
        return torch.cat(rows).numpy()

    return ask


DECIDED_ROWS = 60


def _decide(model: FusionForClassification, logits: Logits) -> None:
    """Scale and shift a classifier of two: decisions wide apart, part of them each way, no tie.

    The border between the two lies in the widest gap of the middle third.
    """
    leads = np.sort(logits[:, 1] - logits[:, 0])
    middle = leads[len(leads) // 3 : -len(leads) // 3]
    gap = int(np.diff(middle).argmax())
    scale = 4.0 / float(leads.std())
    with torch.no_grad():
        model.classifier.weight *= scale
        model.classifier.bias *= scale
        model.classifier.bias[1] -= scale * float(middle[gap : gap + 2].mean())


@pytest.fixture(scope="session")
def decided_run(
    finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """A finished run whose student, at random, decides by pixels, words and their places alike.

    What few steps of training make leans on few features, and answers much alike whatever it is
    shown: a comparison with it would miss what a comparison with a good student sees.
    """
    run = RunDirectory(tmp_path_factory.mktemp("decided") / "run")
    shutil.copytree(finished_run.root, run.root)
    loaded = load_model(run.student)
    torch.manual_seed(3)
    model = FusionForClassification(loaded.model.config).eval()
    with torch.no_grad():
        model.image_projection.weight *= 8
    facts = {
        "labels": loaded.labels,
        "problem": loaded.problem,
        "facts": {},
        "temperatures": TEMPERATURES,
    }
    save_model(run.student, model, loaded.preprocessor, **facts)
    rows = data_of_run(read_run(run), loaded.preprocessor).splits["test"].head(DECIDED_ROWS)
    _decide(model, predict_split(TorchPredictor(run.student), rows, View.MULTIMODAL))
    save_model(run.student, model, loaded.preprocessor, **facts)
    return run


@pytest.fixture(scope="session")
def export_decided(
    decided_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[ExportFolder]]:
    """Exports its student to the variants given, verified, in a copy of the run."""

    def export(*variants: Variant) -> list[ExportFolder]:
        return _export_copy(decided_run, tmp_path_factory.mktemp("exports") / "run", variants)

    return export


def _export_copy(
    run: RunDirectory, root: Path, variants: tuple[Variant, ...]
) -> list[ExportFolder]:
    """Copy a run to a folder that does not exist, and export its student there."""
    copied = RunDirectory(Path(shutil.copytree(run.root, root)))
    return export_student(copied, ExportConfig(variants, examples=DECIDED_ROWS))


@pytest.fixture(scope="session")
def decided_exports(
    decided_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[ExportFolder]]:
    """The same, made once for all tests and all processes of a session: read them alone."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def exports(*variants: Variant) -> list[ExportFolder]:
        names = [variant_name(variant) for variant in variants]
        root = shared / "-".join(["decided", *names])
        with FileLock(f"{root}.lock"):
            if not root.is_dir():
                building = root.with_suffix(".part")
                _export_copy(decided_run, building, variants)
                building.rename(root)
        return [open_export(RunDirectory(root).exports / name) for name in names]

    return exports


@pytest.fixture
def shallow_efficientnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """EfficientNet-Lite0 of half the width and ten blocks instead of sixteen, of every kind."""
    monkeypatch.setitem(EFFICIENTNET_LITE, "lite0", (0.5, 0.34))


@pytest.fixture(scope="session")
def decided_export(export_decided: Callable[..., list[ExportFolder]]) -> ExportFolder:
    """Its student as Core ML in float16, verified."""
    (written,) = export_decided(("coreml", "fp16"))
    return written


@pytest.fixture(scope="session")
def decided_rows(decided_run: RunDirectory) -> PreparedSplit:
    """The test rows that judge its exports."""
    preprocessor = load_model(decided_run.student).preprocessor
    return data_of_run(read_run(decided_run), preprocessor).splits["test"].head(DECIDED_ROWS)


@pytest.fixture(scope="session")
def decided_logits(decided_run: RunDirectory, decided_rows: PreparedSplit) -> LogitsByView:
    """What PyTorch answers to them."""
    return predict_every_view(TorchPredictor(decided_run.student), decided_rows)
