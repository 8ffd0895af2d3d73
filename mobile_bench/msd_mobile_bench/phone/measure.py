"""Measure a run's exports on an Android phone with the runtimes' own tools.

What Python and an app add to a prediction is not in these times; `benchmark()` of a bundle measures
an app. Accuracy is not measured here: `msd bench` does on this computer, from the same file.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from msd_deploy import __version__
from msd_deploy.artifacts.claim import claimed
from msd_deploy.artifacts.manifest import (
    SCHEMA_VERSION,
    json_text,
    sha256_of_file,
    sha256_of_json,
    utc_now,
    write_text,
)
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ConfigError, counted
from msd_deploy.hooks import StageHooks
from msd_deploy.run.record import read_finished_run
from msd_deploy.views import View
from msd_export.formats import Target
from msd_mobile_bench.latency import describe, interleaved
from msd_mobile_bench.phone.adb import Adb, PhoneError
from msd_mobile_bench.phone.calls import PhoneFiles, ToolCall, ToolRunner
from msd_mobile_bench.phone.conditions import PhoneConditions, conditions_of, is_hot
from msd_mobile_bench.phone.device import Device, describe_device
from msd_mobile_bench.phone.formats import Timings
from msd_mobile_bench.phone.inputs import ViewInputs, read_inputs
from msd_mobile_bench.phone.options import (
    TOOLS,
    PhoneOptions,
    ToolName,
    check_mask_fits,
    check_tool,
    files_of_tool,
)
from msd_mobile_bench.phone.schema import (
    PhoneBench,
    PhoneDevice,
    PhoneRow,
    RoundFigures,
    ViewLatency,
)
from msd_mobile_bench.variants import Variant, find_variants

RESULT_NAME = "phone.json"
LOGS_NAME = "phone"
"""Folder in a run's reports: a folder for each measurement, with all that the tools printed."""


def write_phone_bench(
    run: RunDirectory, options: PhoneOptions, hooks: StageHooks | None = None
) -> PhoneBench:
    """Measure a run's exports on an Android phone, and write reports/phone.json.

    Args:
        run: A finished run.
        options: The phone, the tools, and how often.
        hooks: Progress.

    Raises:
        MsdError: As `measure_on_phone`; an earlier phone.json stays as it is.
    """
    hooks = hooks or StageHooks()
    with claimed(run.root):
        read_finished_run(run)
        variants = find_variants(run, on_note=hooks.on_note)
        result: PhoneBench = {
            "schema_version": SCHEMA_VERSION,
            "kind": "phone_bench",
            "msd_deploy": __version__,
            "run": run.root.resolve().name,
            "rows": measure_on_phone(run, variants, options, hooks),
        }
        write_text(run.reports / RESULT_NAME, json_text(result, indent=2))
    return result


def measure_on_phone(
    run: RunDirectory,
    variants: Sequence[Variant],
    options: PhoneOptions | None = None,
    hooks: StageHooks | None = None,
) -> list[PhoneRow]:
    """Measure a run's exports on an Android phone.

    What the tools print is kept in reports/phone/TIME, also of a call that fails. The caller holds
    the claim of the run.

    Args:
        run: A finished run.
        variants: Of it (see `find_variants`); the student's exports with a given tool are measured.
        options: The phone, the tools, and how often.
        hooks: Progress.

    Returns:
        A row for each measured export.

    Raises:
        ConfigError: No export has a tool, or the mask does not fit the phone.
        RuntimeUnavailableError: adb is not installed.
        ArtifactError: A tool was not built for the phone, another process measures on it, or the
            output of a tool is not known.
        PhoneError: No phone is ready, it is hot, a tool failed, or the connection ended.
        DataError: The test split has no example.
    """
    options, hooks = options or PhoneOptions(), hooks or StageHooks()
    chosen = _with_tools(variants, options, hooks)
    adb = Adb.connect(options.adb, options.serial)
    device = describe_device(adb)
    if device.cpus:
        check_mask_fits(options.cpu_mask, len(device.cpus))
    for name in _tools_of(chosen):
        check_tool(options.tools[name], name, device.abis)
    logs = run.reports / LOGS_NAME / re.sub(r"\W", "", utc_now().partition("+")[0])
    with adb.own_folder(hooks.on_note) as folder:
        session = _Session(adb, folder, logs, options, hooks)
        session.check_is_cool(device)
        inputs = read_inputs(run, hooks)
        hooks.on_stage(f"Copying {counted(len(chosen), 'export', 'exports')} to {device.model}")
        calls = session.copy(chosen, inputs)
        session.measure(calls, device)
    return [_row(run, variant, device, options, session) for variant in chosen]


def tool_of(variant: Variant) -> ToolName | None:
    """Return the tool that measures a variant on a phone; None: it does not run there."""
    return TOOLS.get(cast(Target, variant.target)) if variant.model == "student" else None


def _tools_of(variants: Sequence[Variant]) -> list[ToolName]:
    return list(dict.fromkeys(tool for tool in map(tool_of, variants) if tool is not None))


