"""`--image-teacher`, `--text-teacher`: a classifier of one modality gives that view's targets."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig, config_from_json
from msd_deploy.data.batch import Batch
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.synthetic.tasks import MEMES_LABELS
from msd_deploy.distillation.teacher_cache import Specialist, cache_predictions, read_predictions
from msd_deploy.errors import ArtifactError, ConfigError, MsdError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StepReport
from msd_deploy.metrics import LogitArray, LogitsByView
from msd_deploy.models.folders import load_classifier
from msd_deploy.models.predict import predict_features, predict_views
from msd_deploy.models.teachers import open_specialist, open_teacher, teacher_for
from msd_deploy.pipeline import dry_run_distillation, run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.report.page import quality_table
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.run.single_views import check_single_views, unsound_views
from msd_deploy.run.task import open_models
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig
from msd_deploy.views import View
from tests.checkpoints import write_image_classifier, write_text_classifier

OTHER_ORDER = tuple(reversed(MEMES_LABELS))
SINGLE = (View.IMAGE, View.TEXT)
every_view = pytest.mark.parametrize("view", SINGLE)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[View, Path]:
    """A published classifier of each modality, with the classes in another order."""
    folder = tmp_path_factory.mktemp("classifiers")
    return {
        View.IMAGE: write_image_classifier(folder / "image", OTHER_ORDER),
        View.TEXT: write_text_classifier(folder / "text", OTHER_ORDER),
    }


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory, write_memes: Callable[..., Path]
) -> RunDirectory:
    """A run without specialists; some of its examples have one modality only."""

    def leave_out(index: int, line: dict[str, str]) -> None:
        if index % 10 < 2:
            del line["image" if index % 10 else "text"]

    path = write_memes(tmp_path_factory.mktemp("memes"), 200, leave_out, others=60)
    config = RunConfig(
        data=DataConfig(spec=str(path)),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1, checkpoint_seconds=0.0, patience=0),
    )
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "plain")
    run_distillation(config, run)
    return run


@pytest.fixture(scope="module")
def config(plain: RunDirectory, paths: dict[View, Path]) -> RunConfig:
    """Its teacher, and both specialists."""
    teacher = TeacherConfig(
        path=plain.teacher, image_path=paths[View.IMAGE], text_path=paths[View.TEXT]
    )
    return replace(read_run(plain).config, teacher=teacher)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config: RunConfig) -> RunDirectory:
    """The finished run; read it, never write into it."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "specialists")
    run_distillation(config, run)
    return run


def predictions_of(run: RunDirectory, split: str) -> LogitsByView:
    return read_predictions(run.teacher_predictions).by_view(split)


def own_logits(
    folder: Path, view: View, run: RunDirectory, split: str
) -> tuple[LogitArray, PreparedSplit]:
    """Return a specialist's own logits, in the order of its classes, and its rows."""
    loaded = open_specialist(folder, view)
    rows = data_of_run(read_run(run), loaded.preprocessor).splits[split]
    return predict_views(loaded.model, rows, views=(view,))[view], rows


@every_view
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_targets_of_a_view_are_the_specialists_logits_in_the_order_of_the_data(
    plain: RunDirectory, run: RunDirectory, paths: dict[View, Path], view: View, split: str
) -> None:
    own, rows = own_logits(paths[view], view, run, split)
    has_it = rows.has_image() if view is View.IMAGE else rows.has_text()
    targets, before = predictions_of(run, split), predictions_of(plain, split)
    assert own.std(axis=0).min() > 0.01
    np.testing.assert_array_equal(targets[view][has_it], own[has_it][:, ::-1])
    assert 0 < (~has_it).sum() < len(has_it)
    np.testing.assert_array_equal(targets[view][~has_it], before[view][~has_it])
    np.testing.assert_array_equal(targets[View.MULTIMODAL], before[View.MULTIMODAL])


