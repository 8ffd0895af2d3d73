"""Sign exports, and verify their signatures, with OpenSSF's model signing library.

The digests in manifest.json show that a folder is as it was written, a signature also by whom: it
covers every file, the manifest and the model card among them, and anybody can verify it with the
public key, without this project. Keys are elliptic curve keys in PEM.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msd_deploy.artifacts.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    is_system_file,
    write_text,
)
from msd_deploy.errors import ArtifactError, ConfigError, RuntimeUnavailableError, shortened
from msd_export.folder import open_export

_CHANGED = re.compile(r"Hash mismatch for [^\w]*'([^'\\]+)")
_LISTED = re.compile(r"((?:Extra|Missing) files) .*?'[^']*': ([^'\"]+)")
PASSWORD_VARIABLE = "MSD_SIGNING_PASSWORD"
"""The environment variable with the password of an encrypted private key."""


def check_key(key: Path) -> None:
    """Check that a private key can sign.

    Raises:
        ConfigError: It cannot be read, or is no elliptic curve key.
        RuntimeUnavailableError: The extra [sign] is not installed.
    """
    _signer(key)


def sign_export(folder: Path, key: Path) -> None:
    """Sign an export folder; a signature that it has is replaced.

    Args:
        folder: The export, whose files are verified first.
        key: The private key, in PEM.

    Raises:
        ArtifactError: The folder is no export, damaged, or cannot be written.
        ConfigError: The key cannot be used.
        RuntimeUnavailableError: The extra [sign] is not installed.
    """
    folder = folder.resolve()  # the library refuses links
    open_export(folder)
    signer = _signer(key).set_hashing_config(_hashing(folder))
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / SIGNATURE_NAME
        try:
            signer.sign(folder, path)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot be signed ({_reason(error)})", where=folder) from error
        write_text(folder / SIGNATURE_NAME, path.read_text(encoding="utf-8"))


def verify_signature(folder: Path, public_key: Path) -> None:
    """Check that an export is signed, by a key, as it is now.

    Args:
        folder: The export.
        public_key: The public key, in PEM.

    Raises:
        ArtifactError: The folder is no export, damaged, not signed, signed with another key, or
            the signature is of another folder.
        ConfigError: The key cannot be used.
        RuntimeUnavailableError: The extra [sign] is not installed.
    """
    if folder.is_file() or not (folder / MANIFEST_NAME).is_file():
        raise ArtifactError(
            "is no export folder, and a signature is of one",
            where=folder,
            fix=f"Name the folder with {MANIFEST_NAME}",
        )
    folder = folder.resolve()
    open_export(folder)
    path = folder / SIGNATURE_NAME
    if not path.is_file():
        raise ArtifactError(
            f"is not signed: it has no {SIGNATURE_NAME}", where=folder, fix="Sign it with msd sign"
        )
    with _library():
        from model_signing import verifying
    with _using(public_key, "public"):
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.set_hashing_config(_hashing(folder)).verify(folder, path)
    except Exception as error:  # of the library and of those below it, whatever a file holds
        raise ArtifactError(
            f"is not the signature of this folder, as it is now, by {public_key}"
            f" ({_mismatch(error)})",
            where=path,
            fix="Get the folder again from whoever signed it, or sign it again with msd sign",
        ) from error


def _mismatch(error: Exception) -> str:
    """Return which files differ from the signed ones, or what else the library says."""
    text = str(error)
    changed = ", ".join(sorted({*_CHANGED.findall(text)}))
    found = [f"{what.lower()}: {names}" for what, names in _LISTED.findall(text)]
    if changed:
        found.append(f"changed files: {changed}")
    if found:
        return shortened(f"since it was signed, {'; '.join(found)}")
    return shortened(_reason(error))


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _signer(key: Path) -> Any:
    with _library():
        from model_signing import signing
    # Bytes: model-signing 1.1.1 hands on what it gets, and asks for a string.
    password = os.environ.get(PASSWORD_VARIABLE, "").encode() or None
    with _using(key, "private"):
        return signing.Config().use_elliptic_key_signer(private_key=key, password=password)


def _hashing(folder: Path) -> Any:
    from model_signing import hashing

    unsigned = [path.relative_to(folder) for path in folder.rglob("*") if is_system_file(path)]
    return hashing.Config().set_ignored_paths(
        paths=[Path(SIGNATURE_NAME), *unsigned], ignore_git_paths=False
    )


@contextlib.contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"signatures require the package model-signing ({error})",
            fix='Run pip install "/path/to/msd-deploy[sign]" in a separate environment: the extra'
            " [litert] needs another version of typing-extensions",
        ) from error


_PASSWORD_HINT = f"; the password of an encrypted one is read from {PASSWORD_VARIABLE}"


@contextlib.contextmanager
def _using(key: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # TypeError: a password is missing, or not needed; AttributeError: a key of another kind.
        raise ConfigError(
            f"cannot be used as the {kind} key ({_reason(error)})",
            where=str(key),
            fix=f"Name a {kind} key in PEM, of the curve prime256v1, secp384r1 or secp521r1"
            + _PASSWORD_HINT * (kind == "private"),
        ) from error
