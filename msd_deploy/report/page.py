"""Rendering of distillation.html from distillation.json and thumbnails of its examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msd_deploy.config.describe import settings_words
from msd_deploy.distillation.methods import describe_method
from msd_deploy.pages.formatting import (
    DECISION_GROUPS,
    VIEW_NAMES,
    ScoreJson,
    bytes_text,
    count_text,
    decision_cells,
    fraction_text,
    metric_title,
    percent,
    score_text,
)
from msd_deploy.pages.page import Line, Table, Tile, render_page
from msd_deploy.pages.svg import Panel
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.report.charts import (
    clipped,
    density_panels,
    output_name,
    reliability_panels,
    saliency_panels,
    student_title,
    training_panels,
)
from msd_deploy.report.densities import BANDWIDTH, EDGES
from msd_deploy.report.run_files import BINS
from msd_deploy.report.schema import (
    KINDS,
    CalibrationJson,
    DecisionJson,
    DistillationJson,
    ExampleJson,
    SpecialistJson,
    StudentJson,
    TeacherJson,
)

_MAX_CHARACTERS = 280
_SHOWN_SETTINGS = tuple(
    f"distill.{name}" for name in ("method", "weighting", "alpha", "temperature", "loss")
)
_KIND_TITLES = {
    "image": "The image decides",
    "text": "The text decides",
    "both": "Only both together decide",
}


@dataclass(frozen=True, slots=True)
class RunSection:
    """The page's section on one run.

    Attributes:
        title: Heading.
        method: Sentence on method and settings.
        tiles: The student's metrics and parameters as a share of the teacher's.
        training: Charts over training.
        saliency: Charts of weights against saliency.
        weights: Sentence on the weights, where there are no charts of them.
    """

    title: str
    method: str
    tiles: tuple[Tile, ...]
    training: tuple[Panel, ...]
    saliency: tuple[Panel, ...]
    weights: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One model's decision in one view.

    Attributes:
        decided: The decided classes, or "none".
        probability: Their probabilities.
        is_right: Whether they are the true classes.
    """

    decided: str
    probability: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One example.

    Attributes:
        image: Data URI of its thumbnail.
        text: Its text, shortened.
        truth: Its true classes.
        origin: Its row in the data set.
        decisions: Name of each model, and its decision in each view.
    """

    image: str
    text: str
    truth: str
    origin: str
    decisions: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The examples of one kind."""

    title: str
    count: str
    cards: tuple[Card, ...]