def _with_tools(
    variants: Sequence[Variant], options: PhoneOptions, hooks: StageHooks
) -> list[Variant]:
    """Return the variants whose tool is given; a note names those that need another one."""
    chosen, missing = [], []
    for variant in variants:
        tool = tool_of(variant)
        if tool in options.tools:
            chosen.append(variant)
        elif tool is not None:
            missing.append((variant.name, f"--{tool.replace('_', '-')}"))
    if not chosen:
        names = ", ".join(sorted({option for _, option in missing}))
        raise ConfigError(
            "no export can be measured on the phone"
            + ("" if missing else ": ONNX, ORT, LiteRT and ExecuTorch run on Android"),
            where="phone",
            fix=f"Give the tool of a runtime ({names})" if missing else "Run msd export first",
        )
    for name, option in missing:
        hooks.on_note(f"{name} is not measured on the phone: its tool is not given ({option}).")
    return chosen


class _Session:
    """One measurement on a phone: what is copied, and what was measured so far.

    Args:
        adb: The phone.
        folder: A folder of ours on it.
        logs: The folder for what the tools print.
        options: The settings.
        hooks: Progress.
    """

    def __init__(
        self, adb: Adb, folder: str, logs: Path, options: PhoneOptions, hooks: StageHooks
    ) -> None:
        self._adb, self._options, self._hooks, self._logs = adb, options, hooks, logs
        self._files = PhoneFiles(adb, folder, options)
        self._runner = ToolRunner(adb, folder, logs, options)
        self.begun_utc = utc_now()
        self.conditions: dict[str, PhoneConditions] = {}
        self.thermal_per_round: list[str | None] = []
        self.notes: list[str] = []
        self.calls: dict[tuple[str, View], ToolCall] = {}
        self.timings: dict[tuple[str, View], list[Timings]] = {}
        self.written: dict[str, list[Path]] = {}
        self.logs_of_conditions: list[Path] = []
        self.pushed: dict[str, dict[str, str]] = {}

    def check_is_cool(self, device: Device) -> None:
        """Record the conditions before the measurement, and refuse a phone that is hot.

        Raises:
            PhoneError: It is hot.
        """
        before = self._read_conditions("before")
        if is_hot(before):
            if not self._options.allow_hot:
                raise PhoneError(
                    f"the phone is hot (thermal state {before['thermal']}), so that its processor"
                    " is slowed down",
                    where=device.model,
                    fix="Let it cool, off the charger, and run the command again; or measure with"
                    " --allow-hot",
                )
            self._note(f"The phone was hot before the measurement ({before['thermal']}).")
        if device.is_emulator:
            self._note("It is an emulator: the times are this computer's, not a phone's.")
        if before["low_power"]:
            self._note("The phone saves power: its processor may be slowed down.")

    def copy(self, variants: Sequence[Variant], inputs: ViewInputs) -> list[list[ToolCall]]:
        """Copy tools, models and examples; return each variant's calls."""
        tools: dict[ToolName, dict[str, str]] = {}
        for name in _tools_of(variants):
            files = list(files_of_tool(self._options.tools[name]))
            self._files.copy_tool(name, files)
            digests = map(sha256_of_file, files)
            tools[name] = dict(
                zip([name, *(file.name for file in files[1:])], digests, strict=True)
            )
        if set(tools) - {"onnxruntime_perf_test"}:
            self._files.copy_examples(inputs)
        calls = []
        for variant in variants:
            tool = cast(ToolName, tool_of(variant))
            calls.append(self._files.copy_export(variant, tool, inputs))
            model = variant.model_path
            self.pushed[variant.name] = {model.name: sha256_of_file(model), **tools[tool]}
        return calls

    def measure(self, calls: Sequence[Sequence[ToolCall]], device: Device) -> None:
        """Run all calls in every round, and record the conditions after each."""
        rounds = self._options.rounds
        self._hooks.on_stage(
            f"Measuring {counted(len(calls), 'export', 'exports')} on {device.model},"
            f" {counted(rounds, 'round', 'rounds')}"
        )
        total, done = rounds * sum(map(len, calls)), 0
        for number, order in enumerate(interleaved(len(calls), rounds)):
            for call in (call for place in order for call in calls[place]):
                self._measure_one(call, number)
                done += 1
                self._hooks.on_count("measurements", done, total)
            state = self._read_conditions("after")
            self.thermal_per_round.append(state["thermal"])
        if is_hot(self.conditions["after"]) and not is_hot(self.conditions["before"]):
            self._note(f"The phone became hot ({self.conditions['after']['thermal']}).")

    def _measure_one(self, call: ToolCall, number: int) -> None:
        timings, written = self._runner.run(call, number)
        key = call.name, call.view
        self.calls[key] = call
        self.timings.setdefault(key, []).append(timings)
        self.written.setdefault(call.name, []).extend(written)

    def _read_conditions(self, moment: Literal["before", "after"]) -> PhoneConditions:
        texts, logs = [], []
        for service in ("thermalservice", "battery"):
            log = self._logs / f"{service}-{moment}.log"
            # Exit codes differ between versions where a service is missing; its text says so.
            text = self._adb.shell(f"dumpsys {service}").text
            write_text(log, text)
            texts.append(text)
            logs.append(log)
            if log not in self.logs_of_conditions:
                self.logs_of_conditions.append(log)
        low_power = self._adb.shell("settings get global low_power").text
        state, notes = conditions_of(texts[0], texts[1], low_power, (logs[0], logs[1]))
        for note in notes:
            self._note(note)
        self.conditions[moment] = state
        return state

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self._hooks.on_note(note)


