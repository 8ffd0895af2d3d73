"""Exports of model folders that no run made: teachers of our own kind and of other families."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.labels import in_classes_of
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.source import SourceOptions, training_texts
from msd_deploy.data.vocabulary import cut_vocabulary
from msd_deploy.errors import ArtifactError, ConfigError, DataError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.folders import load_classifier, save_model
from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.problem import NO_LABEL
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.graph import as_tensors, graph_around
from msd_export.onnx.branches import laid_out
from msd_export.opened_model import open_model
from msd_export.pipeline import export_model
from msd_export.predictors import open_predictor
from msd_export.signature import ModelInputs
from msd_export.source import with_cut_vocabulary
from tests.checkpoints import TEXTS, batch_of

MEMES = "synthetic:memes"
FEW = SourceOptions(examples=16)
FAMILIES = ("clip", "siglip", "vilt", "visual_bert")
FORMS = (("onnx", "fp32"), ("onnx", "int8"), ("coreml", "fp16"))


@pytest.fixture(scope="module")
def family_folders(
    published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An untrained teacher of each family, as `msd teacher` writes it."""
    folders = {family: tmp_path_factory.mktemp("families") / family for family in FAMILIES}
    for family, folder in folders.items():
        vision = str(published["vision"]) if family == "visual_bert" else None
        opened = open_checkpoint(str(published[family]), vision=vision)
        preprocessor = opened.preprocessor(TEXTS)
        torch.manual_seed(0)
        model = opened.build(
            preprocessor, labels=("hateful", "benign"), problem="single_label", dropout=0.0
        )
        with torch.no_grad():  # what stands for an absent part starts as nothing
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        save_model(
            folder,
            model,
            preprocessor,
            labels=("hateful", "benign"),
            problem="single_label",
            facts={},
        )
    return folders


