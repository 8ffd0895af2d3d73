"""MM-IMDB, genres of films from poster and plot (Arevalo et al. 2017, arXiv 1702.01992).

As published: split.json and dataset/ID.json and dataset/ID.jpeg; or as converted for MMBT: train,
dev and test.jsonl. The plot is the longest of a film's. Of the 27 genres in the files the paper
keeps 23, and so do we; a film of others alone stays, with none (MMBT leaves out films of News).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from msd_deploy.data.readers.published import (
    COMPLETE,
    Example,
    PublishedRows,
    find_file,
    need,
    need_file,
    need_image,
    need_list,
    need_number_id,
    need_string,
    open_folder,
)
from msd_deploy.data.readers.rows import (
    ImageFiles,
    UnusableRowError,
    file_inside,
    parse_object,
    parse_text,
    shown,
    type_name,
)
from msd_deploy.data.source import DatasetInfo, SourceData, Split
from msd_deploy.errors import DataError

NAME = "mm-imdb"
GENRES = (
    *("Action", "Adventure", "Animation", "Biography", "Comedy", "Crime", "Documentary", "Drama"),
    *("Family", "Fantasy", "Film-Noir", "History", "Horror", "Music", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Short", "Sport", "Thriller", "War", "Western"),
)
_RARE_GENRES = ("Adult", "News", "Reality-TV", "Talk-Show")
_SPLITS: Mapping[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_MOST_FILE_BYTES = 16 << 20


def load_mm_imdb(location: str, *, strict: bool) -> SourceData:
    """Read the folder of MM-IMDB; its splits are kept.

    Args:
        location: The folder.
        strict: A row that cannot be used is an error.

    Raises:
        DataError: The folder is not the published one; with strict, a row cannot be used.
    """
    folder = open_folder(NAME, location)
    found, genres = PublishedRows(), _Genres()
    images = ImageFiles(folder)
    split_file = find_file(folder, ["split.json"])
    if split_file is None:
        files = {name: need_file(folder, [f"{name}.jsonl"]) for name in _SPLITS}
        for name, split in _SPLITS.items():
            found.read_file(files[name], split, partial(_converted, images, genres))
    else:
        for name, films in _read_splits(split_file).items():
            _read_films(found, split_file, (name, films), partial(_film, images, genres))
    info = DatasetInfo(
        GENRES,
        "multi_label",
        notes=tuple(genres.notes()),
        further_metrics=("macro_f1", "weighted_f1"),
    )
    return found.source(folder, info, strict=strict)


class _Genres:
    """Keeps the paper's genres of a film, and counts the others."""

    def __init__(self) -> None:
        self._rare: Counter[str] = Counter()

    def kept(self, names: list[str]) -> tuple[str, ...]:
        for name in names:
            if name not in GENRES and name not in _RARE_GENRES:
                raise UnusableRowError(f"unknown genre {shown(name)}")
        self._rare.update(name for name in names if name in _RARE_GENRES)
        return tuple(sorted({name for name in names if name in GENRES}))

    def notes(self) -> tuple[str, ...]:
        if not self._rare:
            return ()
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(self._rare.items()))
        return (f"genres that the paper leaves out are left out of the films' labels: {counts}",)


def _read_splits(path: Path) -> dict[str, list[object]]:
    """Return the films of each split, by their ids as the file has them."""
    try:
        values = parse_object(_read(path), most_bytes=_MOST_FILE_BYTES)
    except UnusableRowError as error:
        raise DataError(str(error), where=path, fix=COMPLETE) from error
    unknown = sorted(set(values) - set(_SPLITS))
    if unknown:
        raise DataError(f"unknown split {shown(unknown[0])}", where=path, fix=COMPLETE)
    films = {}
    for name in _SPLITS:
        value = values.get(name)
        if not isinstance(value, list) or not value:
            has = "no films" if value in (None, []) else f"{type_name(value)} instead of films"
            raise DataError(f"has {has} in {name}", where=path, fix=COMPLETE)
        films[name] = value
    return films


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableRowError(f"cannot be read ({error.strerror})") from error


def _read_films(
    found: PublishedRows,
    split_file: Path,
    films: tuple[str, list[object]],
    read: Callable[[Path, str], Example],
) -> None:
    """Add the films of one split; one that split.json misnames is named by its place there."""
    name, ids = films
    before, already = len(found.rows), len(found.skipped)
    for index, film in enumerate(ids):
        if not isinstance(film, str) or not re.fullmatch("[0-9]{7,8}", film):
            reason = f"id {shown(film)} is not a string of 7 digits"
            found.skip(f"{split_file}:{name}[{index}]", reason)
            continue
        file = split_file.parent / "dataset" / f"{film}.json"
        found.add(file, 1, _SPLITS[name], partial(read, split_file.parent, film))
    found.check_any(split_file, before, already)


def _film(images: ImageFiles, genres: _Genres, folder: Path, film: str) -> Example:
    path = file_inside(folder, f"dataset/{film}.json", folder.resolve(), what="file")
    values = parse_object(_read(path), most_bytes=_MOST_FILE_BYTES)
    return Example(
        identity=film.lstrip("0"),
        image=images.find(f"dataset/{film}.jpeg"),
        text=parse_text(max(need_list(values, "plot"), key=len), "plot"),
        labels=genres.kept(need_list(values, "genres")),
    )


def _converted(images: ImageFiles, genres: _Genres, values: Mapping[str, object]) -> Example:
    key = "img" if "img" in values else "image"
    return Example(
        identity=need_number_id(values, "id"),
        image=need_image(images.find(need(values, key), key=key), key),
        text=parse_text(need_string(values, "text"), "text"),
        labels=genres.kept(need_list(values, "label")),
    )
