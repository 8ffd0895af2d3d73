import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.data import pixel_cache, threads
from msd_deploy.data.pixel_cache import cached_pixels, prune
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.resize import ImageSpec, PixelArray
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import ArtifactError
from tests.full_disk import largest_file

NOTHING_TO_KEEP = Path("nothing")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceData:
    """Twenty rows with an image each."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        (folder / f"{index}.png").write_bytes(encode_png(pixels))
        rows.append(json.dumps({"image": f"{index}.png", "label": index % 2}))
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return load_source(str(folder / "rows.jsonl"), options=SourceOptions())


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    tokenizer = train_tokenizer(["a text"], vocabulary_size=50)
    return build_preprocessor(tokenizer, ImageSpec((16, 16)), max_length=8)


class Opening:
    """Opens the cache of a folder and counts the images that had to be decoded."""

    def __init__(self, source: SourceData, preprocessor: Preprocessor, cache: Path) -> None:
        self.source, self.preprocessor, self.cache = source, preprocessor, cache
        self.decoded = 0

    def __call__(self) -> PixelArray:
        self.decoded = 0
        return cached_pixels(self.source, self.preprocessor, self.cache, self._count)[0]

    def _count(self, what: str, done: int, total: int) -> None:
        self.decoded = done

    def entry(self) -> Path:
        (entry,) = (self.cache / "pixels").iterdir()
        return entry


@pytest.fixture
def opening(source: SourceData, preprocessor: Preprocessor, tmp_path: Path) -> Opening:
    return Opening(source, preprocessor, tmp_path)


def write_entry(entries: Path, digit: str, *, size_bytes: int, age_hours: float) -> Path:
    """Write something with the layout of an entry, last used that long ago."""
    entry = entries / (digit * 64)
    entry.mkdir()
    (entry / "pixels.npy").write_bytes(bytes(size_bytes))
    manifest = entry / "manifest.json"
    manifest.write_bytes(b"")
    used = time.time() - age_hours * 3600
    os.utime(manifest, (used, used))
    return entry


def test_images_are_decoded_once(opening: Opening) -> None:
    first = np.array(opening())
    assert opening.decoded == len(first) == 20
    second = opening()
    assert opening.decoded == 0
    assert np.array_equal(first, second)
    assert isinstance(second, np.memmap)


def test_threads_change_neither_pixels_nor_reasons_nor_their_order(
    preprocessor: Preprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for index in range(30):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        content = encode_png(pixels) if index % 4 else f"not an image {index}".encode()
        (tmp_path / f"{index}.png").write_bytes(content)
        rows.append(json.dumps({"image": f"{index}.png", "label": index % 2}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    source = load_source(str(tmp_path / "rows.jsonl"), options=SourceOptions())
    found = {}
    for cpus in (1, 5):
        counted: list[int] = []
        monkeypatch.setattr(threads, "usable_cpus", lambda cpus=cpus: cpus)
        pixels, places, reasons = cached_pixels(
            source,
            preprocessor,
            tmp_path / f"cache-{cpus}",
            lambda what, done, total, counted=counted: counted.append(done),  # type: ignore[misc]
        )
        found[cpus] = pixels.tobytes(), places, list(reasons.items())
        assert counted == list(range(1, 31))
    assert found[1] == found[5]
    assert len(found[1][2]) == 8


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "cache"


def in_no_file_system(folder: Path) -> Path:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc")
    return Path("/proc/no-such-folder")


@pytest.mark.parametrize("place", [below_a_file, in_no_file_system])
def test_a_cache_that_cannot_be_written_is_done_without(
    opening: Opening,
    tmp_path: Path,
    place: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = np.array(opening())
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    opening.cache = place(tmp_path)
    pixels = opening()
    assert np.array_equal(pixels, expected)
    assert isinstance(pixels, np.memmap)
    assert opening.decoded == len(expected)
    (record,) = caplog.records
    assert "images are decoded without a cache:" in record.getMessage()
    assert str(opening.cache) in record.getMessage()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_full_cache_and_a_full_scratch_folder_are_one_error(opening: Opening) -> None:
    with (
        largest_file(10_000),
        pytest.raises(ArtifactError, match=r"cannot be written \(File too large\)") as failure,
    ):
        opening()
    assert str(opening.cache / "pixels") in str(failure.value)
    assert not (opening.cache / "pixels").exists()


def test_an_interruption_leaves_no_entry(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(opening, "_count", interrupt)
    with pytest.raises(KeyboardInterrupt):
        opening()
    assert not (opening.cache / "pixels").exists()


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "no manifest", "no reasons"])
def test_damaged_pixels_are_noticed_and_made_again(
    opening: Opening, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = np.array(opening())
    pixels = opening.entry() / "pixels.npy"
    content = pixels.read_bytes()
    if damage == "truncated":
        pixels.write_bytes(content[:-1000])
    elif damage == "altered":
        pixels.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        {
            "missing": pixels,
            "no manifest": opening.entry() / "manifest.json",
            "no reasons": opening.entry() / "failures.json",
        }[damage].unlink()
    again = opening()
    assert opening.decoded == len(first)
    assert np.array_equal(first, again)
    assert "decoded again" in caplog.text
    opening()
    assert opening.decoded == 0


def test_pixels_of_another_version_are_not_read(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening()
    for name, value in (("PIXELS_VERSION", 999), ("PIL", np)):
        with monkeypatch.context() as patched:
            patched.setattr(pixel_cache, name, value)
            opening()
            assert opening.decoded > 0, name


def test_the_entries_used_longest_ago_go_until_the_rest_fits(tmp_path: Path) -> None:
    ages = {"a": 5.0, "b": 50.0, "c": 500.0}
    entries = {
        digit: write_entry(tmp_path, digit, size_bytes=100, age_hours=age)
        for digit, age in ages.items()
    }
    prune(tmp_path, limit_bytes=300, keep=NOTHING_TO_KEEP)
    assert len(list(tmp_path.iterdir())) == 3
    prune(tmp_path, limit_bytes=250, keep=NOTHING_TO_KEEP)
    assert set(tmp_path.iterdir()) == {entries["a"], entries["b"]}
    prune(tmp_path, limit_bytes=0, keep=entries["b"])
    assert set(tmp_path.iterdir()) == {entries["b"]}


def test_what_was_used_just_now_stays_however_large_it_is(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, "a", size_bytes=100, age_hours=0.5)
    prune(tmp_path, limit_bytes=0, keep=NOTHING_TO_KEEP)
    assert entry.is_dir()


def test_opening_an_entry_makes_it_the_one_used_last(opening: Opening) -> None:
    opening()
    manifest = opening.entry() / "manifest.json"
    os.utime(manifest, (0, 0))
    opening()
    assert time.time() - manifest.stat().st_mtime < 3600


def test_an_array_that_is_open_stays_readable_when_its_entry_goes(opening: Opening) -> None:
    pixels = opening()
    before = np.array(pixels)
    os.utime(opening.entry() / "manifest.json", (0, 0))
    prune(opening.cache / "pixels", limit_bytes=0, keep=NOTHING_TO_KEEP)
    assert list((opening.cache / "pixels").iterdir()) == []
    assert np.array_equal(pixels, before)


def test_nothing_but_entries_is_pruned(tmp_path: Path) -> None:
    entries = tmp_path / "pixels"
    entries.mkdir()
    (entries / "thesis").mkdir()
    (entries / "thesis" / "chapter.txt").write_text("ten years of work")
    elsewhere = write_entry(tmp_path, "b", size_bytes=100, age_hours=500)
    (entries / ("c" * 64)).symlink_to(elsewhere)
    prune(entries, limit_bytes=0, keep=NOTHING_TO_KEEP)
    assert (entries / "thesis" / "chapter.txt").exists()
    assert (elsewhere / "pixels.npy").exists()


def test_what_a_killed_process_left_half_built_goes_after_a_day(tmp_path: Path) -> None:
    for name, hours in (("old", 25), ("new", 23)):
        building = tmp_path / f".{'a' * 64}.building-{name}"
        building.mkdir()
        (building / "pixels.npy").write_bytes(b"half")
        then = time.time() - hours * 3600
        for path in (building / "pixels.npy", building):
            os.utime(path, (then, then))
    prune(tmp_path, limit_bytes=1000, keep=NOTHING_TO_KEEP)
    assert [path.name[-3:] for path in tmp_path.iterdir()] == ["new"]


def test_adding_to_a_full_cache_prunes_it(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = opening.cache / "pixels"
    entries.mkdir()
    old = write_entry(entries, "d", size_bytes=100, age_hours=500)
    monkeypatch.setattr(pixel_cache, "LIMIT_BYTES", 50)
    opening()
    assert not old.exists()
    assert opening.entry().is_dir()
