"""Charts of a distillation report, from the content of distillation.json."""

from collections.abc import Sequence

from markupsafe import Markup

from msd_deploy.pages.formatting import VIEW_NAMES, metric_title
from msd_deploy.pages.line_chart import (
    Range,
    Series,
    draw_panel,
    linear_range,
    log_range_of,
    metric_range,
    root_range,
)
from msd_deploy.pages.svg import Panel
from msd_deploy.report.run_files import are_apart
from msd_deploy.report.schema import (
    CalibrationJson,
    DistillationJson,
    SalienceJson,
    StudentJson,
    ViewJson,
)
from msd_deploy.views import View

_VIEWS = tuple(view.value for view in View)
_MIN_LOSS, _MIN_SALIENCY = 1e-4, 1e-3
_SHORT_NAMES = {"multimodal": "image and text", "image": "image", "text": "text"}
_HALF = 0.5
_OTHER_TERMS = 3  # number of styles for terms of no view, after which they repeat


def density_panels(report: DistillationJson) -> list[Panel]:
    """Draw the output densities of teacher and students by view, on the same axes."""
    models = [report["teacher"]["views"], *(one["views"] for one in report["students"])]
    highest = max(max(view["density"]) for views in models for view in views.values())
    y = root_range(highest * 1.05, "density (square-root scale)")
    x = linear_range(0, 1, output_name(report), most=6)
    grid = report["output"]["grid"]
    panels = [Panel("Teacher", _densities("density-teacher", "teacher", models[0], grid, x, y), "")]
    for number, student in enumerate(report["students"]):
        name = f"density-{number}"
        chart = _densities(name, student["run"], student["views"], grid, x, y)
        apart = ", ".join(
            f"{_SHORT_NAMES[view]} {student['closeness'][view]['total_variation']:.2f}"
            for view in _VIEWS
        )
        panels.append(
            Panel(student_title(student), chart, f"Total variation to the teacher: {apart}.")
        )
    return panels


def reliability_panels(report: DistillationJson) -> list[Panel]:
    """Draw outcome against confidence of each model by view, with the diagonal."""
    named = {"Teacher": ("teacher", report["teacher"]["calibration"])}
    for number, student in enumerate(report["students"]):
        named[student_title(student)] = (f"{number}", student["calibration"])
    return [
        Panel(title, _reliability(f"reliability-{name}", title, one), _gaps_text(one))
        for title, (name, one) in named.items()
    ]


def _reliability(name: str, title: str, calibration: CalibrationJson) -> Markup:
    series = [
        Series(
            _SHORT_NAMES[view],
            f"view-{view}",
            tuple((each["confidence"], each["outcome"]) for each in one["reliability"]),
        )
        for view, one in calibration["views"].items()
    ]
    least = min(point for one in series for each in one.points for point in each)
    low = 0.0 if least < _HALF else _HALF  # decisions of two classes start there
    diagonal = Series("calibrated", "ideal", ((low, low), (1.0, 1.0)))
    return draw_panel(
        name,
        [*series, diagonal],
        x=linear_range(low, 1, "confidence", most=6),
        y=linear_range(low, 1, "outcome", most=6),
        title=f"Reliability of {title}, by view",
        description=_gaps_text(calibration),
    )


def _gaps_text(calibration: CalibrationJson) -> str:
    gaps = (
        f"{_SHORT_NAMES[view]} {one['gap']['value']:+.3f}"
        for view, one in calibration["views"].items()
    )
    return f"Mean confidence less mean outcome: {', '.join(gaps)}."


def output_name(report: DistillationJson) -> str:
    """Return the name of the probability whose densities are shown."""
    output = report["output"]
    if output["of"] == "positive_class":
        return f"probability of “{clipped(str(output['label']), 24)}”"
    if output["of"] == "true_class":
        return "probability of the true class"
    return "probability of each true class"


def student_title(student: StudentJson) -> str:
    """Return the name of a student on the page."""
    return f"Student of {student['run']}"


def clipped(text: str, most: int) -> str:
    """Shorten a text to at most a number of characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _densities(
    name: str, model: str, views: dict[str, ViewJson], grid: Sequence[float], x: Range, y: Range
) -> Markup:
    series = [
        Series(
            _SHORT_NAMES[view],
            f"view-{view}",
            tuple(zip(grid, views[view]["density"], strict=True)),
        )
        for view in _VIEWS
    ]
    description = "; ".join(
        f"{VIEW_NAMES[view]}: {_share_of_tails(views[view]):.0%} of the examples below 0.1 or at"
        " least 0.9"
        for view in _VIEWS
    )
    title = f"Density of the outputs of {model}, by view"
    return draw_panel(name, series, x=x, y=y, title=title, description=description, is_filled=True)


def _share_of_tails(outputs: ViewJson) -> float:
    """Return the share of outputs in the histogram's outer tenths."""
    shares = outputs["histogram"]
    tenth = len(shares) // 10
    return sum(shares[:tenth]) + sum(shares[-tenth:])


def training_panels(report: DistillationJson, number: int) -> list[Panel]:
    """Draw a student's loss terms, weights and validation metric over its training."""
    student = report["students"][number]
    steps = _step_range(student)
    return [
        *_terms_panel(student, number, steps),
        *_weights_panel(student, number, steps),
        *_validation_panel(report, student, number, steps),
    ]


