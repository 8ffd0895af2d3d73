"""Weights of classes: formulas by hand and as torch and scikit-learn have them, parts, a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch.nn import functional

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.batch import collate, parts_of
from msd_deploy.data.labels import MOST_WEIGHT, weigh_classes
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import DatasetInfo
from msd_deploy.distillation.losses import class_weight_tensor, label_loss
from msd_deploy.distillation.objectives import LabelObjective
from msd_deploy.distillation.steps import ModelOutputs, MultiViewModel
from msd_deploy.errors import ConfigError
from msd_deploy.hooks import RunHooks, StageHooks
from msd_deploy.pipeline import run_distillation
from msd_deploy.problem import NO_LABEL, Problem
from msd_deploy.views import View


def data_with(labels: np.ndarray, classes: int, problem: Problem = "single_label") -> PreparedData:
    rows = np.arange(len(labels))
    tokens = np.ones((len(labels), 4), np.int32)
    pixels = np.zeros((len(labels), 4, 4, 3), np.uint8)
    split = PreparedSplit(pixels, rows, tokens, tokens, labels, rows)
    names = tuple(f"class {index}" for index in range(classes))
    return PreparedData({"train": split}, DatasetInfo(names, problem), "")


ROUNDING = 1e-6  # weights are stated to six digits


@pytest.mark.parametrize("seed", range(12))
def test_balanced_weights_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.choice(5, int(generator.integers(4, 90)), p=generator.dirichlet(np.ones(5)))
    hidden = np.where(generator.random(len(labels)) < 0.3, NO_LABEL, labels)
    hidden[0] = labels[0]  # one row keeps its label
    data = weigh_classes(data_with(hidden, 5), "balanced")
    assert data.info.class_weights is not None
    kept = hidden[hidden != NO_LABEL]
    classes = np.unique(kept)
    expected = compute_class_weight("balanced", classes=classes, y=kept)
    assert [data.info.class_weights[c] for c in classes] == pytest.approx(expected, abs=ROUNDING)
    assert all(data.info.class_weights[c] == 1 for c in set(range(5)) - set(classes))


@pytest.mark.parametrize("seed", range(12))
def test_weights_of_independent_classes_are_scikit_learns_of_true_by_those_of_false(
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (int(generator.integers(10, 60)), 3)).astype(np.float32)
    labels[generator.random(len(labels)) < 0.3] = np.nan
    labels[:2] = [[0], [1]]  # each class has a row of both
    data = weigh_classes(data_with(labels, 3, "multi_label"), "balanced")
    kept = labels[~np.isnan(labels).any(axis=1)]
    by_row = np.stack([compute_sample_weight("balanced", of_class) for of_class in kept.T])
    assert data.info.class_weights == pytest.approx(by_row[:, 1] / by_row[:, 0], abs=ROUNDING)


def test_the_note_names_weights_and_rows_of_the_classes() -> None:
    data = weigh_classes(data_with(np.array([0] * 6 + [1] * 3 + [2]), 3), "balanced")
    assert data.info.further_metrics == ("balanced_accuracy",)
    (note,) = data.info.notes
    assert note == (
        "class weights of the labels' loss (labelled training rows):"
        " class 2 3.33 (1), class 1 1.11 (3), class 0 0.556 (6)"
    )


def test_rows_without_a_label_are_not_counted_and_a_class_without_a_row_has_weight_1() -> None:
    labels = np.array([0, 0, 0, 2, NO_LABEL, NO_LABEL])
    data = weigh_classes(data_with(labels, 4), "balanced")
    assert data.info.class_weights == pytest.approx((4 / 6, 1, 4 / 2, 1), abs=1e-6)
    assert data.info.notes[1] == (
        "classes without a labelled training row have weight 1: class 1, class 3"
    )


def test_of_independent_classes_it_is_negatives_by_positives() -> None:
    labels = np.zeros((8, 4), np.float32)
    labels[:2, 0], labels[:4, 1], labels[:7, 2] = 1, 1, 1
    labels[7] = np.nan
    data = weigh_classes(data_with(labels, 4, "multi_label"), "balanced")
    # The third class is true of all seven labelled rows, the fourth of none.
    assert data.info.class_weights == pytest.approx((5 / 2, 3 / 4, 1, 1), abs=1e-6)


def test_weights_are_bounded_and_of_mean_one() -> None:
    labels = np.array([0] * 9999 + [1])
    data = weigh_classes(data_with(labels, 2), "balanced")
    assert data.info.class_weights is not None
    common, rare = data.info.class_weights
    assert rare / common == pytest.approx(MOST_WEIGHT / (10000 / (2 * 9999)), rel=1e-4)
    assert (9999 * common + rare) / 10000 == pytest.approx(1, abs=1e-4)
    hot = np.zeros((10000, 1), np.float32)
    hot[0] = 1
    of_many = weigh_classes(data_with(hot, 1, "multi_label"), "balanced")
    assert of_many.info.class_weights == (MOST_WEIGHT,)


def test_none_leaves_the_data_unchanged_and_soft_labels_are_rejected() -> None:
    data = data_with(np.array([0, 1]), 2)
    assert weigh_classes(data, "none") is data
    soft = data_with(np.full((2, 2), 1 / 3, np.float32), 2, "soft_label")
    with pytest.raises(
        ConfigError, match=r"data\.class_weights: class weights are not available for soft labels"
    ):
        weigh_classes(soft, "balanced")


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_loss_is_the_mean_over_labelled_rows_of_torchs_weighted_loss(
    logits: torch.Tensor,
) -> None:
    labels, weights = torch.tensor([0, 2, 1, 1, NO_LABEL, 0]), torch.tensor([0.5, 1.0, 4.0])
    kept = labels != NO_LABEL
    by_hand = -sum(
        weights[label] * torch.log_softmax(row, dim=0)[label]
        for row, label in zip(logits[kept], labels[kept], strict=True)
    )
    assert label_loss(logits, labels, weights) == pytest.approx((by_hand / 5).item())
    # torch's own mean divides by the sum of the rows' weights instead.
    torchs = functional.cross_entropy(logits[kept], labels[kept], weights.double())
    by_rows = torchs * weights[labels[kept]].sum() / 5
    assert label_loss(logits, labels, weights) == pytest.approx(by_rows.item())


def test_the_loss_of_independent_classes_is_torchs_with_pos_weight(logits: torch.Tensor) -> None:
    labels = torch.tensor([[1.0, 0, 1]] * 6, dtype=torch.float64)
    weights = torch.tensor([2.0, 3.0, 0.25])
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=weights.double())
    assert label_loss(logits, labels, weights) == pytest.approx(loss(logits, labels).item())


class _Answers(MultiViewModel):
    """Predicts a fixed linear function of the row number."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.tensor([[0.3, -0.2]]))

    def forward(self, batch: object, views: tuple[View, ...]) -> ModelOutputs:
        rows = batch.rows.float()[:, None] / 10  # type: ignore[attr-defined]
        return ModelOutputs(dict.fromkeys(views, rows @ self.weight), {})


