"""Run by `make test-sign`, in an environment of its own; otherwise skipped but for the first."""

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import CARD_NAME, SIGNATURE_NAME, write_json, write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from msd_export.folder import open_export
from msd_export.provenance.signing import (
    PASSWORD_VARIABLE,
    check_key,
    sign_export,
    verify_signature,
)

HAS_LIBRARY = importlib.util.find_spec("model_signing") is not None
needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="needs the extra [sign]")
Keys = tuple[Path, Path]


def make_keys(folder: Path, name: str, curve: str = "prime256v1") -> Keys:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    for command in (
        f"ecparam -name {curve} -genkey -noout -out {private}",
        f"ec -in {private} -pubout -out {public}",
    ):
        subprocess.run(["openssl", *command.split()], capture_output=True, check=True)
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path, "key")


def make_export(folder: Path, content: str) -> Path:
    """An export as far as signatures go: files and a manifest."""
    folder.mkdir()
    (folder / "model.onnx").write_text(content)
    (folder / CARD_NAME).write_text("# A card")
    write_manifest(folder, "export", {"target": "onnx", "precision": "fp32"})
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return make_export(tmp_path / "onnx-fp32", "a model")


@pytest.mark.skipif(HAS_LIBRARY, reason="needs an environment without the extra [sign]")
def test_without_the_extra_one_line_says_what_to_install(export: Path, keys: Keys) -> None:
    (export / SIGNATURE_NAME).write_text("{}")
    for use in (
        lambda: check_key(keys[0]),
        lambda: sign_export(export, keys[0]),
        lambda: verify_signature(export, keys[1]),
    ):
        with pytest.raises(RuntimeUnavailableError, match=r"msd-deploy\[sign\]") as refused:
            use()
        assert "a separate environment" in str(refused.value)


@needs_library
def test_a_signed_export_is_verified_and_still_one(export: Path, keys: Keys) -> None:
    sign_export(export, keys[0])
    verify_signature(export, keys[1])
    open_export(export)
    (export / ".DS_Store").write_text("of a file manager")
    verify_signature(export, keys[1])
    sign_export(export, keys[0])  # again, over the old signature
    verify_signature(export, keys[1])


