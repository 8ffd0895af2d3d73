"""From a model to verified exports: converted, quantized, compared, then renamed."""

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
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
from msd_deploy.data.source_types import SourceOptions
from msd_deploy.errors import ArtifactError, ExportError, MsdError, RuntimeUnavailableError
from msd_deploy.evaluation import LogitsByView
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LABELS_NAME, LoadedModel, load_classifier, load_model
from msd_deploy.runs import config_of_run, data_of_run, source_of_run
from msd_export.converters import Converter, converter_for
from msd_export.end_to_end import END_TO_END_NAME, require_end_to_end, write_end_to_end
from msd_export.end_to_end_check import check_end_to_end
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
from msd_export.model_data import data_of_model, source_of_model
from msd_export.parity import (
    Gate,
    check_parity,
    compare_logits,
    notes_on_source,
    parity_as_json,
    predict_every_view,
)
from msd_export.predictors import Predictor, TorchPredictor, open_predictor


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What is exported and how strictly it is judged.

    Attributes:
        forms: Target and precision of each export.
        max_drop_points: Most points of the metric that a form may lose on the test split.
        examples: Test examples that verification uses; None: all.
        overwrite: Replace exports that exist.
        end_to_end: Beside each model.onnx also write end_to_end.onnx; see `end_to_end`.
    """

    forms: tuple[Form, ...]
    max_drop_points: float = 1.0
    examples: int | None = None
    overwrite: bool = False
    end_to_end: bool = False

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
    if config.end_to_end:
        require_end_to_end(loaded.preprocessor)
    hooks.on_stage(f"Reading {config_of_run(run).data.spec}")
    data = data_of_run(run, loaded.preprocessor)
    with tempfile.TemporaryDirectory() as scratch:
        source = ExportSource(
            loaded,
            data,
            run.root.name,
            Path(scratch),
            on_note=hooks.on_note,
            read=partial(source_of_run, config_of_run(run), run),
        )
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


def export_model(
    folder: Path,
    spec: str,
    config: ExportConfig,
    *,
    options: SourceOptions,
    out: Path | None = None,
    hooks: StageHooks | None = None,
) -> list[ExportFolder]:
    """Export any model folder, such as a teacher's, as `export_student` exports a run's student.

    Args:
        folder: The model folder, of our own kind or another family.
        spec: Data set with the model's classes: its training split calibrates, its test split
            verifies.
        config: What is exported and how strictly it is judged.
        options: How the data set is read.
        out: Where the exports go; None: `exports_beside` the folder.
        hooks: What watches.

    Raises:
        DataError: The data cannot be used, or its classes are not the model's.
        MsdError: As `export_student`.
    """
    hooks = hooks or StageHooks()
    loaded = load_classifier(folder)
    parent = out or exports_beside(folder)
    if parent.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError("would lie in the model folder, which it would alter", where=parent)
    for form in config.forms:
        _refuse_existing(parent / form_name(form), loaded, overwrite=config.overwrite)
    if config.end_to_end:
        require_end_to_end(loaded.preprocessor)
    data = data_of_model(loaded, spec, options=options, hooks=hooks)
    with tempfile.TemporaryDirectory() as scratch:
        name = folder.resolve().name
        source = ExportSource(
            loaded,
            data,
            name,
            Path(scratch),
            on_note=hooks.on_note,
            read=partial(source_of_model, loaded, spec, options),
        )
        return _export_all(_Exporter(source, config, hooks), config.forms, parent, hooks)


def exports_beside(folder: Path) -> Path:
    """Return where the exports of a model folder go unless told otherwise: NAME-exports."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(f"{named.name}-exports")


def export_teacher_reference(
    run: RunDirectory, hooks: StageHooks | None = None
) -> ExportFolder | None:
    """Export a run's teacher to float32 ONNX, the reference that `msd bench` compares with.

    An export of the same teacher is used again. A teacher that cannot be converted has none: that
    is told, and it is measured in PyTorch.
    """
    hooks = hooks or StageHooks()
    run.require_finished()
    loaded = load_classifier(run.teacher)
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
        try:
            return _Exporter(source, config, hooks).export(("onnx", "fp32"), run.teacher_exports)
        except ExportError as error:
            hooks.on_note(f"the teacher is measured in PyTorch alone: {error}")
            return None


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
            predictor = open_predictor(ExportFolder(building, *form, manifest={}), threads=1)
            exported = self._predict(predictor, name)
            parity = compare_logits(exported, self._source(), self.test, self.loaded.problem)
            gate = Gate(form, self.config.max_drop_points / 100, self.config.examples)
            check_parity(parity, gate)
            report = parity_as_json(
                parity,
                gate,
                runtime=predictor.runtime,
                problem=self.loaded.problem,
                notes=notes_on_source(self._source(), self.loaded.problem),
            )
            sections: Json = {"conversion": facts}
            if self.config.end_to_end and target == "onnx":
                sections["end_to_end"] = self._end_to_end(building, exported)
            self._complete(building, form, {**report, **sections})
        return open_export(final)

    def _converter(self, target: Target) -> Converter:
        if target not in self._converters:
            self._converters[target] = converter_for(target, self.source)
        return self._converters[target]

    def _end_to_end(self, building: Path, plain: LogitsByView) -> Json:
        """Write the file with preprocessing inside, and hold it against the plain one."""
        assert self.source.read is not None  # only an export for benchmarks lacks it
        path = building / END_TO_END_NAME
        self.hooks.on_stage(f"Verifying {END_TO_END_NAME} on {len(self.test)} test examples")
        model = building / FORMATS["onnx"].model_file
        write_end_to_end(model, self.loaded.preprocessor, self.source.signature, path)
        read = self.source.read()
        return check_end_to_end(path, plain, self.test, read, self.loaded.problem)

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
