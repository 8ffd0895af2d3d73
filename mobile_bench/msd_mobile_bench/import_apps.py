"""`msd bench RUN --import FILE`: add to a run's reports what apps measured on their devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import read_versioned_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import StageHooks
from msd_deploy.run.record import read_finished_run
from msd_mobile_bench.app_benchmark import is_of, read_app_benchmark
from msd_mobile_bench.report import JSON_NAME, write_reports
from msd_mobile_bench.schema import BENCH_SCHEMA_VERSION, AppRow, Bench, Row
from msd_mobile_bench.variants import Variant, find_variants


def add_apps(run: RunDirectory, files: Sequence[Path], hooks: StageHooks | None = None) -> Bench:
    """Add to a run's reports what `benchmark()` of its bundles measured in apps.

    A file that was added before is added once; nothing is measured.

    Args:
        run: A run that was benchmarked.
        files: What bundles wrote, as JSON.
        hooks: Progress.

    Returns:
        The content of bench.json.

    Raises:
        ArtifactError: The run has no benchmark, or a file does not exist, is not an app benchmark,
            has an invalid value, or was made from another model.
    """
    hooks = hooks or StageHooks()
    with claimed(run.root):
        read_finished_run(run)
        variants = find_variants(run, on_note=hooks.on_note)
        bench = _read_bench(run)
        read = [read_app_benchmark(path, variants) for path in files]
        added = {app["file_digest"]: app for app in read}
        kept = _still_of(bench["apps"], variants, hooks)
        others = [app for app in kept if app["file_digest"] not in added]
        bench["apps"] = [*others, *added.values()]
        write_reports(run.reports, bench)
    return bench


def apps_of_before(run: RunDirectory, variants: list[Variant], hooks: StageHooks) -> list[AppRow]:
    """Return the apps of an earlier benchmark whose model is still one of the run's exports."""
    try:
        apps = _read_bench(run)["apps"]
    except ArtifactError as error:  # it is replaced
        if (run.reports / JSON_NAME).is_file():
            hooks.on_note(f"{error} Apps that were imported into it are to be imported again.")
        return []
    return _still_of(apps, variants, hooks)


def _read_bench(run: RunDirectory) -> Bench:
    """Read a run's benchmark, of which all that a report shows has to be there.

    Raises:
        ArtifactError: There is none, it cannot be read, or another version wrote it.
    """
    path = run.reports / JSON_NAME
    fix = f"Run msd bench {run.root} first"
    if not path.is_file():
        what = "has no benchmark that apps could be added to"
        raise ArtifactError(what, where=run.root, fix=fix)
    bench = read_versioned_json(path, newest=BENCH_SCHEMA_VERSION)
    is_whole = bench.get("kind") == "bench" and Bench.__annotations__.keys() <= bench.keys()
    if not (is_whole and _are(bench["rows"], Row) and _are(bench["apps"], AppRow)):
        raise ArtifactError("was written by another version", where=path, fix=fix)
    return cast(Bench, bench)


def _are(rows: object, kind: type) -> bool:
    """Return whether rows have all keys of a typed dictionary."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and kind.__annotations__.keys() <= row.keys() for row in rows
    )


def _still_of(apps: list[AppRow], variants: list[Variant], hooks: StageHooks) -> list[AppRow]:
    kept = [app for app in apps if is_of(app, variants)]
    if len(kept) < len(apps):
        hooks.on_note(
            f"Left out {len(apps) - len(kept)} of {len(apps)} apps' benchmarks: their exports were"
            " made again."
        )
    return kept
