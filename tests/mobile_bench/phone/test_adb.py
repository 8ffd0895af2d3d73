"""A phone through adb: a stand-in, and adb itself where it is installed."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msd_deploy.errors import ArtifactError, RuntimeUnavailableError
from msd_mobile_bench.phone.adb import PHONE_FOLDER, Adb, LostPhoneError, PhoneError
from msd_mobile_bench.phone.device import Cpu, describe_device
from tests.mobile_bench.phone.conftest import InstallPhone
from tests.mobile_bench.phone.stand_in_adb import SERIAL, calls_of, files_on

ODD_NAMES = ("plain.bin", "two words.bin", "it's.bin", 'a "b".bin', "$HOME;ls.bin", "-r.bin")


def silent(note: str) -> None:
    raise AssertionError(f"not expected: {note}")


@pytest.fixture
def adb(install_phone: InstallPhone) -> Adb:
    """The stand-in for a phone that is ready."""
    return Adb.connect(install_phone())


def test_the_only_phone_is_chosen(adb: Adb) -> None:
    assert adb.serial == SERIAL


def test_the_only_ready_phone_is_chosen(install_phone: InstallPhone) -> None:
    program = install_phone(devices={"A": "unauthorized", SERIAL: "device"})
    assert Adb.connect(program).serial == SERIAL


@pytest.mark.parametrize(
    ("devices", "serial", "said"),
    [
        ({}, None, "no phone is connected. Turn on USB debugging"),
        ({}, "X", "X: no phone of this serial number is connected. Use a serial number"),
        ({"A": "device"}, "X", r"is connected \(connected: A\)"),
        ({"A": "device", "B": "device"}, None, "2 phones are connected: A, B. Name one with --ser"),
        ({"A": "unauthorized"}, None, "A: the phone is not ready .*: unauthorized.*Unlock the pho"),
        ({"A": "offline"}, None, "A: the phone is not ready .*: offline.*Reconnect"),
        ({"A": "offline", "B": "device"}, "A", "A: the phone is not ready"),
        ({"A": "recovery"}, "A", "Start Android"),
        ({"A": "no permissions (verify udev rules); see [http://x]"}, None, "access to the USB"),
        ({"A": "connecting"}, None, "has to list it as `device`"),
    ],
)
def test_a_phone_that_cannot_be_used_is_an_error_with_what_to_do(
    install_phone: InstallPhone, devices: dict[str, str], serial: str | None, said: str
) -> None:
    with pytest.raises(PhoneError, match=said):
        Adb.connect(install_phone(devices=devices), serial)


def test_adb_has_to_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"adb: is not installed\. Install Android's"):
        Adb.connect()
    with pytest.raises(RuntimeUnavailableError, match="gone: cannot be run"):
        Adb.connect(tmp_path / "gone")
    (tmp_path / "text").write_text("no program")
    with pytest.raises(RuntimeUnavailableError, match=r"cannot be run \(Permission denied\)"):
        Adb.connect(tmp_path / "text")


def test_adb_on_the_path_is_found(
    install_phone: InstallPhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = install_phone()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert Adb.connect().program == program


@pytest.mark.parametrize("passes_codes", [True, False], ids=["new", "old"])
def test_exit_codes_and_lines_come_through_an_old_adb_too(
    install_phone: InstallPhone, passes_codes: bool
) -> None:
    adb = Adb.connect(install_phone(passes_codes=passes_codes))
    assert adb.shell("echo one; echo two; exit 3").code == 3
    assert adb.shell("echo one; echo two").text == "one\ntwo\n"
    assert adb.shell("printf 'no line break'").text == "no line break"
    assert adb.shell("echo wrong >&2; false").text == "wrong\n"
    with pytest.raises(PhoneError, match=r"`echo reason; false` failed on the phone \(reason\)"):
        adb.checked("echo reason; false")


def test_words_reach_the_phone_as_they_are(adb: Adb) -> None:
    words = ["a b", "it's", '"q"', "$HOME", "`id`", "*", ";", "\\", "", "ünï"]
    printed = adb.checked(shlex.join(["printf", r"%s\n", *words]))
    assert printed.splitlines() == words


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_of_any_name_are_copied_to_the_phone_and_back(
    adb: Adb, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\0\r\n\xff")
    with adb.own_folder(silent) as folder:
        adb.push(tmp_path / name, f"{folder}/copy")
        adb.pull(f"{folder}/copy", tmp_path / "back" / name)
    assert (tmp_path / "back" / name).read_bytes() == b"\0\r\n\xff"


def test_a_failed_copy_is_an_error_with_adbs_reason(
    install_phone: InstallPhone, tmp_path: Path
) -> None:
    adb = Adb.connect(install_phone(full=True))
    (tmp_path / "model.onnx").write_bytes(b"1")
    with adb.own_folder(silent) as folder:
        with pytest.raises(PhoneError, match=r"model\.onnx: cannot be copied .*No space left"):
            adb.push(tmp_path / "model.onnx", f"{folder}/model.onnx")
        with pytest.raises(PhoneError, match="No such file or directory"):
            adb.push(tmp_path / "model.onnx", f"{folder}/not/there")
        with pytest.raises(PhoneError, match="gone cannot be copied from the phone"):
            adb.pull(f"{folder}/gone", tmp_path / "back.csv")
    assert not (tmp_path / "back.csv").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "model.onnx"]


def test_the_phones_folder_is_removed_in_the_end(adb: Adb) -> None:
    with adb.own_folder(silent) as folder:
        assert folder.startswith(f"{PHONE_FOLDER}/msd-bench-")
        assert files_on(adb.program) == [Path(folder).name]
    assert files_on(adb.program) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_the_phones_folder_is_removed_after_an_error_and_ctrl_c(
    adb: Adb, error: type[BaseException]
) -> None:
    with pytest.raises(error), adb.own_folder(silent):
        raise error
    assert files_on(adb.program) == []


def test_what_a_killed_measurement_left_is_removed_and_nothing_else(adb: Adb) -> None:
    tmp = adb.program.parent / f"phone{PHONE_FOLDER}"
    for name in ("msd-bench-0123456789ab", "msd-bench-mine", "others"):
        (tmp / name).mkdir()
        (tmp / name / "file").touch()
    notes: list[str] = []
    with adb.own_folder(notes.append):
        pass
    assert notes == ["Removed 1 folder of earlier measurements from the phone."]
    assert files_on(adb.program) == [
        "msd-bench-mine",
        "msd-bench-mine/file",
        "others",
        "others/file",
    ]


def test_a_phone_is_used_by_one_process_at_a_time(adb: Adb) -> None:
    script = (
        "import sys; from pathlib import Path; from msd_mobile_bench.phone.adb import Adb\n"
        "with Adb.connect(Path(sys.argv[1])).own_folder(print): pass"
    )
    with adb.own_folder(silent) as folder:
        command = [sys.executable, "-c", script, str(adb.program)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert f"msd-phone-{SERIAL}: is in use by process {os.getpid()}" in answer.stderr
        assert files_on(adb.program) == [Path(folder).name]
    with pytest.raises(ArtifactError), adb.own_folder(silent), adb.own_folder(silent):
        pass


def test_a_phone_that_is_unplugged_is_an_error_and_is_cleaned_the_next_time(
    install_phone: InstallPhone,
) -> None:
    program = install_phone(lost_at="echo begun")
    notes: list[str] = []
    adb = Adb.connect(program)
    with (
        pytest.raises(LostPhoneError, match=r"connection to the phone ended") as caught,
        adb.own_folder(notes.append),
    ):
        adb.shell("echo begun; exec sleep 0")
    assert caught.value.output.startswith("begun")
    assert "the next measurement removes it" in notes[0]
    assert len(files_on(program)) == 1
    (program.parent / "lost").unlink()
    with adb.own_folder(notes.append):
        pass
    assert files_on(program) == []


def is_running(number: int) -> bool:
    """Return whether a process runs; one that ended and waits for its parent does not."""
    status = Path(f"/proc/{number}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, which Android has")
def test_a_tool_that_takes_too_long_is_ended_on_the_phone(
    install_phone: InstallPhone, tools: dict[str, Path]
) -> None:
    adb = Adb.connect(install_phone(hangs=True))
    with adb.own_folder(silent) as folder:
        adb.checked(f"mkdir {folder}/tools")
        adb.push(tools["benchmark_model"], f"{folder}/tools/benchmark_model")
        adb.checked(f"chmod 755 {folder}/tools/benchmark_model")
        words = [f"{folder}/tools/benchmark_model"]
        with pytest.raises(LostPhoneError, match=r"no end after 3 s\. Raise --time-limit-seconds"):
            adb.run_tool(folder, words, mask=None, seconds=3)
        number = int(adb.checked(f"cat {folder}/pid"))
        assert not is_running(number)
    assert files_on(adb.program) == []


def test_a_tool_runs_in_the_phones_folder_on_the_cpus_of_a_mask(adb: Adb) -> None:
    with adb.own_folder(silent) as folder:
        words = ["sh", "-c", "echo $$; echo $0; pwd; exit 7", "it's $HOME"]
        output, number = adb.run_tool(folder, words, mask="0xF0", seconds=60)
        assert output.code == 7
        assert output.text.splitlines() == [str(number), "it's $HOME", folder]
        missing, _ = adb.run_tool(folder, [f"{folder}/tools/gone"], mask=None, seconds=60)
        assert missing.code == 127
    assert (adb.program.parent / "phone/masks").read_text() == "taskset f0\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, which Android has")
def test_nothing_ends_but_a_tool_of_ours(adb: Adb) -> None:
    """The number of a tool that ended may be another process's."""
    other = subprocess.Popen(["sleep", "600"])
    try:
        with adb.own_folder(silent) as folder:
            adb.checked(f"echo {other.pid} > {folder}/pid")
            adb.stop_tool(folder)
            assert is_running(other.pid)
    finally:
        other.kill()
        other.wait()


