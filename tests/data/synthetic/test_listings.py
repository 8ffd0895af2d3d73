import numpy as np

from msd_deploy.data.synthetic import listings
from msd_deploy.data.synthetic.drawing import NOTHING
from msd_deploy.data.synthetic.listings import (
    LISTINGS_LABELS,
    MARKED,
    NO_MARK,
    SEAL,
    STAMP,
    VOUCHED,
    draw_listings,
    motif_of,
)
from msd_deploy.data.synthetic.tasks import Draw

MOTIFS = motif_of(np.arange(len(LISTINGS_LABELS))).tolist()


def drawn(size: int, ambiguity: float = 0.0) -> Draw:
    return draw_listings(np.random.default_rng(0), size, ambiguity)


def read_picture(codes: list[int]) -> tuple[int, int]:
    """Return the product that an image shows, and what it says of itself, by looking at it."""
    (product,) = [MOTIFS.index(code) for code in codes if code in MOTIFS]
    return product, MARKED if STAMP in codes else VOUCHED if SEAL in codes else NO_MARK


def read_title(text: str) -> tuple[int, int]:
    """Return the product that a title names, and what it says, by reading it."""
    words = text.split()
    (product,) = [
        at for at, own in enumerate(listings._WORDS) if any(word in own for word in words)
    ]
    admits = any(phrase in text for phrase in listings._OWN_TITLE_IS_WRONG)
    tells = any(phrase in text for phrase in listings._IMAGE_IS_WRONG)
    return product, MARKED if admits else VOUCHED if tells else NO_MARK


def test_a_listings_cues_can_be_read_off_its_image_and_title() -> None:
    draw = drawn(2000)
    for row in range(2000):
        product, mark = read_picture(draw.objects[row].tolist())
        assert product * 3 + mark == draw.image_cues[row]
        product, mark = read_title(draw.texts[row])
        assert product * 3 + mark == draw.text_cues[row]
    assert set((draw.objects != NOTHING).sum(axis=1).tolist()) <= {5, 6, 7, 8}
    assert max(len(text.split()) for text in draw.texts) <= 12


def test_the_multimodal_view_always_shows_which_modality_to_follow() -> None:
    draw = drawn(5000)
    shown, of_image = np.divmod(draw.image_cues, 3)
    named, of_text = np.divmod(draw.text_cues, 3)
    follow_image = (of_image == VOUCHED) | (of_text == MARKED)
    follow_text = (of_text == VOUCHED) | (of_image == MARKED)
    assert not (follow_image & follow_text).any()
    np.testing.assert_array_equal(draw.labels[follow_image], shown[follow_image])
    np.testing.assert_array_equal(draw.labels[follow_text], named[follow_text])
    both = ~follow_image & ~follow_text
    np.testing.assert_array_equal(shown[both], named[both])
    np.testing.assert_array_equal(draw.labels[both], shown[both])


def test_each_modality_is_relied_on_as_often_as_stated() -> None:
    draw = drawn(40_000)
    # Three standard deviations of a share of 40,000 are .0075 at most.
    assert abs((draw.image_cues // 3 == draw.labels).mean() - 0.55) < 0.0075
    assert abs((draw.text_cues // 3 == draw.labels).mean() - 0.80) < 0.0075
