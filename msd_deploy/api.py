"""`msd_deploy.distill`: what `msd distill` does, for notebooks and programs. Light to import.

Exports and benchmarks have their own: `msd_export.export`, `msd_export.load` and
`msd_mobile_bench.bench`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from msd_deploy.artifacts.manifest import Json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import Method
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import RunConfig, StudentSize, config_from_json, read_config
from msd_deploy.errors import ConfigError
from msd_deploy.hooks import RunHooks
from msd_deploy.pages.formatting import ScoreJson
from msd_deploy.quiet import quiet_imports

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class DistilledRun:
    """A finished run; a path to its folder, wherever a path is expected.

    Attributes:
        folder: The run's folder.
        metric: Name of the metric, for example "accuracy".
        teacher: The teacher's metric on the test split by view ("multimodal", "image", "text"),
            each with its value, 95 % interval and number of examples; fractions of 1. Empty where
            no test row has a label.
        student: The student's, likewise.
        metrics: The content of metrics.json, validation split included (docs/artifacts.md).
    """

    folder: Path
    metric: str
    teacher: Mapping[str, ScoreJson] = field(repr=False)
    student: Mapping[str, ScoreJson] = field(repr=False)
    metrics: Json = field(repr=False)

    def __fspath__(self) -> str:
        """Return the folder, so that `open`, `Path` and the other packages take a run as a path."""
        return str(self.folder)


def path_as_str(value: StrPath, argument: str) -> str:
    """Return a path argument as a string, as it was given.

    Raises:
        ConfigError: It is neither a string nor a path; names the argument.
    """
    text = value.__fspath__() if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ConfigError(f"must be a string or a path, not {value!r}", where=argument)
    return text


def distill(
    data: StrPath | None = None,
    *,
    out: StrPath,
    teacher: StrPath | None = None,
    student: StudentSize | None = None,
    method: Method | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    config: RunConfig | Mapping[str, object] | StrPath | None = None,
    resume: bool = False,
    overwrite: bool = False,
    hooks: RunHooks | None = None,
) -> DistilledRun:
    """Train or load a teacher, distil a small student from it, and evaluate both.

    Writes the run's folder, as `msd distill` does; docs/artifacts.md describes its files. An
    interrupted call can be repeated with `resume=True`.

    Args:
        data: FILE.jsonl, or any other value of `msd distill --data`; None: that of `config`.
        out: The run's folder.
        teacher: Folder of a trained teacher, or its name on the Hugging Face hub; None: that of
            `config`, and where it has none, one is trained on the labels.
        student: Size of the student: "tiny", "small" or "mobile".
        method: "msd", "kd" (plain distillation) or "none" (labels alone).
        epochs: Epochs of the student's training.
        seed: Random seed for initialization, shuffling and dropout.
        config: All settings: a `RunConfig`, the same as nested mappings, or a TOML file. The
            arguments above override it. With `resume` the default is the run's own.
        resume: Continue an interrupted run with the same settings.
        overwrite: Replace an existing run.
        hooks: Progress callbacks; nothing is printed without them.

    Returns:
        The finished run and its metrics.

    Raises:
        ConfigError: A setting is unknown, mistyped or out of range.
        DataError: The data set is missing or cannot be used.
        ArtifactError: The run exists, or there is no run to resume.
        MsdError: The base of these, and any other error that the caller can fix.

    Example:
        >>> run = distill("products.jsonl", out="runs/products", student="small")
        >>> run.student["image"]["value"]
        0.838
    """
    quiet_imports()
    from msd_deploy.pipeline import run_distillation
    from msd_deploy.run.record import read_run

    run = RunDirectory(Path(path_as_str(out, "out")))
    match config:
        case None:
            base = read_run(run).config if resume else RunConfig()
        case RunConfig():
            base = config
        case Mapping():
            base = config_from_json(config)
        case str() | os.PathLike():
            base = read_config(Path(config))
        case _:
            raise ConfigError(
                f"must be a RunConfig, a mapping or the path of a TOML file, not {config!r}",
                where="config",
            )
    settings = cast(dict[str, Any], config_as_json(base))
    for section, name, value in (
        ("data", "spec", None if data is None else path_as_str(data, "data")),
        ("teacher", "path", None if teacher is None else path_as_str(teacher, "teacher")),
        ("student", "size", student),
        ("distill", "method", method),
        ("distill", "epochs", epochs),
    ):
        if value is not None:
            settings[section][name] = value
    if seed is not None:
        settings["seed"] = seed
    metrics = run_distillation(
        config_from_json(settings), run, resume=resume, overwrite=overwrite, hooks=hooks
    )
    of_test = {
        who: cast(dict[str, Any], metrics[who]).get("test", {}) for who in ("teacher", "student")
    }
    return DistilledRun(
        run.root, str(metrics["metric"]), of_test["teacher"], of_test["student"], metrics
    )
