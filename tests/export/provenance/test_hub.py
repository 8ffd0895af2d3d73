import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import CARD_NAME, read_json, read_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError
from msd_export.folder import ExportFolder
from msd_export.provenance.hub import KIND, hub_folder_beside, is_written, upload, write_hub_folder

REPOSITORY = "ada/meme-moderation"
EARLIER = ["onnx/model_int8-dynamic.onnx", "figures/loss.png"]
"""What the repository has before: a form of an earlier student, and something of its owner's."""


@pytest.fixture(scope="module")
def run(decided_exports: Callable[..., list[ExportFolder]]) -> RunDirectory:
    """A run with exports; read it, never write into it."""
    first, *_ = decided_exports(("onnx", "fp32"), ("onnx", "int8"), ("coreml", "fp16"))
    card = first.folder / CARD_NAME
    card.write_text(card.read_text().replace("To fill in: who uses it", "Moderators"))
    return RunDirectory(first.folder.parents[1])


def test_a_folder_has_the_layout_of_the_hub(run: RunDirectory, tmp_path: Path) -> None:
    folder = write_hub_folder(
        run, REPOSITORY, tmp_path / "hub", base_model="ada/teacher", license="MIT"
    )
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "README.md",
        "onnx/model.onnx",
        "onnx/model_int8.onnx",
        "coreml/model_fp16.mlpackage/Manifest.json",
        "labels.json",
        "tokenizer.json",
        "preprocess.json",
        "calibration.json",
        "manifest.json",
    } <= files
    exported = run.exports / "onnx-int8" / "model.onnx"
    assert (folder / "onnx/model_int8.onnx").read_bytes() == exported.read_bytes()
    assert read_manifest(folder, KIND)["repository"] == REPOSITORY
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "ada/teacher"
    assert card.data.license == "mit"
    assert card.data.license_name is None
    assert card.data.tags[-2:] == ["coreml", "onnx"]
    views: Any = read_json(run.exports / "onnx-int8" / "parity.json")["views"]
    row, of_confidence = (
        line for line in card.text.splitlines() if "`onnx/model_int8.onnx`" in line
    )
    assert f"| {views['multimodal']['export']['value']:.1%} [" in row
    assert row.endswith(f"| {exported.stat().st_size:,} |")
    assert "Moderators" in card.text
    stated: Any = read_json(folder / "manifest.json")["exports"]
    assert "onnxruntime" in stated["onnx/model_int8.onnx"]["made_with"]
    error = views["text"]["confidence"]["export_ece"]["value"]
    assert f"| {error:.3f} [" in of_confidence


def test_what_the_owner_adds_stays_when_the_folder_is_written_again(
    run: RunDirectory, tmp_path: Path
) -> None:
    folder = write_hub_folder(run, REPOSITORY, tmp_path / "hub")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("Moderators", "Moderators of one forum"))
    (folder / "LICENSE").write_text("Ours.")
    assert is_written(run, REPOSITORY, folder)
    write_hub_folder(run, REPOSITORY, folder, overwrite=True)
    assert "Moderators of one forum" in card.read_text()
    assert (folder / "LICENSE").read_text() == "Ours."
    (folder / "weights.bin").write_text("x")
    with pytest.raises(ArtifactError, match=r"was added since .* Move it elsewhere"):
        is_written(run, REPOSITORY, folder)


