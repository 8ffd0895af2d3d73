"""distillation.html, from the content of distillation.json and the pictures of its examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msd_deploy.config.describe import settings_words
from msd_deploy.distill.methods import describe_method
from msd_deploy.pages.formatting import (
    VIEW_NAMES,
    bytes_text,
    count_text,
    metric_title,
    percent,
    score_text,
)
from msd_deploy.pages.page import Line, Table, Tile, render_page
from msd_deploy.pages.svg import Panel
from msd_deploy.report.charts import (
    clipped,
    density_panels,
    output_name,
    saliency_panels,
    student_title,
    training_panels,
)
from msd_deploy.report.densities import BANDWIDTH, EDGES
from msd_deploy.report.run_files import BINS
from msd_deploy.report.schema import KINDS, DecisionJson, DistillationJson, ExampleJson, StudentJson

_MOST_CHARACTERS = 280
_TOLD_ALREADY = tuple(
    f"distill.{name}" for name in ("method", "weighting", "alpha", "temperature", "loss")
)
_KIND_TITLES = {
    "image": "The image decides",
    "text": "The text decides",
    "both": "Only both together decide",
}


@dataclass(frozen=True, slots=True)
class RunSection:
    """What the page shows of one run.

    Attributes:
        title: Its heading.
        method: In a sentence.
        tiles: The student as a share of its teacher.
        training: Charts over training.
        saliency: Charts of weights against saliency.
        weights: A sentence on the weights.
    """

    title: str
    method: str
    tiles: tuple[Tile, ...]
    training: tuple[Panel, ...]
    saliency: tuple[Panel, ...]
    weights: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One model's answer to one view.

    Attributes:
        decided: The classes, or "none".
        probability: Theirs.
        is_right: Whether they are the true ones.
    """

    decided: str
    probability: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One example.

    Attributes:
        picture: A data URI.
        text: As the data has it, clipped.
        truth: Its true classes.
        origin: Where it stands in the data.
        answers: Each model's name, and its answer to each view.
    """

    picture: str
    text: str
    truth: str
    origin: str
    answers: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The examples of one kind."""

    title: str
    count: str
    cards: tuple[Card, ...]


def render_distillation(report: DistillationJson, thumbnails: Mapping[int, str]) -> str:
    """Return the report as one self-contained page.

    Args:
        report: The content of distillation.json.
        thumbnails: A data URI of each example's picture, by its row.
    """
    return render_page(
        "msd_deploy.report",
        "distillation.html.j2",
        report=report,
        subtitle=_subtitle(report),
        output=output_name(report),
        densities=density_panels(report),
        runs=[_run_section(report, number) for number in range(len(report["students"]))],
        tables=[quality_table(report), closeness_table(report)],
        views=list(VIEW_NAMES.values()),
        sheets=[_sheet(report, kind, thumbnails) for kind in KINDS],
        either=report["examples"]["counts"]["either"],
        method=_method_sentences(report),
    )


def _subtitle(report: DistillationJson) -> str:
    data = report["data"]
    date = report["created_utc"][:10]
    return f"{data['name']}, {data['examples']:,} {data['split']} examples, {date}"


def _run_section(report: DistillationJson, number: int) -> RunSection:
    student = report["students"][number]
    return RunSection(
        title=student_title(student),
        method=method_text(student),
        tiles=tuple(headline(report, student)),
        training=tuple(training_panels(report, number)),
        saliency=tuple(saliency_panels(student, number)),
        weights=weights_text(student),
    )


def method_text(student: StudentJson) -> str:
    """Say how a student learned, and with which settings that are not the defaults."""
    settings = student["settings"]
    words = student["method"] + ": " + describe_method(student["method"], settings)
    if student["method"] != "none":
        words += (
            f"; alpha {student['alpha']:g}, temperature {student['temperature']:g},"
            f" loss {student['loss']}"
        )
    others = {key: value for key, value in settings.items() if key not in _TOLD_ALREADY}
    return f"{words}. Not the defaults: {settings_words(others)}." if others else f"{words}."


def weights_text(student: StudentJson) -> str:
    """Say what the views' weights are, where they are not drawn."""
    weights = student["weights"]
    if weights is None:
        return "It has no weights of views."
    if weights["by_saliency"]:
        return ""
    told = ", ".join(f"{VIEW_NAMES[view]} {value:.3g}" for view, value in weights["fixed"].items())
    return f"Its weights are the same for all examples, whatever their saliency: {told}."


def headline(report: DistillationJson, student: StudentJson) -> list[Tile]:
    """Return the student's share of the teacher's metric by view, and of its parameters."""
    teacher = report["teacher"]
    tiles = []
    for view, name in VIEW_NAMES.items():
        own, whole = (one["views"][view]["score"]["value"] for one in (student, teacher))
        share = own / whole if whole else None
        title = f"{metric_title(report['metric'])}, {name}"
        tiles.append(Tile(title, percent(share), f"{percent(own)} of {percent(whole)}"))
    own_count, whole_count = student["parameters"], teacher["parameters"]
    detail = f"{count_text(own_count)} of {count_text(whole_count)}"
    return [*tiles, Tile("Parameters", percent(own_count / whole_count), detail)]


