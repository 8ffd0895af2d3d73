"""What a run has to measure: teacher and student in PyTorch, and every export, files verified."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msd_deploy.artifacts.manifest import Json, read_manifest, sha256_of_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError
from msd_export.coreml.predictor import MilPredictor
from msd_export.folder import ExportFolder, exports_below, open_export
from msd_export.formats import FORMATS, Target
from msd_export.predictors import TorchPredictor, runtime_of
from msd_mobile_bench.schema import Who

TORCH = "torch"
_WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Form:
    """One model in one form.

    Attributes:
        model: teacher or student.
        target: torch, or a target of exports.
        precision: Of its weights.
        runtime: What runs it on this machine.
        folder: The model folder or export folder.
        size_bytes: Of its weights' file, or of the exported file or package.
        parameters: Of the model; None where its folder does not state them.
        digest: SHA-256 over the digests of the folder's files.
    """

    model: Who
    target: str
    precision: str
    runtime: str
    folder: Path
    size_bytes: int
    parameters: int | None
    digest: str

    @property
    def name(self) -> str:
        """Tell the form, for example student-onnx-int8."""
        return f"{self.model}-{self.target}-{self.precision}"

    @property
    def model_path(self) -> Path:
        """What a runtime opens: the model folder, or the exported file or package."""
        if self.target == TORCH:
            return self.folder
        return self.folder / FORMATS[cast(Target, self.target)].model_file

    @property
    def is_timed(self) -> bool:
        """Whether this machine runs it with the runtime that an app would use.

        The MIL evaluator tells what Core ML answers, nothing of its time and memory.
        """
        return self.runtime != MilPredictor.runtime

    @property
    def takes_batches(self) -> bool:
        """Whether it takes any number of examples at once."""
        return self.target == TORCH or FORMATS[cast(Target, self.target)].has_dynamic_batch


def find_forms(
    run: RunDirectory, *, on_note: Callable[[str], None] = lambda sentence: None
) -> list[Form]:
    """Find everything that a run has to measure; every file is checked against its digest.

    Args:
        run: A finished run.
        on_note: Called with a sentence for each thing among its exports that is none.

    Returns:
        The teacher's forms, then the student's; the teacher's export only where there is one.

    Raises:
        ArtifactError: A folder is missing, incomplete or altered, or an export was made from
            another model than the run's.
    """
    run.read_finished()
    teacher, student = _read_model(run.teacher), _read_model(run.student)
    reference = run.teacher_exports / "onnx-fp32"
    references = [open_export(reference)] if reference.is_dir() else []
    for export in references:
        _check_source(export, "teacher", teacher, "Remove it; `msd bench` makes it again")
    exports = sorted(find_exports(run, on_note=on_note), key=_order)
    return [
        _torch_form("teacher", run.teacher, teacher),
        *(_exported_form("teacher", export, teacher) for export in references),
        _torch_form("student", run.student, student),
        *(_exported_form("student", export, student) for export in exports),
    ]


def find_exports(
    run: RunDirectory, *, on_note: Callable[[str], None] = lambda sentence: None
) -> list[ExportFolder]:
    """Open every export of a run's student, its files and its source verified.

    Raises:
        ArtifactError: The run is unfinished; or an export is incomplete, altered, or was made from
            another student.
    """
    run.read_finished()
    student = _read_model(run.student)
    exports = exports_below(run.exports, on_note=on_note)
    for export in exports:
        fix = f"Export again with `msd export {run.root} --overwrite`, or remove it"
        _check_source(export, "student", student, fix)
    return exports


def _check_source(export: ExportFolder, model: Who, source: Json, fix: str) -> None:
    if export.manifest.get("source_digest") != sha256_of_json(source["files"]):
        raise ArtifactError(
            f"was not made from the run's present {model}", where=export.folder, fix=fix
        )


def _order(export: ExportFolder) -> tuple[int, int]:
    """Sort targets and their precisions as they are stated: ONNX, timed everywhere, first."""
    targets, offered = list(FORMATS), FORMATS[export.target].precisions
    return targets.index(export.target), offered.index(export.precision)


def _read_model(folder: Path) -> Json:
    if not folder.is_dir():
        raise ArtifactError("no such model folder", where=folder)
    return read_manifest(folder, "model")


def _torch_form(model: Who, folder: Path, manifest: Json) -> Form:
    return Form(
        model=model,
        target=TORCH,
        precision="fp32",
        runtime=TorchPredictor.runtime,
        folder=folder,
        size_bytes=(folder / _WEIGHTS_NAME).stat().st_size,
        parameters=_parameters(manifest),
        digest=sha256_of_json(manifest["files"]),
    )


def _exported_form(model: Who, export: ExportFolder, source: Json) -> Form:
    return Form(
        model=model,
        target=export.target,
        precision=export.precision,
        runtime=runtime_of(export.target),
        folder=export.folder,
        size_bytes=export.size_bytes(),
        parameters=_parameters(source),
        digest=sha256_of_json(export.manifest["files"]),
    )


def _parameters(manifest: Json) -> int | None:
    stated = manifest.get("parameters")
    return stated if type(stated) is int else None
