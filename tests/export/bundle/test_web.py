"""The bundle for the web, in a real browser: everything that its vectors hold, and more."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_export.bundle.bundle_folder import write_bundle
from msd_export.folder import ExportFolder
from msd_mobile_bench.app_benchmark import read_app_benchmark
from msd_mobile_bench.variants import find_variants

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent / "web"
MODULES = ROOT / ".web" / "node_modules"
BROWSER = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODULES.is_dir() and BROWSER), reason="needs chromium, and make .web/node_modules"
    ),
]


@pytest.fixture(scope="module")
def run(decided_exports: Callable[..., list[ExportFolder]]) -> RunDirectory:
    """A run with exports; read it, never write into it."""
    first, *_ = decided_exports(("onnx", "fp32"), ("onnx", "int8"))
    return RunDirectory(first.folder.parents[1])


@pytest.fixture(scope="module", params=["onnx-fp32", "onnx-int8"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(run: RunDirectory, form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / form
    write_bundle(run.root, "web", folder, form=form)
    return folder


@pytest.fixture(scope="module")
def said(bundle: Path) -> Any:
    """What browser.mjs prints of the bundle."""
    line = ["node", str(HERE / "browser.mjs"), str(bundle), str(MODULES), str(BROWSER)]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_identifiers_and_words_are_those_of_python(said: Any) -> None:
    texts = said["texts"]
    assert (texts["texts"], texts["words"], texts["characters"]) == (0, 0, 0)
    assert texts["seen"] == 1_112_064
    assert texts["lone"] == "ab"  # a lone surrogate is U+FFFD, which is removed


def test_image_files_have_the_pixels_of_python(said: Any) -> None:
    assert said["images"]["count"] == 59
    assert said["images"]["differ"] == []


def test_examples_are_answered_as_in_python(said: Any, form: str) -> None:
    examples = said["examples"]
    assert examples["count"] == examples["views"] > 100
    assert examples["furthest"] < (1e-5 if form == "onnx-fp32" else 0.05)
    assert examples["otherwise"] == 0


def test_the_self_test_finds_nothing_and_no_request_leaves_the_server(said: Any) -> None:
    assert said["selfTest"] == []
    assert said["foreign"] == []
    assert said["problems"] == []


def test_a_benchmark_is_read_by_msd_bench(
    said: Any, run: RunDirectory, form: str, tmp_path: Path
) -> None:
    benchmark = said["benchmark"]
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(benchmark["result"]))
    row = read_app_benchmark(path, find_variants(run))
    assert row["name"] == f"student-{form}"
    assert row["runtime"].startswith("onnxruntime-web 1.")
    assert row["photo"]["characters"] == 14
    for latency in row["latency_ms"].values():
        assert [len(samples) >= 3 for samples in latency["samples"]] == [True, True]
    assert all(len(stage["samples"][0]) == 20 for stage in row["stages_ms"].values())
    assert row["load_time_ms"] > row["first_ms"] > 0  # type: ignore[operator]
    assert benchmark["shares"] == [pytest.approx(step / 6) for step in range(1, 7)]
    assert [state["hidden"] for state in row["conditions"].values()] == [False, False]
    assert [state["hidden"] for state in benchmark["hidden"].values()] == [False, True]
    assert benchmark["photo"]["bytes"] == benchmark["bytes"]
    assert "rounds is a whole number from 1, not 0" in benchmark["reasons"]["rounds"]
    assert "runs is a whole number from 1, not 1.5" in benchmark["reasons"]["runs"]
    assert "seconds is a number from 0, not -1" in benchmark["reasons"]["seconds"]
    assert "cannot be decoded" in benchmark["reasons"]["image"]


def test_views_are_timed_in_turns_until_they_have_their_share(said: Any) -> None:
    timed = said["timed"]
    assert timed["turns"] == ["a", "b", "a", "b"]
    rounds = ["multimodal", "image", "text", "image", "multimodal"]  # there and back
    assert timed["order"] == [*rounds, "image", "text"]
    samples = timed["samples"]
    assert [len(each) for each in samples["multimodal"]] == [25, 25]  # 50 ms of 2 each
    assert [len(each) for each in samples["text"]] == [50, 50]
    assert timed["most"] == 1000


def test_odd_inputs_are_an_answer_or_one_error_and_the_page_goes_on(said: Any) -> None:
    inputs = said["inputs"]
    reasons = inputs["reasons"]
    for name, words in {
        "nothing": "nothing to classify",
        "blank": "nothing to classify",
        "empty": "cannot be decoded",
        "noise": "cannot be decoded",
        "cut": "cannot be decoded",
        "huge": "100,000,000 pixels, more than 89,478,485",
        "threshold": "from 0 to 1, not 2",
        "path": "An image is a Blob",
        "closed": "is closed",
    }.items():
        assert reasons[name].startswith("BundleError: "), name
        assert words in reasons[name]
    assert inputs["isTextCut"]
    assert inputs["views"] == ["image", "text"]
    assert inputs["abstains"]
    assert inputs["ticks"] > 0


def test_a_damaged_file_is_refused_by_name(said: Any) -> None:
    for name, reason in said["damaged"].items():
        file = "text.json" if name == "missing" else name
        assert reason is not None, name
        assert reason.startswith("BundleError: "), name
        assert f"{file}: " in reason


def test_types_and_package_are_as_npm_and_typescript_want_them(
    bundle: Path, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(bundle, tmp_path / "node_modules" / "msd-classifier"))
    (tmp_path / "usage.mts").write_bytes((HERE / "usage.mts").read_bytes())
    tools = MODULES / ".bin"
    lines = {
        tmp_path: [tools / "tsc", "--noEmit", "--strict", "--module", "nodenext", "usage.mts"],
        package: [tools / "publint", "--strict", "."],
    }
    for folder, line in lines.items():
        subprocess.run(line, cwd=folder, check=True, capture_output=True, timeout=120)
    packed = ["npm", "pack", "--silent", str(package)]
    subprocess.run(packed, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (archive,) = tmp_path.glob("*.tgz")
    attw = [tools / "attw", str(archive), "--profile", "esm-only"]
    subprocess.run(attw, check=True, capture_output=True, timeout=120)
