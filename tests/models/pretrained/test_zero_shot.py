"""Zero-shot teachers: their logits are those of transformers' models, and what cannot be one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ConfigError
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.folders import load_classifier, save_model
from msd_deploy.models.pretrained.families import open_checkpoint
from msd_deploy.models.pretrained.zero_shot import ZeroShotStart, zero_shot_start
from msd_deploy.problem import Problem
from msd_deploy.views import View
from tests.checkpoints import SIDE, batch_of

PROMPT = "a {label} on the left"
LABELS = ("red circle", "two blue squares", "guest")
TEXTS = ["look the guests came", "a red circle", "two blue squares at night"]
towers = pytest.mark.parametrize("family", ["clip", "siglip"])


def start_of(
    folder: Path, prompts: tuple[str, ...] = (PROMPT,), temperature: float | None = None
) -> ZeroShotStart:
    """A start with a scale and a bias of the checkpoint's own."""
    checkpoint = open_checkpoint(str(folder))
    with torch.no_grad():
        backbone: Any = checkpoint.backbone
        backbone.logit_scale.fill_(1.7)
        if folder.name == "siglip":
            backbone.logit_bias.fill_(-2.5)
    return zero_shot_start(checkpoint, prompts, temperature)


def built(
    start: ZeroShotStart, problem: Problem = "single_label"
) -> tuple[FamilyForClassification, Preprocessor]:
    preprocessor = start.preprocessor(TEXTS)
    return start.build(preprocessor, labels=LABELS, problem=problem), preprocessor


def inputs_of(model: FamilyForClassification, preprocessor: Preprocessor) -> dict[View, Tensor]:
    with torch.inference_mode():
        return model.logits_by_view(batch_of(preprocessor, TEXTS), tuple(View))


@torch.inference_mode()
def published_logits(start: ZeroShotStart, texts: list[str]) -> Any:
    """What transformers' own model makes of the images of `batch_of` and of texts."""
    preprocessor = start.preprocessor(texts, max_length=40)
    pixels = batch_of(preprocessor, TEXTS).pixel_values / 255
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    ids, mask = (torch.from_numpy(values).long() for values in preprocessor.tokens(texts))
    return start.checkpoint.backbone.eval()(
        input_ids=ids,
        pixel_values=(pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1),
        attention_mask=mask if start.checkpoint.kind == "clip" else None,
    )


@towers
def test_image_logits_are_those_of_transformers(published: dict[str, Path], family: str) -> None:
    start = start_of(published[family])
    logits = inputs_of(*built(start))
    expected = published_logits(start, [PROMPT.replace("{label}", name) for name in LABELS])
    assert torch.allclose(logits[View.IMAGE], expected.logits_per_image, atol=1e-4)
    assert expected.logits_per_image.std() > 0.01


@towers
def test_text_logits_compare_texts_with_prompts_and_both_are_averaged(
    published: dict[str, Path], family: str
) -> None:
    start = start_of(published[family])
    logits = inputs_of(*built(start))
    prompts = [PROMPT.replace("{label}", name) for name in LABELS]
    embeds = [published_logits(start, texts).text_embeds for texts in (TEXTS, prompts)]
    embeds = [functional.normalize(values, dim=-1) for values in embeds]
    bias = -2.5 if family == "siglip" else 0
    expected = torch.tensor(1.7).exp() * embeds[0] @ embeds[1].T + bias
    assert torch.allclose(logits[View.TEXT], expected, atol=1e-4)
    mean = (logits[View.IMAGE] + logits[View.TEXT]) / 2
    assert torch.allclose(logits[View.MULTIMODAL], mean, atol=1e-4)


@towers
def test_the_classes_of_several_prompts_are_normalized_means(
    published: dict[str, Path], family: str
) -> None:
    prompts = (PROMPT, "{label}", "look, a {label}; {not a place}")
    weights = [
        functional.normalize(built(start_of(published[family], (prompt,)))[0].classifier.weight)
        for prompt in prompts
    ]
    model, _ = built(start_of(published[family], prompts))
    expected = functional.normalize(torch.stack(weights).mean(dim=0))
    scale = torch.tensor(1.7).exp()
    assert torch.allclose(model.classifier.weight, scale * expected, atol=1e-5)


@towers
def test_a_temperature_scales_the_logits(published: dict[str, Path], family: str) -> None:
    own = inputs_of(*built(start_of(published[family])))
    start = start_of(published[family], temperature=0.5)
    ratio = 2 / torch.tensor(1.7).exp()
    for view, logits in inputs_of(*built(start)).items():
        assert torch.allclose(logits, ratio * own[view], atol=1e-4)
    assert start.facts() == {"prompts": [PROMPT], "temperature": 0.5}


