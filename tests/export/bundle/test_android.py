"""The bundle for Android: its core on a JVM, its Android module against stubs of signatures."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import read_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.preprocess import Preprocessor
from msd_export.bundle import bundle_folder
from msd_export.bundle.bundle_folder import KIND, write_bundle
from msd_export.bundle.text_rules import text_rules
from msd_export.bundle.vectors import noise_vectors
from msd_export.folder import ExportFolder
from msd_mobile_bench.app_benchmark import read_app_benchmark
from msd_mobile_bench.variants import find_variants
from tests.export.bundle.spec import write_spec

KOTLIN = Path(__file__).parents[3] / ".kotlin" / "package"
TEMPLATE = Path(bundle_folder.__file__).parent / "templates" / "android"
MODEL = "android/src/main/assets/model"
SIZES = (("crop", (48, 48)), ("crop", (24, 32)), ("fit", (33, 17)), ("fit", (224, 160)))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(decided_exports: Callable[..., list[ExportFolder]]) -> RunDirectory:
    """A run with an export; read it, never write into it."""
    first, *_ = decided_exports(("onnx", "fp32"))
    return RunDirectory(first.folder.parents[1])


@pytest.fixture(scope="module")
def bundle(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "android"
    write_bundle(run.root, "android", folder)
    return folder


def test_modules_and_assets_are_where_gradle_looks(bundle: Path) -> None:
    assert read_manifest(bundle / MODEL, KIND)["platform"] == "android"
    modules = re.findall(r'":(\w+)"', (bundle / "settings.gradle.kts").read_text())
    assert modules == ["core", "android", "example"]
    for module in modules:
        assert (bundle / module / "build.gradle.kts").is_file()
        assert list((bundle / module / "src/main/kotlin").rglob("*.kt"))
    assert (bundle / "example/src/main/AndroidManifest.xml").is_file()
    assert (bundle / "gradle.properties").is_file()
    assert "gradle-8.13-" in (bundle / "gradle/wrapper/gradle-wrapper.properties").read_text()
    for folder in (bundle, bundle / "android"):
        assert " -text" in (folder / ".gitattributes").read_text()
    stated = (bundle / "gradle/libs.versions.toml").read_text()
    for path in bundle.rglob("build.gradle.kts"):
        for name in re.findall(r"libs\.(?:plugins\.)?([a-z.]+)\)", path.read_text()):
            assert name.replace(".", "-") in stated


@pytest.mark.parametrize(("runtime", "library"), [("onnx", "onnxruntime"), ("litert", "litert")])
def test_a_runtime_has_what_the_android_module_names(runtime: str, library: str) -> None:
    folder = TEMPLATE / "runtimes" / runtime
    module = (TEMPLATE / "android/build.gradle.kts").read_text()
    assert not (TEMPLATE / "android/consumer-rules.pro").exists()
    for name in ("runtime.gradle.kts", "consumer-rules.pro"):
        assert f'"{name}"' in module
        assert (folder / name).is_file()
    assert library in (folder / "runtime.gradle.kts").read_text()
    code = "".join(path.read_text() for path in folder.rglob("*.kt"))
    assert code.count("internal fun openRuntime(bundle: Bundle): Runtime") == 1


def words_of_marks(preprocessor: Preprocessor) -> list[dict[str, object]]:
    """Texts of marks, barriers and other characters, with the tokenizer's words."""
    tokenizer, rules = preprocessor.tokenizer, text_rules(preprocessor)
    chance = np.random.default_rng(0)
    marks = [mark for mark, _ in rules["order"]]
    letters = [*marks, *rules["barriers"][::7], 0x300, 0x20, 0x61, 0x2E, 0x60E1, 0x1D15E]
    texts = ["".join(map(chr, chance.choice(letters, 12))) for _ in range(1000)]
    vectors: list[dict[str, object]] = []
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
        vectors.append({"text": text, "words": words})
    return vectors


@pytest.mark.skipif(
    not (KOTLIN.is_dir() and shutil.which("javac")),
    reason="needs Java 17, and make .kotlin/package",
)
def test_the_code_compiles_without_warnings_and_computes_what_python_computes(
    bundle: Path, run: RunDirectory, tmp_path: Path
) -> None:
    spec, preprocessor = tmp_path / "spec", Preprocessor.load(run.student)
    write_spec(spec, bundle, MODEL)
    (spec / "words.json").write_text(json.dumps({"texts": words_of_marks(preprocessor)}))
    sizes = []
    for mode, size in SIZES:
        image = replace(preprocessor.image, size=size, mode=mode)
        noise = noise_vectors(replace(preprocessor, image=image))
        sizes.append({"mode": mode, "size": size, "noise": noise})
    (spec / "noise.json").write_text(json.dumps({"sizes": sizes}))
    answer = subprocess.run(
        ["bash", str(Path(__file__).parent / "android" / "test.sh")],
        env={
            **os.environ,
            "KOTLIN": str(KOTLIN),
            "TEMPLATE": str(TEMPLATE),
            "BUNDLE": str(bundle),
            "SPEC": str(spec),
            "BUILD": str(tmp_path / "build"),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    passed = re.search(r"(\d+) passed, 0 failed", answer.stdout)
    assert passed is not None
    assert int(passed[1]) >= 67
    row = read_app_benchmark(tmp_path / "build" / "benchmark.json", find_variants(run))
    assert (row["name"], row["platform"]) == ("student-onnx-fp32", "android")
    for state in row["conditions"].values():
        assert state.keys() == {"thermal", "battery", "charging", "low_power"}
