"""From a run's student to verified exports: converted, quantized, compared, then renamed."""

import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msd_deploy import __version__
from msd_deploy.artifacts import (
    Json,
    RunDirectory,
    new_folder,
    refuse_existing,
    write_json,
    write_manifest,
)
from msd_deploy.config import check_range
from msd_deploy.data.prepared import PreparedData
from msd_deploy.errors import ConfigError, ExportError, ParityError
from msd_deploy.evaluation import LogitsByView
from msd_deploy.hooks import StageHooks
from msd_deploy.models.folders import LABELS_NAME, LoadedModel, family_of, load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.runs import config_of_run, data_of_run
from msd_deploy.views import View
from msd_export.export_folder import (
    KIND,
    MODEL_FILE,
    PARITY_NAME,
    ExportFolder,
    open_export,
    stated_source,
)
from msd_export.graph import ExportGraph, signature_of
from msd_export.parity import (
    Gate,
    ViewParity,
    check_parity,
    compare_logits,
    notes_on_source,
    parity_as_json,
    predict_every_view,
)
from msd_export.predictors import Predictor, TorchPredictor, open_predictor
from msd_export.signature import ModelInputs, Precision, Target

Form = tuple[Target, Precision]
Exportable = LoadedModel[FusionForClassification]

PRECISIONS: Mapping[Target, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "coreml": ("fp16", "int8"),
}
# Of each view; a multiple of this changed no scale visibly on any model tried.
_CALIBRATION_ROWS = 64


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What is exported and how strictly it is judged.

    Attributes:
        forms: Target and precision of each export.
        max_drop_points: Most points of the metric that a form may lose on the test split.
        examples: Test examples that verification uses; None: all.
        overwrite: Replace exports that exist.
    """

    forms: tuple[Form, ...]
    max_drop_points: float = 1.0
    examples: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for target, precision in self.forms:
            if precision not in PRECISIONS[target]:
                raise ConfigError(
                    f"{target} has no {precision}", fix=f"It has {', '.join(PRECISIONS[target])}"
                )
        check_range("--max-drop", self.max_drop_points, 0.0, 100.0)
        check_range("--examples", self.examples, 1, 100_000_000)


def forms_of(targets: Iterable[Target], precisions: Collection[str]) -> tuple[Form, ...]:
    """Return every wanted target in every wanted precision that it has; no precisions: all of them.

    Raises:
        ConfigError: A target has none of the wanted precisions.
    """
    forms = []
    for target in targets:
        matching = [p for p in PRECISIONS[target] if not precisions or p in precisions]
        if not matching:
            raise ConfigError(
                f"{target} has none of the precisions {', '.join(sorted(precisions))}",
                where="--precision",
                fix=f"It has {', '.join(PRECISIONS[target])}",
            )
        forms += [(target, precision) for precision in matching]
    return tuple(forms)


def export_student(
    run: RunDirectory, config: ExportConfig, hooks: StageHooks | None = None
) -> list[ExportFolder]:
    """Export a run's student in every wanted form, each verified on the run's test split.

    Raises:
        ArtifactError: The run is unfinished, or an export exists and overwrite is false.
        ExportError: A converter failed.
        ParityError: Forms are beyond tolerance; they are not written, all others are.
    """
    hooks = hooks or StageHooks()
    run.require_finished()
    loaded = load_model(run.student)
    for form in config.forms:
        _refuse_existing(run.exports / "-".join(form), loaded, overwrite=config.overwrite)
    for path in _others_of_another_student(run, loaded, config):
        hooks.on_note(f"{path} was made from another student: export it too, with --overwrite")
    hooks.on_stage(f"Reading {config_of_run(run).data.spec}")
    data = data_of_run(run, loaded.preprocessor)
    with tempfile.TemporaryDirectory() as scratch:
        exporter = _Exporter(loaded, data, config, hooks, name=run.root.name, scratch=Path(scratch))
        return _export_all(exporter, config.forms, run.exports, hooks)


def _export_all(
    exporter: "_Exporter", forms: Iterable[Form], parent: Path, hooks: StageHooks
) -> list[ExportFolder]:
    """Export every form; one beyond tolerance does not keep the others from being written."""
    written: list[ExportFolder] = []
    refused: dict[str, ParityError] = {}
    for form in forms:
        try:
            written.append(exporter.export(form, parent))
        except ParityError as error:
            hooks.on_note(f"not written: {error.what}")
            refused["-".join(form)] = error
    if refused:
        kept = f"; written: {', '.join(item.name for item in written)}" if written else ""
        raise ParityError(
            "; ".join(f"{name}: {error.what}" for name, error in refused.items()) + kept,
            fix=next(iter(refused.values())).fix,
        )
    return written


def _refuse_existing(path: Path, student: Exportable, *, overwrite: bool) -> None:
    option = "Use --overwrite"
    if stated_source(path) not in (None, student.digest):
        option = "It was made from another student; replace it with --overwrite"
    refuse_existing(path, overwrite=overwrite, option=option)


def _others_of_another_student(
    run: RunDirectory, student: Exportable, config: ExportConfig
) -> list[Path]:
    """Return the exports that are not about to be replaced and that `msd bench` will refuse."""
    forms = ((target, precision) for target in PRECISIONS for precision in PRECISIONS[target])
    paths = [run.exports / "-".join(form) for form in forms if form not in config.forms]
    return [path for path in paths if stated_source(path) not in (None, student.digest)]


def export_teacher_reference(
    run: RunDirectory, hooks: StageHooks | None = None
) -> ExportFolder | None:
    """Export a run's teacher to float32 ONNX, the reference that `msd bench` compares with.

    An export of the same teacher is used again. A teacher of another family has none, since only
    models of our own are exported: it is measured in PyTorch.
    """
    hooks = hooks or StageHooks()
    run.require_finished()
    if (family := family_of(run.teacher)) is not None:
        hooks.on_note(f"the {family} teacher is measured in PyTorch alone: it has no export")
        return None
    loaded = load_model(run.teacher)
    folder = run.teacher_exports / "onnx-fp32"
    if folder.is_dir():
        existing = open_export(folder)
        if existing.manifest.get("source_digest") == loaded.digest:
            return existing
    data = data_of_run(run, loaded.preprocessor)
    config = ExportConfig((("onnx", "fp32"),), overwrite=True)
    name = f"{run.root.name} teacher"
    with tempfile.TemporaryDirectory() as scratch:
        exporter = _Exporter(loaded, data, config, hooks, name=name, scratch=Path(scratch))
        return exporter.export(("onnx", "fp32"), run.teacher_exports)


class _Exporter:
    """Exports one model; conversions and the source's logits are made once for all forms."""

    def __init__(
        self,
        loaded: Exportable,
        data: PreparedData,
        config: ExportConfig,
        hooks: StageHooks,
        *,
        name: str,
        scratch: Path,
    ) -> None:
        self.loaded, self.data, self.config, self.hooks = loaded, data, config, hooks
        self.name, self.scratch = name, scratch
        self.signature = signature_of(loaded)
        self.test = data.splits["test"].head(config.examples or len(data.splits["test"]))
        self._source_logits: LogitsByView | None = None

    def export(self, form: Form, parent: Path) -> ExportFolder:
        """Convert, verify and keep one form."""
        name = "-".join(form)
        final = parent / name
        with new_folder(final) as building:
            self.hooks.on_stage(f"Converting to {name}")
            self._convert(form, building / MODEL_FILE[form[0]])
            self.hooks.on_stage(f"Verifying {name} on {len(self.test)} test examples")
            predictor = open_predictor(ExportFolder(building, *form, manifest={}), threads=1)
            parity = self._compare(predictor, name)
            gate = Gate(form, self.config.max_drop_points / 100, self.config.examples)
            check_parity(parity, gate)
            report = parity_as_json(
                parity,
                gate,
                runtime=predictor.runtime,
                problem=self.loaded.problem,
                notes=notes_on_source(self._source(), self.loaded.problem),
            )
            self._complete(building, form, report)
        return open_export(final)

    def _convert(self, form: Form, path: Path) -> None:
        target, precision = form
        source = self._unquantized(target)
        if precision != "int8":
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, path)
        elif target == "onnx":
            from msd_export.onnx_quantize import quantize_onnx_int8

            quantize_onnx_int8(source, path, self._calibration())
        else:
            self._quantize_coreml(source, path)

    def _unquantized(self, target: Target) -> Path:
        """Return the target's float form, converted at the first call."""
        path = self.scratch / MODEL_FILE[target]
        if not path.exists():
            model, problem = self.loaded.model, self.loaded.problem
            if target == "onnx":
                from msd_export.onnx_export import export_onnx

                graph = ExportGraph(model, problem=problem, image_layout="nhwc")
                export_onnx(graph, self.signature, self._metadata(), path)
            else:
                from msd_export.coreml_export import export_coreml

                graph = ExportGraph(model, problem=problem, image_layout="nchw")
                export_coreml(graph, self.signature, self._metadata(), path)
        return path

    def _quantize_coreml(self, source: Path, path: Path) -> None:
        from msd_export.coreml_quantize import count_int8_weights, quantize_coreml_int8

        quantize_coreml_int8(source, path)
        if count_int8_weights(path) == 0:
            raise ExportError("int8 quantization left every weight in float", where=path.name)

    def _calibration(self) -> ModelInputs:
        """Return training examples under all three views, for the quantizer's ranges."""
        split = self.data.splits["train"]
        rows = np.linspace(0, len(split) - 1, min(_CALIBRATION_ROWS, len(split))).astype(np.int64)
        views = [split.inputs(rows, view) for view in View]
        return {name: np.concatenate([inputs[name] for inputs in views]) for name in views[0]}

    def _metadata(self) -> dict[str, str]:
        return {
            "description": f"{self.name}: {len(self.loaded.labels)} classes from image and text",
            "labels": json.dumps(list(self.loaded.labels), ensure_ascii=False),
            "problem": self.loaded.problem,
            "msd_deploy": __version__,
            "source_digest": self.loaded.digest,
            "preprocess_digest": self.loaded.preprocessor.digest(),
        }

    def _compare(self, predictor: Predictor, name: str) -> dict[View, ViewParity]:
        exported = self._predict(predictor, name)
        return compare_logits(exported, self._source(), self.test, self.loaded.problem)

    def _source(self) -> LogitsByView:
        """Return the source's logits; at the first call, tell what weakens a comparison."""
        if self._source_logits is None:
            source = TorchPredictor(self.loaded.folder, threads=1)
            self._source_logits = self._predict(source, "source")
            for note in notes_on_source(self._source_logits, self.loaded.problem):
                self.hooks.on_note(note)
        return self._source_logits

    def _predict(self, predictor: Predictor, name: str) -> LogitsByView:
        what = f"examples through {predictor.runtime} ({name})"
        return predict_every_view(
            predictor,
            self.test,
            on_count=lambda done, total: self.hooks.on_count(what, done, total),
        )

    def _complete(self, building: Path, form: Form, report: Json) -> None:
        """Add what an app needs beside the model, and the manifest last."""
        self.loaded.preprocessor.save(building)
        shutil.copyfile(self.loaded.folder / LABELS_NAME, building / LABELS_NAME)
        write_json(building / PARITY_NAME, report)
        facts: Json = {
            "target": form[0],
            "precision": form[1],
            "signature": self.signature.as_json(form[0]),
            "source_digest": self.loaded.digest,
            "dataset_digest": self.data.digest,
        }
        write_manifest(building, KIND, facts)
