"""DistillConfig: method, losses, weighting and schedule of the student. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from msd_deploy.config.parsing import check_range
from msd_deploy.errors import ConfigError

Method = Literal["none", "kd", "msd"]
Weighting = Literal["fixed", "population", "instance", "meta"]
Loss = Literal["kl", "dist", "dkd", "mse"]


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
