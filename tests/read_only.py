"""What tests share is read-only: this plugin of pytest enforces it.

Shared is what a fixture of session or module scope made: its value, and each folder that it got
from `tmp_path_factory`. Once the fixture has run, they are sealed until it is torn down:

- An audit hook of the interpreter refuses to open a file below a sealed folder for writing, and to
  make, rename, link or remove one; permissions would not stop root. A refusal is repeated at the
  end of the test, in case the code under test caught it.
- After each test, folders and values are compared with what they were. This finds changes by other
  processes, by libraries that open files without Python, and of objects in memory.

Arrays of numpy are made read-only. Of other values, modules and tensors of torch are compared, and
dataclasses, mappings and sequences by what they hold; other objects are not looked into.
"""

import hashlib
import os
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# By the name of the audited event: which of its arguments are paths that it changes.
_CHANGES = {
    "os.chmod": (0,),
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
}
_Stat = tuple[int, int]
_Files = dict[str, tuple[_Stat, str]]


@dataclass
class _Shared:
    """What a fixture made, and the state in which it left it."""

    fixture: str
    value: object
    folders: list[Path]
    content: object
    files: _Files

    def changes(self) -> list[str]:
        """Return what differs from that state, and take the state of now for the next test."""
        before, self.files = self.files, _read_files(self.folders, self.files)
        changed = [
            path
            for path in sorted(before.keys() | self.files.keys())
            if before.get(path, (None, None))[1] != self.files.get(path, (None, None))[1]
        ]
        content, self.content = self.content, _content_of(self.value)
        return changed + ["its value"] * (content != self.content)


class ReadOnlyPlugin:
    """Seals what shared fixtures make, and fails the test that changes it."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._shared: dict[object, _Shared] = {}
        self._owners: dict[str, str] = {}  # sealed folders, by name, and the fixtures they are of
        self._refusals: list[str] = []
        sys.addaudithook(self._refuse_changes)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = set(self._temporary.iterdir())
        value = yield
        folders = [
            folder
            for folder in self._temporary.iterdir()
            if not (folder in before or folder.is_symlink() or folder.name in self._owners)
        ]
        self._owners |= {folder.name: fixturedef.argname for folder in folders}
        self._shared[fixturedef] = _Shared(
            fixturedef.argname, value, folders, _content_of(value), _read_files(folders, {})
        )
        return value

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        shared = self._shared.pop(fixturedef, None)
        for folder in shared.folders if shared else ():
            del self._owners[folder.name]

    def pytest_runtest_setup(self) -> None:
        self._refusals.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            wrong = self._refusals + [
                f"{change} of the fixture {shared.fixture} was changed"
                for shared in self._shared.values()
                for change in shared.changes()
            ]
            if wrong:
                pytest.fail("; ".join(wrong) + ": what tests share is read-only, so copy it first")

    def _refuse_changes(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changed = arguments[:1] if arguments[2] & _WRITES else ()
        elif event in _CHANGES:
            changed = tuple(arguments[index] for index in _CHANGES[event])
        else:
            return
        for path in changed:
            if isinstance(path, int):  # a descriptor, opened before
                continue
            full = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100, links are not followed
            if not full.is_relative_to(self._temporary) or full == self._temporary:
                continue
            if full.name.endswith(".claim"):  # is removed again, which the comparison checks
                continue
            owner = self._owners.get(full.relative_to(self._temporary).parts[0])
            if owner is not None:
                self._refusals.append(f"{event} of {full}, of the fixture {owner}")
                raise AssertionError(f"{self._refusals[-1]}: what tests share is read-only")


def pytest_sessionstart(session: pytest.Session) -> None:
    temporary = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    session.config.pluginmanager.register(ReadOnlyPlugin(temporary))


def _read_files(folders: list[Path], known: _Files) -> _Files:
    """Return the files and folders below some folders, each with a digest of its content.

    What is `known` is not read again unless its size or time changed. On a Mac, Core ML rewrites a
    file of a package that it opens, to the same bytes.
    """
    files: _Files = {}
    for root, below, names in (found for folder in folders for found in os.walk(folder)):
        files |= {f"{root}/{name}": ((0, 0), "folder") for name in below}
        for path in (f"{root}/{name}" for name in names):
            now = os.lstat(path)
            stat = (now.st_size, now.st_mtime_ns)
            if path in known and known[path][0] == stat:
                files[path] = known[path]
            else:
                files[path] = (stat, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    return files


def _content_of(value: object) -> object:
    """Return something that differs once a value was changed; make its arrays read-only."""
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    if isinstance(value, torch.nn.Module):
        modes = [module.training for module in value.modules()]
        wanted = [(p.requires_grad, p.grad is None) for p in value.parameters()]
        return modes, wanted, _content_of(value.state_dict())
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.detach().numpy().tobytes()).digest()
    if is_dataclass(value) and not isinstance(value, type):
        return [_content_of(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return [(key, _content_of(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_content_of(item) for item in value]
    return value if isinstance(value, str | bytes | int | float) else id(value)
