"""The browser's runtimes, in a real Chromium: their answers, samples and errors."""

import contextlib
import importlib.util
import json
import re
import shutil
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.models.folders import load_model
from msd_deploy.views import View
from msd_export.bundle.npm_packages import PLAYWRIGHT, NpmPackage, package_folder
from msd_export.converters import converter_for
from msd_export.formats import FORMATS
from msd_export.predictors import open_predictor
from msd_export.signature import Logits, ModelInputs
from msd_export.source import ExportSource
from msd_mobile_bench.runtimes import web
from msd_mobile_bench.runtimes.web import WebRuntime, find_browser, install_web, web_runtimes
from msd_mobile_bench.runtimes.worker import load_arrays, save_arrays

ROOT = Path(__file__).parents[3]
MODULES = ROOT / ".web" / "node_modules"
ARRAYS = Path(web.__file__).with_name("web_arrays.mjs")
TIMED, ANSWERED = 4, 40
PLAN = {"warm_up": 2, "runs": 7, "warm_up_seconds": 0.0, "most_seconds": 60.0}


def in_node_modules(package: NpmPackage) -> Path:
    return MODULES / package.name


ONNX, LITERT = web_runtimes(in_node_modules)
MISSING = ONNX.unavailable() or LITERT.unavailable()
browser = pytest.mark.browser
needs_browser = pytest.mark.skipif(
    MISSING is not None, reason=f"needs make .web/node_modules, and a browser ({MISSING})"
)
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")


