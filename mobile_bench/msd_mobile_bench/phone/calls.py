"""How each runtime's tool is called on the phone, with what files, and where its times are read.

onnxruntime_perf_test takes all test data beside the model file, so that each view has a folder of
its own; benchmark_model and executor_runner take one example, another one in each round. Warm-up is
what benchmark_model has an option for; of the others' predictions the first are left out.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msd_deploy.artifacts.manifest import write_text
from msd_deploy.views import View
from msd_export.executorch.predictor import MAIN_METHOD
from msd_export.signature import INPUT_NAMES, TEXT_INPUT_NAMES, ModelInputs
from msd_mobile_bench.phone.adb import Adb, LostPhoneError, PhoneError
from msd_mobile_bench.phone.formats import (
    Timings,
    read_benchmark_model,
    read_executor_runner,
    read_onnxruntime_perf_test,
    read_perf_test_samples,
)
from msd_mobile_bench.phone.inputs import (
    ViewInputs,
    entry_of,
    litert_inputs,
    write_onnx_tensors,
    write_tensors,
)
from msd_mobile_bench.phone.options import PhoneOptions, ToolName
from msd_mobile_bench.variants import Variant

_TOOLS, _INPUTS = "tools", "inputs"
_REASONS = {
    126: "it cannot be executed",
    127: "it, or a library that it needs, is not found",
    132: "it uses instructions that the phone's processor lacks",
    134: "it aborted",
    137: "it was killed, perhaps for lack of memory",
    139: "it crashed",
}
"""Of a shell's exit codes: 128 and more are signals."""
_LOGCAT = "logcat -d -v threadtime -s ExecuTorch"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One export under one view, as its tool is called.

    Attributes:
        name: Of the variant.
        view: The view.
        tool: The tool.
        entry: The entry point that is run; None: that for image and text.
        words: The program on the phone and its arguments, for each example in turn.
        result: File on the phone that it writes its samples to; None: it writes none.
    """

    name: str
    view: View
    tool: ToolName
    entry: str | None
    words: tuple[tuple[str, ...], ...]
    result: str | None = None


class PhoneFiles:
    """Copies tools, models and examples into a folder of the phone.

    Args:
        adb: The phone.
        folder: A folder of ours on it.
        options: How the tools are called.
    """

    def __init__(self, adb: Adb, folder: str, options: PhoneOptions) -> None:
        self._adb, self._folder, self._options = adb, folder, options

    def copy_tool(self, name: ToolName, files: Sequence[Path]) -> None:
        """Copy a tool under its own name, and the libraries that it needs under theirs."""
        tools = f"{self._folder}/{_TOOLS}"
        self._adb.checked(f"mkdir -p {tools}")
        self._adb.push(files[0], f"{tools}/{name}")
        for library in files[1:]:
            self._adb.push(library, f"{tools}/{library.name}")
        self._adb.checked(f"chmod 755 {tools}/{name}")

    def copy_examples(self, inputs: ViewInputs) -> None:
        """Copy examples as benchmark_model and executor_runner take them."""
        places = {
            self._example(view, number): example
            for view, examples in inputs.items()
            for number, example in enumerate(examples)
        }
        self._copy_tensors(places, write_tensors)

    def copy_export(self, variant: Variant, tool: ToolName, inputs: ViewInputs) -> list[ToolCall]:
        """Copy an exported model; return its calls, one for each view of the examples."""
        place = f"{self._folder}/{variant.target}-{variant.precision}"
        signature = variant.manifest.get("signature")
        entries = {view: entry_of(signature, view) for view in inputs}
        if tool == "onnxruntime_perf_test":
            return self._copy_for_perf_test(variant, place, inputs)
        self._adb.checked(f"mkdir -p {place}")
        self._adb.push(variant.model_path, f"{place}/{variant.model_path.name}")
        model = f"{place}/{variant.model_path.name}"
        return [
            ToolCall(
                variant.name,
                view,
                tool,
                entries[view],
                tuple(
                    self._litert_words(variant.model_path, model, entries[view], view, number)
                    if tool == "benchmark_model"
                    else self._executorch_words(model, entries[view], view, number)
                    for number in range(len(examples))
                ),
            )
            for view, examples in inputs.items()
        ]

    def _copy_for_perf_test(
        self, variant: Variant, place: str, inputs: ViewInputs
    ) -> list[ToolCall]:
        places = {
            f"{place}/{view.value}/test_data_set_{number}": example
            for view, examples in inputs.items()
            for number, example in enumerate(examples)
        }
        self._copy_tensors(places, write_onnx_tensors)
        calls = []
        for view in inputs:
            model = f"{place}/{view.value}/{variant.model_path.name}"
            self._adb.push(variant.model_path, model)
            result = f"{place}/{view.value}.csv"
            words = self._perf_test_words(model, result)
            calls.append(
                ToolCall(variant.name, view, "onnxruntime_perf_test", None, (words,), result)
            )
        return calls

    def _copy_tensors(
        self,
        places: Mapping[str, ModelInputs],
        write: Callable[[Path, ModelInputs], list[Path]],
    ) -> None:
        """Copy examples into folders of the phone, in the form that a function writes."""
        self._adb.checked(f"mkdir -p {' '.join(places)}")
        for folder, example in places.items():
            with tempfile.TemporaryDirectory() as scratch:
                for file in write(Path(scratch), example):
                    self._adb.push(file, f"{folder}/{file.name}")

    def _example(self, view: View, number: int) -> str:
        return f"{self._folder}/{_INPUTS}/{view.value}/{number}"

    def _program(self, name: ToolName) -> str:
        return f"{self._folder}/{_TOOLS}/{name}"

    @property
    def _predictions(self) -> int:
        return self._options.warm_up + self._options.samples

    def _perf_test_words(self, model: str, result: str) -> tuple[str, ...]:
        return (
            self._program("onnxruntime_perf_test"),
            *("-e", "cpu", "-m", "times", "-r", str(self._predictions)),
            *("-x", str(self._options.threads), "-s", model, result),
        )

    def _litert_words(
        self, file: Path, model: str, entry: str | None, view: View, number: int
    ) -> tuple[str, ...]:
        inputs, signature = litert_inputs(file, entry)
        example, options = self._example(view, number), self._options
        values = ",".join(f"{name}:{example}/{name}.bin" for name, _ in inputs)
        return (
            self._program("benchmark_model"),
            f"--graph={model}",
            *([f"--signature_to_run_for={signature}"] if signature else []),
            f"--num_threads={options.threads}",
            f"--warmup_runs={options.warm_up}",
            f"--num_runs={options.samples}",
            "--min_secs=0",
            f"--max_secs={options.time_limit_seconds:g}",
            f"--input_layer={','.join(name for name, _ in inputs)}",
            f"--input_layer_shape={':'.join(shape for _, shape in inputs)}",
            f"--input_layer_value_files={values}",
        )

    def _executorch_words(
        self, model: str, entry: str | None, view: View, number: int
    ) -> tuple[str, ...]:
        example = self._example(view, number)
        names = TEXT_INPUT_NAMES if entry else INPUT_NAMES
        return (
            self._program("executor_runner"),
            f"--model_path={model}",
            f"--method_name={entry or MAIN_METHOD}",
            f"--inputs={','.join(f'{example}/{name}.bin' for name in names)}",
            f"--num_executions={self._predictions}",
            f"--cpu_threads={self._options.threads}",
            "--print_output=none",
            "--undefok=print_output",  # builds of 2025 print tensors in any case
        )


class ToolRunner:
    """Runs the tools' calls, keeps what they print, and reads their times.

    Args:
        adb: The phone.
        folder: A folder of ours on it.
        logs: The folder for what they print.
        options: How they are called.
    """

    def __init__(self, adb: Adb, folder: str, logs: Path, options: PhoneOptions) -> None:
        self._adb, self._folder, self._logs, self._options = adb, folder, logs, options

    def run(self, call: ToolCall, number: int) -> tuple[Timings, list[Path]]:
        """Run a call.

        Args:
            call: The call.
            number: Of the round, from 0; it chooses the example.

        Returns:
            Its times, and the files with what it printed and wrote.

        Raises:
            PhoneError: It failed, took too long, or the connection ended; what it had printed is
                kept, and named.
            ArtifactError: Its output is not known.
        """
        log = self._logs / f"{call.name}-{call.view.value}-{number + 1}.log"
        if call.result is not None:  # the tool adds lines to a file that is there
            self._adb.checked(f"rm -f {call.result}")
        words = call.words[number % len(call.words)]
        text, process = self._output_of(call, words, log)
        if call.tool == "executor_runner":
            return self._from_logcat(log, process)
        if call.tool == "benchmark_model":
            return read_benchmark_model(text, log), [log]
        assert call.result is not None  # of onnxruntime_perf_test
        timings = read_onnxruntime_perf_test(text, log)
        written = log.with_suffix(".csv")
        self._adb.pull(call.result, written)
        content = written.read_text(encoding="utf-8", errors="replace")
        samples = read_perf_test_samples(content, written, timings.mean_ms)
        return replace(timings, samples_ms=samples), [log, written]

    def _output_of(self, call: ToolCall, words: Sequence[str], log: Path) -> tuple[str, int]:
        """Run a tool that has to succeed; return what it printed and its process's number."""
        try:
            output, process = self._adb.run_tool(
                self._folder,
                words,
                mask=self._options.cpu_mask,
                seconds=self._options.time_limit_seconds,
            )
        except LostPhoneError as error:
            write_text(log, error.output)
            raise LostPhoneError(
                f"{call.tool} was stopped: {error.what}",
                where=log,
                fix=error.fix,
                output=error.output,
            ) from error
        write_text(log, output.text)
        if output.code != 0:
            raise PhoneError(
                f"{call.tool} failed on the phone (exit code {output.code}"
                f"{_reason(output.code, output.text)})",
                where=log,
                fix="Look into this log; docs/benchmark.md has the builds that are needed",
            )
        return output.text, process

    def _from_logcat(self, log: Path, process: int) -> tuple[Timings, list[Path]]:
        """Read the times that executor_runner wrote into Android's log."""
        logcat = log.with_name(f"{log.stem}.logcat.log")
        text = self._adb.checked(_LOGCAT)
        write_text(logcat, text)
        return read_executor_runner(text, logcat, process), [log, logcat]


def _reason(code: int, text: str) -> str:
    """Return a failure in words: what the exit code means, or the last line of the output."""
    lines = text.strip().splitlines()
    reason = _REASONS.get(code) or (lines[-1].strip() if lines else "")
    return f": {reason}" if reason else ""
