"""A teacher that is not trained: a CLIP or SigLIP checkpoint whose classes are prompts.

A class is the direction of its prompts' text embeddings: each prompt's embedding is normalized, and
so is their mean (Radford et al. 2021, section 3.1.4). With temperature T, the logit of a class is

    cos(embedding, class) / T

of the image's embedding and of the text's; of an example with both it is the mean of these two
logits. SigLIP's logits are sigmoids, and (cos - c) / T with the checkpoint's own c. The default T
is the checkpoint's own: then an image's logits are those of transformers' model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, fitting_length
from msd_deploy.errors import ConfigError
from msd_deploy.models.families import FamilyForClassification
from msd_deploy.models.pretrained.families import Checkpoint
from msd_deploy.models.towers import ClipParts, SiglipParts
from msd_deploy.problem import Problem, has_independent_classes

PLACE = "{label}"
"""Place of the class name in a prompt."""


@dataclass(frozen=True, slots=True)
class ZeroShotStart:
    """A checkpoint with two towers, and the prompts of its classes; see `PretrainedTeacher`.

    Attributes:
        checkpoint: The checkpoint.
        prompts: Prompts with `PLACE`.
        temperature: Temperature of the logits; None: the checkpoint's own.
    """

    checkpoint: Checkpoint
    prompts: tuple[str, ...]
    temperature: float | None = None

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.checkpoint.family

    @property
    def has_vision_encoder(self) -> bool:
        """Always true."""
        return True

    def digest(self) -> str:
        """Compute the SHA-256 of the checkpoint."""
        return self.checkpoint.digest()

    def preprocessor(
        self,
        texts: Iterable[str],
        *,
        tokenizer: Path | None = None,
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> Preprocessor:
        """Build its preprocessor; see `Checkpoint`."""
        return self.checkpoint.preprocessor(
            texts, tokenizer=tokenizer, max_length=max_length, image_size=image_size
        )

    def build(
        self,
        preprocessor: Preprocessor,
        *,
        labels: tuple[str, ...],
        problem: Problem,
        dropout: float = 0.0,
    ) -> FamilyForClassification:
        """Build a model that classifies by the classes' prompts.

        Raises:
            ConfigError: There is one class; an example may have several, and the checkpoint is
                CLIP's, whose logits have no zero; a prompt is too long; or the prompts of two
                classes are the same tokens.
        """
        if has_independent_classes(problem) and self.checkpoint.kind == "clip":
            raise ConfigError(
                f"CLIP's logits compare classes and cannot decide on each one alone ({problem})",
                where="finetune.zero_shot",
                fix="Use a SigLIP checkpoint, or data with one class for each example",
            )
        if len(labels) < 2 and problem == "single_label":
            raise ConfigError(
                f"requires two classes or more, and the data has only {', '.join(labels)}",
                where="finetune.zero_shot",
                fix="Name all classes with --labels A,B",
            )
        model = self.checkpoint.build(
            preprocessor, labels=labels, problem=problem, dropout=dropout, head="cosine"
        )
        nn.Module.eval(model)
        scale, bias = self._scale_and_bias()
        with torch.no_grad():
            classes = torch.stack([self._class(model, preprocessor, name) for name in labels])
            _check_that_they_differ(classes, labels)
            model.classifier.weight.copy_(scale * classes)
            model.classifier.bias.fill_(bias)
        return model

    @property
    def used_temperature(self) -> float:
        """Temperature of the logits, the checkpoint's own if none was given."""
        return 1 / self._scale_and_bias()[0]

    def facts(self) -> Json:
        """Return the prompts and the temperature, for the manifest."""
        return {"prompts": list(self.prompts), "temperature": self.used_temperature}

    def _scale_and_bias(self) -> tuple[float, float]:
        backbone: Any = self.checkpoint.backbone
        own = backbone.logit_scale.detach().exp().item()
        scale = own if self.temperature is None else 1 / self.temperature
        bias = backbone.logit_bias.item() if self.checkpoint.kind == "siglip" else 0.0
        return scale, bias * scale / own

    def _class(
        self, model: FamilyForClassification, preprocessor: Preprocessor, name: str
    ) -> Tensor:
        """Return the direction of a class, [width]."""
        texts = [prompt.replace(PLACE, name) for prompt in self.prompts]
        text: Any = self.checkpoint.config
        limit = int(text.text_config.max_position_embeddings)
        tokenizer = Tokenizer.from_str(preprocessor.tokenizer.to_str())
        own = build_preprocessor(
            tokenizer,
            preprocessor.image,
            max_length=fitting_length(tokenizer, texts, most=limit),
            pad_token=preprocessor.pad_token,
            absent_token=preprocessor.absent_token,
        )
        input_ids, attention_mask, cut = own.tokens_and_cut(texts)
        if cut:
            raise ConfigError(
                f"a prompt of class {name!r} is longer than the checkpoint's {limit} tokens",
                where="finetune.zero_shot",
                fix="Shorten it",
            )
        parts = model.encoder.parts
        assert isinstance(parts, ClipParts | SiglipParts)  # see `zero_shot_start`
        embedded = parts.encode_text(
            torch.from_numpy(input_ids).long(), torch.from_numpy(attention_mask).long()
        )
        return functional.normalize(functional.normalize(embedded, dim=-1).mean(dim=0), dim=0)


def _check_that_they_differ(classes: Tensor, labels: tuple[str, ...]) -> None:
    same = torch.cdist(classes, classes, p=torch.inf) < 1e-6
    for first, second in same.triu(diagonal=1).nonzero().tolist():
        raise ConfigError(
            f"the prompts of {labels[first]!r} and {labels[second]!r} are the same to the"
            " checkpoint, whose tokenizer lacks their characters or their letter case",
            where="finetune.zero_shot",
            fix="Use other class names, or another checkpoint",
        )


def zero_shot_start(
    checkpoint: Checkpoint, prompts: tuple[str, ...], temperature: float | None
) -> ZeroShotStart:
    """Return the start of a zero-shot teacher; see `ZeroShotStart`.

    Raises:
        ConfigError: The checkpoint has no towers for image and text.
    """
    if checkpoint.kind not in ("clip", "siglip"):
        raise ConfigError(
            f"requires CLIP or SigLIP, whose embeddings can be compared, not {checkpoint.family}",
            where="finetune.zero_shot",
            fix="Use another --model, or fine-tune this one on labels",
        )
    return ZeroShotStart(checkpoint, prompts, temperature)
