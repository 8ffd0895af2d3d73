import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.run.record import read_run
from msd_export.formats import FORMATS, distribution_of

Msd = Callable[..., Any]


def test_evaluate_repeats_the_runs_metrics(msd: Msd, finished_run: RunDirectory) -> None:
    metrics = json.loads(finished_run.metrics.read_text())
    data = read_run(finished_run).config.data.spec
    answer = msd("evaluate", finished_run.root, "--data", data, "--json")
    assert answer.code == 0, answer.stderr
    stated = metrics["student"]["test"]
    for view, score in answer.json()["views"].items():
        assert score["value"] == pytest.approx(stated[view]["value"], abs=1e-3)


def test_evaluate_uses_the_runs_own_data_by_default(msd: Msd, own_run: RunDirectory) -> None:
    answer = msd("evaluate", own_run.root, "--json")
    assert answer.code == 0, answer.stderr
    assert answer.json()["data"] == read_run(own_run).config.data.spec
    recorded = json.loads(own_run.metrics.read_text())["student"]["test"]
    assert answer.json()["views"] == {view: recorded[view] for view in answer.json()["views"]}
    refused = msd("evaluate", own_run.root, "--split", "all")
    assert "memes.jsonl include the run's training rows" in refused.error()
    content = json.loads(own_run.run_json.read_text())
    content["config"]["data"]["spec"] = "synthetic:posters"
    own_run.run_json.write_text(json.dumps(content))
    changed = msd("evaluate", own_run.root)
    assert "synthetic:posters: the data set has changed since the run" in changed.error()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("teacher", (), "--data: a model or export folder has no data set of its own"),
        ("student", ("--split", "all"), "--data: a model or export folder has no data set"),
        (".", ("--strict",), "--strict: a run's own data set is read as for its training"),
        (".", ("--max-pixels", "9"), "--max-pixels: a run's own data set is read as for its"),
    ],
)
def test_evaluate_without_data_is_for_runs(
    finished_run: RunDirectory, model: str, options: tuple[str, ...], message: str
) -> None:
    line = ["evaluate", str(finished_run.root / model), *options]
    answer = CliRunner(env={"COLUMNS": "300"}).invoke(app, line)
    assert answer.exit_code == 2
    assert message in answer.stderr


def test_evaluate_scores_the_rows_that_have_a_label(
    msd: Msd, finished_run: RunDirectory, tmp_path: Path
) -> None:
    rows = [
        {"text": f"guests {n}", "split": ("train", "validation", "test")[n % 3]} for n in range(30)
    ]
    labelled = [{**row, "label": ("benign", "hateful")[n % 2]} for n, row in enumerate(rows)]
    unlabelled = [{"text": f"more guests {n}"} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*labelled, *unlabelled]))
    answer = msd("evaluate", finished_run.root, "--data", path, "--split", "train", "--json")
    assert {score["examples"] for score in answer.json()["views"].values()} == {10}


def test_evaluate_takes_a_file_that_was_made_for_it(
    msd: Msd, finished_run: RunDirectory, tmp_path: Path
) -> None:
    """All rows say test and show one class; nothing is left to train on, and nothing need be."""
    rows = [{"text": f"guests {n} " * 30, "label": "hateful", "split": "test"} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "no label"}]))
    for options in ((), ("--split", "all")):
        answer = msd("evaluate", finished_run.root, "--data", path, *options, "--json")
        assert answer.code == 0, answer.stderr
        assert {score["examples"] for score in answer.json()["views"].values()} == {8}
        assert "texts are cut after" in answer.stderr
    for options, message in (
        (("--data", path, "--split", "validation"), "has no rows of validation"),
        (("--data", "synthetic:memes", "--split", "all"), "would be its training rows too"),
    ):
        assert message in msd("evaluate", finished_run.root, *options).error()
    path.write_text('{"text": "a", "label": "cat"}\n{"text": "b", "label": "benign"}\n')
    refused = msd("evaluate", finished_run.root, "--data", path, "--split", "all")
    assert "has other classes than the model (cat)" in refused.error()