@every_view
@pytest.mark.parametrize("is_lacking", [False, True])
def test_the_teacher_predicts_a_specialists_view_only_where_it_is_used(
    finished_run: RunDirectory,
    plain: RunDirectory,
    paths: dict[View, Path],
    tmp_path: Path,
    view: View,
    is_lacking: bool,
) -> None:
    run = plain if is_lacking else finished_run
    loaded, own = open_teacher(run.teacher), open_specialist(paths[view], view)
    data, own_data = (data_of_run(read_run(run), each.preprocessor) for each in (loaded, own))
    task: Any = {"labels": data.info.labels, "problem": data.info.problem}
    specialist = Specialist(view, teacher_for(own, **task), own_data)
    seen: list[set[View]] = []
    predict = loaded.model.logits_by_view

    def remember(batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        seen.append(set(views))
        return predict(batch, views)

    loaded.model.logits_by_view = remember  # type: ignore[method-assign]
    teacher, others = teacher_for(loaded, **task), set(View) - {view}
    targets = cache_predictions(teacher, data, tmp_path / "cache", specialists=[specialist])
    assert seen == [set(View) if is_lacking else others, set(View), set(View)]
    for other in others:
        before = predictions_of(run, "train")[other]
        np.testing.assert_array_equal(targets.of_view("train", other), before)


def test_one_specialist_leaves_the_other_view_to_the_teacher(
    plain: RunDirectory, config: RunConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    run_distillation(replace(config, teacher=replace(config.teacher, text_path=None)), run)
    targets, before = predictions_of(run, "train"), predictions_of(plain, "train")
    np.testing.assert_array_equal(targets[View.TEXT], before[View.TEXT])
    assert not np.array_equal(targets[View.IMAGE], before[View.IMAGE])
    assert "image_teacher_digest" in read_json(run.run_json)
    assert "text_teacher_digest" not in read_json(run.run_json)


@every_view
def test_a_model_folder_gives_the_view_that_is_requested(
    plain: RunDirectory, config: RunConfig, tmp_path: Path, view: View
) -> None:
    teacher = TeacherConfig(path=plain.teacher, **{f"{view}_path": plain.student})
    run = RunDirectory(tmp_path / "run")
    run_distillation(replace(config, teacher=teacher), run)
    own, rows = own_logits(plain.student, view, run, "train")
    has_it = rows.has_image() if view is View.IMAGE else rows.has_text()
    np.testing.assert_array_equal(predictions_of(run, "train")[view][has_it], own[has_it])


def test_metrics_state_the_teachers_own_views_and_the_specialists(
    plain: RunDirectory, run: RunDirectory, paths: dict[View, Path]
) -> None:
    metrics, before = (read_json(each.metrics) for each in (run, plain))
    for split in ("validation", "test"):
        assert metrics["teacher"][split] == before["teacher"][split]  # type: ignore[index]
    assert metrics["teacher"]["single_views"] == {}  # type: ignore[index]
    for view in SINGLE:
        facts: Any = metrics[f"{view}_teacher"]
        digest = open_specialist(paths[view], view).digest
        assert facts["digest"] == digest == read_json(run.run_json)[f"{view}_teacher_digest"]
        assert list(facts["test"]) == list(facts["single_views"]) == [view]
        assert facts["size_bytes"] == (paths[view] / "model.safetensors").stat().st_size


def test_the_report_and_the_command_show_each_teacher(run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(Path(shutil.copytree(run.root, tmp_path / "run")))
    _, report = write_distillation_report([run], ReportConfig())
    settings = report["students"][0]["settings"]
    assert (settings["teacher.image_path"], settings["teacher.text_path"]) == ("image", "text")
    rows = {line.name: line.cells for line in quality_table(report).lines}
    assert list(rows)[:3] == ["Teacher", "Image teacher", "Text teacher"]
    metrics: Any = read_json(run.metrics)
    for view, at in ((View.IMAGE, 1), (View.TEXT, 2)):
        value = metrics[f"{view}_teacher"]["test"][view]["value"]
        shown = rows[f"{view.capitalize()} teacher"]
        assert shown[at].startswith(f"{value:.1%}".replace("%", " %"))
        assert shown[0] == shown[3 - at] == "–"
        own = metrics["teacher"]["test"][view]["value"]
        assert rows["Teacher"][at].startswith(f"{own:.1%}".replace("%", " %"))
    answer = CliRunner().invoke(app, ["distill", "--resume", "--out", str(run.root)])
    assert answer.exit_code == 0, answer.output
    assert "image teacher" in answer.stdout


def test_runs_of_different_specialists_are_not_compared(
    plain: RunDirectory, run: RunDirectory
) -> None:
    with pytest.raises(ArtifactError, match="has a different teacher than"):
        write_distillation_report([plain, run], ReportConfig())


def test_an_unsound_view_is_noted_under_the_name_of_its_teacher() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    sure = np.where(np.arange(2) == labels[:, None], 5, -5).astype(np.float32)
    wrong = np.tile(np.array([[9, -9]], np.float32), (300, 1))
    views = check_single_views(
        {View.MULTIMODAL: sure, View.IMAGE: wrong, View.TEXT: wrong}, labels, "single_label"
    )
    of_image, of_text = unsound_views(views, "accuracy", specialists=[View.IMAGE])
    assert of_image.startswith("image teacher's image view is unsound")
    assert of_image.endswith("use another image teacher, or none")
    assert of_text.startswith("teacher's text view is unsound")


def test_adaptation_and_a_specialist_work_together(
    config: RunConfig, paths: dict[View, Path], tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    teacher = replace(config.teacher, text_path=None, adapt_epochs=1)
    metrics: Any = run_distillation(replace(config, teacher=teacher), run)
    targets = predictions_of(run, "test")
    adapted = load_classifier(run.adapted_teacher)
    rows = data_of_run(read_run(run), adapted.preprocessor).splits["test"]
    of_adapted = predict_views(adapted.model, rows)
    for view in (View.MULTIMODAL, View.TEXT):
        np.testing.assert_array_equal(targets[view], of_adapted[view])
    own, rows = own_logits(paths[View.IMAGE], View.IMAGE, run, "test")
    has_it = rows.has_image()
    np.testing.assert_array_equal(targets[View.IMAGE][has_it], own[has_it][:, ::-1])
    assert set(metrics) >= {"teacher", "adapted_teacher", "image_teacher", "student"}


def test_augmented_images_have_the_specialists_targets(config: RunConfig, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    augment = AugmentConfig(preset="light", views_per_picture=1)
    run_distillation(replace(config, augment=augment), run)
    logits = read_predictions(run.teacher_predictions)
    plain, form = (logits.by_view(name) for name in ("train", "train-form-1"))
    assert not np.array_equal(plain[View.IMAGE], form[View.IMAGE])
    np.testing.assert_array_equal(plain[View.TEXT], form[View.TEXT])


def test_a_specialist_that_cuts_images_otherwise_has_no_targets_of_augmented_ones(
    config: RunConfig, tmp_path: Path
) -> None:
    folder = write_image_classifier(
        tmp_path / "image",
        OTHER_ORDER,
        do_center_crop=True,
        crop_size={"height": 32, "width": 32},
    )
    changed = replace(
        config,
        teacher=replace(config.teacher, image_path=folder),
        augment=AugmentConfig(preset="light", views_per_picture=1),
    )
    with pytest.raises(ConfigError, match="takes images by crop"):
        run_distillation(changed, RunDirectory(tmp_path / "run"))


def test_a_stopped_run_resumes_to_the_same_bits(
    config: RunConfig, run: RunDirectory, tmp_path: Path
) -> None:
    steps: list[StepReport] = []
    hooks = RunHooks(training=Hooks(steps.append, lambda: steps[-1].step == 2))
    again = RunDirectory(tmp_path / "again")
    with pytest.raises(StoppedError):
        run_distillation(config, again, hooks=hooks)
    run_distillation(config, again, resume=True)
    for name in ("student/model.safetensors", "teacher_predictions/train.safetensors"):
        assert sha256_of_file(again.root / name) == sha256_of_file(run.root / name)


@every_view
def test_a_resumed_run_has_the_specialist_that_it_was_started_with(
    run: RunDirectory, tmp_path: Path, view: View
) -> None:
    own = RunDirectory(Path(shutil.copytree(run.root, tmp_path / "run")))
    content: Any = read_json(own.run_json)
    folder = Path(
        shutil.copytree(content["config"]["teacher"][f"{view}_path"], tmp_path / "specialist")
    )
    content["config"]["teacher"][f"{view}_path"] = str(folder)
    own.run_json.write_text(json.dumps(content))
    config = read_run(own).config
    run_distillation(config, own, resume=True)
    stated = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**stated, "layer_norm_eps": 0.1}))
    message = f"the {view} teacher has changed since the run was started"
    with pytest.raises(ArtifactError, match=message):
        run_distillation(config, own, resume=True)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match=r"specialist: is missing.*Put it back"):
        run_distillation(config, own, resume=True)


def test_a_dry_run_opens_both(config: RunConfig, tmp_path: Path) -> None:
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    assert planned["image_teacher"]["parameters"] > 0
    assert planned["text_teacher"]["parameters"] > 0
    broken = replace(config, teacher=replace(config.teacher, text_path=tmp_path / "none"))
    with pytest.raises(ArtifactError, match="no such model folder"):
        dry_run_distillation(broken, RunDirectory(tmp_path / "run"))


def test_a_study_has_the_specialists_for_every_method(config: RunConfig, tmp_path: Path) -> None:
    study = StudyConfig(base=config, methods=("kd", "msd-fixed"), seeds=1, jobs=1)
    result: Any = run_study(study, tmp_path / "study")
    cached = read_json(RunDirectory(tmp_path / "study").teacher_predictions / "manifest.json")
    for view in SINGLE:
        assert result["specialists"][view]["digest"] == cached["key"][f"{view}_teacher"]  # type: ignore[index]
    table = (tmp_path / "study" / "compare.md").read_text()
    assert "| image teacher |  | " in table
    other = replace(study, base=replace(config, teacher=replace(config.teacher, text_path=None)))
    with pytest.raises(ArtifactError, match=r"teacher\.text_path"):
        run_study(other, tmp_path / "study")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ("benign", "rude"),
            "teacher alone has rude; the data alone has hateful",
        ),
        (("benign", "hateful", "other"), r"differ \(the image teacher alone has other\)"),
        (("LABEL_0", "LABEL_1"), r"alone has LABEL_0, LABEL_1; .*into id2label"),
        (("benign", "benign"), "no name of its own for each class"),
    ],
)
def test_other_classes_are_refused_before_anything_is_written(
    config: RunConfig, tmp_path: Path, labels: tuple[str, ...], message: str
) -> None:
    folder = write_image_classifier(tmp_path / "image", labels)
    changed = replace(config, teacher=replace(config.teacher, image_path=folder))
    with pytest.raises(ArtifactError, match=message):
        run_distillation(changed, RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("multi_label_classification", "is a multi_label image teacher"),
        ("regression", "regression"),
    ],
)
def test_another_kind_of_problem_is_refused(
    config: RunConfig, tmp_path: Path, problem: str, message: str
) -> None:
    folder = write_image_classifier(
        tmp_path / "image", OTHER_ORDER, settings={"problem_type": problem}
    )
    changed = replace(config, teacher=replace(config.teacher, image_path=folder))
    with pytest.raises(ArtifactError, match=message):
        run_distillation(changed, RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize(
    ("distill", "reason"),
    [
        ({"method": "kd"}, "method kd does not distil"),
        ({"method": "none"}, "method none does not distil"),
        ({"image_weight": 0.0}, r"distill\.image_weight 0 leaves out"),
    ],
)
def test_a_specialist_without_effect_is_refused(distill: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"teacher\.image_path: .*{reason}"):
        RunConfig(teacher=TeacherConfig(image_path=Path("x")), distill=DistillConfig(**distill))
    base = RunConfig(teacher=TeacherConfig(text_path=Path("x")))
    with pytest.raises(ConfigError, match="none of the methods"):
        StudyConfig(base=base, methods=("none", "kd"))


@every_view
def test_the_teacher_as_its_own_specialist_is_refused_unless_it_is_adapted(
    plain: RunDirectory, config: RunConfig, tmp_path: Path, view: View
) -> None:
    copy = Path(shutil.copytree(plain.teacher, tmp_path / "copy"))
    teacher = TeacherConfig(path=plain.teacher, **{f"{view}_path": copy})
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"teacher\.{view}_path: is the teacher itself"):
        run_distillation(replace(config, teacher=teacher), run)
    assert not run.root.exists()
    adapted = replace(config, teacher=replace(teacher, adapt_epochs=1))
    assert list(open_models(adapted, run, None).specialists) == [view]


