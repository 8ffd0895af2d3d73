"""A pretrained encoder of one modality as the start of a teacher of that view alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from msd_deploy.data.preprocess import Preprocessor, build_preprocessor
from msd_deploy.data.resize import ImageSpec
from msd_deploy.models.classifier import task_config
from msd_deploy.models.configs import SpecialistConfig
from msd_deploy.models.pretrained.classifiers import preprocessor_of_images, preprocessor_of_texts
from msd_deploy.models.pretrained.files import (
    Channels,
    digest_of_checkpoints,
    plain_config,
    text_length,
)
from msd_deploy.models.pretrained.teacher import refuse_inputs
from msd_deploy.models.pretrained.text import load_text_model
from msd_deploy.models.pretrained.vision import open_vision
from msd_deploy.models.specialist import SpecialistForClassification
from msd_deploy.problem import Problem
from msd_deploy.views import View


@dataclass(frozen=True, slots=True)
class PretrainedSpecialist:
    """A pretrained encoder of images or of texts; see `PretrainedTeacher`.

    Attributes:
        view: View.IMAGE or View.TEXT.
        config: Configuration of the encoder for a SpecialistConfig.
        weights: Its state dict.
        own: Its preprocessor: with the image size that it was trained with, or with texts of all
            tokens that it has positions for.
        checkpoint_digest: SHA-256 of the checkpoint.
        image_mean: Per RGB channel, in units of 0..255.
        image_std: Per RGB channel, in units of 0..255.
    """

    view: View
    config: Mapping[str, object]
    weights: Mapping[str, Tensor]
    own: Preprocessor
    checkpoint_digest: str
    image_mean: Channels = (0.0, 0.0, 0.0)
    image_std: Channels = (1.0, 1.0, 1.0)

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.view.value

    @property
    def has_vision_encoder(self) -> bool:
        """Whether it is an encoder of images."""
        return self.view is View.IMAGE

    def digest(self) -> str:
        """Return the SHA-256 of the checkpoint."""
        return self.checkpoint_digest

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Build its preprocessor; see `PretrainedTeacher`.

        Raises:
            ConfigError: A setting is of the other modality, or the encoder does not support it.
        """
        unused = {"tokenizer": tokenizer, "image_size": image_size}
        if self.has_vision_encoder:
            unused = {"tokenizer": tokenizer, "max_length": max_length}
        refuse_inputs(unused, f"is not available for a teacher of the {self.view} alone")
        own = self.own
        if self.has_vision_encoder:
            size = own.image.size if image_size is None else (image_size, image_size)
            return replace(own, image=replace(own.image, size=size))
        loaded = Tokenizer.from_str(own.tokenizer.to_str())
        return build_preprocessor(
            loaded,
            own.image,
            max_length=text_length(loaded, texts, requested=max_length, limit=own.max_length),
            pad_token=own.pad_token,
            absent_token=own.absent_token,
        )

    def build(
        self,
        preprocessor: Preprocessor,
        *,
        labels: tuple[str, ...],
        problem: Problem,
        dropout: float,
    ) -> SpecialistForClassification:
        """Build a model with the checkpoint's weights and a new head for a task."""
        model = SpecialistForClassification(
            SpecialistConfig(
                view=self.view.value,
                encoder=dict(self.config),
                image_size=preprocessor.image.size,
                image_mean=self.image_mean,
                image_std=self.image_std,
                max_text_length=self.own.max_length,
                dropout=dropout,
                **task_config(labels, problem),
            )
        )
        model.encoder.load_state_dict(dict(self.weights))
        model.mark_pretrained(model.encoder)
        return model


def open_encoder(view: View, name: str) -> PretrainedSpecialist:
    """Load a pretrained encoder.

    Args:
        view: View.IMAGE or View.TEXT, its modality.
        name: See `open_vision` and `open_text`.

    Raises:
        ConfigError: The package is not installed.
        ArtifactError: It cannot be loaded, or is of another modality.
    """
    if view is View.IMAGE:
        vision = open_vision(name)
        spec = ImageSpec(vision.image_size, "crop" if vision.is_cut else "fit")
        return PretrainedSpecialist(
            view,
            vision.config,
            vision.weights,
            preprocessor_of_images(spec),
            vision.digest,
            vision.image_mean,
            vision.image_std,
        )
    folder, model = load_text_model(name)
    weights = {key: t for key, t in model.state_dict().items() if not key.startswith("pooler.")}
    return PretrainedSpecialist(
        view,
        plain_config(model),
        weights,
        preprocessor_of_texts(model, folder),
        digest_of_checkpoints(folder),
    )
