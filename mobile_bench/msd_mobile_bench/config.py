"""Settings of a benchmark. Torch-free."""

from dataclasses import dataclass
from typing import Annotated

from msd_deploy.config.setting import Option, Setting, check_ranges


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """How a run's models are measured."""

    threads: Annotated[int, Setting("Number of CPU threads.", (1, 256)), Option("--threads")] = 1
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
    samples: Annotated[
        int,
        Setting("Latency samples per model, view and round, one example each.", (5, 1_000_000)),
        Option("--samples", "Latency"),
    ] = 100
    # A slow model then has fewer samples.
    round_seconds: Annotated[
        float,
        Setting(
            "Maximum duration of a model's samples of a view in a round, in seconds.", (0.01, 3600)
        ),
        Option("--round-seconds", "Latency"),
    ] = 1.5
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

    def __post_init__(self) -> None:
        check_ranges(self)
