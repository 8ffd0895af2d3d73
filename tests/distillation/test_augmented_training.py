"""Augmentation in whole trainings: which models use it, and equality after a resume."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.run import RunConfig
from msd_deploy.data.augment.batches import (
    ImageAugmentation,
    build_augmentation,
    check_same_frame,
)
from msd_deploy.data.batch import Batch, collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.synthetic.tasks import MEMES_LABELS
from msd_deploy.distillation.history import History
from msd_deploy.distillation.meta import MetaObjective
from msd_deploy.distillation.objectives import DistillationStep, LabelObjective
from msd_deploy.distillation.plan import TrainingPlan
from msd_deploy.distillation.steps import MultiViewModel, StepLoss
from msd_deploy.distillation.teacher_cache import cache_predictions, read_predictions
from msd_deploy.distillation.trainer import TrainingJob, train
from msd_deploy.errors import ConfigError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks
from msd_deploy.models.folders import load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.teachers import load_teacher
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View

Memes = tuple[PreparedData, Preprocessor]


@dataclass
class Watched:
    """An objective that records its input images, and trains on the labels."""

    shown: list[Tensor] = field(default_factory=list)

    def __call__(self, model: MultiViewModel, batch: Batch) -> StepLoss:
        self.shown.append(batch.pixel_values.clone())
        return LabelObjective(0.0)(model, batch)


def train_watched(
    memes: Memes, model: FusionForClassification, folder: Path, augment: AugmentConfig
) -> Watched:
    data, preprocessor = memes
    objective = Watched()
    plan = TrainingPlan("student", 2, 64, 1e-3, 0.0, 0.1, 0, 1, 1e9, "")
    train(
        TrainingJob(
            model,
            objective,
            data,
            plan,
            checkpoints=folder / "checkpoints",
            history=History(folder / "history.jsonl"),
            augment=build_augmentation(augment, data.splits["train"], preprocessor, seed=0),
        )
    )
    return objective


def test_training_augments_images_in_every_epoch_and_evaluation_never_does(
    memes: Memes,
    tiny_model: FusionForClassification,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[Tensor] = []
    features = FusionForClassification.features_by_view

    def watch(model: FusionForClassification, batch: Batch, views: object) -> object:
        if not model.training:
            judged.append(batch.pixel_values)
        return features(model, batch, views)  # type: ignore[arg-type]

    monkeypatch.setattr(FusionForClassification, "features_by_view", watch)
    objective = train_watched(memes, tiny_model, tmp_path, AugmentConfig(preset="light"))
    stored = {pixels.tobytes() for pixels in memes[0].splits["train"].pixels}
    seen = [
        picture.permute(1, 2, 0).contiguous().numpy().tobytes()
        for shown in objective.shown
        for picture in shown
    ]
    assert len(set(seen)) == len(seen) == 2 * 120
    assert not stored & set(seen)
    assert judged
    for pixels in judged:
        assert {p.permute(1, 2, 0).contiguous().numpy().tobytes() for p in pixels} <= stored


def test_without_augmentation_a_training_uses_unchanged_images(
    memes: Memes, tiny_model: FusionForClassification, tmp_path: Path
) -> None:
    objective = train_watched(memes, tiny_model, tmp_path, AugmentConfig())
    stored = {pixels.tobytes() for pixels in memes[0].splits["train"].pixels}
    for shown in objective.shown:
        assert {p.permute(1, 2, 0).contiguous().numpy().tobytes() for p in shown} <= stored


@pytest.fixture(scope="module")
def augmented_run(
    tmp_path_factory: pytest.TempPathFactory, small_config: RunConfig, finished_run: RunDirectory
) -> tuple[RunConfig, RunDirectory]:
    """The finished run's teacher, and a student trained on augmented images."""
    config = replace(
        small_config,
        teacher=replace(small_config.teacher, path=finished_run.teacher),
        augment=AugmentConfig(preset="strong"),
    )
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "augmented")
    run_distillation(config, run)
    return config, run


def test_the_cache_is_that_of_unchanged_images(
    augmented_run: tuple[RunConfig, RunDirectory], finished_run: RunDirectory
) -> None:
    run = augmented_run[1]
    keys = [read_json(r.teacher_predictions / "manifest.json")["key"] for r in (run, finished_run)]
    assert keys[0] == keys[1]
    files = [sorted(p.name for p in r.teacher_predictions.iterdir()) for r in (run, finished_run)]
    assert files[0] == files[1]
    ours, theirs = (read_predictions(r.teacher_predictions) for r in (run, finished_run))
    for split in ("train", "validation", "test"):
        assert torch.equal(ours.logits[split], theirs.logits[split])
    digests = [sha256_of_file(r.student / "model.safetensors") for r in (run, finished_run)]
    assert digests[0] != digests[1]


