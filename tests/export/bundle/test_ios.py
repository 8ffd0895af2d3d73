"""The bundle for iOS: its core built and tested on Linux, its Apple parts against stubs."""

import os
import plistlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.artifacts.manifest import read_json, read_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_export.bundle.bundle_folder import KIND, write_bundle
from msd_export.folder import ExportFolder
from msd_mobile_bench.app_benchmark import read_app_benchmark
from msd_mobile_bench.variants import find_variants
from tests.export.bundle.spec import write_spec

_MOUNT = ("unshare", "--mount", "mount", "-t", "proc", "proc")
ROOT = Path(__file__).parents[3] / ".swift" / "root"
MODEL = "Sources/MsdDeploy/Resources/model"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(decided_exports: Callable[..., list[ExportFolder]]) -> RunDirectory:
    """A run with an export; read it, never write into it."""
    first, *_ = decided_exports(("coreml", "fp16"))
    return RunDirectory(first.folder.parents[1])


@pytest.fixture(scope="module")
def bundle(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "ios"
    write_bundle(run.root, "ios", folder)
    return folder


def test_the_package_has_its_model_and_its_privacy_manifest(bundle: Path) -> None:
    manifest = read_manifest(bundle / MODEL, KIND)
    stated = (manifest["platform"], manifest["form"], manifest["model"])
    assert stated == ("ios", "coreml-fp16", "model.mlpackage")
    files = manifest["files"]
    assert isinstance(files, dict)
    assert "model.mlpackage/Manifest.json" in files
    assert read_json(bundle / MODEL / "vectors.json")["tolerance"] == 0.02
    package = (bundle / "Package.swift").read_text()
    for name in re.findall(r'\.copy\("([^"]+)"\)', package):
        assert (bundle / "Sources/MsdDeploy" / name).exists()
    for name in re.findall(r'\.target\(\s*name: "(\w+)"', package):
        assert list((bundle / "Sources" / name).glob("*.swift"))
    with (bundle / "Sources/MsdDeploy/PrivacyInfo.xcprivacy").open("rb") as file:
        privacy = plistlib.load(file)
    assert "**/model/** -text" in (bundle / ".gitattributes").read_text().splitlines()
    assert privacy["NSPrivacyTracking"] is False
    assert privacy["NSPrivacyCollectedDataTypes"] == []


def can_enter(root: Path) -> bool:
    """Return whether this process may use a folder as a system of its own."""
    if not root.is_dir() or os.geteuid() != 0:
        return False
    commands = ([*_MOUNT, str(root / "proc")], ["chroot", str(root), "true"])
    return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)


@pytest.mark.skipif(not can_enter(ROOT), reason="needs root, and make .swift/root")
def test_the_code_builds_without_warnings_and_computes_what_python_computes(
    bundle: Path, run: RunDirectory, tmp_path: Path
) -> None:
    spec = tmp_path / "spec"
    write_spec(spec, bundle, MODEL)
    answer = subprocess.run(
        ["bash", str(Path(__file__).parent / "ios" / "test.sh")],
        env={**os.environ, "ROOT": str(ROOT), "BUNDLE": str(bundle), "SPEC": str(spec)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    said = (answer.stdout + answer.stderr).splitlines()
    assert answer.returncode == 0, [*(line for line in said if "✘" in line), *said[-20:]]
    (count,) = re.findall(r"Test run with (\d+) tests.* passed", answer.stdout + answer.stderr)
    assert int(count) >= 69
    row = read_app_benchmark(spec / "benchmark.json", find_variants(run))
    assert (row["name"], row["platform"]) == ("student-coreml-fp16", "ios")
    assert row["threads"] == 2  # the made-up runtime of the Swift tests
