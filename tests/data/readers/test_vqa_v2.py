"""VQA v2 as published, in miniature: layouts, answers, scores; then flaws, each by its name."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers import json_array, vqa_v2
from msd_deploy.data.readers.spec import load_evaluation_source, load_source
from msd_deploy.data.readers.vqa_v2 import normal_answer
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.data.synthetic.drawing import encode_png
from msd_deploy.errors import ConfigError, DataError
from msd_deploy.metrics import score_logits
from msd_deploy.pipeline import run_distillation
from msd_export.config import ExportConfig
from msd_export.evaluate import evaluate_model
from msd_export.opened_model import open_model
from msd_export.pipeline import export_student

FIRST = {"train2014": 100, "val2014": 120, "test2015": 140}
SIZES = {"train2014": 12, "val2014": 8, "test2015": 4}
ANSWERS = ("Yes.", "no", "two")
ABSENT = object()


def question_of(number: int) -> dict[str, object]:
    return {"image_id": number, "question": f"question {number}?", "question_id": number * 1000}


def annotation_of(number: int, answers: Sequence[str] | None = None) -> dict[str, object]:
    """Of ten people nine say the same and one says "maybe", unless answers are given."""
    common = ANSWERS[number % 3]
    given = [common] * 9 + ["maybe"] if answers is None else answers
    return {
        "question_type": "is this",
        "multiple_choice_answer": normal_answer(given[0]),
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": index + 1}
            for index, answer in enumerate(given)
        ],
        "image_id": number,
        "answer_type": "other",
        "question_id": number * 1000,
    }


def questions_file(folder: Path, part: str) -> Path:
    return folder / f"v2_OpenEnded_mscoco_{part}_questions.json"


def annotations_file(folder: Path, part: str) -> Path:
    return folder / f"v2_mscoco_{part}_annotations.json"


def head(part: str) -> dict[str, object]:
    return {
        "info": {"description": "x", "version": "2.0"},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": {"name": "x"},
        "data_subtype": part,
    }


def write_part(folder: Path, part: str, pictures: str, *, with_answers: bool = True) -> None:
    numbers = range(FIRST[part], FIRST[part] + SIZES[part])
    for number in numbers:
        picture = folder / pictures.format(part) / f"COCO_{part}_{number:012d}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(encode_png(np.full((4, 4, 3), number, np.uint8)))
    questions = {**head(part), "questions": [question_of(number) for number in numbers]}
    questions_file(folder, part).write_text(json.dumps(questions))
    if with_answers:
        annotations = {**head(part), "annotations": [annotation_of(n) for n in numbers]}
        annotations_file(folder, part).write_text(json.dumps(annotations))


def write_folder(folder: Path, pictures: str = "{}") -> Path:
    folder.mkdir()
    for part in ("train2014", "val2014"):
        write_part(folder, part, pictures)
    return folder


@pytest.fixture
def preprocessor(memes: tuple[PreparedData, Preprocessor]) -> Preprocessor:
    return memes[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "vqa")


def load(folder: Path, *, strict: bool = True) -> SourceData:
    return load_source(f"vqa-v2:{folder}", options=SourceOptions(strict=strict))


def texts(data: SourceData, split: str) -> list[str]:
    return sorted(data.dataset[split]["text"])


@pytest.mark.parametrize("pictures", ["{}", "images/{}", "images", ""])
def test_every_placement_of_images_is_read(tmp_path: Path, pictures: str) -> None:
    folder = write_folder(tmp_path / "vqa", pictures)
    data = load(folder)
    assert (data.info.problem, data.info.skipped) == ("soft_label", ())
    assert data.info.notes[0] == "20 rows: train 12, validation 4, test 4"
    assert texts(data, "train") == [f"question {number}?" for number in range(100, 112)]
    row = next(row for row in data.dataset["train"] if row["text"] == "question 101?")
    expected = folder / pictures.format("train2014") / "COCO_train2014_000000000101.jpg"
    assert row["image_path"] == str(expected)
    assert row["origin"] == f"{questions_file(folder, 'train2014')}:questions[1]"


@pytest.mark.parametrize("places", [("questions", "annotations"), ("data", "data")])
def test_files_in_folders_of_their_own_are_read(folder: Path, places: tuple[str, str]) -> None:
    for pattern, place in zip(("*questions.json", "*annotations.json"), places, strict=True):
        (folder / place).mkdir(exist_ok=True)
        for path in sorted(folder.glob(pattern)):
            path.rename(folder / place / path.name)
    assert load(folder).info.notes[0] == "20 rows: train 12, validation 4, test 4"


def test_the_classes_are_the_training_answers_by_frequency(folder: Path) -> None:
    change(annotations_file(folder, "train2014"), 0, annotation_of(100, ["Yes", "the yes", "2"]))
    data = load(folder)
    # By count (100 says yes instead of no), then by code point; "maybe" is nobody's commonest.
    assert data.info.labels == ("yes", "2", "no")
    assert (
        "the classes are the 3 most frequent answers (at most 3,129), each of 1 or more of 12"
        " training questions"
    ) in data.info.notes


@pytest.mark.parametrize(
    ("questions", "least"), [(1, 1), (49_306, 1), (49_307, 2), (443_757, 9), (600_000, 9)]
)
def test_a_smaller_folder_needs_fewer_questions_of_an_answer(questions: int, least: int) -> None:
    assert vqa_v2._least(questions) == least


def test_no_more_than_the_published_number_of_answers_are_classes() -> None:
    counts = vqa_v2._Counts(5000)
    counts.of_answer.update(f"{number:04d}" for number in range(5000))
    frequent = vqa_v2._frequent(counts)
    assert (len(frequent), frequent[0], frequent[-1]) == (3129, "0000", "3128")


def test_scores_are_thirds_of_people_up_to_one(folder: Path, preprocessor: Preprocessor) -> None:
    answers = ["two"] * 2 + ["no"] * 1 + ["yes"] * 4 + ["maybe"] * 3
    change(annotations_file(folder, "train2014"), 3, annotation_of(103, answers))
    source = load(folder)
    split = prepare(source, preprocessor).splits["train"]
    scores = dict(zip(source.info.labels, split.labels[3].tolist(), strict=True))
    assert scores == pytest.approx({"2": 2 / 3, "no": 1 / 3, "yes": 1.0})


def test_vqa_accuracy_is_the_score_of_the_likeliest_answer() -> None:
    labels = np.array([[1, 1 / 3, 0], [0, 2 / 3, 1], [0, 0, 0]], np.float32)
    logits = np.array([[-5, -4, -9], [0, 3, 1], [1, 2, 3]], np.float32)
    assert score_logits(logits, labels, "soft_label").value == pytest.approx((1 / 3 + 2 / 3) / 3)


def test_rows_without_a_class_are_evaluated_and_not_trained_on(folder: Path) -> None:
    for part, number in (("train2014", 102), ("val2014", 121)):
        index = number - FIRST[part]
        change(annotations_file(folder, part), index, annotation_of(number, ["?", "x y"] * 5))
    data = load(folder)
    assert len(data.dataset["train"]) == 11
    judged = [*data.dataset["validation"], *data.dataset["test"]]
    (row,) = [row for row in judged if row["text"] == "question 121?"]
    assert row["labels"] == []
    assert "1 training questions whose answers are no class are left out" in data.info.notes
    assert (
        "1 questions of validation and test have no answer among the classes: they count as wrong"
        in data.info.notes
    )


def test_an_annotated_test_set_is_tested_on_and_another_is_not_read(folder: Path) -> None:
    write_part(folder, "test2015", "{}", with_answers=False)
    assert load(folder).info.notes[0] == "20 rows: train 12, validation 4, test 4"
    write_part(folder, "test2015", "{}")
    data = load(folder)
    assert data.info.notes[0] == "24 rows: train 12, validation 8, test 4"
    assert texts(data, "test") == [f"question {number}?" for number in range(140, 144)]


def test_no_image_is_in_validation_and_test(folder: Path) -> None:
    path = questions_file(folder, "val2014")
    for index in range(8):
        picture = 120 + index % 4
        change(path, index, {**question_of(120 + index), "image_id": picture})
        target = annotations_file(folder, "val2014")
        change(target, index, {**annotation_of(120 + index), "image_id": picture})
    data = load(folder)
    pictures = [set(data.dataset[split]["image_sha256"]) for split in ("validation", "test")]
    assert [len(found) for found in pictures] == [2, 2]
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize(
    ("stated", "normal"),
    [
        ("Yes.", "yes"),
        ("The Dog", "dog"),
        ("a  cat\tand an owl", "cat and owl"),
        ("two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("im", "i'm"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("6.5", "6.5"),
        ("p.m.", "pm"),
        ("10:30", "10:30"),
        ("man's", "man's"),
        ("(left)", "left"),
        ("?", ""),
        ("the", ""),
        ("its", "its"),
        ("café", "café"),
    ],
)
def test_answers_are_compared_in_the_published_form(stated: str, normal: str) -> None:
    assert normal_answer(stated) == normal
    assert normal_answer(normal) == normal


# ------------------------------------------------------------------ flaws


def change(path: Path, index: int, record: object) -> None:
    stated = json.loads(path.read_text())
    (key,) = [key for key in ("questions", "annotations") if key in stated]
    if record is ABSENT:
        del stated[key][index]
    elif index == len(stated[key]):
        stated[key].append(record)
    else:
        stated[key][index] = record
    path.write_text(json.dumps(stated))


QUESTION, ANNOTATION = question_of(104), annotation_of(104)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, "questions[4]: is a number, not a JSON object"),
        (None, "questions[4]: is null, not a JSON object"),
        ({**QUESTION, "question": 7}, "questions[4]: question is a number, not a string"),
        ({**QUESTION, "question": " "}, "questions[4]: question is empty"),
        (
            {**QUESTION, "question": "\ud800"},
            "questions[4]: question contains an unpaired surrogate",
        ),
        ({**QUESTION, "image_id": "../x"}, "questions[4]: image_id '../x' is not an integer"),
        ({**QUESTION, "image_id": 105}, "questions[4]: image_id is 105, its annotation's is 104"),
        ({**QUESTION, "question_id": True}, "questions[4]: question_id is a boolean"),
        ({**QUESTION, "question_id": "9" * 5000}, "questions[4]: question_id '9999"),
        ({**QUESTION, "question_id": 9}, "questions[4]: has no annotation (question_id 9)"),
        ({**QUESTION, "question_id": 103000}, "questions[4]: repeats the question_id 103000"),
        (ABSENT, "annotations[4]: no question has the id 104000"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else "",
)
def test_a_question_of_no_use_is_named(folder: Path, record: object, reason: str) -> None:
    change(questions_file(folder, "train2014"), 4, record)
    assert_named(folder, reason)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("x", "annotations[4]: is a string, not a JSON object"),
        ({**ANNOTATION, "answers": "yes"}, "annotations[4]: answers is a string, not a list"),
        ({**ANNOTATION, "answers": []}, "annotations[4]: has 0 answers, not 1 to 10"),
        ({**ANNOTATION, "answers": [{}] * 11}, "annotations[4]: has 11 answers, not 1 to 10"),
        ({**ANNOTATION, "answers": ["yes"]}, "annotations[4]: an entry of answers is a string"),
        ({**ANNOTATION, "answers": [{"answer": 1}]}, "annotations[4]: answer is a number"),
        ({**ANNOTATION, "answers": [{"answer": "x" * 201}]}, "annotations[4]: an answer has 201"),
        ({**ANNOTATION, "answers": [{"answer": "a\0"}]}, "annotations[4]: an answer holds a NUL"),
        (
            {**ANNOTATION, "answers": [{"answer": "\udc80"}]},
            "annotations[4]: an answer contains an unpaired",
        ),
        ({**ANNOTATION, "multiple_choice_answer": None}, "annotations[4]: has no multiple_choice"),
        ({**ANNOTATION, "question_id": 103000}, "annotations[4]: repeats question_id 103000 of"),
        (ABSENT, "questions[4]: has no annotation (question_id 104000)"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else "",
)
def test_an_annotation_of_no_use_is_named(folder: Path, record: object, reason: str) -> None:
    change(annotations_file(folder, "train2014"), 4, record)
    assert_named(folder, reason)


def assert_named(folder: Path, reason: str) -> None:
    """One question is lost, and why is said; strict refuses it."""
    data = load(folder, strict=False)
    named = [str(row) for row in data.info.skipped]
    assert any(reason in row for row in named), named
    assert all(len(row) < 300 for row in named)
    assert sum(len(split) for split in data.dataset.values()) == 19
    with pytest.raises(DataError, match=r"rows? cannot be used"):
        load(folder)


def picture(folder: Path) -> Path:
    return folder / "train2014/COCO_train2014_000000000104.jpg"


def outside(path: Path) -> None:
    target = path.parents[2] / "outside.jpg"
    path.rename(target)
    path.symlink_to(target)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "is missing"),
        (outside, "leaves the data folder"),
        (as_pipe, "is not a regular file"),
        (as_loop, "cannot be read ("),
    ],
)
def test_an_unusable_image_is_named(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(picture(folder))
    assert_named(folder, f"image 'COCO_train2014_000000000104.jpg' {reason}")


def test_a_broken_image_is_named_when_it_is_decoded(
    folder: Path, preprocessor: Preprocessor
) -> None:
    picture(folder).write_bytes(b"no image")
    data = prepare(load(folder), preprocessor)
    (row,) = data.info.skipped
    assert row.origin == f"{questions_file(folder, 'train2014')}:questions[4]"


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


@pytest.mark.parametrize(
    "name", ["v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_val2014_annotations.json"]
)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "holds no v2_"),
        (raw(lambda text: b""), "is not a JSON object"),
        (raw(lambda text: b"\0" * 40), "is not a JSON object"),
        (raw(lambda text: text[:-30]), "is not JSON ("),
        (raw(lambda text: text[:-1]), "is not JSON (the file ends where ',' should)"),
        (raw(lambda text: text + b"{}"), "is not JSON (something follows its object)"),
        (raw(lambda text: b"[" + text + b"]"), "is not a JSON object"),
        (raw(lambda text: b"\xff" + text), "is not UTF-8"),
        (raw(lambda text: b"[" * 100_000), "is not a JSON object"),
        (raw(lambda text: b'{"x": ' + b"[" * 100_000), "nested too deeply"),
        (raw(lambda text: b'{"x": ' + b"9" * 5000 + b"}"), "is not JSON (Exceeds the limit"),
        (raw(lambda text: b'{"x": "' + b"y" * (3 << 20) + b'"}'), "in 1,048,576 characters)"),
        (raw(lambda text: b"{}"), "has no "),
        (raw(lambda text: text.replace(b"[{", b"{", 1)), "has an object instead of a list"),
        (raw(lambda text: b'{"questions": 1, "annotations": 1}'), "has a number instead of a list"),
        (raw(lambda text: b'{"questions": [], "annotations": []}'), "is empty"),
        (raw(lambda text: b"{1: 2}"), "is not JSON (a number stands for a key)"),
    ],
    ids=[
        "missing",
        "empty",
        "NULs",
        "truncated",
        "no end",
        "more",
        "list",
        "not utf8",
        "nested",
        "nested value",
        "number",
        "huge",
        "no list",
        "unclosed",
        "number for list",
        "nothing",
        "key",
    ],
)
def test_a_file_of_no_use_is_refused_by_name(
    folder: Path, name: str, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder / name)
    if reason == "is empty" and "annotations" in name:
        reason = "has no usable annotation"
    with pytest.raises(DataError) as caught:
        load(folder, strict=False)
    assert name in str(caught.value)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (', "x": NaN', "holds NaN, which is not a JSON value"),
        (', "image_id": 1', "has a key twice"),
    ],
)
def test_an_entry_that_json_should_not_hold_is_named(folder: Path, field: str, reason: str) -> None:
    path = questions_file(folder, "train2014")
    path.write_text(
        path.read_text().replace('"question_id": 104000', f'"question_id": 104000{field}')
    )
    assert_named(folder, f"questions[4]: {reason}")


def test_a_file_or_folder_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    path = annotations_file(folder, "train2014")
    path.rename(tmp_path / "a.json")
    path.symlink_to(tmp_path / "a.json")
    with pytest.raises(DataError, match="leaves the data folder"):
        load(folder)
    path.unlink()
    (tmp_path / "a.json").rename(path)
    (folder / "train2014").rename(tmp_path / "train2014")
    (folder / "train2014").symlink_to(tmp_path / "train2014")
    with pytest.raises(DataError, match="folder 'train2014' leaves the data folder"):
        load(folder)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_reader_sees_the_same_whatever_is_read_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = annotations_file(folder, "train2014")
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({"n": 12, **stated, "last": -1.5e3}, indent=1))
    monkeypatch.setattr(json_array, "_CHUNK_CHARACTERS", size)
    entries = [entry.value for entry in json_array.read_array(path, "annotations", fix="x")]
    assert entries == stated["annotations"]


def test_class_weights_do_not_apply(folder: Path, tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(spec=f"vqa-v2:{folder}", class_weights="balanced"))
    with pytest.raises(ConfigError, match=r"data\.class_weights"):
        run_distillation(config, RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ the whole road


@pytest.fixture(scope="module")
def run_on_vqa(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Path]:
    root = tmp_path_factory.mktemp("vqa")
    folder = write_folder(root / "data")
    config = RunConfig(
        data=DataConfig(spec=f"vqa-v2:{folder}", image_size=16),
        teacher=TeacherConfig(epochs=30, batch_size=4),
        distill=DistillConfig(epochs=2, batch_size=4),
    )
    run = RunDirectory(root / "run")
    run_distillation(config, run)
    return run, folder


def test_a_run_is_evaluated_by_vqa_accuracy(run_on_vqa: tuple[RunDirectory, Path]) -> None:
    run, folder = run_on_vqa
    metrics = json.loads(run.metrics.read_text())
    assert metrics["metric"] == "vqa_accuracy"
    labels = json.loads((run.student / "labels.json").read_text())
    assert (labels["problem"], labels["decision"]) == ("soft_label", "argmax")
    answer = evaluate_model(
        run.root, f"vqa-v2:{folder}", options=SourceOptions(), split="test", threads=1
    )
    assert answer["metric"] == "vqa_accuracy"
    of_run = metrics["student"]["test"]["multimodal"]["value"]
    assert answer["views"]["multimodal"]["value"] == of_run
    found = open_model(run.root).predict(text="question 1?").probabilities
    assert set(found) == {"yes", "no", "2"}
    assert all(0 < value < 1 for value in found.values())


def test_its_export_passes_parity(run_on_vqa: tuple[RunDirectory, Path], tmp_path: Path) -> None:
    run = RunDirectory(Path(shutil.copytree(run_on_vqa[0].root, tmp_path / "run")))
    export_student(run, ExportConfig((("onnx", "fp32"),)))
    parity = run.exports / "onnx-fp32/parity.json"
    assert json.loads(parity.read_text())["metric"] == "vqa_accuracy"
    found = open_model(parity.parent).predict(text="question 1?").probabilities
    of_source = open_model(run.root).predict(text="question 1?").probabilities
    assert found == pytest.approx(of_source, abs=1e-4)


def test_a_model_is_evaluated_by_its_own_predictions(folder: Path) -> None:
    own = ("no", "2", "yes", "green")
    data = load_evaluation_source(
        f"vqa-v2:{folder}", options=SourceOptions(), split="test", labels=own
    )
    assert data.info.labels == own
    assert {own[index] for row in data.dataset["test"] for index in row["labels"]} <= set(own[:3])
