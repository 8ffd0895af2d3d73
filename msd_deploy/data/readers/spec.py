"""Selection of the reader for a SPEC, the value of `--data`."""

from pathlib import Path

from msd_deploy.data.readers import easy_vqa, hateful_memes, mm_imdb, snli_ve, vqa_v2
from msd_deploy.data.readers.hub_dataset import PREFIX, hub_name
from msd_deploy.data.readers.jsonl import load_jsonl, load_jsonl_for_evaluation
from msd_deploy.data.readers.table_file import SUFFIXES
from msd_deploy.data.readers.table_rows import load_tables, load_tables_for_evaluation
from msd_deploy.data.source import EvaluationSplit, SkippedRow, SourceData, SourceOptions
from msd_deploy.data.synthetic.generate import TASK_NAMES, load_synthetic
from msd_deploy.errors import ConfigError, DataError

__all__ = ["SkippedRow", "SourceData", "SourceOptions", "load_source"]

_SYNTHETIC = "synthetic:"
_PUBLISHED = (hateful_memes.NAME, mm_imdb.NAME, snli_ve.NAME, vqa_v2.NAME)
FILE_SUFFIXES = (".jsonl", *SUFFIXES)
_FILES = "FILE.jsonl, FILE.csv, FILE.tsv or FILE.parquet"
_KNOWN = (
    f"Use {_SYNTHETIC}{'|'.join(TASK_NAMES)}, {easy_vqa.NAME},"
    f" {', '.join(f'{name}:DIR' for name in _PUBLISHED)}, hub:NAME, or the path of a {_FILES}"
)


def load_source(spec: str, *, options: SourceOptions) -> SourceData:
    """Read or generate a data set.

    Args:
        spec: `synthetic:TASK`, `easy-vqa`, `NAME:DIR` of a published data set, `hub:NAME` or
            `hub:FOLDER` of a Hugging Face dataset, or the path of a FILE.jsonl, FILE.csv, FILE.tsv
            or FILE.parquet.
        options: How; an option that the source has no use for must keep its default.

    Raises:
        ConfigError: An option does not apply to the source.
        DataError: The specification is unknown, or the source cannot be used.
        RuntimeUnavailableError: The source's package is not installed.
    """
    if not _is_table(spec):
        _refuse_columns(spec, options)
    if spec.startswith(_SYNTHETIC):
        _refuse_unused(spec, {"labels": options.labels is not None})
        return load_synthetic(_task_of(spec), options)
    _refuse_unused(
        spec,
        {"examples": options.examples is not None, "label_noise": options.label_noise != 0.0},
    )
    if _is_table(spec):
        return load_tables(spec, options)
    name, path = _name_and_path(spec)
    if name:
        _refuse_unused(spec, {"labels": options.labels is not None})
    match name:
        case easy_vqa.NAME:
            return easy_vqa.load_easy_vqa()
        case hateful_memes.NAME:
            return hateful_memes.load_hateful_memes(path, strict=options.strict)
        case mm_imdb.NAME:
            return mm_imdb.load_mm_imdb(path, strict=options.strict)
        case snli_ve.NAME:
            return snli_ve.load_snli_ve(path, strict=options.strict)
        case vqa_v2.NAME:
            return vqa_v2.load_vqa_v2(path, strict=options.strict)
        case _:
            return load_jsonl(_file(spec), options)


def load_evaluation_source(
    spec: str, *, options: SourceOptions, split: EvaluationSplit, labels: tuple[str, ...]
) -> SourceData:
    """Read data to evaluate a model on; files and hub:NAME need no training rows.

    Args:
        spec: See `load_source`.
        options: See `load_source`.
        split: The requested split; all only of files and hub:NAME.
        labels: The model's classes.

    Raises:
        ConfigError: An option does not apply to the source.
        DataError: The source cannot be used; see `load_source` and `load_jsonl_for_evaluation`.
    """
    if _is_table(spec):
        return load_tables_for_evaluation(spec, options, split=split, labels=labels)
    if not kind_of_spec(spec):
        _refuse_columns(spec, options)
        return load_jsonl_for_evaluation(_file(spec), options, split=split, labels=labels)
    if split == "all":
        raise ConfigError(
            f"all rows of {spec} would be its training rows too", fix="Name another --split"
        )
    name, path = _name_and_path(spec)
    if name == vqa_v2.NAME:
        # The answers that a folder makes classes are its own; a model has those it was trained on.
        _refuse_unused(spec, {"labels": options.labels is not None})
        return vqa_v2.load_vqa_v2(path, strict=options.strict, answers=labels)
    return load_source(spec, options=options)


def _name_and_path(spec: str) -> tuple[str, str]:
    """Return the name of a data set ("" for a file), and the path that its SPEC states."""
    name, _, path = spec.partition(":")
    if name in _PUBLISHED:
        return name, path
    if spec.startswith(PREFIX):
        found = hub_name(path)
        return (name, found.place) if found.is_folder else (spec, "")
    if spec == easy_vqa.NAME or spec.startswith(_SYNTHETIC):
        return spec, ""
    return "", spec


def path_of_spec(spec: str) -> Path | None:
    """Return the file or folder that a SPEC names; None for a data set without one."""
    path = _name_and_path(spec)[1]
    return Path(path) if path else None


def kind_of_spec(spec: str) -> str:
    """Return a SPEC without its path: "" for a file."""
    return _name_and_path(spec)[0]


def with_path(spec: str, path: Path) -> str:
    """Return a SPEC of the same form for another file or folder."""
    name = _name_and_path(spec)[0]
    if spec.startswith(PREFIX) and (configuration := hub_name(spec[len(PREFIX) :]).configuration):
        return f"{name}:{path}:{configuration}"
    return f"{name}:{path}" if name else str(path)


def name_of_spec(spec: str) -> str:
    """Return the name of a data set without its path."""
    name, path = _name_and_path(spec)
    if f"{name}:" == PREFIX:
        return f"{PREFIX}{Path(path).name}"
    return name or Path(path).name


def _refuse_columns(spec: str, options: SourceOptions) -> None:
    names = ("image_column", "text_column", "label_column")
    _refuse_unused(spec, {name: getattr(options, name) is not None for name in names})


def _refuse_unused(spec: str, used: dict[str, bool]) -> None:
    for name, is_set in used.items():
        if is_set:
            raise ConfigError(f"{name} does not apply to {spec}", fix="Leave it out")


def _task_of(spec: str) -> str:
    task = spec.removeprefix(_SYNTHETIC)
    if task not in TASK_NAMES:
        raise DataError(f"unknown generated task {task!r}", where=spec, fix=_KNOWN)
    return task


def _is_table(spec: str) -> bool:
    """Return whether a SPEC is a Hugging Face dataset, or a file that is a table."""
    return spec.startswith(PREFIX) or (
        not kind_of_spec(spec) and _file(spec).suffix.lower() in SUFFIXES
    )


def _file(spec: str) -> Path:
    path = Path(spec)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(f"unknown data set {spec[:80]!r} ({error.strerror})", fix=_KNOWN) from error
    if is_folder:
        raise DataError(
            "is a folder", where=path, fix=f"Name the {_FILES} in it, or use hub:FOLDER"
        )
    if path.suffix.lower() not in FILE_SUFFIXES and is_there:
        raise DataError(f"is not a {_FILES}", where=path, fix=_KNOWN)
    if path.suffix.lower() not in FILE_SUFFIXES or "\0" in spec:
        raise DataError(f"unknown data set {spec!r}", fix=_KNOWN)
    return path
