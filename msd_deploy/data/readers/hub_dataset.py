"""A Hugging Face dataset, opened without running its code: hub:NAME and hub:FOLDER.

`datasets` reads plain data files (parquet, JSON, CSV, Arrow, folders of images) into Arrow files
of its cache, which are memory-mapped. A dataset that needs a script or a reader that could run code
is refused, and so are data files outside a local folder. CSV and JSON are read by `text_tables`,
the values of rows by `table_rows`.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import datasets
from datasets.data_files import FILES_TO_IGNORE, get_data_patterns
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from huggingface_hub.constants import HF_HUB_CACHE

from msd_deploy.artifacts.manifest import sha256_of_file, sha256_of_json
from msd_deploy.artifacts.write_errors import cache_fix
from msd_deploy.data.images import image_endings
from msd_deploy.data.readers.rows import shown, split_called
from msd_deploy.data.readers.text_tables import read_as_written
from msd_deploy.errors import DataError, counted

PREFIX = "hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_READERS = ("parquet", "json", "csv", "arrow", "imagefolder")
_TABLES = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".arrow")
_READING = 4
"""Rises whenever tables are read in another way: what another version cached is not used."""
_HIDDEN = (".", "__")
_MOST_NAMED = 10
_MOST_IMAGES_NAMED = 3
_FORM = "Use hub:OWNER/NAME, hub:OWNER/NAME:CONFIG, or hub:FOLDER"
_METADATA = "write metadata.csv with columns file_name and label"
_UNPACK = "Unpack archives, and save tables as .csv, .jsonl or .parquet"
_WITHOUT_SCRIPT = (
    "Have its parquet files instead (hub datasets have them on the branch refs/convert/parquet), or"
    " write a FILE.jsonl"
)


@dataclass(frozen=True, slots=True)
class HubName:
    """What a SPEC after `hub:` names.

    Attributes:
        place: OWNER/NAME, or the path of a folder.
        configuration: Of the dataset, or None.
        is_folder: Whether the place is a path.
    """

    place: str
    configuration: str | None
    is_folder: bool


def hub_name(name: str) -> HubName:
    """Split what stands after `hub:` into place and configuration; what exists is a folder."""
    if _is_there(name):
        return HubName(name, None, True)
    place, colon, configuration = name.rpartition(":")
    if not colon or re.search(r"[\\/]", configuration):
        place, configuration = name, ""
    is_folder = _is_there(place) or _REPOSITORY.fullmatch(place) is None
    return HubName(place, configuration or None, is_folder)


def _is_there(place: str) -> bool:
    try:
        return bool(place) and Path(place).is_dir()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


@dataclass(frozen=True, slots=True)
class OpenedTables:
    """The tables of a dataset or of a file.

    Attributes:
        spec: The SPEC.
        splits: By the dataset's own names, "" for the rows of a file; images as they are encoded.
        folders: Where images that are files may lie.
        notes: Notes for the user on files that are left out.

    Those of text files also have the columns `LINE`, `FLAW`, and of a folder `FILE`.
    """

    spec: str
    splits: Mapping[str, datasets.Dataset]
    folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def open_hub_dataset(location: str, *, needs_classes: bool = True) -> OpenedTables:
    """Open a dataset; what an earlier call read is used again.

    A local folder's files are known by their digests. One of the hub is downloaded, or found in the
    cache of `datasets`.

    Args:
        location: What stands after `hub:`.
        needs_classes: Whether a folder of images that are not in folders by class is refused.

    Raises:
        DataError: The dataset does not exist, needs code or files elsewhere, or cannot be read.
    """
    name, spec = hub_name(location), f"{PREFIX}{location}"
    if name.is_folder and not _is_there(name.place):
        raise DataError("no such folder or name on the hub", where=shown(location), fix=_FORM)
    name, patterns = _without_wildcards(name) if name.is_folder else (name, None)
    with reading(spec, _FORM):
        builder, notes = _load_builder(name, patterns)
    files = [file for found in (builder.config.data_files or {}).values() for file in found]
    _refuse_reader(
        spec, builder.__class__.__module__, files, _UNPACK if name.is_folder else _WITHOUT_SCRIPT
    )
    if name.is_folder:
        _refuse_outside(spec, Path(name.place), files)
        with reading(spec, _FORM):
            builder = _with_cache(builder, cache_of(files))
        folders: tuple[Path, ...] = (Path(name.place),)
    else:
        _refuse_elsewhere(spec, files)
        folders = (Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))
    with reading(spec, _UNPACK if any(file.endswith(".zip") for file in files) else _FORM):
        read_as_written(builder)
        builder.download_and_prepare()
        splits = {str(split): builder.as_dataset(split=split) for split in builder.info.splits}
    if name.is_folder and isinstance(builder, ImageFolder):
        _refuse_depths(spec, Path(name.place).resolve(), files, builder.EXTENSIONS)
        if _lacks_classes(files, builder.info.features):
            if needs_classes:
                _refuse_without_classes(spec, notes)
            splits = {
                split: rows.remove_columns(list({"label"}.intersection(rows.column_names)))
                for split, rows in splits.items()
            }
        notes += _images_without_row(Path(name.place).resolve(), files, splits)
    return OpenedTables(spec, splits, folders, notes)


def _load_builder(
    name: HubName, patterns: Mapping[str, list[str]] | None
) -> tuple[datasets.DatasetBuilder, tuple[str, ...]]:
    """Return what reads a dataset, and notes on the files of a folder that are left out."""
    builder = None
    try:
        builder = datasets.load_dataset_builder(
            name.place,
            name.configuration,
            data_files=patterns,
            cache_dir=None if name.is_folder else str(cache_of_names()),
        )
        if not name.is_folder or not isinstance(builder, ImageFolder):
            return builder, ()
    except datasets.exceptions.DataFilesNotFoundError:
        if not name.is_folder:
            raise
    files = _files_in(Path(name.place).resolve())
    if builder is not None and (_has_metadata(files) or _card_names_files(Path(name.place))):
        return builder, ()
    usual = {*ImageFolder.EXTENSIONS, ".zip"}
    endings = image_endings().union(usual)
    left_out = {file for file in files if file.suffix.lower() not in endings}
    if len(left_out) == len(files):
        what = f"cannot be read (No (supported) data files found; {_left_out(left_out)})"
        raise DataError(what, where=f"{PREFIX}{name.place}", fix=_UNPACK)
    if builder is None or any(file.suffix.lower() not in usual for file in files - left_out):
        further = {"EXTENSIONS": sorted(endings - {".zip"}), "__module__": ImageFolder.__module__}
        reader = type("ImageFolder", (ImageFolder,), further)
        where = {"data_dir": name.place} if patterns is None else {"data_files": patterns}
        listed = datasets.load_dataset_builder("imagefolder", **where).config.data_files
        builder = reader(base_path=name.place, data_files=listed)
    return builder, (_left_out(left_out),) if left_out else ()


def _with_cache(builder: datasets.DatasetBuilder, cache: Path) -> datasets.DatasetBuilder:
    """Return a builder of the same files, which are not listed again, with a cache of its own."""
    return builder.__class__(
        cache_dir=str(cache),
        dataset_name=builder.dataset_name,
        config_name=builder.config.name,
        hash=builder.hash,
        base_path=builder.base_path,
        info=builder.info,
        data_files=builder.config.data_files,
    )


def _card_names_files(folder: Path) -> bool:
    """Return whether a folder's dataset card chooses its data files."""
    cards = (folder / "README.md", folder / ".huggingface.yaml")
    return any(
        "data_files" in card.read_text("utf-8", "replace") for card in cards if card.is_file()
    )


