"""Published classifiers of one modality, as teachers of that view: of images or of texts.

A transformers folder with a head that was trained already, used as it is: config.json with the
names of the classes, safetensors, and preprocessor_config.json or a tokenizer. What our
preprocessing cannot follow is an error, as nothing is fine-tuned that could adapt to it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from msd_deploy.artifacts.manifest import Json, sha256_of_json
from msd_deploy.data.batch import Batch
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.resize import ImageSpec
from msd_deploy.errors import ArtifactError
from msd_deploy.models.classifier import ViewClassifier, task_config
from msd_deploy.models.folders import LoadedModel, check_that_it_runs
from msd_deploy.models.pretrained.files import (
    Channels,
    check_safetensors,
    digest_of_checkpoints,
    image_size_of,
    load_with_missing,
    normalisation,
    read_checkpoint_config,
    read_processor,
)
from msd_deploy.models.pretrained.text import TEXT_KINDS, positions_of, tokenizer_of
from msd_deploy.problem import Problem
from msd_deploy.views import View

_IMAGE_EXAMPLES = "ViT, ResNet, ConvNeXt, MobileNet"
_TEXT_KINDS = {**TEXT_KINDS, "distilbert": "DistilBERT"}
_PROBLEMS: dict[str | None, Problem] = {
    None: "single_label",
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
}
# Steps of an image processor that our preprocessing does, or that concern no pixels of an image.
_FOLLOWED = {
    *("do_resize", "do_rescale", "do_normalize", "do_center_crop"),
    *("do_convert_rgb", "do_reduce_labels"),
}
# Further steps, and the processors that do them where their files do not say otherwise.
_FURTHER = {
    "do_flip_channel_order": "MobileViT",
    "include_top": "EfficientNet",
    "rescale_offset": None,
}
# ConvNeXT's processor cuts a margin off below this side, and distorts images to a square above.
_CUT_BELOW = 384
_UNCHANGED: tuple[Channels, Channels] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Of the modality that a classifier does not have.
_NO_TEXT_LENGTH, _NO_IMAGE_SIZE = 4, (16, 16)


class PublishedClassifier(ViewClassifier):
    """A published classifier of one modality, whose logits are those of every view.

    Args:
        config: Names of the classes, and the kind of the problem.
        model: The checkpoint's model with its head.
        view: View.IMAGE or View.TEXT.
        channels: Mean and standard deviation per RGB channel, in units of 0..255.
    """

    config_class = PreTrainedConfig

    def __init__(
        self,
        config: PreTrainedConfig,
        model: PreTrainedModel,
        view: View,
        channels: tuple[Channels, Channels],
    ) -> None:
        super().__init__(config)
        self.model, self.view = model, view
        self.set_channels(*channels)

    def logits_by_view(self, batch: Batch, views: Iterable[View]) -> dict[View, Tensor]:
        """Compute the logits [batch, classes] from the one modality, whatever the view."""
        if self.view is View.IMAGE:
            images = self.normalised(batch.pixel_values)
            logits = self.model(pixel_values=images).logits[batch.image_index]
        else:
            logits = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask
            ).logits
        return dict.fromkeys(views, logits)


def open_published(folder: Path, view: View) -> LoadedModel[ViewClassifier]:
    """Load a published classifier.

    Args:
        folder: A transformers folder.
        view: View.IMAGE or View.TEXT, the modality of the classifier.

    Raises:
        ArtifactError: It is not a classifier of this modality, cannot be loaded or run, or has an
            image processor that our preprocessing does not follow.
        ConfigError: Its tokenizer has tokens without an embedding.
    """
    config = read_checkpoint_config(folder, str(folder))
    _check_kind(config, view, folder)
    check_safetensors(folder, str(folder))
    labels, problem = _labels_of(config, folder), _problem_of(config, folder)
    if len(labels) < 2 and problem == "single_label":
        raise ArtifactError("has one class: a regression", where=folder, fix="Use a classifier")
    channels = _UNCHANGED
    if view is View.IMAGE:
        processor = read_processor(folder)
        _check_processor(processor, folder)
        channels = normalisation(processor)
        preprocessor = preprocessor_of_images(_image_spec(config, processor, folder))
        model, _ = load_with_missing(folder, AutoModelForImageClassification)
    else:
        model, _ = load_with_missing(folder, AutoModelForSequenceClassification)
        preprocessor = preprocessor_of_texts(model, folder)
    task = PreTrainedConfig(**task_config(labels, problem))
    classifier = PublishedClassifier(task, model, view, channels)
    nn.Module.eval(classifier)
    check_that_it_runs(classifier, preprocessor, folder)
    digest = sha256_of_json([digest_of_checkpoints(folder), preprocessor.digest()])
    return LoadedModel(classifier, preprocessor, labels, problem, digest, folder)


def preprocessor_of_images(spec: ImageSpec) -> Preprocessor:
    """Return the preprocessor of a model without texts, whose tokenizer knows no word."""
    tokenizer = train_tokenizer([], vocabulary_size=1)
    return build_preprocessor(tokenizer, spec, max_length=_NO_TEXT_LENGTH)


def preprocessor_of_texts(model: PreTrainedModel, folder: Path) -> Preprocessor:
    """Return the preprocessor of a text model without images, which are decoded at a tiny size.

    Args:
        model: The model, whose positions are the longest text.
        folder: Its folder, with its tokenizer.
    """
    tokenizer, (pad_token, absent_token) = tokenizer_of(model, folder)
    return build_preprocessor(
        tokenizer,
        ImageSpec(_NO_IMAGE_SIZE),
        max_length=positions_of(model),
        pad_token=pad_token,
        absent_token=absent_token,
    )


def _check_kind(config: PreTrainedConfig, view: View, folder: Path) -> None:
    is_image = view is View.IMAGE
    kinds = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if is_image else _TEXT_KINDS
    if config.model_type not in kinds:
        known = _IMAGE_EXAMPLES if is_image else ", ".join(_TEXT_KINDS.values())
        raise ArtifactError(
            f"is not a classifier of {view}s that is supported ({config.model_type})",
            where=folder,
            fix=f"Use one of {known}, or a model folder of `msd teacher`",
        )


def _labels_of(config: PreTrainedConfig, folder: Path) -> tuple[str, ...]:
    names: Mapping[Any, str] = config.id2label or {}
    labels = [names.get(index) for index in range(len(names))]
    wrong = [label for label, times in Counter(labels).items() if times > 1 or label is None]
    if wrong or not labels:
        raise ArtifactError(
            f"has no name of its own for each class in id2label ({', '.join(map(str, wrong))})",
            where=folder / "config.json",
            fix="Correct id2label",
        )
    return tuple(map(str, labels))


def _problem_of(config: PreTrainedConfig, folder: Path) -> Problem:
    kind = config.problem_type
    if kind not in _PROBLEMS:
        raise ArtifactError(
            f"was trained for another kind of task ({kind})",
            where=folder,
            fix="Use a classifier",
        )
    return _PROBLEMS[kind]


def _check_processor(processor: Json, folder: Path) -> None:
    """Check that an image processor takes no step that our preprocessing does not.

    Raises:
        ArtifactError: Names the step.
    """
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type")))
    steps = {key: value for key, value in processor.items() if key.startswith("do_")}
    for key, usual in _FURTHER.items():
        steps[key] = processor.get(key, usual is not None and kind.startswith(usual))
    taken = sorted(key for key, value in steps.items() if value and key not in _FOLLOWED)
    if not processor.get("do_resize", True):
        taken.insert(0, "do_resize false")
    if taken:
        raise ArtifactError(
            f"has an image processor that is not supported ({kind}: {', '.join(taken)}), and the"
            " classifier would see other images than in its training",
            where=folder / "preprocessor_config.json",
            fix="Use another checkpoint, or fine-tune one with `msd teacher --view image`",
        )


def _image_spec(config: PreTrainedConfig, processor: Json, folder: Path) -> ImageSpec:
    """Return the processor's image size, and that of the model where it has none.

    As for other checkpoints, an image that the processor distorts to a square is padded instead.
    """
    is_cut = bool(processor.get("do_center_crop"))
    has_size = processor.get("crop_size" if is_cut else "size") is not None
    size = image_size_of(PreTrainedConfig() if has_size else config, processor, folder)
    is_cut = is_cut or ("crop_pct" in processor and max(size) < _CUT_BELOW)
    return ImageSpec(size, "crop" if is_cut else "fit")
