"""`msd export`: a student, or any model folder, in the formats of phones, each verified.

What `msd export` tells of what it wrote and of what it did not.
"""

import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, result_console, say
from msd_cli.options import (
    DATA_PANEL,
    ImageColumnOption,
    JsonOption,
    LabelColumnOption,
    LabelsOption,
    OverwriteOption,
    StrictOption,
    TextColumnOption,
    split_labels,
)
from msd_cli.settings import usage_errors
from msd_deploy.errors import ConfigError
from msd_export.formats import FORMATS, USUAL_TARGETS, CalibrationMethod, forms_of

if TYPE_CHECKING:
    from msd_deploy.artifacts.manifest import Json
    from msd_deploy.errors import MsdError
    from msd_export.folder import ExportFolder


def tell(
    model: Path,
    exports: "Sequence[ExportFolder]",
    failures: "Mapping[str, MsdError]",
    *,
    is_run: bool,
    as_json: bool,
) -> None:
    """Print a table of the exports, or one object that also says why others were not written."""
    from msd_deploy.artifacts.manifest import read_json
    from msd_export.folder import PARITY_NAME

    parities = {item.name: read_json(item.folder / PARITY_NAME) for item in exports}
    if as_json:
        print_json(
            {
                "run" if is_run else "model": str(model),
                "folder": str(exports[0].folder.parent) if exports else None,
                "size_bytes": {item.name: item.size_bytes() for item in exports},
                "parity": parities,
                "not_written": {name: error.what for name, error in failures.items()},
            }
        )
    elif exports:
        _print_table(exports, parities)
        following = f"bench {shlex.quote(str(model))}"
        if not is_run:
            following = f"inspect {shlex.quote(str(exports[0].folder))}"
        say(f"Wrote {exports[0].folder.parent}. Next: msd {following}")


def _print_table(exports: "Sequence[ExportFolder]", parities: "Mapping[str, Json]") -> None:
    table = new_table(
        "Verified exports: worst view's error and agreement; points that image and text together"
        " lose, with the 95 % interval",
        *("form", "size", "error", "agrees", "drop", "through"),
    )
    for item in exports:
        size = f"{item.size_bytes() / 1e3:,.0f} kB"
        table.add_row(item.name, size, *_parity_cells(parities[item.name]))
    result_console().print(table)


def _parity_cells(parity: "Json") -> tuple[str, ...]:
    views = cast("dict[str, dict[str, float]]", parity["views"])
    pair = cast("dict[str, Any]", views["multimodal"])
    low, high = (end * 100 for end in pair["drop_interval"])
    return (
        f"{max(view['max_abs_error'] for view in views.values()):.1e}",
        f"{min(_gated_agreement(name, view) for name, view in views.items()):.2%}",
        f"{pair['drop'] * 100:+.1f} [{low:+.1f}, {high:+.1f}]",
        str(parity["runtime"]),
    )


def _gated_agreement(name: str, view: dict[str, float]) -> float:
    """Return what the gate looks at: on a single view, only what the student is sure of."""
    return view["agreement" if name == "multimodal" else "sure_agreement"]


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
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run (its student), or a model folder.")
    ],
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
    end_to_end: Annotated[
        bool,
        typer.Option(
            "--end-to-end",
            help="Beside each model.onnx write end_to_end.onnx: from the bytes of a JPEG or PNG and"
            " a text to labels. Needs the extra extensions.",
        ),
    ] = False,
    cut_vocabulary: Annotated[
        int | None,
        typer.Option(
            "--cut-vocab",
            metavar="N",
            help="Keep N word pieces of a model folder's pretrained vocabulary: those of the"
            " training texts, then the most frequent. Verified against the whole.",
            show_default="all",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where a model folder's exports go; a run's lie in it.",
            show_default="MODEL-exports",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="A model folder's data set (see msd distill): its training split calibrates, its"
            " test split verifies.",
            show_default="the run's own",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    labels: LabelsOption = None,
    image_column: ImageColumnOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a run's student, or any model, and verify every form against it on the test split.

    A form beyond its tolerance is not written, all others are: exit code 3.

    Examples:
        msd export runs/demo
        msd export runs/demo --target onnx --precision int8 --max-drop 0.5
        msd export runs/demo --target all --precision all
        msd export runs/demo/teacher --data synthetic:memes --out teacher-exports
    """
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_deploy.data.source import SourceOptions
    from msd_export.exporter import ExportConfig
    from msd_export.pipeline import Failures, export_model, export_student, joined

    chosen = target or USUAL_TARGETS
    targets = tuple(name for name in FORMATS if name in chosen or "all" in chosen)
    columns = (image_column, text_column, label_column)
    with usage_errors():
        _check_data(model, data, (out, labels, *columns, strict or None))
        if cut_vocabulary is not None and data is None:
            raise ConfigError(
                "a run is measured with the vocabulary that its student has",
                where="--cut-vocab",
                fix=f"Export the folder: msd export {model / 'student'} --data SPEC --cut-vocab N",
            )
        if end_to_end and "onnx" not in targets:
            raise ConfigError("is written beside an ONNX form", where="--end-to-end")
        config = ExportConfig(
            forms_of(targets, precision or ()),
            max_drop,
            examples,
            overwrite=overwrite,
            calibration=calibration,
            end_to_end=end_to_end,
            cut_vocabulary=cut_vocabulary,
        )
        options = SourceOptions(
            labels=split_labels(labels),
            strict=strict,
            image_column=image_column,
            text_column=text_column,
            label_column=label_column,
        )
    display, failures = ProgressDisplay(), Failures()
    with display.running():
        hooks = display.stages()
        if data is None:
            exports = export_student(RunDirectory(model), config, hooks, failures=failures)
        else:
            exports = export_model(
                model, data, config, options=options, out=out, hooks=hooks, failures=failures
            )
    tell(model, exports, failures, is_run=data is None, as_json=as_json)
    if failures:
        raise joined(failures, exports)


def _check_data(model: Path, data: str | None, others: tuple[object, ...]) -> None:
    """Refuse a model folder without data, and data, or where it goes, for a run."""
    is_run = (model / "run.json").is_file()
    if is_run and (data, *others) != (None,) * (1 + len(others)):
        raise ConfigError(
            "a run is exported with the data that it was trained on, into the run",
            where="--data" if data is not None else "--out",
            fix="Leave out --data, --out and the options of data, or name a model folder",
        )
    if not is_run and data is None and (model / "manifest.json").is_file():
        raise ConfigError(
            "a model folder does not state its data", where="--data", fix="Give --data SPEC"
        )
