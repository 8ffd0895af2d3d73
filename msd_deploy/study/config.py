"""Settings of a study: methods, seeds and budget. Torch-free."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from msd_deploy.config.decisions import DecisionConfig
from msd_deploy.config.describe import Settings, changed_settings
from msd_deploy.config.distill import Keep
from msd_deploy.config.run import RunConfig
from msd_deploy.config.setting import Option, Setting, check_ranges
from msd_deploy.distillation.methods import METHODS
from msd_deploy.errors import ConfigError

Budget = Literal["steps", "compute", "converged"]
DEFAULT_METHODS = (
    "none",
    "kd",
    "kd-dropout",
    "msd-fixed",
    "msd-population",
    "msd-instance",
    "msd-meta",
)
_DROPOUT = 0.3
CONVERGED_FACTOR = 4
"""Training steps at budget converged, as a multiple of the usual steps."""


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """Methods and seeds that are compared on one data set."""

    base: RunConfig = field(default_factory=RunConfig)
    """Settings that all methods share."""
    methods: Annotated[
        tuple[str, ...],
        Setting("Names of the methods, separated by commas, baselines first."),
        Option("--methods", default=", ".join(DEFAULT_METHODS)),
    ] = DEFAULT_METHODS
    seeds: Annotated[
        int, Setting("Number of students per method.", (1, 1000)), Option("--seeds")
    ] = 3
    first_seed: Annotated[
        int,
        Setting("Random seed of the first student; the others count up from it.", (0, 1_000_000)),
        Option("--first-seed"),
    ] = 1
    budget: Annotated[
        Budget,
        Setting(
            "Training budget: steps (the same number for all methods), compute (the floating-point"
            " operations of msd-fixed) or converged (four times the steps, keeping the epoch with"
            " the best validation metric)."
        ),
        Option("--budget"),
    ] = "steps"
    dropout: Annotated[
        float,
        Setting("Modality dropout of kd-dropout: share of steps on one modality.", (0.01, 0.9)),
        Option("--dropout"),
    ] = _DROPOUT
    jobs: Annotated[
        int | None,
        Setting("Number of students trained in parallel, one CPU core each.", (1, 1024)),
        Option("--jobs", default="the number of CPU cores"),
    ] = None

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise ConfigError(
                    f"unknown method {name!r}",
                    where="methods",
                    fix=f"Known methods: {', '.join(METHODS)}",
                )
        if len(set(self.methods)) < len(self.methods) or not self.methods:
            raise ConfigError("must name at least one method, each method once", where="methods")
        if self.base.distill.int8_epochs or self.base.student.start is not None:
            raise ConfigError(
                "are not available in a study, which trains from scratch in floating point",
                where="distill.int8_epochs or student.start",
                fix="Remove both",
            )
        if self.base.decisions != DecisionConfig():
            raise ConfigError(
                "are not used in a study, which compares what students predict at 0.5",
                where="decisions",
                fix="Remove the table",
            )
        check_ranges(self)
        for name in self.methods:
            self._check_method(name)
        specialists = self.base.teacher.specialist_paths
        if specialists and not any(name.startswith("msd") for name in self.methods):
            raise ConfigError(
                "gives the targets of a single view, which none of the methods distils",
                where=f"teacher.{next(iter(specialists))}_path",
                fix="Remove it, or add msd-fixed to the methods",
            )

    def _check_method(self, name: str) -> None:
        """Raise an error before any training if the settings contradict a method."""
        try:
            self.of_cell(name, self.first_seed)
        except ConfigError as error:
            raise ConfigError(
                f"{name} conflicts with the settings: {error.where} {error.what}",
                where="methods",
                fix="Remove the method, or change the settings",
            ) from error

    def of_cell(self, method: str, seed: int) -> RunConfig:
        """Return the configuration of one student."""
        distill = METHODS[method](self.base.distill, self.dropout)
        keep: Keep = "best" if self.budget == "converged" else "last"
        distill = replace(distill, keep=keep, patience=None)
        # A student reads the cached predictions, whether or not its method uses all their views.
        teacher = replace(self.base.teacher, image_path=None, text_path=None)
        return replace(self.base, teacher=teacher, distill=distill, seed=seed)

    def to_the_end(self) -> "StudyConfig":
        """Return the study with every training as long as planned, the teacher's too."""
        distill = replace(self.base.distill, keep="last", patience=None)
        return replace(self, base=replace(self.base, distill=distill))

    def changed_settings(self) -> Settings:
        """Return changed settings, without those that a method, a seed or the budget sets."""
        own = ("method", "weighting", "modality_dropout", "keep", "patience")
        left_out = {"seed", *(f"distill.{name}" for name in own)}
        changed = {
            key: value for key, value in changed_settings(self.base).items() if key not in left_out
        }
        has_dropout = self.dropout != _DROPOUT and "kd-dropout" in self.methods
        return {**changed, "dropout": self.dropout} if has_dropout else changed

    def cells(self) -> list[tuple[str, int]]:
        """Return every method and seed, seed by seed, so that early results compare methods."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [(method, seed) for seed in seeds for method in self.methods]
