"""Small pictures that stand in a page itself, as data URIs."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from msd_deploy.data.images import decode_image
from msd_deploy.report.answers import RunAnswers
from msd_deploy.report.schema import ExamplesJson

SIDE = 192
"""Longest side in pixels: sharp at half of it on a fine screen."""
_QUALITY = 82


def thumbnails_of(answers: RunAnswers, examples: ExamplesJson) -> dict[int, str]:
    """Return a data URI for each example that is shown, by its row.

    The original picture is reduced; a user sees more in it than in a model's few pixels.
    """
    rows = answers.source.dataset[answers.split]
    return {
        example["row"]: thumbnail(_picture(rows, int(answers.rows.source_rows[example["row"]])))
        for example in examples["shown"]
    }


def _picture(rows: datasets.Dataset, row: int) -> Image.Image:
    source: Mapping[str, object] = rows[row]
    content, path = source["image_bytes"], source["image_path"]
    return decode_image(content if isinstance(content, bytes) else Path(str(path)))


def thumbnail(picture: Image.Image) -> str:
    """Return an RGB picture, at most SIDE pixels high and wide, as a JPEG in a data URI."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    # Pixels alone: a photograph's own comments, place and time do not go into a report.
    Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