def test_classes_that_are_independent_are_matched_likewise(
    write_memes: Callable[..., Path], tmp_path: Path
) -> None:
    def list_labels(index: int, line: dict[str, Any]) -> None:
        line["labels"] = [line.pop("label")] * (index % 5 > 0)

    data = DataConfig(spec=str(write_memes(tmp_path, 60, list_labels, others=20)))
    folder = write_text_classifier(
        tmp_path / "text", OTHER_ORDER, problem_type="multi_label_classification"
    )
    run = RunDirectory(tmp_path / "run")
    teacher = TeacherConfig(epochs=1, text_path=folder)
    run_distillation(RunConfig(data=data, teacher=teacher, distill=DistillConfig(epochs=1)), run)
    own, _ = own_logits(folder, View.TEXT, run, "test")
    np.testing.assert_array_equal(predictions_of(run, "test")[View.TEXT], own[:, ::-1])


def test_losses_on_features_are_of_the_teachers_features_beside_the_specialists_targets(
    plain: RunDirectory, config: RunConfig, run: RunDirectory, tmp_path: Path
) -> None:
    distill = replace(config.distill, hint_weight=0.1, relation_weight=0.1, log_every=1)
    own = RunDirectory(tmp_path / "run")
    run_distillation(replace(config, distill=distill), own)
    first = json.loads(own.history.read_text().splitlines()[0])
    assert min(first["terms"][name] for name in ("hint", "relation_distance")) > 0
    teacher, cached = load_classifier(plain.teacher), read_predictions(own.teacher_predictions)
    rows = data_of_run(read_run(own), teacher.preprocessor).splits["train"]
    assert cached.features is not None
    np.testing.assert_array_equal(cached.features, predict_features(teacher.model, rows))
    for view in View:
        np.testing.assert_array_equal(
            cached.of_view("train", view), predictions_of(run, "train")[view]
        )