def test_a_folder_of_other_exports_is_not_uploaded(run: RunDirectory, tmp_path: Path) -> None:
    own = RunDirectory(Path(shutil.copytree(run.root, tmp_path / "run")))
    arguments = ["push", str(own.root), REPOSITORY, "--out", str(tmp_path / "hub")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    licensed = CliRunner().invoke(app, [*arguments, "--upload", "--license", "MIT"])
    assert licensed.exit_code == 2
    assert "has no effect" in licensed.output
    shutil.rmtree(own.exports / "onnx-int8")
    refused = CliRunner().invoke(app, [*arguments, "--upload"])
    assert refused.exit_code == 1
    assert "already exists" in str(refused.exception)


def test_a_folder_of_something_else_is_not_replaced(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ArtifactError):
            write_hub_folder(run, REPOSITORY, tmp_path / "kept", overwrite=overwrite)
    assert (tmp_path / "kept" / "thesis.tex").is_file()
    write_hub_folder(run, REPOSITORY, tmp_path / "hub")
    with pytest.raises(ArtifactError, match="--overwrite"):
        write_hub_folder(run, REPOSITORY, tmp_path / "hub")
    write_hub_folder(run, REPOSITORY, tmp_path / "hub", overwrite=True)


def test_a_link_is_not_followed(run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(Path(shutil.copytree(run.root, tmp_path / "run")))
    (tmp_path / "secret").mkdir()
    package = copy.exports / "coreml-fp16" / "model.mlpackage"
    (package / "extra").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="is a link"):
        write_hub_folder(copy, REPOSITORY, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_the_default_folder_lies_beside_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    assert hub_folder_beside(tmp_path / "run") == tmp_path / "run-hub"
    monkeypatch.chdir(tmp_path / "run")
    assert hub_folder_beside(Path()) == tmp_path / "run-hub"


@pytest.mark.parametrize("name", ["demo", "a/b/c", "ada/de mo", "ada/../x", ""])
def test_what_is_no_repository_is_refused(run: RunDirectory, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        write_hub_folder(run, name, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_a_run_without_exports_says_what_to_do(finished_run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no exports\. Run msd export"):
        write_hub_folder(finished_run, REPOSITORY, tmp_path / "hub")


class StandIn(BaseHTTPRequestHandler):
    """What the hub answers to an upload of small files; no hub can be reached here."""

    committed: dict[str, int]
    created: dict[str, object]
    deleted: list[str]
    is_allowed: bool

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.is_allowed:
            self.answer({"error": "Invalid username or password."}, status=401)
        elif self.path == "/api/repos/create":
            self.created.update(json.loads(body))
            self.answer({"url": f"{self.address()}/{REPOSITORY}", "name": REPOSITORY})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            self.answer({"files": modes})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            assert "/commit/" in self.path
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.committed[line["value"]["path"]] = len(line["value"]["content"])
                if line["key"] == "deletedFile":
                    self.deleted.append(line["value"]["path"])
            address = f"{self.address()}/{REPOSITORY}/commit/1"
            self.answer({"commitUrl": address, "commitOid": "1"})

    def do_GET(self) -> None:
        there = [{"type": "file", "path": path, "size": 1, "oid": "1"} for path in EARLIER]
        self.answer(there if "/tree/" in self.path else {"id": REPOSITORY, "siblings": []})

    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def answer(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    from huggingface_hub import constants

    StandIn.committed, StandIn.created, StandIn.is_allowed = {}, {}, True
    StandIn.deleted = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    yield StandIn
    server.shutdown()
    server.server_close()


def test_an_upload_sends_every_file(
    run: RunDirectory, tmp_path: Path, stand_in: type[StandIn]
) -> None:
    folder = write_hub_folder(run, REPOSITORY, tmp_path / "hub")
    assert upload(folder, REPOSITORY, private=True).endswith("/commit/1")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert stand_in.committed.keys() == files
    assert stand_in.created["visibility"] == "private"
    assert stand_in.deleted == EARLIER[:1]


def test_what_was_looked_at_is_uploaded_as_it_is(
    run: RunDirectory, tmp_path: Path, stand_in: type[StandIn]
) -> None:
    out = str(tmp_path / "hub")
    arguments = ["push", str(run.root), REPOSITORY, "--out", out]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    card = tmp_path / "hub" / "README.md"
    card.write_text(card.read_text() + "\nFor moderators.\n")
    answer = CliRunner().invoke(app, [*arguments, "--upload"])
    assert answer.exit_code == 0, answer.output
    assert card.read_text().endswith("For moderators.\n")
    assert "README.md" in stand_in.committed
    other = [*arguments[:2], "ada/another", *arguments[3:], "--upload"]
    assert CliRunner().invoke(app, other).exit_code == 1


def test_a_refused_upload_is_one_line_and_the_folder_stays(
    run: RunDirectory, tmp_path: Path, stand_in: type[StandIn]
) -> None:
    stand_in.is_allowed = False
    folder = write_hub_folder(run, REPOSITORY, tmp_path / "hub")
    with pytest.raises(ArtifactError, match="cannot be uploaded to ada/meme-moderation") as refused:
        upload(folder, REPOSITORY, private=True)
    assert "\n" not in str(refused.value)
    read_manifest(folder, KIND)


def test_the_command_uploads_nothing_unless_asked_to(run: RunDirectory, tmp_path: Path) -> None:
    out = str(tmp_path / "hub")
    answer = CliRunner().invoke(app, ["push", str(run.root), REPOSITORY, "--out", out])
    assert answer.exit_code == 0, answer.output
    assert "nothing was uploaded" in " ".join(answer.output.split())
    again = CliRunner().invoke(app, ["push", str(run.root), REPOSITORY, "--out", out, "--json"])
    assert again.exit_code == 1
    options = ["--out", out, "--overwrite", "--json"]
    again = CliRunner().invoke(app, ["push", str(run.root), REPOSITORY, *options])
    assert json.loads(again.stdout) == {"folder": out, "uploaded": None}
