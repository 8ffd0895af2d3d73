"""A stand-in for the runtimes' tools on the phone of stand_in_adb.py; it computes nothing.

It checks its files and options as the tools do (their sources: command_args_parser.cc and
performance_runner.cc of microsoft/onnxruntime, benchmark_tflite_model.cc of tensorflow/tensorflow,
executor_runner.cpp of pytorch/executorch), and then prints a published form for as many predictions
as were asked for. The figures are invented.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

ITEM_BYTES = {"image": 1}
BASE_MS = {"multimodal": 12.0, "image": 10.0, "text": 3.0}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"ERROR: {reason}\n")
    sys.exit(1)


def latency_ms(words: list[str]) -> float:
    """Return an invented latency: that of the view in the paths of the arguments."""
    return next(ms for view, ms in BASE_MS.items() if any(f"/{view}/" in word for word in words))


def samples_of(words: list[str], count: int) -> list[float]:
    """Return latencies that fall during the warm-up: the first are the longest."""
    base = latency_ms(words)
    return [base * (1 + 1 / (1 + number)) for number in range(count)]


def perf_test(words: list[str], dialect: str) -> None:
    values: dict[str, str] = {}
    positional = []
    rest = iter(words)
    for word in rest:
        if word == "-s":
            values[word] = ""
        elif word in ("-e", "-m", "-r", "-x"):
            values[word] = next(rest)
        elif word.startswith("-"):
            refuse(f"unknown option {word}")
        else:
            positional.append(word)
    model, result = positional
    folder = Path(model).parent
    sets = [path for path in folder.iterdir() if path.is_dir()]
    if not Path(model).is_file() or not sets:
        refuse(f"there is no test data for model {model}")
    for path in sets:
        if sorted(file.name for file in path.iterdir()) != [f"input_{k}.pb" for k in range(4)]:
            refuse(f"there is no test input data in {path}")
    count = int(values["-r"])
    samples = samples_of([f"{folder}/"], count)
    mean = sum(samples) / count
    say(f"Setting intra_op_num_threads to {values['-x']}")
    if dialect == "2019":
        say(f"Total time cost:{sum(samples) / 1e3}\nTotal iterations:{count}")
        say(f"Average time cost:{mean} ms\nMin Latency is {min(samples) / 1e3} sec")
    else:
        say("Session creation time cost: 0.125 s\nFirst inference time cost: 40 ms")
        say(f"Total inference requests: {count}\nAverage inference time cost: {mean:g} ms")
        say("Peak working set size: 27112243 bytes")
    with Path(result).open("a") as file:
        for number, sample in enumerate(samples):
            file.write(f"{folder.name},{sample / 1e3:g},27112243,11,{number}\n")


def benchmark(words: list[str], dialect: str) -> None:
    options = dict(word.removeprefix("--").split("=", 1) for word in words)
    names = options["input_layer"].split(",")
    shapes = [list(map(int, each.split(","))) for each in options["input_layer_shape"].split(":")]
    files = dict(each.split(":") for each in options["input_layer_value_files"].split(","))
    if (
        not Path(options["graph"]).is_file()
        or len(names) != len(shapes)
        or set(names) != set(files)
    ):
        refuse("Inputs mismatch")
    for name, shape in zip(names, shapes, strict=True):
        size = math.prod(shape) * ITEM_BYTES.get(name, 4)
        if Path(files[name]).stat().st_size != size:
            refuse(f"The size of {files[name]} should be {size} bytes.")
    mean, count = latency_ms(words) * 1e3, int(options["num_runs"])
    row = (
        f"count={count} first={mean + 9} curr={mean} min={mean - 5} max={mean + 9} avg={mean} std=3"
    )
    if dialect == "compiled":
        say(f"WARN: Unconsumed cmdline flags: --input_layer={options['input_layer']}")
    for _ in range(2):
        say(f"INFO: Running benchmark for at least {count} iterations\nINFO: {row}\n")
    if dialect == "compiled":
        say("INFO: [b.h:94] Model initialization: 23.73 ms")
        say(f"INFO: [b.h:100] Inference (avg):      {mean / 1e3:.2f} ms ({count} runs)")
        return
    say(
        f"INFO: Inference timings in us: Init: 12250, First inference: {mean + 9},"
        f" Warmup (avg): {mean}, Inference (avg): {mean}"
    )
    say("INFO: Memory footprint delta from the start of the tool (MB): init=3.75 overall=12.25")


def runner(words: list[str], dialect: str, phone: Path) -> None:
    options = dict(word.removeprefix("--").split("=", 1) for word in words)
    method = options["method_name"]
    inputs = options["inputs"].split(",")
    if len(inputs) != {"forward": 4, "text": 2}[method]:
        refuse(f"Could not prepare inputs of {method}")
    for path in (options["model_path"], *inputs):
        if not Path(path).is_file():
            refuse(f"Failed to open {path}")
    count = int(options["num_executions"])
    samples = samples_of(words, count)
    lines = ["Model loaded in 125.250000 ms."]
    if dialect != "2025":
        lines += [f"Iteration {n + 1} of {count}: {ms:f} ms" for n, ms in enumerate(samples)]
    lines.append(f"Model executed successfully {count} time(s) in {sum(samples):f} ms.")
    with (phone / "logcat").open("a") as log:
        for line in lines:
            log.write(
                f"11-30 22:00:00.100  {os.getpid():5d}  {os.getpid():5d} I ExecuTorch: {line}\n"
            )


def main(program: Path, words: list[str]) -> None:
    phone = Path(os.environ["PHONE"])
    says = json.loads((phone.parent / "phone.json").read_text())
    if str(program.parent) not in os.environ.get("LD_LIBRARY_PATH", ""):
        refuse("a library is not found")
    if says.get("hangs"):
        say("Initialized session in 1.5ms.")
        sys.stdout.flush()
        time.sleep(600)
    if code := says.get("exit"):
        say("Segmentation fault")
        sys.exit(code)
    dialect = says.get("dialect", "")
    if dialect == "unknown":
        say("All went well.")
    elif program.name == "onnxruntime_perf_test":
        perf_test(words, dialect)
    elif program.name == "benchmark_model":
        benchmark(words, dialect)
    else:
        runner(words, dialect, phone)


if __name__ == "__main__":
    main(Path(sys.argv[0]), sys.argv[1:])
