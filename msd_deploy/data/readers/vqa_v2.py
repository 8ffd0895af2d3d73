"""VQA v2, questions about images with ten people's answers each (Goyal et al. 2017, 1612.00837).

As published: v2_OpenEnded_mscoco_{train,val}2014_questions.json beside
v2_mscoco_{train,val}2014_annotations.json, in the folder itself, questions/ and annotations/ or
data/; images COCO_{train,val}2014_%012d.jpg in train2014/ and val2014/, in images/train2014/ and
images/val2014/, in images/, or in the folder itself. test2015 has no published answers; with some,
it is the test split, else val's images are halved into validation and test.

The classes are the most frequent answers of the training questions, 3,129 at most, as in the models
that are compared on it (Anderson et al. 2018, Bottom-Up Attention; Jiang et al. 2018, Pythia: those
take answers that at least 9 questions of train and val have; we never look at val for it).

Answers of people brought to one form, as VQA's evaluation compares them (Antol et al. 2015).

Its description (visualqa.org/evaluation.html), in this order: lower case; no comma between digits;
other punctuation but apostrophe and colon, a decimal point and a sign such as 50% aside, becomes
white space, or goes where it joins no two words; a full stop goes unless a digit follows it; number
words become digits; the articles go; contractions get the apostrophe that they lack. The list of
contractions is ours: words that are nothing else without their apostrophe.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from msd_deploy.data.readers.json_array import Entry, read_array
from msd_deploy.data.readers.published import (
    COMPLETE,
    Example,
    PublishedRows,
    find_file,
    find_folder,
    need,
    need_file,
    need_number_id,
    need_string,
    open_folder,
)
from msd_deploy.data.readers.rows import (
    ImageFiles,
    Row,
    UnusableRowError,
    check_characters,
    parse_text,
    type_name,
)
from msd_deploy.data.source import DatasetInfo, SourceData, Split
from msd_deploy.errors import DataError
from msd_deploy.problem import FULL_SCORE_VOTES

_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_NEGATED = (
    *("are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might", "must"),
    *("need", "should", "was", "were", "wo", "would"),
)
_CONTRACTIONS = {
    **{f"{verb}nt": f"{verb}n't" for verb in _NEGATED},
    **{f"{verb}ve": f"{verb}'ve" for verb in ("could", "might", "must", "should", "would")},
    **{f"{who}ve": f"{who}'ve" for who in ("i", "they", "we", "you", "who")},
    **{f"{who}re": f"{who}'re" for who in ("they", "you", "who")},
    **{f"{who}s": f"{who}'s" for who in ("he", "she", "that", "there", "what", "where", "who")},
    **{f"{who}ll": f"{who}'ll" for who in ("it", "they", "you", "that", "who")},
    **{f"{who}d": f"{who}'d" for who in ("it", "they", "you", "who", "there")},
    **{"im": "i'm", "lets": "let's", "oclock": "o'clock", "yall": "y'all", "maam": "ma'am"},
}
_PUNCTUATION = r";/\[\]\"{}()=+\\_\-><@`,?!"
_JOINS_WORDS = re.compile(rf"(?<=\w)[{_PUNCTUATION}](?=\w)")
_OTHER = re.compile(rf"[{_PUNCTUATION}]")
_COMMA_OF_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")


def normal_answer(answer: str) -> str:
    """Return an answer in the form in which answers are compared; may be empty."""
    text = _COMMA_OF_NUMBER.sub("", answer.lower())
    text = _OTHER.sub("", _JOINS_WORDS.sub(" ", text))
    words = (_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", text).split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


NAME = "vqa-v2"
MOST_ANSWERS = 3129
_LEAST_QUESTIONS, _PUBLISHED_QUESTIONS = 9, 443_757
_MOST_VOTES = 10
_LONGEST_ANSWER = 200
"""In characters; published ones have at most about a hundred."""
_PARTS: Mapping[str, Split] = {"train2014": "train", "val2014": "validation", "test2015": "test"}


@dataclass(slots=True)
class _Answers:
    """People's answers to the questions of one part.

    Attributes:
        of_question: By the question's id: its image's, and each answer as often as it was given,
            at most three times; taken out when the question is read.
        places: By the question's id, where the annotation stands.
    """

    of_question: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Counts:
    """Number of training questions by their most common answer."""

    questions: int = 0
    of_answer: Counter[str] = field(default_factory=Counter)


def load_vqa_v2(
    location: str, *, strict: bool, answers: tuple[str, ...] | None = None
) -> SourceData:
    """Read the folder of VQA v2.

    Args:
        location: The folder.
        strict: A row that cannot be used is an error.
        answers: The classes, of the model that is evaluated; None: those of the training questions.

    Raises:
        DataError: The folder is not the published one; with strict, a row cannot be used.
    """
    folder = open_folder(NAME, location)
    files = {name: _files(folder, name) for name in ("train2014", "val2014")}
    test = _test_files(folder)
    if test is not None:
        files["test2015"] = test
    found, counts = PublishedRows(), _Counts()
    for name, (questions, annotations) in files.items():
        of_part = _read_annotations(found, annotations, counts if name == "train2014" else None)
        _read_questions(found, questions, of_part, (_PARTS[name], _images(folder, name)))
    notes = [] if answers is not None else [_note_on_classes(counts)]
    answers = answers or _frequent(counts)
    found.rows, left_out = _within(found.rows, frozenset(answers))
    if test is None:
        found.rows = _with_halves(found.rows)
        notes.append("half of val's images are validation, half are test: test has no answers")
    info = DatasetInfo(answers, "soft_label", notes=(*notes, *left_out))
    return found.source(folder, info, strict=strict)


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a part's questions and annotations."""
    return need_file(folder, _places(f"v2_OpenEnded_mscoco_{name}_questions.json")), need_file(
        folder, _places(f"v2_mscoco_{name}_annotations.json")
    )


