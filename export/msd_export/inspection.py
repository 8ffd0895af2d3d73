"""`msd inspect`: the content of an export or model file, as values and as tables of strings.

Digests of an export folder are verified. The readers of each format are in the targets' folders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts.manifest import (
    RESTORE,
    SIGNATURE_NAME,
    Json,
    check_lfs,
    files_below,
    is_number,
    read_versioned_json,
)
from msd_deploy.errors import ArtifactError
from msd_deploy.models.folders import read_operating_point
from msd_deploy.quiet import quiet
from msd_export.folder import PARITY_NAME, ExportFolder, open_export
from msd_export.formats import FORMATS, Target, needing
from msd_export.model_file import ModelFacts, Reader

_SHOWN = ("max_abs_error", "agreement", "drop")
_STATED = ("msd_deploy", "created_utc", "source_digest", "dataset_digest", "made_with")


@dataclass(frozen=True, slots=True)
class Inspection:
    """An export, or a model's file alone.

    Attributes:
        path: What was looked at.
        target: Its format.
        facts: The content of the file.
        size_bytes: Of the model's file or package.
        precision: Of an export folder; None for a file alone, like all that follows.
        provenance: What made it, of what, with which data.
        files: Digest of each file of the folder, all of them verified.
        parity: parity.json.
        operating_point: How the thresholds in labels.json were chosen; None without any.
        is_signed: Whether it has a signature, which is not checked here.
    """

    path: Path
    target: Target
    facts: ModelFacts
    size_bytes: int
    precision: str | None = None
    provenance: Mapping[str, object] | None = None
    files: Mapping[str, str] | None = None
    parity: Json | None = None
    operating_point: str | None = None
    is_signed: bool = False

    def as_json(self) -> Json:
        """Return JSON values."""
        return {
            "path": str(self.path),
            "target": self.target,
            "precision": self.precision,
            "size_bytes": self.size_bytes,
            "provenance": self.provenance,
            "files": self.files,
            "parity": self.parity,
            "operating_point": self.operating_point,
            "is_signed": self.is_signed,
            **self.facts.as_json(),
        }


def inspect_export(path: Path) -> Inspection:
    """Look into an export folder, every file verified, or into a model's file or package alone.

    Raises:
        ArtifactError: It is neither, damaged, or altered.
        RuntimeUnavailableError: What reads it is not installed.
    """
    target = _target_of_file(path)
    if target is not None:
        check_lfs(*_files(path))
        return Inspection(path, target, _read(target, path), _size(path))
    if path.is_file():
        endings = ", ".join(Path(entry.model_file).suffix for entry in FORMATS.values())
        raise ArtifactError(
            "is not a model file",
            where=path,
            fix=f"Pass an export folder, or a file ending in {endings}",
        )
    export = open_export(path)
    files = export.manifest.get("files")
    assert isinstance(files, dict)  # it was verified
    point = read_operating_point(export.folder)
    return Inspection(
        path,
        export.target,
        _read(export.target, export.model_path),
        export.size_bytes(),
        export.precision,
        {name: export.manifest.get(name) for name in _STATED},
        files,
        _parity(export),
        None if point is None else point.rule,
        (export.folder / SIGNATURE_NAME).is_file(),
    )


def _target_of_file(path: Path) -> Target | None:
    for target, entry in FORMATS.items():
        if path.exists() and path.suffix == Path(entry.model_file).suffix:
            return target
    return None


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else files_below(path)


def _parity(export: ExportFolder) -> Json:
    path = export.folder / PARITY_NAME
    parity = read_versioned_json(path)
    views = parity.get("views")
    if not isinstance(views, dict):
        raise ArtifactError("has no views", where=path, fix=RESTORE)
    for name, view in views.items():
        numbers = view if isinstance(view, dict) else {}
        for key in _SHOWN:
            if not is_number(numbers.get(key)):
                raise ArtifactError(f"has no valid views.{name}.{key}", where=path, fix=RESTORE)
    return parity


def _read(target: Target, path: Path) -> ModelFacts:
    with needing(target):
        read = _READERS[target]()
    return read(path)


def _onnx() -> Reader:
    from msd_export.onnx.inspector import read_onnx

    return read_onnx


def _ort() -> Reader:
    from msd_export.onnx.inspector import read_ort

    return read_ort


def _coreml() -> Reader:
    from msd_export.coreml.inspector import read_coreml

    return read_coreml


def _executorch() -> Reader:
    with quiet():  # it logs what is missing for training when imported
        from msd_export.executorch.inspector import read_executorch

    return read_executorch


def _litert() -> Reader:
    with quiet():
        from msd_export.litert.inspector import read_litert

    return read_litert


def _coreai() -> Reader:
    with quiet():
        from msd_export.coreai.asset import read_coreai

    return read_coreai


_READERS: dict[Target, Callable[[], Reader]] = {
    "onnx": _onnx,
    "ort": _ort,
    "coreml": _coreml,
    "executorch": _executorch,
    "litert": _litert,
    "coreai": _coreai,
}
"""The reader of each target; its libraries are imported when it is used."""


_LAYERS = 12


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table.

    Attributes:
        title: Above it.
        columns: Their names.
        rows: As many cells each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(inspection: Inspection) -> tuple[TextTable, ...]:
    """Return what `msd inspect` shows, in its order.

    Names are the file's own: what would steer a terminal is replaced.
    """
    return tuple(
        TextTable(
            _printable(table.title),
            table.columns,
            tuple(tuple(map(_printable, row)) for row in table.rows),
        )
        for table in _tables(inspection)
    )


def _printable(text: str) -> str:
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _tables(inspection: Inspection) -> tuple[TextTable, ...]:
    facts = inspection.facts
    layers = facts.layers()
    return (
        _signature(inspection),
        TextTable(
            "Operators",
            ("type", "count", "int8"),
            tuple(
                (name, str(count), str(facts.int8_operators.get(name, 0)))
                for name, count in facts.operators.items()
            ),
        ),
        _sizes(f"Largest of {len(layers)} layers", dict(list(layers.items())[:_LAYERS])),
        _sizes("By outermost module", facts.groups()),
        _sizes("By storage type", facts.storage()),
        _metadata(inspection),
    )


def _signature(inspection: Inspection) -> TextTable:
    variant = (
        f"{inspection.target} {inspection.precision}" if inspection.precision else inspection.target
    )
    tensors = [("input", tensor) for tensor in inspection.facts.inputs]
    tensors += [("output", tensor) for tensor in inspection.facts.outputs]
    return TextTable(
        f"{inspection.path}: {variant}, {inspection.size_bytes:,} bytes",
        ("", "name", "shape", "dtype"),
        tuple((kind, t.name, " x ".join(map(str, t.shape)), t.dtype) for kind, t in tensors),
    )


def _sizes(title: str, sizes: Mapping[str, int]) -> TextTable:
    rows = tuple((name, f"{size:,}") for name, size in sizes.items())
    return TextTable(title, ("name", "bytes"), rows)


def _metadata(inspection: Inspection) -> TextTable:
    entry_points, point = ", ".join(inspection.facts.entry_points), inspection.operating_point
    values = {
        **(inspection.provenance or {}),
        **inspection.facts.metadata,
        **({"entry points": f"this one, {entry_points}"} if entry_points else {}),
        **({"operating point": point} if point else {}),
        **_parity_rows(inspection),
    }
    rows = tuple((name, _stated(value)) for name, value in values.items())
    return TextTable("Metadata", ("name", "value"), rows)


def _stated(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def _parity_rows(inspection: Inspection) -> dict[str, str]:
    views = (inspection.parity or {}).get("views", {})
    assert isinstance(views, dict)  # it was read so
    return {
        f"parity, {name}": f"max error {view['max_abs_error']:.1e},"
        f" agreement {view['agreement']:.2%}, drop {view['drop'] * 100:+.2f} points"
        for name, view in views.items()
    }
