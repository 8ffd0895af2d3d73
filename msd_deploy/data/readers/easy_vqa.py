"""easy-vqa: coloured shapes with questions, from the PyPI package easy-vqa (extra `demo`).

Images, questions and answers as published; its test split is kept for testing. The package
publishes no validation split: a tenth of its training images, by hash, serve as one.
"""

from collections.abc import Iterator
from pathlib import Path

import datasets

from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.data.source import DatasetInfo, SourceData, SourceRow, build_split, hash_fraction
from msd_deploy.errors import DataError, RuntimeUnavailableError

NAME = "easy-vqa"
_VALIDATION_SHARE = 0.1
_INSTALL = 'Install it with `pip install "msd-deploy[demo]"`'


def load_easy_vqa() -> SourceData:
    """Read the installed package.

    Returns:
        38,575 training questions about 4,000 images, of which a tenth of the images with all
        their questions is validation, and 9,673 test questions about 1,000; 13 answers.

    Raises:
        RuntimeUnavailableError: The package is not installed.
        DataError: Its files are incomplete.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise RuntimeUnavailableError("easy-vqa is not installed", fix=_INSTALL) from error
    try:
        labels = tuple(str(answer) for answer in easy_vqa.get_answers())
        published = [
            *_rows(
                "train", easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths(), labels
            ),
            *_rows("test", easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths(), labels),
        ]
    except (OSError, ValueError, KeyError) as error:
        what = f"the package's files are incomplete or altered ({error!r})"
        raise DataError(what, where="easy-vqa", fix="Reinstall easy-vqa") from error
    splits: dict[str, list[SourceRow]] = {"train": [], "validation": [], "test": []}
    for split, row in published:
        splits[split].append(row)
    dataset = datasets.DatasetDict(
        {
            name: build_split(rows, labels=labels, problem="single_label")
            for name, rows in splits.items()
        }
    )
    return SourceData(dataset, DatasetInfo(labels, "single_label", notes=(_sizes(splits),)))


def _rows(
    published: str,
    questions: tuple[list[str], list[str], list[int]],
    image_paths: dict[int, str],
    labels: tuple[str, ...],
) -> Iterator[tuple[str, SourceRow]]:
    paths = {image: Path(name).resolve() for image, name in image_paths.items()}
    digests = {image: sha256_of_file(path) for image, path in paths.items()}
    for index, (question, answer, image) in enumerate(zip(*questions, strict=True)):
        digest = digests[image]
        held_out = published == "train" and hash_fraction(digest) < _VALIDATION_SHARE
        row = SourceRow(
            image_path=str(paths[image]),
            image_bytes=None,
            image_sha256=digest,
            text=question,
            labels=(labels.index(answer),),
            origin=f"easy-vqa/{published}:{index}",
        )
        yield "validation" if held_out else published, row


def _sizes(splits: dict[str, list[SourceRow]]) -> str:
    parts = ", ".join(
        f"{name} {len(rows):,} about {len({row.image_sha256 for row in rows}):,}"
        for name, rows in splits.items()
    )
    return f"questions about images: {parts}; validation is taken from the published training set"