def test_predict_notes_that_it_truncated_a_text(msd: Msd, finished_run: RunDirectory) -> None:
    answer = msd("predict", finished_run.root, "--text", "look at him go " * 30)
    assert answer.code == 0
    assert "The text was truncated to 16 tokens." in answer.stderr


def test_predict_states_identifiers_logits_and_probabilities(
    msd: Msd, finished_run: RunDirectory
) -> None:
    answer = msd("predict", finished_run.root, "--text", "look at him go", "--json").json()
    tokens, mask = Preprocessor.load(finished_run.student).tokens(["look at him go"])
    assert answer["input_ids"] == tokens[0].tolist()
    assert answer["is_text_cut"] is False
    assert answer["view"] == "text"
    assert mask.sum() > 2
    assert list(answer["logits"]) == list(answer["probabilities"])
    (decided,) = answer["decided"]
    assert decided == max(answer["logits"], key=answer["logits"].get)


@pytest.mark.slow
def test_vectors_are_written_beside_the_model(msd: Msd, own_run: RunDirectory) -> None:
    answer = msd("vectors", own_run.root)
    assert answer.code == 0, answer.stderr
    folder = own_run.root.with_name(f"{own_run.root.name}-vectors")
    assert "10,000 texts, 36 generated images, 59 image files, 100 examples" in answer.stderr
    assert (folder / "vectors.json").is_file()
    again = msd("vectors", own_run.root)
    assert again.code == 1
    assert "replace it with --overwrite" in again.error()


@pytest.mark.slow
def test_a_rule_that_the_student_cannot_meet_is_exit_code_3_and_the_run_is_kept(
    msd: Msd, finished_run: RunDirectory, tmp_path: Path
) -> None:
    spec = read_run(finished_run).config.data.spec
    options = ("--teacher", finished_run.teacher, "--epochs", "1", "--decide", "precision=0.95")
    answer = msd("distill", "--data", spec, *options, "--out", "run")
    assert answer.code == 3, answer.stderr
    assert "cannot meet precision=0.95 on validation" in answer.error()
    assert "Next:" not in answer.stderr
    assert RunDirectory(tmp_path / "run").metrics.is_file()


def test_vectors_of_a_model_folder_need_data(msd: Msd, finished_run: RunDirectory) -> None:
    answer = msd("vectors", finished_run.student, "--out", "somewhere")
    assert answer.code == 2
    assert "Invalid value for --data: a model or export folder has no data set" in answer.stderr


def test_evaluate_refuses_data_of_other_classes(msd: Msd, finished_run: RunDirectory) -> None:
    answer = msd("evaluate", finished_run.root, "--data", "synthetic:entailment")
    assert answer.code == 1
    assert "has other classes than the model" in answer.error()


def test_predict_takes_another_limit_of_pixels(
    msd: Msd, finished_run: RunDirectory, tmp_path: Path
) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "large.png")
    asked = ("predict", finished_run.root, "--image", tmp_path / "large.png", "--max-pixels")
    refused = msd(*asked, 1999)
    assert refused.code == 1
    assert "large.png: image has 2,000 pixels, more than the limit of 1,999" in refused.error()
    assert msd(*asked, 2000).code == 0


