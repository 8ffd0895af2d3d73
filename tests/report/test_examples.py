import base64
import io

import numpy as np
import pytest
from PIL import Image

from msd_deploy.report.examples import SIDE, decision_of, kinds_of, strongest, thumbnail
from msd_deploy.views import View


def _logits(*decided: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[list(decided)]


def test_a_modality_decides_where_it_alone_leads_to_the_multimodal_decision() -> None:
    teacher = {
        View.MULTIMODAL: _logits(1, 1, 1, 1, 1),
        View.IMAGE: _logits(1, 0, 0, 1, 1),
        View.TEXT: _logits(0, 1, 2, 1, 0),
    }
    has_both = np.array([True, True, True, True, False])
    kinds = kinds_of(teacher, "single_label", has_both)
    found = {kind: rows.nonzero()[0].tolist() for kind, rows in kinds.items()}
    assert found == {"image": [0], "text": [1], "both": [2], "either": [3]}


def test_several_labels_are_one_decision() -> None:
    teacher = {
        View.MULTIMODAL: np.array([[1, -1], [1, 1]], np.float32),
        View.IMAGE: np.array([[2, -2], [1, -1]], np.float32),
        View.TEXT: np.array([[-1, -1], [3, 3]], np.float32),
    }
    kinds = kinds_of(teacher, "multi_label", np.ones(2, bool))
    assert kinds["image"].tolist() == [True, False]
    assert kinds["text"].tolist() == [False, True]


def test_the_strongest_rows_are_shown_each_with_another_image() -> None:
    found = np.array([True, True, False, True, True, True])
    strength = np.array([1.0, 5.0, 9.0, 4.0, 1.0, 3.0])
    pictures = np.array([0, 7, 1, 7, 2, 3])
    assert strongest(found, strength, pictures, most=3) == [1, 5, 0]
    assert strongest(found, strength, pictures, most=9) == [1, 5, 0, 4]


def test_a_decision_is_the_decided_classes_with_their_probability() -> None:
    logits = np.log(np.array([0.3, 0.7], np.float32))
    single = decision_of(logits, np.array([False, True]), ("a", "b"), "single_label")
    assert single == {"labels": ["b"], "probability": [0.7]}
    several = decision_of(
        np.array([0.0, np.log(3), -1], np.float32),
        np.array([True, True, False]),
        ("a", "b", "c"),
        "multi_label",
    )
    assert several == {"labels": ["a", "b"], "probability": [0.5, 0.75]}


def test_a_decision_for_no_class_has_the_highest_probability() -> None:
    logits = np.array([-np.log(3), -9], np.float32)
    none = decision_of(logits, np.array([False, False]), ("a", "b"), "multi_label")
    assert none == {"labels": [], "probability": [0.25]}


@pytest.mark.parametrize("size", [(48, 48), (1000, 20), (300, 900)])
def test_a_thumbnail_is_small_and_carries_pixels_alone(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "teal")
    picture.info["comment"] = b"where it was taken"
    uri = thumbnail(picture)
    assert uri.startswith("data:image/jpeg;base64,")
    content = base64.b64decode(uri.partition(",")[2])
    assert b"where it was taken" not in content
    shown = Image.open(io.BytesIO(content))
    assert max(shown.size) == min(SIDE, max(size))
    assert not shown.getexif()
    assert picture.size == size
