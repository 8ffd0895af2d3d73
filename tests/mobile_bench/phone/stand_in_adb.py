"""A stand-in for adb with an Android phone behind it. No phone can be here, so this is NOT a phone.

It keeps the phone's files in a folder, runs commands in a real shell (mksh, which is Android's, if
it is installed), and lets stand-ins of the tools print outputs in their published forms, see
samples.py. What it shows is that files, quoting, order of calls and clean-up are right, and that
these forms are read; nothing of a phone's speed, and not that today's tools still print them. The
messages of adb itself are those of version 29.0.6, seen where no phone was connected, and those
that users of adb report.

`install` writes it as a program: adb, phone.json with how it behaves, journal.txt with its calls,
phone/ with the phone's files.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

AARCH64 = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 183) + bytes(44)
"""The head of a program for arm64, which is all of one that is needed here."""
SERIAL = "R58M123ABC"
TMP = "/data/local/tmp"
PROPERTIES = {
    "ro.product.manufacturer": "Invented",
    "ro.product.model": "Phone <1>",
    "ro.build.version.release": "16",
    "ro.build.version.sdk": "36",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.soc.model": "Chip 9",
}
_STUBS = {
    "getprop": 'sed -n "s/^$1=//p" "$PHONE/properties"',
    "dumpsys": 'cat "$PHONE/dumpsys/$1" 2>/dev/null || echo "Can\'t find service: $1"',
    "settings": "echo 0",
    "logcat": 'cat "$PHONE/logcat"',
    "taskset": 'echo "taskset $1" >> "$PHONE/masks"; shift; exec "$@"',
}


def install(folder: Path, **behaviour: object) -> Path:
    """Write the stand-in and its phone into an empty folder; return the program.

    behaviour:
        devices: What `adb devices` lists, {serial: state}.
        passes_codes: Whether exit codes come through, and line breaks are \\n (as since Android 7).
        lost_at: Part of a command during which the phone is unplugged, for good.
        full: Whether the phone's disk is full.
        dialect: Which form the tools print: 2019, 2025, compiled, unknown; else today's.
        exit: Exit code of the tools.
        hangs: Whether the tools never end.
    """
    phone = folder / "phone"
    (phone / "data/local/tmp").mkdir(parents=True)
    (phone / "dumpsys").mkdir()
    (phone / "bin").mkdir()
    for number, khz in enumerate((1800000, 1800000, 2400000, 2400000)):
        own = phone / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        own.mkdir(parents=True)
        (own / "cpuinfo_max_freq").write_text(f"{khz}\n")
    (phone / "proc").mkdir()
    (phone / "proc/cpuinfo").write_text(
        "".join(
            f"processor\t: {n}\nCPU part\t: {'0xd41' if n > 1 else '0xd05'}\n" for n in range(4)
        )
    )
    lines = [f"{key}={value}\n" for key, value in PROPERTIES.items()]
    (phone / "properties").write_text("".join(lines))
    (phone / "logcat").write_text("--------- beginning of main\n")
    for name, script in _STUBS.items():
        (phone / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (phone / "bin" / name).chmod(0o755)
    usual: dict[str, object] = {"devices": {SERIAL: "device"}, "passes_codes": True}
    (folder / "phone.json").write_text(json.dumps({**usual, **behaviour}))
    tool = Path(__file__).with_name("stand_in_tool.py")
    (folder / "tool.json").write_text(json.dumps(str(tool)))
    program = folder / "adb"
    program.write_text(f"#!{sys.executable} -ES\n" + Path(__file__).read_text())
    program.chmod(0o755)
    return program


def files_on(program: Path) -> list[str]:
    """Return the files and folders that are left in the phone's folder for programs."""
    tmp = program.parent / "phone/data/local/tmp"
    return sorted(path.relative_to(tmp).as_posix() for path in tmp.rglob("*"))


def calls_of(program: Path) -> list[list[str]]:
    """Return the arguments of every call so far."""
    journal = program.parent / "journal.txt"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [json.loads(line) for line in lines]


