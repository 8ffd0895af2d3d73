from pathlib import Path

import numpy as np
import pytest

from msd_cli.console import print_json
from msd_deploy.artifacts.atomic import new_folder
from msd_deploy.artifacts.manifest import (
    is_number,
    read_json,
    read_manifest,
    write_json,
    write_manifest,
    write_text,
)
from msd_deploy.distillation.history import History
from msd_deploy.errors import ArtifactError


def write_and_fail(final: Path) -> None:
    with new_folder(final) as building:
        (building / "file").write_text("half")
        raise RuntimeError


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "thing"
    with pytest.raises(RuntimeError):
        write_and_fail(final)
    assert list(tmp_path.iterdir()) == []
    with new_folder(final) as building:
        (building / "file").write_text("x")
        assert not final.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    final = tmp_path / "thing"
    with new_folder(final) as building:
        (building / "file").write_text("old")
    with pytest.raises(RuntimeError):
        write_and_fail(final)
    assert (final / "file").read_text() == "old"
    with new_folder(final) as building:
        (building / "file").write_text("new")
    assert (final / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_failed_text_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_text(path, b"new")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_manifest_states_every_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("x")
    write_manifest(tmp_path, "thing", {"colour": "blue"})
    manifest = read_manifest(tmp_path, "thing")
    assert manifest["colour"] == "blue"
    assert list(manifest["files"]) == ["sub/file"]  # type: ignore[call-overload]
    with pytest.raises(ArtifactError, match="is a folder of kind 'thing' instead of 'model'"):
        read_manifest(tmp_path, "model")


@pytest.mark.parametrize("name", [".DS_Store", "sub/Thumbs.db", "Desktop.ini", "sub/._file"])
def test_droppings_of_file_managers_are_neither_stated_nor_refused(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("x")
    (tmp_path / name).write_text("left before")
    write_manifest(tmp_path, "thing", {})
    assert list(read_manifest(tmp_path, "thing")["files"]) == ["sub/file"]  # type: ignore[call-overload]
    (tmp_path / name).write_text("changed after")
    read_manifest(tmp_path, "thing")


@pytest.mark.parametrize("name", ["DS_Store", "sub/.hidden", ".DS_Store/file", "_file"])
def test_any_other_file_that_is_added_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    write_manifest(tmp_path, "thing", {})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    with pytest.raises(ArtifactError, match=r"was added since .* Move it elsewhere"):
        read_manifest(tmp_path, "thing")


def test_a_link_to_a_folder_is_refused_and_one_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    (tmp_path / "content").write_text("x")
    (tmp_path / "thing" / "file").symlink_to(tmp_path / "content")  # as the hub's cache has them
    write_manifest(tmp_path / "thing", "thing", {})
    read_manifest(tmp_path / "thing", "thing")
    (tmp_path / "thing" / "folder").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ArtifactError, match="folder: is a link to a folder"):
        read_manifest(tmp_path / "thing", "thing")


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 2])
def test_an_unknown_schema_is_refused(tmp_path: Path, version: object) -> None:
    write_json(tmp_path / "manifest.json", {"schema_version": version, "kind": "t", "files": {}})
    with pytest.raises(ArtifactError, match="schema_version"):
        read_manifest(tmp_path, "t")


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"file\.json"):
        read_json(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float64("-inf")])
def test_a_number_that_json_does_not_have_is_named_by_its_key(
    tmp_path: Path, number: float
) -> None:
    value = {"test": {"text": [{"accuracy": 1.0}, {"accuracy": number}]}}
    with pytest.raises(ArtifactError, match=r"test\.text\[1\]\.accuracy is NaN or infinite"):
        write_json(tmp_path / "file.json", value)
    with pytest.raises(ArtifactError, match="is NaN or infinite"):
        History(tmp_path / "history.jsonl").append(value)
    with pytest.raises(ArtifactError, match="is NaN or infinite"):
        print_json(value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "the number NaN is not finite"),
        ('{"a": -1e400}', "the number -1e400 is not finite"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' has two values"),
        ("[" * 100_000, "is nested too deeply"),
        ("9" * 5000, "cannot be read as JSON"),
        ('\ufeff{"a": 1}', "cannot be read as JSON"),
        ("[1]", "holds a list, not a JSON object"),
    ],
)
def test_json_that_is_not_clear_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("Restore the file.")


def test_a_key_may_be_repeated_with_the_same_value(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": [1], "b": 2.5, "a": [1]}')
    assert read_json(tmp_path / "config.json") == {"a": [1], "b": 2.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "1", None, [1]])
def test_what_no_float_holds_is_not_a_number(value: object) -> None:
    assert not is_number(value)
    assert is_number(2**70)


def test_an_error_is_one_line_without_controls_and_not_endless() -> None:
    error = ArtifactError("a\nb\x1b[2J" + "x" * 10_000, where="c\rd", fix="\u202eDo e")
    assert str(error).startswith("c\\rd: a\\nb\\x1b[2Jxxx")
    assert str(error).endswith(" .... \\u202eDo e.")
    assert len(str(error)) < 3000
