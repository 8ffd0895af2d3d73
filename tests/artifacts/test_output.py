"""One policy for outputs: new, replaced or refused; a folder that begins replaces in one step."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.artifacts.atomic import remove_stale_folders, unfinished_writes
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.output import begin_folder, check_output, check_same_settings
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.parsing import config_as_json, with_options
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.errors import ArtifactError
from msd_deploy.pipeline import dry_run_distillation, run_distillation
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.fine_tuning_folder import fine_tuning_config
from msd_deploy.run.record import read_run
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig

ROOT = Path(__file__).parents[2]
# Dies before the n-th operation on files while a folder takes the place of an older one.
_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from msd_deploy.artifacts.output import begin_folder
last, done = int(sys.argv[3]), 0

def count(event, args):
    global done
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
        done += 1
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
begin_folder(Path(sys.argv[2]), "run.json", {"is": "new"}, replaces=True)
"""


def check(path: Path, **changed: object) -> bool:
    arguments = {"is_kind": True, "overwrite": False, "fix": "Use --overwrite", **changed}
    return check_output(path, "run", **arguments)  # type: ignore[arg-type]


def older(folder: Path) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text('{"is": "old"}')
    (folder / "student").mkdir()
    return folder


def test_an_empty_folder_and_stale_leftovers_are_free(tmp_path: Path) -> None:
    assert not check(tmp_path / "nowhere")
    assert not check(tmp_path)
    (tmp_path / ".run.json.building-abc").write_text("")
    assert not check(tmp_path)


def test_what_is_there_is_replaced_only_if_allowed_and_of_its_kind(tmp_path: Path) -> None:
    folder = older(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"run: already exists\. Use --overwrite"):
        check(folder)
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match=r"is not a run, so it is not .* another --out"):
            check(folder, is_kind=False, overwrite=overwrite)
    assert check(folder, overwrite=True)


def no_place(tmp_path: Path, place: str) -> Path:
    """A folder in which nothing can be created, whoever asks for it."""
    (tmp_path / "file.txt").write_text("the user's own")
    return {"file": tmp_path / "file.txt", "proc": Path("/proc")}[place]


@pytest.mark.parametrize("place", ["file", "proc"])
@pytest.mark.parametrize("below", ["run", "deep/er/run"])
def test_a_place_where_nothing_can_be_created_is_named(
    tmp_path: Path, place: str, below: str
) -> None:
    folder = no_place(tmp_path, place)
    with pytest.raises(ArtifactError) as refused:
        check(folder / below)
    message = str(refused.value)
    assert message.startswith(f"{folder / below}: cannot be ")
    assert f": {folder} " in message
    assert "Choose another --out" in message
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file.txt"]


@pytest.mark.parametrize("place", ["file", "proc"])
@pytest.mark.parametrize("command", ["distill", "dry run", "teacher", "compare"])
def test_no_command_reads_its_data_for_an_output_that_cannot_be_written(
    tmp_path: Path, place: str, command: str
) -> None:
    out = no_place(tmp_path, place) / "run"
    data = DataConfig(spec="no-such-file.jsonl")
    config, run = RunConfig(data=data), RunDirectory(out)
    teaching = TeachingConfig(data, FineTuneConfig(model="no/such"))
    commands: dict[str, Callable[[], object]] = {
        "distill": lambda: run_distillation(config, run),
        "dry run": lambda: dry_run_distillation(config, run),
        "teacher": lambda: fine_tune_teacher(teaching, out),
        "compare": lambda: run_study(StudyConfig(config), out),
    }
    with pytest.raises(ArtifactError, match=rf"^{out}: cannot be .*Choose another --out"):
        commands[command]()


INPUTS = ("data.spec", "data.tokenizer")


