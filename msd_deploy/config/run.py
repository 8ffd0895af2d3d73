"""Settings of a run: frozen dataclasses, filled from options and one optional TOML file.

Defaults are declared here and nowhere else. Torch-free, as the command line loads it first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msd_deploy.config.augment import AugmentConfig
from msd_deploy.config.decisions import DecisionConfig
from msd_deploy.config.distill import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    MODALITY_DROPOUT,
    WARMUP_SHARE,
    DistillConfig,
)
from msd_deploy.config.parsing import config_of, read_config_of
from msd_deploy.config.setting import SEED, SHARE, Option, Setting, check_ranges
from msd_deploy.errors import ConfigError
from msd_deploy.views import View

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
    """The data set, and how it becomes the model's inputs."""

    spec: Annotated[
        str,
        Setting(
            "Data set: synthetic:memes, synthetic:posters, synthetic:entailment,"
            " synthetic:listings, easy-vqa, hateful-memes:DIR, mm-imdb:DIR, snli-ve:DIR,"
            " vqa-v2:DIR, hub:OWNER/NAME or hub:FOLDER (a Hugging Face dataset), or a FILE.jsonl,"
            " FILE.csv, FILE.tsv or FILE.parquet of your own."
        ),
        Option("--data", "Data", metavar="SPEC"),
    ] = "synthetic:memes"
    examples: Annotated[
        int | None,
        Setting("Number of training examples of a synthetic data set.", (50, 10_000_000)),
        Option("--examples", "Data", default="the data set's own number"),
    ] = None
    label_noise: Annotated[
        float, Setting("Share of a synthetic data set's training labels that are flipped.", SHARE)
    ] = 0.0
    labelled_share: Annotated[
        float,
        Setting(
            "Share of training examples whose label is used; the others have the teacher's"
            " predictions only.",
            (1e-6, 1),
        ),
        Option("--labelled-share", "Data"),
    ] = 1.0
    class_weights: Annotated[
        ClassWeighting,
        Setting(
            "Class weights of the loss on the labels, for teacher and student: balanced gives rare"
            " classes more weight."
        ),
        Option("--class-weights", "Data", metavar="HOW"),
    ] = "none"
    seed: Annotated[int, Setting("Random seed of a synthetic data set.", SEED)] = 0
    labels: Annotated[
        tuple[str, ...] | None,
        Setting(
            "Class names of a file or a hub: data set; rows with any other label are skipped"
            " and reported."
        ),
        Option("--labels", "Data", default="the classes found in the data", metavar="A,B,..."),
    ] = None
    image_column: Annotated[
        str | None,
        Setting("Image column of a CSV, TSV, Parquet or hub: data set."),
        Option("--image-column", "Data", default="image", metavar="NAME"),
    ] = None
    text_column: Annotated[
        str | None,
        Setting("Text column of a CSV, TSV, Parquet or hub: data set."),
        Option("--text-column", "Data", default="text", metavar="NAME"),
    ] = None
    label_column: Annotated[
        str | None,
        Setting(
            "Label column of a CSV, TSV, Parquet or hub: data set; it may hold lists of labels."
        ),
        Option("--label-column", "Data", default="label or labels", metavar="NAME"),
    ] = None
    image_size: Annotated[
        int | None,
        Setting("Side of the model's square input image, in pixels.", (16, 1024)),
        Option("--image-size", "Data", default="48 (tiny), 64 (small), 128 (mobile)"),
    ] = None
    image_mode: Annotated[
        Literal["fit", "crop"],
        Setting("How images become square: fit pads with white, crop cuts the longer side."),
    ] = "fit"
    max_pixels: Annotated[
        int | None,
        Setting(
            "Maximum pixels of an image; larger ones are refused. A JPEG of more than 89,478,485 is"
            " decoded at half its size, and counts with the pixels that it then has.",
            (1, 2**31 - 1),
        ),
        Option("--max-pixels", "Data", default="89,478,485, or the model's own"),
    ] = None
    max_length: Annotated[
        int | None,
        Setting("Maximum text length in tokens, [CLS] and [SEP] included.", (4, 512)),
        Option("--max-length", "Data", default="length of the longest training text, at most 32"),
    ] = None
    vocabulary_size: Annotated[
        int | None,
        Setting("Vocabulary size of the student's tokenizer, in word pieces.", (50, 200_000)),
        Option(
            "--vocab-size",
            "Data",
            default="at most 2,000; with --student-text those of the training texts",
        ),
    ] = None
    tokenizer: Annotated[
        Path | None,
        Setting("A tokenizer.json, or its folder, to use instead of training a tokenizer."),
        Option("--tokenizer", "Data"),
    ] = None
    strict: Annotated[
        bool,
        Setting("Fail on unusable rows instead of skipping them."),
        Option("--strict", "Data"),
    ] = False

    def __post_init__(self) -> None:
        check_ranges(self, "data")


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """The teacher: an existing one, or one that is trained on the labels first."""

    path: Annotated[
        Path | None,
        Setting("Folder of a trained teacher, or its name on the Hugging Face hub."),
        Option("--teacher", "Teacher", default="one is trained on the labels"),
    ] = None
    image_path: Annotated[
        Path | None,
        Setting(
            "Classifier of images that gives the targets of the image view instead of the teacher:"
            " an image classification checkpoint of transformers or a model folder, of which only"
            " this view is used, or its name on the Hugging Face hub."
        ),
        Option("--image-teacher", "Teacher", metavar="MODEL"),
    ] = None
    text_path: Annotated[
        Path | None,
        Setting(
            "Classifier of texts that gives the targets of the text view instead of the teacher: a"
            " text classification checkpoint of BERT's type or a model folder, of which only this"
            " view is used, or its name on the Hugging Face hub."
        ),
        Option("--text-teacher", "Teacher", metavar="MODEL"),
    ] = None
    epochs: Annotated[
        int | None,
        Setting("Number of teacher training epochs.", EPOCHS.between),
        Option("--teacher-epochs", "Teacher", default="as many as make about 750 steps, 8 to 100"),
    ] = None
    batch_size: Annotated[int, BATCH_SIZE] = 64
    learning_rate: Annotated[float, LEARNING_RATE] = 1e-3
    warmup_share: Annotated[float, WARMUP_SHARE] = 0.05
    modality_dropout: Annotated[float, MODALITY_DROPOUT] = 0.3
    adapt_epochs: Annotated[
        int,
        Setting(
            "Number of epochs in which a copy of the teacher is adapted to single views: it learns,"
            " without labels, to predict from image or text alone what the teacher predicts from"
            " both, on average; 0: the teacher is used as it is.",
            (0, 10_000),
        ),
        Option("--adapt-teacher", "Teacher", metavar="EPOCHS"),
    ] = 0
    adapt_rate: Annotated[
        float,
        Setting(
            "Peak learning rate of the adaptation; pretrained weights have a tenth of it.",
            LEARNING_RATE.between,
        ),
    ] = 5e-4

    def __post_init__(self) -> None:
        check_ranges(self, "teacher")

    @property
    def specialist_paths(self) -> dict[View, Path]:
        """Paths of the classifiers that give the targets of a single view, by view."""
        paths = {View.IMAGE: self.image_path, View.TEXT: self.text_path}
        return {view: path for view, path in paths.items() if path is not None}


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """The student's architecture, and the weights that it starts from."""

    size: Annotated[
        StudentSize,
        Setting("Student size: tiny (50 k parameters), small (500 k) or mobile (4 to 5 M)."),
        Option("--student", "Student"),
    ] = "tiny"
    vision: Annotated[
        str | None,
        Setting(
            "Pretrained vision encoder: effnet-lite0 to -lite4, a transformers folder, or a name on"
            " the Hugging Face hub."
        ),
        Option("--student-vision", "Student", default="the size's own; mobile: effnet-lite0"),
    ] = None
    pretrained: Annotated[
        bool,
        Setting("mobile starts from ImageNet weights if the extra [pretrained] is installed."),
    ] = True
    text: Annotated[
        str | None,
        Setting(
            "Pretrained BERT-type text encoder to initialize from, with its vocabulary pruned to"
            " the training texts: minilm-l6, a transformers folder, or a name on the Hugging Face"
            " hub."
        ),
        Option("--student-text", "Student"),
    ] = None
    text_layers: Annotated[
        int | None,
        Setting(
            "Number of layers of --student-text to use, evenly spaced; 0: its word embeddings only,"
            " projected to the size's own width.",
            (0, 1000),
        ),
        Option("--text-layers", "Student", default="as many as the size has"),
    ] = None
    pretrained_rate: Annotated[
        float,
        Setting(
            "Learning rate of pretrained weights, as a multiple of distill.learning_rate.",
            (1e-6, 1),
        ),
    ] = 0.1
    start: Annotated[
        Path | None,
        Setting(
            "Folder of a finished student to continue from; its architecture, preprocessing and"
            " vocabulary take precedence over all other settings."
        ),
    ] = None

    def __post_init__(self) -> None:
        check_ranges(self, "student")
        if self.text_layers is not None and self.text is None:
            raise ConfigError(
                "requires a text encoder",
                where="student.text_layers",
                fix="Add --student-text",
            )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All settings of a run: what decides its result, and the experiment tracker."""

    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    decisions: DecisionConfig = field(default_factory=DecisionConfig)
    seed: Annotated[
        int,
        Setting("Random seed for initialization, shuffling and dropout.", SEED),
        Option("--seed"),
    ] = 0
    tracker: Annotated[
        TrackerName | None,
        Setting(
            "Experiment tracker to log losses, view weights and metrics to: tensorboard (files in"
            " the run's trackers/), wandb, mlflow, trackio, aim, clearml, comet_ml, dvclive or"
            " swanlab."
        ),
        Option("--tracker", metavar="NAME"),
    ] = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.augment.mixup > 0:
            raise ConfigError(
                "is not available in distillation, as the teacher has not predicted mixed images",
                where="augment.mixup",
                fix="Use it in `msd teacher`",
            )
        if self.augment.views_per_picture and self.distill.method == "none":
            raise ConfigError(
                "requires a teacher, and method none has none",
                where="augment.views_per_picture",
                fix="Remove it, or use --method kd or msd",
            )
        if self.augment.views_per_picture and self.distill.needs_features:
            raise ConfigError(
                "excludes feature losses, as features are cached for original images only",
                where="augment.views_per_picture",
                fix="Remove it, or hint_weight and relation_weight",
            )
        self._check_specialists()

    def _check_specialists(self) -> None:
        """Check that a classifier of one modality has an effect."""
        weights = {View.IMAGE: self.distill.image_weight, View.TEXT: self.distill.text_weight}
        for view in self.teacher.specialist_paths:
            reason = None
            if self.distill.method != "msd":
                reason = f"method {self.distill.method} does not distil"
            elif self.distill.weighting == "fixed" and weights[view] == 0:
                reason = f"distill.{view}_weight 0 leaves out"
            if reason is not None:
                raise ConfigError(
                    f"gives the targets of the {view} view, which {reason}",
                    where=f"teacher.{view}_path",
                    fix="Remove it, or use --method msd with a weight of this view above 0",
                )


def read_config(path: Path) -> RunConfig:
    """Read a TOML file whose tables are data, teacher, student, distill, augment and decisions.

    Raises:
        ConfigError: As `read_config_of`.
    """
    return read_config_of(RunConfig, path)


def config_from_json(values: Mapping[str, object]) -> RunConfig:
    """Build a configuration from plain values, as in TOML or run.json.

    Raises:
        ConfigError: Names the key that is unknown, mistyped or out of range.
    """
    return config_of(RunConfig, values)
