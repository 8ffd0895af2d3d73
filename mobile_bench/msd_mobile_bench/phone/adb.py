"""An Android phone through the adb program: choose it, copy files, run commands, clean up.

Commands run in the phone's own shell, with every word quoted. Their exit code is printed and read
back, since an adb before version 1.0.36 and a phone before Android 7 do not pass it on. All files
lie in one folder of the phone with a unique name, which is removed in the end, and by the next
measurement if this one is killed or the phone is unplugged.
"""

import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msd_deploy.artifacts.atomic import new_file
from msd_deploy.artifacts.claim import claimed
from msd_deploy.errors import MsdError, RuntimeUnavailableError, counted

PHONE_FOLDER = "/data/local/tmp"
"""Where the user of `adb shell` may write and run programs."""
_PREFIX = "msd-bench-"
_SHORT_SECONDS, _COPY_SECONDS = 60.0, 900.0
_PID_NAME = "pid"
_STATES = {
    "unauthorized": "Unlock the phone and allow USB debugging for this computer",
    "offline": "Reconnect the phone, or run `adb kill-server` and try again",
    "authorizing": "Unlock the phone, allow USB debugging for this computer, and try again",
    "no permissions": "Give your user access to the USB device (udev rules, group plugdev)",
    "recovery": "Start Android on the phone",
    "sideload": "Start Android on the phone",
    "bootloader": "Start Android on the phone",
}


class PhoneError(MsdError):
    """A phone cannot be used, or a command on it failed."""