@towers
@pytest.mark.parametrize("absent", ["image", "text"])
def test_an_example_without_one_modality_has_the_logits_of_the_other(
    published: dict[str, Path], family: str, absent: str
) -> None:
    model, preprocessor = built(start_of(published[family]))
    whole = batch_of(preprocessor, TEXTS)
    lacking = batch_of(preprocessor, ["" if absent == "text" else text for text in TEXTS])
    if absent == "image":
        lacking = replace(lacking, image_present=torch.zeros(len(TEXTS), dtype=torch.bool))
    with torch.inference_mode():
        expected = model.logits_by_view(whole, tuple(View))
        logits = model.logits_by_view(lacking, (View.MULTIMODAL,))[View.MULTIMODAL]
    other = View.IMAGE if absent == "text" else View.TEXT
    assert torch.allclose(logits, expected[other], atol=1e-5)


@towers
def test_a_saved_folder_has_the_same_logits(
    published: dict[str, Path], family: str, tmp_path: Path
) -> None:
    model, preprocessor = built(start_of(published[family]))
    task: dict[str, Any] = {"labels": LABELS, "problem": "single_label", "facts": {}}
    save_model(tmp_path / "model", model, preprocessor, **task)
    loaded = load_classifier(tmp_path / "model")
    assert isinstance(loaded.model, FamilyForClassification)
    again = inputs_of(loaded.model, loaded.preprocessor)
    for view, logits in inputs_of(model, preprocessor).items():
        assert torch.equal(logits, again[view])


def test_only_sigmoids_decide_on_each_class_alone(published: dict[str, Path]) -> None:
    problems: tuple[Problem, ...] = ("multi_label", "soft_label")
    for problem in problems:
        with pytest.raises(ConfigError, match=r"CLIP's logits compare classes.*SigLIP"):
            built(start_of(published["clip"]), problem)
        model, _ = built(start_of(published["siglip"]), problem)
        assert model.classifier.bias.unique().tolist() == [-2.5]


def test_one_class_and_a_prompt_that_is_too_long_are_refused(published: dict[str, Path]) -> None:
    start = start_of(published["clip"])
    preprocessor = start.preprocessor(TEXTS)
    with pytest.raises(ConfigError, match=r"requires two classes or more.*only cat\b"):
        start.build(preprocessor, labels=("cat",), problem="single_label")
    with pytest.raises(ConfigError, match=r"prompt of class 'look .*longer than .* 40 tokens"):
        start.build(preprocessor, labels=("cat", "look " * 30), problem="single_label")


def test_classes_whose_prompts_are_the_same_tokens_are_refused(published: dict[str, Path]) -> None:
    start = start_of(published["siglip"])
    preprocessor = start.preprocessor(TEXTS)
    with pytest.raises(ConfigError, match="prompts of '猫' and '鳥' are the same"):
        start.build(preprocessor, labels=("red", "猫", "鳥"), problem="single_label")


@pytest.mark.parametrize("family", ["vilt", "visual_bert"])
def test_families_without_towers_are_refused(published: dict[str, Path], family: str) -> None:
    vision = str(published["vision"]) if family == "visual_bert" else None
    checkpoint = open_checkpoint(str(published[family]), vision=vision)
    with pytest.raises(ConfigError, match="requires CLIP or SigLIP"):
        zero_shot_start(checkpoint, (PROMPT,), None)


SETTINGS: list[tuple[Callable[[], object], str]] = [
    (lambda: FineTuneConfig(model="m", zero_shot=("a photo",)), "'a photo' has no {label}"),
    (lambda: FineTuneConfig(model="m", zero_shot=(PROMPT, "{}")), "'{}' has no {label}"),
    (lambda: FineTuneConfig(zero_shot=(PROMPT,)), "zero_shot: requires a checkpoint"),
    (lambda: FineTuneConfig(text="t", vision="v", zero_shot=(PROMPT,)), "requires a checkpoint"),
    (lambda: FineTuneConfig(adapt="a", zero_shot=(PROMPT,)), "zero_shot: has no effect with --ad"),
    (lambda: FineTuneConfig(model="m", prompt_temperature=0.1), "requires a prompt"),
    (
        lambda: FineTuneConfig(model="m", zero_shot=(PROMPT,), prompt_temperature=0.0),
        "prompt_temperature: must lie between",
    ),
    (
        lambda: FineTuneConfig(model="m", zero_shot=(PROMPT,), epochs=2),
        "epochs: has no effect with --zero-shot, which trains nothing",
    ),
    (
        lambda: TeachingConfig(
            finetune=FineTuneConfig(model="m", zero_shot=(PROMPT,)),
            augment=AugmentConfig(preset="light"),
        ),
        "augment.preset: has no effect with --zero-shot",
    ),
    (
        lambda: TeachingConfig(
            DataConfig(class_weights="balanced"), FineTuneConfig(model="m", zero_shot=(PROMPT,))
        ),
        "data.class_weights: has no effect with --zero-shot",
    ),
]


@pytest.mark.parametrize(("make", "what"), SETTINGS, ids=[what for _, what in SETTINGS])
def test_settings_that_contradict_a_zero_shot_teacher_are_refused(
    make: Callable[[], object], what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert what in str(caught.value)


def test_the_side_of_the_checkpoint_is_that_of_the_images(published: dict[str, Path]) -> None:
    assert start_of(published["clip"]).preprocessor([]).image.size == (SIDE, SIDE)