class Worker:
    """A worker's process, with the examples that it times."""

    def __init__(self, command: list[str], examples: Path, environment: dict[str, str]) -> None:
        self._examples, self._log = examples, examples.parent / "stderr.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=environment,
            )

    def ask(self, task: str, **arguments: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self._log.read_text()
        return json.loads(line)

    def open(self, target: str, model: Path) -> Any:
        given = {"target": target, "path": str(model), "manifest": {}, "threads": 1}
        return self.ask("open", **given, examples=str(self._examples))

    def predict(self, inputs: ModelInputs) -> Any:
        there, back = self._examples.parent / "inputs", self._examples.parent / "outputs"
        save_arrays(there, inputs)
        answer = self.ask("predict", inputs=str(there), outputs=str(back))
        return answer if "error" in answer else load_arrays(back)

    def processes(self, kind: str) -> list[psutil.Process]:
        """Return the browser's processes of a kind, for example renderer."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if f"--type={kind}" in child.cmdline()]

    def close(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=60)


StartWorker = Callable[..., Worker]


@pytest.fixture
def examples(memes: tuple[PreparedData, Preprocessor], tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    for view in View:
        save_arrays(folder / view.value, inputs_of(memes, view, TIMED))
    return folder


def inputs_of(memes: tuple[PreparedData, Preprocessor], view: View, count: int) -> ModelInputs:
    return memes[0].splits["test"].inputs(np.arange(count), view)


@pytest.fixture
def start(examples: Path) -> Iterator[StartWorker]:
    """Starts a worker of a runtime, which ends with the test."""
    with contextlib.ExitStack() as stack:

        def start_worker(runtime: WebRuntime, threads: int = 1) -> Worker:
            command = runtime.command(runtime.targets[0], threads)
            worker = Worker(command, examples, runtime.environment(threads))
            stack.enter_context(worker.process)
            stack.callback(worker.process.kill)
            return worker

        yield start_worker


@pytest.fixture(scope="session")
def model_file(
    untrained_run: RunDirectory,
    memes: tuple[PreparedData, Preprocessor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Path]:
    """Converts the untrained student to a target and precision, once; skips what is not there."""
    made: dict[tuple[str, str], Path] = {("onnx", "fp32"): _onnx_file(untrained_run)}

    def convert(target: Any, precision: Any) -> Path:
        if not all(map(importlib.util.find_spec, FORMATS[target].modules)):
            pytest.skip(f"{target} is not installed")
        if (target, precision) not in made:
            folder = tmp_path_factory.mktemp(f"{target}-{precision}")
            source = ExportSource(load_model(untrained_run.student), memes[0], "untrained", folder)
            path = folder / FORMATS[target].model_file
            converter_for(target, source).convert(precision, path)
            made[target, precision] = path
        return made[target, precision]

    return convert


def _onnx_file(run: RunDirectory) -> Path:
    return run.exports / "onnx-fp32" / FORMATS["onnx"].model_file


def expected_logits(target: Any, model: Path, inputs: ModelInputs) -> Logits:
    """Return what Python answers; of a text alone, by its entry point where there is one."""
    predictor = open_predictor(target, model)
    if predictor.text_entry is not None and not inputs["image_present"].any():
        return predictor.text_entry.predict(inputs)
    return predictor.predict(inputs)


@browser
@needs_browser
@pytest.mark.parametrize(
    ("runtime", "target", "precision", "threads"),
    [
        (ONNX, "onnx", "fp32", 1),
        (ONNX, "onnx", "fp32", 2),
        (ONNX, "ort", "fp32", 1),
        pytest.param(ONNX, "onnx", "int8", 1, marks=pytest.mark.slow),
        pytest.param(LITERT, "litert", "fp32", 1, marks=pytest.mark.slow),
        pytest.param(LITERT, "litert", "fp32", 2, marks=pytest.mark.slow),
        pytest.param(LITERT, "litert", "int8", 1, marks=pytest.mark.slow),
    ],
)
def test_models_answer_as_in_python(
    runtime: WebRuntime,
    target: str,
    precision: str,
    threads: int,
    start: StartWorker,
    model_file: Callable[[str, str], Path],
    memes: tuple[PreparedData, Preprocessor],
) -> None:
    assert runtime.runs(target)
    model = model_file(target, precision)
    worker = start(runtime, threads)
    opened = worker.open(target, model)
    assert opened["load_time_ms"] > 0, opened
    for view in View:
        inputs = inputs_of(memes, view, ANSWERED)
        answer, expected = worker.predict(inputs), expected_logits(target, model, inputs)
        difference = np.abs(answer["logits"] - expected).max()
        if precision == "fp32":
            assert difference < 2e-6
        # int8 differs by .021 where the processor has VNNI, and by nothing where it has not.
        assert difference < 0.05
        margin = np.abs(np.diff(expected))[:, 0]
        clear = margin > 0.05
        assert clear.sum() > ANSWERED / 2
        decided = answer["logits"].argmax(axis=1)
        assert np.array_equal(decided[clear], expected.argmax(axis=1)[clear])
        assert answer["probabilities"].sum(axis=1) == pytest.approx(np.ones(ANSWERED), abs=1e-5)


@browser
@needs_browser
@pytest.mark.parametrize(
    ("runtime", "target"),
    [(ONNX, "onnx"), pytest.param(LITERT, "litert", marks=pytest.mark.slow)],
)
def test_a_model_is_opened_and_sampled_as_planned(
    runtime: WebRuntime,
    target: str,
    start: StartWorker,
    model_file: Callable[[str, str], Path],
) -> None:
    worker = start(runtime)
    opened = worker.open(target, model_file(target, "fp32"))
    assert re.fullmatch(rf"{re.escape(runtime.name)} [\d.]+ in Chromium [\d.]+", opened["runtime"])
    assert worker.ask("first")["first_ms"] > 0
    plans = {
        "multimodal": PLAN,
        "image": {**PLAN, "runs": 5, "seconds": 0.2},
        "text": {**PLAN, "runs": 40, "settle_seconds": 0.1},
    }
    samples = worker.ask("latency", plans=plans)["latency_ms"]
    assert list(samples) == list(plans)
    assert len(samples["multimodal"]) == 7
    assert len(samples["image"]) >= 5
    assert len(samples["text"]) == 40
    assert min(map(min, samples.values())) > 0
    slow = {view.value: {**PLAN, "runs": 1000, "most_seconds": 0.0} for view in View}
    cut = worker.ask("latency", plans=slow)["latency_ms"]
    assert [len(each) for each in cut.values()] == [5, 5, 5]
    batches = worker.ask("throughput", batch_size=3, batches=4, most_seconds=60.0)["batch_ms"]
    assert len(batches) == 4
    peak = worker.ask("memory")["peak_rss_bytes"]
    if "memory" in runtime.measures:
        assert opened["rss_before_load_bytes"] > 10_000_000
        assert peak > opened["rss_before_load_bytes"] + 5_000_000  # it is the page's own process
    else:
        assert peak is None
    assert worker.close() == 0


@browser
@needs_browser
@pytest.mark.parametrize("runtime", [ONNX, LITERT], ids=lambda runtime: runtime.key)
def test_a_file_that_is_no_model_is_one_error(
    runtime: WebRuntime, start: StartWorker, tmp_path: Path
) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"no model" * 1000)
    error = start(runtime).open(runtime.targets[0], model)["error"]
    assert error["kind"] == "ArtifactError"
    assert error["where"] == str(model)
    assert error["what"].startswith(f"{runtime.name} cannot load it (")
    assert "\n" not in error["what"]


@browser
@needs_browser
def test_a_model_that_answers_nan_is_one_error(
    start: StartWorker,
    untrained_run: RunDirectory,
    memes: tuple[PreparedData, Preprocessor],
    tmp_path: Path,
) -> None:
    model = onnx.load(_onnx_file(untrained_run))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    worker = start(ONNX)
    worker.open("onnx", tmp_path / "nan.onnx")
    error = worker.predict(inputs_of(memes, View.TEXT, 3))["error"]
    assert error["what"] == "6 of its 6 logits are not finite numbers"
    assert error["where"] == str(tmp_path / "nan.onnx")


@browser
@needs_browser
def test_a_page_that_crashes_is_one_error_for_each_further_task(
    start: StartWorker, untrained_run: RunDirectory
) -> None:
    worker = start(ONNX)
    model = _onnx_file(untrained_run)
    worker.open("onnx", model)
    assert worker.process.stdin is not None
    assert worker.process.stdout is not None
    plans = {"multimodal": {**PLAN, "seconds": 600.0, "most_seconds": 600.0}}
    worker.process.stdin.write(json.dumps({"task": "latency", "plans": plans}) + "\n")
    worker.process.stdin.flush()
    for process in worker.processes("renderer"):
        process.kill()
    error = json.loads(worker.process.stdout.readline())["error"]
    assert error == {
        "kind": "WorkerError",
        "what": "its browser failed during 'latency' (the page crashed)",
        "where": str(model),
        "fix": "Check the free memory",
    }
    assert "(the page crashed)" in worker.ask("first")["error"]["what"]
    assert worker.close() == 0


@browser
@needs_browser
def test_a_browser_that_is_gone_is_one_error(
    start: StartWorker,
    untrained_run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "chromium"
    program.symlink_to(str(find_browser()))
    monkeypatch.setenv("CHROME_PATH", str(program))
    worker = start(ONNX)
    program.unlink()
    error = worker.open("onnx", _onnx_file(untrained_run))["error"]
    assert error["kind"] == "RuntimeUnavailableError"
    assert error["what"].startswith("the browser cannot be started (")
    assert error["where"] == str(program)
    assert error["fix"] == "Install Chromium, or name another one in CHROME_PATH"


@browser
@needs_browser
def test_a_worker_that_is_killed_ends_its_browser_and_writes_beside_the_examples(
    start: StartWorker, untrained_run: RunDirectory, tmp_path: Path
) -> None:
    worker = start(ONNX)
    worker.open("onnx", _onnx_file(untrained_run))
    (scratch,) = tmp_path.glob("browser-*")
    assert {path.name.partition("-")[0] for path in scratch.iterdir()} == {
        "playwright",
        "playwright_chromiumdev_profile",
    }
    processes = psutil.Process(worker.process.pid).children(recursive=True)
    worker.process.kill()
    assert psutil.wait_procs(processes, timeout=60)[1] == []


_ELSEWHERE = {"HOST_RESOLVER_DNS_TASK", "HOST_RESOLVER_SYSTEM_TASK", "UDP_BYTES_SENT"}
"""Events of Chromium's log; without the worker's rule for names they are dozens."""


@browser
@needs_browser
def test_nothing_is_asked_of_another_machine(
    start: StartWorker,
    untrained_run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, program = tmp_path / "net.json", tmp_path / "chromium"
    program.write_text(f'#!/bin/sh\nexec "{find_browser()}" --log-net-log="{log}" "$@"\n')
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CHROME_PATH", str(program))
    worker = start(ONNX)
    worker.open("onnx", _onnx_file(untrained_run))
    worker.ask("first")
    assert worker.close() == 0
    seen = json.loads(log.read_text())
    names = {number: name for name, number in seen["constants"]["logEventTypes"].items()}
    events = [(names[event["type"]], event.get("params", {})) for event in seen["events"]]
    # No name is looked up, and no packet is sent but to the server.
    assert {name for name, _ in events} & _ELSEWHERE == set()
    addresses = [
        given["address"] for name, given in events if name == "TCP_CONNECT_ATTEMPT" if given
    ]
    assert {address.rpartition(":")[0] for address in addresses} == {"127.0.0.1"}


@browser
@needs_browser
def test_the_page_is_served_to_its_own_browser_alone(
    start: StartWorker, untrained_run: RunDirectory
) -> None:
    worker = start(ONNX)
    worker.open("onnx", _onnx_file(untrained_run))
    (port,) = {
        connection.laddr.port
        for connection in psutil.Process(worker.process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }

    def status(path: str, host: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    own = f"127.0.0.1:{port}"
    assert status("/model", own) == 200
    assert status("/model", "evil.example") == 403
    for path in ("/packages/onnxruntime-web/../../secret", "/../web.py", "//etc/passwd", "/%"):
        assert status(path, own) == 404


@needs_node
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (0, 4), (2, 3, 4, 3)])
def test_arrays_are_read_and_written_as_numpy_does(
    dtype: type[np.generic], shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).uniform(0, 255, shape).astype(dtype)
    np.save(tmp_path / "in.npy", values, allow_pickle=False)
    script = """
        const { readArray, writeArray } = await import(process.argv[1]);
        const fs = await import("node:fs"), [, , there, back] = process.argv;
        const { data, shape } = readArray(new Uint8Array(fs.readFileSync(there)).buffer);
        fs.writeFileSync(back, writeArray(data, shape));
    """
    line = ["node", "--input-type=module", "-e", script, "--", str(ARRAYS)]
    files = [str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run([*line, *files], check=True)
    again = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert again.dtype == values.dtype
    assert np.array_equal(again, values)


@needs_node
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no array at all", "is not a .npy file"),
        (b"", "is not a .npy file"),
        ("int64", "is not supported"),
        ("fortran", "is not supported"),
        ("cut", "bytes of data for the shape [3,2]"),
    ],
)
def test_arrays_of_another_kind_are_refused(
    content: bytes | str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.npy"
    values = np.ones((3, 2), np.int64 if content == "int64" else np.float32)
    np.save(path, np.asfortranarray(values) if content == "fortran" else values, allow_pickle=False)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    script = """
        const { readArray } = await import(process.argv[1]), fs = await import("node:fs");
        try {
          readArray(new Uint8Array(fs.readFileSync(process.argv[2])).buffer);
        } catch ({ message }) {
          console.log(message);
        }
    """
    line = ["node", "--input-type=module", "-e", script, "--", str(ARRAYS), str(path)]
    answer = subprocess.run(line, capture_output=True, text=True, check=True)
    assert reason in answer.stdout


def test_a_machine_without_node_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = web_runtimes()[0].unavailable()
    assert reason is not None
    assert reason.startswith("not installed: install Node.js 20 or newer (")
    assert reason.endswith(", then run msd doctor --install web")
    assert web_runtimes()[0].command("onnx", 1)[0] == "node"


@needs_node
def test_a_machine_without_a_browser_or_packages_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "chromium"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CHROME_PATH", str(program))
    runtime = web_runtimes()[1]
    reason = runtime.unavailable()
    assert reason is not None
    assert reason.startswith(f"not installed: CHROME_PATH names no file ({program})")
    program.write_text("#!/bin/sh\necho Chromium 142.0.7000.1\n")
    program.chmod(stat.S_IRWXU)
    assert runtime.unavailable() == "not installed: run msd doctor --install web"
    assert runtime.title == "LiteRT.js 2.5.3 in Chromium 142"


def test_runtimes_run_their_own_targets_alone() -> None:
    runs = {runtime.key: set(filter(runtime.runs, FORMATS)) for runtime in web_runtimes()}
    assert runs == {"onnxruntime-web": {"onnx", "ort"}, "litert.js": {"litert"}}


@browser
@needs_browser
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")
def test_what_is_installed_is_all_that_a_worker_needs(
    start: StartWorker,
    model_file: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stages: list[str] = []
    folder = install_web(stages.append)
    assert package_folder(PLAYWRIGHT).parent == folder
    assert [stage.rpartition("@")[0] for stage in stages] == [
        "Fetching playwright-core",
        "Fetching onnxruntime-web",
        "Fetching @litertjs/core",
        "Fetching @litertjs/wasm-utils",
    ]
    assert install_web(stages.append) == folder
    assert len(stages) == 4  # nothing is fetched again
    for runtime, threads in (
        (web_runtimes()[0], 2),
        (web_runtimes()[1], 1),
        (web_runtimes()[1], 2),
    ):
        assert runtime.unavailable() is None
        worker = start(runtime, threads)
        target = runtime.targets[0]
        assert "load_time_ms" in worker.open(target, model_file(target, "fp32"))
        assert worker.ask("first")["first_ms"] > 0
