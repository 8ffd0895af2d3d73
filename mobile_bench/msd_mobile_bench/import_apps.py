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
from msd_mobile_bench.schema import AppRow, Bench
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
        ArtifactError: There is no benchmark of the run, or a file is missing, is no such file, has
            a value that cannot be, or is of another model.
    """
    hooks = hooks or StageHooks()
    with claimed(run.root):
        read_finished_run(run)
        variants = find_variants(run, on_note=hooks.on_note)
        bench = _read_bench(run)
        if bench is None:
            raise ArtifactError(
                "has no benchmark that apps could be added to",
                where=run.root,
                fix=f"Run msd bench {run.root} first",
            )
        added = [read_app_benchmark(path, variants) for path in files]
        digests = {app["file_digest"] for app in added}
        kept = [app for app in bench.get("apps", []) if app["file_digest"] not in digests]
        bench["apps"] = [*kept, *added]
        write_reports(run.reports, bench)
    return bench


def _read_bench(run: RunDirectory) -> Bench | None:
    path = run.reports / JSON_NAME
    return cast(Bench, read_versioned_json(path)) if path.is_file() else None


def apps_of_before(run: RunDirectory, variants: list[Variant], hooks: StageHooks) -> list[AppRow]:
    """Return the apps of an earlier benchmark whose model is still one of the run's exports."""
    bench = _read_bench(run)
    apps = [] if bench is None else bench.get("apps", [])
    kept = [app for app in apps if is_of(app, variants)]
    if len(kept) < len(apps):
        hooks.on_note(
            f"Left out {len(apps) - len(kept)} of {len(apps)} apps' benchmarks: their exports were"
            " made again."
        )
    return kept
