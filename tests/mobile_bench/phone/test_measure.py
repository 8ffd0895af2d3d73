"""Exports measured on a stand-in for a phone: no figure in these tests is of a device."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import json_text, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.setting import declarations
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.hooks import StageHooks
from msd_export.config import ExportConfig
from msd_export.pipeline import export_student
from msd_mobile_bench.phone.adb import LostPhoneError, PhoneError
from msd_mobile_bench.phone.measure import measure_on_phone
from msd_mobile_bench.phone.options import PhoneOptions, check_mask_fits, check_tool
from msd_mobile_bench.phone.schema import PhoneRow
from msd_mobile_bench.variants import Variant, find_variants
from tests.mobile_bench.conftest import export_by_hand
from tests.mobile_bench.phone import samples
from tests.mobile_bench.phone.conftest import InstallPhone
from tests.mobile_bench.phone.stand_in_adb import AARCH64, calls_of, files_on

Measure = Callable[..., list[PhoneRow]]
SECONDS = {"multimodal": 12.0, "image": 10.0, "text": 3.0}


@pytest.fixture(scope="module")
def onnx_run(finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The finished run with an ONNX export of its student."""
    run = RunDirectory(tmp_path_factory.mktemp("phone") / "run")
    shutil.copytree(finished_run.root, run.root)
    export_by_hand(run.student, run.exports / "onnx-fp32")
    return run


