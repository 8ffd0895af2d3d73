"""Shared fixtures: a small data set, and one finished run that many tests read.

The caches of Hugging Face libraries, and so ours, are sent to a folder of this test session, for
subprocesses too; nothing asks a hub. Every process computes on one thread, so that test files can
run side by side: two OpenMP threads that share a core with another process wait for each other.
"""

import os
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="msd-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.prepare import prepare
from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor, build_preprocessor, train_tokenizer
from msd_deploy.data.readers.spec import load_source
from msd_deploy.data.resize import ImageSpec
from msd_deploy.data.source import SourceOptions
from msd_deploy.data.synthetic.tasks import MEMES_LABELS
from msd_deploy.models.configs import FusionConfig
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.pipeline import run_distillation
from tests.checkpoints import WRITERS
from tests.command_server import CommandServer, command_server

WriteMemes = Callable[..., Path]

pytest_plugins = ["tests.read_only"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_a_cache_that_goes() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def commands() -> Iterator[CommandServer]:
    """Runs `msd` without the time that its imports take."""
    with command_server() as server:
        yield server


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory, write_memes: WriteMemes) -> RunConfig:
    """A run of a few seconds: 200 memes and few steps, a checkpoint at every one.

    Validation and test have 100 each. Those of `synthetic:memes` have 500 and 2,000, and predicting
    them would take four times as long as everything else.
    """

    path = write_memes(tmp_path_factory.mktemp("memes"), 200, others=100)
    return RunConfig(
        data=DataConfig(spec=str(path)),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=2, log_every=1, checkpoint_seconds=0.0),
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, small_config: RunConfig) -> RunDirectory:
    """A finished run; read it, never write into it."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "memes")
    run_distillation(small_config, run)
    return run


@pytest.fixture
def own_run(finished_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the finished run, to write into."""
    return RunDirectory(Path(shutil.copytree(finished_run.root, tmp_path / "run")))


@pytest.fixture(scope="session")
def write_memes() -> WriteMemes:
    """Write generated memes as FILE.jsonl and pictures into a folder; return the file.

    `change` gets each row's number and its line, and may alter the line. With `others`, that many
    rows for validation and for test follow the examples, and each states its split.
    """

    def write(
        folder: Path,
        examples: int,
        change: Callable[[int, dict[str, str]], None] = lambda index, line: None,
        *,
        others: int = 0,
    ) -> Path:
        dataset = load_source("synthetic:memes", options=SourceOptions(examples=examples)).dataset
        sizes = {"train": examples, "validation": others, "test": others}
        rows = [
            (split, row)
            for split, size in sizes.items()
            for row in dataset[split].select(range(size))
        ]
        with (folder / "memes.jsonl").open("w") as file:
            for index, (split, row) in enumerate(rows):
                (folder / f"{index}.png").write_bytes(row["image_bytes"])
                label = MEMES_LABELS[row["label"]]
                line = {"image": f"{index}.png", "text": row["text"], "label": label}
                if others:
                    line["split"] = split
                change(index, line)
                file.write(json.dumps(line) + "\n")
        return folder / "memes.jsonl"

    return write


@pytest.fixture(scope="module")
def memes_file(tmp_path_factory: pytest.TempPathFactory, write_memes: WriteMemes) -> DataConfig:
    """100 generated memes as FILE.jsonl: about 80, 10 and 10 in the splits."""
    return DataConfig(spec=str(write_memes(tmp_path_factory.mktemp("data"), 100)))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of each family of models, and "vision" for VisualBERT."""
    parent = tmp_path_factory.mktemp("published")
    return {name: write(parent / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="session")
def memes() -> tuple[PreparedData, Preprocessor]:
    """120 generated training rows, prepared at 48 pixels."""
    source = load_source("synthetic:memes", options=SourceOptions(examples=120))
    texts = (text for text in source.dataset["train"]["text"] if text)
    preprocessor = build_preprocessor(
        train_tokenizer(texts, vocabulary_size=300), ImageSpec((48, 48)), max_length=16
    )
    return prepare(source, preprocessor), preprocessor


@pytest.fixture
def tiny_model() -> FusionForClassification:
    """An untrained model whose BatchNorm statistics are not the identity."""
    torch.manual_seed(0)
    model = FusionForClassification(
        FusionConfig(
            vision={"kind": "conv_stem", "channels": [8, 12, 16]},
            image_size=(48, 48),
            vocab_size=300,
            max_text_length=16,
            hidden_size=16,
            num_hidden_layers=2,
            intermediate_size=32,
            num_labels=2,
        )
    )
    generator = np.random.default_rng(0)
    model.train()
    with torch.no_grad():
        pixels = torch.from_numpy(generator.integers(0, 256, (16, 3, 48, 48), dtype=np.uint8))
        model.embed_image(pixels)
    return model.eval()


_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
# A report runs no script itself, so another page, that holds it in a frame, looks at it.
_PROBE = """<!doctype html><meta charset="utf-8">
<iframe src="page.html" style="width: WIDTHpx; height: 3000px; border: 0"></iframe>
<pre></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const box = (item) => {
    const { left, top, right, bottom } = item.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const boxes = (names, inside = page) => [...inside.querySelectorAll(names)]
    .filter((item) => item.getBoundingClientRect().width > 0).map(box);
  const seen = SEEN;
  seen.width = page.documentElement.clientWidth;
  seen.needed = page.documentElement.scrollWidth;
  document.querySelector("pre").textContent = JSON.stringify(seen);
};
</script>
"""


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Opens a page in a headless Chromium and dumps it; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, _CHROMIUM_NAMES)), None)
    if program is None:
        pytest.skip("needs Chromium")

    def run(page: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        command = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--dump-dom", *options, page.as_uri()),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    return run


@pytest.fixture
def look_at(
    chromium: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Shows a page in a frame of a width in CSS pixels.

    Returns what a JavaScript object says of it, which may use page, box(item) and
    boxes(selector, inside), and the width that the page has and needs.
    """

    def look(html: str, width: int, seen: str = "{}") -> dict[str, Any]:
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        probe = _PROBE.replace("WIDTH", str(width)).replace("SEEN", seen)
        (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
        shown = chromium(tmp_path / "probe.html", "--allow-file-access-from-files").stdout
        answer = json.loads(unescape(shown.partition("<pre>")[2].partition("</pre>")[0]))
        assert isinstance(answer, dict)
        return answer

    return look
