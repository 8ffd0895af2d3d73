"""Settings of a teacher's fine-tuning (`msd teacher`). Torch-free."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from msd_deploy.config.augment import AugmentConfig, Strengths
from msd_deploy.config.distill import (
    BATCH_SIZE,
    CHECKPOINT_SECONDS,
    EPOCHS,
    KEEP,
    LEARNING_RATE,
    LOG_EVERY,
    MODALITY_DROPOUT,
    PATIENCE,
    WARMUP_SHARE,
    WEIGHT_DECAY,
    Keep,
)
from msd_deploy.config.run import DataConfig, Precision
from msd_deploy.config.setting import SEED, Option, Setting, check_range, check_ranges
from msd_deploy.errors import ConfigError

Freeze = Literal["none", "vision", "all"]
SingleView = Literal["image", "text"]

_STARTS = ("model", "vision", "text", "text_layers", "cut_vocabulary", "zero_shot")
_NOT_ADAPTED = (*_STARTS, "view", "modality_dropout", "dropout")
_NOT_OF_ONE_VIEW = (*_STARTS, "adapt", "modality_dropout")
_ZERO_SHOT = ("model", "zero_shot", "prompt_temperature")


@dataclass(frozen=True, slots=True)
class FineTuneConfig:
    """The checkpoints of a teacher, and how they are fine-tuned."""

    model: Annotated[
        str | None,
        Setting(
            "Checkpoint of CLIP, SigLIP, ViLT or VisualBERT: a folder, or a name on the Hugging"
            " Face hub."
        ),
        Option("--model", default="none; this, --text or --adapt is required", metavar="NAME"),
    ] = None
    vision: Annotated[
        str | None,
        Setting(
            "Vision encoder for --text and for VisualBERT: effnet-lite0 to -lite4 (with --text), or"
            " any transformers backbone, such as a ResNet."
        ),
        Option("--vision", metavar="NAME"),
    ] = None
    text: Annotated[
        str | None,
        Setting(
            "Instead of --model, a BERT-type text encoder that a single-stream fusion of words and"
            " image patches is initialized from: minilm-l6, a folder, or a name on the Hugging Face"
            " hub."
        ),
        Option("--text", metavar="NAME"),
    ] = None
    text_layers: Annotated[
        int | None,
        Setting("Number of layers of --text to use, evenly spaced.", (1, 1000)),
        Option("--text-layers", default="all"),
    ] = None
    cut_vocabulary: Annotated[
        bool,
        Setting("Prune the vocabulary of --text to the pieces in the training texts."),
        Option("--cut-vocab"),
    ] = False
    adapt: Annotated[
        str | None,
        Setting(
            "Instead of --model, a trained teacher, a copy of which is adapted to single views: it"
            " learns, without labels, to predict from image or text alone what the teacher predicts"
            " from both, on average. A model folder, or a name on the Hugging Face hub."
        ),
        Option("--adapt", metavar="TEACHER"),
    ] = None
    zero_shot: Annotated[
        tuple[str, ...],
        Setting(
            "Classify with --model (CLIP or SigLIP) by a prompt with {label}, such as 'a photo of"
            " {label}', without training; repeatable, to average the embeddings of several prompts."
        ),
        Option("--zero-shot", "Zero-shot", default="none", metavar="PROMPT", is_repeated=True),
    ] = ()
    prompt_temperature: Annotated[
        float | None,
        Setting(
            "Temperature of the logits of --zero-shot, which divides the cosines.", (1e-4, 1e3)
        ),
        Option("--prompt-temperature", "Zero-shot", default="the checkpoint's own, 0.01 for CLIP"),
    ] = None
    view: Annotated[
        SingleView | None,
        Setting(
            "Train a teacher of the image alone (from --vision) or of the text alone (from --text)"
            " on the examples that have it, for --image-teacher or --text-teacher of msd distill."
        ),
        Option("--view", default="both and each alone"),
    ] = None
    freeze: Annotated[
        Freeze,
        Setting(
            "Weights to freeze, whose outputs are computed once instead of in every epoch: none,"
            " vision (the vision encoder) or all (everything pretrained)."
        ),
        Option("--freeze"),
    ] = "none"
    epochs: Annotated[int, EPOCHS, Option("--epochs", "Training")] = 5
    batch_size: Annotated[int, BATCH_SIZE, Option("--batch-size", "Training")] = 32
    accumulate: Annotated[
        int,
        Setting(
            "Gradient accumulation: number of parts that a batch is computed in, to save memory.",
            (1, 65_536),
        ),
        Option("--accumulate", "Memory"),
    ] = 1
    precision: Annotated[
        Precision,
        Setting("Precision of matrix multiplications; weights and losses stay in float32."),
        Option("--precision", "Training"),
    ] = "fp32"
    gradient_checkpointing: Annotated[
        bool,
        Setting("Recompute activations in the backward pass: slower, with less memory."),
        Option("--grad-checkpointing", "Memory"),
    ] = False
    learning_rate: Annotated[float, LEARNING_RATE, Option("--learning-rate", "Training")] = 5e-5
    fresh_rate: Annotated[
        float,
        Setting(
            "Learning rate of newly initialized weights, as a multiple of the learning rate of"
            " pretrained ones.",
            (1e-3, 1e4),
        ),
        Option("--fresh-rate", "Training"),
    ] = 10.0
    weight_decay: Annotated[float, WEIGHT_DECAY] = 0.01
    warmup_share: Annotated[float, WARMUP_SHARE] = 0.1
    modality_dropout: Annotated[
        float, MODALITY_DROPOUT, Option("--modality-dropout", "Training")
    ] = 0.3
    dropout: Annotated[float, Setting("Dropout probability before the classifier.", (0, 0.9))] = 0.1
    checkpoint_seconds: Annotated[float, CHECKPOINT_SECONDS] = 300.0
    log_every: Annotated[int, LOG_EVERY] = 20
    keep: Annotated[Keep, KEEP] = "one-se"
    patience: Annotated[int, PATIENCE, Option("--patience", "Training")] = 5

    @property
    def encodes_once(self) -> bool:
        """Whether frozen weights encode all examples once, before training."""
        return self.freeze != "none"

    @property
    def has_start(self) -> bool:
        """Whether a checkpoint or a trained teacher to start from is named."""
        return any((self.model, self.text, self.adapt, self.view))

    def __post_init__(self) -> None:
        check_ranges(self, "finetune")
        check_range("finetune.accumulate", self.accumulate, 1, self.batch_size)
        self._check_start()

    def _check_start(self) -> None:
        if self.adapt is not None:
            self._check_adapted()
        if self.zero_shot or self.prompt_temperature is not None:
            self._check_zero_shot()
        if self.view is not None:
            self._check_view(self.view)
            return
        if self.model is not None and self.text is not None:
            raise ConfigError(
                "cannot be combined with --model, whose checkpoint has a text encoder",
                where="finetune.text",
                fix="Use either --model, or --text and --vision",
            )
        if self.text is not None and self.vision is None:
            raise ConfigError(
                "is required with --text",
                where="finetune.vision",
                fix="Add a vision encoder, for example --vision effnet-lite2",
            )
        if self.text is None and (self.text_layers is not None or self.cut_vocabulary):
            name = "cut_vocabulary" if self.text_layers is None else "text_layers"
            raise ConfigError("requires a text encoder", where=f"finetune.{name}", fix="Add --text")

    def _check_adapted(self) -> None:
        self._refuse(_NOT_ADAPTED, "with --adapt, which continues a trained teacher on all views")

    def _check_zero_shot(self) -> None:
        if not self.zero_shot:
            raise ConfigError(
                "requires a prompt", where="finetune.prompt_temperature", fix="Add --zero-shot"
            )
        for prompt in self.zero_shot:
            if "{label}" not in prompt:
                raise ConfigError(
                    f"the prompt {prompt!r} has no {{label}}, the place of the class's name",
                    where="finetune.zero_shot",
                    fix='Write it as in "a photo of {label}"',
                )
        if self.model is None:
            raise ConfigError(
                "requires a checkpoint of CLIP or SigLIP",
                where="finetune.zero_shot",
                fix="Add --model",
            )
        others = [item.name for item in fields(self) if item.name not in _ZERO_SHOT]
        self._refuse(others, "with --zero-shot, which trains nothing")

    def _check_view(self, view: SingleView) -> None:
        start = "vision" if view == "image" else "text"
        self._refuse([name for name in _NOT_OF_ONE_VIEW if name != start], f"with --view {view}")
        if getattr(self, start) is None:
            example = "effnet-lite2" if view == "image" else "minilm-l6"
            raise ConfigError(
                f"requires an encoder of the {view} to start from",
                where="finetune.view",
                fix=f"Add one, for example --{start} {example}",
            )
        if view == "text" and self.freeze == "vision":
            raise ConfigError(
                "has no effect with --view text",
                where="finetune.freeze",
                fix="Use --freeze all, or --freeze none",
            )

    def _refuse(self, names: Collection[str], why: str) -> None:
        """Refuse settings of some names that are not the default."""
        for item in fields(self):
            if item.name in names and getattr(self, item.name) != item.default:
                raise ConfigError(
                    f"has no effect {why}", where=f"finetune.{item.name}", fix="Remove it"
                )


@dataclass(frozen=True, slots=True)
class TeachingConfig:
    """All settings of a fine-tuned teacher."""

    data: DataConfig = field(default_factory=DataConfig)
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: Annotated[
        int,
        Setting("Random seed for initialization of the head, shuffling and dropout.", SEED),
        Option("--seed"),
    ] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.augment.views_per_picture > 0:
            raise ConfigError(
                "applies to distillation only, as it caches the predictions of a teacher",
                where="augment.views_per_picture",
                fix="Remove it; augmentation is resampled every epoch",
            )
        if self.augment.mixup > 0 and self.finetune.adapt is not None:
            raise ConfigError(
                "is not available with --adapt, as the teacher has not predicted mixed images",
                where="augment.mixup",
                fix="Remove it",
            )
        if self.augment.mixup > 0 and self.finetune.view == "text":
            raise ConfigError(
                "is not available with --view text, which has no images to mix the labels of",
                where="augment.mixup",
                fix="Remove it",
            )
        if self.finetune.zero_shot and self.augment != AugmentConfig():
            raise ConfigError(
                "has no effect with --zero-shot, which trains nothing",
                where="augment.preset",
                fix="Remove it",
            )
        if self.finetune.zero_shot and self.data.class_weights != "none":
            raise ConfigError(
                "has no effect with --zero-shot, which trains nothing",
                where="data.class_weights",
                fix="Remove it",
            )
        is_changed = self.augment.mixup > 0 or self.augment.strengths() != Strengths()
        if self.finetune.encodes_once and is_changed:
            raise ConfigError(
                "freezes weights whose outputs are computed once, so examples cannot be augmented",
                where="finetune.freeze",
                fix="Run without --augment, or with --freeze none",
            )