def _files_in(folder: Path) -> set[Path]:
    """Return the files of a folder, but for those that `datasets` never takes for data."""
    found: set[Path] = set()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        found |= {
            Path(place, name)
            for name in names
            if not name.startswith(_HIDDEN) and name not in FILES_TO_IGNORE
        }
    return found


def _refuse_depths(spec: str, folder: Path, files: Sequence[str], endings: Collection[str]) -> None:
    """Refuse images by class that lie at several depths, of which `datasets` reads no classes."""
    if _has_metadata(files):
        return
    by_depth: dict[int, list[Path]] = {}
    for image in (Path(file) for file in files if Path(file).suffix.lower() in endings):
        inside = image.resolve().relative_to(folder)
        by_depth.setdefault(len(inside.parts), []).append(inside)
    if len(by_depth) < 2:
        return
    rarest, usual = (pick(by_depth, key=lambda at: len(by_depth[at])) for pick in (min, max))
    more = len(by_depth[rarest]) - 1
    lies = f" and {more:,} more images lie" if more else " lies"
    side = "deeper" if rarest > usual else "less deep"
    raise DataError(
        f"{shown(str(min(by_depth[rarest])))}{lies} {side} than the other images, and the folder of"
        " an image is its class",
        where=spec,
        fix=f"Move it into the folder of its class, or {_METADATA}",
    )


def _lacks_classes(files: Sequence[str], features: Mapping[str, object]) -> bool:
    """Return whether of images without metadata each split, or the folder, has one folder."""
    names = getattr(features.get("label"), "names", ())
    return not _has_metadata(files) and all(split_called(name) for name in names)


def _refuse_without_classes(spec: str, notes: Sequence[str]) -> NoReturn:
    what = "has no classes: the folder of an image is its class, and a split has one at most"
    fix = f"Move them into folders named by their class, or {_METADATA}"
    raise DataError("; ".join([what, *notes]), where=spec, fix=fix)


def _has_metadata(files: Iterable[str | Path]) -> bool:
    return any(Path(file).name in ImageFolder.METADATA_FILENAMES for file in files)


def _images_without_row(
    folder: Path, files: Sequence[str], splits: Mapping[str, datasets.Dataset]
) -> tuple[str, ...]:
    """Return a note on the images of a folder that its metadata has no row of."""
    named = {
        Path(image["path"]).resolve()
        for rows in splits.values()
        for column, feature in rows.features.items()
        if isinstance(feature, datasets.Image)
        for image in rows.data.column(column).to_pylist()
        if image is not None and image["path"]
    }
    others = (*_TABLES, ".zip")
    images = {Path(file).resolve() for file in files if Path(file).suffix.lower() not in others}
    without = sorted(images - named)
    if not without:
        return ()
    some = [shown(str(file.relative_to(folder))) for file in without[:_MOST_IMAGES_NAMED]]
    more = ", ..." if len(without) > len(some) else ""
    count = counted(len(without), "image has", "images have")
    what = f"{count} no row in the folder's metadata: left out"
    return (f"{what}: {', '.join(some)}{more}",)


