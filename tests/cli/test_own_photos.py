"""A folder of a user's own photos, as messy as they are, through the whole road."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Msd = Callable[..., Any]

MODES = ("RGB", "RGBA", "P", "CMYK", "L")
COLOURS = {"rose": (220, 40, 60), "leaf": (40, 180, 60)}
QUICK = ("--teacher-epochs", "1", "--epochs", "1")


def save_photo(folder: Path, index: int, label: str) -> str:
    """Save a photo of varying size, mode, format and EXIF orientation; return its name."""
    generator = np.random.default_rng(index)
    height, width = generator.integers(20, 300, 2)
    noise = generator.normal(0, 20, (height, width, 3))
    pixels = np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)
    mode = MODES[index % len(MODES)]
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(generator.integers(0, 256, (height, width), np.uint8)))
    name = f"{index:02d}.{'jpg' if mode in ('RGB', 'CMYK', 'L') else 'png'}"
    exif = Image.Exif()
    exif[0x0112] = 1 + index % 8
    image.save(folder / name, exif=exif)
    return name


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 photos of two classes and their FILE.jsonl."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for index in range(40):
        label = list(COLOURS)[index % 2]
        name = save_photo(folder, index, label)
        rows.append({"image": name, "text": f"picture {index} of a {label}", "label": label})
    file = folder / "photos.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def append(file: Path, *lines: str) -> None:
    with file.open("a") as stream:
        stream.writelines(line + "\n" for line in lines)


@pytest.mark.slow
def test_own_photos_go_the_whole_road(msd: Msd, photos: Path, tmp_path: Path) -> None:
    answer = msd("distill", "--data", photos, "--out", "run", *QUICK, "--json")
    assert answer.code == 0, answer.stderr
    assert answer.json()["metric"] == "accuracy"
    form = ("--target", "onnx", "--precision", "fp32")
    exported = msd("export", "run", *form, "--max-drop", "100", "--json")
    assert exported.code == 0, exported.stderr
    onnx = tmp_path / "run" / "exports" / "onnx-fp32"
    moved = onnx.rename(tmp_path / "in-the-app")
    asked = msd("predict", moved, "--image", photos.parent / "01.png", "--text", "a leaf", "--json")
    assert asked.code == 0, asked.stderr
    probabilities = asked.json()["probabilities"]
    assert set(probabilities) == set(COLOURS)
    assert sum(probabilities.values()) == pytest.approx(1.0)
    again = msd("predict", "run", "--image", photos.parent / "01.png", "--text", "a leaf", "--json")
    assert again.json()["probabilities"] == pytest.approx(probabilities, abs=1e-4)


def test_unusable_rows_are_named_counted_and_skipped(
    msd: Msd, photos: Path, tmp_path: Path
) -> None:
    broken = photos.parent / "broken.png"
    broken.write_bytes((photos.parent / "01.png").read_bytes()[:200])
    append(
        photos,
        '{"image": "broken.png", "text": "cut off", "label": "leaf"}',
        '{"image": "nowhere.png", "text": "no file", "label": "leaf"}',
        "this is not JSON",
        '{"image": "01.png", "text": "a typing slip", "label": "laef"}',
        '{"image": "../../etc/passwd", "text": "escape", "label": "leaf"}',
    )
    strict = msd("distill", "--data", photos, "--strict", "--out", "run", *QUICK)
    assert strict.code == 1
    assert "photos.jsonl:42" in strict.error()
    assert not (tmp_path / "run").exists()
    answer = msd("distill", "--data", photos, "--out", "run", *QUICK)
    assert answer.code == 0, answer.stderr
    assert "5 rows were skipped" in answer.stderr
    for line, reason in (
        (41, f"{broken}: image cannot be decoded"),
        (42, "nowhere.png"),
        (43, "JSON"),
        (44, "unknown label 'laef'"),
        (45, "leaves"),
    ):
        named = [row for row in answer.stderr.splitlines() if f"photos.jsonl:{line}:" in row]
        assert len(named) == 1, answer.stderr
        assert reason in named[0]
    stated = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(stated["skipped_rows"]) == 5


def test_the_first_three_images_are_named_where_none_can_be_decoded(
    msd: Msd, tmp_path: Path
) -> None:
    rows = []
    for index in range(40):
        (tmp_path / f"{index}.jpg").write_text(f"not an image {index}")
        rows.append(json.dumps({"image": f"{index}.jpg", "label": index % 2, "split": "train"}))
    rows += [row.replace("train", name) for row, name in zip(rows, ("test", "val"), strict=False)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    answer = msd("distill", "--data", tmp_path / "rows.jsonl", "--out", "run")
    assert answer.code == 1
    for index in range(3):
        named = f"rows.jsonl:{index + 1}: {tmp_path / str(index)}.jpg: image cannot be decoded"
        assert named in answer.error()
    assert "40 broken images, the first of them" in answer.error()
    assert "rows.jsonl:4:" not in answer.error()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "photos.jsonl"),
        ('{"image": "00.jpg", "label": "x"}\n{"image": "01.png", "label": "x"}\n', "single class"),
    ],
)
def test_useless_data_is_one_clear_error(
    msd: Msd, photos: Path, tmp_path: Path, content: str, message: str
) -> None:
    photos.write_text(content)
    answer = msd("distill", "--data", photos, "--out", "run")
    assert answer.code == 1
    assert message in answer.error()
    assert not (tmp_path / "run").exists()


def test_an_existing_output_is_one_clear_error(msd: Msd, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    answer = msd("distill", "--data", photos, "--out", "run")
    assert answer.code == 1
    assert "already exists" in answer.error()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB: smaller than the pixels, and than a run."""
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(point)]
    if sys.platform != "linux" or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("a small file system needs the right to mount one")
    yield point
    subprocess.run(["umount", point], check=True)


def test_a_full_disk_is_one_clear_error_and_a_full_cache_a_note(
    msd: Msd, start_msd: Callable[..., "subprocess.Popen[str]"], photos: Path, full_disk: Path
) -> None:
    answer = msd("distill", "--data", photos, "--out", full_disk / "run", *QUICK)
    assert answer.code == 1
    assert "(No space left on device)" in answer.error()
    left = [path for path in full_disk.rglob("*") if path.is_dir() and path.name.startswith(".")]
    assert left == []
    assert not (full_disk / "run" / "teacher").exists()
    command = ("distill", "--data", photos, "--out", "run", *QUICK)
    cached = start_msd(*command, env={"HF_HOME": str(full_disk / "hf")})
    lines = cached.communicate()[1].splitlines()
    assert cached.returncode == 0, lines
    (note,) = [line for line in lines if "without a cache" in line]
    assert "(No space left on device)" in note
    assert not list((full_disk / "hf").rglob("pixels.npy"))
