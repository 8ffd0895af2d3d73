"""A Hugging Face dataset, opened without running any of its code: hub:NAME and hub:FOLDER.

`datasets` reads plain data files (parquet, JSON, CSV, Arrow, folders of pictures) into Arrow files
of its cache, which are memory-mapped. A dataset that needs a script or a reader that could run code
is refused, and so are data files that lie outside a local folder. Which column means what is
`hub_rows`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub.constants import HF_HUB_CACHE

from msd_deploy.artifacts import sha256_of_file, sha256_of_json
from msd_deploy.data.rows import shown
from msd_deploy.errors import DataError

PREFIX = "hub:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_READERS = ("parquet", "json", "csv", "arrow", "imagefolder")
_TABLES = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".arrow")
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
        splits: By the dataset's own names; memory-mapped, pictures as they are encoded.
        folders: Where pictures that are files may lie.
    """

    stated: str
    splits: Mapping[str, datasets.Dataset]
    folders: tuple[Path, ...]


def open_hub_dataset(stated: str) -> HubDataset:
    """Open a dataset; what an earlier call read is used again.

    A local folder's files are known by their digests. One of the hub is downloaded, or found in the
    cache of `datasets`.

    Args:
        stated: What stands after `hub:`.

    Raises:
        DataError: There is no such dataset, it needs code or files elsewhere, or it cannot be read.
    """
    name, spec = hub_name(stated), f"{PREFIX}{stated}"
    if name.is_folder and not _is_there(name.place):
        raise DataError("no such folder, and no name on the hub", where=shown(stated), fix=_FORM)
    with _reading(spec):
        builder = datasets.load_dataset_builder(name.place, name.configuration)
    _refuse_reader(spec, builder.__class__.__module__)
    files = [file for found in (builder.config.data_files or {}).values() for file in found]
    if name.is_folder:
        _refuse_outside(spec, Path(name.place), files)
        cache = _cache_of(files)
        with _reading(spec):
            builder = datasets.load_dataset_builder(
                name.place, name.configuration, cache_dir=str(cache)
            )
        folders: tuple[Path, ...] = (Path(name.place),)
    else:
        _refuse_elsewhere(spec, files)
        folders = (Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE))
    with _reading(spec):
        builder.download_and_prepare()
        splits = {str(split): builder.as_dataset(split=split) for split in builder.info.splits}
    return HubDataset(spec, splits, folders)


@contextmanager
def _reading(spec: str) -> Iterator[None]:
    """Turn whatever the library raises into one error, and keep its bars off the screen."""
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    # Its readers raise whatever the libraries of their formats raise.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:400].rstrip(".")
        if "scripts are no longer supported" in reason:
            what = "needs a script of its own, and none is ever run"
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

    Pictures are no part of a table: rows name them, and they are read from where they lie.
    """
    known = [
        [file, sha256_of_file(Path(file)) if Path(file).suffix.lower() in _TABLES else ""]
        for file in sorted(files)
    ]
    return Path(datasets.config.HF_DATASETS_CACHE) / "msd-deploy" / sha256_of_json(known)