def _places(file: str) -> list[str]:
    kind = "questions" if file.endswith("questions.json") else "annotations"
    return [file, f"{kind}/{file}", f"data/{file}"]


def _test_files(folder: Path) -> tuple[Path, Path] | None:
    is_annotated = find_file(folder, _places("v2_mscoco_test2015_annotations.json"))
    return _files(folder, "test2015") if is_annotated else None


def _images(folder: Path, name: str) -> tuple[ImageFiles, str]:
    """Return where a part's images are, and what their names begin with."""
    base = find_folder(folder, [name, f"images/{name}", "images"]) or folder
    return ImageFiles(base, root=folder), f"COCO_{name}_"


def _read_annotations(found: PublishedRows, path: Path, counts: _Counts | None) -> _Answers:
    part = _Answers()
    for index, entry in enumerate(read_array(path, "annotations", fix=COMPLETE)):
        place = f"annotations[{index}]"
        try:
            values = entry.as_object()
            question = need_number_id(values, "question_id")
            if question in part.places:
                raise UnusableRowError(f"repeats question_id {question} of {part.places[question]}")
            given = need_number_id(values, "image_id"), _votes(need(values, "answers"))
            commonest = _answer(need_string(values, "multiple_choice_answer"))
        except UnusableRowError as error:
            found.skip(f"{path}:{place}", str(error))
            continue
        part.of_question[question], part.places[question] = given, place
        if counts is not None:
            counts.questions += 1
            counts.of_answer[commonest] += 1
    if not part.places:
        raise DataError("has no usable annotation", where=path, fix=COMPLETE)
    return part


def _votes(answers: object) -> tuple[str, ...]:
    """Return people's answers, sorted, each as often as it was given, at most three times."""
    if not isinstance(answers, list):
        raise UnusableRowError(f"answers is {type_name(answers)}, not a list")
    if not 0 < len(answers) <= _MOST_VOTES:
        raise UnusableRowError(f"has {len(answers):,} answers, not 1 to {_MOST_VOTES}")
    votes: Counter[str] = Counter()
    for each in answers:
        if not isinstance(each, dict):
            raise UnusableRowError(f"an entry of answers is {type_name(each)}, not an object")
        votes[_answer(need_string(each, "answer"))] += 1
    del votes[""]
    return tuple(sorted(a for a, n in votes.items() for _ in range(min(n, FULL_SCORE_VOTES))))


