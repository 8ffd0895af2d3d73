"""A package tree in miniature, made by hand: nothing is downloaded."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from string import ascii_lowercase
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError, DataError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "open_clip_art.py"
SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="x" xmlns:dc="y" xmlns:rdf="z">
<metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title></cc:Work></rdf:RDF></metadata></svg>"""
BOMB = '<!DOCTYPE svg [<!ENTITY a "aaaa">]>' + SVG


@pytest.fixture
def clip_art(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; a class of two images is large enough."""
    spec = importlib.util.spec_from_file_location("open_clip_art", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "open_clip_art", module)  # its dataclasses look there
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MIN_IMAGES_PER_CLASS", 2)
    return module


def add(root: Path, name: str, *, svg: str | None, colour: int) -> Path:
    """Add an image, unique by its colour, and its SVG."""
    png = root / "png" / f"{name}.png"
    png.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(png)
    if svg is not None:
        twin = root / "svg" / f"{name}.svg"
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_text(svg, encoding="utf-8")
    return png


def titled(title: str) -> str:
    return SVG.format(title=title)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of usable images, and one of every kind of excluded image."""
    root = tmp_path / "usr" / "share" / "openclipart"
    add(root, "animals/cat", svg=titled(" A  cat\n"), colour=1)
    add(root, "animals/wild/wolf", svg=titled("Wolf"), colour=2)
    add(root, "food/apple", svg=titled("Äpfel &amp; Birnen"), colour=3)
    bread = add(root, "food/bread", svg=titled("Bread"), colour=4)
    (root / "png/animals/bread.png").symlink_to(bread)
    shutil.copy(root / "svg/food/bread.svg", root / "svg/animals/bread.svg")
    add(root, "food/no-twin", svg=None, colour=5)
    add(root, "food/malformed", svg="<svg><metadata", colour=6)
    add(root, "food/bomb", svg=BOMB.format(title="&a;"), colour=7)
    add(root, "food/untitled", svg=titled(""), colour=8)
    add(root, "food/set", svg=titled("Fruit collection"), colour=9)
    add(root, "unsorted/thing", svg=titled("Thing"), colour=10)
    add(root, "tools/hammer", svg=titled("Hammer"), colour=11)
    return root


def test_meaningful_images_are_kept_and_the_others_counted(
    clip_art: ModuleType, root: Path
) -> None:
    left_out: Counter[str] = Counter()
    found = clip_art.titled_images(root, left_out)
    kept = clip_art.select(found, left_out, keep_links=False)
    assert [(picture.category, picture.title) for picture in kept] == [
        ("animals", "A cat"),
        ("animals", "Wolf"),
        ("food", "Äpfel & Birnen"),
        ("food", "Bread"),
    ]
    assert dict(left_out) == {
        "SVG missing, malformed or declaring entities": 3,
        "no title": 1,
        "title of a set": 1,
        "duplicate of an image": 1,
        "folder without a subject": 1,
        "class too small": 1,
    }


def test_duplicates_are_kept_on_request(clip_art: ModuleType, root: Path) -> None:
    left_out: Counter[str] = Counter()
    found = clip_art.titled_images(root, left_out)
    kept = clip_art.select(found, left_out, keep_links=True)
    assert [picture.category for picture in kept if picture.title == "Bread"] == ["animals", "food"]


def test_a_title_that_many_share_is_a_sets(
    clip_art: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_art, "IMAGES_OF_A_SET", 2)
    add(root, "food/wolf", svg=titled("WOLF"), colour=12)
    left_out: Counter[str] = Counter()
    kept = clip_art.select(clip_art.titled_images(root, left_out), left_out, keep_links=False)
    assert "wolf" not in {picture.title.casefold() for picture in kept}


def test_titles_that_differ_in_numbers_alone_fall_into_one_split(clip_art: ModuleType) -> None:
    titles = [f"Flower {number}" for number in range(20)] + ["flower"]
    assert len({clip_art.split_of_title(title) for title in titles}) == 1
    words = [first + second for first in ascii_lowercase for second in ascii_lowercase]
    shares = Counter(map(clip_art.split_of_title, words))
    assert set(shares) == {"train", "validation", "test"}
    assert shares["train"] > shares["test"] + shares["validation"]


def test_the_written_files_are_a_data_set(clip_art: ModuleType, root: Path, tmp_path: Path) -> None:
    for name, colour in (("cow", 20), ("dog", 21), ("hen", 22), ("pig", 23)):
        add(root, f"animals/{name}", svg=titled(name), colour=colour)
        add(root, f"food/{name}", svg=titled(f"{name} pie"), colour=colour + 50)
    left_out: Counter[str] = Counter()
    kept = clip_art.select(clip_art.titled_images(root, left_out), left_out, keep_links=False)
    out = tmp_path / "out"
    out.mkdir()
    clip_art.write(kept, out)
    file = out / clip_art.JSONL_NAME
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {
        "image": "pictures/animals/cat.png",
        "text": "A cat",
        "label": "animals",
        "split": clip_art.split_of_title("A cat"),
    }
    assert (out / rows[0]["image"]).read_bytes() == (root / "png/animals/cat.png").read_bytes()
    source = load_source(str(file), options=SourceOptions(strict=True))
    assert source.info.labels == ("animals", "food")


@pytest.fixture
def packages(root: Path, tmp_path: Path) -> Path:
    """Both .deb files, of which one holds the tree and the other nothing."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("openclipart-png", "openclipart-svg"):
        tree = tmp_path / name
        (tree / "DEBIAN").mkdir(parents=True)
        fields = {"Package": name, "Version": "1", "Architecture": "all"}
        fields |= {"Maintainer": "Nobody <nobody@example.org>", "Description": "A test"}
        control = "".join(f"{key}: {value}\n" for key, value in fields.items())
        (tree / "DEBIAN" / "control").write_text(control, encoding="utf-8")
        part = Path("usr/share/openclipart") / name[-3:]
        shutil.copytree(root / name[-3:], tree / part, symlinks=True)
        command = ["dpkg-deb", "--build", str(tree), str(folder / f"{name}_1_all.deb")]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def test_packages_become_a_folder_and_a_summary(
    clip_art: ModuleType, packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    clip_art.make_data_set(out, packages, keep_links=False)
    shown = capsys.readouterr().out
    assert f"next: msd distill --data {out / clip_art.JSONL_NAME}" in shown
    assert len(list((out / "pictures").rglob("*.png"))) == 4
    with pytest.raises(ArtifactError, match="already exists"):
        clip_art.make_data_set(out, packages, keep_links=False)


def test_a_missing_or_broken_package_is_named_and_leaves_nothing(
    clip_art: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    with pytest.raises(DataError, match=r"has no openclipart-png_\*\.deb"):
        clip_art.make_data_set(tmp_path / "out", folder, keep_links=False)
    if shutil.which("dpkg") is not None:
        (folder / "openclipart-png_1_all.deb").write_bytes(b"no package")
        with pytest.raises(DataError, match="cannot be unpacked"):
            clip_art.make_data_set(tmp_path / "out", folder, keep_links=False)
    assert not (tmp_path / "out").exists()
