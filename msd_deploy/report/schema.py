"""Types of distillation.json.

Shares, probabilities and metrics are fractions of 1, distances are in nats. Keys of mappings by
view are the values of `View`.
"""

from typing import Literal, TypedDict

from msd_deploy.confidence import ConfidenceJson
from msd_deploy.config.describe import Settings
from msd_deploy.decision_quality import DecisionsJson
from msd_deploy.operating_point import Expected
from msd_deploy.pages.formatting import ScoreJson
from msd_deploy.problem import Problem

OutputOf = Literal["positive_class", "true_class", "true_classes"]
Kind = Literal["image", "text", "both"]
KINDS: tuple[Kind, ...] = ("image", "text", "both")


class DataJson(TypedDict):
    """The data set and its reported split."""

    name: str
    split: str
    examples: int
    digest: str
    notes: list[str]


class OutputJson(TypedDict):
    """The probability of densities and histograms: of class `label`, or of the true classes.

    `grid` has the points of every `density`, `histogram_edges` the edges of the histograms' bins.
    """

    of: OutputOf
    label: str | None
    grid: list[float]
    histogram_edges: list[float]


class OperatingPointJson(TypedDict):
    """How a model's operating point was chosen, and what it gives by view.

    `views` on the reported split, `expected` on the validation examples that it was chosen on.
    """

    rule: str
    views: dict[str, DecisionsJson]
    expected: dict[str, Expected]


class ViewJson(TypedDict):
    """A model's outputs in one view.

    density is a kernel density at `OutputJson.grid`, histogram the share of each bin.
    """

    score: ScoreJson
    density: list[float]
    histogram: list[float]


class Closeness(TypedDict):
    """Agreement and distance between a student and its teacher in one view.

    agreement is the share of equal decisions, distance the mean KL(teacher || student) of the
    probabilities, total_variation the distance of the two histograms.
    """

    agreement: float
    distance: float
    total_variation: float


class SpreadSeries(TypedDict):
    """Mean and standard deviation of a view's weights, an entry per logged step."""

    mean: list[float | None]
    std: list[float | None]


class ValidationJson(TypedDict):
    """The metric on the validation split over training, by view."""

    steps: list[int]
    views: dict[str, list[float]]


class TrainingJson(TypedDict):
    """Loss terms, weights and validation metric of a student's training, per logged step."""

    steps: list[int]
    terms: dict[str, list[float | None]]
    weights: dict[str, SpreadSeries]
    validation: ValidationJson


class BinJson(TypedDict):
    """Training examples of similar saliency: median saliency, and deciles of the weights."""

    examples: int
    saliency: float
    low: float
    median: float
    high: float


class SalienceJson(TypedDict):
    """Weights of one view against the saliency of its modality, in bins and as single examples.

    rank_correlation is Spearman's, None where either is constant.
    """

    rank_correlation: float | None
    bins: list[BinJson]
    points: list[list[float]]


class WeightsJson(TypedDict):
    """Final weights of the training examples.

    fixed has the weight of each view where it is constant; by_saliency is then empty.
    """

    fixed: dict[str, float]
    by_saliency: dict[str, SalienceJson]


class SpecialistJson(TypedDict):
    """A teacher of one view; teacher_score is the teacher's own there, on the reported split."""

    parameters: int
    size_bytes: int
    teacher_score: ScoreJson


class CalibrationJson(TypedDict):
    """Calibration of a model's probabilities by view.

    uncalibrated is the same without temperatures; it and temperatures are None where the model has
    none.
    """

    views: dict[str, ConfidenceJson]
    uncalibrated: dict[str, ConfidenceJson] | None
    temperatures: dict[str, float] | None


class TeacherJson(TypedDict):
    """The teacher that the student learned from; `validation` is its metric on that split, by view.

    Where a view has a specialist, `views` and `validation` are the specialist's; validation is
    empty where no validation example has a label. before_adaptation is the metric on the reported
    split of the teacher that it was adapted from; None if it was not adapted.
    """

    digest: str
    parameters: int
    size_bytes: int
    views: dict[str, ViewJson]
    validation: dict[str, float]
    before_adaptation: dict[str, float] | None
    specialists: dict[str, SpecialistJson]
    calibration: CalibrationJson
    decisions: OperatingPointJson | None


class StudentJson(TypedDict):
    """One run's student; `settings` are those that are not the defaults, by dotted key."""

    run: str
    method: str
    alpha: float
    temperature: float
    loss: str
    settings: Settings
    parameters: int
    size_bytes: int
    views: dict[str, ViewJson]
    closeness: dict[str, Closeness]
    calibration: CalibrationJson
    decisions: OperatingPointJson | None
    training: TrainingJson
    weights: WeightsJson | None


class DecisionJson(TypedDict):
    """A model's decision on one example; empty labels mean none of the classes.

    probability is that of the decided classes or, without any, of the most probable one.
    """

    labels: list[str]
    probability: list[float]


class ExampleJson(TypedDict):
    """One shown example; `row` is its position in the split."""

    kind: Kind
    row: int
    origin: str
    text: str
    truth: list[str]
    image_saliency: float
    text_saliency: float
    teacher: dict[str, DecisionJson]
    students: list[dict[str, DecisionJson]]


class ExamplesJson(TypedDict):
    """Number of examples that each modality decides for the teacher, and some of each kind."""

    counts: dict[str, int]
    shown: list[ExampleJson]


class DistillationJson(TypedDict):
    """distillation.json."""

    schema_version: int
    kind: Literal["distillation"]
    msd_deploy: str
    created_utc: str
    command: str
    data: DataJson
    problem: Problem
    labels: list[str]
    metric: str
    output: OutputJson
    teacher: TeacherJson
    students: list[StudentJson]
    examples: ExamplesJson
    notes: list[str]
