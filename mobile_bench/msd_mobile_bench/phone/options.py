"""Settings of a measurement on an Android phone, and the tools that it takes. Torch-free.

A tool is a program of a runtime, built for the phone. None comes with this project:
docs/benchmark.md has where each is from.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msd_deploy.config.setting import Option, Setting, check_ranges
from msd_deploy.errors import ArtifactError, ConfigError
from msd_export.formats import Target

ToolName = Literal["onnxruntime_perf_test", "benchmark_model", "executor_runner"]
TOOLS: Mapping[Target, ToolName] = {
    "onnx": "onnxruntime_perf_test",
    "ort": "onnxruntime_perf_test",
    "litert": "benchmark_model",
    "executorch": "executor_runner",
}
"""The tool that measures a target; the others do not run on Android."""

_PANEL = "Phone"
_MACHINES = {183: ("arm64-v8a",), 40: ("armeabi-v7a", "armeabi"), 62: ("x86_64",), 3: ("x86",)}
"""ABIs of Android by the number of a processor in an ELF file (e_machine)."""


@dataclass(frozen=True, slots=True)
class PhoneOptions:
    """How exports are measured on a phone."""

    serial: Annotated[
        str | None,
        Setting("Serial number of the phone, as `adb devices` lists it."),
        Option("--serial", _PANEL, default="the only one that is connected"),
    ] = None
    adb: Annotated[
        Path | None,
        Setting("The adb program."),
        Option("--adb", _PANEL, default="adb on the PATH", metavar="FILE"),
    ] = None
    onnxruntime_perf_test: Annotated[
        Path | None,
        Setting(
            "ONNX Runtime's onnxruntime_perf_test for the phone, for ONNX and ORT exports; the"
            " libraries (lib*.so) in its folder are taken along."
        ),
        Option("--onnxruntime-perf-test", _PANEL, metavar="FILE"),
    ] = None
    benchmark_model: Annotated[
        Path | None,
        Setting("LiteRT's benchmark_model for the phone, for LiteRT exports."),
        Option("--benchmark-model", _PANEL, metavar="FILE"),
    ] = None
    executor_runner: Annotated[
        Path | None,
        Setting("ExecuTorch's executor_runner for the phone, for ExecuTorch exports."),
        Option("--executor-runner", _PANEL, metavar="FILE"),
    ] = None
    threads: Annotated[
        int, Setting("Number of CPU threads on the phone.", (1, 64)), Option("--threads", _PANEL)
    ] = 1
    cpu_mask: Annotated[
        str | None,
        Setting("CPUs of the phone that a tool may run on, as the mask of `taskset`, such as f0."),
        Option("--cpu-mask", _PANEL, default="all", metavar="HEX"),
    ] = None
    rounds: Annotated[
        int,
        Setting(
            "Rounds, each in the reverse order of exports of the one before; an even number is fair"
            " to all.",
            (1, 1000),
        ),
        Option("--rounds", _PANEL),
    ] = 4
    samples: Annotated[
        int,
        Setting("Timed predictions per export, view and round.", (1, 100_000)),
        Option("--samples", _PANEL),
    ] = 50
    warm_up: Annotated[
        int,
        Setting("Predictions before them that are not timed.", (1, 10_000)),
        Option("--warm-up", _PANEL),
    ] = 10
    time_limit_seconds: Annotated[
        float,
        Setting("Time after which a tool is stopped, in seconds; an error.", (1, 86_400)),
        Option("--time-limit-seconds", _PANEL),
    ] = 300.0
    # Its times would be those of a slowed processor.
    allow_hot: Annotated[
        bool,
        Setting("Begin on a phone that is hot, too; a note says so."),
        Option("--allow-hot", _PANEL),
    ] = False

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cpu_mask is not None:
            _check_mask(self.cpu_mask)

    @property
    def tools(self) -> Mapping[str, Path]:
        """The given tools by name."""
        found = {name: getattr(self, name) for name in dict.fromkeys(TOOLS.values())}
        return {name: path for name, path in found.items() if path is not None}


def _check_mask(mask: str) -> None:
    if not re.fullmatch("(0x)?[0-9a-fA-F]{1,16}", mask) or int(mask, 16) == 0:
        raise ConfigError(
            f"must be hexadecimal digits, one bit a CPU, not {mask!r}",
            where="cpu_mask",
            fix="f0 stands for the CPUs 4 to 7",
        )


def check_mask_fits(mask: str | None, cpus: int) -> None:
    """Check that a mask names no CPU that the phone lacks.

    Raises:
        ConfigError: It does.
    """
    if mask is not None and int(mask, 16) >> cpus:
        raise ConfigError(
            f"{mask} names CPUs that the phone does not have: it has {cpus}", where="cpu_mask"
        )


def files_of_tool(tool: Path) -> Iterator[Path]:
    """Yield a tool and the libraries beside it, in the order of their names."""
    yield tool
    yield from sorted(path for path in tool.parent.glob("lib*.so") if path.is_file())


def check_tool(tool: Path, name: str, abis: tuple[str, ...]) -> None:
    """Check that a tool is a program for a phone, before it is copied there.

    Args:
        tool: The program.
        name: What it is called, for messages.
        abis: What the phone runs, such as arm64-v8a.

    Raises:
        ArtifactError: It does not exist, or was built for another system or processor.
    """
    fix = f"Name a {name} that was built for Android {abis[0]}; docs/benchmark.md has how"
    try:
        with tool.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise ArtifactError(f"cannot be read ({error.strerror})", where=tool, fix=fix) from error
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise ArtifactError("is not a program of Android or Linux", where=tool, fix=fix)
    (machine,) = struct.unpack("<H", head[18:20])
    if not set(_MACHINES.get(machine, ())) & set(abis):
        built = "/".join(_MACHINES.get(machine, (f"processor {machine}",)))
        raise ArtifactError(
            f"was built for {built}, and the phone runs {', '.join(abis)}", where=tool, fix=fix
        )
