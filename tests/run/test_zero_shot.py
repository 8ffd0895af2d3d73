"""From a CLIP that never saw a label to a student: `msd teacher --zero-shot`, then `msd distill`.

The CLIP is trained here, in seconds, on pictures of coloured shapes and captions of them.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.data.synthetic.drawing import (
    COLOURS,
    IMAGE_SIZE,
    NOTHING,
    SHAPES,
    code_of,
    encode_png,
    render,
)
from msd_deploy.errors import DataError
from msd_deploy.hooks import RunHooks, StageHooks
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_export.config import ExportConfig
from msd_export.pipeline import export_model
from tests.checkpoints import write_checkpoint
from tests.command_server import CommandServer

USED_COLOURS, USED_SHAPES = tuple(COLOURS)[:5], SHAPES[:4]
THINGS = [f"{colour} {shape}" for colour in USED_COLOURS for shape in USED_SHAPES]
CLASSES = ("red circle", "red cross", "blue square", "green circle", "yellow triangle")
CAPTIONS = ("a photo of a {}", "the {} in a picture", "{} on grey", "sold : {} as new")
VAGUE = "something {} for sale"
PROMPTS = ("a photo of a {label}", "{label} on grey")
STEPS, PAIRS = 250, 40


def pictures(things: list[str], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a thing in one to three of four places each, [things, 48, 48, 3]."""
    shapes = [(thing.split()[1], thing.split()[0]) for thing in things]
    codes = np.array([code_of(shape, colour) for shape, colour in shapes])
    objects = np.where(rng.random((len(things), 4)) < 0.5, codes[:, None], NOTHING)
    objects[np.arange(len(things)), rng.integers(0, 4, len(things))] = codes
    return render(objects, rng)


def texts(things: list[str], rng: np.random.Generator) -> list[str]:
    """Describe things; a third of the texts have the colour alone."""
    return [
        VAGUE.format(thing.split()[0])
        if rng.random() < 1 / 3
        else CAPTIONS[rng.integers(len(CAPTIONS))].format(thing)
        for thing in things
    ]