def inputs_of(preprocessor: Preprocessor, view: View, *, other: bool) -> ModelInputs:
    """Three rows under a view; `other` changes what the view does not show."""
    batch = batch_of(preprocessor, TEXTS)
    image = batch.pixel_values.permute(0, 2, 3, 1).numpy().copy()
    input_ids, attention_mask = preprocessor.tokens(TEXTS)
    if other and not view.has_image:
        image = 255 - image
    if not view.has_text:
        attention_mask[:, 1:] = 0
        input_ids[:, 0] = preprocessor.cls_id
        if other:
            input_ids[:, 1:] = np.roll(input_ids[:, 1:], 1, axis=0)
    present = np.full(len(TEXTS), view.has_image, np.int32)
    return {
        "image": image,
        "image_present": present,
        "input_ids": input_ids,
        "attention_mask": attention_mask,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_gives_the_familys_logits_for_each_view_by_values_alone(
    family_folders: dict[str, Path], family: str
) -> None:
    loaded = load_classifier(family_folders[family])
    assert isinstance(loaded.model, FamilyForClassification)
    graph = graph_around(loaded)
    with torch.inference_mode():
        wanted = loaded.model.logits_by_view(batch_of(loaded.preprocessor, TEXTS), tuple(View))
        for view in View:
            for other in (False, True):
                inputs = inputs_of(loaded.preprocessor, view, other=other)
                logits, probabilities = graph(*as_tensors(inputs))
                np.testing.assert_allclose(logits, wanted[view], atol=1e-5)
                np.testing.assert_allclose(probabilities, wanted[view].softmax(-1), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_and_verified(
    family_folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    folder = family_folders[family]
    config = ExportConfig(FORMS, max_drop_points=100, examples=6)
    exports = export_model(folder, MEMES, config, options=FEW, out=tmp_path / "out")
    assert [item.name for item in exports] == ["onnx-fp32", "onnx-int8", "coreml-fp16"]
    loaded = load_classifier(folder)
    assert isinstance(loaded.model, FamilyForClassification)
    with torch.inference_mode():
        wanted = loaded.model.logits_by_view(batch_of(loaded.preprocessor, TEXTS), tuple(View))
    predictor = open_predictor(exports[0].target, exports[0].model_path)
    for view in View:
        for other in (False, True):
            inputs = inputs_of(loaded.preprocessor, view, other=other)
            np.testing.assert_allclose(predictor.predict(inputs), wanted[view], atol=1e-4)


def test_a_teacher_of_our_own_kind_is_exported_beside_its_folder(own_run: RunDirectory) -> None:
    line = ["export", str(own_run.teacher), "--data", MEMES, "--target", "onnx", "--json"]
    line += ["--precision", "fp32", "--examples", "20", "--max-drop", "100"]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 0, answer.stderr
    folder = own_run.root / "teacher-exports" / "onnx-fp32"
    manifest = read_json(folder / "manifest.json")
    assert manifest["source_digest"] == load_classifier(own_run.teacher).digest
    assert str(own_run.root / "teacher-exports") in answer.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", MEMES], "Invalid value for --data: a run is exported with the data"),
        (["--out", "elsewhere"], "Invalid value for --out: a run is exported with the data"),
        (["--strict"], "Invalid value for --strict: a run's own data set is read as for its"),
        (["--cut-vocab", "9"], "Invalid value for --cut-vocab: a run is exported with the voc"),
    ],
)
def test_a_run_brings_its_own_data_and_place(
    finished_run: RunDirectory, options: list[str], message: str
) -> None:
    runner = CliRunner(env={"COLUMNS": "300"})
    answer = runner.invoke(app, ["export", str(finished_run.root), *options])
    assert answer.exit_code == 2
    assert message in answer.stderr


def test_a_model_folder_needs_data(finished_run: RunDirectory) -> None:
    runner = CliRunner(env={"COLUMNS": "300"})
    answer = runner.invoke(app, ["export", str(finished_run.teacher)])
    assert answer.exit_code == 2
    assert (
        "--data: a model or export folder has no data set of its own. Name one (--data SPEC)."
        in answer.stderr
    )


def test_data_with_other_classes_is_refused(finished_run: RunDirectory, tmp_path: Path) -> None:
    config = ExportConfig((("onnx", "fp32"),))
    with pytest.raises(DataError, match=r"has other classes than the model .* benign, hateful"):
        export_model(
            finished_run.teacher, "synthetic:entailment", config, options=FEW, out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_exports_may_not_alter_the_model_folder(finished_run: RunDirectory) -> None:
    config = ExportConfig((("onnx", "fp32"),))
    inside = finished_run.teacher / "exports"
    with pytest.raises(ArtifactError, match="lies inside the model folder"):
        export_model(finished_run.teacher, MEMES, config, options=FEW, out=inside)


def test_labels_are_numbered_as_the_model_does(memes: tuple[PreparedData, Preprocessor]) -> None:
    data = memes[0]
    split = data.splits["test"]
    wider = in_classes_of(data, ("other", "hateful", "benign"))
    assert wider.info.labels == ("other", "hateful", "benign")
    named = [wider.info.labels[label] for label in wider.splits["test"].labels.tolist()]
    assert named == [data.info.labels[label] for label in split.labels.tolist()]
    assert in_classes_of(data, data.info.labels) is data
    labels = split.labels.copy()
    labels[0] = NO_LABEL
    partly = replace(data, splits={**data.splits, "test": replace(split, labels=labels)})
    assert in_classes_of(partly, ("hateful", "benign")).splits["test"].labels[0] == NO_LABEL


def test_a_vocabulary_is_cut_with_its_embedding_and_verified_against_the_whole(
    finished_run: RunDirectory, tmp_path: Path
) -> None:
    whole = load_classifier(finished_run.student).preprocessor.tokenizer.get_vocab_size()
    texts = training_texts(load_source(MEMES, options=SourceOptions(examples=200)))
    own = len(
        cut_vocabulary(load_classifier(finished_run.student).preprocessor.tokenizer, texts).kept
    )
    config = ExportConfig((("onnx", "fp32"),), 100.0, cut_vocabulary=own)
    told: list[str] = []
    (export,) = export_model(
        finished_run.student,
        MEMES,
        config,
        options=SourceOptions(examples=200),
        out=tmp_path / "exports",
        hooks=StageHooks(on_note=told.append),
    )
    facts = read_json(export.folder / "parity.json")["conversion"]["vocabulary"]  # type: ignore[index]
    assert (facts["tokens"], facts["of"]) == (own, whole)  # type: ignore[index]
    assert own < whole
    assert facts["coverage"] == 1.0  # type: ignore[index]
    assert facts["views"]["image"]["max_abs_error"] < 1e-5  # type: ignore[index]
    assert any(f"cut to {own:,} tokens" in note for note in told)
    opened = open_model(export.folder)
    assert opened.preprocessor.tokenizer.get_vocab_size() == own
    embeddings = [i for i in onnx.load(export.model_path).graph.initializer if i.dims[:1] == [own]]
    assert len(embeddings) == 1


def test_a_vocabulary_too_small_for_single_characters_is_refused(
    finished_run: RunDirectory, tmp_path: Path
) -> None:
    config = ExportConfig((("onnx", "fp32"),), cut_vocabulary=3)
    with pytest.raises(ConfigError, match="3 tokens do not hold the"):
        export_model(finished_run.student, MEMES, config, options=FEW, out=tmp_path / "exports")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["visual_bert", "vilt"])
def test_a_family_of_berts_type_is_cut_too(family_folders: dict[str, Path], family: str) -> None:
    loaded = load_classifier(family_folders[family])
    cut, told = with_cut_vocabulary(loaded, TEXTS[:1], most=80)
    assert cut.preprocessor.tokenizer.get_vocab_size() == len(told.kept) == 80
    answers = []
    for model in (loaded, cut):
        inputs = inputs_of(model.preprocessor, View.MULTIMODAL, other=False)
        texts = [TEXTS[0]] * len(TEXTS)
        inputs["input_ids"], inputs["attention_mask"] = model.preprocessor.tokens(texts)
        with torch.no_grad():
            answers.append(graph_around(model)(*as_tensors(inputs))[0])
    assert torch.allclose(*answers, atol=1e-6)
    assert loaded.preprocessor.tokenizer.get_vocab_size() > 80


def test_heads_that_no_logit_reads_are_not_exported(
    family_folders: dict[str, Path], tmp_path: Path
) -> None:
    """A ViT's pooler: tokens are read, not what it makes of the first one."""
    folder = family_folders["visual_bert"]
    unread = [name for name, _ in load_classifier(folder).model.named_parameters()]
    unread = [name for name in unread if "vision.backbone.pooler" in name]
    assert len(unread) == 2
    config = ExportConfig((("onnx", "fp32"),), 100.0, examples=4)
    (export,) = export_model(folder, MEMES, config, options=FEW, out=tmp_path / "exports")
    stored = [tensor.name for tensor in laid_out(onnx.load(export.model_path).graph).initializer]
    assert any("vision.backbone" in name for name in stored)
    assert not any("vision.backbone.pooler" in name for name in stored)