@pytest.mark.parametrize(
    "key", [*INPUTS, "teacher.path", "teacher.image_path", "teacher.text_path", "student.start"]
)
def test_a_resumed_run_names_an_input_that_is_missing(tmp_path: Path, key: str) -> None:
    run, gone = RunDirectory(tmp_path / "run"), tmp_path / "gone.jsonl"
    value = str(gone) if key == "data.spec" else gone
    begin = with_options(RunConfig(teacher=TeacherConfig(path=Path("hub/name"))), {key: value})
    run.root.mkdir()
    record = {"config": config_as_json(begin), "dataset_digest": "0" * 64, "schema_version": 1}
    run.run_json.write_text(json.dumps(record))
    message = rf"^{gone}: is missing.*config\.{key} to its .* in {run.run_json}"
    with pytest.raises(ArtifactError, match=message):
        run_distillation(read_run(run).config, run, resume=True)


@pytest.mark.parametrize("key", [*INPUTS, "finetune.model", "finetune.vision", "finetune.adapt"])
def test_a_resumed_teacher_names_an_input_that_is_missing(tmp_path: Path, key: str) -> None:
    gone, start = str(tmp_path / "gone.jsonl"), {} if key == "finetune.adapt" else {"model": "clip"}
    begin = with_options(TeachingConfig(finetune=FineTuneConfig(**start)), {key: gone})
    record = {"config": config_as_json(begin), "schema_version": 1}
    (tmp_path / "training.json").write_text(json.dumps(record))
    with pytest.raises(
        ArtifactError, match=rf"^{gone}: is missing.*config\.{key} to .*training\.json"
    ):
        fine_tune_teacher(fine_tuning_config(tmp_path), tmp_path, resume=True)


def test_what_holds_an_input_is_not_replaced(tmp_path: Path) -> None:
    folder = older(tmp_path / "run")
    inputs = (None, tmp_path / "data.jsonl", folder / "student")
    with pytest.raises(ArtifactError, match=r"student: lies in the run that would be overwritten"):
        check(folder, overwrite=True, inputs=inputs)
    assert check(folder, overwrite=True, inputs=inputs[:2])


def test_other_settings_are_named_by_their_first_difference(tmp_path: Path) -> None:
    before: dict[str, object] = {"seed": 0, "data": {"spec": "a", "strict": True}}
    now: dict[str, object] = {"seed": 1, "data": {"spec": "b", "strict": True}}
    check_same_settings(tmp_path, before, before, fix="")
    with pytest.raises(ArtifactError, match=r"\(data\.spec: 'a' then, 'b' now\)\. Start again"):
        check_same_settings(tmp_path, before, now, fix="Start again")


def test_a_link_to_a_folder_is_kept_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    folder, link = older(tmp_path / "run"), tmp_path / "link"
    link.symlink_to(folder)
    begin_folder(link, "run.json", {"is": "new"}, replaces=True)
    assert link.is_symlink()
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert read_json(link / "run.json") == {"is": "new"}


@pytest.mark.parametrize("named", [".", "../run"])
def test_the_working_directory_is_emptied_and_stays_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder = older(tmp_path / "run")
    monkeypatch.chdir(folder)
    begin_folder(Path(named), "run.json", {"is": "new"}, replaces=True)
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    Path("later").write_text("relative paths still work")
    assert (folder / "later").is_file()


def test_a_folder_that_cannot_be_renamed_is_emptied(tmp_path: Path) -> None:
    folder = older(tmp_path / "run")
    mount = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        begin_folder(folder, "run.json", {"is": "new"}, replaces=True)
        assert [path.name for path in folder.iterdir()] == ["run.json"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_beginning_killed_at_any_operation_leaves_the_old_or_the_new_folder(
    tmp_path: Path,
) -> None:
    seen = set()
    for operation in range(1, 100):
        place = tmp_path / str(operation)
        place.mkdir()
        folder = older(place / "run")
        command = [sys.executable, "-S", "-c", _CHILD, str(ROOT), str(folder), str(operation)]
        code = subprocess.run(command, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        remove_stale_folders(place)
        assert unfinished_writes(place) == []
        record = read_json(folder / "run.json")["is"]
        assert (folder / "student").exists() == (record == "old")
        seen.add(record)
        if code == 0:
            assert record == "new"
            break
    assert seen == {"old", "new"}
