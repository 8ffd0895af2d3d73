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

    def cut_to(self, size_bytes: int) -> None:
        """Drop what was written after the file had this length."""
        if self.size_bytes() > size_bytes:
            with self.path.open("r+b") as file:
                file.truncate(size_bytes)
