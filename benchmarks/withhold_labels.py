# ruff: noqa: T201
"""Remove the labels of a share of a FILE.jsonl's training rows, to measure their value.

Writes two files beside the original, with the same image paths:

- STEM-unlabelled.jsonl: all rows, a share of the training rows without label;
- STEM-labelled.jsonl: the same without those rows.

A hash of the seed and the row chooses the rows, so that their order has no effect.

Usage: python benchmarks/withhold_labels.py FILE.jsonl [--share 0.5] [--seed 0]
"""

import argparse
import hashlib
import json
from pathlib import Path

from msd_deploy.artifacts.manifest import write_text

_LABELS = ("label", "labels")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="rows with their split")
    parser.add_argument(
        "--share", type=float, default=0.5, help="share of the training rows; default 0.5"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the choice; default 0")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    hidden = [
        row.get("split") == "train" and _fraction(row, arguments.seed) < arguments.share
        for row in rows
    ]
    stem, folder = arguments.file.stem, arguments.file.parent
    bare = [
        _without_label(row) if is_hidden else row
        for row, is_hidden in zip(rows, hidden, strict=True)
    ]
    kept = [row for row, is_hidden in zip(rows, hidden, strict=True) if not is_hidden]
    for name, written in (("unlabelled", bare), ("labelled", kept)):
        path = folder / f"{stem}-{name}.jsonl"
        write_text(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in written))
        train = [row for row in written if row.get("split") == "train"]
        labelled = sum(any(key in row for key in _LABELS) for row in train)
        print(f"{path}: {len(train):,} training rows, {labelled:,} with a label")


def _fraction(row: dict[str, object], seed: int) -> float:
    """Return a pseudo-random number in 0..1 that depends on seed and row only."""
    digest = hashlib.sha256(f"{seed} {json.dumps(row, sort_keys=True)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _without_label(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key not in _LABELS}


if __name__ == "__main__":
    main()
