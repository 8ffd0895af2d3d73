"""What the tests of a phone share: a stand-in for it, and stand-ins for the programs for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mobile_bench.phone.stand_in_adb import AARCH64, install

InstallPhone = Callable[..., Path]


@pytest.fixture
def install_phone(tmp_path: Path) -> InstallPhone:
    """Installs a stand-in for adb with a phone, which behaves as is asked for; returns adb."""

    def write(**behaviour: object) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        return install(folder, **behaviour)

    return write


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, Path]:
    """Heads of programs for arm64 under the tools' names, in a folder with blanks and quotes."""
    folder = tmp_path / "for the 'phone' $HOME"
    folder.mkdir()
    names = ("onnxruntime_perf_test", "benchmark_model", "executor_runner")
    for name in (*names, "libonnxruntime.so"):
        (folder / name).write_bytes(AARCH64)
    return {name: folder / name for name in names}
