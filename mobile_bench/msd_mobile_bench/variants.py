"""The measured variants of a run: both models in PyTorch, and every export, files verified."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msd_deploy.artifacts.manifest import Json, read_manifest, sha256_of_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError
from msd_export.folder import (
    ExportFolder,
    exports_below,
    is_made_from,
    open_export,
    refuse_another_source,
)
from msd_export.formats import FORMATS, Target
from msd_mobile_bench.baselines.exports import BuiltBaseline
from msd_mobile_bench.schema import ModelRole, RowRole

TORCH = "torch"
_WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Variant:
    """One model in one variant.

    Attributes:
        model: teacher, student or baseline.
        target: torch, or a target of exports.
        precision: Of its weights.
        folder: The model folder or export folder.
        size_bytes: Of its weights' file, or of the exported file or package.
        parameters: Of the model; None where its folder does not state them.
        manifest: The folder's, its files verified.
        baseline: Name of the architecture, of a baseline.
    """

    model: RowRole
    target: str
    precision: str
    folder: Path
    size_bytes: int
    parameters: int | None
    manifest: Json
    baseline: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the folder's files."""
        return sha256_of_json(self.manifest["files"])

    @property
    def name(self) -> str:
        """The name, for example student-onnx-int8 or clip-vit-b32-onnx-fp32."""
        return f"{self.baseline or self.model}-{self.target}-{self.precision}"

    @property
    def model_path(self) -> Path:
        """What a runtime opens: the model folder, or the exported file or package."""
        if self.target == TORCH:
            return self.folder
        return self.folder / FORMATS[cast(Target, self.target)].model_file

    @property
    def weights_path(self) -> Path:
        """The file or package whose size counts: of a model folder its weights."""
        return self.folder / _WEIGHTS_NAME if self.target == TORCH else self.model_path

    @property
    def takes_batches(self) -> bool:
        """Whether it takes any number of examples at once."""
        return self.target == TORCH or FORMATS[cast(Target, self.target)].has_dynamic_batch


def find_variants(
    run: RunDirectory,
    *,
    replace_reference: bool = False,
    on_note: Callable[[str], None] = lambda sentence: None,
) -> list[Variant]:
    """Find everything that a run has to measure; every file is checked against its digest, once.

    Args:
        run: A finished run.
        replace_reference: Leave out an export of an earlier teacher, which is about to be replaced.
        on_note: Called with a sentence for each thing among its exports that is none.

    Returns:
        The teacher's variants, then the student's; the teacher's export only where there is one.

    Raises:
        ArtifactError: A folder is missing, incomplete or altered, or an export was made from
            another model than the run's.
    """
    teacher, student = _read_model(run.distilled_teacher), _read_model(run.student)
    exports = sorted(exports_below(run.exports, on_note=on_note), key=_order)
    for export in exports:
        fix = f"Export again with `msd export {run.root} --overwrite`, or remove it"
        refuse_another_source(export, "student", student, fix=fix)
    reference = run.teacher_exports / "onnx-fp32"
    references = [open_export(reference)] if reference.is_dir() else []
    if replace_reference:
        references = [export for export in references if is_made_from(export, teacher)]
    for export in references:
        fix = "Remove it: `msd bench` exports the teacher again"
        refuse_another_source(export, "teacher", teacher, fix=fix)
    return [
        _torch_variant("teacher", run.distilled_teacher, teacher),
        *(exported_variant("teacher", export, teacher) for export in references),
        _torch_variant("student", run.student, student),
        *(exported_variant("student", export, student) for export in exports),
    ]


def _order(export: ExportFolder) -> tuple[int, int]:
    """Return the sort key: targets and precisions in the order of FORMATS."""
    targets, offered = list(FORMATS), FORMATS[export.target].precisions
    return targets.index(export.target), offered.index(export.precision)


def _read_model(folder: Path) -> Json:
    if not folder.is_dir():
        raise ArtifactError(
            "no such model folder", where=folder, fix="Restore it, or distil again with --overwrite"
        )
    return read_manifest(folder, "model")


def _torch_variant(model: ModelRole, folder: Path, manifest: Json) -> Variant:
    return Variant(
        model=model,
        target=TORCH,
        precision="fp32",
        folder=folder,
        size_bytes=(folder / _WEIGHTS_NAME).stat().st_size,
        parameters=_parameters(manifest),
        manifest=manifest,
    )


def exported_variant(model: ModelRole, export: ExportFolder, source: Json) -> Variant:
    """Return the variant of an export.

    Args:
        model: What was exported.
        export: Its export.
        source: The manifest of the exported model.
    """
    return Variant(
        model=model,
        target=export.target,
        precision=export.precision,
        folder=export.folder,
        size_bytes=export.size_bytes(),
        parameters=_parameters(source),
        manifest=export.manifest,
    )


def baseline_variant(built: BuiltBaseline) -> Variant:
    """Return the variant of a baseline."""
    return Variant(
        model="baseline",
        target=built.target,
        precision=built.precision,
        folder=built.folder,
        size_bytes=built.size_bytes,
        parameters=built.parameters,
        manifest=built.manifest,
        baseline=built.baseline.name,
    )


def _parameters(manifest: Json) -> int | None:
    parameters = manifest.get("parameters")
    return parameters if type(parameters) is int else None
