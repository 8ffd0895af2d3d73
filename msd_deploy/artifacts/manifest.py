"""JSON files, digests and manifests.

A folder's manifest is written last: a folder without a manifest does not exist. Torch-free, so that
readers start fast.
"""

import hashlib
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeGuard, cast

from msd_deploy import __version__
from msd_deploy.artifacts.atomic import new_file
from msd_deploy.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
CARD_NAME = "MODEL_CARD.md"
SIGNATURE_NAME = "model.sig"
HUB_CARD_NAME = "README.md"
HUB_OWN_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")
_WITHOUT_DIGEST: Mapping[str, tuple[str, ...]] = {
    "export": (CARD_NAME, SIGNATURE_NAME),
    "hub": (HUB_CARD_NAME, *HUB_OWN_FILES, SIGNATURE_NAME),
}
"""What a folder of a kind may have beside its files: a card that its owner completes, the owner's
license, and a signature, which is made last."""
_CHUNK_BYTES = 1 << 20
_ROWS_AT_A_TIME = 1000
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})

RESTORE = "Restore the file"

Json = dict[str, object]


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_json(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces, UTF-8)."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def sha256_of_json_rows(rows: Iterable[object]) -> str:
    """Return the `sha256_of_json` of a list without holding its whole text in memory."""
    digest, remaining = hashlib.sha256(b"["), iter(rows)
    before = b""
    while chunk := list(itertools.islice(remaining, _ROWS_AT_A_TIME)):
        digest.update(before + _canonical(chunk)[1:-1])
        before = b","
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def digests_of_folder(folder: Path, kind: str = "") -> dict[str, str]:
    """Return the SHA-256 of every file below a folder but its manifest, by POSIX path.

    What a file manager leaves behind does not count (see `is_system_file`), nor the card and the
    signature of folders of some kinds.
    """
    without = [folder / name for name in (MANIFEST_NAME, *_WITHOUT_DIGEST.get(kind, ()))]
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in files_below(folder)
        if path not in without
    }


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted, without system files; see `is_system_file`."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_system_file(path))


def is_system_file(path: Path) -> bool:
    """Return whether macOS or Windows create files of this name in folders that they display.

    Nothing of ours reads such a file, so that one more or less changes no model.
    """
    return path.name.casefold() in _SYSTEM_FILES or path.name.startswith("._")


def check_lfs(*paths: Path) -> None:
    """Check that files of a cloned repository are not pointers that Git LFS left in their place.

    Raises:
        ArtifactError: One is a pointer.
    """
    for path in paths:
        with path.open("rb") as file:
            refuse_lfs_pointer(path, file.read(len(_LFS_POINTER)))


def refuse_lfs_pointer(path: Path, beginning: bytes) -> None:
    """Check the first bytes of a file that is read anyway; see `check_lfs`.

    Raises:
        ArtifactError: They are those of a Git LFS pointer.
    """
    if beginning.startswith(_LFS_POINTER):
        raise ArtifactError(
            "is a Git LFS pointer, not the file itself",
            where=path,
            fix=f"Run `git lfs pull` in {path.parent}",
        )


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises:
        ArtifactError: The file is missing, is not JSON, or holds something else than an object, a
            number that is not finite, or a key with two values.
    """
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_finite,
            parse_float=_finite,
            object_pairs_hook=_with_one_value_each,
        )
    except FileNotFoundError as error:
        raise ArtifactError("no such file", where=path, fix=RESTORE) from error
    except RecursionError as error:
        raise ArtifactError("is nested too deeply to be read", where=path, fix=RESTORE) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            check_lfs(path)
        raise ArtifactError(f"cannot be read as JSON ({error})", where=path, fix=RESTORE) from error
    if not isinstance(value, dict):
        raise ArtifactError(
            f"holds a {type(value).__name__}, not a JSON object", where=path, fix=RESTORE
        )
    return cast(Json, value)


def _finite(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"the number {token} is not finite")
    return value


def _with_one_value_each(pairs: list[tuple[str, object]]) -> Json:
    values: Json = {}
    for key, value in pairs:
        if key in values and values[key] != value:
            raise ValueError(f"the key {key!r} has two values")
        values[key] = value
    return values


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a JSON value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def read_versioned_json(path: Path, *, newest: int = SCHEMA_VERSION) -> Json:
    """Read a JSON object with a schema_version, and refuse a newer one.

    Args:
        path: The file.
        newest: The highest version that is read.

    Raises:
        ArtifactError: As `read_json`, or the schema is unknown or newer than this version reads.
    """
    value = read_json(path)
    version = value.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"has no valid schema_version ({version!r})", where=path, fix=RESTORE)
    if version > newest:
        raise ArtifactError(
            f"has schema_version {version}, this msd-deploy {__version__} reads up to {newest}",
            where=path,
            fix="Install a newer msd-deploy",
        )
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file; see `write_texts`."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files that belong together: all are complete before one is renamed.

    Bytes of a path that are not UTF-8 are written as JSON escapes them, and read back the same.
    See `msd_deploy.artifacts.atomic.new_file`.
    """
    with ExitStack() as stack:
        for path, text in texts.items():
            building = stack.enter_context(new_file(path))
            building.write_text(text, encoding="utf-8", errors="backslashreplace")


