"""The results of `against_defaults.py`: each file beside float32, and ours less each tool's.

Read from the folder that keeps what was measured; also the names of its files. Differences of the
metric and of the agreement with float32 are paired: both files answer the same test examples, which
are resampled together.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.tool_defaults import FLOAT, Row, rows_of
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.metrics import (
    LabelArray,
    LogitArray,
    LogitsByView,
    agreement,
    decisions,
    metric_name,
    metric_value,
    percentile_interval,
    resampled_means,
)
from msd_deploy.problem import Problem
from msd_deploy.views import View
from msd_export.formats import Target

DATA_NAME, FACTS_NAME = "data.npz", "facts.json"


def result_path(folder: Path, row: Row) -> Path:
    """Return the file with a row's facts; its logits lie beside it, as .npz."""
    return folder / "rows" / f"{row.name}.json"


def latency_path(folder: Path, target: Target) -> Path:
    """Return the file with the latencies of a target's files."""
    return folder / f"latency-{target}.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """What files are compared with.

    Attributes:
        problem: Kind of the task.
        labels: Of the test examples.
        logits: PyTorch's in float32, by view.
    """

    problem: Problem
    labels: LabelArray
    logits: LogitsByView

    def compared(self, own: LogitArray, view: View) -> dict[str, Any]:
        """Return a file's results on a view, beside float32's."""
        from msd_export.parity import loss_of  # imports scipy.stats, seconds

        source = self.logits[view]
        return {
            "value": round(metric_value(own, self.labels, self.problem), 6),
            **loss_of(own, source, self.labels, self.problem).as_json(),
            "agreement": round(agreement(own, source, self.problem), 6),
            "mean_abs_error": float(f"{np.abs(own - source).mean():.4g}"),
            "decisions": packed(decisions(own, self.problem)),
        }

    def difference(self, ours: LogitArray, tool: LogitArray, view: View) -> dict[str, Any]:
        """Return metric and agreement with float32 of ours less a tool's, with intervals."""
        from msd_export.parity import loss_of

        of_metric = loss_of(tool, ours, self.labels, self.problem)
        of_agreement = self._equal(ours, view) - self._equal(tool, view)
        interval = percentile_interval(resampled_means(of_agreement[:, None])[:, 0])
        return {
            "metric": {
                "value": of_metric.drop,
                "interval": [of_metric.low, of_metric.high],
                "p_value": round(of_metric.p_value, 6),
            },
            "agreement": {
                "value": round(float(of_agreement.mean()), 6),
                "interval": [round(end, 6) for end in interval],
            },
        }

    def _equal(self, own: LogitArray, view: View) -> NDArray[np.float64]:
        """Return the share of decisions equal to float32's, of each example."""
        same = decisions(own, self.problem) == decisions(self.logits[view], self.problem)
        return np.asarray(same.reshape(len(same), -1).mean(axis=1), np.float64)


def packed(values: NDArray[Any]) -> str:
    """Return small integers as text; see "packing" in the results."""
    return base64.b64encode(zlib.compress(values.astype(np.int8).tobytes(), 9)).decode()


def compare(folder: Path, targets: Sequence[Target]) -> dict[str, Any]:
    """Return the results of all rows, and of ours less each tool's.

    Args:
        folder: What `against_defaults.py` keeps.
        targets: Whose rows; a target without latencies was not timed.
    """
    facts = cast(dict[str, Any], read_json(folder / FACTS_NAME))
    with np.load(folder / DATA_NAME, allow_pickle=False) as arrays:
        by_view = {view: arrays[f"logits/{view}"] for view in View}
        reference = Reference(facts["problem"], arrays["labels"], by_view)
    paths = {target: latency_path(folder, target) for target in targets}
    latency = {target: read_json(path) for target, path in paths.items() if path.is_file()}
    logits = _logits_of_rows(folder, targets)
    rows = {}
    for row in rows_of(targets):
        rows[row.name] = {
            **{"target": row.target, "precision": row.precision, "by": row.by},
            **read_json(result_path(folder, row)),
            "p50_ms": _median(latency.get(row.target), row),
        }
        if row in logits:
            views = logits[row].items()
            found = {view.value: reference.compared(values, view) for view, values in views}
            rows[row.name]["views"] = found
    pairs = [
        {
            **{"ours": ours.name, "tool": tool.name},
            "size_ratio": _share(rows[ours.name], rows[tool.name], "size_bytes"),
            "latency_ratio": _latency_ratio(latency.get(ours.target), ours, tool),
            "views": {
                view.value: reference.difference(logits[ours][view], logits[tool][view], view)
                for view in View
            },
        }
        for ours, tool in _pairs(targets)
        if ours in logits and tool in logits
    ]
    stated = {name: value for name, value in facts.items() if name not in ("data", "examples")}
    source = {
        view.value: {
            "value": round(metric_value(values, reference.labels, reference.problem), 6),
            "decisions": packed(decisions(values, reference.problem)),
        }
        for view, values in by_view.items()
    }
    return {
        "metric": metric_name(reference.problem),
        **stated,
        "packing": "base64 of zlib of int8, examples in order",
        "truth": packed(reference.labels),
        "float32": source,
        "rows": rows,
        "pairs": pairs,
        "latency": latency,
    }


