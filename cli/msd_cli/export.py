"""`msd export`: a student in the formats of phones, each verified."""

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say
from msd_cli.options import JsonOption, OverwriteOption, RunArgument
from msd_cli.usage import usage_errors
from msd_export.formats import FORMATS, USUAL_TARGETS, CalibrationMethod, forms_of

if TYPE_CHECKING:
    from msd_deploy.artifacts import Json


def _offered() -> str:
    by_target = {name: ", ".join(form.precisions) for name, form in FORMATS.items()}
    return " ".join(f"{name}: {precisions}." for name, precisions in by_target.items())


class TargetName(StrEnum):
    """Targets."""

    ONNX = "onnx"
    ORT = "ort"
    COREML = "coreml"
    EXECUTORCH = "executorch"
    LITERT = "litert"
    ALL = "all"


class PrecisionName(StrEnum):
    """Precisions."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8-dynamic"
    INT4 = "int4"
    PAL6 = "pal6"
    PAL4 = "pal4"
    W8A8 = "w8a8"
    ALL = "all"


def export(
    run: RunArgument,
    target: Annotated[
        list[TargetName] | None,
        typer.Option(
            metavar="TARGET",
            help="onnx, ort (ONNX Runtime mobile), coreml, executorch, litert or all; repeatable.",
            show_default=", ".join(USUAL_TARGETS),
        ),
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(
            metavar="PRECISION",
            help=f"Repeatable; all: every one that a target has. {_offered()}",
            show_default="the first two of each",
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Most points of the test metric that a form may lose.")
    ] = 1.0,
    examples: Annotated[
        int | None, typer.Option(help="Test examples to verify with.", show_default="all")
    ] = None,
    calibration: Annotated[
        CalibrationMethod,
        typer.Option(
            metavar="METHOD",
            help="How int8 takes an activation's range from training examples: minmax, entropy or"
            " percentile.",
        ),
    ] = "minmax",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a run's student and verify every form against it on the test split.

    A form beyond its tolerance is not written, all others are: exit code 3.

    Examples:
        msd export runs/demo
        msd export runs/demo --target onnx --precision int8 --max-drop 0.5
        msd export runs/demo --target all --precision all
    """
    from msd_deploy.artifacts import RunDirectory, read_json
    from msd_export.export_folder import PARITY_NAME
    from msd_export.exporter import ExportConfig
    from msd_export.pipeline import export_student

    chosen = target or USUAL_TARGETS
    targets = tuple(name for name in FORMATS if name in chosen or "all" in chosen)
    with usage_errors():
        forms = forms_of(targets, precision or ())
        config = ExportConfig(
            forms, max_drop, examples, overwrite=overwrite, calibration=calibration
        )
    display = ProgressDisplay()
    with display.running():
        exports = export_student(RunDirectory(run), config, display.stages())
    parities = {item.name: read_json(item.folder / PARITY_NAME) for item in exports}
    if as_json:
        sizes = {item.name: item.size_bytes() for item in exports}
        print_json({"run": str(run), "size_bytes": sizes, "parity": parities})
        return
    table = new_table(
        "Verified exports: worst view's error and agreement, drop of image and text together",
        *("form", "size", "max error", "agreement", "drop", "through"),
    )
    for item in exports:
        size = f"{item.size_bytes() / 1e3:,.0f} kB"
        table.add_row(item.name, size, *_parity_cells(parities[item.name]))
    result_console().print(table)
    say(f"Wrote {run / 'exports'}. Next: msd bench {shlex.quote(str(run))}")


def _parity_cells(parity: "Json") -> tuple[str, ...]:
    views = cast(dict[str, dict[str, float]], parity["views"])
    return (
        f"{max(view['max_abs_error'] for view in views.values()):.1e}",
        f"{min(_gated_agreement(name, view) for name, view in views.items()):.2%}",
        f"{views['multimodal']['drop'] * 100:+.2f} points",
        str(parity["runtime"]),
    )


def _gated_agreement(name: str, view: dict[str, float]) -> float:
    """Return what the gate looks at: on a single view, only what the student is sure of."""
    return view["agreement" if name == "multimodal" else "sure_agreement"]
