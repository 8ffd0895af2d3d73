"""Every target in every precision: size, error, agreement, drop and latency of four students.

    python benchmarks/export_matrix.py runs --pictures open-clip-art/open_clip_art.jsonl
        --teacher runs/teachers/oca-160 --out benchmarks/results/export

(all on one line).

Runs that are missing in the folder are distilled first, with the commands that the result lists:
tiny students of synthetic:memes, synthetic:posters and easy-vqa (`--only` selects some), and the
mobile student of Open Clip Art before and after three epochs for int8 (`open_clip_art.py` writes
the data; skipped without `--pictures` and `--teacher`). Each is exported as every variant, verified
on its test split (2,000 examples at most), and timed by `msd bench`. Results are written after each
run: OUT.json has them all, and OUT.md is generated from it.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from msd_deploy.artifacts.atomic import new_file
from msd_deploy.artifacts.manifest import read_json, utc_now, write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import MsdError
from msd_deploy.hooks import StageHooks
from msd_export.config import ExportConfig
from msd_export.folder import PARITY_NAME, ExportFolder
from msd_export.formats import FORMATS, Variant, variant_name, variants_of
from msd_export.pipeline import Failures, export_student
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import run_bench
from msd_mobile_bench.schema import Bench

EXAMPLES = 2000
_FORMS: tuple[Variant, ...] = variants_of(tuple(FORMATS), ("all",))
_SINGLE = ("image", "text")

_CONFIG = os.path.relpath(Path(__file__).with_name("open_clip_art_mobile.toml"))


def recipes(runs: Path, pictures: Path | None, teacher: Path | None) -> dict[str, list[str]]:
    """Return the arguments of `msd distill` for each run, by name."""
    options = {
        "memes": ["--data", "synthetic:memes"],
        "posters": ["--data", "synthetic:posters"],
        "easy-vqa": ["--data", "easy-vqa"],
    }
    if pictures is not None and teacher is not None:
        options["oca-mobile"] = [
            *("--config", _CONFIG, "--data", str(pictures), "--teacher", str(teacher)),
            *("--student", "mobile", "--seed", "1"),
        ]
        options["oca-mobile-int8"] = ["--from", str(runs / "oca-mobile"), "--int8-epochs", "3"]
    return {name: [*words, "--out", str(runs / name)] for name, words in options.items()}


def distil(run: RunDirectory, words: Sequence[str]) -> None:
    """Run or resume `msd distill` unless the run is finished."""
    if run.metrics.is_file():
        return
    if run.run_json.is_file():
        words = ["--resume", "--out", str(run.root)]
    subprocess.run([sys.executable, "-m", "msd_cli", "distill", *words], check=True)


def export(run: RunDirectory) -> dict[str, Any]:
    """Export a run's student as every variant; return the results of verification."""
    failures: Failures = {}
    config = ExportConfig(_FORMS, examples=EXAMPLES, overwrite=True)
    exports = export_student(run, config, StageHooks(on_stage=_say), failures=failures)
    return {
        "forms": {item.name: _facts(item) for item in exports},
        "not_written": {name: error.what for name, error in failures.items()},
    }


def time_forms(run: RunDirectory, result: dict[str, Any]) -> None:
    """Add latencies on this machine, and its description, to the result of `export`."""
    config = BenchConfig(examples=50)
    bench = cast(Bench, run_bench(run, config, StageHooks(on_stage=_say)))
    for row in bench["rows"]:
        name, latency = f"{row['target']}-{row['precision']}", row["latency_ms"]
        if row["model"] == "student" and name in result["forms"]:
            result["forms"][name]["latency_ms_p50"] = None if latency is None else latency["p50"]
    result |= {
        "measured_utc": utc_now(),
        "host": bench["host"],
        "metric": bench["metric"],
        "control": bench["control"],
    }


def _say(sentence: str) -> None:
    sys.stderr.write(f"> {sentence}\n")


def _facts(export: ExportFolder) -> dict[str, Any]:
    parity: dict[str, Any] = read_json(export.folder / PARITY_NAME)
    mixed = parity["conversion"].get("mixed", {})
    return {
        "size_bytes": export.size_bytes(),
        "runtime": parity["runtime"],
        "kept": mixed.get("kept", []),
        "views": parity["views"],
    }