def _logits_of_rows(folder: Path, targets: Sequence[Target]) -> dict[Row, LogitsByView]:
    """Return the logits of the rows that ran."""
    logits: dict[Row, LogitsByView] = {}
    for row in rows_of(targets):
        path = result_path(folder, row)
        if read_json(path)["error"] is None:
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
                logits[row] = {view: stored[view.value] for view in View}
    return logits


def _pairs(targets: Sequence[Target]) -> list[tuple[Row, Row]]:
    """Return ours with each tool's of the same precision."""
    tools = [row for row in rows_of(targets) if row.recipe is not None]
    return [(Row(tool.target, tool.precision), tool) for tool in tools]


def _median(latency: Mapping[str, Any] | None, row: Row) -> float | None:
    rounds = (latency or {}).get("p50_ms", {}).get(row.name)
    return None if rounds is None else round(float(np.median(rounds)), 4)


def _share(ours: Mapping[str, Any], tool: Mapping[str, Any], name: str) -> float:
    return round(float(ours[name] / tool[name]), 4)


def _latency_ratio(
    latency: Mapping[str, Any] | None, ours: Row, tool: Row
) -> dict[str, Any] | None:
    """Return ours over the tool's: the median of the rounds' ratios, and their extremes."""
    if latency is None:
        return None
    own, its = (np.array(latency["p50_ms"][row.name]) for row in (ours, tool))
    ratios = own / its
    middle, low, high = (
        round(float(value), 4) for value in (np.median(ratios), ratios.min(), ratios.max())
    )
    return {"value": middle, "range": [low, high]}


def shown(result: Mapping[str, Any]) -> str:
    """Return the results as two tables in Markdown: files, and differences."""
    return "\n\n".join(("\n".join(_files(result)), "\n".join(_differences(result))))


def _files(result: Mapping[str, Any]) -> list[str]:
    names = ["variant", "quantized by", "bytes", "p50, ms"]
    names += ["drop: image and text", "image", "text", "agreement", "image", "text", "error"]
    lines = [f"| {' | '.join(names)} |", "|---|---|" + "---:|" * (len(names) - 2)]
    for row in result["rows"].values():
        size = f"{row['size_bytes']:,}" if "size_bytes" in row else ""
        latency = "" if row["p50_ms"] is None else f"{row['p50_ms']:.3f}"
        cells = [f"{row['target']} {row['precision']}", _by(row), size, latency]
        if row["error"] is None:
            views = list(row["views"].values())
            cells += [in_points(view["drop"], view["drop_interval"]) for view in views]
            cells += [f"{view['agreement']:.1%}" for view in views]
            cells.append(f"{max(view['mean_abs_error'] for view in views):.2g}")
        else:
            cells += [row["error"].replace("|", "/"), *[""] * 6]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _by(row: Mapping[str, Any]) -> str:
    kept = row.get("kept", [])
    layers = f" ({len(kept)} layer groups kept)" if kept else ""
    return f"{row['by']}{layers}" if row["by"] in ("ours", FLOAT) else f"`{row['by']}`"


def _differences(result: Mapping[str, Any]) -> list[str]:
    names = ["ours", "less", "bytes", "p50", "metric: image and text", "image", "text"]
    names += ["agreement: image and text", "image", "text"]
    lines = [f"| {' | '.join(names)} |", "|---|---|" + "---:|" * (len(names) - 2)]
    for pair in result["pairs"]:
        ratio = pair["latency_ratio"]
        cells = [pair["ours"], f"`{result['rows'][pair['tool']]['by']}`"]
        cells.append(f"{pair['size_ratio']:.2f} x")
        cells.append("" if ratio is None else _with_range(ratio))
        for what in ("metric", "agreement"):
            found = [view[what] for view in pair["views"].values()]
            cells += [in_points(each["value"], each["interval"]) for each in found]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_range(ratio: Mapping[str, Any]) -> str:
    low, high = ratio["range"]
    return f"{ratio['value']:.2f} x [{low:.2f}, {high:.2f}]"


def in_points(value: float, interval: Sequence[float]) -> str:
    """Return a difference of shares in points: +1.2 [+0.3, +2.1]."""
    points, low, high = (round(100 * number, 1) + 0.0 for number in (value, *interval))
    return f"{points:+.1f} [{low:+.1f}, {high:+.1f}]"
