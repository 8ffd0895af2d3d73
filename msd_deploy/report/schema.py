"""The content of distillation.json, typed: what a report states, under which names and units.

Shares, probabilities and metrics are fractions of 1, distances are nats. Keys of mappings by view
are those of `View`.
"""

from typing import Literal, TypedDict

from msd_deploy.config.describe import Settings
from msd_deploy.pages.formatting import ScoreJson
from msd_deploy.problem import Problem

OutputOf = Literal["positive_class", "true_class", "true_classes"]
Kind = Literal["image", "text", "both"]
KINDS: tuple[Kind, ...] = ("image", "text", "both")


class DataJson(TypedDict):
    """What was looked at."""

    name: str
    split: str
    examples: int
    digest: str
    notes: list[str]


class OutputJson(TypedDict):
    """Which probability the densities are of: that of `label`, or of what is true of each example.

    `grid` holds the places of every `density`, `histogram_edges` the ends of the histograms' bins.
    """

    of: OutputOf
    label: str | None
    grid: list[float]
    histogram_edges: list[float]


class ViewJson(TypedDict):
    """A model's answers to one view.

    density is a Gaussian kernel's at `OutputJson.grid`, histogram the share in each bin.
    """

    score: ScoreJson
    density: list[float]
    histogram: list[float]


class Closeness(TypedDict):
    """How close a student is to its teacher on one view.

    agreement is the share of equal decisions, distance the mean KL(teacher || student) of the
    probabilities, total_variation that of the two histograms.
    """

    agreement: float
    distance: float
    total_variation: float


class SpreadSeries(TypedDict):
    """A view's weights over training, an entry a logged step: their mean and deviation."""

    mean: list[float | None]
    std: list[float | None]


class ValidationJson(TypedDict):
    """The metric on the validation split over training, by view."""

    steps: list[int]
    views: dict[str, list[float]]


class TrainingJson(TypedDict):
    """What history.jsonl says of a student's training; an entry of `terms` a logged step."""

    steps: list[int]
    terms: dict[str, list[float | None]]
    weights: dict[str, SpreadSeries]
    validation: ValidationJson


class BinJson(TypedDict):
    """Training examples of like saliency: medians of saliency and weight, the weights' deciles."""

    examples: int
    saliency: float
    low: float
    median: float
    high: float


class SalienceJson(TypedDict):
    """One modality: weights against saliency, in bins and as some single examples.

    rank_correlation is Spearman's, None where either is the same for all examples.
    """

    rank_correlation: float | None
    bins: list[BinJson]
    points: list[list[float]]


class WeightsJson(TypedDict):
    """What a finished student's method gives its training examples.

    fixed holds the weight of each view where it is one for all examples; by_saliency is then empty.
    """

    fixed: dict[str, float]
    by_saliency: dict[str, SalienceJson]


class TeacherJson(TypedDict):
    """The teacher; `validation` is its metric on that split, by view, whichever is looked at."""

    digest: str
    parameters: int
    size_bytes: int
    views: dict[str, ViewJson]
    validation: dict[str, float]


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
    training: TrainingJson
    weights: WeightsJson | None


class DecisionJson(TypedDict):
    """What a model decides of one example; empty labels: none of the classes.

    probability is that of the decided classes, or, where there are none, of the likeliest one.
    """

    labels: list[str]
    probability: list[float]


class ExampleJson(TypedDict):
    """One example that is shown; `row` is its position in the split."""

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
    """How many examples each modality decides by the teacher's views, and some of each kind."""

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
