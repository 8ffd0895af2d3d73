"""`msd export`: student to verified ONNX and Core ML."""

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say
from msd_cli.options import JsonOption, OverwriteOption, RunArgument
from msd_cli.usage import usage_errors

if TYPE_CHECKING:
    from msd_deploy.artifacts import Json


class TargetName(StrEnum):
    """Formats."""

    ONNX = "onnx"
    COREML = "coreml"
    ALL = "all"


class PrecisionName(StrEnum):
    """Precisions."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def export(
    run: RunArgument,
    target: Annotated[
        list[TargetName] | None,
        typer.Option(help="Format, repeatable.", show_default="all"),
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(help="Precision, repeatable.", show_default="all that a format has"),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Most points of the test metric that a form may lose.")
    ] = 1.0,
    examples: Annotated[
        int | None, typer.Option(help="Test examples to verify with.", show_default="all")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a run's student and verify every form against it on the test split.

    A form beyond its tolerance is not written, all others are: exit code 3.

    Examples:
        msd export runs/demo
        msd export runs/demo --target onnx --precision int8 --max-drop 0.5
    """
    from msd_deploy.artifacts import RunDirectory, read_json
    from msd_export.export_folder import PARITY_NAME
    from msd_export.pipeline import PRECISIONS, ExportConfig, export_student, forms_of

    chosen = {name.value for name in target or (TargetName.ALL,)}
    targets = tuple(name for name in PRECISIONS if name in chosen or "all" in chosen)
    wanted = {name.value for name in precision or ()}
    with usage_errors():
        config = ExportConfig(forms_of(targets, wanted), max_drop, examples, overwrite=overwrite)
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