def quality_table(report: DistillationJson) -> Table:
    """Return the metric of every view with its interval, and the size of each model."""
    metric = metric_title(report["metric"])
    groups = {
        f"{metric} (95 % interval)": tuple(VIEW_NAMES.values()),
        "Model": ("parameters", "size"),
    }
    lines = [
        Line(
            name,
            role,
            (
                *(score_text(model["views"][view]["score"]) for view in VIEW_NAMES),
                count_text(model["parameters"]),
                bytes_text(model["size_bytes"]),
            ),
        )
        for name, role, model in (
            ("Teacher", "teacher", report["teacher"]),
            *((student_title(one), "student", one) for one in report["students"]),
        )
    ]
    title = f"{metric} of {report['data']['examples']:,} {report['data']['split']} examples"
    return Table(title, "Model", {}, groups, tuple(lines))


def closeness_table(report: DistillationJson) -> Table:
    """Return how close each student is to its teacher, by view."""
    columns: dict[str, Callable[[StudentJson, str], str]] = {
        "Decides as the teacher": lambda one, view: percent(one["closeness"][view]["agreement"]),
        "Mean distance, nats": lambda one, view: f"{one['closeness'][view]['distance']:.3f}",
        "Total variation": lambda one, view: f"{one['closeness'][view]['total_variation']:.3f}",
    }
    lines = [
        Line(
            student_title(one),
            "student",
            tuple(text(one, view) for text in columns.values() for view in VIEW_NAMES),
        )
        for one in report["students"]
    ]
    groups = dict.fromkeys(columns, tuple(VIEW_NAMES.values()))
    return Table("How close each student is to its teacher", "Model", {}, groups, tuple(lines))


def _sheet(report: DistillationJson, kind: str, thumbnails: Mapping[int, str]) -> Sheet:
    examples = report["examples"]
    count, total = examples["counts"][kind], sum(examples["counts"].values())
    shown = [one for one in examples["shown"] if one["kind"] == kind]
    return Sheet(
        title=_KIND_TITLES[kind],
        count=f"{count:,} of {total:,}",
        cards=tuple(_card(report, one, thumbnails[one["row"]]) for one in shown),
    )


def _card(report: DistillationJson, example: ExampleJson, picture: str) -> Card:
    names = ["teacher", *(student["run"] for student in report["students"])]
    models = [example["teacher"], *example["students"]]
    truth = example["truth"]
    return Card(
        picture=picture,
        text=clipped(example["text"], _MOST_CHARACTERS),
        truth=", ".join(truth) or "none",
        origin=example["origin"],
        answers=tuple(
            (name, tuple(_cell(answers[view], truth) for view in VIEW_NAMES))
            for name, answers in zip(names, models, strict=True)
        ),
    )


def _cell(answer: DecisionJson, truth: list[str]) -> Cell:
    return Cell(
        decided=", ".join(answer["labels"]) or "none",
        probability=", ".join(map(percent, answer["probability"])),
        is_right=answer["labels"] == truth,
    )


def _method_sentences(report: DistillationJson) -> list[str]:
    return [
        f"Densities: of the {output_name(report)}, a Gaussian kernel of deviation {BANDWIDTH:g},"
        " reflected at 0 and 1; the vertical scale is that of square roots, so that both a peak at"
        " an end and a plateau can be seen. After figure 1 of Jin et al. 2021 (arXiv 2101.01881).",
        "Total variation: half the sum of the absolute differences of the two histograms of that"
        f" probability, in {len(EDGES) - 1} bins; 0 is alike, 1 is apart. It compares densities,"
        " not examples.",
        "Mean distance: KL(teacher || student) of the probabilities, at temperature 1 whatever the"
        " training's was, the mean over the examples; of independent classes, over classes too.",
        "Intervals: 95 % bootstrap intervals over examples. Decides as the teacher: share of equal"
        " decisions.",
        "Loss terms: of single batches, each already with its weight and scale, so that their sum"
        " is the loss. Validation: after each pass.",
        "Saliency: how far the teacher's prediction moves when the modality is withheld, in nats,"
        f" on the training examples and at the training's temperature. Curve: medians of {BINS}"
        " groups of as many examples each; band: from the first to the ninth decile; dots: single"
        " examples.",
        "Examples: a modality decides where it alone leads the teacher to the answer that it gives"
        " to the pair, and the other one alone does not. Shown are those where it shows most by the"
        " teacher's saliency at temperature 1, each with another picture, right or wrong.",
    ]
