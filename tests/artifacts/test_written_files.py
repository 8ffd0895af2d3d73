"""What is written has the modes of the umask, and a write that fails is one line."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors import SafetensorError
from safetensors.torch import save_file

from msd_deploy.artifacts.atomic import new_file, new_folder
from msd_deploy.artifacts.manifest import write_texts
from msd_deploy.artifacts.output import begin_folder
from msd_deploy.artifacts.write_errors import cache_fix, check_room, write_error
from msd_deploy.errors import ArtifactError, DataError, ExportError
from tests.full_disk import largest_file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    """Whatever mode the library gives them that wrote them."""
    before = os.umask(umask)
    try:
        with new_file(tmp_path / "weights") as building:
            save_file({"a": torch.zeros(2)}, building)  # 0600
        with new_folder(tmp_path / "package") as folder:
            (folder / "data").mkdir(mode=0o700)
            (folder / "data" / "weight.bin").write_bytes(b"")
            (folder / "data" / "weight.bin").chmod(0o600)
            (folder / "program").touch(mode=0o755)
        begin_folder(tmp_path / "run", "run.json", {}, replaces=False)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert mode_of(path) == (0o777 if path.is_dir() else 0o666) & ~umask, path


@pytest.mark.parametrize("keeps_programs", [False, True])
def test_a_program_stays_executable_where_that_is_asked_for(
    tmp_path: Path, keeps_programs: bool
) -> None:
    with new_folder(tmp_path / "out", keeps_programs=keeps_programs) as folder:
        for name, mode in (("program", 0o700), ("data", 0o600)):
            (folder / name).touch()
            (folder / name).chmod(mode)
    umask = os.umask(0o022)
    os.umask(umask)
    assert mode_of(tmp_path / "out/data") == 0o666 & ~umask
    assert mode_of(tmp_path / "out/program") == (0o777 if keeps_programs else 0o666) & ~umask


def fail_with_words(number: int) -> None:
    raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error 1)")


def fail_with_number(number: int) -> None:
    raise OSError(number, os.strerror(number))


def fail_in_a_converter(number: int) -> None:
    try:
        fail_with_number(number)
    except OSError as error:
        raise ExportError("the converter failed") from error


@pytest.mark.parametrize("fail", [fail_with_words, fail_with_number, fail_in_a_converter])
@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EROFS"])
@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_failed_write_names_the_output_the_reason_and_the_way_out(
    tmp_path: Path, new: Callable[..., object], number: str, fail: Callable[[int], None]
) -> None:
    code = getattr(errno, number)
    final = tmp_path / "runs" / "new" / "student"
    with pytest.raises(ArtifactError) as failure, new(final):  # type: ignore[attr-defined]
        fail(code)
    assert str(failure.value).startswith(f"{final}: cannot be written ({os.strerror(code)}). ")
    assert failure.value.fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_failed_write_removes_the_folders_that_it_created(
    tmp_path: Path, new: Callable[..., AbstractContextManager[Path]]
) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="no"), new(tmp_path / "runs" / "a" / "b" / "student"):
        raise ValueError("no")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("is_older", [True, False])
def test_files_that_belong_together_are_all_replaced_or_none(
    tmp_path: Path, failing: int, is_older: bool
) -> None:
    paths = [tmp_path / "reports" / name for name in ("bench.json", "bench.md", "bench.html")]
    if is_older:
        write_texts(dict.fromkeys(paths, "old"))
    texts = {path: 5000 * "x" if i == failing else "new" for i, path in enumerate(paths)}
    with pytest.raises(ArtifactError) as failure, largest_file(1000):
        write_texts(texts)
    assert str(failure.value).startswith(f"{paths[failing]}: cannot be written (File too large)")
    found = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == (dict.fromkeys(paths, "old") if is_older else {})
    write_texts(texts)
    assert {path: path.read_text() for path in paths} == texts


def test_a_failed_copy_names_what_is_written_and_not_what_is_read(tmp_path: Path) -> None:
    """As shutil.copyfile raises it."""
    read = "/tmp/scratch/float32.onnx"
    with pytest.raises(ArtifactError) as failure, new_folder(tmp_path / "export") as building:
        raise OSError(
            errno.ENOSPC, os.strerror(errno.ENOSPC), read, None, str(building / "model.onnx")
        )
    assert str(failure.value).startswith(f"{tmp_path / 'export'}: cannot be written (No space")


def test_what_fails_otherwise_within_a_write_is_raised_as_it_is(tmp_path: Path) -> None:
    unreadable = PermissionError(errno.EACCES, "Permission denied", "/data/image.png")
    about_data = DataError("Permission denied", where="image.png")
    for error in (unreadable, about_data, ValueError("no"), BrokenPipeError(errno.EPIPE, "pipe")):
        with pytest.raises(type(error)) as raised, new_folder(tmp_path / "student"):
            raise error
        assert raised.value is error


def test_a_file_beyond_the_limit_is_one_line_in_every_library(tmp_path: Path) -> None:
    """RLIMIT_FSIZE ends each library's own write with EFBIG."""
    tensors, size = {"a": torch.zeros(100_000)}, 50_000
    table = pa.table({"text": np.random.default_rng(0).bytes(2 * size).hex(" ").split()})
    writers: dict[str, Callable[[Path], object]] = {
        "safetensors": lambda path: save_file(tensors, path),
        "json": lambda path: path.write_text("x" * 10 * size),
        "pyarrow": lambda path: parquet.write_table(table, path),
    }
    large = tmp_path / "large"
    large.mkdir()
    (large / "weights").write_bytes(bytes(2 * size))
    failures = {}
    with largest_file(size):
        for name, write in writers.items():
            with pytest.raises(ArtifactError) as failure, new_file(tmp_path / name) as building:
                write(building)
            failures[name] = str(failure.value)
        with pytest.raises(ArtifactError) as failure, new_folder(tmp_path / "package") as folder:
            shutil.copytree(large, folder / "tree")  # raises an OSError without a number
        failures["package"] = str(failure.value)
        with pytest.raises(OSError, match=str(tmp_path)):
            check_room(tmp_path, size + 1)
        check_room(tmp_path, size)
    for name, message in failures.items():
        assert f"{name}: cannot be written (File too large). Raise the limit" in message
    assert list(tmp_path.iterdir()) == [large]


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"])
def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_fix(tmp_path.parent) == ""
    error = write_error(OSError(errno.ENOSPC, "full"), tmp_path / "pixels" / "0")
    assert f"Set {variable} to a folder that can be written" in str(error)