def as_markdown(
    results: Mapping[str, Mapping[str, Any]], commands: Mapping[str, Sequence[str]]
) -> str:
    """Return the results in Markdown."""
    parts = [_PREFACE]
    for name, result in results.items():
        parts.append(f"## {name}\n")
        words = shlex.join(commands.get(name, ["--out", name]))
        parts.append(
            f"    msd distill {words}\n\n{_examples(result):,} test examples, {result['metric']};"
            f" {result['host']['cpu']}, one thread, {result['measured_utc'][:10]}.\n"
        )
        parts.append(_table(result))
        parts += [
            f"- {form} was not written: {reason}." for form, reason in result["not_written"].items()
        ]
        if result["not_written"]:
            parts.append("")
    return "\n".join(parts)


_PREFACE = """# All export variants of four students

Generated by `benchmarks/export_matrix.py`; its docstring has the command. Error: maximum and mean
error of the logits in the worst view. Agreement: share of decisions equal to PyTorch's in the
multimodal view, and among confident decisions in the worse single view, as in the gate. Drop: loss
of the metric in points in the multimodal view, with its 95 % interval, and in the worse single
view. Latency: p50 of one example in ONNX Runtime, ExecuTorch and LiteRT on the processor listed;
Core ML is verified with the MIL evaluator, and timing it needs a Mac. Kept: groups of layers that
the gate kept in higher precision.
"""


def _table(result: Mapping[str, Any]) -> str:
    lines = [
        "| variant | bytes | of fp32 | max error | mean error | agreement | single | drop"
        " | single | p50, ms | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    forms: Mapping[str, Any] = result["forms"]
    for name in map(variant_name, _FORMS):
        if name in forms:
            whole = forms.get(f"{name.split('-')[0]}-fp32", {}).get("size_bytes")
            lines.append("| " + " | ".join(_cells(name, forms[name], whole)) + " |")
    return "\n".join([*lines, ""])


def _cells(name: str, facts: Mapping[str, Any], whole: int | None) -> list[str]:
    views, pair = facts["views"], facts["views"]["multimodal"]
    low, high = (100 * end for end in pair["drop_interval"])
    latency = facts["latency_ms_p50"]
    return [
        name,
        f"{facts['size_bytes']:,}",
        "" if whole is None else f"{facts['size_bytes'] / whole:.3f}",
        f"{max(view['max_abs_error'] for view in views.values()):.2g}",
        f"{max(view['mean_abs_error'] for view in views.values()):.2g}",
        f"{pair['agreement']:.1%}",
        f"{min(views[view]['sure_agreement'] for view in _SINGLE):.1%}",
        f"{100 * pair['drop']:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{100 * max(views[view]['drop'] for view in _SINGLE):+.1f}",
        "" if latency is None else f"{latency:.3f}",
        ", ".join(facts["kept"]),
    ]


def _examples(result: Mapping[str, Any]) -> int:
    form = next(iter(result["forms"].values()))
    return int(form["views"]["multimodal"]["source"]["examples"])


def main() -> None:
    """Distil missing runs, then measure each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="Folder of the runs.")
    parser.add_argument("--pictures", type=Path, help="FILE.jsonl of open_clip_art.py.")
    parser.add_argument("--teacher", type=Path, help="Folder of its teacher.")
    parser.add_argument("--only", action="append", help="Name of a run to measure; repeatable.")
    parser.add_argument(
        "--time", action="store_true", help="Only time the exports of an earlier call again."
    )
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md.")
    arguments = parser.parse_args()
    commands = recipes(arguments.runs, arguments.pictures, arguments.teacher)
    store = arguments.out.with_suffix(".json")
    results: dict[str, Any] = {}
    if store.is_file():
        results |= cast(dict[str, Any], read_json(store)["runs"])
    for name in arguments.only or commands:
        run = RunDirectory(arguments.runs / name)
        distil(run, commands[name])
        _say(f"Measuring {name}")
        if not arguments.time:
            results[name] = export(run)
        time_forms(run, results[name])
        write_json(store, {"examples": EXAMPLES, "runs": results})
        with new_file(arguments.out.with_suffix(".md")) as building:
            building.write_text(as_markdown(results, commands), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except MsdError as error:
        sys.exit(str(error))
