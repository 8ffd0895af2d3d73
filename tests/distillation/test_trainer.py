import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import RunConfig
from msd_deploy.data.batch import Batch
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.distillation.history import History
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.distillation.plan import TrainingPlan, default_epochs, learning_rate_at
from msd_deploy.distillation.steps import MultiViewModel, StepLoss
from msd_deploy.distillation.teacher_cache import read_predictions
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import ArtifactError, DataError, MsdError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StepReport
from msd_deploy.models.folders import load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.predict import predict_views
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View


def digest_of_weights(run: RunDirectory) -> list[str]:
    return [sha256_of_file(f / "model.safetensors") for f in (run.teacher, run.student)]


def lines_of(run: RunDirectory) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.history.read_text().splitlines()]


class StopAt:
    """Stops after the n-th step of a process."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.fixture(scope="module")
def meta_run(
    tmp_path_factory: pytest.TempPathFactory, small_config: RunConfig
) -> tuple[RunConfig, RunDirectory]:
    """A run whose weights are learned, which keeps its best epoch."""
    learned = replace(small_config.distill, weighting="meta", keep="best", epochs=3)
    config = replace(small_config, distill=learned)
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "meta")
    run_distillation(config, run)
    return config, run


@pytest.mark.parametrize("stops", [(5, 3), (6,)])
def test_a_stopped_run_with_learned_weights_resumes_to_the_same_bits(
    meta_run: tuple[RunConfig, RunDirectory], tmp_path: Path, stops: tuple[int, ...]
) -> None:
    config, finished = meta_run
    run = RunDirectory(tmp_path / "run")
    for index, step in enumerate(stops):
        hooks = RunHooks(training=Hooks(should_stop=StopAt(step)))
        with pytest.raises(StoppedError):
            run_distillation(config, run, resume=index > 0, hooks=hooks)
    run_distillation(config, run, resume=True)
    assert digest_of_weights(run) == digest_of_weights(finished)
    assert lines_of(run) == lines_of(finished)


def test_the_weights_of_every_view_are_logged(
    meta_run: tuple[RunConfig, RunDirectory],
) -> None:
    steps = [line for line in lines_of(meta_run[1]) if "weights" in line]
    assert len(steps) == 12  # 200 rows in batches of 64, three passes
    spreads = [line["weights"]["image"]["std"] for line in steps]  # type: ignore[index]
    totals = [sum(view["mean"] for view in line["weights"].values()) for line in steps]  # type: ignore[attr-defined]
    assert totals == pytest.approx([3.0] * 12, rel=1e-5)
    assert len(set(spreads)) == 12


@pytest.mark.parametrize("stops", [(1,), (3, 1), (4, 2, 5), (9,)])
def test_a_stopped_run_resumes_to_the_same_bits(
    small_config: RunConfig, finished_run: RunDirectory, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    run = RunDirectory(tmp_path / "run")
    for index, step in enumerate(stops):
        hooks = RunHooks(training=Hooks(should_stop=StopAt(step)))
        with pytest.raises(StoppedError, match="a checkpoint is saved"):
            run_distillation(small_config, run, resume=index > 0, hooks=hooks)
    run_distillation(small_config, run, resume=True)
    assert digest_of_weights(run) == digest_of_weights(finished_run)
    assert lines_of(run) == lines_of(finished_run)
    assert not run.checkpoints.exists()


class KilledError(Exception):
    """Simulates a kill: nothing is saved."""


@pytest.mark.parametrize(("phase", "step"), [("teacher", 3), ("student", 2)])
def test_a_run_killed_before_a_checkpoint_has_every_line_once_when_resumed(
    small_config: RunConfig,
    finished_run: RunDirectory,
    tmp_path: Path,
    phase: str,
    step: int,
) -> None:
    def kill(report: StepReport) -> None:
        if (report.phase, report.step) == (phase, step):
            raise KilledError

    never = replace(small_config.distill, checkpoint_seconds=1e6)
    config, run = replace(small_config, distill=never), RunDirectory(tmp_path / "run")
    with pytest.raises(KilledError):
        run_distillation(config, run, hooks=RunHooks(training=Hooks(on_step=kill)))
    with run.history.open("a") as file:
        file.write('{"phase": "' + phase)
    run_distillation(config, run, resume=True)
    assert lines_of(run) == lines_of(finished_run)


def test_resuming_with_other_settings_names_the_difference(
    small_config: RunConfig, finished_run: RunDirectory
) -> None:
    other = replace(small_config, distill=replace(small_config.distill, alpha=0.5))
    with pytest.raises(ArtifactError, match=r"distill\.alpha: 0\.1 then, 0\.5 now"):
        run_distillation(other, finished_run, resume=True)


def test_an_existing_run_is_not_overwritten_by_default(
    small_config: RunConfig, finished_run: RunDirectory, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"already exists.*--overwrite"):
        run_distillation(small_config, finished_run)
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ArtifactError, match="is not a run"):
        run_distillation(small_config, RunDirectory(tmp_path), overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_history_names_every_weighted_term(finished_run: RunDirectory) -> None:
    lines = lines_of(finished_run)
    steps = [line for line in lines if line["phase"] == "student" and "terms" in line]
    assert len(steps) == 8
    for line in steps:
        terms, weights = line["terms"], line["weights"]
        assert isinstance(terms, dict)
        single = set(terms) - {"labels", "multimodal"}  # of the last two steps a quarter has them
        assert single == {"image", "text"} or (not single and int(str(line["step"])) > 6)
        assert isinstance(weights, dict)
        assert set(weights) == {"multimodal"} | single
        assert line["loss"] == pytest.approx(sum(terms.values()))
    validations = [line for line in lines if line.get("split") == "validation"]
    assert [line["phase"] for line in validations] == ["teacher", "student", "student"]


def test_progress_reports_count_to_the_end(small_config: RunConfig, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    hooks = RunHooks(training=Hooks(on_step=reports.append))
    kd = replace(small_config, distill=replace(small_config.distill, method="kd"))
    run_distillation(kd, RunDirectory(tmp_path / "run"), hooks=hooks)
    student = [report for report in reports if report.phase == "student"]
    assert [report.step for report in student] == list(range(1, student[-1].steps + 1))
    assert set(student[-1].terms) == {"labels", "multimodal"}


def test_the_cache_holds_the_teachers_logits(finished_run: RunDirectory) -> None:
    loaded = load_model(finished_run.teacher)
    data = data_of_run(read_run(finished_run), loaded.preprocessor)
    cached = read_predictions(finished_run.teacher_predictions)
    for view, logits in predict_views(loaded.model, data.splits["test"].head(64)).items():
        np.testing.assert_allclose(cached.of_view("test", view)[:64], logits, atol=1e-5)


@pytest.mark.parametrize("name", ["test.safetensors", "manifest.json"])
def test_damaged_predictions_name_the_command_that_rebuilds_them(
    small_config: RunConfig, own_run: RunDirectory, name: str
) -> None:
    damaged = own_run.teacher_predictions / name
    written = read_predictions(own_run.teacher_predictions).by_view("test")
    before = {view: logits.copy() for view, logits in written.items()}  # out of the mapped file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    advice = (
        rf"Remove the folder {own_run.teacher_predictions} and .*"
        rf"`msd distill --resume --out {own_run.root}`"
    )
    for ask in (
        lambda: read_predictions(own_run.teacher_predictions),
        lambda: run_distillation(small_config, own_run, resume=True),
    ):
        with pytest.raises(ArtifactError, match=rf"{name}: .*{advice}"):
            ask()
    shutil.rmtree(own_run.teacher_predictions)
    run_distillation(small_config, own_run, resume=True)
    after = read_predictions(own_run.teacher_predictions).by_view("test")
    assert all(np.array_equal(before[view], after[view]) for view in View)


def test_metrics_cover_both_models_all_views_and_splits(finished_run: RunDirectory) -> None:
    metrics = read_json(finished_run.metrics)
    assert metrics["metric"] == "accuracy"
    for who in ("teacher", "student"):
        facts = metrics[who]
        assert isinstance(facts, dict)
        for split, rows in (("validation", 100), ("test", 100)):
            assert set(facts[split]) == {view.value for view in View}
            score = facts[split]["multimodal"]
            assert score["examples"] == rows
            assert score["interval"][0] <= score["value"] <= score["interval"][1]


def test_a_given_teacher_is_used_and_copied(
    small_config: RunConfig, finished_run: RunDirectory, tmp_path: Path
) -> None:
    given = replace(small_config, teacher=replace(small_config.teacher, path=finished_run.teacher))
    run = RunDirectory(tmp_path / "run")
    run_distillation(given, run)
    assert load_model(run.teacher).digest == load_model(finished_run.teacher).digest
    assert digest_of_weights(run) == digest_of_weights(finished_run)


def test_changed_data_is_noticed(finished_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    stated = json.loads(finished_run.run_json.read_text()) | {"dataset_digest": "0" * 64}
    run.run_json.write_text(json.dumps(stated))
    with pytest.raises(DataError, match="has changed since the run"):
        data_of_run(read_run(run), load_model(finished_run.student).preprocessor)


def test_a_diverging_loss_is_an_error_that_names_the_learning_rate(
    tiny_model: FusionForClassification,
    memes: tuple[PreparedData, Preprocessor],
    tmp_path: Path,
) -> None:
    def diverging(model: MultiViewModel, batch: Batch) -> StepLoss:
        answer = LabelObjective(0.0)(model, batch)
        return StepLoss({name: term / 0.0 for name, term in answer.terms.items()}, {})

    plan = TrainingPlan("student", 1, 32, 0.25, 0.0, 0.1, 0, 1, 1e9, "")
    job = TrainingJob(
        tiny_model,
        diverging,
        memes[0],
        plan,
        checkpoints=tmp_path / "checkpoints",
        history=History(tmp_path / "history.jsonl"),
    )
    with pytest.raises(MsdError, match=r"loss is inf at step 1\. .*learning rate \(now 0\.25\)"):
        train(job)


def test_schedule_rises_linearly_then_falls_as_a_cosine() -> None:
    plan = TrainingPlan("student", 1, 1, 2.0, 0.0, 0.1, 0, 1, 0.0, "")
    rates = [learning_rate_at(step, 100, plan) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.01


def test_automatic_epochs_make_about_the_target_number_of_steps() -> None:
    assert default_epochs("student", 6000, 64, 94) == 11
    assert default_epochs("student", 10_000_000, 64, 156_250) == 10
    # Ten questions a picture, 16 pictures a batch; nobody tells a teacher what they mean.
    assert default_epochs("student", 34_773, 64, 226) == 24
    assert default_epochs("teacher", 34_773, 64, 226) == 19
