"""history.jsonl: one JSON object a line, appended as training goes, cut back on resume."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class History:
    """The log of a run.

    Attributes:
        path: The file.
    """

    path: Path

    def append(self, line: Mapping[str, object]) -> None:
        """Append one object."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def size_bytes(self) -> int:
        """Return the file's length."""
        return self.path.stat().st_size if self.path.exists() else 0

    def lines_of(self, phase: str) -> list[Mapping[str, object]]:
        """Return the lines of a training; one that a kill cut short must be cut off before."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line["phase"] == phase]

    def cut_to(self, size_bytes: int) -> None:
        """Drop what was written after the file had this length."""
        if self.size_bytes() > size_bytes:
            with self.path.open("r+b") as file:
                file.truncate(size_bytes)

    def cut_before(self, phase: str) -> None:
        """Drop what a training wrote that begins anew: all from its first line on.

        A line that a kill cut short was its last one, so it goes too.
        """
        kept = 0
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if _phase_of(line) in (phase, None):
                    break
                kept += len(line)
        self.cut_to(kept)


def _phase_of(line: bytes) -> str | None:
    """Return whose line it is; None for one that is not whole."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return str(value["phase"]) if isinstance(value, dict) and "phase" in value else None
