"""Exchange two folders in one step, where the operating system and the file system can.

Renaming replaces a file in one step, but no folder that holds something. Python has no function
for it; Linux has renameat2 and macOS renamex_np, in the C library.
"""

import ctypes
import os
import sys
from pathlib import Path

_AT_FDCWD = -100  # paths are relative to the working directory (fcntl.h)
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS


def exchange_folders(first: Path, second: Path) -> bool:
    """Let each of two paths be the other, at once: nobody ever sees one of them missing.

    Returns:
        Whether it was done; where it cannot be, nothing was.
    """
    one, other = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "linux":
            rename = ctypes.CDLL(None).renameat2
            return bool(rename(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) == 0)
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(one, other, _RENAME_SWAP) == 0)
    except AttributeError:  # a C library that lacks the function
        return False
    return False
