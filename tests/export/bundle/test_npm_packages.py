"""Packages of npm: fetched once, verified, and only the files that are used."""

import base64
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from msd_deploy.errors import RuntimeUnavailableError
from msd_export.bundle.npm_packages import (
    LITERT_JS,
    LITERT_WASM_UTILS,
    ONNXRUNTIME_WEB,
    PLAYWRIGHT,
    NpmPackage,
    fetch_package,
    is_fetched,
    package_folder,
)

ROOT = Path(__file__).parents[3]

needs_npm = pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NpmPackage:
    """A package in a folder of this machine, which npm packs as one that is published."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    (source / "lib" / "deep").mkdir(parents=True)
    (source / "package.json").write_text(json.dumps({"name": "some", "version": "1.2.3"}))
    for name in ("kept.mjs", "other.mjs", "lib/a.mjs", "lib/deep/b.mjs"):
        (source / name).write_text(f"// {name}")
    subprocess.run(["npm", "pack", "--silent", str(source)], cwd=tmp_path, check=True)
    (archive,) = tmp_path.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    return NpmPackage("some", f"file:{source}", f"sha512-{digest}", ("kept.mjs", "lib/"))


@needs_npm
def test_a_package_is_fetched_once_with_the_files_that_are_used(
    package: NpmPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_fetched(package)
    folder = fetch_package(package)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"kept.mjs", "lib/a.mjs", "lib/deep/b.mjs", "manifest.json"}
    assert is_fetched(package)
    monkeypatch.setenv("PATH", "")  # no npm any more
    assert fetch_package(package) == folder


@needs_npm
def test_a_package_that_was_altered_in_the_cache_is_fetched_again(package: NpmPackage) -> None:
    path = fetch_package(package) / "kept.mjs"
    path.write_text("something else")
    assert not is_fetched(package)
    fetch_package(package)
    assert path.read_text() == "// kept.mjs"


@needs_npm
def test_another_package_than_the_published_one_is_refused(package: NpmPackage) -> None:
    other = replace(package, integrity=f"sha512-{base64.b64encode(bytes(64)).decode()}")
    with pytest.raises(RuntimeUnavailableError, match=r"is not the published package \(its SHA-51"):
        fetch_package(other)
    assert not package_folder(other).exists()


@needs_npm
def test_a_package_that_npm_cannot_fetch_is_named(package: NpmPackage, tmp_path: Path) -> None:
    gone = replace(package, version=f"file:{tmp_path / 'gone'}")
    with pytest.raises(RuntimeUnavailableError, match=r"npm cannot fetch some@file:.*gone"):
        fetch_package(gone)


def test_tests_use_the_versions_that_are_fetched() -> None:
    content = json.loads((ROOT / "requirements" / "web" / "package.json").read_text())
    for package in (ONNXRUNTIME_WEB, LITERT_JS, LITERT_WASM_UTILS, PLAYWRIGHT):
        assert content["devDependencies"][package.name] == package.version
