import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from msd_deploy.artifacts.atomic import new_file
from msd_deploy.artifacts.manifest import write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.parsing import with_options
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig
from msd_deploy.data.preprocess import train_tokenizer
from msd_deploy.errors import ArtifactError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks
from msd_deploy.models.folders import load_model
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.run.output import check_run_output, with_absolute_paths
from msd_deploy.run.record import data_of_run, read_run

QUICK = RunConfig(
    data=DataConfig(spec="rows.jsonl", image_size=16),
    teacher=TeacherConfig(epochs=1, batch_size=4),
    distill=DistillConfig(epochs=1, batch_size=4),
)
STOP_AT_ONCE = RunHooks(training=Hooks(should_stop=lambda: True))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with 40 rows of text in rows.jsonl and one image beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    rows = [{"text": f"row {i} of {'ab'[i % 2]}", "label": "ab"[i % 2]} for i in range(40)]
    rows.append({"image": "a.png", "label": "a"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def go() -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

    return go


def stop_at_once(config: RunConfig, run: RunDirectory, *, resume: bool = False) -> None:
    with pytest.raises(StoppedError):
        run_distillation(config, run, resume=resume, hooks=STOP_AT_ONCE)


@contextmanager
def counted_opens(path: Path) -> Iterator[list[str]]:
    """Yield a list that gets the path each time that this process opens the file."""
    opened: list[str] = []
    is_counting = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_counting and event == "open" and str(arguments[0]) == str(path):
            opened.append(str(path))

    sys.addaudithook(hook)  # cannot be removed again
    yield opened
    is_counting = False


def alter_teacher(folder: Path) -> None:
    """Give a teacher another digest while it stays whole."""
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    write_manifest(folder, "model", {})


def test_a_run_begun_with_relative_paths_is_used_from_anywhere(
    project: Path, go_elsewhere: Callable[[], None]
) -> None:
    train_tokenizer(["row of a or b"], vocabulary_size=60).save("words.json")
    config = with_options(QUICK, {"data.tokenizer": Path("words.json")})
    stop_at_once(config, RunDirectory(Path("run")))
    go_elsewhere()
    run = RunDirectory(project / "run")
    run_distillation(read_run(run).config, run, resume=True)
    assert (
        len(data_of_run(read_run(run), load_model(run.student).preprocessor).splits["train"]) > 20
    )
    stated = read_run(run).config.data
    assert (stated.spec, stated.tokenizer) == (str(project / "rows.jsonl"), project / "words.json")


def test_a_run_is_resumed_with_the_path_spelled_otherwise(project: Path) -> None:
    run = RunDirectory(project / "run")
    stop_at_once(QUICK, run)
    for spec in ("./rows.jsonl", "../project/rows.jsonl", str(project / "rows.jsonl")):
        stop_at_once(with_options(QUICK, {"data.spec": spec}), run, resume=True)


def test_a_run_that_cannot_be_written_is_not_read_to_be_resumed(project: Path) -> None:
    run = RunDirectory(project / "run")
    stop_at_once(QUICK, run)
    # A folder in it would need a longer name than file systems take.
    renamed = RunDirectory(run.root.rename(project / (250 * "r")))
    with pytest.raises(ArtifactError, match=r"takes no new files .*resume there"):
        check_run_output(with_absolute_paths(QUICK), renamed, resume=True, overwrite=False)


@pytest.mark.parametrize(("method", "all_rows"), [("msd", True), ("none", False)])
def test_rows_without_a_label_count_only_by_the_teachers_predictions(
    project: Path, method: str, all_rows: bool
) -> None:
    rows = [{"text": f"row {i} of {'ab'[i % 2]} without"} for i in range(200)]
    with Path("rows.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    config = with_options(QUICK, {"distill.method": method, "distill.log_every": 1})
    run = RunDirectory(project / "run")
    run_distillation(config, run)
    lines = [json.loads(line) for line in run.history.read_text().splitlines()]
    steps = {
        phase: max(line["step"] for line in lines if line["phase"] == phase)
        for phase in ("teacher", "student")
    }
    labelled = -(-33 // 4)  # rows of text and an image, 4 a step
    assert abs(steps["teacher"] - labelled) <= 1
    assert abs(steps["student"] - (labelled + 200 // 4 if all_rows else labelled)) <= 1
    trained = np.asarray(load_file(run.teacher_predictions / "train.safetensors")["logits"])
    assert len(trained) == json.loads(run.run_json.read_text())["examples"]["train"] > 200


def test_a_data_set_that_is_gone_gets_advice_that_every_command_can_follow(
    project: Path, go_elsewhere: Callable[[], None]
) -> None:
    run = RunDirectory(project / "run")
    stop_at_once(QUICK, run)
    (project / "rows.jsonl").rename(project / "moved.jsonl")
    go_elsewhere()
    advice = rf"rows\.jsonl: .*is missing.*config\.data\.spec to .* in {run.run_json}"
    with pytest.raises(ArtifactError, match=advice):
        run_distillation(read_run(run).config, run, resume=True)
    stated = run.run_json.read_text().replace("rows.jsonl", "moved.jsonl")
    run.run_json.write_text(stated)
    run_distillation(read_run(run).config, run, resume=True)
    assert run.metrics.is_file()


def test_a_link_to_a_data_file_keeps_its_folder(project: Path, tmp_path: Path) -> None:
    """Its rows name images beside the link."""
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "rows.jsonl"
    link.symlink_to(project / "rows.jsonl")
    config = with_absolute_paths(with_options(QUICK, {"data.spec": str(link)}))
    assert config.data.spec == str(link)


def test_names_that_are_no_paths_stay_as_they_are(project: Path) -> None:
    config = RunConfig(student=StudentConfig(vision="google/vit-base"))
    assert with_absolute_paths(config) == config
    easy = with_options(config, {"data.spec": "easy-vqa"})
    assert with_absolute_paths(easy) == easy


@pytest.fixture
def teacher(project: Path) -> Path:
    """A teacher of the rows' classes."""
    run_distillation(QUICK, RunDirectory(Path("first")))
    return Path(shutil.copytree("first/teacher", "teacher"))


def test_run_json_is_read_once_when_a_run_is_resumed_and_once_for_a_report(project: Path) -> None:
    run = RunDirectory(project / "run")
    stop_at_once(QUICK, run)
    config = read_run(run).config
    with counted_opens(run.run_json) as opened:
        run_distillation(config, run, resume=True)
    assert len(opened) == 1
    with counted_opens(run.run_json) as opened:
        write_distillation_report([run], ReportConfig())
    assert len(opened) == 1


def test_a_resumed_run_reads_its_own_copy_of_a_given_teacher(
    teacher: Path, go_elsewhere: Callable[[], None], project: Path
) -> None:
    config = replace(QUICK, teacher=replace(QUICK.teacher, path=teacher))
    run = RunDirectory(project / "run")
    stop_at_once(config, run)
    digest = load_model(run.teacher).digest
    alter_teacher(project / teacher)
    stop_at_once(read_run(run).config, run, resume=True)
    shutil.rmtree(project / teacher)
    go_elsewhere()
    run_distillation(read_run(run).config, run, resume=True)
    predictions = json.loads((run.teacher_predictions / "manifest.json").read_text())
    stated = json.loads(run.run_json.read_text())
    assert digest == load_model(run.teacher).digest
    assert digest == predictions["key"]["teacher"] == stated["teacher_digest"]


@pytest.mark.parametrize("is_copied", [True, False])
def test_another_teacher_than_the_run_began_with_is_refused(
    teacher: Path, project: Path, is_copied: bool
) -> None:
    config = replace(QUICK, teacher=replace(QUICK.teacher, path=teacher))
    run = RunDirectory(project / "run")
    stop_at_once(config, run)
    changed = run.teacher if is_copied else project / teacher
    if not is_copied:
        shutil.rmtree(run.teacher)
    alter_teacher(changed)
    with pytest.raises(ArtifactError, match=rf"{changed}: the teacher has changed since the run"):
        run_distillation(config, run, resume=True)


def test_another_tokenizer_than_the_run_began_with_is_refused(project: Path) -> None:
    train_tokenizer(["row of a or b"], vocabulary_size=60).save("words.json")
    config = with_options(QUICK, {"data.tokenizer": Path("words.json")})
    run = RunDirectory(project / "run")
    stop_at_once(config, run)
    train_tokenizer(["quite other words"], vocabulary_size=60).save("words.json")
    with pytest.raises(ArtifactError, match=r"words\.json: the tokenizer has changed"):
        run_distillation(config, run, resume=True)


@pytest.mark.parametrize("key", ["teacher.path", "data.spec"])
def test_what_a_run_reads_is_not_deleted_by_overwriting_it(project: Path, key: str) -> None:
    run = RunDirectory(project / "run")
    run.root.mkdir()
    run.run_json.write_text("{}")
    inside = run.root / "teacher" / "rows.jsonl"
    inside.parent.mkdir()
    shutil.copyfile("rows.jsonl", inside)
    value = run.teacher if key == "teacher.path" else str(inside)
    with pytest.raises(ArtifactError, match=r"lies in the run of .* that would be overwritten"):
        run_distillation(with_options(QUICK, {key: value}), run, overwrite=True)
    assert inside.is_file()


def test_at_every_moment_of_overwriting_a_run_there_is_the_old_or_the_new_one(
    project: Path,
) -> None:
    run = RunDirectory(project / "run")
    stop_at_once(QUICK, run)
    (run.root / "old").touch()
    seen, is_watching = set(), True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if is_watching and event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            seen.add((run.run_json.is_file(), (run.root / "old").is_file()))

    sys.addaudithook(watch)  # cannot be removed again
    with pytest.raises(StoppedError):
        run_distillation(QUICK, run, overwrite=True, hooks=STOP_AT_ONCE)
    is_watching = False
    assert seen == {(True, True), (True, False)}


def test_a_start_that_was_killed_is_no_run_in_the_way(project: Path) -> None:
    """It died while it wrote run.json; before that, it had made an empty folder."""
    run = RunDirectory(Path("runs/killed"))
    run.root.mkdir(parents=True)
    writing = new_file(run.run_json)
    writing.__enter__()  # and never leaves
    assert [path.name[:10] for path in run.root.iterdir()] == [".run.json."]
    run_distillation(QUICK, run)
    assert not list(run.root.glob(".*"))
    with pytest.raises(ArtifactError, match="already exists"):
        run_distillation(QUICK, run)


def test_what_kills_left_half_built_goes_when_the_run_is_finished(project: Path) -> None:
    run = RunDirectory(Path("runs/killed"))
    stop_at_once(QUICK, run)
    for building in (new_file(run.metrics), new_file(run.example_weights)):
        building.__enter__()
    (
        run.root / ".student.building-abc"
    ).mkdir()  # not new_folder: this process would still write it
    (run.root / ".notes").write_text("the user's own")
    run_distillation(QUICK, run, resume=True)
    assert [path.name for path in run.root.glob(".*")] == [".notes"]