def render_distillation(report: DistillationJson, thumbnails: Mapping[int, str]) -> str:
    """Render the report as one self-contained page.

    Args:
        report: Content of distillation.json.
        thumbnails: Data URI of each example's thumbnail, by its row.
    """
    return render_page(
        "msd_deploy.report",
        "distillation.html.j2",
        report=report,
        subtitle=_subtitle(report),
        output=output_name(report),
        densities=density_panels(report),
        runs=[_run_section(report, number) for number in range(len(report["students"]))],
        tables=[
            quality_table(report),
            closeness_table(report),
            calibration_table(report),
            *decisions_tables(report),
        ],
        reliability=reliability_panels(report),
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
    """Describe a student's method and its settings that are not the defaults."""
    settings = student["settings"]
    text = student["method"] + ": " + describe_method(student["method"], settings)
    if student["method"] != "none":
        text += (
            f"; alpha {student['alpha']:g}, temperature {student['temperature']:g},"
            f" loss {student['loss']}"
        )
    others = {key: value for key, value in settings.items() if key not in _SHOWN_SETTINGS}
    return f"{text}. Changed settings: {settings_words(others)}." if others else f"{text}."


def weights_text(student: StudentJson) -> str:
    """Describe the views' weights where there are no charts of them."""
    weights = student["weights"]
    if weights is None:
        return "This method has no weights per view."
    if weights["by_saliency"]:
        return ""
    fixed = ", ".join(f"{VIEW_NAMES[view]} {value:.3g}" for view, value in weights["fixed"].items())
    return f"The weights are the same for all examples, independent of saliency: {fixed}."


def headline(report: DistillationJson, student: StudentJson) -> list[Tile]:
    """Return tiles with the student's metrics and parameters as shares of the teacher's."""
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
    """Build the table of metrics with intervals by view, and of model sizes."""
    metric = metric_title(report["metric"])
    groups = {
        f"{metric} (95 % interval)": tuple(VIEW_NAMES.values()),
        "Model": ("parameters", "size"),
    }
    teacher = report["teacher"]
    targets = {view: teacher["views"][view]["score"] for view in VIEW_NAMES}
    own = {view: one["teacher_score"] for view, one in teacher["specialists"].items()}
    lines = [_quality_line("Teacher", "teacher", targets | own, teacher)]
    for view, specialist in teacher["specialists"].items():
        name = f"{view.capitalize()} teacher"
        lines.append(_quality_line(name, "teacher", {view: targets[view]}, specialist))
    for one in report["students"]:
        scores = {view: one["views"][view]["score"] for view in VIEW_NAMES}
        lines.append(_quality_line(student_title(one), "student", scores, one))
    if (before := report["teacher"]["before_adaptation"]) is not None:
        shown = (*(percent(before[view]) for view in VIEW_NAMES), *lines[0].cells[-2:])
        lines.insert(0, Line("Teacher before adaptation", "teacher", shown))
    title = f"{metric} on {report['data']['examples']:,} {report['data']['split']} examples"
    return Table(title, "Model", {}, groups, tuple(lines))


def _quality_line(
    name: str,
    role: str,
    scores: Mapping[str, ScoreJson],
    model: TeacherJson | SpecialistJson | StudentJson,
) -> Line:
    return Line(
        name,
        role,
        (
            *(score_text(scores.get(view)) for view in VIEW_NAMES),
            count_text(model["parameters"]),
            bytes_text(model["size_bytes"]),
        ),
    )


def closeness_table(report: DistillationJson) -> Table:
    """Build the table of agreement and distances between each student and its teacher."""
    columns: dict[str, Callable[[StudentJson, str], str]] = {
        "Agreement": lambda one, view: percent(one["closeness"][view]["agreement"]),
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
    title = "Distance of each student to its teacher"
    return Table(title, "Model", {}, groups, tuple(lines))


def calibration_table(report: DistillationJson) -> Table:
    """Build the table of calibration errors and Brier scores, before and after calibration."""
    teacher = report["teacher"]["calibration"]
    lines = _calibration_lines("Teacher", "teacher", teacher)
    for one in report["students"]:
        lines += _calibration_lines(student_title(one), "student", one["calibration"])
    groups = {
        "Expected calibration error (95 % interval)": tuple(VIEW_NAMES.values()),
        "Brier score": tuple(VIEW_NAMES.values()),
    }
    title = f"Calibration on {report['data']['examples']:,} {report['data']['split']} examples"
    return Table(title, "Model", {}, groups, tuple(lines))


def _calibration_lines(name: str, role: str, calibration: CalibrationJson) -> list[Line]:
    shown = {name: calibration["views"]}
    if calibration["uncalibrated"] is not None:
        shown["before calibration"] = calibration["uncalibrated"]
    return [
        Line(
            title,
            role,
            (
                *(fraction_text(views[view]["ece"]) for view in VIEW_NAMES),
                *(f"{views[view]['brier']['value']:.3f}" for view in VIEW_NAMES),
            ),
        )
        for title, views in shown.items()
    ]


def decisions_tables(report: DistillationJson) -> list[Table]:
    """Build the table of what the operating points give; none if no model has one."""
    models = {"Teacher": ("teacher", report["teacher"]["decisions"])}
    for one in report["students"]:
        models[student_title(one)] = ("student", one["decisions"])
    lines = [
        Line(f"{name}, {decided['rule']}: {view}", role, cells)
        for name, (role, decided) in models.items()
        if decided is not None
        for view, cells in decision_cells(decided["views"], decided["expected"])
    ]
    title = f"Operating points on {report['data']['examples']:,} {report['data']['split']} examples"
    return [Table(title, "Model", {}, DECISION_GROUPS, tuple(lines))] if lines else []


def _sheet(report: DistillationJson, kind: str, thumbnails: Mapping[int, str]) -> Sheet:
    examples = report["examples"]
    count, total = examples["counts"][kind], sum(examples["counts"].values())
    shown = [one for one in examples["shown"] if one["kind"] == kind]
    return Sheet(
        title=_KIND_TITLES[kind],
        count=f"{count:,} of {total:,}",
        cards=tuple(_card(report, one, thumbnails[one["row"]]) for one in shown),
    )


def _card(report: DistillationJson, example: ExampleJson, thumbnail: str) -> Card:
    names = ["teacher", *(student["run"] for student in report["students"])]
    models = [example["teacher"], *example["students"]]
    truth = example["truth"]
    return Card(
        image=thumbnail,
        text=clipped(example["text"], _MAX_CHARACTERS),
        truth=", ".join(truth) or "none",
        origin=example["origin"],
        decisions=tuple(
            (name, tuple(_cell(decisions[view], truth, report["problem"]) for view in VIEW_NAMES))
            for name, decisions in zip(names, models, strict=True)
        ),
    )


def _cell(decision: DecisionJson, truth: list[str], problem: Problem) -> Cell:
    nothing = "abstains" if decides_one_class(problem) else "none"
    return Cell(
        decided=", ".join(decision["labels"]) or nothing,
        probability=", ".join(map(percent, decision["probability"])),
        is_right=decision["labels"] == truth,
    )


def _chance_text(report: DistillationJson) -> str:
    """Return what the calibration errors of the students would be by chance, where it is known."""
    chances = [
        chance
        for student in report["students"]
        for view in student["calibration"]["views"].values()
        if (chance := view["ece_by_chance"]) is not None
    ]
    if not chances:
        return ""
    return (
        f"; by chance alone it would be {min(chances):.3f} to {max(chances):.3f} here if every"
        " probability were right"
    )


def _method_sentences(report: DistillationJson) -> list[str]:
    return [
        f"Densities: Gaussian kernel density of the {output_name(report)}, standard deviation"
        f" {BANDWIDTH:g}, reflected at 0 and 1; the vertical axis has a square-root scale, so that"
        " both peaks and plateaus are visible. After figure 1 of Jin et al. 2021 (arXiv"
        " 2101.01881).",
        "Total variation: half the sum of the absolute differences of the two histograms of that"
        f" probability, in {len(EDGES) - 1} bins; 0 means equal, 1 disjoint. It compares"
        " distributions, not single examples.",
        "Mean distance: KL(teacher || student) of the probabilities at temperature 1, averaged over"
        " examples and, for independent classes, over classes.",
        "Intervals: 95 % bootstrap intervals over examples. Agreement: share of decisions that"
        " student and teacher have in common.",
        "Expected calibration error: mean difference of confidence and outcome in 15 bins of"
        f" equally many decisions{_chance_text(report)}. Confidence: probability of the decided"
        " class, outcome: whether it is correct; in multi-label tasks the probability of each"
        " class, and whether it is true. Temperatures were fitted on the validation split."
        " Densities, distances and total variation are of outputs before calibration, as in"
        " distillation; examples have the probabilities of an exported model.",
        "Loss terms: values of single batches, weighted and scaled so that their sum is the loss."
        " Validation: after each epoch.",
        "Saliency: KL divergence, in nats, between the teacher's predictions with and without the"
        " modality, on the training examples and at the temperature of the training. Curve: medians"
        f" of {BINS} groups of equally many examples; band: first to ninth decile; dots: single"
        " examples.",
        "Examples: a modality decides an example if it alone leads the teacher to its multimodal"
        " decision and the other one alone does not. Shown are the examples of the highest saliency"
        " at temperature 1, each with a different image, whether correct or not.",
    ]
