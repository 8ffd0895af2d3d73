"""Hateful Memes (Kiela et al. 2020, arXiv 2005.04790), as published.

The first edition has train, dev and test.jsonl; the second train, dev_seen, dev_unseen, test_seen
and test_unseen.jsonl. They lie in annotations/ or in the folder itself, images in img/ there or
in images/. Of the second edition the "seen" sets are read: those that the paper reports.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msd_deploy.data.readers.published import (
    Example,
    PublishedRows,
    find_file,
    find_folder,
    need,
    need_file,
    need_image,
    need_number_id,
    need_string,
    open_folder,
)
from msd_deploy.data.readers.rows import (
    ImageFiles,
    UnusableRowError,
    parse_object,
    parse_text,
    read_lines,
    shown,
    type_name,
)
from msd_deploy.data.source import DatasetInfo, SourceData, Split

NAME = "hateful-memes"
LABELS = ("benign", "hateful")
"""By the published label, 0 and 1."""


def load_hateful_memes(location: str, *, strict: bool) -> SourceData:
    """Read the folder of Hateful Memes.

    Test is the published test set where it has labels. Where it has none, the published dev set is
    the test split, and a tenth of the training images, by hash, is validation; a note says so.

    Args:
        location: The folder.
        strict: A row that cannot be used is an error.

    Raises:
        DataError: The folder is not the published one; with strict, a row cannot be used.
    """
    folder = open_folder(NAME, location)
    files, notes = _files(folder)
    base = folder if (folder / "img").is_dir() else find_folder(folder, ["images"]) or folder
    images = ImageFiles(base, root=folder)
    found = PublishedRows()
    for path, split in files:
        found.read_file(path, split, partial(_example, images))
    info = DatasetInfo(LABELS, "single_label", notes=tuple(notes), further_metrics=("auroc",))
    return found.source(folder, info, strict=strict)


def _files(folder: Path) -> tuple[list[tuple[Path, Split]], list[str]]:
    """Return the file of each split, and the notes on the choice."""
    train = need_file(folder, _places("train"))
    if find_file(folder, _places("dev_seen")) or find_file(folder, _places("test_seen")):
        dev, tests = need_file(folder, _places("dev_seen")), [_places("test_seen")]
        if find_file(folder, _places("test_unseen")):
            tests.append(_places("test_unseen"))
    else:
        dev, tests = need_file(folder, _places("dev")), [_places("test")]
    test_files = [need_file(folder, names) for names in tests]
    notes: list[str] = []
    for path in test_files:
        if _has_labels(path):
            return [(train, "train"), (dev, "validation"), (path, "test")], notes
        notes.append(f"{path.name} has no labels")
    notes.append(f"{dev.name} is the test split, and validation is taken from {train.name}")
    return [(train, "train"), (dev, "test")], notes


def _places(name: str) -> list[str]:
    return [f"annotations/{name}.jsonl", f"{name}.jsonl"]


def _has_labels(path: Path) -> bool:
    """Return whether any record has a label; an empty file is left to be refused as one."""
    is_empty = True
    for _, raw in read_lines(path):
        is_empty = False
        try:
            if parse_object(raw).get("label") is not None:
                return True
        except UnusableRowError:
            continue
    return is_empty


def _example(images: ImageFiles, values: Mapping[str, object]) -> Example:
    label = need(values, "label")
    if isinstance(label, bool) or not isinstance(label, int):
        raise UnusableRowError(f"label is {type_name(label)}, not 0 or 1")
    if label not in (0, 1):
        raise UnusableRowError(f"label is {shown(label)}, not 0 or 1")
    return Example(
        identity=need_number_id(values, "id"),
        image=need_image(images.find(need(values, "img"), key="img"), "img"),
        text=parse_text(need_string(values, "text"), "text"),
        labels=(LABELS[label],),
    )
