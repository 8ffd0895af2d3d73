"""A Hugging Face dataset, opened without running its code: hub:NAME and hub:FOLDER; its columns.

`datasets` reads plain data files (parquet, JSON, CSV, Arrow, folders of images) into Arrow files
of its cache, which are memory-mapped. A dataset that needs a script or a reader that could run code
is refused, and so are data files outside a local folder. The columns of image, text and label are
found by name and type; their values are read by `hub_rows`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from huggingface_hub.constants import HF_HUB_CACHE

from msd_deploy.artifacts.manifest import sha256_of_file, sha256_of_json
from msd_deploy.data.images import image_endings
from msd_deploy.data.readers.rows import shown
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import DataError

PREFIX = "hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_READERS = ("parquet", "json", "csv", "arrow", "imagefolder")
_TABLES = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".arrow")
_MOST_NAMED = 10
_FORM = "Use hub:OWNER/NAME, hub:OWNER/NAME:CONFIG, or hub:FOLDER"
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


def hub_name(stated: str) -> HubName:
    """Split what stands after `hub:` into place and configuration; what exists is a folder."""
    if _is_there(stated):
        return HubName(stated, None, True)
    place, colon, configuration = stated.rpartition(":")
    if not colon or re.search(r"[\\/]", configuration):
        place, configuration = stated, ""
    is_folder = _is_there(place) or _REPOSITORY.fullmatch(place) is None
    return HubName(place, configuration or None, is_folder)


def _is_there(place: str) -> bool:
    try:
        return bool(place) and Path(place).is_dir()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset that was opened.

    Attributes:
        stated: Its SPEC.
        splits: By the dataset's own names; memory-mapped, images as they are encoded.
        folders: Where images that are files may lie.
        notes: Notes for the user on files that are left out.
    """

    stated: str
    splits: Mapping[str, datasets.Dataset]
    folders: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def open_hub_dataset(stated: str) -> HubDataset:
    """Open a dataset; what an earlier call read is used again.

    A local folder's files are known by their digests. One of the hub is downloaded, or found in the
    cache of `datasets`.

    Args:
        stated: What stands after `hub:`.

    Raises:
        DataError: The dataset does not exist, needs code or files elsewhere, or cannot be read.
    """
    name, spec = hub_name(stated), f"{PREFIX}{stated}"
    if name.is_folder and not _is_there(name.place):
        raise DataError("no such folder or name on the hub", where=shown(stated), fix=_FORM)
    with _reading(spec):
        builder, notes = _load_builder(name)
    _refuse_reader(spec, builder.__class__.__module__)
    files = [file for found in (builder.config.data_files or {}).values() for file in found]
    if name.is_folder:
        _refuse_outside(spec, Path(name.place), files)
        cache = _cache_of(files)
        with _reading(spec):
            builder, notes = _load_builder(name, str(cache))
        folders: tuple[Path, ...] = (Path(name.place),)
    else:
        _refuse_elsewhere(spec, files)
        folders = (Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))
    with _reading(spec):
        builder.download_and_prepare()
        splits = {str(split): builder.as_dataset(split=split) for split in builder.info.splits}
    return HubDataset(spec, splits, folders, notes)


def _load_builder(
    name: HubName, cache: str | None = None
) -> tuple[datasets.DatasetBuilder, tuple[str, ...]]:
    """Return what reads a dataset, and notes on the files of a folder that are left out."""
    builder = None
    try:
        builder = datasets.load_dataset_builder(name.place, name.configuration, cache_dir=cache)
        if not name.is_folder or not isinstance(builder, ImageFolder):
            return builder, ()
    except datasets.exceptions.DataFilesNotFoundError:
        if not name.is_folder:
            raise
    folder = datasets.load_dataset_builder("imagefolder", data_dir=name.place)
    files = _file_names(folder)
    has_table = any(file.name in ImageFolder.METADATA_FILENAMES for file in files)
    if builder is not None and (has_table or _card_names_files(Path(name.place))):
        return builder, ()
    usual = {*ImageFolder.EXTENSIONS, ".zip"}
    endings = image_endings().union(usual)
    left_out = {file for file in files if file.suffix.lower() not in endings}
    if len(left_out) == len(files):
        what = f"cannot be read (No (supported) data files found; {_left_out(left_out)})"
        raise DataError(what, where=f"{PREFIX}{name.place}", fix=_FORM)
    if builder is None or any(file.suffix.lower() not in usual for file in files - left_out):
        further = {"EXTENSIONS": sorted(endings - {".zip"}), "__module__": ImageFolder.__module__}
        reader = type("ImageFolder", (ImageFolder,), further)
        listed = folder.config.data_files
        builder = reader(cache_dir=cache, base_path=name.place, data_files=listed)
    return builder, (_left_out(left_out),) if left_out else ()


def _card_names_files(folder: Path) -> bool:
    """Return whether a folder's dataset card chooses its data files."""
    cards = (folder / "README.md", folder / ".huggingface.yaml")
    return any(
        "data_files" in card.read_text("utf-8", "replace") for card in cards if card.is_file()
    )


def _file_names(builder: datasets.DatasetBuilder) -> set[Path]:
    return {Path(file) for files in (builder.config.data_files or {}).values() for file in files}


def _left_out(files: set[Path]) -> str:
    """Return a note with how many files are no images that are read, by folder and ending."""
    counts = Counter((file.parent.name, file.suffix or "no ending") for file in files)
    some = [f"{count} {ending} in {folder}" for (folder, ending), count in sorted(counts.items())]
    more = f" and {len(some) - _MOST_NAMED} more kinds" if len(some) > _MOST_NAMED else ""
    return (
        f"{len(files):,} files are left out, as they are not of a format that is read:"
        f" {', '.join(some[:_MOST_NAMED])}{more}"
    )


