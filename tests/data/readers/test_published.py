"""Published data sets as they are: every edition and layout, its splits, classes and notes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.readers.mm_imdb import GENRES
from msd_deploy.data.readers.spec import (
    kind_of_spec,
    load_source,
    name_of_spec,
    path_of_spec,
    with_path,
)
from msd_deploy.data.source import SourceData, SourceOptions
from msd_deploy.errors import ArtifactError, ConfigError, DataError
from msd_deploy.models.folders import load_model
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.output import with_absolute_paths
from msd_deploy.run.record import data_of_run, read_run
from msd_export.evaluate import evaluate_model

WriteFolder = Callable[[str], Path]
STRICT = SourceOptions(strict=True)


def load(form: str, folder: Path, options: SourceOptions = STRICT) -> SourceData:
    return load_source(f"{form.partition(',')[0]}:{folder}", options=options)


def texts(data: SourceData, split: str) -> set[str]:
    return set(data.dataset[split]["text"])


def row_of(data: SourceData, split: str, ending: str) -> dict[str, object]:
    (row,) = [row for row in data.dataset[split] if row["text"].endswith(ending)]
    return dict(row)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hateful-memes", "meme {}"),
        ("snli-ve", "hypothesis {}"),
        ("snli-ve, first edition", "hypothesis {}"),
        ("snli-ve, pairID alone", "hypothesis {}"),
        ("mm-imdb", "the longest plot {}"),
        ("mm-imdb, converted", "plot {}"),
    ],
)
def test_the_published_splits_are_kept(write_published: WriteFolder, form: str, text: str) -> None:
    data = load(form, write_published(form))
    assert texts(data, "train") == {text.format(number) for number in range(100, 112)}
    assert texts(data, "validation") == {text.format(number) for number in range(120, 124)}
    assert texts(data, "test") == {text.format(number) for number in range(130, 134)}
    assert data.info.skipped == ()
    assert data.info.notes[0] == "20 rows: train 12, validation 4, test 4"


def test_a_meme_has_its_class_image_and_place(write_published: WriteFolder) -> None:
    folder = write_published("hateful-memes")
    data = load("hateful-memes", folder)
    assert (data.info.problem, data.info.labels) == ("single_label", ("benign", "hateful"))
    row = row_of(data, "train", "101")
    assert row["label"] == 1
    assert row["image_path"] == str(folder / "img/00101.png")
    assert row["origin"] == f"{folder}/train.jsonl:2"


def test_an_entailment_row_has_the_hypothesis_and_its_class(write_published: WriteFolder) -> None:
    data = load("snli-ve", write_published("snli-ve"))
    assert data.info.labels == ("entailment", "neutral", "contradiction")
    assert row_of(data, "test", "133")["label"] == 133 % 3
    assert not any("caption" in text for split in data.dataset for text in texts(data, split))


def test_a_film_has_its_longest_plot_and_the_papers_genres(write_published: WriteFolder) -> None:
    folder = write_published("mm-imdb")
    data = load("mm-imdb", folder)
    assert (data.info.problem, data.info.labels, len(GENRES)) == ("multi_label", GENRES, 23)
    of_news, of_war = row_of(data, "train", "101"), row_of(data, "train", "100")
    assert [GENRES[index] for index in of_news["labels"]] == ["Drama"]
    assert [GENRES[index] for index in of_war["labels"]] == ["Drama", "War"]
    assert of_war["origin"] == f"{folder}/dataset/0000100.json:1"
    assert (
        "genres that the paper leaves out are left out of the films' labels: News 6"
        in data.info.notes
    )


def test_a_film_of_left_out_genres_alone_has_none(write_published: WriteFolder) -> None:
    folder = write_published("mm-imdb")
    film = {"plot": ["news of today"], "genres": ["News"]}
    (folder / "dataset/0000104.json").write_text(json.dumps(film))
    assert row_of(load("mm-imdb", folder), "train", "today")["labels"] == []


def test_without_test_labels_dev_is_tested_on(write_published: WriteFolder) -> None:
    form = "hateful-memes, first edition"
    data = load(form, write_published(form))
    assert texts(data, "test") == {f"meme {number}" for number in range(120, 124)}
    assert len(texts(data, "validation")) == 1
    assert len(texts(data, "train")) == 11
    assert data.info.notes == (
        "16 rows: train 11, validation 1, test 4",
        "no row fell into validation: 1 of 12 different images or texts went from train to it",
        "test.jsonl has no labels",
        "dev.jsonl is the test split, and validation is taken from train.jsonl",
    )


def test_a_labelled_test_set_of_the_first_edition_is_tested_on(
    write_published: WriteFolder,
) -> None:
    form = "hateful-memes, first edition"
    folder = write_published(form)
    test = folder / "test.jsonl"
    test.write_text(test.read_text().replace('"text"', '"label": 1, "text"'))
    assert texts(load(form, folder), "test") == {f"meme {number}" for number in range(130, 134)}


def test_the_unseen_test_set_stands_in_for_a_seen_one_without_labels(
    write_published: WriteFolder,
) -> None:
    folder = write_published("hateful-memes")
    seen = folder / "test_seen.jsonl"
    shutil.copy(seen, folder / "test_unseen.jsonl")
    lines = [json.loads(line) for line in seen.read_text().splitlines()]
    seen.write_text("".join(json.dumps({**line, "label": None}) + "\n" for line in lines))
    data = load("hateful-memes", folder)
    assert "test_seen.jsonl has no labels" in data.info.notes
    assert row_of(data, "test", "130")["origin"] == f"{folder}/test_unseen.jsonl:1"


@pytest.mark.parametrize(
    ("form", "moves"),
    [
        ("hateful-memes", {"*.jsonl": "annotations"}),
        ("hateful-memes", {"*.jsonl": "annotations", "img": "images"}),
        ("snli-ve", {"*.jsonl": "annotations"}),
        ("snli-ve", {"*.jsonl": "data", "flickr30k_images": "flickr30k_images"}),
    ],
    ids=["annotations", "mmf", "volta", "necla"],
)
def test_other_layouts_of_the_same_files_are_read(
    write_published: WriteFolder, form: str, moves: dict[str, str]
) -> None:
    folder = write_published(form)
    for pattern, target in moves.items():
        for path in sorted(folder.glob(pattern)):
            aside = path.rename(folder.parent / path.name)
            (folder / target).mkdir(exist_ok=True)
            aside.rename(folder / target / aside.name)
    assert load(form, folder).info.notes[0] == "20 rows: train 12, validation 4, test 4"


def test_a_folder_that_is_a_link_and_images_linked_within_it_are_read(
    write_published: WriteFolder, tmp_path: Path
) -> None:
    folder = write_published("hateful-memes")
    (folder / "img").rename(folder / "pictures")
    (folder / "img").symlink_to("pictures")
    (tmp_path / "link").symlink_to(folder)
    assert load("hateful-memes", tmp_path / "link").info.skipped == ()


@pytest.mark.parametrize("name", ["hateful-memes", "mm-imdb", "snli-ve"])
def test_options_of_other_sources_are_refused(name: str) -> None:
    for options in (SourceOptions(labels=("a", "b")), SourceOptions(examples=5)):
        with pytest.raises(ConfigError, match=f"does not apply to {name}:x"):
            load_source(f"{name}:x", options=options)


@pytest.mark.parametrize("name", ["hateful-memes", "mm-imdb", "snli-ve"])
@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("", r": needs its folder\. Use {}:DIR\."),
        (":", r": needs its folder\. Use {}:DIR\."),
        (":no/such", r"'no/such': no such folder\. Use {}:DIR with the folder as published"),
        (":a\0b", r"'a\\x00b': no such folder"),
        (":\udc80", r"'\\udc80': no such folder"),
        (":" + "x" * 5000, r"x'\.\.\. \(5,000 characters\): cannot be read \(File name too long\)"),
    ],
    ids=["no colon", "nothing", "missing", "NUL", "surrogate", "too long"],
)
def test_a_name_without_its_folder_is_refused(name: str, stated: str, message: str) -> None:
    with pytest.raises(DataError, match=message.format(name)) as caught:
        load_source(f"{name}{stated}", options=SourceOptions())
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("form", "metrics"),
    [
        ("hateful-memes", ("auroc",)),
        ("mm-imdb", ("macro_f1", "weighted_f1")),
        ("snli-ve", ()),
    ],
)
def test_a_set_states_what_its_paper_reports_beside_the_usual(
    write_published: WriteFolder, form: str, metrics: tuple[str, ...]
) -> None:
    assert load(form, write_published(form)).info.further_metrics == metrics


def test_a_run_on_a_folder_is_read_again_from_anywhere(
    write_published: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_published("hateful-memes")
    monkeypatch.chdir(folder.parent)
    config = RunConfig(
        data=DataConfig(spec="hateful-memes:data", image_size=16),
        teacher=TeacherConfig(epochs=1, batch_size=4),
        distill=DistillConfig(epochs=1, batch_size=4),
    )
    run = RunDirectory(tmp_path / "run")
    metrics = run_distillation(config, run)
    answer = evaluate_model(
        run.root, config.data.spec, options=SourceOptions(), split="test", threads=1
    )
    assert set(answer["further"]) == {"auroc"}
    of_run = metrics["student"]["further"]["test"]["auroc"]["multimodal"]
    assert answer["further"]["auroc"]["multimodal"]["value"] == of_run["value"]
    assert answer["metric"] == metrics["metric"] == "accuracy"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_run(run).config.data.spec == f"hateful-memes:{folder}"
    assert len(data_of_run(read_run(run), load_model(run.student).preprocessor).splits["test"]) == 4
    inside = RunDirectory(folder.parent)
    run.run_json.rename(inside.run_json)
    with pytest.raises(
        ArtifactError, match=r"data: lies in the run of .* that would be overwritten"
    ):
        run_distillation(with_absolute_paths(read_run(inside).config), inside, overwrite=True)
    folder.rename(folder.parent / "moved")
    with pytest.raises(DataError, match="data: the run's data set is missing"):
        data_of_run(read_run(inside), load_model(run.student).preprocessor)


@pytest.mark.parametrize(
    ("spec", "kind", "name", "path"),
    [
        ("synthetic:memes", "synthetic:memes", "synthetic:memes", None),
        ("easy-vqa", "easy-vqa", "easy-vqa", None),
        ("snli-ve:/a/b", "snli-ve", "snli-ve", Path("/a/b")),
        ("/a/rows.jsonl", "", "rows.jsonl", Path("/a/rows.jsonl")),
    ],
)
def test_a_specification_has_a_kind_a_name_and_perhaps_a_path(
    spec: str, kind: str, name: str, path: Path | None
) -> None:
    assert (kind_of_spec(spec), name_of_spec(spec), path_of_spec(spec)) == (kind, name, path)
    assert path is None or with_path(spec, path) == spec
