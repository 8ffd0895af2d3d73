"""Mutated files of folders: signed or not, and read within bounded memory."""

import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from msd_deploy.artifacts.manifest import MANIFEST_NAME, write_manifest
from msd_deploy.errors import MsdError
from tests.fuzz.rule import assert_one_line

_Result = TypeVar("_Result")
# No example needs a tenth of it.
_ROOM_BYTES = 1 << 30


def sign(folder: Path) -> None:
    """Write the digests of a folder's files into its manifest, as the product does."""
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    kind = manifest.pop("kind")
    for key in ("files", "schema_version", "msd_deploy", "created_utc"):
        del manifest[key]
    write_manifest(folder, kind, manifest)


def read_changed(
    path: Path,
    content: bytes,
    read: Callable[[], _Result],
    *,
    is_signed: bool = True,
    named: Sequence[str] = (),
) -> _Result | None:
    """Return what is read from a folder with one changed file; None where it is refused.

    Args:
        path: The file; it and the manifest are restored afterwards.
        content: What is in it instead.
        read: Reads the folder.
        is_signed: Whether a manifest has digests of it, which must refuse it first.
        named: What a refusal may name instead of the folder.
    """
    manifest = path.parent / MANIFEST_NAME
    before = {file: file.read_bytes() for file in (path, manifest) if file.is_file()}
    try:
        path.write_bytes(content)
        if is_signed:
            if content != before[path]:
                _assert_refused(read, path)
            sign(path.parent)
        with _bounded_memory():
            return read()
    except MsdError as error:
        _assert_clear(error, [str(path.parent), *named])
        return None
    finally:
        for file, original in before.items():
            file.write_bytes(original)


def _assert_refused(read: Callable[[], object], path: Path) -> None:
    with pytest.raises(MsdError, match="was altered") as caught:
        read()
    _assert_clear(caught.value, [str(path)])


def _assert_clear(refusal: MsdError, names: Sequence[str]) -> None:
    assert_one_line(str(refusal))
    assert any(name in str(refusal) for name in names), f"does not name its file: {refusal}"
    assert refusal.fix, f"does not state what to do: {refusal}"


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let allocations fail that a sound file never needs.

    That is a MemoryError, or a RuntimeError of torch, which the rule does not allow.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def strict_json(content: bytes) -> Any:
    """Return what a file says; None where it is not JSON, or says two things of one key."""
    try:
        return json.loads(
            content.decode(), parse_constant=_refuse, object_pairs_hook=_without_contradiction
        )
    except (ValueError, RecursionError):
        return None


def is_sound(content: bytes, sound: Any) -> bool:
    """Return whether a file is the sound one in another layout, which must be read."""
    texts = (
        json.dumps(sound, indent=indent, ensure_ascii=is_ascii)
        for indent in (None, 2)
        for is_ascii in (True, False)
    )
    return content in [text.encode() for text in texts]


def _refuse(token: str) -> None:
    raise ValueError(token)


def _without_contradiction(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if any(found[key] != value for key, value in pairs):
        raise ValueError("a key with two values")
    return found
