"""Export a run's student, its teacher for `msd bench`, or any model folder, and verify all."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from msd_deploy.artifacts.atomic import remove_stale_folders
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import Json
from msd_deploy.artifacts.output import check_output, folder_beside
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.source import SourceData, SourceOptions, training_texts
from msd_deploy.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    MsdError,
    RuntimeUnavailableError,
)
from msd_deploy.hooks import StageHooks
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel, load_classifier, load_model
from msd_deploy.models.specialist import SpecialistForClassification
from msd_deploy.run.record import prepare_for_run, read_finished_run, source_of_run
from msd_export.config import ExportConfig
from msd_export.exporter import Exporter
from msd_export.folder import ExportFolder, recorded_source
from msd_export.formats import FORMATS, variant_name, variants_of
from msd_export.onnx.end_to_end import require_end_to_end
from msd_export.opened_model import check_has_data, prepare_for_model, source_of_model
from msd_export.source import ExportSource, cut_as_json, with_cut_vocabulary

Failures = dict[str, MsdError]
"""Why a variant was not written, by its name."""


def check_request(
    folder: Path,
    spec: str | None,
    config: ExportConfig,
    *,
    options: SourceOptions,
    out: Path | None,
) -> None:
    """Check that a run is exported as it is, and a model folder with a data set.

    Args:
        folder: A run for `export_student`, or a model folder for `export_model`.
        spec: The data set; None: the run's own.
        config: What is exported.
        options: How the data set is read.
        out: Where the exports go; None: the default.

    Raises:
        ConfigError: The folder is of the other kind; names the argument.
    """
    if spec is None:
        check_has_data(folder, options)
    if not RunDirectory(folder).run_json.is_file():
        return
    if spec is not None or out is not None:
        raise ConfigError(
            "a run is exported with the data that it was trained on, into the run",
            where="data" if spec is not None else "out",
            fix="Leave out data and out (--data, --out), or name a model folder",
        )
    if config.cut_vocabulary is not None:
        raise ConfigError(
            "a run is exported with the vocabulary that its student has",
            where="cut_vocabulary",
            fix=f"Export the model folder {folder / 'student'} with its data (--data SPEC)",
        )


def export_student(
    run: RunDirectory,
    config: ExportConfig,
    hooks: StageHooks | None = None,
    *,
    failures: Failures | None = None,
) -> list[ExportFolder]:
    """Export a run's student in every requested variant, verified on the run's test split.

    Args:
        run: A finished run.
        config: What is exported and how strictly it is verified.
        hooks: Progress and notes.
        failures: Gets the errors of single variants, which are otherwise raised as one at the end.

    Raises:
        ArtifactError: The run is unfinished or in use, or an export exists and overwrite is false.
        ExportError: A converter failed.
        RuntimeUnavailableError: What a target needs is not installed.
        ParityError: Variants are beyond tolerance; like those that failed they are not written, all
            others are.
    """
    hooks = hooks or StageHooks()
    with claimed(run.root):
        record = read_finished_run(run)
        loaded = load_model(run.student)
        remove_stale_folders(run.exports)
        for variant in config.variants:
            _refuse_existing(
                run.exports / variant_name(variant), loaded, overwrite=config.overwrite
            )
        for path in _others_of_another_student(run, loaded, config):
            hooks.on_note(
                f"{path} was exported from another student: export it again and set overwrite"
                " (--overwrite)"
            )
        if config.end_to_end:
            require_end_to_end(loaded.preprocessor)
        hooks.on_stage(f"Reading {record.config.data.spec}")
        raw = source_of_run(record)
        data = prepare_for_run(record, raw, loaded.preprocessor, on_count=hooks.on_count)
        with _source(loaded, data, run.root.name, config, raw=raw) as source:
            return _export_all(Exporter(source, config, hooks), run.exports, failures)


@contextmanager
def _source(
    loaded: LoadedModel[ViewClassifier],
    data: PreparedData,
    name: str,
    config: ExportConfig,
    *,
    raw: SourceData | None = None,
) -> Iterator[ExportSource]:
    """Yield what is exported, with a folder for scratch; see `ExportSource`."""
    with tempfile.TemporaryDirectory() as scratch:
        given = {"author": config.author, "license": config.license}
        stated = {key: value for key, value in given.items() if value is not None}
        yield ExportSource(
            loaded,
            data,
            name,
            Path(scratch),
            config.calibration,
            raw,
            stated=stated,
            skips_image_encoder=not config.flat,
        )


def _export_all(exporter: Exporter, parent: Path, failures: Failures | None) -> list[ExportFolder]:
    """Export every variant; one that fails does not keep the others from being written."""
    written: list[ExportFolder] = []
    failed: Failures = {}
    for variant in exporter.config.variants:
        try:
            written.append(exporter.export(variant, parent))
        except (ExportError, RuntimeUnavailableError) as error:
            exporter.hooks.on_note(f"{variant_name(variant)} was not written: {error.what}")
            failed[variant_name(variant)] = error
    if failures is not None:
        failures.update(failed)
    elif failed:
        raise joined(failed, written)
    return written


def joined(failures: Failures, written: Iterable[ExportFolder]) -> MsdError:
    """Return one error with the reasons why variants were not written, of the worst kind."""
    names = ", ".join(item.name for item in written)
    reasons: dict[str, list[str]] = {}
    for name, error in failures.items():
        reasons.setdefault(error.what, []).append(name)
    message = "; ".join(f"{', '.join(names)}: {what}" for what, names in reasons.items())
    fixes = dict.fromkeys(error.fix for error in failures.values() if error.fix)
    worst = max(failures.values(), key=lambda error: error.exit_code)
    return type(worst)(message + (f"; written: {names}" if names else ""), fix=". ".join(fixes))


def _refuse_existing(path: Path, student: LoadedModel[ViewClassifier], *, overwrite: bool) -> None:
    fix = "Set overwrite (--overwrite)"
    if recorded_source(path) not in (None, student.digest):
        fix = "It was made from another student; set overwrite (--overwrite) to replace it"
    check_output(path, "export", is_kind=True, overwrite=overwrite, fix=fix)


def _others_of_another_student(
    run: RunDirectory, student: LoadedModel[ViewClassifier], config: ExportConfig
) -> list[Path]:
    """Return the exports that are not about to be replaced and that `msd bench` will refuse."""
    others = [v for v in variants_of(FORMATS, ("all",)) if v not in config.variants]
    paths = [run.exports / variant_name(variant) for variant in others]
    return [path for path in paths if recorded_source(path) not in (None, student.digest)]


def export_model(
    folder: Path,
    spec: str,
    config: ExportConfig,
    *,
    options: SourceOptions,
    out: Path | None = None,
    hooks: StageHooks | None = None,
    failures: Failures | None = None,
) -> list[ExportFolder]:
    """Export any model folder, such as a teacher's, as `export_student` exports a run's student.

    Args:
        folder: The model folder, of our own kind or another family.
        spec: Data set with the model's classes: its training split calibrates, its test split
            verifies.
        config: What is exported and how strictly it is verified.
        options: How the data set is read.
        out: Where the exports go; None: `exports_beside` the folder.
        hooks: Progress and notes.
        failures: As there.

    Raises:
        DataError: The data cannot be used, or has other classes than the model.
        MsdError: As `export_student`.
    """
    hooks = hooks or StageHooks()
    loaded = load_classifier(folder)
    if isinstance(loaded.model, SpecialistForClassification):
        raise ArtifactError(
            f"is a teacher of the {loaded.model.view} alone, which is not exported",
            where=folder,
            fix="Distil a student with it (`msd distill`), and export that",
        )
    parent = out or exports_beside(folder)
    if parent.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(
            "lies inside the model folder, which must not change",
            where=parent,
            fix="Choose another out (--out)",
        )
    with claimed(parent):
        remove_stale_folders(parent)
        for variant in config.variants:
            _refuse_existing(parent / variant_name(variant), loaded, overwrite=config.overwrite)
        if config.end_to_end:
            require_end_to_end(loaded.preprocessor)
        hooks.on_stage(f"Reading {spec}")
        raw = source_of_model(loaded, spec, options)
        data = prepare_for_model(loaded, raw, spec, options=options, hooks=hooks)
        with _source(loaded, data, folder.resolve().name, config, raw=raw) as source:
            if (most := config.cut_vocabulary) is not None:
                source = _with_cut_vocabulary(source, spec, most, options=options, hooks=hooks)
            return _export_all(Exporter(source, config, hooks), parent, failures)


def _with_cut_vocabulary(
    source: ExportSource, spec: str, most: int, *, options: SourceOptions, hooks: StageHooks
) -> ExportSource:
    """Return what is exported, with so many word pieces at most."""
    assert source.raw is not None
    raw, whole = source.raw, source.loaded
    loaded, cut = with_cut_vocabulary(whole, training_texts(raw), most=most)
    hooks.on_note(cut.note)
    data = prepare_for_model(loaded, raw, spec, options=options, hooks=StageHooks())
    return replace(
        source,
        loaded=loaded,
        data=data,
        uncut=source,
        vocabulary=cut_as_json(cut, whole.preprocessor.tokenizer.get_vocab_size()),
    )


def exports_beside(folder: Path) -> Path:
    """Return the default folder for exports of a model folder: NAME-exports beside it."""
    return folder_beside(folder, "exports")


def export_teacher_reference(
    run: RunDirectory,
    data: PreparedData,
    manifest: Json | None = None,
    *,
    hooks: StageHooks | None = None,
) -> ExportFolder | None:
    """Export a run's teacher to float32 ONNX, the reference that `msd bench` compares with.

    Args:
        run: A finished run; an earlier export of its teacher is replaced.
        data: The run's data, prepared for the teacher.
        manifest: The teacher's, where its files were verified already; see `load_classifier`.
        hooks: Progress.

    Returns:
        The export; None with a note if the teacher cannot be converted.
    """
    hooks = hooks or StageHooks()
    loaded = load_classifier(run.distilled_teacher, manifest)
    remove_stale_folders(run.teacher_exports)
    config = ExportConfig((("onnx", "fp32"),), overwrite=True)
    name = f"{run.root.name} teacher"
    with _source(loaded, data, name, config) as source:
        try:
            return Exporter(source, config, hooks).export(("onnx", "fp32"), run.teacher_exports)
        except ExportError as error:
            hooks.on_note(f"the teacher is measured in PyTorch only: {error}")
            return None
