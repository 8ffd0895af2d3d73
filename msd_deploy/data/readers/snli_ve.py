"""SNLI-VE, visual entailment (Xie et al. 2019, arXiv 1901.06706), as published.

snli_ve_{train,dev,test}.jsonl in the folder itself, in annotations/ or in data/; Flickr30k's
images in flickr30k_images/ or flickr30k-images/. The text is the hypothesis, sentence2, alone:
sentence1 is a caption of the image, and would tell what only the image should.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msd_deploy.data.readers.published import (
    LONGEST_ID,
    Example,
    PublishedRows,
    find_folder,
    need_file,
    need_image,
    need_string,
    open_folder,
)
from msd_deploy.data.readers.rows import (
    ImageFiles,
    UnusableRowError,
    check_characters,
    parse_text,
    shown,
    type_name,
)
from msd_deploy.data.source import DatasetInfo, SourceData, Split
from msd_deploy.errors import DataError

NAME = "snli-ve"
LABELS = ("entailment", "neutral", "contradiction")
# As the files call the image: the second edition, the first (sic), and the documentation.
_IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")
_IMAGE_FOLDERS = ("flickr30k_images/flickr30k_images", "flickr30k_images", "flickr30k-images")
_SPLITS: Mapping[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_SUFFIX = ".jpg"


def load_snli_ve(location: str, *, strict: bool) -> SourceData:
    """Read the folder of SNLI-VE; its splits are kept.

    Args:
        location: The folder.
        strict: A row that cannot be used is an error.

    Raises:
        DataError: The folder is not the published one; with strict, a row cannot be used.
    """
    folder = open_folder(NAME, location)
    files = {name: need_file(folder, _places(name)) for name in _SPLITS}
    images = find_folder(folder, _IMAGE_FOLDERS)
    if images is None:
        what = "holds no folder flickr30k_images or flickr30k-images"
        raise DataError(what, where=folder, fix="Put Flickr30k's images there")
    image_files = ImageFiles(images, root=folder)
    found = PublishedRows()
    for name, split in _SPLITS.items():
        found.read_file(files[name], split, partial(_example, image_files))
    return found.source(folder, DatasetInfo(LABELS, "single_label"), strict=strict)


def _places(name: str) -> list[str]:
    file = f"snli_ve_{name}.jsonl"
    return [file, str(Path("annotations") / file), str(Path("data") / file)]


def _example(image_files: ImageFiles, values: Mapping[str, object]) -> Example:
    pair = check_characters(need_string(values, "pairID"), "pairID")
    if not pair or len(pair) > LONGEST_ID:
        raise UnusableRowError(f"pairID {shown(pair)} is not an id")
    label = need_string(values, "gold_label")
    if label == "-":
        raise UnusableRowError("has no gold_label (its annotators disagree)")
    if label not in LABELS:
        raise UnusableRowError(f"unknown gold_label {shown(label)}")
    text = parse_text(need_string(values, "sentence2"), "sentence2")
    if text is None:
        raise UnusableRowError("sentence2 is empty")
    key, name = _image_name(values, pair)
    return Example(pair, need_image(image_files.find(name, key=key), key), text, (label,))


def _image_name(values: Mapping[str, object], pair: str) -> tuple[str, str]:
    """Return the key that names the image, and its file's name."""
    for key in _IMAGE_KEYS:
        value = values.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise UnusableRowError(f"{key} is {type_name(value)}, not a string")
        name = str(value)
        return key, name if not name or name.endswith(_SUFFIX) else f"{name}{_SUFFIX}"
    stem, suffix, _ = pair.partition(_SUFFIX)
    if not suffix:
        raise UnusableRowError(f"has no {_IMAGE_KEYS[0]}, and its pairID names no image")
    return "pairID", f"{stem}{_SUFFIX}"
