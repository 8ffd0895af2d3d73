"""Settings of a run: frozen dataclasses, filled from options and one optional TOML file.

Defaults live here and nowhere else. Torch-free: the command line reads it before anything heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.parsing import check_range, config_of, read_config_of
from msd_deploy.errors import ConfigError

StudentSize = Literal["tiny", "small", "mobile"]
ClassWeighting = Literal["none", "balanced"]
Precision = Literal["fp32", "bf16"]
# Those of accelerate's `log_with`.
TrackerName = Literal[
    "tensorboard",
    "wandb",
    "mlflow",
    "trackio",
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "swanlab",
]


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is learned from."""

    spec: str = "synthetic:memes"
    """synthetic:TASK, easy-vqa, hateful-memes|mm-imdb|snli-ve|vqa-v2:DIR, hub:NAME, or
    FILE.jsonl."""
    examples: int | None = None
    """Training examples of a generated task; None: the task's own number."""
    label_noise: float = 0.0
    """Share of training labels of a generated task that are flipped, 0 to 1."""
    labelled_share: float = 1.0
    """Share of training rows whose label is used; the others only have the teacher's answer."""
    class_weights: ClassWeighting = "none"
    """Weights of the classes in the labels' loss, teacher's and student's: balanced favours rare
    ones."""
    seed: int = 0
    """Seed of a generated task's examples."""
    labels: tuple[str, ...] | None = None
    """Closed list of classes of FILE.jsonl or hub:NAME; None: the classes found in it."""
    image_column: str | None = None
    """The picture's column of hub:NAME; None: image."""
    text_column: str | None = None
    """The text's column of hub:NAME; None: text."""
    label_column: str | None = None
    """The label's column of hub:NAME; None: label or labels."""
    image_size: int | None = None
    """Side of the model's square image in pixels; None: 48 (tiny), 64 (small), 128 (mobile)."""
    image_mode: Literal["fit", "crop"] = "fit"
    """fit pads with white, crop cuts the longer side."""
    max_length: int | None = None
    """Most text tokens, [CLS] and [SEP] included; None: the longest training text's, at most 32."""
    vocabulary_size: int | None = None
    """Word pieces; None: at most 2,000 of a tokenizer that is trained, and of a pretrained one
    those of the training texts."""
    tokenizer: Path | None = None
    """A tokenizer.json to use instead of training one."""
    strict: bool = False
    """Unusable rows are an error instead of being skipped."""

    def __post_init__(self) -> None:
        check_range("data.examples", self.examples, 50, 10_000_000)
        check_range("data.label_noise", self.label_noise, 0.0, 1.0)
        check_range("data.labelled_share", self.labelled_share, 1e-6, 1.0)
        check_range("data.seed", self.seed, 0, 2**31 - 1)
        check_range("data.image_size", self.image_size, 16, 1024)
        check_range("data.max_length", self.max_length, 4, 512)
        check_range("data.vocabulary_size", self.vocabulary_size, 50, 200_000)


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """The teacher: given, or fine-tuned here."""

    path: Path | None = None
    """Folder of a trained teacher; None: one is trained on the labels."""
    epochs: int | None = None
    """Passes over the training split; None: as many as make about 750 steps, at least 8."""
    batch_size: int = 64
    """Rows a step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    modality_dropout: float = 0.3
    """Share of steps on a single view, half of them each: makes single views mean something."""

    def __post_init__(self) -> None:
        check_range("teacher.epochs", self.epochs, 1, 10_000)
        check_range("teacher.batch_size", self.batch_size, 1, 65_536)
        check_range("teacher.learning_rate", self.learning_rate, 1e-8, 10.0)
        check_range("teacher.modality_dropout", self.modality_dropout, 0.0, 0.9)


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """The student."""

    size: StudentSize = "tiny"
    """tiny: about 50 k parameters, small: 500 k, mobile: 4 to 5 M."""
    vision: str | None = None
    """Pretrained vision encoder instead of the size's own: effnet-lite0 to -lite4, a
    transformers folder, or a name on the hub."""
    pretrained: bool = True
    """mobile starts from ImageNet weights where the extra [pretrained] is installed."""
    text: str | None = None
    """Pretrained text encoder of BERT's type that the text side starts from: minilm-l6, a
    transformers folder, or a name on the hub. Its vocabulary is cut to the task's."""
    text_layers: int | None = None
    """How many of its layers are taken, evenly spread, the stream's width being its width; 0: its
    words alone, turned to the size's own width; None: as many layers as the size has."""
    pretrained_rate: float = 0.1
    """Learning rate of weights that start from a checkpoint, as a share of the others'."""
    start: Path | None = None
    """Folder of a finished student to go on from: what it is and how it reads its inputs are its
    own, whatever else is said of both."""

    def __post_init__(self) -> None:
        check_range("student.text_layers", self.text_layers, 0, 1000)
        check_range("student.pretrained_rate", self.pretrained_rate, 1e-6, 1.0)
        if self.text_layers is not None and self.text is None:
            raise ConfigError(
                "there is no text encoder to take layers of",
                where="student.text_layers",
                fix="Name one with --student-text",
            )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything that decides a run's result, and who watches it."""

    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    """Seed of initial weights, order and dropout."""
    tracker: TrackerName | None = None
    """Who is shown loss terms, weights and metrics, beside history.jsonl."""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, 0, 2**31 - 1)
        if self.augment.mixup > 0:
            raise ConfigError(
                "the teacher's answers to mixed pictures are not known: its cache holds none",
                where="augment.mixup",
                fix="Mix in a teacher's own training, `msd teacher`, alone",
            )
        if self.augment.views_per_picture and self.distill.method == "none":
            raise ConfigError(
                "the teacher answers for changed pictures, and method none does not ask it",
                where="augment.views_per_picture",
                fix="Leave it out, or use --method kd or msd",
            )
        if self.augment.views_per_picture and self.distill.needs_features:
            raise ConfigError(
                "the teacher's features are kept of the unchanged pictures alone",
                where="augment.views_per_picture",
                fix="Leave it out, or hint_weight and relation_weight",
            )


def read_config(path: Path) -> RunConfig:
    """Read a TOML file whose tables are data, teacher, student, distill and augment.

    Raises:
        ConfigError: As `read_config_of`.
    """
    return read_config_of(RunConfig, path)


def config_from_json(stated: Mapping[str, object]) -> RunConfig:
    """Build a configuration from plain values, as in TOML or run.json.

    Raises:
        ConfigError: Names the key that is unknown, mistyped or out of range.
    """
    return config_of(RunConfig, stated)
