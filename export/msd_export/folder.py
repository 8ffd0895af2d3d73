"""An exported model on disk: exports/TARGET-PRECISION with everything that an app needs.

The model's file or package (see `formats`), labels.json, tokenizer.json, preprocess.json,
parity.json, MODEL_CARD.md and a manifest with the digest of every file but the card.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    Json,
    files_below,
    is_system_file,
    read_manifest,
    read_versioned_json,
    sha256_of_json,
)
from msd_deploy.errors import ArtifactError
from msd_export.formats import FORMATS, Precision, Target, is_variant, variant_name

PARITY_NAME = "parity.json"
KIND = "export"


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """A verified export.

    Attributes:
        folder: Where it lies.
        target: Format.
        precision: Of its weights and, if quantized, activations.
        manifest: The manifest's content.
    """

    folder: Path
    target: Target
    precision: Precision
    manifest: Json = field(repr=False)

    @property
    def name(self) -> str:
        """The folder's name by its content, for example onnx-int8."""
        return variant_name((self.target, self.precision))

    @property
    def model_path(self) -> Path:
        """The model's file, or package folder."""
        return self.folder / FORMATS[self.target].model_file

    def size_bytes(self) -> int:
        """Return the size of the model's file, or of all files of its package."""
        path = self.model_path
        files = [path] if path.is_file() else files_below(path)
        return sum(file.stat().st_size for file in files)


def open_export(folder: Path) -> ExportFolder:
    """Open an export folder, every file verified against its digest.

    Raises:
        ArtifactError: It is missing, incomplete, altered, or of an unknown variant.
    """
    if not folder.is_dir():
        raise ArtifactError("no such export", where=folder, fix="Run `msd export` first")
    manifest = read_manifest(folder, KIND)
    target, precision = manifest.get("target"), manifest.get("precision")
    if not is_variant(target, precision):
        raise ArtifactError(
            f"has an unknown variant {target!r} {precision!r}",
            where=folder,
            fix="Export it again, or install a newer msd-deploy",
        )
    return ExportFolder(folder, cast(Target, target), cast(Precision, precision), manifest)


def is_made_from(export: ExportFolder, model: Json) -> bool:
    """Return whether an export was made from a model, given by its manifest."""
    return export.manifest.get("source_digest") == sha256_of_json(model["files"])


def refuse_another_source(export: ExportFolder, role: str, model: Json, *, fix: str) -> None:
    """Check that an export was made from a run's present model.

    Args:
        export: The export.
        role: teacher or student.
        model: The manifest of the run's.
        fix: What to do otherwise.

    Raises:
        ArtifactError: It was made from another.
    """
    if not is_made_from(export, model):
        raise ArtifactError(
            f"was not exported from the run's current {role}", where=export.folder, fix=fix
        )


def recorded_source(folder: Path) -> str | None:
    """Return the digest of the model that an export was made from, by its manifest.

    None where there is no export, or a damaged one, which is an error when it is opened.
    """
    try:
        source = read_versioned_json(folder / MANIFEST_NAME).get("source_digest")
    except ArtifactError:
        return None
    return source if isinstance(source, str) else None


def exports_below(
    folder: Path, *, on_note: Callable[[str], None] = lambda sentence: None
) -> list[ExportFolder]:
    """Open every export in a folder, by name; unfinished ones (hidden folders) do not count.

    Args:
        folder: A run's exports; need not exist.
        on_note: Called with a sentence for each thing in it that is passed over.

    Raises:
        ArtifactError: As `open_export`.
    """
    exports = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name[0] == "." or is_system_file(path):
            continue
        reason = _reason_against(path)
        if reason:
            on_note(f"{path}: {reason}; skipped")
        else:
            exports.append(open_export(path))
    return exports


def _reason_against(path: Path) -> str:
    """Return why a thing among exports is none of them; a damaged export still is one."""
    if not (path / MANIFEST_NAME).is_file():
        return f"not an export (no {MANIFEST_NAME})"
    manifest = read_versioned_json(path / MANIFEST_NAME)
    if manifest.get("kind") != KIND:
        return f"not an export (its kind is {manifest.get('kind')!r})"
    variant = f"{manifest.get('target')}-{manifest.get('precision')}"
    return "" if path.name == variant else f"not named after its content, {variant}"
