"""A file that cannot be written is one line in every target, and nothing half-written stays."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.hooks import StageHooks
from msd_export.config import ExportConfig
from msd_export.folder import ExportFolder
from msd_export.formats import Variant, variant_name
from msd_export.onnx.converter import OnnxConverter
from msd_export.pipeline import export_student
from tests.full_disk import largest_file

VARIANTS: tuple[Variant, ...] = (
    ("onnx", "fp32"),
    ("onnx", "int8-dynamic"),
    ("ort", "fp32"),
    ("coreml", "fp16"),
    ("coreml", "int8"),
    ("executorch", "fp32"),
    ("litert", "fp32"),
)


def files_of(export: ExportFolder) -> list[Path]:
    return [path for path in export.folder.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_name)
def test_an_export_has_the_modes_of_the_umask_and_fails_in_one_line(
    own_run: RunDirectory, variant: Variant
) -> None:
    config = ExportConfig((variant,), max_drop_points=100, examples=4)
    before = os.umask(0o027)
    try:
        (export,) = export_student(own_run, config)
    finally:
        os.umask(before)
    for path in export.folder.rglob("*"):
        expected = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    sizes = [path.stat().st_size for path in files_of(export)]
    shutil.rmtree(own_run.exports)
    for limit in (1000, max(sizes) - 1):
        with (
            largest_file(limit),
            pytest.raises(ArtifactError, match=r"cannot be written \((File too|Input/output)"),
        ):
            export_student(own_run, config)
        assert not own_run.exports.exists()


@pytest.mark.parametrize("limit", [1000, 10**9])
def test_the_words_of_a_converter_are_kept_where_its_disk_is_full(
    own_run: RunDirectory, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    def fail(self: object, precision: str, path: Path) -> None:
        path.write_bytes(b"a part")
        raise ExportError("it has a fault of its own")

    monkeypatch.setattr(OnnxConverter, "convert", fail)
    notes: list[str] = []
    is_full = limit == 1000
    kind, words = (
        (ArtifactError, r"cannot be written \(File too large\)")
        if is_full
        else (ExportError, "a fault of its own")
    )
    with largest_file(limit), pytest.raises(kind, match=words):
        export_student(own_run, ExportConfig((("onnx", "fp32"),)), StageHooks(on_note=notes.append))
    assert any(note.endswith("ended with: it has a fault of its own") for note in notes) == is_full
    assert not own_run.exports.exists()
