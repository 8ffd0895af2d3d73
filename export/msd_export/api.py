"""`msd_export.export` and `msd_export.load`, for notebooks and programs. Light to import."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msd_deploy.api import StrPath, path_as_str
from msd_deploy.config.setting import check_range
from msd_deploy.hooks import StageHooks
from msd_deploy.quiet import quiet_imports
from msd_export.formats import (
    USUAL_TARGETS,
    CalibrationMethod,
    Precision,
    Target,
    variants_of,
)

if TYPE_CHECKING:
    from msd_deploy.data.source import SourceOptions
    from msd_export.folder import ExportFolder
    from msd_export.opened_model import OpenedModel

TargetChoice = Target | Literal["all"]
PrecisionChoice = Precision | Literal["all"]


def export(
    model: StrPath,
    *,
    target: TargetChoice | Collection[TargetChoice] = USUAL_TARGETS,
    precision: PrecisionChoice | Collection[PrecisionChoice] = (),
    max_drop: float = 1.0,
    examples: int | None = None,
    calibration: CalibrationMethod = "minmax",
    end_to_end: bool = False,
    cut_vocabulary: int | None = None,
    flat: bool = False,
    data: StrPath | None = None,
    options: "SourceOptions | None" = None,
    out: StrPath | None = None,
    overwrite: bool = False,
    hooks: StageHooks | None = None,
) -> "list[ExportFolder]":
    """Export a run's student, or any model folder, and verify every variant on the test split.

    Writes a folder TARGET-PRECISION per variant, as `msd export` does: for a run into its exports/,
    for a model folder into `out`.

    Args:
        model: A run, or with `data` a model folder such as a run's teacher/.
        target: "onnx", "ort", "coreml", "executorch", "litert", "coreai", several of them, or
            "all".
        precision: One or several precisions, or "all"; none: the usual two of each target.
        max_drop: Largest loss of the test metric in percentage points.
        examples: Number of test examples to verify with; None: all.
        calibration: How int8 derives an activation's range from training examples.
        end_to_end: Also write end_to_end.onnx, from an encoded image and a text to labels.
        cut_vocabulary: Number of word pieces to keep of a model folder's pretrained vocabulary.
        flat: Write ONNX files that compute the image encoder for a text alone too, without the
            branch that not every execution provider computes.
        data: A model folder's data set: its training split calibrates, its test split verifies.
        options: How `data` is read.
        out: Folder of a model folder's exports; None: MODEL-exports beside it.
        overwrite: Replace existing exports.
        hooks: Progress callbacks.

    Returns:
        The exports, in the order they were written.

    Raises:
        ConfigError: A target or precision is unknown, or a value is out of range.
        ArtifactError: The run is unfinished, or an export exists and `overwrite` is false.
        RuntimeUnavailableError: A target's packages are not installed.
        ExportError: A converter failed. The other variants are written.
        ParityError: A variant differs from the model by more than the tolerance and is not
            written. The other variants are.

    Example:
        >>> [item.name for item in export("runs/products", target="onnx")]
        ['onnx-fp32', 'onnx-int8']
    """
    quiet_imports()
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_deploy.data.source import SourceOptions
    from msd_export.config import ExportConfig
    from msd_export.pipeline import check_request, export_model, export_student
    from msd_export.predictors import torch_threads_restored

    folder = Path(path_as_str(model, "model"))
    chosen = (target,) if isinstance(target, str) else target
    precisions = (precision,) if isinstance(precision, str) else precision
    config = ExportConfig(
        variants_of(chosen, precisions),
        max_drop,
        examples,
        overwrite=overwrite,
        calibration=calibration,
        end_to_end=end_to_end,
        cut_vocabulary=cut_vocabulary,
        flat=flat,
    )
    spec = None if data is None else path_as_str(data, "data")
    destination = None if out is None else Path(path_as_str(out, "out"))
    options = options or SourceOptions()
    check_request(folder, spec, config, options=options, out=destination)
    with torch_threads_restored():
        if spec is None:
            return export_student(RunDirectory(folder), config, hooks)
        return export_model(folder, spec, config, options=options, out=destination, hooks=hooks)


def load(path: StrPath, *, threads: int = 1) -> "OpenedModel":
    """Open a run's student, a model folder or an export, each in its own runtime.

    Args:
        path: The folder; digests of its files are verified.
        threads: Number of CPU threads of an export's runtime. PyTorch keeps its own number; see
            `torch.set_num_threads`.

    Returns:
        A model whose `predict(image=..., text=...)` classifies one example.

    Raises:
        ConfigError: An argument is of another type, or `threads` is out of range.
        ArtifactError: It is none of these, or it is incomplete or altered.
        RuntimeUnavailableError: Its runtime is not installed.

    Example:
        >>> model = load("runs/products/exports/onnx-int8")
        >>> model.predict(image="shoe.jpg", text="red running shoes").label
        'shoes'
    """
    quiet_imports()
    from msd_export.opened_model import open_model
    from msd_export.predictors import torch_threads_restored

    check_range("threads", threads, 1, 256)
    with torch_threads_restored():
        return open_model(Path(path_as_str(path, "path")), threads=threads)