def _answer(text: str) -> str:
    """Return an answer in its normal form; there are few, so each is held once."""
    if len(text) > _LONGEST_ANSWER:
        raise UnusableRowError(f"an answer has {len(text):,} characters")
    if "\0" in text:
        raise UnusableRowError("an answer holds a NUL character")
    return sys.intern(normal_answer(check_characters(text, "an answer")))


def _read_questions(
    found: PublishedRows,
    path: Path,
    part: _Answers,
    of_split: tuple[Split, tuple[ImageFiles, str]],
) -> None:
    """Add the questions of a part, and name the answers that are left without one."""
    split, images = of_split
    before, already = len(found.rows), len(found.skipped)
    for index, entry in enumerate(read_array(path, "questions", fix=COMPLETE)):
        found.add(
            path, f"questions[{index}]", split, partial(_example, entry, part=part, files=images)
        )
    found.check_any(path, before, already)
    annotations = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    for question in part.of_question:
        found.skip(f"{annotations}:{part.places[question]}", f"no question has the id {question}")


def _example(entry: Entry, *, part: _Answers, files: tuple[ImageFiles, str]) -> Example:
    values = entry.as_object()
    question = need_number_id(values, "question_id")
    if question not in part.places:
        raise UnusableRowError(f"has no annotation (question_id {question})")
    if question not in part.of_question:
        raise UnusableRowError(f"repeats the question_id {question}")
    of_image, votes = part.of_question.pop(question)
    image = need_number_id(values, "image_id")
    if of_image != image:
        raise UnusableRowError(f"image_id is {image}, its annotation's is {of_image}")
    text = parse_text(need_string(values, "question"), "question")
    if text is None:
        raise UnusableRowError("question is empty")
    images, prefix = files
    return Example(question, images.find(f"{prefix}{image:0>12}.jpg", key="image"), text, votes)


def _least(questions: int) -> int:
    """Return how many training questions must have an answer: 9, of fewer in proportion."""
    return min(_LEAST_QUESTIONS, math.ceil(_LEAST_QUESTIONS * questions / _PUBLISHED_QUESTIONS))


def _frequent(counts: _Counts) -> tuple[str, ...]:
    """Return the classes, the most frequent first, answers of equal frequency by code point."""
    least = _least(counts.questions)
    ranked = sorted(counts.of_answer.items(), key=lambda item: (-item[1], item[0]))
    return tuple(answer for answer, count in ranked if answer and count >= least)[:MOST_ANSWERS]


def _note_on_classes(counts: _Counts) -> str:
    classes, least = len(_frequent(counts)), _least(counts.questions)
    return (
        f"the classes are the {classes:,} most frequent answers (at most {MOST_ANSWERS:,}), each of"
        f" {least} or more of {counts.questions:,} training questions"
    )


def _within(rows: list[Row], answers: frozenset[str]) -> tuple[list[Row], list[str]]:
    """Return the rows with their answers among the classes, and notes on the others."""
    kept: list[Row] = []
    left_out, unanswerable = 0, 0
    for row in rows:
        votes = tuple(answer for answer in row.labels or () if answer in answers)
        if not votes and row.split == "train":
            left_out += 1
            continue
        unanswerable += not votes
        kept.append(replace(row, labels=votes))
    notes = []
    if left_out:
        notes.append(f"{left_out:,} training questions whose answers are no class are left out")
    if unanswerable:
        notes.append(
            f"{unanswerable:,} questions of validation and test have no answer among the classes:"
            " they count as wrong"
        )
    return kept, notes


def _with_halves(rows: list[Row]) -> list[Row]:
    """Halve validation by images, in the order of their digests; the second half is test."""
    digests = sorted({row.image_sha256 for row in rows if row.split == "validation"})
    of_test = frozenset(digests[len(digests) // 2 :])
    return [
        replace(row, split="test")
        if row.split == "validation" and row.image_sha256 in of_test
        else row
        for row in rows
    ]
