"""`msd demo`: the server, and its page used as a person does."""

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ConfigError, RuntimeUnavailableError
from msd_export.bundle import web_server
from msd_export.bundle.bundle_folder import write_bundle
from msd_export.bundle.web_server import BundleServer, fetch_runtime
from msd_export.folder import ExportFolder
from msd_export.opened_model import open_model

ROOT = Path(__file__).parents[3]
MODULES = ROOT / ".web" / "node_modules"
RUNTIME = MODULES / "onnxruntime-web" / "dist"
BROWSER = shutil.which("chromium")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BundleServer]:
    """A server of two small folders."""
    for name, content in {"bundle/demo/index.html": "page", "bundle/model/a b.json": "{}"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "ort.mjs").write_text("code")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "bundle" / "link.txt").symlink_to(tmp_path / "secret.txt")
    with BundleServer(tmp_path / "bundle", tmp_path / "runtime") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server: BundleServer, path: str, host: str | None = None) -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}")
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, "", ""


def test_the_page_the_model_and_the_runtime_are_served(served: BundleServer) -> None:
    assert get(served, "/") == (200, "text/html", "page")
    assert get(served, "/demo/")[2] == "page"
    assert get(served, "/model/a%20b.json?x=1") == (200, "application/json", "{}")
    assert get(served, "/runtime/ort.mjs") == (200, "text/javascript", "code")
    assert get(served, "/gone")[0] == 404
    assert get(served, "/model/")[0] == 404  # no listing


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/runtime/../../secret.txt",
        "/runtime/..%2f..%2fsecret.txt",
        "/link.txt",
        "//etc/passwd",
        "/%00",
    ],
)
def test_nothing_else_is_served(served: BundleServer, path: str) -> None:
    assert get(served, path)[0] == 404


def test_another_name_of_this_machine_is_refused(served: BundleServer) -> None:
    assert get(served, "/demo/", host="evil.example")[0] == 403
    assert get(served, "/demo/", host=f"localhost:{served.server_port}")[0] == 200


def test_without_npm_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RuntimeUnavailableError, match=r"npm, which is not installed\. Install Node"
    ):
        fetch_runtime()


def test_a_port_in_use_is_named(served: BundleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, runtime = (served.roots[name] for name in ("", "runtime"))
    (bundle / "model" / "manifest.json").write_text('{"schema_version": 1, "kind": "bundle"}')
    monkeypatch.setattr(web_server, "fetch_runtime", lambda: runtime)
    line = ["demo", str(bundle), "--port", str(served.server_port), "--no-open"]
    answer = CliRunner().invoke(app, line)
    assert isinstance(answer.exception, ConfigError)
    assert "--port" in str(answer.exception)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")
def test_the_runtime_is_fetched_once_and_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = fetch_runtime()
    names = {path.name for path in folder.iterdir()}
    assert names == {"ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"}
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch_runtime() == folder


@pytest.mark.slow
@pytest.mark.skipif(
    not (MODULES.is_dir() and BROWSER), reason="needs chromium, and make .web/node_modules"
)
def test_a_person_is_answered_as_in_python_also_offline(
    decided_exports: Callable[..., list[ExportFolder]], tmp_path: Path
) -> None:
    first, *_ = decided_exports(("onnx", "fp32"))
    run, folder = RunDirectory(first.folder.parents[1]), tmp_path / "bundle"
    write_bundle(run.root, "web", folder)
    examples: Any = read_json(folder / "vectors" / "vectors.json")["examples"]
    example = examples[3]
    image = folder / "vectors" / example["image"]
    with BundleServer(folder, RUNTIME) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = Path(__file__).parent / "web" / "person.mjs"
        line = ["node", script, server.address, image, example["text"], MODULES, str(BROWSER)]
        answer = subprocess.run(line, capture_output=True, text=True, timeout=300)
        server.shutdown()
    assert answer.returncode == 0, answer.stderr
    said = json.loads(answer.stdout)
    opened = open_model(first.folder)
    for place, (view, given) in enumerate(
        {"multimodal": (image, example["text"]), "image": (image, None)}.items()
    ):
        found = opened.predict(image=given[0], text=given[1])
        assert found.view.value == view
        for label, probability in found.probabilities.items():
            assert f"{label}\n{100 * probability:.1f} %" in said["all"][place]
        assert (
            f"Decided: {', '.join(found.decided) or 'nothing: it abstains'}." in said["all"][place]
        )
    assert "Nothing to answer from." in said["imageAlone"][0]
    assert said["textAlone"][2] == said["offline"][2]
    assert "Nothing to answer from." in said["textAlone"][0]
    assert said["empty"] == "Give an image, a text, or both."
    assert "cannot be decoded" in said["refused"]
    assert said["checked"] == "This browser computes what Python computes."
    assert "Median of inference: Image and text" in said["measured"]
    assert said["benchmark"]["photo"]["characters"] == len(example["text"])
    assert said["benchmark"]["clock_step_ms"] < 0.1  # the server isolates the page
    assert said["contrast"]["light"]["ratio"] > 4.5
    assert said["contrast"]["dark"]["ratio"] > 4.5
    assert said["focused"] == "file"
    assert {"file: Image", "text: Text", "check: Run the self-test", "measure: Measure"} <= set(
        said["reached"]
    )
    assert said["overflow"] == 0
    assert said["foreign"] == []
    assert said["problems"] == []