def _step_range(student: StudentJson) -> Range:
    training = student["training"]
    last = max([*training["steps"], *training["validation"]["steps"]], default=1)
    return linear_range(0, last, "step")


def _terms_panel(student: StudentJson, number: int, steps: Range) -> list[Panel]:
    training = student["training"]
    others = [name for name in training["terms"] if name not in (*_VIEWS, "labels")]
    series = [
        Series(
            _SHORT_NAMES.get(name, name),
            f"view-{name}" if name in _VIEWS else _term_style(name, others),
            tuple(
                (float(step), value)
                for step, value in zip(training["steps"], values, strict=True)
                if value is not None
            ),
        )
        for name, values in training["terms"].items()
    ]
    if not series:
        return []
    positive = [value for one in series for _, value in one.points if value > 0]
    y = log_range_of(positive, "weighted loss term (log scale)", least=_MIN_LOSS)
    last = "; ".join(f"{one.name} {one.points[-1][1]:.3g}" for one in series if one.points)
    chart = draw_panel(
        f"terms-{number}",
        series,
        x=steps,
        y=y,
        title=f"Loss terms of {student['run']} over training",
        description=f"Last values: {last}",
    )
    return [Panel("Loss terms", chart, f"Last values: {last}.")]


def _term_style(name: str, others: Sequence[str]) -> str:
    if name == "labels":
        return "term-labels"
    return f"term-{others.index(name) % _OTHER_TERMS}"


def _weights_panel(student: StudentJson, number: int, steps: Range) -> list[Panel]:
    """Draw mean and standard deviation of each view's weights, unless they are constant."""
    training = student["training"]
    series = []
    for view, spread in training["weights"].items():
        known = [
            (float(step), mean, std)
            for step, mean, std in zip(
                training["steps"], spread["mean"], spread["std"], strict=True
            )
            if mean is not None and std is not None
        ]
        band = tuple((step, mean - std, mean + std) for step, mean, std in known)
        points = tuple((step, mean) for step, mean, _ in known)
        series.append(Series(_SHORT_NAMES[view], f"view-{view}", points, band))
    if not any(_is_varied(one) for one in series):
        return []
    high = max(upper for one in series for _, _, upper in one.band)
    chart = draw_panel(
        f"weights-{number}",
        series,
        x=steps,
        y=linear_range(0, high * 1.1, "weight, mean ± standard deviation"),
        title=f"Weights of {student['run']} over training",
        description="; ".join(f"{one.name} ends at {one.points[-1][1]:.3g}" for one in series),
    )
    return [Panel("Weights of the views", chart, "Over the examples of a batch.")]


def _is_varied(series: Series) -> bool:
    """Return whether weights differ within a batch or between steps."""
    means = [mean for _, mean in series.points]
    spread = any(are_apart(low, high) for _, low, high in series.band)
    return spread or (bool(means) and are_apart(min(means), max(means)))


def _validation_panel(
    report: DistillationJson, student: StudentJson, number: int, steps: Range
) -> list[Panel]:
    validation = student["training"]["validation"]
    if not validation["steps"]:
        return []
    teacher = report["teacher"]["validation"]
    series = [
        Series(
            _SHORT_NAMES[view],
            f"view-{view}",
            tuple(zip(map(float, validation["steps"]), validation["views"][view], strict=True)),
            reference=teacher[view],
        )
        for view in _VIEWS
    ]
    metric = metric_title(report["metric"])
    values = [value for one in series for _, value in one.points] + list(teacher.values())
    chart = draw_panel(
        f"validation-{number}",
        series,
        x=steps,
        y=metric_range(values, f"{metric} on validation"),
        title=f"Validation {metric.lower()} of {student['run']} over training",
        description="; ".join(f"{one.name} ends at {one.points[-1][1]:.1%}" for one in series),
    )
    return [Panel(f"Validation {metric.lower()}", chart, "Thin lines: the teacher.")]


def saliency_panels(student: StudentJson, number: int) -> list[Panel]:
    """Draw each single view's weight against the saliency of its modality."""
    weights = student["weights"]
    if weights is None or not weights["by_saliency"]:
        return []
    by_view = weights["by_saliency"]
    high = max(point[1] for one in by_view.values() for point in one["points"])
    y = linear_range(0, high * 1.1, "weight")
    return [
        _saliency_panel(student, f"saliency-{view}-{number}", view, one, y)
        for view, one in by_view.items()
    ]


def _saliency_panel(
    student: StudentJson, name: str, view: str, salience: SalienceJson, y: Range
) -> Panel:
    values = [point[0] for point in salience["points"]]
    x = log_range_of(values, "saliency, nats (log scale)", least=_MIN_SALIENCY)
    bins = salience["bins"]
    series = Series(
        f"{view} view: median and 80 % range",
        f"view-{view}",
        tuple((one["saliency"], one["median"]) for one in bins),
        tuple((one["saliency"], one["low"], one["high"]) for one in bins),
        tuple((point[0], point[1]) for point in salience["points"]),
    )
    rank = salience["rank_correlation"]
    correlation = "undefined, since one of them is constant" if rank is None else f"{rank:.2f}"
    title = f"Weight of the {view} view against the saliency of the {view}"
    description = f"{student['run']}: rank correlation {correlation}"
    chart = draw_panel(name, [series], x=x, y=y, title=title, description=description)
    return Panel(f"{view.capitalize()}", chart, f"Rank correlation: {correlation}.")
