"""Build, export and keep baselines: a folder for each in the user's cache, reused by later runs.

A baseline is the family's own classifier (`FamilyForClassification`) on a published architecture
with random weights, behind the signature of every export: one ONNX file, or a model folder for
PyTorch. Predictions of the file are compared with PyTorch's before it is kept. A folder states its
digests in manifest.json, and is written beside and renamed; one that is damaged is built again.

Not covered: accuracy, which random weights do not have, and a tokenizer. The model folder for
PyTorch has one without words, since such a folder needs one.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import new_folder, remove_stale_folders
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import (
    Json,
    read_manifest,
    sha256_of_json,
    write_manifest,
)
from msd_deploy.artifacts.output import check_writable, user_cache
from msd_deploy.errors import ArtifactError, ConfigError, ParityError
from msd_deploy.hooks import StageHooks
from msd_deploy.views import View
from msd_export.formats import FORMATS, Precision, versions_of
from msd_export.model_file import converting, refuse_float
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.signature import Logits, ModelInputs, ModelSignature
from msd_export.tolerance import PARITY_TOLERANCE
from msd_mobile_bench.baselines.architectures import Baseline, timed_inputs

if TYPE_CHECKING:
    from msd_deploy.models.families import FamilyForClassification
    from msd_export.graph import FamilyGraph

Form = Literal["onnx-fp32", "onnx-int8-dynamic", "torch-fp32"]
"""What a baseline can be measured in: precisions that need no data, and PyTorch itself."""

KIND = "baseline"
# Of what is written, to be raised with it: files of another one are not used.
_REVISION = 1
_SEED = 0
_COMPARED_EXAMPLES = 2
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class BuiltBaseline:
    """A baseline that can be measured.

    Attributes:
        baseline: Its architecture.
        form: Target and precision.
        folder: Where it lies.
        manifest: The manifest's content, its files verified.
    """

    baseline: Baseline
    form: Form
    folder: Path
    manifest: Json = field(repr=False)

    @property
    def name(self) -> str:
        """The name, for example clip-vit-b32-onnx-fp32."""
        return f"{self.baseline.name}-{self.form}"

    @property
    def target(self) -> str:
        """The target: onnx or torch."""
        return self.form.partition("-")[0]

    @property
    def precision(self) -> str:
        """The precision of the weights."""
        return self.form.partition("-")[2]

    @property
    def model_path(self) -> Path:
        """What a runtime opens: the file, or the model folder for PyTorch."""
        return self.folder / FORMATS["onnx"].model_file if self.target == "onnx" else self.folder

    @property
    def size_bytes(self) -> int:
        """Size of the file, or of the model folder's weights."""
        is_file = self.target == "onnx"
        path = self.model_path if is_file else self.folder / "model.safetensors"
        return path.stat().st_size

    @property
    def parameters(self) -> int:
        """Number of parameters, with the classifier on the architecture."""
        return int(str(self.manifest["parameters"]))


def baselines_folder() -> Path:
    """Return where baselines are kept, in the user's cache."""
    return user_cache() / "baselines"


def build_baseline(
    baseline: Baseline,
    *,
    classes: int,
    form: Form = "onnx-fp32",
    cache: Path | None = None,
    hooks: StageHooks | None = None,
) -> BuiltBaseline:
    """Return a baseline from the cache, or build it there.

    Args:
        baseline: The architecture; see `baseline_named`.
        classes: Number of classes, as of the models beside which it is measured.
        form: Target and precision.
        cache: Folder of all baselines; None: `baselines_folder`.
        hooks: Progress, and a note where a damaged one is replaced.

    Raises:
        ConfigError: The form or the number of classes is invalid.
        ArtifactError: It cannot be written, or another process is writing it.
        ExportError: The conversion failed.
        ParityError: The file's predictions are not PyTorch's; it is not kept.
    """
    hooks = hooks or StageHooks()
    _check_request(baseline, form, classes)
    cache = cache or baselines_folder()
    facts = _facts(baseline, classes, form)
    digest = sha256_of_json(facts)[:_DIGITS]
    folder = cache / f"{baseline.name}-{digest}"
    kept = _kept(folder, form, hooks)
    if kept is None:
        check_writable(folder, fix="Set XDG_CACHE_HOME to a folder that can be written")
        with claimed(folder):
            remove_stale_folders(cache)
            kept = _build(baseline, classes, form, folder, facts=facts, hooks=hooks)
    return BuiltBaseline(baseline, form, folder, kept)


