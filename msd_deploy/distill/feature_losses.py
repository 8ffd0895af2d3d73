"""Losses on what the classifiers read, beside those on logits: hints, and relations in a batch.

Hints (Romero et al. 2015, FitNets) ask that the student's features of an example map linearly onto
the teacher's; relations (Park et al. 2019, RKD) that the examples of a batch lie to one another as
they do for the teacher, whatever the widths. Both look at the multimodal view alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from msd_deploy.config.distill import DistillConfig
from msd_deploy.distill.steps import ModelOutputs
from msd_deploy.distill.teacher_cache import TeacherPredictions
from msd_deploy.views import View

HINT_TERM = "hint"
DISTANCE_TERM, ANGLE_TERM = "relation_distance", "relation_angle"
_ANGLE_WEIGHT = 2.0
"""Of the angles against the distances, as in the paper."""
_MOST_ROWS = 128
"""Rows of a batch that are compared: memory grows with their cube, or square times width."""
_COINCIDE = 1e-8
"""Squared distance, over the batch's mean one, below which two points have no direction."""


@dataclass(frozen=True, slots=True)
class FeatureTerms:
    """The terms that a configuration adds to a student's loss.

    Attributes:
        predictions: The teacher's, with its features where a weight is above 0.
        hint_weight: Of the hint.
        relation_weight: Of the distances; the angles have twice as much.
    """

    predictions: TeacherPredictions
    hint_weight: float
    relation_weight: float

    def __call__(self, outputs: ModelOutputs, shown: View, rows: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms by name, none of weight 0.

        Args:
            outputs: The student's.
            shown: The view that is compared with the teacher's multimodal one, asked for first.
            rows: int64 [batch], positions in the training split.
        """
        terms: dict[str, Tensor] = {}
        if self.hint_weight > 0:
            assert outputs.hint is not None  # such a training has a projection
            teacher = self.predictions.features_of_rows(rows)
            terms[HINT_TERM] = self.hint_weight * hint_loss(outputs.hint, teacher)
        if self.relation_weight > 0:
            student, teacher = outputs.features[shown], self.predictions.features_of_rows(rows)
            weight = self.relation_weight
            terms[DISTANCE_TERM] = weight * relation_distance_loss(student, teacher)
            terms[ANGLE_TERM] = _ANGLE_WEIGHT * weight * relation_angle_loss(student, teacher)
        return terms


def feature_terms(config: DistillConfig, predictions: TeacherPredictions) -> FeatureTerms:
    """Return the terms of a configuration, the teacher's share of the loss in their weights."""
    share = 1 - config.alpha
    return FeatureTerms(predictions, share * config.hint_weight, share * config.relation_weight)


def build_projection(
    config: DistillConfig, width: int, predictions: TeacherPredictions, *, seed: int
) -> nn.Linear | None:
    """Return the map from the student's features to the teacher's; None without a hint.

    The global random state is left as it was.

    Args:
        config: Says whether there is a hint.
        width: Of the student's features.
        predictions: The teacher's.
        seed: Of its initial weights.
    """
    if config.hint_weight == 0 or predictions.features is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, predictions.features.shape[1])


def hint_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Return half the mean squared difference (Romero et al. 2015, eq. 3).

    The mean over the width instead of the sum, so that a weight means the same for any teacher.

    Args:
        projected: The student's features, mapped: float [batch, hidden of the teacher].
        teacher: float [batch, hidden of the teacher].
    """
    return 0.5 * (projected - teacher).square().mean()


def relation_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Huber loss of the distances between two examples (Park et al. 2019).

    Each model's distances are divided by their mean over the batch. 0 for a batch of one. Of a
    batch above 128 rows, 128 that are spread evenly over it are compared.

    Args:
        student: float [batch, hidden].
        teacher: float [batch, hidden of the teacher].
    """
    rows = _compared_rows(student)
    pairs = max(1, len(rows) * (len(rows) - 1))
    found, wanted = (_scaled_distances(points[rows], pairs) for points in (student, teacher))
    return functional.smooth_l1_loss(found, wanted, reduction="sum") / pairs


def relation_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean Huber loss of the cosines at one of three examples (ibid.).

    0 for a batch below three. Rows as in `relation_distance_loss`.

    Args:
        student: float [batch, hidden].
        teacher: float [batch, hidden of the teacher].
    """
    rows = _compared_rows(student)
    count = len(rows)
    triples = max(1, count * (count - 1) * (count - 2))
    found, wanted = (_cosines(points[rows]) for points in (student, teacher))
    return functional.smooth_l1_loss(found, wanted, reduction="sum") / triples


def _compared_rows(points: Tensor) -> Tensor:
    """Return which rows of a batch are compared, int64."""
    count = min(len(points), _MOST_ROWS)
    return torch.linspace(0, len(points) - 1, count, device=points.device).round().long()


def _scaled_distances(points: Tensor, pairs: int) -> Tensor:
    """Return distances [batch, batch] over their mean; 0 on the diagonal."""
    squared = (points[:, None] - points[None]).square().sum(dim=-1)
    apart = squared > _COINCIDE * squared.mean()
    # The root of 0 has no slope: it is kept out of the graph, not only out of the result.
    distances = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    return distances / (distances.sum() / pairs).clamp(min=torch.finfo(points.dtype).tiny)


def _cosines(points: Tensor) -> Tensor:
    """Return cosines [batch, batch, batch]: at [j, i, k] that of the angle from i over j to k.

    It is 0 where two of the three are one.
    """
    difference = points[None] - points[:, None]
    squared = difference.square().sum(dim=-1, keepdim=True)
    apart = squared > _COINCIDE * squared.mean()
    directions = torch.where(apart, difference * torch.where(apart, squared, 1.0).rsqrt(), 0.0)
    distinct = 1 - torch.eye(len(points), dtype=points.dtype, device=points.device)
    return directions @ directions.transpose(1, 2) * distinct
