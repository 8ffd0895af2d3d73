"""DecisionConfig: the operating point that is chosen on the validation split. Torch-free."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msd_deploy.config.setting import SHARE, Option, Setting, check_ranges
from msd_deploy.errors import ConfigError
from msd_deploy.problem import Problem, decides_one_class

RuleName = Literal["none", "f1", "precision", "recall", "threshold", "abstain_below"]

_PANEL = "Decisions"
_FORMS = "none, f1, precision=P, recall=R or threshold=T with a number above 0 and below 1"


@dataclass(frozen=True, slots=True)
class Rule:
    """How an operating point is chosen.

    Attributes:
        name: What is demanded.
        value: The number that is demanded, above 0 and below 1; None of none and f1.
    """

    name: RuleName
    value: float | None = None

    def __str__(self) -> str:
        """Return it as it is typed."""
        return self.name if self.value is None else f"{self.name}={self.value!r}"


@dataclass(frozen=True, slots=True)
class DecisionConfig:
    """Which classes the student decides at which probabilities, or abstains."""

    decide: Annotated[
        str | None,
        Setting(
            "How decisions follow from probabilities, chosen on validation for each view:"
            " precision=P or recall=R (multi-label: of each class; else the model abstains where it"
            " is unsure); multi-label only: f1 (thresholds of the best F1) or threshold=T (of all"
            " classes); none: the most probable class, multi-label 0.5."
        ),
        Option(
            "--decide",
            _PANEL,
            default="multi-label: f1; else the most probable class",
            metavar="RULE",
        ),
    ] = None
    abstain_below: Annotated[
        float | None,
        Setting("Single-label tasks: abstain where the probability is lower.", SHARE),
        Option("--abstain-below", _PANEL),
    ] = None

    def __post_init__(self) -> None:
        check_ranges(self, "decisions")
        if self.decide is not None and self.abstain_below is not None:
            raise ConfigError(
                "excludes decide, which chooses it",
                where="decisions.abstain_below (--abstain-below)",
                fix="Give one of --decide and --abstain-below",
            )
        if self.decide is not None:
            _parsed(self.decide)
        if self.abstain_below in (0.0, 1.0):
            meaning = "never abstain" if self.abstain_below == 0 else "never decide"
            raise ConfigError(
                f"of {self.abstain_below:g} would {meaning}",
                where="decisions.abstain_below (--abstain-below)",
                fix="Use a number above 0 and below 1, or --decide none",
            )

    @property
    def rule(self) -> Rule | None:
        """How the operating point is chosen; None: as the problem's default."""
        if self.abstain_below is not None:
            return Rule("abstain_below", self.abstain_below)
        return None if self.decide is None else _parsed(self.decide)


def rule_for(config: DecisionConfig, problem: Problem) -> Rule | None:
    """Return the rule for a problem; None: the most probable class, or a probability of .5.

    Raises:
        ConfigError: The rule is for another kind of problem.
    """
    rule, is_single = config.rule, decides_one_class(problem)
    if rule is None:
        return None if is_single else Rule("f1")
    if rule.name == "none":
        return None
    if is_single and rule.name in ("f1", "threshold"):
        raise ConfigError(
            f"{rule} is for multi-label tasks, and in this one a single class is decided",
            where="decisions.decide (--decide)",
            fix="Use --abstain-below T, --decide precision=P or recall=R",
        )
    if not is_single and rule.name == "abstain_below":
        raise ConfigError(
            "is for tasks in which a single class is decided; in this one every class has a"
            " threshold of its own",
            where="decisions.abstain_below (--abstain-below)",
            fix="Use --decide threshold=T",
        )
    return rule


def settings_of(rule: str) -> DecisionConfig:
    """Return the settings of which `Rule` is written as a text, as in labels.json.

    Raises:
        ConfigError: It is not a rule.
    """
    name, _, number = rule.partition("=")
    if name == "abstain_below":
        return DecisionConfig(abstain_below=_number(number))
    return DecisionConfig(decide=rule)


def _parsed(text: str) -> Rule:
    whole: tuple[RuleName, ...] = ("none", "f1")
    numbered: tuple[RuleName, ...] = ("precision", "recall", "threshold")
    stated, _, number = text.partition("=")
    for name in whole:
        if name == text:
            return Rule(name)
    for name in numbered:
        if name == stated and 0 < (value := _number(number)) < 1:
            return Rule(name, value)
    raise ConfigError(f"must be {_FORMS}, not {text!r}", where="decisions.decide (--decide)")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