@pytest.fixture
def run(onnx_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of that run, to write into, in a folder with a blank and a quote."""
    return RunDirectory(Path(shutil.copytree(onnx_run.root, tmp_path / "it's a run")))


@pytest.fixture
def measure(tools: dict[str, Path], run: RunDirectory) -> Measure:
    """Measures the run's exports with few predictions."""

    def call(adb: Path, hooks: StageHooks | None = None, **options: Any) -> list[PhoneRow]:
        few: dict[str, Any] = {"rounds": 2, "samples": 3, "warm_up": 2, **tools, **options}
        settings = PhoneOptions(adb=adb, **few)
        return measure_on_phone(run, variants_of(run), settings, hooks)

    return call


def variants_of(run: RunDirectory) -> list[Variant]:
    return find_variants(run)


def set_state(adb: Path, service: str, text: str) -> None:
    (adb.parent / "phone/dumpsys" / service).write_text(text)


def test_an_onnx_export_is_measured_in_every_view(
    install_phone: InstallPhone, measure: Measure, run: RunDirectory, tools: dict[str, Path]
) -> None:
    adb = install_phone()
    set_state(adb, "thermalservice", samples.THERMAL)
    set_state(adb, "battery", samples.BATTERY)
    counts: list[tuple[int, int]] = []
    hooks = StageHooks(on_count=lambda what, done, total: counts.append((done, total)))
    (row,) = measure(adb, hooks, cpu_mask="c", threads=2)
    assert (row["name"], row["tool"]) == ("student-onnx-fp32", "onnxruntime_perf_test")
    assert row["device"]["model"] == "Invented Phone 1"
    assert row["system"] == "Android 16 (API level 36)"
    assert (row["threads"], row["cpu_mask"]) == (2, "c")
    assert (row["load_ms"], row["first_ms"]) == (125.0, 40.0)
    assert row["memory_bytes"] == {"peak": 27112243}
    for view, base in SECONDS.items():
        latency = row["latency"][view]
        assert latency["inputs"] == "examples"
        assert latency["distribution"] is not None
        # The stand-in's samples fall; the two of the warm-up are left out.
        timed = [base * (1 + 1 / (1 + number)) for number in range(2, 5)]
        for found in latency["distribution"]["samples"]:
            assert found == pytest.approx(timed, rel=1e-4)
        assert [each["count"] for each in latency["rounds"]] == [5, 5]
    assert row["conditions"]["before"]["temperatures_c"]["CPU0"] == 66.5
    assert row["conditions"]["after"]["battery"] == 0.19
    assert row["thermal_per_round"] == ["none", "none"]
    assert row["notes"] == []
    assert row["pushed"] == {
        "model.onnx": sha256_of_file(run.exports / "onnx-fp32/model.onnx"),
        "onnxruntime_perf_test": sha256_of_file(tools["onnxruntime_perf_test"]),
        "libonnxruntime.so": sha256_of_file(tools["onnxruntime_perf_test"]),
    }
    assert counts == [(number, 6) for number in range(1, 7)]
    assert files_on(adb) == []
    assert json_text(dict(row))  # no NaN, nothing but JSON


def test_every_log_is_kept_and_has_what_the_tool_printed(
    install_phone: InstallPhone, measure: Measure, run: RunDirectory
) -> None:
    (row,) = measure(install_phone())
    texts = {name: (run.root / name).read_text() for name in row["logs"]}
    assert len(texts) == 4 + 2 * 3 * 2  # conditions; rounds, views, output and samples
    output = next(text for name, text in texts.items() if name.endswith("-image-2.log"))
    assert output.startswith("Setting intra_op_num_threads to 1\nSession creation time cost")
    result = next(text for name, text in texts.items() if name.endswith("-image-2.csv"))
    assert result.count("\n") == 5
    serials = [text for text in (*texts.values(), json.dumps(row)) if "R58M123ABC" in text]
    assert serials == []


def test_a_tool_sees_only_the_view_that_it_measures(
    install_phone: InstallPhone, measure: Measure
) -> None:
    adb = install_phone()
    measure(adb)
    calls = [call for call in calls_of(adb) if call[2:3] == ["push"]]
    sets = [call[4] for call in calls if "test_data_set_" in call[4]]
    assert len(sets) == 3 * 2 * 4  # views, examples, inputs
    assert all("/onnx-fp32/" in name for name in sets)


def test_percentiles_of_2019_are_read_with_their_samples(
    install_phone: InstallPhone, measure: Measure
) -> None:
    (row,) = measure(install_phone(dialect="2019"), rounds=1)
    assert row["load_ms"] is None
    assert row["latency"]["text"]["distribution"] is not None


@pytest.mark.parametrize("passes_codes", [True, False], ids=["new-adb", "old-adb"])
def test_a_tool_that_fails_is_an_error_that_names_its_log(
    install_phone: InstallPhone, measure: Measure, run: RunDirectory, passes_codes: bool
) -> None:
    adb = install_phone(exit=139, passes_codes=passes_codes)
    with pytest.raises(PhoneError, match=r"exit code 139: it crashed") as caught:
        measure(adb)
    log = Path(str(caught.value.where))
    assert log.is_relative_to(run.reports)
    assert log.read_text() == "Segmentation fault\n"
    assert files_on(adb) == []


def test_an_unknown_output_is_an_error_that_names_its_log(
    install_phone: InstallPhone, measure: Measure
) -> None:
    adb = install_phone(dialect="unknown")
    with pytest.raises(ArtifactError, match="has no average latency") as caught:
        measure(adb)
    assert Path(str(caught.value.where)).read_text() == "All went well.\n"
    assert files_on(adb) == []


def test_a_phone_that_is_unplugged_in_the_middle_keeps_the_log_and_is_cleaned_later(
    install_phone: InstallPhone, measure: Measure, run: RunDirectory
) -> None:
    adb = install_phone(lost_at="onnx-fp32/image/model.onnx")  # the second view
    notes: list[str] = []
    with pytest.raises(LostPhoneError) as caught:
        measure(adb, StageHooks(on_note=notes.append))
    log = Path(str(caught.value.where))
    assert log.name == "student-onnx-fp32-image-1.log"
    assert log.is_file()
    assert not list(log.parent.glob("*image*.csv"))
    assert not list(log.parent.glob(".*"))
    assert any("the next measurement removes it" in note for note in notes)
    assert files_on(adb)
    (adb.parent / "lost").unlink()
    says = json.loads((adb.parent / "phone.json").read_text())
    (adb.parent / "phone.json").write_text(json.dumps({**says, "lost_at": None}))
    notes.clear()
    assert len(measure(adb, StageHooks(on_note=notes.append), rounds=1)) == 1
    assert any("Removed 1 folder of earlier measurements" in note for note in notes)
    assert files_on(adb) == []


def test_ctrl_c_leaves_nothing_on_the_phone(install_phone: InstallPhone, measure: Measure) -> None:
    adb = install_phone()

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "measurements" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(adb, StageHooks(on_count=interrupt))
    assert files_on(adb) == []


def test_a_hot_phone_is_refused_before_anything_is_copied(
    install_phone: InstallPhone, measure: Measure
) -> None:
    adb = install_phone()
    hot = samples.THERMAL.replace("Thermal Status: 0", "Thermal Status: 3")
    set_state(adb, "thermalservice", hot)
    with pytest.raises(PhoneError, match=r"hot \(thermal state severe\).*--allow-hot"):
        measure(adb)
    assert not [call for call in calls_of(adb) if call[2:3] == ["push"]]
    assert files_on(adb) == []
    (row,) = measure(adb, rounds=1, allow_hot=True)
    assert "The phone was hot before the measurement (severe)." in row["notes"]


def test_a_phone_that_becomes_hot_is_noted(install_phone: InstallPhone, measure: Measure) -> None:
    adb = install_phone()
    set_state(adb, "thermalservice", samples.THERMAL)

    def heat(what: str, done: int, total: int) -> None:
        if done == 4:
            hot = samples.THERMAL.replace("Thermal Status: 0", "Thermal Status: 2")
            set_state(adb, "thermalservice", hot)

    (row,) = measure(adb, StageHooks(on_count=heat))
    assert row["thermal_per_round"] == ["none", "moderate"]
    assert "The phone became hot (moderate)." in row["notes"]


def test_conditions_that_cannot_be_read_are_notes(
    install_phone: InstallPhone, measure: Measure, run: RunDirectory
) -> None:
    (row,) = measure(install_phone(), rounds=1)
    assert row["conditions"]["before"]["thermal"] is None
    assert len(row["notes"]) == 2
    assert all("The phone's battery is not known" in note for note in row["notes"])
    assert str(run.root) not in json.dumps(row)


def test_an_export_without_its_tool_is_noted_and_none_at_all_is_an_error(
    install_phone: InstallPhone, run: RunDirectory
) -> None:
    settings = PhoneOptions(adb=install_phone())
    with pytest.raises(ConfigError, match=r"Give the tool .*--onnxruntime-perf-test"):
        measure_on_phone(run, variants_of(run), settings)
    with pytest.raises(ConfigError, match="ONNX, ORT, LiteRT and ExecuTorch run on Android"):
        measure_on_phone(run, variants_of(run)[:2], settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#!/bin/sh\n", "is not a program of Android or Linux"),
        (b"\x7fELF", "is not a program"),
        (
            AARCH64.replace(b"\xb7\x00", b"\x3e\x00"),
            "was built for x86_64, and the phone runs arm64",
        ),
        (AARCH64.replace(b"\xb7\x00", b"\xf3\x00"), "was built for processor 243"),
    ],
    ids=["script", "cut", "x86", "riscv"],
)
def test_a_tool_for_another_machine_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "tool").write_bytes(content)
    with pytest.raises(ArtifactError, match=said):
        check_tool(tmp_path / "tool", "benchmark_model", ("arm64-v8a",))
    with pytest.raises(ArtifactError, match="cannot be read"):
        check_tool(tmp_path / "gone", "benchmark_model", ("arm64-v8a",))


