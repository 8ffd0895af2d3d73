"""Read a model's file whose library raises whatever damaged bytes lead it to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from msd_deploy.errors import ArtifactError
from msd_export.quiet import quiet

_LONGEST_REASON = 120


@contextlib.contextmanager
def reading(title: str, path: Path) -> Iterator[None]:
    """Hold back what a format's library writes, and wrap whatever it raises.

    Args:
        title: The format, for the error.
        path: The file that is read.

    Raises:
        ArtifactError: Anything was raised.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0][:_LONGEST_REASON]
        raise ArtifactError(
            f"cannot be read as {title} ({reason})", where=path, fix="Export it again"
        ) from error