def test_predict_classifies_a_text_alone(msd: Msd, finished_run: RunDirectory) -> None:
    answer = msd("predict", finished_run.root, "--text", "look the guests came", "--json")
    assert set(answer.json()["probabilities"]) == {"benign", "hateful"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "nowhere", "--text", "x"), "no such folder"),
        (("export", "nowhere"), "no run.json"),
        (("bench", "nowhere"), "no run.json"),
        (("distill", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("distill", "--data", "synthetic:cats"), "synthetic:cats"),
        (("distill", "--config", "nowhere.toml"), "nowhere.toml"),
        (("distill", "--teacher", "nowhere"), "nowhere"),
        (("distill", "--resume", "--out", "nowhere"), "no run.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    msd: Msd, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    answer = msd(*arguments)
    assert answer.code == 1
    assert message in answer.error()
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_option_is_exit_code_2(msd: Msd) -> None:
    assert msd("distill", "--studnet", "tiny").code == 2
    assert msd("distill", "--student", "huge").code == 2


def test_a_configuration_file_is_checked_by_key(msd: Msd, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[distill]\ntemprature = 2.0\n")
    answer = msd("distill", "--config", file)
    assert answer.code == 1
    assert "distill.temprature: unknown key" in answer.error()


def test_doctor_names_what_is_missing_and_how_to_get_it(msd: Msd) -> None:
    answer = msd("doctor", "--json")
    parts = answer.json()["parts"]
    assert parts["torch"] is not None
    needed = {distribution_of(name) for form in FORMATS.values() for name in form.modules}
    assert set(parts) >= needed | {"easy-vqa", "onnxruntime-extensions"}
    assert "msd-deploy" in msd("doctor").stdout


def test_json_goes_to_stdout_alone(msd: Msd, finished_run: RunDirectory) -> None:
    answer = msd("evaluate", finished_run.root, "--json")
    json.loads(answer.stdout)
    assert "Reading " in answer.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resume_continues(
    start_msd: Any, msd: Msd, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    arguments = ("--examples", "400", "--teacher-epochs", "2", "--epochs", "2")
    process = start_msd("distill", "--out", "run", *arguments)
    while not (run.root / "history.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert f"msd distill --resume --out {run.root.name}" in stderr
    assert not run.metrics.exists()
    assert "unfinished" in msd("export", "run").error()
    resumed = msd("distill", "--resume", "--out", "run", "--json")
    assert resumed.code == 0, resumed.stderr
    assert run.metrics.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "RUN", "--int8-epochs", "1"), "--from: needs --out"),
        (
            ("--from", "RUN", "--student", "small", "--out", "new"),
            "--student: is fixed by the student that --from continues",
        ),
        (("--from", "RUN", "--resume", "--out", "new"), "takes its settings from the run"),
    ],
)
def test_options_that_contradict_from_are_refused(
    msd: Msd, finished_run: RunDirectory, words: tuple[str, ...], message: str
) -> None:
    answer = msd("distill", *(str(finished_run.root) if word == "RUN" else word for word in words))
    assert answer.code == 2
    assert message in " ".join(answer.stderr.replace("│", " ").split())


def test_a_run_goes_on_with_the_settings_and_the_teacher_of_another(
    msd: Msd, finished_run: RunDirectory, tmp_path: Path
) -> None:
    start = ("distill", "--from", finished_run.root, "--out", tmp_path / "new")
    answer = msd(*start, "--int8-epochs", 1, "--learning-rate", 0.001, "--json")
    assert answer.code == 0, answer.stderr
    before = json.loads(finished_run.run_json.read_text())["config"]
    after = json.loads((tmp_path / "new" / "run.json").read_text())["config"]
    assert after["data"] == before["data"]
    assert after["teacher"]["path"] == str(finished_run.teacher)
    assert after["student"] == before["student"] | {"start": str(finished_run.student)}
    assert after["distill"]["int8_epochs"] == 1
    assert after["distill"]["learning_rate"] == 0.001
    assert msd("distill", "--from", tmp_path, "--out", tmp_path / "newer").code == 1


@pytest.mark.parametrize(("patience", "may_end_early"), [(0, False), (5, True), (100, False)])
def test_a_dry_run_prints_classes_trainings_and_an_estimate(
    msd: Msd, small_config: RunConfig, tmp_path: Path, patience: int, may_end_early: bool
) -> None:
    options = ("--data", small_config.data.spec, "--patience", patience, "--out", tmp_path / "run")
    answer = msd("distill", *options, "--dry-run")
    assert answer.code == 0, answer.stderr
    for word in ("hateful", "teacher", "student", "Estimate"):
        assert word in answer.stdout
    assert ("less with early stopping" in " ".join(answer.stdout.split())) == may_end_early
