"""`msd_mobile_bench.bench`: what `msd bench` does, for notebooks and programs. Light to import."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from msd_deploy.api import StrPath, path_as_str
from msd_deploy.config.parsing import config_of
from msd_deploy.errors import ConfigError
from msd_deploy.hooks import StageHooks
from msd_deploy.quiet import quiet_imports
from msd_mobile_bench.config import BenchConfig

if TYPE_CHECKING:
    from msd_mobile_bench.phone.options import PhoneOptions
    from msd_mobile_bench.phone.schema import PhoneBench
    from msd_mobile_bench.regression import Comparison
    from msd_mobile_bench.schema import Bench


def bench(
    run: StrPath,
    *,
    config: BenchConfig | Mapping[str, object] | None = None,
    hooks: StageHooks | None = None,
    against: "Comparison | None" = None,
) -> "Bench":
    """Measure a run's teacher, student and exports: speed, memory, size and accuracy.

    Each model runs in a process of its own. Writes bench.json, bench.md and bench.html into the
    run's reports/, and the teacher's float32 ONNX export into its teacher_exports/.

    Args:
        run: A finished run; its exports are measured, the teacher is exported as the reference.
        config: How to measure: a `BenchConfig`, or the same as a mapping; None: the defaults of
            `msd bench`.
        hooks: Progress callbacks.
        against: An earlier benchmark to compare with; "against" of the result has what changed.

    Returns:
        The content of bench.json; "rows" has one entry per variant, runtime and number of threads.

    Raises:
        ConfigError: A setting is unknown, mistyped or out of range, or the earlier benchmark was
            made on another machine.
        ArtifactError: The run is unfinished, or a file is missing or altered.
        DataError: The data set has changed since the run.
        MsdError: A model cannot be run.

    Example:
        >>> result = bench("runs/products", config=BenchConfig(threads=2))
        >>> {row["name"]: row["size_bytes"] for row in result["rows"]}
        {'teacher-torch-fp32': 5793208, ...}
    """
    quiet_imports()
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_export.predictors import torch_threads_restored
    from msd_mobile_bench.pipeline import run_bench

    if isinstance(config, Mapping):
        config = config_of(BenchConfig, config)
    if config is not None and not isinstance(config, BenchConfig):
        raise ConfigError(f"must be a BenchConfig or a mapping, not {config!r}", where="config")
    folder = RunDirectory(Path(path_as_str(run, "run")))
    with torch_threads_restored():
        result = run_bench(folder, config, hooks, export_teacher=True, against=against)
    return cast("Bench", result)


def import_apps(
    run: StrPath, files: Sequence[StrPath], *, hooks: StageHooks | None = None
) -> "Bench":
    """Add to a run's reports what `benchmark()` of its bundles measured in apps.

    Nothing is measured. A file that was added before is there once.

    Args:
        run: A run that was benchmarked.
        files: What bundles wrote, as JSON.
        hooks: Progress callbacks.

    Returns:
        The content of bench.json; "apps" has one entry per file.

    Raises:
        ArtifactError: The run has no benchmark, or a file does not exist, is not an app benchmark,
            has an invalid value, or was made from another model.

    Example:
        >>> import_apps("runs/products", ["pixel-8.json"])["apps"][0]["runtime"]
        'ONNX Runtime 1.29.0'
    """
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_mobile_bench.import_apps import add_apps

    folder = RunDirectory(Path(path_as_str(run, "run")))
    return add_apps(folder, [Path(path_as_str(file, "files")) for file in files], hooks)


def bench_phone(
    run: StrPath, options: "PhoneOptions", *, hooks: StageHooks | None = None
) -> "PhoneBench":
    """Measure a run's exports on an Android phone, and write reports/phone.json.

    Args:
        run: A finished run with exports.
        options: The phone, the tools, and how often.
        hooks: Progress callbacks.

    Returns:
        The content of phone.json; "rows" has one entry per export.

    Raises:
        ConfigError: No export has a tool, or an option does not fit the phone.
        ArtifactError: The run is unfinished, a file is missing or altered, or a tool was not built
            for the phone.
        MsdError: adb or a phone is missing, the phone is hot, or a tool failed.
    """
    from msd_deploy.artifacts.run_directory import RunDirectory
    from msd_mobile_bench.phone.measure import write_phone_bench

    return write_phone_bench(RunDirectory(Path(path_as_str(run, "run"))), options, hooks)
