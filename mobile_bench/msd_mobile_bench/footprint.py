"""Memory of this process and sizes of files; the standard library and psutil only."""

import sys
import zlib
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_BYTES_PER_KIB = 1024
_CHUNK_BYTES = 1 << 20


def rss_bytes() -> int:
    """Return the memory that this process holds in RAM now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held in RAM so far.

    On Linux this reads VmHWM. getrusage's ru_maxrss would be wrong there: a new program inherits
    the peak of the process that started it (measured: 413 MB reported for a process of 13 MB).
    """
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    peak = _linux_peak()
    if peak is not None:
        return peak
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS: bytes


def _linux_peak() -> int | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * _BYTES_PER_KIB
    return None


def compressed_bytes(path: Path) -> int:
    """Return the size of a file, or of all files of a folder, compressed as in a zip file.

    Each file by itself, by deflate at its usual level, without names and headers.
    """
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return sum(map(_deflated_bytes, files))


def _deflated_bytes(file: Path) -> int:
    compressor, size = zlib.compressobj(wbits=-zlib.MAX_WBITS), 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())
