"""The generated tasks: objects in an image, its text, its label, and the cues that decide it.

A task is a function from a generator to a `Draw`, which also holds the cues by which the label was
chosen, so that the best possible score of every view is known. No pixels are drawn here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msd_deploy.data.synthetic.drawing import (
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
POSTERS_AMBIGUITY = 0.04
NO_CUE, HINT, OWN = 0, 1, 2
POSTERS_POSITIVE = {(OWN, NO_CUE): 0.27, (NO_CUE, OWN): 0.27, (OWN, OWN): 0.28, (HINT, HINT): 0.18}
"""P(image cue, text cue | the poster is of the genre)."""
POSTERS_NEGATIVE = {(HINT, NO_CUE): 0.15, (NO_CUE, HINT): 0.15, (NO_CUE, NO_CUE): 0.70}
"""P(image cue, text cue | it is not)."""
_POSTER_FILLERS = ("one", "story", "of", "the", "year", "coming", "soon", "a", "film", "for", "all")

ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT_AMBIGUITY = 0.05
ENTAILMENT_HYPOTHESES = 4
_ENTAILMENT_SHAPES, _ENTAILMENT_COLOURS = SHAPES[:4], tuple(COLOURS)[:4]
_COLOUR_CHANCES = (0.4, 0.3, 0.2, 0.1)
_SHADOW, _UNTELLABLE, _NEGATED = 0.3, 0.1, 0.2
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
    """Examples of a task before they are drawn as images.

    Attributes:
        objects: int64 [images, cells], what stands in each cell of a square grid, row by row:
            shape * len(COLOURS) + colour, or NOTHING.
        image_index: int64 [examples], the image of each.
        texts: One per example.
        labels: int64, class indices [examples], or 0 and 1 [examples, classes] if multi-label.
        image_cues: int64, shaped as labels: all that the image alone tells about the label.
        text_cues: int64, shaped as labels: all that the text alone tells about it.
    """

    objects: IntArray
    image_index: IntArray
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
        image_index=np.arange(size),
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
        image_index=np.arange(size),
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


def draw_entailment(
    rng: np.random.Generator, size: int, ambiguity: float = ENTAILMENT_AMBIGUITY
) -> Draw:
    """Draw scenes, 4 hypotheses each: entailment, neutral or contradiction, about a third each.

    A scene has 1 or 2 objects of different shapes; each stands in the shadow (30 %: black, its
    colour unknown) or has a colour, red more often than yellow. A hypothesis states of one object
    that it has a colour, or (20 %) that it has not; 10 % say what no image tells. Those and what
    is said of an object in the shadow are neutral. Of the others half are true; a false one names a
    colour that is rare, as annotators do. So the image alone hints at neutral, the words alone at
    the rest, and both are needed to know. Then `ambiguity` of all labels, in every split, are
    flipped.
    """
    scene = np.arange(size) // ENTAILMENT_HYPOTHESES
    scenes = int(scene.max()) + 1
    count = rng.integers(1, 3, scenes)
    shapes = rng.permuted(np.tile(np.arange(4), (scenes, 1)), axis=1)
    colours = rng.choice(4, (scenes, 4), p=_COLOUR_CHANCES)
    in_shadow = rng.random((scenes, 4)) < _SHADOW
    asked = rng.integers(0, count[scene])
    untellable, negated = rng.random(size) < _UNTELLABLE, rng.random(size) < _NEGATED
    is_true = rng.random(size) < 0.5
    colour = colours[scene, asked]
    said = np.where(is_true != negated, colour, _another_colour(rng, colour))
    is_neutral = untellable | in_shadow[scene, asked]
    labels = np.select([is_neutral, is_true], [1, 0], 2)
    forms = np.select([untellable, negated], [2, 1], 0)
    stands = np.arange(4) < count[:, None]
    return Draw(
        objects=_scenes(rng, shapes, np.where(in_shadow, BLACK, colours), stands),
        image_index=scene,
        texts=tuple(
            pick(rng, (_AFFIRMATIONS, _NEGATIONS, _UNTELLABLES)[form]).format(
                shape=_ENTAILMENT_SHAPES[shape], colour=_ENTAILMENT_COLOURS[colour]
            )
            for form, shape, colour in zip(forms, shapes[scene, asked], said, strict=True)
        ),
        labels=flip_labels(labels, ambiguity, 3, rng),
        image_cues=(count * 4 + (in_shadow & stands).sum(axis=1))[scene],
        text_cues=np.where(untellable, 0, 1 + 2 * said + negated),
    )


def _another_colour(rng: np.random.Generator, colour: IntArray) -> IntArray:
    """Return a colour that is not the given one, the rarer in scenes the likelier."""
    chances = np.where(np.eye(4, dtype=bool), 0.0, _COLOUR_CHANCES[::-1])[colour]
    chances /= chances.sum(axis=1, keepdims=True)
    drawn: IntArray = (rng.random((len(colour), 1)) > chances.cumsum(axis=1)[:, :3]).sum(axis=1)
    return drawn


def _scenes(
    rng: np.random.Generator, shapes: IntArray, colours: IntArray, stands: BoolArray
) -> IntArray:
    """Return what stands in each of 16 cells, int64 [scenes, 16]."""
    objects = np.full((len(shapes), 16), NOTHING)
    objects[:, :4] = np.where(stands, shapes * len(COLOURS) + colours, NOTHING)
    return rng.permuted(objects, axis=1)


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Draw one of several texts, all as likely."""
    return choices[int(rng.integers(len(choices)))]