class LostPhoneError(PhoneError):
    """The connection ended, or took too long, while a command ran.

    Args:
        what: What is wrong.
        where: The phone's serial number.
        fix: What to do.
        output: What the command had printed until then.
    """

    def __init__(self, what: str, *, where: object, fix: str, output: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.output = output


@dataclass(frozen=True, slots=True)
class Output:
    """What a command on the phone printed, standard error included, and its exit code."""

    text: str
    code: int


class Adb:
    """One phone, reached through adb.

    Args:
        program: The adb program.
        serial: The phone's serial number.
    """

    def __init__(self, program: Path, serial: str) -> None:
        self.program, self.serial = program, serial

    @classmethod
    def connect(cls, program: Path | None = None, serial: str | None = None) -> "Adb":
        """Find adb and choose a phone.

        Args:
            program: The adb program; None: the one on the PATH.
            serial: The phone's serial number; None: the only one that is ready.

        Raises:
            RuntimeUnavailableError: adb is not installed.
            PhoneError: No phone is ready, several are, or the named one is not.
        """
        program = program or _find_adb()
        answer = _call([str(program), "devices"], _SHORT_SECONDS, where=program)
        if answer.returncode != 0:
            raise PhoneError(
                f"cannot list phones ({_last_line(answer.stderr)})",
                where=program,
                fix="Run `adb devices` by itself, and `adb kill-server` if it fails",
            )
        return cls(program, _choose(_listed(answer.stdout), serial))

    def shell(self, script: str, *, seconds: float = _SHORT_SECONDS) -> Output:
        """Run a script in the phone's shell.

        Args:
            script: Its text; words from elsewhere are quoted (`shlex.quote`).
            seconds: Most time that it may take.

        Raises:
            LostPhoneError: It took longer, or the connection ended before the script did.
        """
        token = f"msd-exit-{secrets.token_hex(4)}"
        line = f"sh -c {shlex.quote(script)} 2>&1; echo {token}=$?"
        answer = self._call("shell", line, seconds=seconds)
        printed = answer.stdout
        text, found, code = printed.rpartition(f"{token}=")
        if not found or not code.strip().isdigit():
            reason = _last_line(answer.stderr) or "adb gave no reason"
            raise LostPhoneError(
                f"the connection to the phone ended ({reason})",
                where=self.serial,
                fix="Check the cable and `adb devices`, and run the command again",
                output=printed,
            )
        return Output(text, int(code))

    def checked(self, script: str) -> str:
        """Run a script that has to succeed; return what it printed.

        Raises:
            PhoneError: It failed; names what it printed last.
        """
        answer = self.shell(script)
        if answer.code != 0:
            raise PhoneError(
                f"`{script}` failed on the phone ({_last_line(answer.text) or answer.code})",
                where=self.serial,
                fix="Check the phone's free space, and that `adb shell` can write to"
                f" {PHONE_FOLDER}",
            )
        return answer.text

    def push(self, file: Path, target: str) -> None:
        """Copy a file to the phone.

        Args:
            file: The file.
            target: Its path on the phone; the folder exists.

        Raises:
            PhoneError: It was not copied.
        """
        # Absolute: a name that begins with a dash is not an option.
        answer = self._call("push", str(file.resolve()), target, seconds=_COPY_SECONDS)
        if answer.returncode != 0:
            reason = _last_line(answer.stderr) or _last_line(answer.stdout)
            raise PhoneError(
                f"cannot be copied to the phone ({reason})",
                where=file,
                fix="Check the cable and the phone's free space",
            )

    def pull(self, source: str, file: Path) -> None:
        """Copy a file from the phone; it appears whole or not at all.

        Args:
            source: Its path on the phone.
            file: The file.

        Raises:
            PhoneError: It was not copied.
        """
        with new_file(file) as building:
            answer = self._call("pull", source, str(building.resolve()), seconds=_COPY_SECONDS)
            if answer.returncode != 0:
                reason = _last_line(answer.stderr) or _last_line(answer.stdout)
                raise PhoneError(
                    f"{source} cannot be copied from the phone ({reason})",
                    where=self.serial,
                    fix="Check the cable, and run the command again",
                )

    @contextmanager
    def own_folder(self, on_note: Callable[[str], None]) -> Iterator[str]:
        """Yield a new folder of the phone, which is removed with what runs in it.

        Only one process of this computer uses a phone at a time. What measurements that were killed
        have left on the phone is removed first.

        Args:
            on_note: Called with a sentence where something was left, or is.

        Raises:
            ArtifactError: Another process measures on the phone.
            PhoneError: The folder cannot be made.
        """
        name = re.sub(r"[^\w.-]", "_", self.serial)
        with claimed(Path(tempfile.gettempdir()) / f"msd-phone-{name}"):
            self._remove_leftovers(on_note)
            folder = f"{PHONE_FOLDER}/{_PREFIX}{secrets.token_hex(6)}"
            try:
                self.checked(f"mkdir {folder}")
                yield folder
            finally:
                try:
                    self.remove(folder)
                except PhoneError as error:
                    on_note(
                        f"{folder} is still on the phone ({error.what}); the next measurement"
                        " removes it."
                    )

    def _remove_leftovers(self, on_note: Callable[[str], None]) -> None:
        names = self.checked(f"ls {PHONE_FOLDER}").split()
        left = [name for name in names if re.fullmatch(f"{_PREFIX}[0-9a-f]{{12}}", name)]
        for name in left:
            self.remove(f"{PHONE_FOLDER}/{name}")
        if left:
            folders = counted(len(left), "folder", "folders")
            on_note(f"Removed {folders} of earlier measurements from the phone.")

    def remove(self, folder: str) -> None:
        """Remove a folder of ours from the phone, and end the tool that still runs in it.

        Raises:
            PhoneError: It cannot be removed.
        """
        self.stop_tool(folder)
        self.checked(f"rm -rf {folder}")

    def stop_tool(self, folder: str) -> None:
        """End the tool that was started last in a folder, if it still runs.

        Its number may be another process's by now: only one that was started from the folder ends.
        """
        name = folder.rpartition("/")[2]
        self.shell(
            f"p=$(cat {folder}/{_PID_NAME} 2>/dev/null);"
            f' if [ -n "$p" ] && grep -q {name} "/proc/$p/cmdline" 2>/dev/null;'
            ' then kill -9 "$p"; fi'
        )

    def run_tool(
        self, folder: str, words: Sequence[str], *, mask: str | None, seconds: float
    ) -> tuple[Output, int]:
        """Run a program on the phone; return its output, and its process's number.

        Args:
            folder: Of ours on the phone, in which it runs; libraries in its folder `tools` are
                found.
            words: The program's path and arguments.
            mask: CPUs that it may run on, in hexadecimal; None: all.
            seconds: Most time that it may take; it is ended then.

        Raises:
            LostPhoneError: It took longer, or the connection ended.
        """
        masked = ["taskset", mask.lower().removeprefix("0x")] if mask is not None else []
        script = (
            f"cd {folder} && echo $$ > {_PID_NAME} && echo msd-pid=$$"
            f" && export LD_LIBRARY_PATH={folder}/tools && exec {shlex.join([*masked, *words])}"
        )
        try:
            answer = self.shell(script, seconds=seconds)
        except LostPhoneError:
            with contextlib.suppress(PhoneError):  # the first error has the reason
                self.stop_tool(folder)
            raise
        first, _, text = answer.text.partition("\n")
        number = first.removeprefix("msd-pid=")
        if not number.isdigit():
            return Output(answer.text, answer.code or 1), 0
        return Output(text, answer.code), int(number)

    def _call(self, *arguments: str, seconds: float) -> "subprocess.CompletedProcess[str]":
        command = [str(self.program), "-s", self.serial, *arguments]
        return _call(command, seconds, where=self.serial)


def _find_adb() -> Path:
    found = shutil.which("adb")
    if found is None:
        raise RuntimeUnavailableError(
            "is not installed",
            where="adb",
            fix="Install Android's platform tools (on Debian: apt install adb), or name it with"
            " --adb",
        )
    return Path(found)


def _call(
    command: Sequence[str], seconds: float, *, where: object
) -> "subprocess.CompletedProcess[str]":
    """Run adb; what it prints is decoded as UTF-8, other bytes replaced."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,  # `adb shell` would read it
            capture_output=True,
            encoding="utf-8",  # as text: \r\n, of phones before Android 7, becomes \n
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        printed: object = error.stdout
        raise LostPhoneError(
            f"no end after {seconds:g} s",
            where=where,
            fix="Raise --time-limit-seconds for a slow tool; else reconnect the phone",
            output=printed.decode("utf-8", "replace") if isinstance(printed, bytes) else "",
        ) from error
    except OSError as error:
        raise RuntimeUnavailableError(
            f"cannot be run ({error.strerror})",
            where=command[0],
            fix="Name the adb program with --adb",
        ) from error


def _listed(text: str) -> dict[str, str]:
    """Return the state of each phone by its serial number, from `adb devices`."""
    _, _, rows = text.partition("List of devices attached")
    lines = [line.split(maxsplit=1) for line in rows.splitlines() if not line.startswith("*")]
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def _choose(phones: dict[str, str], serial: str | None) -> str:
    """Return the serial number of the phone that is used."""
    ready = [name for name, state in phones.items() if state == "device"]
    if serial is None:
        if len(ready) == 1:
            return ready[0]
        if len(ready) > 1:
            raise PhoneError(
                f"{len(ready)} phones are connected: {', '.join(ready)}",
                where="adb",
                fix="Name one with --serial",
            )
        if not phones:
            raise PhoneError(
                "no phone is connected",
                where="adb",
                fix="Turn on USB debugging in the phone's developer options and connect it;"
                " `adb devices` then lists it",
            )
        serial = next(iter(phones))
    if serial not in phones:
        others = f" (connected: {', '.join(phones)})" if phones else ""
        raise PhoneError(
            f"no phone of this serial number is connected{others}",
            where=serial,
            fix="Use a serial number that `adb devices` lists",
        )
    state = phones[serial]
    if state != "device":
        fix = next((fix for key, fix in _STATES.items() if state.startswith(key)), "")
        raise PhoneError(
            f"the phone is not ready (state: {state})",
            where=serial,
            fix=fix or "Reconnect it; `adb devices` has to list it as `device`",
        )
    return serial


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