def test_a_phone_states_its_model_and_cpus(adb: Adb) -> None:
    device = describe_device(adb)
    assert (device.model, device.android, device.api_level) == ("Invented Phone 1", "16", "36")
    assert (device.abis, device.processor) == (("arm64-v8a", "armeabi-v7a"), "Chip 9")
    assert device.cpus == (
        Cpu(0, 1800, "0xd05"),
        Cpu(1, 1800, "0xd05"),
        Cpu(2, 2400, "0xd41"),
        Cpu(3, 2400, "0xd41"),
    )
    assert not device.is_emulator


def test_an_emulator_is_recognised(adb: Adb) -> None:
    with (adb.program.parent / "phone/properties").open("a") as file:
        file.write("ro.boot.qemu=1\n")
    assert describe_device(adb).is_emulator


def test_a_phone_that_states_nothing_is_unknown(adb: Adb) -> None:
    (adb.program.parent / "phone/properties").write_text("")
    (adb.program.parent / "phone/proc/cpuinfo").unlink()
    device = describe_device(adb)
    assert (device.model, device.abis, device.processor) == ("unknown", ("unknown",), None)
    assert device.cpus[3] == Cpu(3, 2400, None)


def test_every_call_names_the_phone(adb: Adb) -> None:
    with adb.own_folder(silent):
        pass
    first, *others = calls_of(adb.program)
    assert first == ["devices"]
    assert {tuple(call[:2]) for call in others} == {("-s", SERIAL)}


@pytest.mark.skipif(shutil.which("adb") is None, reason="needs adb")
def test_adb_itself_says_that_there_is_no_such_phone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a server of its own, which ends with the test."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "15037")
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        with pytest.raises(PhoneError, match="no phone of this serial number is connected"):
            Adb.connect(serial="msd-no-such-phone")
        lost = Adb(Path(str(shutil.which("adb"))), "msd-no-such-phone")
        with pytest.raises(LostPhoneError, match="device 'msd-no-such-phone' not found"):
            lost.shell("echo")
        with pytest.raises(PhoneError, match="device 'msd-no-such-phone' not found"):
            lost.push(Path(__file__), f"{PHONE_FOLDER}/file")
    finally:
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True)


def test_the_stand_in_refuses_what_adb_refuses(install_phone: InstallPhone) -> None:
    program = install_phone()

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [str(program), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "named with -s" in call("shell", "echo").stderr
    assert "device 'X' not found" in call("-s", "X", "shell", "echo").stderr
    assert "Permission denied" in call("-s", SERIAL, "push", str(program), "/system/x").stderr
    assert call("-s", SERIAL, "shell", "echo a  b; exit 3").stdout == "a b\n"
    assert json.loads((program.parent / "phone.json").read_text())["passes_codes"]
