"""`msd export`: write a student, or any model folder, in mobile formats, and verify each."""

import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from msd_cli.console import ProgressDisplay, new_table, print_json, print_note, result_console
from msd_cli.options import READING, Given, JsonOption, OptionsOf, OverwriteOption
from msd_cli.settings import option_of, usage_errors
from msd_deploy.config.parsing import with_options
from msd_deploy.config.run import DataConfig
from msd_export.config import ExportConfig
from msd_export.formats import FORMATS, PRECISIONS, USUAL_TARGETS, variants_of

if TYPE_CHECKING:
    from msd_deploy.artifacts.manifest import Json
    from msd_deploy.errors import MsdError
    from msd_export.folder import ExportFolder


def _print_result(
    model: Path,
    exports: "Sequence[ExportFolder]",
    failures: "Mapping[str, MsdError]",
    *,
    is_run: bool,
    as_json: bool,
) -> None:
    """Print a table of the exports, or a JSON object that also has the reasons of failures."""
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
        next_command = f"bench {shlex.quote(str(model))}"
        if not is_run:
            next_command = f"inspect {shlex.quote(str(exports[0].folder))}"
        print_note(f"Wrote {exports[0].folder.parent}. Next: msd {next_command}")


def _print_table(exports: "Sequence[ExportFolder]", parities: "Mapping[str, Json]") -> None:
    table = new_table(
        "Verified exports: largest error and lowest agreement of the views; drop of the multimodal"
        " metric in percentage points, with 95 % interval",
        *("variant", "size", "error", "agreement", "drop", "runtime"),
    )
    for item in exports:
        size = f"{item.size_bytes() / 1e3:,.0f} kB"
        table.add_row(item.name, size, *_parity_cells(parities[item.name]))
    result_console().print(table)


def _parity_cells(parity: "Json") -> tuple[str, ...]:
    views = cast("dict[str, dict[str, float]]", parity["views"])
    multimodal = cast("dict[str, Any]", views["multimodal"])
    low, high = (end * 100 for end in multimodal["drop_interval"])
    return (
        f"{max(view['max_abs_error'] for view in views.values()):.1e}",
        f"{min(_gated_agreement(name, view) for name, view in views.items()):.2%}",
        f"{multimodal['drop'] * 100:+.1f} [{low:+.1f}, {high:+.1f}]",
        str(parity["runtime"]),
    )


def _gated_agreement(name: str, view: dict[str, float]) -> float:
    """Return the agreement that the gate checks: for a single view, on confident examples."""
    return view["agreement" if name == "multimodal" else "sure_agreement"]


# Typer accepts a repeatable choice only as an Enum; mypy knows no members that are computed.
TargetName = StrEnum("TargetName", {name: name for name in (*FORMATS, "all")})  # type: ignore[misc]
PrecisionName = StrEnum("PrecisionName", {name: name for name in (*PRECISIONS, "all")})  # type: ignore[misc]
_PRECISIONS = " ".join(f"{name}: {', '.join(form.precisions)}." for name, form in FORMATS.items())
_MEANINGS = "; ".join(f"{name}: {PRECISIONS[name].meaning}" for name in ("pal6", "pal4", "w8a8"))


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run (for its student), or a model folder.")
    ],
    *,
    target: Annotated[
        list[TargetName] | None,
        typer.Option(
            metavar="TARGET",
            help=f"Target format, repeatable: {', '.join(FORMATS)} or all.",
            show_default=", ".join(USUAL_TARGETS),
        ),
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(
            metavar="PRECISION",
            help=f"Precision, repeatable; all: every precision of a target. {_PRECISIONS}"
            f" {_MEANINGS}.",
            show_default="the first two of each target",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a model folder's exports; a run's are written into the run.",
            show_default="MODEL-exports",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Data set of a model folder (see msd distill): its training split is used for"
            " calibration, its test split for verification.",
            show_default="the run's own",
            rich_help_panel="Data",
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY",
            help="Sign each export with a private key, as msd sign does. Requires the extra"
            " \\[sign].",
            show_default="unsigned",
        ),
    ] = None,
    given: Annotated[Given, OptionsOf(ExportConfig)],
    reading: Annotated[Given, OptionsOf(DataConfig, only=READING)],
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a run's student, or any model, and verify each export on the test split.

    Exports outside the tolerance are not written, all others are; the exit
    code is then 3.

    Examples:
        msd export runs/demo
        msd export runs/demo --target onnx --precision int8 --max-drop 0.5
        msd export runs/demo --target all --precision all
        msd export runs/demo/teacher --data synthetic:memes --out teacher-exports
    """
    from msd_deploy.artifacts.manifest import SIGNATURE_NAME
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_deploy.data.source import SourceOptions
    from msd_export.pipeline import (
        Failures,
        check_request,
        export_model,
        export_student,
        exports_beside,
        joined,
    )
    from msd_export.provenance.signing import check_key, sign_export

    options = with_options(SourceOptions(), reading)
    names = {name: f"--{name}" for name in ("target", "precision", "data", "out")}
    with usage_errors(
        ExportConfig, **names, options=option_of(DataConfig, next(iter(reading), ""))
    ):
        forms = variants_of(target or USUAL_TARGETS, precision or ())
        config = with_options(ExportConfig(forms, overwrite=overwrite), given)
        check_request(model, data, config, options=options, out=out)
    if sign is not None:
        check_key(sign)
    parent = RunDirectory(model).exports if data is None else out or exports_beside(model)
    signed = {path.parent.name for path in parent.glob(f"*/{SIGNATURE_NAME}")}
    display, failures = ProgressDisplay(), Failures()
    with display.running():
        hooks = display.stages()
        if data is None:
            exports = export_student(RunDirectory(model), config, hooks, failures=failures)
        else:
            exports = export_model(
                model, data, config, options=options, out=out, hooks=hooks, failures=failures
            )
    _print_result(model, exports, failures, is_run=data is None, as_json=as_json)
    for written in exports:
        if sign is not None:
            sign_export(written.folder, sign)
        elif written.name in signed:
            print_note(
                f"{written.folder} was signed before, and is not now: sign it with msd sign."
            )
    if failures:
        raise joined(failures, exports)
