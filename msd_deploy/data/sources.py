"""From a SPEC, as `--data` takes it, to the reader of that source."""

from pathlib import Path

from msd_deploy.data.easy_vqa import load_easy_vqa
from msd_deploy.data.jsonl import load_jsonl
from msd_deploy.data.source_types import SkippedRow, SourceData, SourceOptions
from msd_deploy.data.synthetic import TASK_NAMES, load_synthetic
from msd_deploy.errors import ConfigError, DataError

__all__ = ["SkippedRow", "SourceData", "SourceOptions", "load_source"]

_SYNTHETIC, _EASY_VQA = "synthetic:", "easy-vqa"
_KNOWN = f"Use {_SYNTHETIC}{'|'.join(TASK_NAMES)}, {_EASY_VQA}, or the path of a FILE.jsonl"


def load_source(spec: str, *, options: SourceOptions) -> SourceData:
    """Read or generate a data set.

    Args:
        spec: `synthetic:TASK`, `easy-vqa`, or the path of a FILE.jsonl.
        options: How; an option that the source has no use for must keep its default.

    Raises:
        ConfigError: An option does not apply to the source.
        DataError: The specification is unknown, or the source cannot be used.
        RuntimeUnavailableError: The source's package is not installed.
    """
    if spec.startswith(_SYNTHETIC):
        _refuse_unused(spec, {"labels": options.labels is not None})
        return load_synthetic(_task_of(spec), options)
    _refuse_unused(
        spec,
        {"examples": options.examples is not None, "label_noise": options.label_noise != 0.0},
    )
    if spec == _EASY_VQA:
        _refuse_unused(spec, {"labels": options.labels is not None})
        return load_easy_vqa()
    return load_jsonl(_jsonl_path(spec), options)


def is_file_spec(spec: str) -> bool:
    """Return whether a SPEC names a file, not a data set by its name."""
    return spec != _EASY_VQA and not spec.startswith(_SYNTHETIC)


def _refuse_unused(spec: str, used: dict[str, bool]) -> None:
    for name, is_set in used.items():
        if is_set:
            raise ConfigError(f"{name} does not apply to {spec}", fix="Leave it out")


def _task_of(spec: str) -> str:
    task = spec.removeprefix(_SYNTHETIC)
    if task not in TASK_NAMES:
        raise DataError(f"unknown generated task {task!r}", where=spec, fix=_KNOWN)
    return task


def _jsonl_path(spec: str) -> Path:
    path = Path(spec)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(f"unknown data set {spec[:80]!r} ({error.strerror})", fix=_KNOWN) from error
    if is_folder:
        raise DataError("is a folder", where=path, fix="Name the FILE.jsonl in it")
    if path.suffix.lower() != ".jsonl" and is_there:
        raise DataError("is no .jsonl file", where=path, fix=_KNOWN)
    if path.suffix.lower() != ".jsonl" or "\0" in spec:
        raise DataError(f"unknown data set {spec!r}", fix=_KNOWN)
    return path
