import shutil
from pathlib import Path

import pytest

from msd_deploy.artifacts.manifest import read_json, write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError
from msd_mobile_bench.pipeline import run_bench
from msd_mobile_bench.variants import find_variants


@pytest.fixture
def run(untrained_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the run that may be damaged."""
    shutil.copytree(untrained_run.root, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def _alter_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_both_models_and_every_export_are_found(run: RunDirectory) -> None:
    forms = find_variants(run)
    assert [form.name for form in forms] == [
        "teacher-torch-fp32",
        "student-torch-fp32",
        "student-onnx-fp32",
    ]
    student = forms[2]
    assert student.size_bytes == (run.exports / "onnx-fp32/model.onnx").stat().st_size
    assert student.parameters == read_json(run.student / "manifest.json")["parameters"]


def test_the_teachers_export_is_a_variant_where_there_is_one(run: RunDirectory) -> None:
    shutil.rmtree(run.teacher)
    shutil.copytree(run.student, run.teacher)  # so that the student's export is the teacher's
    shutil.copytree(run.exports, run.teacher_exports)
    assert [form.name for form in find_variants(run)][:2] == [
        "teacher-torch-fp32",
        "teacher-onnx-fp32",
    ]


@pytest.mark.parametrize(
    "name", ["exports/onnx-fp32/model.onnx", "student/model.safetensors", "teacher/labels.json"]
)
def test_an_altered_byte_is_refused_before_anything_is_measured(
    run: RunDirectory, name: str
) -> None:
    _alter_a_byte(run.root / name)
    with pytest.raises(ArtifactError, match=f"{Path(name).name}.*SHA-256 does not match"):
        run_bench(run)
    assert not run.reports.exists()


def test_an_export_of_an_earlier_student_is_refused(run: RunDirectory) -> None:
    shutil.rmtree(run.student)
    shutil.copytree(run.teacher, run.student)
    message = rf"onnx-fp32: was not exported from the run's current student.*{run.root} --overwrite"
    with pytest.raises(ArtifactError, match=message):
        find_variants(run)


def test_a_reference_of_an_earlier_teacher_is_refused(run: RunDirectory) -> None:
    shutil.copytree(run.exports, run.teacher_exports)
    with pytest.raises(ArtifactError, match=r"run's current teacher\. Remove it"):
        find_variants(run)


def test_what_is_no_export_is_passed_over_with_a_line(run: RunDirectory) -> None:
    (run.exports / "my notes").mkdir()
    (run.exports / "my notes/ideas.txt").write_text("x")
    (run.exports / "todo.txt").write_text("x")
    shutil.copytree(run.student, run.exports / "a model")
    shutil.copytree(run.exports / "onnx-fp32", run.exports / "onnx-fp32 copy")
    for name in (".DS_Store", "Thumbs.db", ".onnx-int8.building-x"):
        (run.exports / name).write_text("x")
    notes: list[str] = []
    forms = find_variants(run, on_note=notes.append)
    assert [form.name for form in forms][2:] == ["student-onnx-fp32"]
    assert [Path(note.partition(":")[0]).name for note in notes] == [
        "a model",
        "my notes",
        "onnx-fp32 copy",
        "todo.txt",
    ]
    assert "not an export (no manifest.json); skipped" in notes[1]


def test_a_damaged_export_is_refused_and_not_passed_over(run: RunDirectory) -> None:
    (run.exports / "onnx-fp32/model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx: is missing"):
        find_variants(run)


def test_what_a_file_manager_leaves_in_an_export_changes_nothing(run: RunDirectory) -> None:
    before = find_variants(run)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._model.onnx"):
        (run.exports / "onnx-fp32" / name).write_text("x")
    assert find_variants(run) == before


def test_an_unfinished_run_is_refused(run: RunDirectory) -> None:
    run.metrics.unlink()
    with pytest.raises(ArtifactError, match="unfinished"):
        run_bench(run)


def test_parameters_that_a_foreign_teacher_does_not_state_are_unknown(run: RunDirectory) -> None:
    manifest = read_json(run.teacher / "manifest.json")
    del manifest["parameters"]
    write_json(run.teacher / "manifest.json", manifest)
    assert find_variants(run)[0].parameters is None
