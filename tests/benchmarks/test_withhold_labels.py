import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "withhold_labels.py"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_share_of_the_training_rows_loses_its_label(tmp_path: Path) -> None:
    splits = ("train", "validation", "test")
    rows = [
        {"text": f"row {number}", "label": "a", "split": splits[0 if number < 400 else number % 3]}
        for number in range(500)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run([sys.executable, str(SCRIPT), str(file)], check=True)
    unlabelled, labelled = (
        rows_of(tmp_path / f"rows-{name}.jsonl") for name in ("unlabelled", "labelled")
    )
    assert [row["text"] for row in unlabelled] == [row["text"] for row in rows]
    assert labelled == [row for row in unlabelled if "label" in row]
    bare = [row for row in unlabelled if "label" not in row]
    assert {row["split"] for row in bare} == {"train"}
    train = sum(row["split"] == "train" for row in rows)
    assert 0.4 * train < len(bare) < 0.6 * train
    subprocess.run([sys.executable, str(SCRIPT), str(file), "--seed", "1"], check=True)
    assert rows_of(tmp_path / "rows-unlabelled.jsonl") != unlabelled
