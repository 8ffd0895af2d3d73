"""Settings of an export. Torch-free."""

from dataclasses import dataclass
from typing import Annotated

from msd_deploy.config.setting import Option, Setting, check_ranges
from msd_deploy.errors import ConfigError
from msd_export.formats import CalibrationMethod, Variant, refuse_unknown_variant


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What is exported, and how it is verified."""

    variants: Annotated[tuple[Variant, ...], Setting("Target and precision of each export.")]
    max_drop_points: Annotated[
        float,
        Setting(
            "Maximum loss of the test metric that an export may have, in percentage points.",
            (0, 100),
        ),
        Option("--max-drop"),
    ] = 1.0
    examples: Annotated[
        int | None,
        Setting("Number of test examples to verify with.", (1, 100_000_000)),
        Option("--examples", default="all"),
    ] = None
    overwrite: Annotated[bool, Setting("Replace exports that exist.")] = False
    calibration: Annotated[
        CalibrationMethod,
        Setting(
            "Calibration of int8 activation ranges on training examples: minmax, entropy or"
            " percentile."
        ),
        Option("--calibration", metavar="METHOD"),
    ] = "minmax"
    end_to_end: Annotated[
        bool,
        Setting(
            "Also write end_to_end.onnx beside each model.onnx: from the bytes of a JPEG or PNG and"
            " a text to labels. Requires the extra [extensions]."
        ),
        Option("--end-to-end"),
    ] = False
    cut_vocabulary: Annotated[
        int | None,
        Setting(
            "Prune a model folder's pretrained vocabulary to N word pieces: those of the training"
            " texts, then the most frequent. Verified against the whole vocabulary.",
            (1, 10_000_000),
        ),
        Option("--cut-vocab", default="all", metavar="N"),
    ] = None
    flat: Annotated[
        bool,
        Setting(
            "Write ONNX files that compute the image encoder for a text alone too. The branch that"
            " skips it keeps the encoder on the CPU in NNAPI, and in Core ML's execution provider"
            " unless its subgraphs are enabled."
        ),
        Option("--flat"),
    ] = False
    author: Annotated[
        str | None,
        Setting("Author that the metadata of every exported file states."),
        Option("--author"),
    ] = None
    license: Annotated[
        str | None,
        Setting("License that the metadata of every exported file states, as MIT."),
        Option("--license"),
    ] = None

    def __post_init__(self) -> None:
        for variant in self.variants:
            refuse_unknown_variant(variant)
        check_ranges(self)
        if self.flat and not any(target in ("onnx", "ort") for target, _ in self.variants):
            raise ConfigError("requires the target onnx or ort", where="flat")
        if self.end_to_end and not any(target == "onnx" for target, _ in self.variants):
            raise ConfigError("requires the target onnx", where="end_to_end")