class _Phone:
    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "phone"
        self.says: dict[str, Any] = json.loads((folder / "phone.json").read_text())

    def main(self, arguments: list[str]) -> int:
        with (self.folder / "journal.txt").open("a") as journal:
            journal.write(json.dumps(arguments) + "\n")
        if arguments == ["devices"]:
            _say("* daemon started successfully\nList of devices attached")
            for serial, state in self.says["devices"].items():
                _say(f"{serial}\t{state}")
            return 0
        if len(arguments) < 3 or arguments[0] != "-s":
            _fail("adb: usage: the phone is named with -s")
        _, serial, verb, *rest = arguments
        if self.says["devices"].get(serial) != "device" or (self.folder / "lost").exists():
            _fail(f"error: device '{serial}' not found")
        verbs = {"shell": self._shell, "push": self._push, "pull": self._pull}
        if verb not in verbs:
            _fail(f"adb: unknown command {verb}")
        return verbs[verb](rest)

    def _here(self, path: str) -> Path:
        if not path.startswith(f"{TMP}/"):
            _fail(f"adb: error: failed to copy: remote {path}: Permission denied")
        return self.root / path.lstrip("/")

    def _push(self, rest: list[str]) -> int:
        source, target = rest
        there = self._here(target)
        if not there.parent.is_dir():
            _fail(
                f"adb: error: failed to copy '{source}' to '{target}': remote couldn't create file:"
                " No such file or directory"
            )
        if self.says.get("full"):
            _fail(
                f"adb: error: failed to copy '{source}' to '{target}': remote write failed:"
                " No space left on device"
            )
        shutil.copyfile(source, there)
        if there.read_bytes()[:4] == b"\x7fELF":  # a program that cannot run here
            tool = Path(json.loads((self.folder / "tool.json").read_text()))
            there.write_text(f"#!{sys.executable} -ES\n" + tool.read_text())
        _say(f"{source}: 1 file pushed, 0 skipped.")
        return 0

    def _pull(self, rest: list[str]) -> int:
        source, target = rest
        here = self._here(source)
        if not here.is_file():
            _fail(f"adb: error: failed to stat remote object '{source}': No such file or directory")
        shutil.copyfile(here, target)
        _say(f"{source}: 1 file pulled, 0 skipped.")
        return 0

    def _shell(self, rest: list[str]) -> int:
        line = " ".join(rest)  # as adb does; the phone's shell splits it again
        for path in (TMP, "/proc/cpuinfo", "/sys/devices"):
            line = line.replace(path, f"{self.root}{path}")
        printed = self.folder / f"output-{os.getpid()}"
        shell = shutil.which("mksh") or "/bin/sh"
        # Into a file and a session of its own: what runs on a phone survives adb.
        with printed.open("wb") as file:
            process = subprocess.Popen(
                [shell, "-c", line],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.root,
                env={"PATH": f"{self.root}/bin:/usr/bin:/bin", "PHONE": str(self.root)},
                start_new_session=True,
            )
            lost_at = self.says.get("lost_at")
            if lost_at and lost_at in line:
                self._unplug(printed)
            code = process.wait()
        text = printed.read_text(errors="replace").replace(str(self.root), "")
        printed.unlink()
        is_new = self.says["passes_codes"]
        sys.stdout.write(text if is_new else text.replace("\n", "\r\n"))
        return code if is_new else 0

    def _unplug(self, printed: Path) -> NoReturn:
        while not printed.stat().st_size:
            time.sleep(0.01)
        (self.folder / "lost").touch()
        # Of a command that has ended meanwhile, the rest is lost all the same.
        sys.stdout.write(printed.read_text().partition("\n")[0])
        _fail("")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _fail(message: str) -> NoReturn:
    if message:
        sys.stderr.write(f"{message}\n")
    sys.stdout.flush()
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(_Phone(Path(sys.argv[0]).resolve().parent).main(sys.argv[1:]))