def whole_words() -> Tokenizer:
    """CLIP's special tokens around whole words."""
    words = " ".join([*CAPTIONS, VAGUE, *THINGS]).replace("{}", "").split()
    known = ["<|startoftext|>", "<|endoftext|>", *dict.fromkeys(words)]
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=known[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing((known[1], 1), (known[0], 0))
    return tokenizer


def train_clip(folder: Path) -> Path:
    """Train a CLIP on pairs of pictures and captions (InfoNCE), and write it as published."""
    torch.manual_seed(0)
    tokenizer, rng = whole_words(), np.random.default_rng(1)
    tower = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
    text = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 16}
    config = CLIPConfig(
        text_config=tower
        | text
        | {"num_hidden_layers": 1}
        | {"bos_token_id": 0, "eos_token_id": 1}
        | {"pad_token_id": 1},
        vision_config=tower | {"num_hidden_layers": 2, "image_size": IMAGE_SIZE, "patch_size": 8},
        projection_dim=32,
    )
    model = CLIPModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    tokenizer.enable_padding(pad_id=1, pad_token="<|endoftext|>")
    for _ in range(STEPS):
        things = [*THINGS, *THINGS]
        encoded = tokenizer.encode_batch(texts(things, rng))
        pixels = torch.from_numpy(pictures(things, rng)).permute(0, 3, 1, 2) / 127.5 - 1
        loss = model(
            input_ids=torch.tensor([each.ids for each in encoded]),
            attention_mask=torch.tensor([each.attention_mask for each in encoded]),
            pixel_values=pixels,
            return_loss=True,
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tokenizer.no_padding()
    half = [0.5, 0.5, 0.5]
    return write_checkpoint(
        folder, model, tokenizer, "<|endoftext|>", image_mean=half, image_std=half
    )


def write_rows(folder: Path, train: int, test: int) -> Path:
    """Write unlabelled rows, and labelled ones to test on."""
    rng = np.random.default_rng(2)
    things = [CLASSES[number] for number in rng.integers(0, len(CLASSES), train + test)]
    rows = zip(things, texts(things, rng), pictures(things, rng), strict=True)
    with (folder / "rows.jsonl").open("w") as file:
        for number, (thing, text, picture) in enumerate(rows):
            (folder / f"{number}.png").write_bytes(encode_png(picture))
            row = {"image": f"{number}.png", "text": text}
            if number >= train:
                row |= {"label": thing, "split": "test"}
            file.write(json.dumps(row) + "\n")
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_clip(tmp_path_factory.mktemp("published") / "clip")


@pytest.fixture(scope="module")
def config(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> TeachingConfig:
    path = write_rows(tmp_path_factory.mktemp("data"), 600, 200)
    return TeachingConfig(
        data=DataConfig(spec=str(path), labels=CLASSES),
        finetune=FineTuneConfig(model=str(clip), zero_shot=PROMPTS),
    )


@pytest.fixture(scope="module")
def teacher(config: TeachingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zero-shot teacher; read it, never write into it."""
    folder = tmp_path_factory.mktemp("teachers") / "clip"
    fine_tune_teacher(config, folder)
    return folder


def values(scores: Any) -> dict[str, float]:
    return {view: score["value"] for view, score in scores.items()}


@pytest.mark.slow
def test_a_student_learns_from_a_zero_shot_teacher_without_any_label(
    config: TeachingConfig, teacher: Path, tmp_path: Path
) -> None:
    run = RunConfig(
        data=replace(config.data, labels=None),  # the teacher's
        teacher=TeacherConfig(path=teacher),
        distill=DistillConfig(epochs=25),
    )
    metrics: Any = run_distillation(run, RunDirectory(tmp_path / "run"))
    taught, learned = (values(metrics[name]["test"]) for name in ("teacher", "student"))
    chance = 1 / len(CLASSES)
    for view, least in (("multimodal", 0.8), ("image", 0.6), ("text", 0.5)):
        assert taught[view] > least > 2 * chance
        assert learned[view] > taught[view] - 0.15


def test_nothing_is_trained_and_the_manifest_names_prompts_and_temperature(
    config: TeachingConfig, teacher: Path
) -> None:
    manifest: Any = read_json(teacher / "manifest.json")
    assert manifest["zero_shot"]["prompts"] == list(PROMPTS)
    assert manifest["zero_shot"]["temperature"] == pytest.approx(0.07, rel=0.5)
    assert len(manifest["checkpoint_digest"]) == 64
    assert "training" not in manifest
    assert set(manifest["result"]) >= {"test"}
    assert "validation" not in manifest["result"]
    assert not (teacher / "training.json").exists()


def test_no_note_is_about_early_stopping_as_nothing_is_trained(
    config: TeachingConfig, tmp_path: Path
) -> None:
    notes: list[str] = []
    hooks = RunHooks(StageHooks(on_note=notes.append))
    fine_tune_teacher(config, tmp_path / "teacher", hooks=hooks)
    assert "no validation row has a label: models are not scored on it" in notes
    assert not any("early stopping" in note or "epoch" in note for note in notes)


def test_the_classes_are_those_of_labelled_rows_or_named(
    config: TeachingConfig, tmp_path: Path
) -> None:
    found = replace(config, data=replace(config.data, labels=None))
    fine_tune_teacher(found, tmp_path / "found")
    assert read_json(tmp_path / "found" / "labels.json")["labels"] == sorted(CLASSES)
    bare = tmp_path / "bare.jsonl"
    captions = texts([*CLASSES] * 10, np.random.default_rng(3))
    bare.write_text("".join(json.dumps({"text": text}) + "\n" for text in captions))
    unnamed = replace(config, data=DataConfig(spec=str(bare)))
    with pytest.raises(DataError, match=r"no classes are named.*--labels"):
        fine_tune_teacher(unnamed, tmp_path / "unnamed")
    named = replace(unnamed, data=replace(unnamed.data, labels=CLASSES))
    result = fine_tune_teacher(named, tmp_path / "named")
    assert not {"validation", "test"}.intersection(result)


def test_the_command_takes_several_prompts_with_commas(
    config: TeachingConfig, clip: Path, commands: CommandServer, tmp_path: Path
) -> None:
    prompts = ("{label} on grey", "sold : {label} , as new")
    given = ("--model", clip, "--data", config.data.spec, "--labels", ",".join(CLASSES))
    repeated = [word for prompt in prompts for word in ("--zero-shot", prompt)]
    done = commands.run("teacher", *given, *repeated, "--out", tmp_path / "t", folder=tmp_path)
    assert done.code == 0
    teaching: Any = read_json(tmp_path / "t" / "manifest.json")["teaching"]
    assert teaching["finetune"]["zero_shot"] == list(prompts)
    done = commands.run("teacher", *given, "--zero-shot", "", "--out", "x", folder=tmp_path)
    assert done.code == 2
    assert "--zero-shot" in done.stderr


def test_labelled_validation_rows_show_the_best_temperature(
    config: TeachingConfig, tmp_path: Path
) -> None:
    def best(temperature: float | None) -> float:
        notes: list[str] = []
        finetune = replace(config.finetune, prompt_temperature=temperature)
        fine_tune_teacher(
            TeachingConfig(data=DataConfig(spec=str(path)), finetune=finetune),
            tmp_path / f"teacher-{temperature}",
            hooks=RunHooks(StageHooks(on_note=notes.append)),
        )
        (note,) = (note for note in notes if "--prompt-temperature" in note)
        return float(note.rpartition(" ")[2])

    things = [*CLASSES] * 12
    captions = texts(things, np.random.default_rng(4))
    rows = [
        {"text": text, "label": thing, "split": "validation"}
        for thing, text in zip(things, captions, strict=True)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in [
                *rows,
                *({"text": text} for text in texts(things, np.random.default_rng(5))),
            ]
        )
    )
    found = best(None)
    assert best(found) == pytest.approx(found, rel=0.02)


def test_a_zero_shot_teacher_is_exported_with_the_same_decisions(
    config: TeachingConfig, teacher: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(teacher, tmp_path / "teacher"))
    (export,) = export_model(
        own, config.data.spec, ExportConfig(variants=(("onnx", "fp32"),)), options=SourceOptions()
    )
    views: Any = read_json(export.folder / "parity.json")["views"]
    assert min(view["agreement"] for view in views.values()) == 1
