"""From a model to verified exports: converted, quantized, compared, then renamed."""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts import (
    Json,
    RunDirectory,
    new_folder,
    refuse_existing,
    write_json,
    write_manifest,
)
from msd_deploy.config import check_range
from msd_deploy.errors import ExportError, MsdError, RuntimeUnavailableError
from msd_deploy.evaluation import LogitsByView
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LABELS_NAME, LoadedModel, family_of, load_model
from msd_deploy.runs import config_of_run, data_of_run
from msd_deploy.views import View
from msd_export.converters import Converter, converter_for
from msd_export.export_folder import (
    KIND,
    PARITY_NAME,
    ExportFolder,
    open_export,
    stated_source,
)
from msd_export.export_source import ExportSource
from msd_export.formats import (
    FORMATS,
    Form,
    Target,
    form_name,
    refuse_unknown_form,
    require_target,
)
from msd_export.parity import (
    Gate,
    ViewParity,
    check_parity,
    compare_logits,
    notes_on_source,
    parity_as_json,
    predict_every_view,
)
from msd_export.predictors import (
    Predictor,
    TorchPredictor,
    open_predictor,
    second_predictor,
)
from msd_export.second_runtime import second_runtime_as_json


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
        for form in self.forms:
            refuse_unknown_form(form)
        check_range("--max-drop", self.max_drop_points, 0.0, 100.0)
        check_range("--examples", self.examples, 1, 100_000_000)


def export_student(
    run: RunDirectory, config: ExportConfig, hooks: StageHooks | None = None
) -> list[ExportFolder]:
    """Export a run's student in every wanted form, each verified on the run's test split.

    Raises:
        ArtifactError: The run is unfinished, or an export exists and overwrite is false.
        ExportError: A converter failed.
        RuntimeUnavailableError: What a target needs is not installed.
        ParityError: Forms are beyond tolerance; like those that failed they are not written, all
            others are.
    """
    hooks = hooks or StageHooks()
    run.require_finished()
    loaded = load_model(run.student)
    for form in config.forms:
        _refuse_existing(run.exports / form_name(form), loaded, overwrite=config.overwrite)
    for path in _others_of_another_student(run, loaded, config):
        hooks.on_note(f"{path} was made from another student: export it too, with --overwrite")
    hooks.on_stage(f"Reading {config_of_run(run).data.spec}")
    data = data_of_run(run, loaded.preprocessor)
    with tempfile.TemporaryDirectory() as scratch:
        source = ExportSource(loaded, data, run.root.name, Path(scratch), on_note=hooks.on_note)
        return _export_all(_Exporter(source, config, hooks), config.forms, run.exports, hooks)


def _export_all(
    exporter: "_Exporter", forms: Iterable[Form], parent: Path, hooks: StageHooks
) -> list[ExportFolder]:
    """Export every form; one that fails does not keep the others from being written."""
    written: list[ExportFolder] = []
    failed: dict[str, MsdError] = {}
    for form in forms:
        try:
            written.append(exporter.export(form, parent))
        except (ExportError, RuntimeUnavailableError) as error:
            hooks.on_note(f"{form_name(form)} is not written: {error.what}")
            failed[form_name(form)] = error
    if failed:
        raise _joined(failed, written)
    return written


def _joined(failed: dict[str, MsdError], written: list[ExportFolder]) -> MsdError:
    """Return one error that tells all, of the kind of the worst."""
    kept = f"; written: {', '.join(item.name for item in written)}" if written else ""
    reasons: dict[str, list[str]] = {}
    for name, error in failed.items():
        reasons.setdefault(error.what, []).append(name)
    told = "; ".join(f"{', '.join(names)}: {what}" for what, names in reasons.items())
    fixes = dict.fromkeys(error.fix for error in failed.values() if error.fix)
    worst = max(failed.values(), key=lambda error: error.exit_code)
    return type(worst)(told + kept, fix=". ".join(fixes))


def _refuse_existing(path: Path, student: LoadedModel[ViewClassifier], *, overwrite: bool) -> None:
    option = "Use --overwrite"
    if stated_source(path) not in (None, student.digest):
        option = "It was made from another student; replace it with --overwrite"
    refuse_existing(path, overwrite=overwrite, option=option)


def _others_of_another_student(
    run: RunDirectory, student: LoadedModel[ViewClassifier], config: ExportConfig
) -> list[Path]:
    """Return the exports that are not about to be replaced and that `msd bench` will refuse."""
    forms = ((target, precision) for target in FORMATS for precision in FORMATS[target].precisions)
    paths = [run.exports / form_name(form) for form in forms if form not in config.forms]
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
        source = ExportSource(loaded, data, name, Path(scratch), on_note=hooks.on_note)
        return _Exporter(source, config, hooks).export(("onnx", "fp32"), run.teacher_exports)


class _Exporter:
    """Exports one model; conversions and the source's logits are made once for all forms."""

    def __init__(self, source: ExportSource, config: ExportConfig, hooks: StageHooks) -> None:
        self.source, self.config, self.hooks = source, config, hooks
        self.loaded = source.loaded
        split = source.data.splits["test"]
        self.test = split.head(config.examples or len(split))
        self._converters: dict[Target, Converter] = {}
        self._source_logits: LogitsByView | None = None

    def export(self, form: Form, parent: Path) -> ExportFolder:
        """Convert, verify and keep one form."""
        target, precision = form
        require_target(target)
        name = form_name(form)
        final = parent / name
        with new_folder(final) as building:
            self.hooks.on_stage(f"Converting to {name}")
            facts = self._converter(target).convert(
                precision, building / FORMATS[target].model_file
            )
            self.hooks.on_stage(f"Verifying {name} on {len(self.test)} test examples")
            unfinished = ExportFolder(building, *form, manifest={})
            predictor = open_predictor(unfinished, threads=1)
            gate = Gate(form, self.config.max_drop_points / 100, self.config.examples)
            exported, parity = self._verify(predictor, gate)
            report = parity_as_json(
                parity,
                gate,
                runtime=predictor.runtime,
                problem=self.loaded.problem,
                notes=notes_on_source(self._source(), self.loaded.problem),
            )
            report |= self._second_opinion(unfinished, exported, gate)
            self._complete(building, form, {**report, "conversion": facts})
        return open_export(final)

    def _converter(self, target: Target) -> Converter:
        if target not in self._converters:
            self._converters[target] = converter_for(target, self.source)
        return self._converters[target]

    def _verify(
        self, predictor: Predictor, gate: Gate
    ) -> tuple[LogitsByView, dict[View, ViewParity]]:
        """Return a predictor's logits and their comparison with the source, within the gate."""
        exported = self._predict(predictor, form_name(gate.form))
        parity = compare_logits(exported, self._source(), self.test, self.loaded.problem)
        check_parity(parity, gate)
        return exported, parity

    def _second_opinion(self, export: ExportFolder, first: LogitsByView, gate: Gate) -> Json:
        """Verify in a second runtime too, where there is one."""
        predictor = second_predictor(export)
        if predictor is None:
            return {}
        logits, parity = self._verify(predictor, gate)
        told = second_runtime_as_json(parity, logits, first, runtime=predictor.runtime)
        return {"second_runtime": told}

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
            "signature": self.source.signature.as_json(form[0]),
            "source_digest": self.loaded.digest,
            "dataset_digest": self.source.data.digest,
        }
        write_manifest(building, KIND, facts)
