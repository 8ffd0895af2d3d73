"""The targets and precisions of exports, one entry in FORMATS per target. Light to import.

A target is a file format and its runtime; a variant is a target in a precision.
"""

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, cast

from msd_deploy.errors import ConfigError, ExportError, RuntimeUnavailableError

Target = Literal["onnx", "ort", "coreml", "executorch", "litert", "coreai"]
Precision = Literal["fp32", "fp16", "int8", "int8-dynamic", "int4", "pal6", "pal4", "w8a8"]
Variant = tuple[Target, Precision]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]


@dataclass(frozen=True, slots=True)
class PrecisionFacts:
    """A precision.

    Attributes:
        meaning: What it is, for the documentation.
        stored_as: How its quantized weights are stored; None: weights are not quantized.
        is_integer: Whether it computes in 8-bit integers on every target that has it.
        can_be_trained_for: Whether `msd distill --int8-epochs` makes a student lose less by it.
        kept_as: What layers have that a mix of precisions exempts from it.
    """

    meaning: str
    stored_as: str | None = None
    is_integer: bool = False
    can_be_trained_for: bool = False
    kept_as: str = "float"


PRECISIONS: Mapping[Precision, PrecisionFacts] = MappingProxyType(
    {
        "fp32": PrecisionFacts("as trained"),
        "fp16": PrecisionFacts(
            "weights (Core ML, Core AI, ExecuTorch: and arithmetic) in half precision",
        ),
        "int8": PrecisionFacts(
            "weights in 8 bits; activations too, calibrated on training examples (Core ML,"
            " Core AI: weights alone)",
            stored_as="int8",
            is_integer=True,
            can_be_trained_for=True,
        ),
        "int8-dynamic": PrecisionFacts(
            "weights in 8 bits, activations scaled anew for each input",
            stored_as="int8",
            is_integer=True,
            can_be_trained_for=True,
        ),
        "int4": PrecisionFacts("weights in 4 bits, in blocks", stored_as="int4"),
        "pal6": PrecisionFacts(
            "weights as one of 64 values (palettized)", stored_as="pal6", kept_as="int8"
        ),
        "pal4": PrecisionFacts(
            "weights as one of 16 values (palettized)", stored_as="pal4", kept_as="int8"
        ),
        "w8a8": PrecisionFacts(
            "weights and activations in 8 bits, calibrated on training examples",
            stored_as="int8",
            can_be_trained_for=True,
            kept_as="float16 activations",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Format:
    """A target.

    Attributes:
        title: Its name for people.
        runtime: What runs it.
        model_file: The file, or package folder, in an export folder.
        usual: The precisions that are exported by default.
        further: The other supported precisions.
        has_dynamic_batch: Whether one file takes any number of examples at once.
        modules: What must be importable to write and run it.
        runtime_modules: All that opening a model imports, ours included; `msd bench` imports them
            before its clock starts.
        extra: The extra of this project that brings them; "" if all installations have them.
        has_text_entry: Whether a file has a second entry point, for a text alone.
        is_beta: Whether another version of its runtime may not load what is written today.
    """

    title: str
    runtime: str
    model_file: str
    usual: tuple[Precision, ...]
    further: tuple[Precision, ...]
    has_dynamic_batch: bool
    modules: tuple[str, ...]
    runtime_modules: tuple[str, ...]
    extra: str = ""
    has_text_entry: bool = False
    is_beta: bool = False

    @property
    def modules_to_run(self) -> tuple[str, ...]:
        """What must be importable to run it: the packages of others in `runtime_modules`."""
        packages = (name.partition(".")[0] for name in self.runtime_modules)
        return tuple(dict.fromkeys(name for name in packages if name != "msd_export"))

    @property
    def package(self) -> str:
        """The requirement to install it with pip."""
        return f"msd-deploy[{self.extra}]" if self.extra else "msd-deploy"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """All precisions that it has."""
        return self.usual + self.further


_ONNX = Format(
    "ONNX",
    "ONNX Runtime",
    "model.onnx",
    ("fp32", "int8"),
    ("fp16", "int8-dynamic", "int4"),
    True,
    ("onnxruntime", "onnx", "onnxscript"),
    ("onnxruntime",),
)

FORMATS: Mapping[Target, Format] = MappingProxyType(
    {
        "onnx": _ONNX,
        # No fp16 and int4: the converter to .ort folds what is expanded when a file is loaded, and
        # writes such weights in float32 (measured: 9.2 MB became 18.3).
        "ort": replace(_ONNX, title="ORT", model_file="model.ort", further=("int8-dynamic",)),
        "coreml": Format(
            "Core ML",
            "Core ML",
            "model.mlpackage",
            ("fp16", "int8"),
            ("fp32", "pal6", "pal4", "w8a8"),
            False,
            ("coremltools",),
            ("coremltools", "msd_export.coreml.mil.evaluator"),
        ),
        "executorch": Format(
            "ExecuTorch",
            "ExecuTorch",
            "model.pte",
            ("fp32", "int8"),
            ("fp16", "int8-dynamic"),
            False,
            ("executorch",),
            ("executorch.runtime", "msd_export.executorch.predictor"),
            "executorch",
            has_text_entry=True,
        ),
        "litert": Format(
            "LiteRT",
            "LiteRT",
            "model.tflite",
            ("fp32", "int8"),
            ("fp16", "int8-dynamic"),
            False,
            ("ai_edge_litert", "litert_torch"),
            ("ai_edge_litert.interpreter", "msd_export.litert.predictor"),
            "litert",
            has_text_entry=True,
        ),
        "coreai": Format(
            "Core AI",
            "Core AI",
            "model.aimodel",
            ("fp16", "int8"),
            ("fp32",),
            False,
            ("coreai", "coreai_torch", "coreai_opt"),
            ("coreai.authoring", "coreai.runtime", "msd_export.coreai.predictor"),
            "coreai",
            has_text_entry=True,
            is_beta=True,
        ),
    }
)

USUAL_TARGETS: tuple[Target, ...] = ("onnx", "coreml")
"""The default of `msd export --target`: the targets that need no extra."""


def variant_name(variant: Variant) -> str:
    """Return the name of a variant and of its folder, for example onnx-int8."""
    return "-".join(variant)


_DISTRIBUTIONS = {"coreai": "coreai-core"}


def distribution_of(module: str) -> str:
    """Return what pip calls the package that brings one of `Format.modules`."""
    return _DISTRIBUTIONS.get(module, module.replace("_", "-"))


def versions_of(target: Target) -> dict[str, str]:
    """Return the versions of what writes and runs a target, PyTorch among it.

    By the names that pip has for them; one that was installed under another name is "unknown".
    """
    from importlib.metadata import PackageNotFoundError, version  # slow, for `msd --help`

    versions = {}
    for distribution in ("torch", *map(distribution_of, FORMATS[target].modules)):
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:
            versions[distribution] = "unknown"
    return versions


def made_with(target: Target) -> str:
    """Return the versions of what writes and runs a target, in words."""
    return ", ".join(f"{name} {version}" for name, version in versions_of(target).items())


def require_target(target: Target, *, only_to_run: bool = False) -> None:
    """Check that what writes and runs a target, or only what runs it, is installed.

    Raises:
        RuntimeUnavailableError: It is not; names what to install.
    """
    needed = FORMATS[target]
    modules = needed.modules_to_run if only_to_run else needed.modules
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"{needed.title} requires packages that are not installed: {', '.join(missing)}",
            where=target,
            fix=f'Run pip install "{needed.package}"',
        )


@contextmanager
def needing(target: Target, *, only_to_run: bool = False) -> Iterator[None]:
    """Run what imports a target's libraries, or only those that run it.

    Raises:
        RuntimeUnavailableError: They are not installed, or cannot be imported.
    """
    require_target(target, only_to_run=only_to_run)
    try:
        yield
    except (ImportError, ExportError) as error:
        cause = error if isinstance(error, ImportError) else error.__cause__
        if not isinstance(cause, ImportError):
            raise
        needed = FORMATS[target]
        raise RuntimeUnavailableError(
            f"the packages of {needed.title} are installed but cannot be imported ({cause})",
            where=target,
            fix=f'Run pip install --force-reinstall "{needed.package}"',
        ) from error


def variants_of(targets: Collection[str], precisions: Collection[str]) -> tuple[Variant, ...]:
    """Return the variants of the requested targets in the requested precisions.

    Args:
        targets: Names, or "all"; at least one variant of each is returned.
        precisions: Names; none: the usual ones of each target; "all": all that it supports.

    Returns:
        Variants in the order of FORMATS, whatever the order of the arguments.

    Raises:
        ConfigError: A name is unknown, there is no target, or a target supports none of the
            precisions.
    """
    _refuse_unknown("target", targets, FORMATS)
    _refuse_unknown("precision", precisions, PRECISIONS)
    if not targets:
        raise ConfigError("is empty", where="target", fix=f"Known: {', '.join(FORMATS)}, all")
    variants: list[Variant] = []
    for target, form in FORMATS.items():
        if target not in targets and "all" not in targets:
            continue
        matching = [p for p in form.precisions if p in precisions or "all" in precisions]
        if not precisions:
            matching = list(form.usual)
        if not matching:
            raise ConfigError(
                f"{target} supports none of the precisions {', '.join(sorted(precisions))}",
                where="precision",
                fix=f"Supported: {', '.join(form.precisions)}",
            )
        variants += [(target, precision) for precision in matching]
    return tuple(variants)


def _refuse_unknown(argument: str, names: Collection[str], known: Collection[str]) -> None:
    if not isinstance(names, Collection):
        raise ConfigError(f"must be a name or a list of names, not {names!r}", where=argument)
    if unknown := sorted({*map(str, names)} - {*known, "all"}):
        raise ConfigError(
            f"unknown: {', '.join(unknown)}", where=argument, fix=f"Known: {', '.join(known)}, all"
        )


def refuse_unknown_variant(variant: Variant) -> None:
    """Check that a target has a precision.

    Raises:
        ConfigError: It has not.
    """
    target, precision = variant
    offered = FORMATS[target].precisions
    if precision not in offered:
        raise ConfigError(
            f"{target} does not support {precision}", fix=f"Supported: {', '.join(offered)}"
        )


def is_variant(target: object, precision: object) -> bool:
    """Return whether two values from a file name a variant that this version knows."""
    is_target = isinstance(target, str) and target in FORMATS
    return is_target and precision in FORMATS[cast(Target, target)].precisions