def _check_request(baseline: Baseline, form: str, classes: int) -> None:
    if form not in get_args(Form):
        raise ConfigError(
            f"no baseline is built as {form!r}",
            where="baselines",
            fix=f"Use one of {', '.join(get_args(Form))}",
        )
    if form == "torch-fp32" and baseline.fastvit is not None:
        raise ConfigError(
            f"{baseline.title} is built for ONNX Runtime alone: no teacher has its image tower",
            where="baselines",
            fix="Use another form",
        )
    if classes < 1:
        raise ConfigError(f"must have 1 class or more, not {classes}", where="baselines")


def _facts(baseline: Baseline, classes: int, form: Form) -> Json:
    """Return all that decides what is built; the folder's name has its digest."""
    from importlib.metadata import version

    return {
        "form": form,
        "baseline": baseline.as_json(),
        "classes": classes,
        "seed": _SEED,
        "revision": _REVISION,
        "made_with": {
            "msd-deploy": __version__,
            "transformers": version("transformers"),
            **versions_of("onnx"),
        },
    }


def _kept(folder: Path, form: Form, hooks: StageHooks) -> Json | None:
    """Return the manifest of a baseline in the cache; None if there is none, or a damaged one."""
    if not folder.exists():
        return None
    try:
        return read_manifest(folder, _kind(form))
    except ArtifactError as error:
        where = error.where or folder
        hooks.on_note(f"{where}: {error.what}; the baseline is built again")
        return None


def _kind(form: Form) -> str:
    return "model" if form == "torch-fp32" else KIND


def _build(
    baseline: Baseline,
    classes: int,
    form: Form,
    folder: Path,
    *,
    facts: Json,
    hooks: StageHooks,
) -> Json:
    """Build a baseline and write its folder; return the manifest."""
    hooks.on_stage(f"Building {baseline.label}")
    model = random_model(baseline, classes)
    facts = {**facts, "parameters": sum(each.numel() for each in model.parameters())}
    if form == "torch-fp32":
        _save_model(model, baseline, folder, facts)
        return read_manifest(folder, "model")
    hooks.on_stage(f"Converting {baseline.title} to {form}")
    with new_folder(folder) as building:
        path = building / FORMATS["onnx"].model_file
        precision = cast(Precision, form.removeprefix("onnx-"))
        facts |= _export(model, baseline, precision, path)
        return write_manifest(building, KIND, facts)