@needs_library
def test_a_relative_path_and_a_link_are_signed_twice_and_verified(
    export: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(export.parent)
    Path("latest").symlink_to(export.name)
    for folder in (Path(export.name), Path("latest"), export):
        sign_export(folder, keys[0])
        for other in (Path(export.name), Path("latest"), export):
            verify_signature(other, keys[1])


@needs_library
def test_what_cannot_be_signed_is_one_line(export: Path, keys: Keys) -> None:
    (export / "._link").symlink_to(keys[0])
    with pytest.raises(ArtifactError, match="cannot be signed"):
        sign_export(export, keys[0])
    with pytest.raises(ArtifactError, match="is no export folder"):
        verify_signature(export / "model.onnx", keys[1])


def change_a_byte(export: Path) -> None:
    (export / "model.onnx").write_text("a modem")


def change_a_byte_and_its_digest(export: Path) -> None:
    change_a_byte(export)
    (export / "manifest.json").unlink()
    write_manifest(export, "export", {"target": "onnx", "precision": "fp32"})


def change_the_manifest(export: Path) -> None:
    manifest = json.loads((export / "manifest.json").read_text())
    write_json(export / "manifest.json", {**manifest, "source_digest": "0" * 64})


def change_the_card(export: Path) -> None:
    (export / CARD_NAME).write_text("# Approved for everything")


def remove_the_card(export: Path) -> None:
    (export / CARD_NAME).unlink()


def take_the_signature_of_another(export: Path) -> None:
    other = make_export(export.parent / "other", "another model")
    sign_export(other, export.parent / "key.pem")
    shutil.copyfile(other / SIGNATURE_NAME, export / SIGNATURE_NAME)


def cut_the_signature(export: Path) -> None:
    text = (export / SIGNATURE_NAME).read_text()
    (export / SIGNATURE_NAME).write_text(text[: len(text) // 2])


def empty_the_signature(export: Path) -> None:
    (export / SIGNATURE_NAME).write_text("")


def sign_nothing(export: Path) -> None:
    signed = json.loads((export / SIGNATURE_NAME).read_text())
    signed["dsseEnvelope"]["signatures"] = []
    (export / SIGNATURE_NAME).write_text(json.dumps(signed))


@needs_library
@pytest.mark.parametrize(
    "change",
    [
        change_a_byte,
        change_a_byte_and_its_digest,
        change_the_manifest,
        change_the_card,
        remove_the_card,
        take_the_signature_of_another,
        cut_the_signature,
        empty_the_signature,
        sign_nothing,
    ],
)
def test_what_was_changed_is_refused(
    export: Path, keys: Keys, change: Callable[[Path], None]
) -> None:
    sign_export(export, keys[0])
    change(export)
    with pytest.raises(ArtifactError) as refused:
        verify_signature(export, keys[1])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    if change is change_the_card:
        assert f"since it was signed, changed files: {CARD_NAME})" in str(refused.value)
    if change is remove_the_card:
        assert f"since it was signed, missing files: {CARD_NAME})" in str(refused.value)


@needs_library
def test_another_key_and_no_signature_are_refused(export: Path, keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is not signed: it has no model\.sig"):
        verify_signature(export, keys[1])
    sign_export(export, keys[0])
    _, other = make_keys(tmp_path, "other")
    with pytest.raises(ArtifactError, match="is not the signature of this folder"):
        verify_signature(export, other)


@needs_library
def test_what_is_no_key_is_named(export: Path, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    rsa = tmp_path / "rsa.pem"
    command = ["openssl", "genrsa", "-out", str(rsa), "2048"]
    subprocess.run(command, capture_output=True, check=True)
    for key in (tmp_path / "gone.pem", tmp_path / "no.pem", rsa, keys[1]):
        with pytest.raises(ConfigError, match="cannot be used as the private key"):
            check_key(key)
    sign_export(export, keys[0])
    for key in (tmp_path / "gone.pem", tmp_path / "no.pem", keys[0]):
        with pytest.raises(ConfigError, match="cannot be used as the public key"):
            verify_signature(export, key)


@needs_library
def test_an_encrypted_key_needs_its_password(
    export: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "ec", "-in", str(keys[0]), "-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", str(locked)], capture_output=True, check=True)
    with pytest.raises(ConfigError, match=PASSWORD_VARIABLE):
        check_key(locked)
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    sign_export(export, locked)
    verify_signature(export, keys[1])


@needs_library
def test_the_commands_sign_verify_and_say_what_is_unsigned(
    own_run: RunDirectory, keys: Keys
) -> None:
    def msd(*arguments: object) -> tuple[int, str]:
        answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return answer.exit_code, " ".join(answer.output.split())

    options = ("--target", "onnx", "--precision", "fp32", "--examples", 20, "--max-drop", 100)
    code, said = msd("export", own_run.root, *options, "--sign", keys[1])
    assert (code, own_run.exports.exists()) == (1, False)
    code, said = msd("export", own_run.root, *options, "--sign", keys[0])
    assert code == 0, said
    folder = own_run.exports / "onnx-fp32"
    code, said = msd("inspect", folder, "--verify-signature", keys[1])
    assert code == 0
    assert "is valid for the key" in said
    assert "which was not checked" in msd("inspect", folder)[1]
    (folder / SIGNATURE_NAME).unlink()
    assert "It is not signed." in msd("inspect", folder)[1]
    assert msd("inspect", folder, "--verify-signature", keys[1])[0] == 1
    assert msd("sign", folder, "--key", keys[0])[0] == 0
    code, said = msd("inspect", folder, "--verify-signature", keys[1], "--json")
    assert code == 0
    assert '"signature_verified": true' in said
    code, said = msd("export", own_run.root, *options, "--overwrite")
    assert code == 0
    assert "was signed before, and is not now" in said
