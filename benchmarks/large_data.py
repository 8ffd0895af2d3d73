"""Cost of a large FILE.jsonl: time to the first training step, and memory of one process.

    python benchmarks/large_data.py WORK --out benchmarks/results/large-data.json

Writes WORK/data.jsonl with generated images, each used by many rows, and runs commands on it, each
in a new process with its caches in WORK. Parts: first-step is `msd distill` twice, stopped after
the first step of the teacher's training; whole is one epoch of `msd distill` with a given small
teacher; evaluate is `msd evaluate`. Measured are seconds and processor seconds of all threads from
the start of the process to the first line of history.jsonl (written after each step), total
seconds, and peak resident memory. The given teacher and the evaluated model are trained on the
first 2,000 rows. Model quality is not measured.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from msd_deploy.artifacts.manifest import Json, read_json, utc_now, write_json
from msd_deploy.data.synthetic.drawing import COLOURS, SHAPES, render
from msd_deploy.errors import StoppedError
from msd_mobile_bench.host import describe_host

LABELS = ("bag", "chair", "clock", "lamp", "shoe")
_WORDS, _LEAST_WORDS, _MOST_WORDS = 20_000, 6, 40
_OWN_WORD = 0.8
_SYLLABLES = tuple(first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou")
_SIDE, _QUALITY = 240, 85
_CHUNK = 250
_SMALL_ROWS, _STOPPED = 2_000, StoppedError.exit_code
_POLL_SECONDS = 0.02
_PARTS = ("first-step", "whole", "evaluate")
_SETTINGS = """\
[teacher]
epochs = 1

