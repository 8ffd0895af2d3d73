import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from msd_deploy.artifacts.manifest import read_json, read_manifest, write_json, write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError, DataError, MsdError
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from tests.full_disk import largest_file


@pytest.fixture
def own(msd_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the run, to break."""
    return RunDirectory(Path(shutil.copytree(msd_run.root, tmp_path / "own")))


def _refusal(*runs: RunDirectory, config: ReportConfig | None = None) -> MsdError:
    with pytest.raises(MsdError) as caught:
        write_distillation_report(runs, config or ReportConfig())
    assert not runs[0].reports.exists()
    return caught.value


def test_the_error_of_an_unfinished_run_names_the_next_command(own: RunDirectory) -> None:
    own.metrics.unlink()
    error = _refusal(own)
    assert isinstance(error, ArtifactError)
    assert "is unfinished" in str(error)
    assert "--resume" in error.fix


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"teacher": {"parameters": 5, "size_bytes": 5}}, "teacher.validation.multimodal.value"),
        ({"teacher": None}, "teacher.parameters"),
        ({"student": {"parameters": 0, "size_bytes": 5}}, "student.parameters"),
        ({"student": {"parameters": 5, "size_bytes": "5"}}, "student.size_bytes"),
    ],
)
def test_metrics_without_a_required_value_are_rejected(
    own: RunDirectory, changes: dict[str, object], place: str
) -> None:
    write_json(own.metrics, {**read_json(own.metrics), **changes})
    error = _refusal(own)
    assert isinstance(error, ArtifactError)
    assert f"metrics.json: has no valid {place} (" in str(error)


def test_a_study_is_pointed_to_its_own_page(own: RunDirectory) -> None:
    write_json(own.root / "study.json", {"schema_version": 1})
    assert "is a study of `msd compare`" in str(_refusal(own))


def test_missing_teacher_predictions_name_the_command_that_rebuilds_them(own: RunDirectory) -> None:
    shutil.rmtree(own.teacher_predictions)
    error = _refusal(own)
    assert "teacher_predictions" in str(error)
    assert "msd distill --resume" in error.fix


def test_predictions_for_other_data_are_rejected(own: RunDirectory) -> None:
    _change_key(own, data="0" * 64)
    assert "predictions for a different data set" in str(_refusal(own))


def _change_key(run: RunDirectory, **changes: str) -> None:
    stated = read_manifest(run.teacher_predictions, "teacher_predictions")
    key = stated["key"]
    assert isinstance(key, dict)
    facts = {"key": {**key, **changes}, "views": stated["views"]}
    write_manifest(run.teacher_predictions, "teacher_predictions", facts)


def test_runs_of_two_data_sets_do_not_go_together(own: RunDirectory, kd_run: RunDirectory) -> None:
    write_json(own.run_json, {**own.read(), "dataset_digest": "0" * 64})
    error = _refusal(kd_run, own)
    assert f"{own.root}: has a different data set than {kd_run.root}" in str(error)


def test_runs_of_two_teachers_do_not_go_together(own: RunDirectory, kd_run: RunDirectory) -> None:
    _change_key(own, teacher="0" * 64)
    error = _refusal(kd_run, own)
    assert f"{own.root}: has a different teacher than {kd_run.root}" in str(error)
    assert f"--teacher {kd_run.teacher}" in error.fix


@pytest.mark.parametrize("limit", [100, 1000, 30_000])
def test_a_full_disk_is_one_line_and_leaves_no_report(own: RunDirectory, limit: int) -> None:
    with largest_file(limit):
        error = _refusal(own)
    assert f"{own.reports / 'distillation.'}" in str(error)
    assert "cannot be written (File too large). Raise the limit" in str(error)


def test_a_run_is_named_once(kd_run: RunDirectory) -> None:
    again = RunDirectory(kd_run.root / ".." / kd_run.root.name)
    assert "given twice" in str(_refusal(kd_run, again))


def test_data_that_is_not_there_is_named(own: RunDirectory) -> None:
    stated = own.read()
    stated["config"]["data"]["spec"] = str(own.root / "moved.jsonl")  # type: ignore[index]
    write_json(own.run_json, stated)
    error = _refusal(own)
    assert isinstance(error, DataError)
    assert "moved.jsonl: the run's data set is missing" in str(error)


def test_data_that_has_changed_is_rejected(own: RunDirectory, hostile_data: Path) -> None:
    changed = Path(shutil.copytree(hostile_data.parent, own.root.parent / "data"))
    lines = (changed / "memes.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "text": "another text"}
    (changed / "memes.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]))
    stated = own.read()
    stated["config"]["data"]["spec"] = str(changed / "memes.jsonl")  # type: ignore[index]
    write_json(own.run_json, stated)
    assert "the data set has changed" in str(_refusal(own))


@pytest.mark.parametrize("ending", [".html", ".json"])
def test_a_report_is_kept_unless_overwritten(
    own: RunDirectory, tmp_path: Path, ending: str
) -> None:
    earlier = json.dumps({"kind": "distillation"})
    (tmp_path / f"mine{ending}").write_text(earlier)
    config = ReportConfig(out=tmp_path / "mine.html")
    assert "already exists" in str(_refusal(own, config=config))
    assert (tmp_path / f"mine{ending}").read_text() == earlier
    write_distillation_report([own], replace(config, overwrite=True))
    assert (tmp_path / "mine.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "mine.json").read_text())["schema_version"] == 1


@pytest.mark.parametrize("content", ['{"kind": "bench"}', "[]", "no JSON"])
def test_a_json_that_is_not_a_report_is_never_replaced(
    own: RunDirectory, tmp_path: Path, content: str
) -> None:
    (tmp_path / "package.json").write_text(content)
    error = _refusal(own, config=ReportConfig(out=tmp_path / "package.html", overwrite=True))
    assert "package.json: already exists and is not a JSON file of an earlier" in str(error)
    assert (tmp_path / "package.json").read_text() == content


@pytest.mark.parametrize("place", ["metrics.html", "student/page.html", "../own/run.html"])
def test_a_page_in_a_run_is_rejected(own: RunDirectory, kd_run: RunDirectory, place: str) -> None:
    before = {path: path.read_bytes() for path in own.root.rglob("*") if path.is_file()}
    error = _refusal(kd_run, own, config=ReportConfig(out=own.root / place, overwrite=True))
    assert f"is in the run {own.root}" in str(error)
    assert str(own.reports) in error.fix
    assert before == {path: path.read_bytes() for path in own.root.rglob("*") if path.is_file()}


def test_a_page_may_go_into_a_runs_reports(own: RunDirectory) -> None:
    config = ReportConfig(out=own.reports / "validation.html", split="validation")
    page, _ = write_distillation_report([own], config)
    assert page.with_suffix(".json").is_file()


@pytest.mark.parametrize("ending", [".html", ".json"])
def test_a_folder_is_not_replaced(own: RunDirectory, tmp_path: Path, ending: str) -> None:
    (tmp_path / f"mine{ending}").mkdir()
    error = _refusal(own, config=ReportConfig(out=tmp_path / "mine.html", overwrite=True))
    assert f"mine{ending}: is a folder" in str(error)


def test_a_page_below_a_file_is_rejected_before_the_work(own: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    error = _refusal(own, config=ReportConfig(out=tmp_path / "file" / "deep" / "page.html"))
    assert f"cannot be created: {tmp_path / 'file'} is not a folder" in str(error)


def test_a_runs_own_report_is_replaced(own: RunDirectory) -> None:
    (own.reports).mkdir()
    (own.reports / "distillation.html").write_text("the last one")
    page, _ = write_distillation_report([own], ReportConfig())
    assert page.read_text().startswith("<!doctype html>")
    assert {path.name for path in own.reports.iterdir()} == {
        "distillation.html",
        "distillation.json",
    }


def test_a_page_without_an_html_suffix_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"--out: must end in \.html, not 'report\.pdf'"):
        ReportConfig(out=Path("report.pdf"))
