"""Settings of a run: frozen dataclasses, filled from options and one optional TOML file.

Defaults live here and nowhere else. Torch-free: the command line reads it before anything heavy.
"""

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msd_deploy.augment_config import AugmentConfig
from msd_deploy.errors import ConfigError
from msd_deploy.ranges import check_range as check_range  # every settings module takes it from here

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

StudentSize = Literal["tiny", "small", "mobile"]
Method = Literal["none", "kd", "msd"]
Weighting = Literal["fixed", "population", "instance", "meta"]
Loss = Literal["kl", "dist", "dkd", "mse"]
ClassWeighting = Literal["none", "balanced"]
Precision = Literal["fp32", "bf16"]
_Config = TypeVar("_Config", bound="DataclassInstance")
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
class DistillConfig:
    """How the student learns."""

    method: Method = "msd"
    """msd: all three views; kd: the multimodal view only; none: labels only."""
    alpha: float = 0.1
    """Weight of the labels' loss; 1 - alpha is the teacher's."""
    temperature: float = 2.0
    """Softens teacher and student logits."""
    loss: Loss = "kl"
    """Distance to the teacher: kl, dist (Huang et al. 2022), dkd (Zhao et al. 2022) or mse."""
    standardize: bool = False
    """Standardise logits before the distance (Sun et al. 2024); 3 classes or more."""
    dkd_target_weight: float = 1.0
    """dkd: weight of the target class against the rest."""
    dkd_other_weight: float = 8.0
    """dkd: weight of the other classes among themselves."""
    dist_inter_weight: float = 1.0
    """dist: weight of the correlation over an example's classes."""
    dist_intra_weight: float = 1.0
    """dist: weight of the correlation over a batch's examples."""
    modality_dropout: float = 0.0
    """Share of steps in which the student sees one modality alone (none and kd only)."""
    weighting: Weighting = "fixed"
    """Who sets the views' weights: fixed, population, instance, or meta (learned); msd only."""
    multimodal_weight: float = 1.0
    """Weight of the multimodal view's distance."""
    image_weight: float = 1.0
    """Weight of the image view's distance (msd only)."""
    text_weight: float = 1.0
    """Weight of the text view's distance (msd only)."""
    hint_weight: float = 0.0
    """Weight of the hint: the student's features, mapped linearly, match the teacher's."""
    relation_weight: float = 0.0
    """Weight of the distances between a batch's features; that of their angles is twice as much."""
    instance_floor: float = 0.5
    """instance: share of the single views' weight that is split evenly, 0 to 1."""
    meta_gradient: Literal["fast", "exact"] = "fast"
    """meta: through the classifier alone in closed form, or through the whole student."""
    meta_look_ahead: bool = True
    """meta: the held-out loss is taken after a virtual step of the student."""
    meta_rate: float = 0.1
    """meta: SGD learning rate of the virtual step."""
    meta_learning_rate: float = 3e-3
    """meta: learning rate (Adam) of the network that sets the weights."""
    meta_rows: Literal["validation", "train"] = "validation"
    """meta: rows that judge the weights: the validation split, or training rows held out for it."""
    meta_share: float = 0.1
    """meta: with meta_rows train, the share of the labelled training rows that is held out."""
    meta_batch_size: int = 64
    """meta: held-out rows an update."""
    meta_every: int = 4
    """meta: steps of the student from one update of the weights to the next."""
    meta_multimodal_floor: float = 0.75
    """meta: share of its fixed weight that the multimodal view keeps."""
    meta_single_floor: float = 0.5
    """meta: share of their fixed weights that the single views keep."""
    epochs: int | None = None
    """Passes over the training split; None: as many as make about 750 steps, at least 5; none of
    a student that goes on from a finished one, if there are int8_epochs."""
    int8_epochs: int = 0
    """Further passes, quantization-aware: weights and activations are rounded as int8 rounds
    them."""
    int8_rate: float = 0.1
    """Peak learning rate of those passes, as a share of learning_rate."""
    batch_size: int = 64
    """Rows a step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    warmup_share: float = 0.05
    """Share of the steps over which the learning rate rises; it then falls as a cosine to 0."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints."""
    log_every: int = 20
    """Steps between two lines of history.jsonl."""
    keep: Literal["last", "best"] = "last"
    """Weights of the last step, or of the epoch with the best validation metric."""
    patience: int | None = None
    """Epochs without a better validation metric after which training stops; implies keep best."""

    def __post_init__(self) -> None:
        for name in ("dkd_target_weight", "dkd_other_weight", "dist_inter_weight"):
            check_range(f"distill.{name}", getattr(self, name), 0.0, 1000.0)
        check_range("distill.dist_intra_weight", self.dist_intra_weight, 0.0, 1000.0)
        check_range("distill.modality_dropout", self.modality_dropout, 0.0, 0.9)
        check_range("distill.instance_floor", self.instance_floor, 0.0, 1.0)
        check_range("distill.meta_rate", self.meta_rate, 1e-8, 1000.0)
        check_range("distill.meta_learning_rate", self.meta_learning_rate, 1e-8, 10.0)
        check_range("distill.meta_share", self.meta_share, 0.01, 0.5)
        check_range("distill.meta_batch_size", self.meta_batch_size, 1, 65_536)
        check_range("distill.meta_every", self.meta_every, 1, 10_000)
        for name in ("meta_multimodal_floor", "meta_single_floor"):
            check_range(f"distill.{name}", getattr(self, name), 0.0, 0.95)
        check_range("distill.patience", self.patience, 1, 10_000)
        check_range("distill.alpha", self.alpha, 0.0, 1.0)
        check_range("distill.temperature", self.temperature, 0.05, 100.0)
        weights = ("multimodal_weight", "image_weight", "text_weight")
        for name in (*weights, "hint_weight", "relation_weight"):
            check_range(f"distill.{name}", getattr(self, name), 0.0, 1000.0)
        check_range("distill.epochs", self.epochs, 1, 10_000)
        check_range("distill.int8_epochs", self.int8_epochs, 0, 10_000)
        check_range("distill.int8_rate", self.int8_rate, 1e-6, 10.0)
        check_range("distill.batch_size", self.batch_size, 1, 65_536)
        check_range("distill.learning_rate", self.learning_rate, 1e-8, 10.0)
        check_range("distill.weight_decay", self.weight_decay, 0.0, 10.0)
        check_range("distill.warmup_share", self.warmup_share, 0.0, 0.9)
        check_range("distill.checkpoint_seconds", self.checkpoint_seconds, 0.0, 1e9)
        check_range("distill.log_every", self.log_every, 1, 1_000_000)
        self._check_method()

    @property
    def needs_features(self) -> bool:
        """Whether the student learns from the teacher's features, not from its logits alone."""
        return self.hint_weight > 0 or self.relation_weight > 0

    def _check_method(self) -> None:
        if self.weighting != "fixed" and self.method != "msd":
            raise ConfigError(
                f"{self.weighting} weights the views of msd, and the method is {self.method}",
                where="distill.weighting",
                fix="Use --method msd, or leave --weighting out",
            )
        if self.needs_features and self.method == "none":
            raise ConfigError(
                "the teacher's features are learned from, and method none has no teacher",
                where=f"distill.{'hint_weight' if self.hint_weight > 0 else 'relation_weight'}",
                fix="Use it with --method kd or msd",
            )
        if self.modality_dropout > 0 and self.method == "msd":
            raise ConfigError(
                "msd trains on single views already",
                where="distill.modality_dropout",
                fix="Use it with --method kd or none",
            )
        is_closed_form = self.weighting == "meta" and self.meta_gradient == "fast"
        if is_closed_form and self.loss == "dist" and self.dist_intra_weight > 0:
            raise ConfigError(
                "fast needs distances of single examples, and dist's intra-class term is a batch's",
                where="distill.meta_gradient",
                fix="Use exact, or set distill.dist_intra_weight = 0",
            )
        weights = (self.multimodal_weight, self.image_weight, self.text_weight)
        used = {"none": (1.0,), "kd": weights[:1], "msd": weights}[self.method]
        if max(used) <= 0:
            raise ConfigError(
                f"all weights of {self.method} are 0, so the teacher's answers would count nothing",
                where="distill.method",
                fix="Raise a weight, or use --method none",
            )
        if self.alpha == 1 and self.method != "none":
            raise ConfigError(
                f"1 leaves the teacher no share of the loss, and the method is {self.method}",
                where="distill.alpha",
                fix="Lower it, or use --method none",
            )
        if self.weighting == "meta" and min(weights) <= 0:
            raise ConfigError(
                "meta needs a weight above 0 of every view to start from",
                where="distill.weighting",
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


def config_as_json(config: "DataclassInstance") -> dict[str, object]:
    """Return a configuration as JSON values."""
    return {key: _plain(value) for key, value in asdict(config).items()}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def read_config(path: Path) -> RunConfig:
    """Read a TOML file whose tables are data, teacher, student, distill and augment.

    Raises:
        ConfigError: As `read_config_of`.
    """
    return read_config_of(RunConfig, path)


def read_config_of(kind: type[_Config], path: Path) -> _Config:
    """Read a TOML file as a configuration of any kind.

    Raises:
        ConfigError: The file is missing or no TOML, or a key is unknown, mistyped or out of range.
    """
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read as TOML ({error})", where=path) from error
    try:
        return config_of(kind, stated)
    except ConfigError as error:
        raise ConfigError(str(error), where=path) from error


def config_from_json(stated: Mapping[str, object]) -> RunConfig:
    """Build a configuration from plain values, as in TOML or run.json.

    Raises:
        ConfigError: Names the key that is unknown, mistyped or out of range.
    """
    return config_of(RunConfig, stated)


def with_options(config: _Config, options: Mapping[str, object]) -> _Config:
    """Return the configuration with options set, by dotted key; None leaves a key as it is."""
    by_section: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        section, _, name = key.rpartition(".")
        if value is not None:
            by_section.setdefault(section, {})[name] = value
    own = by_section.pop("", {})
    # A section at once: what contradicts one by one may agree together.
    sections = {name: replace(getattr(config, name), **new) for name, new in by_section.items()}
    return replace(config, **own, **sections)


def config_of(kind: type[_Config], stated: Mapping[str, object], *, prefix: str = "") -> _Config:
    """Build a configuration of any kind from plain values.

    Args:
        kind: Its dataclass.
        stated: Values by key, tables as mappings.
        prefix: Of the keys in messages.

    Raises:
        ConfigError: Names the key that is unknown, mistyped or out of range.
    """
    hints = typing.get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in stated.items():
        key = f"{prefix}{name}"
        if name not in known:
            raise ConfigError(
                "unknown key", where=key, fix=f"Known here: {', '.join(sorted(known))}"
            )
        values[name] = _convert(hints[name], value, key)
    return kind(**values)


def _convert(hint: Any, value: object, key: str) -> object:
    """Check a plain value against a field's type, and convert tables, paths and lists."""
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be a table, not {value!r}", where=key)
        return config_of(hint, value, prefix=f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(arg for arg in arguments if arg is not type(None)), value, key)
    if origin is Literal:
        return _require(value in arguments, value, key, f"one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        is_list = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        _require(is_list, value, key, "a list of strings")
        return tuple(typing.cast(list[str], value))
    if hint is Path:
        return Path(
            typing.cast(str, _require(isinstance(value, (str, Path)), value, key, "a path"))
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _require(type(value) is hint, value, key, f"of type {hint.__name__}")


def _require(is_met: bool, value: object, key: str, wanted: str) -> object:
    if not is_met:
        raise ConfigError(f"must be {wanted}, not {value!r}", where=key)
    return value
