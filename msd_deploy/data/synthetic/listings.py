"""A generated task whose examples differ in which modality can be relied on: listings.

Made for weights that differ from example to example; the other tasks are in `tasks`.
"""

import numpy as np

from msd_deploy.data.synthetic.drawing import COLOURS, NOTHING, IntArray, code_of, codes_without
from msd_deploy.data.synthetic.tasks import Draw, flip_labels, pick

LISTINGS_LABELS = ("bag", "chair", "clock", "kettle", "lamp", "shoe")
LISTINGS_AMBIGUITY = 0.05
LISTINGS_RELIABLE = ((True, True), (True, False), (False, True))
"""Whether the image and the title are the listing's own."""
LISTINGS_CHANCES = (0.35, 0.20, 0.45)
_ADMITTED = 0.5
NO_MARK, MARKED, VOUCHED = 0, 1, 2
"""Mark of a view on itself or on the other: none, unreliable, or reliable."""
STAMP, SEAL = code_of("cross", "white"), code_of("ring", "white")
"""Marks in an image: it is not the listing's own; the title is not, and the image is."""
_WORDS = (
    ("handbag", "satchel", "backpack"),
    ("armchair", "stool", "bench"),
    ("clock", "watch", "alarm"),
    ("kettle", "teapot", "jug"),
    ("lamp", "lantern", "torch"),
    ("sneaker", "boot", "sandal"),
)
_ADJECTIVES = ("nice", "old", "new", "small", "large", "rare", "cheap", "plain")
_PLACES = ("from a smoke free home", "pick up only", "must go today", "no returns", "barely used")
_TEMPLATES = (
    "{adjective} {item} {place}",
    "{item} {adjective} {place}",
    "{place} {adjective} {item}",
)
_OWN_TITLE_IS_WRONG = ("and assorted things", "or similar", "various items")
_IMAGE_IS_WRONG = ("photo of another item", "not as pictured", "picture is a stand in")


def draw_listings(
    rng: np.random.Generator, size: int, ambiguity: float = LISTINGS_AMBIGUITY
) -> Draw:
    """Draw listings of a market: an image and a title of one of 6 products, or of two.

    Both are the product's own in 35 % of the listings; in 45 % the image is another product's, in
    20 % the title is. Half of the wrong ones admit it themselves (a stamp in the image, a phrase
    in the title), the others are revealed by the right one (a phrase in the title, a seal in the
    image), so that both together always show which of the two to follow. Then `ambiguity` of all
    labels, in every split, are flipped.
    """
    product = rng.integers(0, len(LISTINGS_LABELS), size)
    reliable = np.array(LISTINGS_RELIABLE)[rng.choice(3, size, p=LISTINGS_CHANCES)]
    is_own_image, is_own_title = reliable.T
    shift = rng.integers(1, len(LISTINGS_LABELS), (2, size))
    shown = np.where(is_own_image, product, (product + shift[0]) % len(LISTINGS_LABELS))
    named = np.where(is_own_title, product, (product + shift[1]) % len(LISTINGS_LABELS))
    admits = rng.random(size) < _ADMITTED
    image_mark = np.select(
        [~is_own_image & admits, ~is_own_title & ~admits], [MARKED, VOUCHED], NO_MARK
    )
    text_mark = np.select(
        [~is_own_title & admits, ~is_own_image & ~admits], [MARKED, VOUCHED], NO_MARK
    )
    return Draw(
        objects=_images(rng, shown, image_mark),
        image_index=np.arange(size),
        texts=tuple(
            _title(rng, int(item), int(mark)) for item, mark in zip(named, text_mark, strict=True)
        ),
        labels=flip_labels(product, ambiguity, len(LISTINGS_LABELS), rng),
        image_cues=shown * 3 + image_mark,
        text_cues=named * 3 + text_mark,
    )


def motif_of(product: IntArray) -> IntArray:
    """Return the shape and colour by which an image shows a product."""
    return product * len(COLOURS) + product


def _images(rng: np.random.Generator, shown: IntArray, mark: IntArray) -> IntArray:
    motifs = motif_of(np.arange(len(LISTINGS_LABELS)))
    objects = rng.choice(codes_without(np.concatenate([motifs, [STAMP, SEAL]])), (len(shown), 16))
    objects[np.arange(16) >= rng.integers(5, 9, (len(shown), 1))] = NOTHING
    objects[:, 0] = motif_of(shown)
    objects[:, 1] = np.select([mark == MARKED, mark == VOUCHED], [STAMP, SEAL], objects[:, 1])
    return rng.permuted(objects, axis=1)


def _title(rng: np.random.Generator, product: int, mark: int) -> str:
    title = pick(rng, _TEMPLATES).format(
        adjective=pick(rng, _ADJECTIVES), item=pick(rng, _WORDS[product]), place=pick(rng, _PLACES)
    )
    if mark == NO_MARK:
        return title
    phrase = pick(rng, _OWN_TITLE_IS_WRONG if mark == MARKED else _IMAGE_IS_WRONG)
    return f"{title} {phrase}" if rng.integers(2) else f"{phrase} {title}"