def _left_out(files: set[Path]) -> str:
    """Return a note with how many files are no images that are read, by folder and ending."""
    counts = Counter((file.parent.name, file.suffix or "no ending") for file in files)
    some = [f"{count} {ending} in {folder}" for (folder, ending), count in sorted(counts.items())]
    more = f" and {len(some) - _MOST_NAMED} more kinds" if len(some) > _MOST_NAMED else ""
    what = (
        f"{counted(len(files), 'file is', 'files are')} left out, of formats that are not read:"
        f" {', '.join(some[:_MOST_NAMED])}{more}"
    )
    table = next((file for file in sorted(files) if file.suffix.lower() in _TABLES), None)
    if table is None:
        return what
    return (
        f"{what}; to read {table.name}, which is beside images, pass its path to --data, or call it"
        " metadata.csv or .jsonl with a column file_name"
    )


def _without_wildcards(name: HubName) -> tuple[HubName, Mapping[str, list[str]] | None]:
    """Return a folder under a path in which `datasets` sees no wildcard, and patterns of its files.

    For a folder with one of `*?[]` in its path that is the path of a link to it. The patterns are
    None where `datasets` finds the files itself: it does not follow the link.

    Raises:
        DataError: The link cannot be created.
    """
    target = Path(name.place).resolve()
    if not re.search(r"[*?\[\]]", str(target)):
        return name, None
    links = _own_cache() / "folders"
    link = links / hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
    try:
        links.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        what = f"its path has a wildcard, and a link to it cannot be created ({error})"
        raise DataError(what, where=target, fix="Rename the folder") from error
    with reading(f"{PREFIX}{name.place}", _FORM):
        found = get_data_patterns(str(link))
    return replace(name, place=str(link)), {
        split: [f"{link}/{pattern}" for pattern in patterns] for split, patterns in found.items()
    }


@contextmanager
def reading(spec: str, fix: str) -> Iterator[None]:
    """Turn whatever the library raises into one error; keep its bars and log off the screen."""
    had_bars = not datasets.are_progress_bars_disabled()
    level = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except DataError:
        raise
    # Its readers raise whatever the libraries of their formats raise.
    except Exception as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        reason = " ".join(str(error.__cause__ or error).split())[:400].rstrip(".")
        if "scripts are no longer supported" in reason:
            what = "needs a loading script, and scripts are not run"
            raise DataError(what, where=spec, fix=_WITHOUT_SCRIPT) from error
        what = f"cannot be read ({reason or type(error).__name__})"
        failure = error.__cause__ or error
        if isinstance(failure, OSError) and isinstance(failure.filename, str):
            fix = cache_fix(Path(failure.filename)) or fix
        raise DataError(what, where=spec, fix=fix) from error
    finally:
        datasets.logging.set_verbosity(level)
        if had_bars:
            datasets.enable_progress_bars()


def _refuse_reader(spec: str, module: str, files: Sequence[str], fix: str) -> None:
    """Refuse formats whose readers might run code, and all that were not thought through."""
    reader = module.removeprefix("datasets.packaged_modules.").partition(".")[0]
    if reader not in (*_READERS, "cache"):
        read = image_endings().union(_TABLES)
        left_out = {file for file in map(Path, files) if file.suffix.lower() not in read}
        what = f"has data of a kind that is not read ({reader}): {_left_out(left_out)}"
        raise DataError(what, where=spec, fix=fix)


def _refuse_outside(spec: str, folder: Path, files: list[str]) -> None:
    root = folder.resolve()
    for file in files:
        if "://" in file or not Path(file).resolve().is_relative_to(root):
            what = f"names data outside its folder: {shown(file)}"
            raise DataError(what, where=spec, fix="Put its files there")


def _refuse_elsewhere(spec: str, files: list[str]) -> None:
    for file in files:
        if not file.startswith("hf://datasets/"):
            what = f"names data outside the hub: {shown(file)}"
            raise DataError(what, where=spec, fix="Download them, and use hub:FOLDER")


def cache_of(files: list[str]) -> Path:
    """Return the cache of a folder's tables by their contents: `datasets` knows them by time.

    Images are no part of a table: rows name them, and they are read from where they lie.
    """
    known = [
        [file, sha256_of_file(Path(file)) if Path(file).suffix.lower() in _TABLES else ""]
        for file in sorted(files)
    ]
    return _own_cache() / sha256_of_json(["as written", _READING, *known])


def cache_of_names() -> Path:
    """Return the cache of datasets of the hub.

    Elsewhere `datasets` may have the same ones with types that it guessed.
    """
    return _own_cache() / f"hub-{_READING}"


def _own_cache() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "msd-deploy"