def random_model(baseline: Baseline, classes: int) -> "FamilyForClassification":
    """Build the classifier of an architecture with random weights, the same ones each time.

    Torch's global generator is left as it was. On the meta device nothing is computed.
    """
    import torch

    from msd_deploy.models.classifier import task_config
    from msd_deploy.models.configs import FamilyConfig
    from msd_deploy.models.families import FamilyForClassification
    from msd_mobile_bench.baselines.fastvit import FastVit

    config = FamilyConfig(
        family=baseline.family,
        backbone=dict(baseline.backbone),
        vision=None if baseline.vision is None else dict(baseline.vision),
        image_size=(baseline.image_size, baseline.image_size),
        image_mean=_of_255(baseline.image_mean),
        image_std=_of_255(baseline.image_std),
        dropout=0.0,
        **task_config(_labels(classes), "single_label"),
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        model = FamilyForClassification(config)
        if baseline.fastvit is not None:
            model.backbone.set_submodule("vision_model", FastVit(baseline.fastvit))
    torch.nn.Module.eval(model)
    return model


def count_published(model: "FamilyForClassification", baseline: Baseline) -> int:
    """Return how many parameters of a model the published number of its architecture counts."""
    names = tuple(f"{name}." for name in baseline.leaves_out)
    parameters = model.backbone.named_parameters()
    return sum(each.numel() for name, each in parameters if not name.startswith(names))


def _of_255(channels: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = channels
    return 255 * red, 255 * green, 255 * blue


def _labels(classes: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(classes))


def _export(
    model: "FamilyForClassification", baseline: Baseline, precision: Precision, path: Path
) -> Json:
    """Write an ONNX file that is verified against PyTorch; return what it holds."""
    from msd_export.graph import FamilyGraph
    from msd_export.onnx.branches import branch_around_image_encoder, branch_around_text_encoder
    from msd_export.onnx.export import export_onnx
    from msd_export.onnx.inspector import count_weights_and_operators
    from msd_export.onnx.weight_only import quantize_dynamic

    graph = FamilyGraph(model, problem="single_label", image_layout="nhwc")
    signature = _signature(baseline, model.classifier.out_features)
    metadata = {"description": baseline.label, "problem": signature.problem}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
        float32 = Path(scratch) / path.name
        export_onnx(graph, signature, metadata, float32)
        if precision == "fp32":
            float32.rename(path)
        else:
            quantize_dynamic(float32, path)
    with converting("ONNX", path):
        skips_image = branch_around_image_encoder(path)
        skips_text = baseline.has_two_towers and branch_around_text_encoder(path)
    weights, operators = count_weights_and_operators(path)
    if precision == "int8-dynamic":
        refuse_float(precision, weights.get("int8", 0), path)
    return {
        "signature": signature.as_json("onnx", has_text_entry=False),
        "conversion": {
            "weights": weights,
            "operators": operators,
            "skips_image_encoder": skips_image,
            "skips_text_encoder": skips_text,
        },
        "max_abs_error": _verify(graph, baseline, precision, path),
    }


def _signature(baseline: Baseline, classes: int) -> ModelSignature:
    side = baseline.image_size
    return ModelSignature((side, side), baseline.max_length, _labels(classes), "single_label")


def _verify(
    graph: "FamilyGraph", baseline: Baseline, precision: Precision, path: Path
) -> dict[str, float]:
    """Compare a file's logits with PyTorch's on noise; return the largest error of each view.

    Raises:
        ParityError: One is beyond the tolerance of its precision, or not finite.
    """
    predictor, errors = OnnxPredictor(path), {}
    limit = PARITY_TOLERANCE[precision].max_abs_error
    for view in View:
        inputs = timed_inputs(baseline, view, examples=_COMPARED_EXAMPLES)
        expected = logits_in_torch(graph, inputs)
        error = float(np.abs(predictor.predict(inputs) - expected).max())
        if not np.isfinite(error) or (limit is not None and error > limit):
            raise ParityError(
                f"{baseline.name}: logits of noise ({view}) differ from PyTorch's by {error:.2g}",
                where=path.name,
            )
        errors[view.value] = error
    return errors


def logits_in_torch(graph: "FamilyGraph", inputs: ModelInputs) -> Logits:
    """Return a graph's logits of inputs, float32 [batch, classes]."""
    import torch

    from msd_export.graph import as_tensors

    with torch.inference_mode():
        logits, _ = graph(*as_tensors(inputs))
    return cast(Logits, logits.numpy())


def _save_model(
    model: "FamilyForClassification", baseline: Baseline, folder: Path, facts: Mapping[str, object]
) -> None:
    """Write the model folder that PyTorch is measured with."""
    from msd_deploy.data.preprocess import build_preprocessor, train_tokenizer
    from msd_deploy.data.resize import ImageSpec
    from msd_deploy.models.folders import save_model

    side = baseline.image_size
    preprocessor = build_preprocessor(
        train_tokenizer((), vocabulary_size=5),
        ImageSpec((side, side)),
        max_length=baseline.max_length,
    )
    labels = _labels(model.classifier.out_features)
    save_model(folder, model, preprocessor, labels=labels, problem="single_label", facts=facts)