[distill]
epochs = 1
log_every = 1
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the generated data set.

    Attributes:
        rows: Number of rows.
        pictures: Number of distinct images, used by the rows in turn.
        seed: Random seed.
    """

    rows: int
    pictures: int
    seed: int = 0


def write_data(folder: Path, size: Size) -> Path:
    """Write data.jsonl and its images into a folder; return the path of the file.

    A text has 6 to 40 words of a vocabulary of 20,000 with Zipf frequencies, so that nearly all
    texts differ; in four of five texts the last word is the label. Images are JPEGs of 240 x 240
    pixels.
    """
    names = _write_pictures(folder, size)
    file = folder / "data.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for row, (text, label) in enumerate(_texts(size)):
            record = {"image": names[row % len(names)], "text": text, "label": label}
            lines.write(json.dumps(record) + "\n")
    return file


def _write_pictures(folder: Path, size: Size) -> list[str]:
    rng = np.random.default_rng((size.seed, 1))
    names: list[str] = []
    for first in range(0, size.pictures, _CHUNK):
        objects = rng.integers(0, len(SHAPES) * len(COLOURS), (_CHUNK, 16))
        for at, pixels in enumerate(render(objects, rng)[: size.pictures - first], start=first):
            path = folder / f"pictures/{at % 100:02d}/{at}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((_SIDE, _SIDE)).save(path, quality=_QUALITY)
            names.append(path.relative_to(folder).as_posix())
    return names


def _texts(size: Size) -> Iterator[tuple[str, str]]:
    """Yield text and label of each row."""
    rng = np.random.default_rng((size.seed, 2))
    words = ["".join(rng.choice(_SYLLABLES, length)) for length in rng.integers(1, 5, _WORDS)]
    cumulated = np.cumsum(1 / np.arange(2, _WORDS + 2))
    for length in rng.integers(_LEAST_WORDS, _MOST_WORDS + 1, size.rows).tolist():
        drawn = np.searchsorted(cumulated, rng.random(length - 1) * cumulated[-1]).tolist()
        label, other = (LABELS[at] for at in rng.integers(0, len(LABELS), 2))
        named = label if rng.random() < _OWN_WORD else other
        yield " ".join([*(words[at] for at in drawn), named]), label


def measure_command(
    arguments: Sequence[str], folder: Path, *, history: Path | None = None, stop: bool = False
) -> Json:
    """Run `msd` in a fresh process; return seconds and peak memory.

    Args:
        arguments: Arguments of the command.
        folder: Work folder for caches and log.
        history: Path of history.jsonl, for the time to its first line.
        stop: Whether to interrupt the command after that line.

    Returns:
        command, seconds, peak_rss_bytes, and with a history the time of the first step.
    """
    environment = {**os.environ, "HF_HOME": str(folder / "caches"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from msd_cli.main import main; main()", *arguments]
    with (folder / "log.txt").open("ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        result: Json = {"command": _shown(arguments, folder)}
        if history is not None:
            result.update(_wait_for_line(history, process, started))
        if stop:
            process.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(process.pid, 0)
        result["seconds"] = round(time.perf_counter() - started, 2)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (_STOPPED if stop else 0):
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}: see {log.name}")
    in_kilobytes = sys.platform != "darwin"
    result["peak_rss_bytes"] = usage.ru_maxrss * (1024 if in_kilobytes else 1)
    return result


def _shown(arguments: Sequence[str], folder: Path) -> str:
    return " ".join(["msd", *(part.replace(str(folder), "WORK") for part in arguments)])


def _wait_for_line(history: Path, process: "subprocess.Popen[bytes]", started: float) -> Json:
    while not history.is_file() or history.stat().st_size == 0:
        time.sleep(_POLL_SECONDS)
        # WNOWAIT: wait4 reads its resource usage later.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            sys.exit(f"error: the command ended before its first step: see {history.parent}")
    processor = psutil.Process(process.pid).cpu_times()
    return {
        "first_step_seconds": round(time.perf_counter() - started, 2),
        "first_step_cpu_seconds": round(processor.user + processor.system, 2),
    }


def measure(folder: Path, size: Size, parts: Sequence[str]) -> Json:
    """Write the data, run the commands of the parts, and return their measurements."""
    shutil.rmtree(folder / "caches", ignore_errors=True)
    file = write_data(folder, size)
    (folder / "settings.toml").write_text(_SETTINGS, encoding="utf-8")
    results: Json = {"file_bytes": file.stat().st_size}
    if "first-step" in parts:
        for name in ("first", "second"):
            results[f"{name} distill, stopped"] = _distill(folder, file, name, stop=True)
    if "whole" in parts or "evaluate" in parts:
        student = _small_student(folder, file)
    if "whole" in parts:
        results["distill with a given teacher"] = _distill(
            folder, file, "whole", "--teacher", str(student)
        )
    if "evaluate" in parts:
        results["evaluate"] = measure_command(
            ["evaluate", str(student), "--data", str(file), "--split", "all"], folder
        )
    return results


def _distill(folder: Path, file: Path, name: str, *options: str, stop: bool = False) -> Json:
    out, settings = folder / name, folder / "settings.toml"
    shutil.rmtree(out, ignore_errors=True)
    command = ["distill", "--data", file, "--config", settings, "--out", out, *options]
    return measure_command(
        [str(part) for part in command], folder, history=out / "history.jsonl", stop=stop
    )


def _small_student(folder: Path, file: Path) -> Path:
    with file.open(encoding="utf-8") as lines:
        text = "".join(itertools.islice(lines, _SMALL_ROWS))
    small = folder / "small.jsonl"
    small.write_text(text, encoding="utf-8")
    _distill(folder, small, "small")
    return folder / "small" / "student"


def main() -> None:
    """Measure, print, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for data, caches and runs")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--pictures", type=int, default=4_000)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to update")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    arguments = parser.parse_args()
    size = Size(arguments.rows, arguments.pictures)
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    host = describe_host()
    results = measure(work, size, arguments.parts)
    entry = {
        "command": f"python benchmarks/large_data.py WORK --rows {size.rows}"
        f" --pictures {size.pictures} --parts {' '.join(arguments.parts)}",
        "date": utc_now(),
        "host": host,
        **results,
    }
    sizes = read_json(arguments.out) if arguments.out.is_file() else {}
    name = f"{size.rows} rows, {size.pictures} pictures, {' '.join(arguments.parts)}"
    write_json(arguments.out, {**sizes, name: entry})
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
