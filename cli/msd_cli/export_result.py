"""What `msd export` tells of what it wrote and of what it did not."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msd_cli.console import new_table, print_json, result_console, say

if TYPE_CHECKING:
    from msd_deploy.artifacts import Json
    from msd_deploy.errors import MsdError
    from msd_export.export_folder import ExportFolder


def tell(
    model: Path,
    exports: "Sequence[ExportFolder]",
    failures: "Mapping[str, MsdError]",
    *,
    is_run: bool,
    as_json: bool,
) -> None:
    """Print a table of the exports, or one object that also says why others were not written."""
    from msd_deploy.artifacts import read_json
    from msd_export.export_folder import PARITY_NAME

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
