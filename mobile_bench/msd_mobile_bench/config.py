"""Settings of a benchmark. Torch-free."""

from dataclasses import dataclass
from typing import Annotated

from msd_deploy.config.setting import Option, Setting, check_ranges

MOST_THREADS = 256


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """How a run's models are measured."""

    threads: Annotated[
        int, Setting("Number of CPU threads.", (1, MOST_THREADS)), Option("--threads")
    ] = 1
    runtimes: Annotated[
        tuple[str, ...],
        Setting(
            "Runtimes that the variants are measured in, with commas: native (those of this"
            " Python), web (in Chromium), arm64 (emulated), or the name of one, with :N for"
            " another number of threads."
        ),
        Option("--runtimes", default="native", metavar="NAME[:N],..."),
    ] = ("native",)
    baselines: Annotated[
        tuple[str, ...],
        Setting(
            "Published architectures that are measured beside, with commas: clip-vit-b32,"
            " siglip-base, visualbert-base, vilt-b32, mobileclip2-s0. Their weights are random:"
            " latency, memory and size only."
        ),
        Option("--baselines", default="none", metavar="NAME,..."),
    ] = ()
    rounds: Annotated[
        int,
        Setting(
            "Rounds of latency samples, each in the reverse order of models of the one before; an"
            " even number is fair to all.",
            (1, 1000),
        ),
        Option("--rounds", "Latency"),
    ] = 4
    warm_up: Annotated[
        int,
        Setting("Minimum number of warm-up predictions before each round.", (0, 10_000)),
        Option("--warm-up", "Latency"),
    ] = 10
    # A processor that was idle is slow at first.
    warm_up_seconds: Annotated[
        float,
        Setting("Minimum duration of the warm-up before each round, in seconds.", (0, 3600)),
        Option("--warm-up-seconds", "Latency"),
    ] = 0.25
    settle_seconds: Annotated[
        float,
        Setting(
            "Maximum duration of the warm-up, in seconds, while the latency of two successive"
            " blocks of 10 predictions differs by more than 2 %.",
            (0, 3600),
        ),
        Option("--settle-seconds", "Latency"),
    ] = 2.0
    runs: Annotated[
        int,
        Setting(
            "Minimum number of latency samples per model and view, over all rounds.", (5, 1_000_000)
        ),
        Option("--runs", "Latency"),
    ] = 200
    seconds: Annotated[
        float,
        Setting(
            "Minimum duration of a model's samples of image and text together, over all rounds, in"
            " seconds; of each alone a third of it.",
            (0, 36_000),
        ),
        Option("--seconds", "Latency"),
    ] = 3.0
    # A slow model then has fewer samples.
    most_seconds: Annotated[
        float,
        Setting(
            "Maximum duration of a model's samples of a view, over all rounds, in seconds; a slower"
            " model has fewer samples, which is noted.",
            (0.01, 36_000),
        ),
        Option("--most-seconds", "Latency"),
    ] = 30.0
    batch_size: Annotated[
        int,
        Setting("Batch size of the throughput measurement.", (1, 4096)),
        Option("--batch-size", "Throughput"),
    ] = 32
    batches: Annotated[
        int,
        Setting("Number of batches of the throughput measurement.", (1, 10_000)),
        Option("--batches", "Throughput"),
    ] = 8
    examples: Annotated[
        int | None,
        Setting("Number of test examples for the metrics, from the first on.", (1, 100_000_000)),
        Option("--examples", default="all"),
    ] = None

    timeout: Annotated[
        float,
        Setting("Maximum duration of one request to a runtime, in seconds.", (1, 36_000)),
        Option("--timeout"),
    ] = 600.0

    def __post_init__(self) -> None:
        check_ranges(self)


THOROUGH = BenchConfig(runs=1024, seconds=60.0, most_seconds=600.0)
"""As long as MLPerf Mobile measures a single stream: 1,024 samples and 60 s."""
