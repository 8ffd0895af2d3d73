"""DistillConfig: method, losses, weighting and schedule of the student; shared settings.

Torch-free.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from msd_deploy.config.setting import SHARE, WEIGHT, Option, Setting, check_ranges
from msd_deploy.errors import ConfigError

Method = Literal["none", "kd", "msd"]
Weighting = Literal["fixed", "population", "instance", "meta"]
Loss = Literal["kl", "dist", "dkd", "mse"]
Keep = Literal["last", "best", "one-se"]

# The settings that the trainings of the student, the teacher and a published checkpoint share.
EPOCHS = Setting("Number of epochs.", (1, 10_000))
BATCH_SIZE = Setting("Batch size.", (1, 65_536))
LEARNING_RATE = Setting(
    "Peak learning rate of AdamW; linear warm-up, then cosine decay to 0.", (1e-8, 10)
)
WEIGHT_DECAY = Setting("Decoupled weight decay of AdamW.", (0, 10))
WARMUP_SHARE = Setting("Share of the steps with linear warm-up of the learning rate.", (0, 0.9))
CHECKPOINT_SECONDS = Setting("Minimum time between two checkpoints, in seconds.", (0, 1e9))
LOG_EVERY = Setting("Steps between two lines of history.jsonl.", (1, 1_000_000))
KEEP = Setting(
    "Weights to keep: of the last step, of the epoch with the best multimodal validation metric"
    " (best), or of the last epoch whose mean over the trained views is within one standard error"
    " of the best one (one-se)."
)
PATIENCE = Setting(
    "Early stopping: number of validations without a better metric (one after each epoch; of many"
    " epochs, 20 to 40 in all) before the learning rate decays to 0 and training ends; 0: none.",
    (0, 10_000),
)
MODALITY_DROPOUT = Setting(
    "Fraction of steps with one modality only, image or text equally often.", (0, 0.9)
)


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How the student is trained."""

    method: Annotated[
        Method,
        Setting(
            "Distillation method: msd (multimodal, image and text views of the teacher), kd"
            " (multimodal view only) or none (labels only)."
        ),
        Option("--method", "Student"),
    ] = "msd"
    alpha: Annotated[
        float,
        Setting("Weight of the loss on the labels; the distillation loss has 1 - alpha.", SHARE),
        Option("--alpha", "Student"),
    ] = 0.1
    temperature: Annotated[
        float,
        Setting("Softmax temperature of the soft targets.", (0.05, 100)),
        Option("--temperature", "Student"),
    ] = 2.0
    loss: Annotated[
        Loss,
        Setting(
            "Distillation loss on the logits: kl (KL divergence), dist (Huang et al. 2022), dkd"
            " (Zhao et al. 2022) or mse; dist and dkd need at least 3 classes."
        ),
        Option("--loss", "Student"),
    ] = "kl"
    standardize: Annotated[
        bool,
        Setting(
            "Standardize logits before the distillation loss (Sun et al. 2024); at least 3 classes."
        ),
    ] = False
    dkd_target_weight: Annotated[
        float, Setting("dkd: weight of the target class against all others.", WEIGHT)
    ] = 1.0
    dkd_other_weight: Annotated[
        float, Setting("dkd: weight of the other classes among themselves.", WEIGHT)
    ] = 8.0
    dist_inter_weight: Annotated[
        float, Setting("dist: weight of the correlation across an example's classes.", WEIGHT)
    ] = 1.0
    dist_intra_weight: Annotated[
        float, Setting("dist: weight of the correlation across a batch's examples.", WEIGHT)
    ] = 1.0
    modality_dropout: Annotated[float, MODALITY_DROPOUT] = 0.0
    weighting: Annotated[
        Weighting,
        Setting(
            "How the loss weights of msd's views are set: fixed (constants), population (mean"
            " saliency of each modality), instance (saliency in each example) or meta (a network"
            " that is learned with the student)."
        ),
        Option("--weighting", "Student"),
    ] = "fixed"
    multimodal_weight: Annotated[
        float, Setting("Weight of the multimodal view's distillation loss.", WEIGHT)
    ] = 1.0
    image_weight: Annotated[
        float,
        Setting("Weight of the image view's distillation loss (msd only).", WEIGHT),
        Option("--image-weight", "Student"),
    ] = 1.0
    text_weight: Annotated[
        float,
        Setting("Weight of the text view's distillation loss (msd only).", WEIGHT),
        Option("--text-weight", "Student"),
    ] = 1.0
    single_view_examples: Annotated[
        float,
        Setting(
            "msd: share of a step's examples that each single view has, other ones for the image"
            " than for the text as far as possible; 1: both views of all. meta has all.",
            (0.01, 1),
        ),
    ] = 0.5
    single_view_steps: Annotated[
        float,
        Setting(
            "msd: share of the planned steps, the first ones, that all have single views. meta has"
            " single views in all.",
            SHARE,
        ),
    ] = 0.67
    single_view_rest: Annotated[
        float,
        Setting(
            "msd: share of the later steps, after single_view_steps, that have single views too, so"
            " that they are not unlearned.",
            (0, 1),
        ),
    ] = 0.25
    hint_weight: Annotated[
        float,
        Setting(
            "Weight of the hint loss: the student's features, projected linearly, match the"
            " teacher's.",
            WEIGHT,
        ),
        Option("--hint-weight", "Features"),
    ] = 0.0
    relation_weight: Annotated[
        float,
        Setting(
            "Weight of the relational loss: distances between a batch's features match the"
            " teacher's; their angles have twice the weight.",
            WEIGHT,
        ),
        Option("--relation-weight", "Features"),
    ] = 0.0
    instance_floor: Annotated[
        float,
        Setting("instance: share of the single views' weight that is split evenly.", SHARE),
    ] = 0.5
    meta_gradient: Annotated[
        Literal["fast", "exact"],
        Setting(
            "meta: gradient through the classifier only, in closed form (fast), or through the"
            " whole student (exact)."
        ),
    ] = "fast"
    meta_look_ahead: Annotated[
        bool, Setting("meta: take the held-out loss after a virtual step of the student.")
    ] = True
    meta_rate: Annotated[
        float, Setting("meta: SGD learning rate of the virtual step.", (1e-8, 1000))
    ] = 0.1
    meta_learning_rate: Annotated[
        float, Setting("meta: Adam learning rate of the weighting network.", (1e-8, 10))
    ] = 3e-3
    meta_rows: Annotated[
        Literal["validation", "train"],
        Setting(
            "meta: examples of the held-out loss: the validation split, or training examples that"
            " are held out for it."
        ),
    ] = "validation"
    meta_share: Annotated[
        float,
        Setting(
            "meta: with meta_rows = train, share of the labelled training examples that is held"
            " out.",
            (0.01, 0.5),
        ),
    ] = 0.1
    meta_batch_size: Annotated[
        int, Setting("meta: held-out examples per update of the network.", (1, 65_536))
    ] = 64
    meta_every: Annotated[
        int, Setting("meta: student steps per update of the network.", (1, 10_000))
    ] = 4
    meta_multimodal_floor: Annotated[
        float, Setting("meta: share of its fixed weight that the multimodal view keeps.", (0, 0.95))
    ] = 0.75
    meta_single_floor: Annotated[
        float,
        Setting("meta: share of their fixed weights that the single views keep.", (0, 0.95)),
    ] = 0.5
    epochs: Annotated[
        int | None,
        EPOCHS,
        Option(
            "--epochs",
            "Student",
            default="as many as make about 1,000 steps, 10 to 100; 0 with --from and --int8-epochs",
        ),
    ] = None
    int8_epochs: Annotated[
        int,
        Setting(
            "Number of further epochs of quantization-aware training, which simulates int8 weights"
            " and activations, without early stopping. With --from the only epochs, unless --epochs"
            " is given.",
            (0, 10_000),
        ),
        Option("--int8-epochs", "Quantization-aware training"),
    ] = 0
    int8_rate: Annotated[
        float,
        Setting("Peak learning rate of int8_epochs, as a multiple of learning_rate.", (1e-6, 10)),
    ] = 0.1
    batch_size: Annotated[int, BATCH_SIZE, Option("--batch-size", "Student")] = 64
    learning_rate: Annotated[
        float | None,
        LEARNING_RATE,
        Option("--learning-rate", "Student", default="0.0045 for the size tiny, 0.003 for others"),
    ] = None
    weight_decay: Annotated[float, WEIGHT_DECAY] = 0.01
    warmup_share: Annotated[float, WARMUP_SHARE] = 0.15
    checkpoint_seconds: Annotated[float, CHECKPOINT_SECONDS] = 30.0
    log_every: Annotated[int, LOG_EVERY] = 20
    keep: Annotated[Keep, KEEP] = "one-se"
    # None, in studies and in older runs: no early stopping, as 0.
    patience: Annotated[int | None, PATIENCE, Option("--patience", "Training")] = 5

    def __post_init__(self) -> None:
        check_ranges(self, "distill")
        self._check_method()

    @property
    def needs_features(self) -> bool:
        """Whether the losses need the teacher's features beside its logits."""
        return self.hint_weight > 0 or self.relation_weight > 0

    def _check_method(self) -> None:
        if self.weighting != "fixed" and self.method != "msd":
            raise ConfigError(
                f"{self.weighting} requires method msd, not {self.method}",
                where="distill.weighting",
                fix="Use --method msd, or run without --weighting",
            )
        if self.needs_features and self.method == "none":
            raise ConfigError(
                "requires a teacher, and method none has none",
                where=f"distill.{'hint_weight' if self.hint_weight > 0 else 'relation_weight'}",
                fix="Use it with --method kd or msd",
            )
        if self.modality_dropout > 0 and self.method == "msd":
            raise ConfigError(
                "is not available for msd, which trains on single views anyway",
                where="distill.modality_dropout",
                fix="Use it with --method kd or none",
            )
        is_closed_form = self.weighting == "meta" and self.meta_gradient == "fast"
        if is_closed_form and self.loss == "dist" and self.dist_intra_weight > 0:
            raise ConfigError(
                "fast requires a loss per example, and dist's intra-class term is one per batch",
                where="distill.meta_gradient",
                fix="Use exact, or set distill.dist_intra_weight = 0",
            )
        weights = (self.multimodal_weight, self.image_weight, self.text_weight)
        used = {"none": (1.0,), "kd": weights[:1], "msd": weights}[self.method]
        if max(used) <= 0:
            raise ConfigError(
                f"{self.method} needs a view weight above 0, and all are 0",
                where="distill.method",
                fix="Raise a weight, or use --method none",
            )
        if self.alpha == 1 and self.method != "none":
            raise ConfigError(
                f"1 leaves no weight for the distillation loss of {self.method}",
                where="distill.alpha",
                fix="Lower it, or use --method none",
            )
        if self.weighting == "meta" and min(weights) <= 0:
            raise ConfigError(
                "meta requires a weight above 0 for each view",
                where="distill.weighting",
            )