def test_settings_are_read_again_as_they_were_written(run: RunDirectory) -> None:
    content: Any = read_json(run.run_json)
    assert config_from_json(content["config"]) == read_run(run).config
    assert config_from_json({"teacher": {"epochs": 3}}).teacher.specialist_paths == {}


def test_images_above_the_runs_limit_are_refused_for_all(
    plain: RunDirectory, config: RunConfig, tmp_path: Path
) -> None:
    """A specialist with a lower limit of its own would have other examples than the student."""
    loaded = load_classifier(plain.student)
    limited = Path(shutil.copytree(plain.student, tmp_path / "limited"))
    assert isinstance(loaded.preprocessor, Preprocessor)
    loaded.preprocessor.with_max_pixels(10).save(limited)
    manifest: Any = read_json(limited / "manifest.json")
    manifest["files"]["preprocess.json"] = sha256_of_file(limited / "preprocess.json")
    (limited / "manifest.json").write_text(json.dumps(manifest))
    run = RunDirectory(tmp_path / "run")
    teacher = TeacherConfig(path=plain.teacher, image_path=limited)
    run_distillation(replace(config, teacher=teacher), run)
    assert len(predictions_of(run, "train")[View.IMAGE]) == 200


def test_no_error_but_ours_is_raised_of_a_folder_that_is_none(
    config: RunConfig, tmp_path: Path
) -> None:
    changed = replace(config, teacher=replace(config.teacher, image_path=tmp_path))
    with pytest.raises(MsdError, match="not a complete model folder"):
        run_distillation(changed, RunDirectory(tmp_path / "run"))
