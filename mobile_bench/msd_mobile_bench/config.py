"""Settings of a benchmark. Torch-free."""

from dataclasses import dataclass

from msd_deploy.config.parsing import check_range


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """How a run's models are measured."""

    threads: int = 1
    """CPU threads of each model."""
    rounds: int = 4
    """Times that every model's latency is sampled; even, so that both orders count the same."""
    warm_up: int = 10
    """Least predictions before the samples of a round; they do not count."""
    warm_up_seconds: float = 0.25
    """Least seconds of them: a processor that waited is slow at first."""
    samples: int = 100
    """Latency samples of a model in a round, one example each."""
    round_seconds: float = 1.5
    """Most seconds that a model's samples in a round take; a slow model then has fewer of them."""
    batch_size: int = 32
    """Rows a batch for throughput."""
    batches: int = 8
    """Batches that are timed for throughput."""
    examples: int | None = None
    """Test examples for the metrics, from the first on; None: all."""

    def __post_init__(self) -> None:
        check_range("bench.threads", self.threads, 1, 256)
        check_range("bench.rounds", self.rounds, 1, 1000)
        check_range("bench.warm_up", self.warm_up, 0, 10_000)
        check_range("bench.warm_up_seconds", self.warm_up_seconds, 0.0, 3600.0)
        check_range("bench.samples", self.samples, 5, 1_000_000)
        check_range("bench.round_seconds", self.round_seconds, 0.01, 3600.0)
        check_range("bench.batch_size", self.batch_size, 1, 4096)
        check_range("bench.batches", self.batches, 1, 10_000)
        check_range("bench.examples", self.examples, 1, 100_000_000)
