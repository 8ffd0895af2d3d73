"""Published data sets in miniature: folders in exactly the forms in which they are published."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.data.synthetic.drawing import encode_png

WriteFolder = Callable[[str], Path]

SIZES = {"train": 12, "dev": 4, "test": 4}


def write_picture(path: Path, number: int) -> None:
    """Write an image that differs by number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.full((4, 4, 3), number, np.uint8)))


def write_lines(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def numbers(split: str) -> range:
    """The numbers of a split's records, which no other split has."""
    first = {"train": 100, "dev": 120, "test": 130}[split]
    return range(first, first + SIZES[split])


def write_memes_file(folder: Path, name: str, split: str, *, with_labels: bool = True) -> None:
    records = []
    for number in numbers(split):
        write_picture(folder / f"img/{number:05d}.png", number)
        record: dict[str, object] = {"id": number, "img": f"img/{number:05d}.png"}
        if with_labels:
            record["label"] = number % 2
        records.append({**record, "text": f"meme {number}"})
    write_lines(folder / name, records)


def second_edition(folder: Path) -> None:
    for split, name in (("train", "train"), ("dev", "dev_seen"), ("test", "test_seen")):
        write_memes_file(folder, f"{name}.jsonl", split)


def first_edition(folder: Path) -> None:
    """Ids are strings there, and the test set has no labels."""
    for split in SIZES:
        write_memes_file(folder, f"{split}.jsonl", split, with_labels=split != "test")
        lines = (folder / f"{split}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        write_lines(
            folder / f"{split}.jsonl", [{**item, "id": f"{item['id']:05d}"} for item in records]
        )


def entailment(folder: Path, key: str | None) -> None:
    for split in SIZES:
        records = []
        for number in numbers(split):
            write_picture(folder / f"flickr30k_images/{number}.jpg", number)
            picture = str(number) if key == "Flickr30K_ID" else f"{number}.jpg"
            records.append(
                {
                    "annotator_labels": ["neutral"],
                    "captionID": f"{number}.jpg#0",
                    "gold_label": ("entailment", "neutral", "contradiction")[number % 3],
                    "pairID": f"{number}.jpg#0r1n",
                    "sentence1": f"a caption that tells all of {number}",
                    "sentence2": f"hypothesis {number}",
                    **({} if key is None else {key: picture}),
                }
            )
        write_lines(folder / f"snli_ve_{split}.jsonl", records)


def films(folder: Path) -> None:
    splits = {split: [f"{number:07d}" for number in numbers(split)] for split in SIZES}
    (folder / "split.json").write_text(json.dumps(splits))
    for split in SIZES:
        for number in numbers(split):
            write_picture(folder / f"dataset/{number:07d}.jpeg", number)
            genres = ["Drama", ("Comedy", "War", "News")[number % 3]]
            film = {"title": "x", "plot": ["short", f"the longest plot {number}"], "genres": genres}
            (folder / f"dataset/{number:07d}.json").write_text(json.dumps(film))


def converted_films(folder: Path) -> None:
    for split in SIZES:
        records = []
        for number in numbers(split):
            write_picture(folder / f"dataset/{number:07d}.jpeg", number)
            records.append(
                {
                    "id": f"{number:07d}",
                    "text": f"plot {number}",
                    "image": f"dataset/{number:07d}.jpeg",
                    "label": ["Drama", ("Comedy", "War")[number % 2]],
                }
            )
        write_lines(folder / f"{split}.jsonl", records)


@pytest.fixture
def write_published(tmp_path: Path) -> WriteFolder:
    """Write a folder of a published form, by name; return it. 12, 4 and 4 records."""
    forms: dict[str, Callable[[Path], None]] = {
        "hateful-memes": second_edition,
        "hateful-memes, first edition": first_edition,
        "snli-ve": lambda folder: entailment(folder, "Flickr30K_ID"),
        "snli-ve, first edition": lambda folder: entailment(folder, "Flikr30kID"),
        "snli-ve, pairID alone": lambda folder: entailment(folder, None),
        "mm-imdb": films,
        "mm-imdb, converted": converted_films,
    }

    def write(form: str) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        forms[form](folder)
        return folder

    return write