@contextmanager
def _reading(spec: str) -> Iterator[None]:
    """Turn whatever the library raises into one error, and keep its bars off the screen."""
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    except DataError:
        raise
    # Its readers raise whatever the libraries of their formats raise.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:400].rstrip(".")
        if "scripts are no longer supported" in reason:
            what = "needs a loading script, and scripts are not run"
            raise DataError(what, where=spec, fix=_WITHOUT_SCRIPT) from error
        what = f"cannot be read ({reason or type(error).__name__})"
        raise DataError(what, where=spec, fix=_FORM) from error
    finally:
        if had_bars:
            datasets.enable_progress_bars()


def _refuse_reader(spec: str, module: str) -> None:
    """Refuse formats whose readers might run code, and all that were not thought through."""
    reader = module.removeprefix("datasets.packaged_modules.").partition(".")[0]
    if reader not in (*_READERS, "cache"):
        what = f"is of the kind {shown(reader)}, and {', '.join(_READERS)} are read"
        raise DataError(what, where=spec, fix=_WITHOUT_SCRIPT)


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


def _cache_of(files: list[str]) -> Path:
    """Return the cache of a folder's tables by their contents: `datasets` knows them by time.

    Images are no part of a table: rows name them, and they are read from where they lie.
    """
    known = [
        [file, sha256_of_file(Path(file)) if Path(file).suffix.lower() in _TABLES else ""]
        for file in sorted(files)
    ]
    return Path(datasets.config.HF_DATASETS_CACHE) / "msd-deploy" / sha256_of_json(known)


_OPTIONS = "Name columns with --image-column, --text-column and --label-column"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are read.

    Attributes:
        image: The image's, or None.
        text: The text's, or None.
        label: The label's or the labels'.
        is_multi_label: Whether a row has a list of labels.
        names: The names of its class indices; None where rows hold names or numbers themselves.
    """

    image: str | None
    text: str | None
    label: str
    is_multi_label: bool
    names: tuple[str, ...] | None


def find_columns(where: str, features: datasets.Features, options: SourceOptions) -> Columns:
    """Find the columns: those that are named, else image, text, and label or labels.

    Raises:
        DataError: One is missing or of a type that cannot be used; names those that are there.
    """
    image = _column(where, features, options.image_column, ("image",))
    text = _column(where, features, options.text_column, ("text",))
    label = _column(where, features, options.label_column, ("label", "labels"))
    if label is None or (image is None and text is None):
        has = "label or labels" if label is None else "image nor text"
        raise DataError(f"has no column {has}: {_listed(features)}", where=where, fix=_OPTIONS)
    chosen = [name for name in (image, text, label) if name is not None]
    if len(set(chosen)) < len(chosen):
        twice = max(chosen, key=chosen.count)
        what = f"column {twice!r} would be read as two things: {_listed(features)}"
        raise DataError(what, where=where, fix=_OPTIONS)
    if image is not None:
        _check_image(where, features, image)
    if text is not None and not _is_string(_arrow_type(features, text)):
        _refuse(where, features, text, "a string")
    return Columns(image, text, label, *_label_type(where, features, label))


def _column(
    where: str, features: datasets.Features, named: str | None, usual: tuple[str, ...]
) -> str | None:
    if named is not None:
        if named not in features:
            what = f"has no column {named!r}: {_listed(features)}"
            raise DataError(what, where=where, fix=_OPTIONS)
        return named
    found = [name for name in usual if name in features]
    if len(found) > 1:
        what = f"has columns {' and '.join(found)}: {_listed(features)}"
        raise DataError(what, where=where, fix="Choose one with --label-column")
    return found[0] if found else None


def _check_image(where: str, features: datasets.Features, name: str) -> None:
    feature, kind = features[name], _arrow_type(features, name)
    is_struct = pa.types.is_struct(kind) and all(
        _is_string(field.type) or _is_binary(field.type)
        for field in kind
        if field.name in ("bytes", "path")
    )
    has_image = is_struct and {field.name for field in kind} & {"bytes", "path"}
    if not (isinstance(feature, datasets.Image) or has_image or _is_binary(kind)) and (
        not _is_string(kind)
    ):
        _refuse(where, features, name, "an image, bytes or a path")


def _label_type(
    where: str, features: datasets.Features, name: str
) -> tuple[bool, tuple[str, ...] | None]:
    feature, kind = features[name], _arrow_type(features, name)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list:
        kind = kind.value_type
        feature = feature[0] if isinstance(feature, list) else feature.feature
    if isinstance(feature, datasets.ClassLabel):
        return is_list, tuple(feature.names)
    if not _is_string(kind) and not pa.types.is_integer(kind):
        _refuse(where, features, name, "a class, a string or an integer, or a list of these")
    return is_list, None


def _refuse(where: str, features: Mapping[str, object], name: str, wanted: str) -> None:
    what = f"column {name!r} is not {wanted}: {_listed(features)}"
    raise DataError(what, where=where, fix=_OPTIONS)


def _listed(features: Mapping[str, object]) -> str:
    """Return the columns and their types, as a message shows them."""
    listed = ", ".join(
        f"{name} ({_kind(feature)})" for name, feature in list(features.items())[:20]
    )
    return f"it has {listed}" if listed else "it has none"


def _kind(feature: object) -> str:
    if isinstance(feature, datasets.Value):
        return str(feature.dtype)
    return type(feature).__name__


def _arrow_type(features: datasets.Features, name: str) -> pa.DataType:
    return features.arrow_schema.field(name).type


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