def _row(
    run: RunDirectory,
    variant: Variant,
    device: Device,
    options: PhoneOptions,
    session: _Session,
) -> PhoneRow:
    views = [view for name, view in session.timings if name == variant.name]
    logs = [*session.logs_of_conditions, *session.written[variant.name]]
    all_timings = [each for view in views for each in session.timings[variant.name, view]]
    latency = {
        view.value: _view_latency(
            session.calls[variant.name, view],
            session.timings[variant.name, view],
            options.warm_up,
        )
        for view in views
    }
    return {
        "name": variant.name,
        "target": variant.target,
        "precision": variant.precision,
        "export_digest": sha256_of_json(variant.manifest),
        "device": _device_json(device),
        "system": f"Android {device.android} (API level {device.api_level})",
        "tool": cast(str, tool_of(variant)),
        "threads": options.threads,
        "cpu_mask": options.cpu_mask,
        "warm_up": options.warm_up,
        "samples": options.samples,
        "measured_utc": session.begun_utc,
        "load_ms": _median([each.load_ms for each in all_timings]),
        "first_ms": _median([each.first_ms for each in session.timings[variant.name, views[0]]]),
        "memory_bytes": _largest(all_timings),
        "latency": latency,
        "conditions": session.conditions,
        "thermal_per_round": session.thermal_per_round,
        "logs": [path.relative_to(run.root).as_posix() for path in logs],
        "pushed": session.pushed[variant.name],
        "notes": [*session.notes, *_notes_on(latency, options)],
    }


def _view_latency(call: ToolCall, rounds: Sequence[Timings], warm_up: int) -> ViewLatency:
    timed = [each.samples_ms[warm_up:] for each in rounds]
    distribution = describe(timed) if all(timed) else None
    return {
        "entry": call.entry,
        "inputs": "examples" if all(each.used_inputs for each in rounds) else "random",
        "mean_ms": distribution["mean"] if distribution else _mean(rounds),
        "distribution": distribution,
        "rounds": [_figures(each) for each in rounds],
    }


def _mean(rounds: Sequence[Timings]) -> float:
    """Return the mean over all predictions of rounds that have only their own means."""
    counts = [each.count or 1 for each in rounds]
    total = sum(each.mean_ms * count for each, count in zip(rounds, counts, strict=True))
    return round(total / sum(counts), 4)


def _figures(timings: Timings) -> RoundFigures:
    return {
        "load_ms": _rounded(timings.load_ms),
        "first_ms": _rounded(timings.first_ms),
        "warm_up_ms": _rounded(timings.warm_up_ms),
        "count": timings.count,
        "mean_ms": round(timings.mean_ms, 4),
        "min_ms": _rounded(timings.min_ms),
        "max_ms": _rounded(timings.max_ms),
        "std_ms": _rounded(timings.std_ms),
        "percentiles_ms": {name: round(ms, 4) for name, ms in timings.percentiles_ms.items()},
        "memory_bytes": dict(timings.memory_bytes),
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 4)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return describe([known])["p50"] if known else None


def _largest(timings: Sequence[Timings]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in timings:
        for kind, size in each.memory_bytes.items():
            found[kind] = max(size, found.get(kind, size))
    return found


def _notes_on(latency: dict[str, ViewLatency], options: PhoneOptions) -> list[str]:
    """Return what makes the figures of one export doubtful."""
    notes = []
    if any(view["inputs"] == "random" for view in latency.values()):
        notes.append(
            "The tool ignored the examples and filled the inputs by chance, with identifiers beyond"
            " the vocabulary."
        )
    for name, view in latency.items():
        counts = {each["count"] for each in view["rounds"]}
        if view["distribution"] is None and options.warm_up + options.samples in counts:
            notes.append(
                f"The tool's log lacks single predictions ({name}): its mean has the warm-up."
            )
    return notes


def _device_json(device: Device) -> PhoneDevice:
    return {
        "model": device.model,
        "android": device.android,
        "api_level": device.api_level,
        "abis": list(device.abis),
        "processor": device.processor,
        "cpus": [
            {"number": cpu.number, "most_mhz": cpu.most_mhz, "part": cpu.part}
            for cpu in device.cpus
        ],
        "is_emulator": device.is_emulator,
    }
