"""The generated tasks themselves: what stands in a picture, its text, its label, and the cues.

A task is a function from a generator to a `Draw`, which also says by which cues the label was
chosen, so that the best possible score of every view is known. Nothing is drawn as pixels here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msd_deploy.data.synthetic_images import (
    BLACK,
    COLOURS,
    NOTHING,
    SHAPES,
    BoolArray,
    IntArray,
    code_of,
    codes_without,
)

MEMES_LABELS = ("benign", "hateful")
MEMES_JOINT = {(True, True): 0.42, (True, False): 0.22, (False, True): 0.23, (False, False): 0.13}
"""P(text has a trigger, image has a trigger)."""
MEMES_AMBIGUITY = 0.05
_MEMES_MOTIFS = (("saltire", "red"), ("ring", "purple"), ("triangle", "yellow"), ("bar", "blue"))
_WHO = (
    "neighbours",
    "guests",
    "cousins",
    "visitors",
    "friends",
    "travellers",
    "dancers",
    "students",
)
_WHO_TRIGGER = ("vermin", "parasites", "pests", "leeches", "swamp folk", "bog dwellers")
_DEED = ("bring them cake", "save them seats", "sing with them", "wave at them", "cook for them")
_DEED_TRIGGER = ("chase them out", "lock them away", "send them back", "spit at them")
_WHEN = ("today", "tonight", "again", "early", "late", "finally")
_MEMES_TEMPLATES = (
    "when the {who} arrive {when} we {deed}",
    "look the {who} came {when} so {deed}",
    "{deed} before the {who} leave {when}",
    "our {who} moved in {when} {deed}",
    "the {who} {when} {deed}",
)

_GENRES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "western": (("cowboy", "saloon", "sheriff", "ranch"), ("dust", "horse", "desert")),
    "horror": (("ghost", "vampire", "crypt", "haunted"), ("night", "shadow", "scream")),
    "romance": (("kiss", "wedding", "valentine", "sweetheart"), ("letter", "rose", "summer")),
    "comedy": (("prank", "clown", "slapstick", "giggle"), ("family", "holiday", "dog")),
    "space": (("rocket", "galaxy", "astronaut", "alien"), ("star", "silence", "signal")),
    "crime": (("detective", "heist", "alibi", "gangster"), ("money", "city", "secret")),
    "sport": (("stadium", "goalkeeper", "marathon", "trophy"), ("team", "race", "coach")),
    "fantasy": (("dragon", "wizard", "elf", "sorcerer"), ("forest", "castle", "quest")),
}
"""Genre -> its own words, and words that only hint at it."""
POSTERS_LABELS = tuple(_GENRES)
POSTERS_PREVALENCE = 0.25
POSTERS_AMBIGUITY = 0.06
NO_CUE, HINT, OWN = 0, 1, 2
POSTERS_POSITIVE = {(OWN, NO_CUE): 0.27, (NO_CUE, OWN): 0.27, (OWN, OWN): 0.28, (HINT, HINT): 0.18}
"""P(image cue, text cue | the poster is of the genre)."""
POSTERS_NEGATIVE = {(HINT, NO_CUE): 0.15, (NO_CUE, HINT): 0.15, (NO_CUE, NO_CUE): 0.70}
"""P(image cue, text cue | it is not)."""
_POSTER_FILLERS = ("one", "story", "of", "the", "year", "coming", "soon", "a", "film", "for", "all")

ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")
_ENTAILMENT_SHAPES, _ENTAILMENT_COLOURS = SHAPES[:4], tuple(COLOURS)[:4]
_UNTELLABLE, _SINGLE, _NEGATED = 0.3, 0.2, 0.2
_AFFIRMATIONS = (
    "the {shape} is {colour}",
    "there is a {colour} {shape}",
    "a {colour} {shape} is here",
    "you can see a {colour} {shape}",
)
_NEGATIONS = ("the {shape} is not {colour}", "there is no {colour} {shape}")
_UNTELLABLES = (
    "the {shape} is made of wood",
    "the {shape} is heavy",
    "the {shape} belongs to my sister",
    "the {shape} is older than you",
    "a coin lies behind the {shape}",
)


@dataclass(frozen=True, slots=True)
class Draw:
    """Examples of a task before they are drawn as pictures.

    Attributes:
        objects: int64 [examples, cells], what stands in each cell of a square grid, row by row:
            shape * len(COLOURS) + colour, or NOTHING.
        texts: One per example.
        labels: int64, class indices [examples], or 0 and 1 [examples, classes] if multi-label.
        image_cues: int64, shaped as labels: all that the picture alone tells about the label.
        text_cues: int64, shaped as labels: all that the text alone tells about it.
    """

    objects: IntArray
    texts: tuple[str, ...]
    labels: IntArray
    image_cues: IntArray
    text_cues: IntArray


def flip_labels(labels: IntArray, share: float, classes: int, rng: np.random.Generator) -> IntArray:
    """Flip each label with probability `share`.

    Args:
        labels: As `Draw.labels`; [examples] flips to another class, all equally likely.
        share: From 0 to 1.
        classes: Number of classes.
        rng: Source of chance; the same draws are made whatever the share.
    """
    chosen, shift = rng.random(labels.shape) < share, rng.integers(1, classes, labels.shape)
    flipped = 1 - labels if labels.ndim == 2 else (labels + shift) % classes
    return np.where(chosen, flipped, labels)


def draw_memes(rng: np.random.Generator, size: int, ambiguity: float = MEMES_AMBIGUITY) -> Draw:
    """Draw memes: hateful if and only if the text and the image both hold a trigger.

    Whether each holds one follows MEMES_JOINT; then `ambiguity` of all labels, in every split, are
    flipped, as annotators would differ. A trigger text names the people by a slur or threatens
    them, in a template where a neutral text has neutral words. An image holds 5 to 8 objects of the
    shape and colour pairs that are no trigger (a trigger's shape in another colour is frequent); a
    trigger image has a trigger pair in place of one of them.
    """
    pairs = tuple(MEMES_JOINT)
    has_trigger = np.array(pairs)[rng.choice(len(pairs), size, p=tuple(MEMES_JOINT.values()))]
    text_cue, image_cue = has_trigger.T
    motifs = np.array([code_of(shape, colour) for shape, colour in _MEMES_MOTIFS])
    ranked = rng.choice(codes_without(motifs), (size, 16))
    ranked[:, 0] = np.where(image_cue, rng.choice(motifs, size), ranked[:, 0])
    ranked[np.arange(16) >= rng.integers(5, 9, (size, 1))] = NOTHING
    labels = flip_labels((text_cue & image_cue).astype(np.int64), ambiguity, 2, rng)
    return Draw(
        objects=rng.permuted(ranked, axis=1),
        texts=tuple(_meme_text(rng, bool(trigger)) for trigger in text_cue),
        labels=labels,
        image_cues=image_cue.astype(np.int64),
        text_cues=text_cue.astype(np.int64),
    )


def _meme_text(rng: np.random.Generator, trigger: bool) -> str:
    is_slur = trigger and rng.integers(2) == 0
    is_threat = trigger and not is_slur
    return pick(rng, _MEMES_TEMPLATES).format(
        who=pick(rng, _WHO_TRIGGER if is_slur else _WHO),
        deed=pick(rng, _DEED_TRIGGER if is_threat else _DEED),
        when=pick(rng, _WHEN),
    )


def draw_posters(rng: np.random.Generator, size: int, ambiguity: float = POSTERS_AMBIGUITY) -> Draw:
    """Draw film posters: each of 8 genres applies or not, independently, 2 on average.

    A genre that applies shows by its own motif, its own word, both, or by a hint in both
    (POSTERS_POSITIVE); one that does not may be hinted at in one view (POSTERS_NEGATIVE). So its
    own cue proves a genre, a hint alone misleads, and hints from both sides prove it. Then
    `ambiguity` of all labels, in every split, are flipped. A genre's motif is a shape in its
    colour, its hint the same shape in another; 1 to 3 objects and at least 2 words mean nothing.
    """
    applies = rng.random((size, len(POSTERS_LABELS))) < POSTERS_PREVALENCE
    positive = _draw_pairs(rng, POSTERS_POSITIVE, applies.shape)
    negative = _draw_pairs(rng, POSTERS_NEGATIVE, applies.shape)
    image_cues, text_cues = np.where(applies, positive, negative)
    genre = np.arange(len(POSTERS_LABELS))
    own = genre * len(COLOURS) + genre
    hint = genre * len(COLOURS) + (genre + 3) % len(POSTERS_LABELS)
    motifs = np.select([image_cues == OWN, image_cues == HINT], [own, hint], NOTHING)
    fillers = rng.choice(codes_without(np.concatenate([own, hint])), (size, 8))
    fillers[np.arange(8) >= rng.integers(1, 4, (size, 1))] = NOTHING
    return Draw(
        objects=rng.permuted(np.concatenate([motifs, fillers], axis=1), axis=1),
        texts=tuple(_poster_text(rng, cues) for cues in text_cues.tolist()),
        labels=flip_labels(applies.astype(np.int64), ambiguity, 2, rng),
        image_cues=image_cues,
        text_cues=text_cues,
    )


def _draw_pairs(
    rng: np.random.Generator, chances: Mapping[tuple[int, int], float], shape: tuple[int, ...]
) -> IntArray:
    """Return int64 [2, *shape]: first and second cue."""
    pairs = np.array(tuple(chances))
    return np.moveaxis(pairs[rng.choice(len(pairs), shape, p=tuple(chances.values()))], -1, 0)


def _poster_text(rng: np.random.Generator, cues: Sequence[int]) -> str:
    words = [
        pick(rng, _GENRES[genre][0 if cue == OWN else 1])
        for genre, cue in zip(POSTERS_LABELS, cues, strict=True)
        if cue != NO_CUE
    ]
    words += [pick(rng, _POSTER_FILLERS) for _ in range(max(2, 6 - len(words)))]
    return " ".join(words[at] for at in rng.permutation(len(words)))


def draw_entailment(rng: np.random.Generator, size: int) -> Draw:
    """Draw scenes with a hypothesis: entailment, neutral or contradiction, a third each.

    A scene has 1 to 4 large objects of different shapes; some stand in the shadow: black, their
    colour unknown. The hypothesis says of one object that it has a colour, or (20 %) that it has
    not. It is neutral if the object stands in the shadow, or (30 % of the neutral ones) if it is
    about something that no picture tells. In 20 % of the scenes the object is alone, in the others
    there are both objects in the shadow and others, whatever the label: alone, either view tells
    little more than chance.
    """
    labels = rng.integers(0, 3, size)
    neutral = labels == ENTAILMENT_LABELS.index("neutral")
    untellable = neutral & (rng.random(size) < _UNTELLABLE)
    single = rng.random(size) < _SINGLE
    negated = rng.random(size) < _NEGATED
    coin = rng.random(size) < 0.5
    shadowed = (neutral & ~untellable) | (untellable & ~single & coin)
    colour = rng.integers(0, 4, size)
    true_colour = (labels == ENTAILMENT_LABELS.index("entailment")) != negated
    shown = np.where(true_colour, colour, (colour + rng.integers(1, 4, size)) % 4)
    shapes = rng.permuted(np.tile(np.arange(4), (size, 1)), axis=1)
    scene = _scene(rng, single, shadowed, shown)
    objects = np.where(scene == NOTHING, NOTHING, shapes * len(COLOURS) + scene)
    forms = np.select([untellable, negated], [2, 1], 0)
    return Draw(
        objects=rng.permuted(objects, axis=1),
        texts=tuple(
            pick(rng, (_AFFIRMATIONS, _NEGATIONS, _UNTELLABLES)[form]).format(
                shape=_ENTAILMENT_SHAPES[shape], colour=_ENTAILMENT_COLOURS[said]
            )
            for form, shape, said in zip(forms, shapes[:, 0], colour, strict=True)
        ),
        labels=labels,
        image_cues=np.where(single, 1 + shadowed, 0),
        text_cues=untellable.astype(np.int64),
    )


def _scene(
    rng: np.random.Generator, single: BoolArray, shadowed: BoolArray, shown: IntArray
) -> IntArray:
    """Return colours int64 [examples, 4], NOTHING where no object stands.

    The hypothesis' object comes first. Among several, 1 to all but one stand in the shadow; their
    number is drawn before it is known whether the first is one of them.
    """
    size = len(single)
    colours = rng.integers(0, 4, (size, 4))
    colours[:, 0] = np.where(shadowed, BLACK, shown)
    count = np.where(single, 1, rng.integers(2, 5, size))
    in_shadow = rng.integers(1, np.maximum(count, 2))
    rank = np.arange(4)
    others = (rank >= 1) & (rank <= (in_shadow - shadowed)[:, None])
    return np.where(rank >= count[:, None], NOTHING, np.where(others, BLACK, colours))


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Draw one of several texts, all as likely."""
    return choices[int(rng.integers(len(choices)))]