@pytest.mark.parametrize("mask", ["", "0", "xyz", "f0;ls", "0x", "-1"])
def test_a_mask_is_hexadecimal(mask: str) -> None:
    with pytest.raises(ConfigError, match="cpu_mask: must be hexadecimal"):
        PhoneOptions(cpu_mask=mask)


def test_a_mask_names_cpus_that_the_phone_has() -> None:
    check_mask_fits("f0", 8)
    check_mask_fits(None, 1)
    with pytest.raises(ConfigError, match="f0 names CPUs that the phone does not have: it has 4"):
        check_mask_fits("f0", 4)


def test_every_setting_of_a_phone_has_an_option() -> None:
    names = {item.option.name for item in declarations(PhoneOptions) if item.option}
    assert names == {f"--{item.key.replace('_', '-')}" for item in declarations(PhoneOptions)}


@pytest.fixture(scope="module")
def all_runtimes(
    finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """The finished run with an export for each tool."""
    run = RunDirectory(tmp_path_factory.mktemp("phone") / "all")
    shutil.copytree(finished_run.root, run.root)
    targets = (("ort", "fp32"), ("litert", "fp32"), ("executorch", "fp32"))
    export_student(run, ExportConfig(targets, max_drop_points=100, examples=40))
    return run


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["", "2025", "compiled"])
def test_each_target_has_its_tool(
    all_runtimes: RunDirectory,
    install_phone: InstallPhone,
    tools: dict[str, Path],
    tmp_path: Path,
    dialect: str,
) -> None:
    run = RunDirectory(Path(shutil.copytree(all_runtimes.root, tmp_path / "run")))
    adb = install_phone(dialect=dialect)
    given: dict[str, Any] = dict(tools)
    settings = PhoneOptions(adb=adb, rounds=1, samples=3, warm_up=2, **given)
    rows = {row["target"]: row for row in measure_on_phone(run, variants_of(run), settings)}
    assert {target: row["tool"] for target, row in rows.items()} == {
        "ort": "onnxruntime_perf_test",
        "litert": "benchmark_model",
        "executorch": "executor_runner",
    }
    for row in rows.values():
        for view, base in SECONDS.items():
            assert row["latency"][view]["mean_ms"] >= base
    assert rows["litert"]["latency"]["text"]["entry"] == "text"
    assert rows["executorch"]["latency"]["text"]["entry"] == "text"
    assert rows["litert"]["latency"]["image"]["distribution"] is None
    is_random = dialect == "compiled"
    assert rows["litert"]["latency"]["image"]["inputs"] == ("random" if is_random else "examples")
    assert any("ignored the examples" in note for note in rows["litert"]["notes"]) is is_random
    has_samples = dialect != "2025"
    distribution = rows["executorch"]["latency"]["image"]["distribution"]
    assert (distribution is not None) is has_samples
    assert any("its mean has the warm-up" in n for n in rows["executorch"]["notes"]) != has_samples
    assert files_on(adb) == []


def test_the_command_writes_the_figures_and_keeps_them_when_it_fails(
    install_phone: InstallPhone, run: RunDirectory, tools: dict[str, Path]
) -> None:
    adb = install_phone()
    set_state(adb, "thermalservice", samples.THERMAL)
    set_state(adb, "battery", samples.BATTERY)
    line = ["phone", str(run.root), "--adb", str(adb), "--rounds", "2", "--samples", "3"]
    options = [f"--{name.replace('_', '-')}={path}" for name, path in tools.items()]
    answer = CliRunner().invoke(app, [*line, *options])
    assert answer.exit_code == 0, answer.output
    assert "student-onnx-fp32" in answer.output
    written = (run.reports / "phone.json").read_bytes()
    assert json.loads(written)["kind"] == "phone_bench"
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 2
    assert "no export can be measured on the phone" in " ".join(answer.output.split())
    assert (run.reports / "phone.json").read_bytes() == written
