"""Settings of a teacher's fine-tuning (`msd teacher`). Torch-free, as `config` is."""

from dataclasses import dataclass, field
from typing import Literal

from msd_deploy.config.augment import AugmentConfig, Strengths
from msd_deploy.config.parsing import check_range
from msd_deploy.config.run import DataConfig, Precision
from msd_deploy.errors import ConfigError

Freeze = Literal["none", "vision", "all"]


@dataclass(frozen=True, slots=True)
class FineTuneConfig:
    """What is fine-tuned, and how."""

    model: str | None = None
    """Checkpoint of a vision-and-language family: a folder, or a name on the Hugging Face hub."""
    vision: str | None = None
    """Vision encoder, for VisualBERT and with `text`: effnet-lite0 to -lite4 (with `text`), a
    folder, or a name on the hub."""
    text: str | None = None
    """Text encoder of BERT's type that a fusion starts from, instead of `model`: minilm-l6,
    a folder, or a name on the hub."""
    text_layers: int | None = None
    """How many of its layers are taken, evenly spread; None: all."""
    cut_vocabulary: bool = False
    """Whether its vocabulary is cut to the task's."""
    freeze: Freeze = "none"
    """What keeps its checkpoint's weights: vision: the vision encoder; all: every such weight."""
    epochs: int = 5
    """Passes over the training split."""
    batch_size: int = 32
    """Rows a step."""
    accumulate: int = 1
    """Parts that a step's rows are computed in, one after the other, to save memory."""
    precision: Precision = "fp32"
    """bf16 multiplies matrices in bfloat16; weights and losses stay float32."""
    gradient_checkpointing: bool = False
    """Activations are computed again for the gradient instead of being kept."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW, of weights that the checkpoint has."""
    fresh_rate: float = 10.0
    """Learning rate of weights that start from nothing, as a multiple of that."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises; it then falls as a cosine to 0."""
    modality_dropout: float = 0.3
    """Share of steps on a single view, half of them each: makes single views mean something."""
    dropout: float = 0.1
    """Probability, before the classifier."""
    checkpoint_seconds: float = 300.0
    """Least time between two checkpoints, each three times the model's size."""
    log_every: int = 20
    """Steps between two lines of history.jsonl."""

    @property
    def reads_no_pixels(self) -> bool:
        """Whether pictures, or rows, are encoded once before: nothing may change them later."""
        return self.freeze != "none"

    def __post_init__(self) -> None:
        check_range("finetune.epochs", self.epochs, 1, 10_000)
        check_range("finetune.batch_size", self.batch_size, 1, 65_536)
        check_range("finetune.accumulate", self.accumulate, 1, self.batch_size)
        check_range("finetune.learning_rate", self.learning_rate, 1e-8, 10.0)
        check_range("finetune.fresh_rate", self.fresh_rate, 1e-3, 1e4)
        check_range("finetune.text_layers", self.text_layers, 1, 1000)
        check_range("finetune.weight_decay", self.weight_decay, 0.0, 10.0)
        check_range("finetune.warmup_share", self.warmup_share, 0.0, 0.9)
        check_range("finetune.modality_dropout", self.modality_dropout, 0.0, 0.9)
        check_range("finetune.dropout", self.dropout, 0.0, 0.9)
        check_range("finetune.checkpoint_seconds", self.checkpoint_seconds, 0.0, 1e9)
        check_range("finetune.log_every", self.log_every, 1, 1_000_000)
        self._check_start()

    def _check_start(self) -> None:
        if self.model is not None and self.text is not None:
            raise ConfigError(
                "a family's checkpoint has its own text side",
                where="finetune.text",
                fix="Name either --model, or --text and --vision",
            )
        if self.text is not None and self.vision is None:
            raise ConfigError(
                "a text encoder sees no picture",
                where="finetune.vision",
                fix="Name one, for example --vision effnet-lite2",
            )
        if self.text is None and (self.text_layers is not None or self.cut_vocabulary):
            name = "cut_vocabulary" if self.text_layers is None else "text_layers"
            raise ConfigError(
                "there is no text encoder for it", where=f"finetune.{name}", fix="Name --text"
            )


@dataclass(frozen=True, slots=True)
class TeachingConfig:
    """Everything that decides a fine-tuned teacher."""

    data: DataConfig = field(default_factory=DataConfig)
    finetune: FineTuneConfig = field(default_factory=FineTuneConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    """Seed of the head's weights, order and dropout."""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**31 - 1)
        if self.augment.views_per_picture > 0:
            raise ConfigError(
                "a teacher learns from labels, and nobody is asked about changed pictures",
                where="augment.views_per_picture",
                fix="Leave it out; every pass shows new changes",
            )
        is_changed = self.augment.mixup > 0 or self.augment.strengths() != Strengths()
        if self.finetune.reads_no_pixels and is_changed:
            raise ConfigError(
                "what is frozen is computed once, so pictures and texts cannot change from pass to"
                " pass",
                where="finetune.freeze",
                fix="Leave out --augment, or use --freeze none",
            )