def json_text(value: Mapping[str, object], *, indent: int | None = None) -> str:
    """Return a JSON object as text and a line break, keys in the given order.

    Raises:
        ArtifactError: A number is NaN or infinite, which JSON does not have; names its key.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ArtifactError(
            f"the result {next(_not_finite(value), '')} is NaN or infinite",
            fix="Check the model and its data for values that are not finite",
        ) from error
    return text + "\n"


def _not_finite(value: object, key: str = "") -> Iterator[str]:
    """Yield the dotted keys of numbers that are NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _not_finite(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield from _not_finite(part, f"{key}[{place}]")


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object atomically, indented; see `json_text`."""
    write_text(path, json_text(value, indent=2))


def utc_now() -> str:
    """Return the current time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_manifest(folder: Path, kind: str, facts: Mapping[str, object]) -> Json:
    """Write manifest.json: what the folder is, and the SHA-256 of each of its files.

    Args:
        folder: The complete folder; written last, after which nothing in it may change.
        kind: What the folder holds, for example "model" or "export".
        facts: Further JSON values to state.

    Returns:
        Its content.
    """
    manifest: Json = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "msd_deploy": __version__,
        "created_utc": utc_now(),
        **facts,
        "files": digests_of_folder(folder, kind),
    }
    write_json(folder / MANIFEST_NAME, manifest)
    return manifest


def is_folder_of(kind: str, folder: Path) -> bool:
    """Return whether a folder has a manifest of a kind; its files are not verified.

    Raises:
        ArtifactError: The manifest cannot be read.
    """
    path = folder / MANIFEST_NAME
    return path.is_file() and read_versioned_json(path).get("kind") == kind


def read_manifest(folder: Path, kind: str) -> Json:
    """Read and verify a folder's manifest.

    Raises:
        ArtifactError: No manifest, another kind, a newer schema, or a file that is missing, added
            (but for system files) or whose bytes differ from its digest.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(
            f"is not a complete {kind} folder: it has no {MANIFEST_NAME}",
            where=folder,
            fix=f"Check the path, or write the {kind} again",
        )
    manifest = read_versioned_json(path)
    if manifest.get("kind") != kind:
        raise ArtifactError(
            f"is a folder of kind {manifest.get('kind')!r} instead of {kind!r}",
            where=folder,
            fix=f"Name a folder that holds a {kind}",
        )
    _verify_digests(folder, kind, manifest)
    return manifest


def _verify_digests(folder: Path, kind: str, manifest: Json) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink() and path.is_dir():
            raise ArtifactError(
                f"is a link to a folder, and was added since the {kind} was written",
                where=path,
                fix="Move it elsewhere",
            )
    recorded, found = manifest.get("files"), digests_of_folder(folder, kind)
    if not isinstance(recorded, dict):
        raise ArtifactError(
            "has no list of files",
            where=folder / MANIFEST_NAME,
            fix=f"Remove {folder} and write the {kind} again",
        )
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found or recorded.get(name) != found[name]:
            if name not in recorded:
                raise ArtifactError(
                    f"was added since the {kind} was written: {MANIFEST_NAME} does not have it",
                    where=folder / name,
                    fix="Move it elsewhere",
                )
            if name in found:
                check_lfs(folder / name)
            state = "is missing" if name not in found else "was altered"
            raise ArtifactError(
                f"{state} since the {kind} was written (its SHA-256 does not match"
                f" {MANIFEST_NAME})",
                where=folder / name,
                fix=f"Remove {folder} and write the {kind} again",
            )