class StopAt:
    """Stops after the n-th step of a process."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("stops", [(3, 2, 1)])
def test_a_stopped_augmented_run_resumes_to_the_same_bits(
    augmented_run: tuple[RunConfig, RunDirectory], tmp_path: Path, stops: tuple[int, ...]
) -> None:
    config, finished = augmented_run
    run = RunDirectory(tmp_path / "run")
    for index, step in enumerate(stops):
        hooks = RunHooks(training=Hooks(should_stop=StopAt(step)))
        with pytest.raises(StoppedError):
            run_distillation(config, run, resume=index > 0, hooks=hooks)
    run_distillation(config, run, resume=True)
    weights = [r.student / "model.safetensors" for r in (run, finished)]
    assert sha256_of_file(weights[0]) == sha256_of_file(weights[1])
    assert run.history.read_bytes() == finished.history.read_bytes()


def test_held_out_rows_of_learned_weights_are_not_augmented(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging: list[Batch] = []
    meta_batch = MetaObjective._meta_batch

    def watch(objective: MetaObjective) -> Batch:
        batch = meta_batch(objective)
        judging.append(batch)
        expected = collate(objective.task.split, batch.rows.numpy())
        assert torch.equal(batch.pixel_values, expected.pixel_values)
        assert torch.equal(batch.input_ids, expected.input_ids)
        return batch

    monkeypatch.setattr(MetaObjective, "_meta_batch", watch)
    learned = replace(small_config.distill, weighting="meta", epochs=1)
    config = replace(small_config, distill=learned, augment=AugmentConfig(preset="strong"))
    run_distillation(config, RunDirectory(tmp_path / "run"))
    assert judging


@pytest.fixture(scope="module")
def run_with_forms(
    tmp_path_factory: pytest.TempPathFactory, small_config: RunConfig, finished_run: RunDirectory
) -> tuple[RunConfig, RunDirectory]:
    """A run stopped on the way, with cached predictions for two forms of each image.

    Its every step checks that the teacher's answers are those to what the student is shown.
    """
    teacher = load_model(finished_run.teacher).model
    config = replace(
        small_config,
        teacher=replace(small_config.teacher, path=finished_run.teacher),
        distill=replace(small_config.distill, epochs=3),
        augment=AugmentConfig(preset="strong", word_dropout=0.0, views_per_picture=2),
    )
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "forms")
    forms: list[int] = []
    ask = DistillationStep.__call__

    def check(step: DistillationStep, model: MultiViewModel, batch: Batch) -> StepLoss:
        forms.append(batch.form)
        cached = step.objective.predictions.of_rows("train", batch.rows, batch.form)
        with torch.inference_mode():
            for view, logits in teacher.logits_by_view(batch, tuple(View)).items():
                # Sums over other batches are rounded in another order.
                torch.testing.assert_close(cached[view], logits, atol=1e-4, rtol=1e-4)
        return ask(step, model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationStep, "__call__", check)
        hooks = RunHooks(training=Hooks(should_stop=StopAt(6)))
        with pytest.raises(StoppedError):
            run_distillation(config, run, hooks=hooks)
        run_distillation(config, run, resume=True)
    assert forms == [1] * 4 + [2] * 4 + [1] * 4
    return config, run


def test_the_teacher_predicts_on_the_same_augmented_images_as_the_student(
    run_with_forms: tuple[RunConfig, RunDirectory], finished_run: RunDirectory
) -> None:
    predictions = read_predictions(run_with_forms[1].teacher_predictions)
    forms = {"train-form-1", "train-form-2"}
    assert set(predictions.logits) == {"train", "validation", "test"} | forms
    unchanged = read_predictions(finished_run.teacher_predictions)
    for split in ("train", "validation", "test"):
        assert torch.equal(predictions.logits[split], unchanged.logits[split])
    image, text = (list(View).index(view) for view in (View.IMAGE, View.TEXT))
    for form in forms:
        moved = (predictions.logits[form] - unchanged.logits["train"]).abs().amax(dim=(0, 2))
        assert moved[image] > 0.01
        assert moved[text] < 1e-4


def test_the_caches_key_differs_by_augmentation_and_equal_ones_are_reused(
    run_with_forms: tuple[RunConfig, RunDirectory], finished_run: RunDirectory, tmp_path: Path
) -> None:
    config, run = run_with_forms
    teacher = load_teacher(run.teacher, labels=MEMES_LABELS, problem="single_label")
    whole = data_of_run(read_run(run), teacher.preprocessor)
    data = replace(whole, splits={name: split.head(40) for name, split in whole.splits.items()})
    asked: list[int] = []
    for augment in (config.augment, config.augment, replace(config.augment, seed=1), None):
        before = len(asked)
        cache_predictions(
            teacher,
            data,
            tmp_path / "cache",
            augment=augment,
            on_batch=lambda done, total: asked.append(total),
        )
        asked.append(-len(asked[before:]))
    # Twice for three splits and two forms, once not at all, and the unchanged pictures alone.
    assert asked == [200] * 5 + [-5, 0] + [200] * 5 + [-5] + [120] * 3 + [-3]


def test_a_teacher_of_larger_images_gets_the_same_crop(
    run_with_forms: tuple[RunConfig, RunDirectory],
) -> None:
    config, run = run_with_forms
    preprocessor = load_model(run.student).preprocessor
    larger = replace(preprocessor, image=ImageSpec((96, 96)))
    small, large = (
        data_of_run(read_run(run), of_model).splits["train"] for of_model in (preprocessor, larger)
    )
    rows = np.arange(32)
    shown = [
        ImageAugmentation(config.augment, split)(collate(split, rows), 1).pixel_values
        for split in (small, large)
    ]
    shrunk = torch.nn.functional.avg_pool2d(shown[1].float(), 2)
    pairs = torch.stack([shrunk.flatten(1), shown[0].float().flatten(1)], dim=1)
    correlations = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs])
    assert correlations.min() > 0.9
    check_same_frame(preprocessor, larger)
    with pytest.raises(ConfigError, match=r"takes images by crop in 96 by 96.*image_mode = \"crop"):
        check_same_frame(preprocessor, replace(larger, image=ImageSpec((96, 96), "crop")))