def test_three_parts_of_a_step_add_up_to_its_loss_and_gradient(
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    split = memes[0].splits["train"].head(10)
    split = replace(split, labels=np.array([0] * 8 + [1] * 2))
    batch, model = collate(split, np.arange(10)), _Answers()
    objective = LabelObjective(0.0, class_weight_tensor((0.625, 2.5)))
    whole = objective(model, batch).terms["labels"]
    (gradient,) = torch.autograd.grad(whole, model.weight)
    shares = [(part, len(part) / 10) for part in parts_of(batch, 3)]
    parts = sum(share * objective(model, part).terms["labels"] for part, share in shares)
    assert isinstance(parts, torch.Tensor)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, model.weight)[0], gradient)


def write_rare(path: Path) -> None:
    """5 % of rows are rare; "odd" is in the text of 3 in 5 of those, and of 6 % of the others.

    So of 100 odd rows 34 are rare: who wants most rows right says "common" of every row.
    """
    generator = np.random.default_rng(0)
    lines = []
    for split, rows in (("train", 600), ("validation", 100), ("test", 400)):
        for _ in range(rows):
            is_rare = generator.random() < 0.05
            words = list(generator.choice(["red", "blue", "green", "grey"], 2))
            if generator.random() < (0.6 if is_rare else 0.06):
                words.append("odd")
            label = "rare" if is_rare else "common"
            lines.append(json.dumps({"text": " ".join(words), "label": label, "split": split}))
    path.write_text("\n".join(lines) + "\n")


def recalls(run: RunDirectory, weighting: str, path: Path) -> tuple[dict[str, object], list[str]]:
    config = RunConfig(
        data=DataConfig(spec=str(path), class_weights=weighting, image_size=16),  # type: ignore[arg-type]
        teacher=TeacherConfig(epochs=4),
        distill=DistillConfig(method="kd", alpha=0.9, epochs=4),
    )
    notes: list[str] = []
    hooks = RunHooks(StageHooks(on_note=notes.append))
    return run_distillation(config, run, hooks=hooks), notes


def test_balanced_weights_find_the_rare_class(tmp_path: Path) -> None:
    write_rare(tmp_path / "rows.jsonl")
    found = {}
    for weighting in ("none", "balanced"):
        run = RunDirectory(tmp_path / weighting)
        metrics, notes = recalls(run, weighting, tmp_path / "rows.jsonl")
        for model in ("teacher", "student"):
            of_test = metrics[model]["further"]["test"]["balanced_accuracy"]  # type: ignore[index]
            # With every common row right, it is 1/2 + recall of the rare class / 2.
            found[weighting, model] = of_test["text"]["value"]
        stated = json.loads(run.run_json.read_text()).get("class_weights")
        assert ("class weights" in "".join(notes)) == (weighting == "balanced") == bool(stated)
    assert stated["by_class"]["rare"] > 5 * stated["by_class"]["common"]
    for model in ("teacher", "student"):
        assert found["none", model] < 0.55
        assert found["balanced", model] > 0.68
