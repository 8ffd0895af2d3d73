"""Losses on the classifiers' input features: hints, and relations between examples.

Hints (Romero et al. 2015, FitNets) fit a linear map from the student's features to the teacher's;
relations (Park et al. 2019, RKD) match distances and angles between the examples of a batch, for
features of any width. Both use the multimodal view only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distillation.steps import ModelOutputs
from msd_deploy.distillation.teacher_cache import TeacherPredictions
from msd_deploy.views import View

HINT_TERM = "hint"
DISTANCE_TERM, ANGLE_TERM = "relation_distance", "relation_angle"
_ANGLE_WEIGHT = 2.0
"""Weight of the angle term relative to the distance term, as in the paper."""
_MOST_ROWS = 128
"""Rows compared per batch: memory grows with their cube, or their square times the width."""
_COINCIDE = 1e-8
"""Squared distance, relative to the batch's mean, below which two points coincide."""


@dataclass(frozen=True, slots=True)
class FeatureTerms:
    """The feature terms of a student's loss.

    Attributes:
        predictions: The teacher's predictions, with features where a weight is above 0.
        hint_weight: Weight of the hint loss.
        relation_weight: Weight of the relation losses.
    """

    predictions: TeacherPredictions
    hint_weight: float
    relation_weight: float

    def __call__(self, outputs: ModelOutputs, shown: View, rows: Tensor) -> dict[str, Tensor]:
        """Compute the weighted terms by name, without those of weight 0.

        Args:
            outputs: The student's outputs, `shown` the first of their views.
            shown: The student's view that is compared with the teacher's multimodal view.
            rows: int64 [batch], positions in the training split.
        """
        terms: dict[str, Tensor] = {}
        if self.hint_weight > 0:
            assert outputs.hint is not None  # `build_projection` made one
            teacher = self.predictions.features_of_rows(rows)
            terms[HINT_TERM] = self.hint_weight * hint_loss(outputs.hint, teacher)
        if self.relation_weight > 0:
            student, teacher = outputs.features[shown], self.predictions.features_of_rows(rows)
            weight = self.relation_weight
            terms[DISTANCE_TERM] = weight * relation_distance_loss(student, teacher)
            terms[ANGLE_TERM] = _ANGLE_WEIGHT * weight * relation_angle_loss(student, teacher)
        return terms


def build_feature_terms(config: DistillConfig, predictions: TeacherPredictions) -> FeatureTerms:
    """Build the feature terms of a configuration, weighted by (1 - alpha)."""
    share = 1 - config.alpha
    return FeatureTerms(predictions, share * config.hint_weight, share * config.relation_weight)


def build_projection(
    config: DistillConfig, width: int, predictions: TeacherPredictions, *, seed: int
) -> nn.Linear | None:
    """Build the linear map from the student's features to the teacher's; None without hints.

    The global random state is preserved.

    Args:
        config: Settings of the distillation.
        width: Width of the student's features.
        predictions: The teacher's predictions.
        seed: Random seed of the initial weights.
    """
    if config.hint_weight == 0 or predictions.features is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, predictions.features.shape[1])


def hint_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Compute half the mean squared difference (Romero et al. 2015, eq. 3).

    The mean over the width instead of the sum, so that the weight is independent of the teacher.

    Args:
        projected: The student's projected features, float [batch, hidden of the teacher].
        teacher: float [batch, hidden of the teacher].
    """
    return 0.5 * (projected - teacher).square().mean()


def relation_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean Huber loss of pairwise distances (RKD-D, Park et al. 2019).

    Each model's distances are divided by their mean over the batch. 0 for a batch of one. Of a
    batch of more than 128 rows, 128 evenly spaced ones are compared.

    Args:
        student: float [batch, hidden].
        teacher: float [batch, hidden of the teacher].
    """
    rows = _compared_rows(student)
    pairs = max(1, len(rows) * (len(rows) - 1))
    actual, target = (_scaled_distances(points[rows], pairs) for points in (student, teacher))
    return functional.smooth_l1_loss(actual, target, reduction="sum") / pairs


def relation_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean Huber loss of the angles between three examples (RKD-A, ibid.).

    0 for a batch of fewer than three. Rows as in `relation_distance_loss`.

    Args:
        student: float [batch, hidden].
        teacher: float [batch, hidden of the teacher].
    """
    rows = _compared_rows(student)
    count = len(rows)
    triples = max(1, count * (count - 1) * (count - 2))
    actual, target = (_cosines(points[rows]) for points in (student, teacher))
    return functional.smooth_l1_loss(actual, target, reduction="sum") / triples


def _compared_rows(points: Tensor) -> Tensor:
    """Return the rows of a batch that are compared, int64."""
    count = min(len(points), _MOST_ROWS)
    return torch.linspace(0, len(points) - 1, count, device=points.device).round().long()


def _scaled_distances(points: Tensor, pairs: int) -> Tensor:
    """Return distances [batch, batch] divided by their mean; 0 on the diagonal."""
    squared = (points[:, None] - points[None]).square().sum(dim=-1)
    apart = squared > _COINCIDE * squared.mean()
    # sqrt has no gradient at 0: such entries must stay out of the graph, not only of the result.
    distances = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    return distances / (distances.sum() / pairs).clamp(min=torch.finfo(points.dtype).tiny)


def _cosines(points: Tensor) -> Tensor:
    """Return cosines [batch, batch, batch]: at [j, i, k] of the angle at j between i and k.

    It is 0 where two of the three are the same.
    """
    difference = points[None] - points[:, None]
    squared = difference.square().sum(dim=-1, keepdim=True)
    apart = squared > _COINCIDE * squared.mean()
    directions = torch.where(apart, difference * torch.where(apart, squared, 1.0).rsqrt(), 0.0)
    distinct = 1 - torch.eye(len(points), dtype=points.dtype, device=points.device)
    return directions @ directions.transpose(1, 2) * distinct
