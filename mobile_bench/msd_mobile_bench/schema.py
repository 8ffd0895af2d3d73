"""The content of bench.json, typed: names and units of what is measured.

Shares (metrics, agreement, ratios) are fractions 0..1. Typed dictionaries, so that a report can be
made from the file of an earlier benchmark.
"""

from typing import Literal, TypedDict

from msd_deploy.confidence import ConfidenceJson
from msd_deploy.decision_quality import DecisionsJson
from msd_deploy.operating_point import Expected
from msd_deploy.pages.formatting import ScoreJson

ModelRole = Literal["teacher", "student"]
RowRole = Literal["teacher", "student", "baseline"]
"""Of a row: a baseline is a published architecture with random weights, which has no accuracy."""
Status = Literal["measured", "accuracy_only", "runtime_missing", "crashed", "timed_out", "invalid"]
"""Of a row: whether it has all figures, those of accuracy alone, or none, and why."""
FAILED: tuple[Status, ...] = ("crashed", "timed_out", "invalid")
BENCH_SCHEMA_VERSION = 2
"""Of bench.json: since 2 a row has a runtime and a number of threads, and a status."""


class Distribution(TypedDict):
    """Milliseconds, over the samples of all rounds, `count` of them, and some samples of each.

    p50_interval is a 95 % bootstrap interval over rounds and samples.
    """

    count: int
    p50: float
    p50_interval: list[float]
    p90: float
    p95: float
    p99: float
    min: float
    max: float
    mean: float
    std: float
    p50_per_round: list[float]
    samples: list[list[float]]


class Row(TypedDict):
    """One model in one variant, in one runtime with a number of threads.

    None, or empty, for what was not measured; `note` has the reason and what to do. name is that of
    the variant, key that of the row. path is relative to the run, empty of a baseline.
    size_compressed_bytes is of the model in a zip file, as app packages are. latency_ms is of image
    and text together, single_view_latency_ms of one alone, by view. relative_p50 is the median
    latency divided by that of the control kernel in the same turns, and repeated_turns how many of
    them were measured again; flags are what makes its latency doubtful, a sentence each.
    peak_rss_bytes is that of a new process during single predictions; the increase is counted from
    before the model was opened, with its runtime loaded. confidence is empty where no test example
    has a label, decisions also of a model without an operating point.
    """

    key: str
    name: str
    model: RowRole
    target: str
    precision: str
    runtime: str
    runtime_key: str
    threads: int
    status: Status
    path: str
    digest: str
    size_bytes: int
    size_compressed_bytes: int
    parameters: int | None
    load_time_ms: float | None
    first_ms: float | None
    latency_ms: Distribution | None
    single_view_latency_ms: dict[str, Distribution]
    relative_p50: float | None
    repeated_turns: int
    flags: list[str]
    throughput_per_second: float | None
    throughput_batch_size: int | None
    throughput_batch_ms: list[float]
    rss_before_load_bytes: int | None
    peak_rss_bytes: int | None
    peak_rss_increase_bytes: int | None
    scores: dict[str, ScoreJson]
    agreement: dict[str, float]
    confidence: dict[str, ConfidenceJson]
    decisions: dict[str, DecisionsJson]
    note: str | None


class Conditions(TypedDict, total=False):
    """What a platform says of its device; what it does not say is left out.

    thermal is one of none, light, moderate, severe, critical; battery is 0..1; hidden is of a web
    page.
    """

    thermal: str
    battery: float
    charging: bool
    low_power: bool
    hidden: bool


class AppRow(TypedDict):
    """What `benchmark()` of a bundle measured of a variant in an app, on its device.

    name is that of the variant's row. latency_ms is of inference alone, by view; stages_ms of whole
    classifications of one photo and text; load_time_ms of all that loading takes, digests included.
    """

    name: str
    target: str
    precision: str
    file_digest: str
    bundle_digest: str
    export_digest: str
    platform: str
    device: str
    system: str
    cores: int
    runtime: str
    threads: int | None
    measured_utc: str
    load_time_ms: float | None
    first_ms: float | None
    clock_step_ms: float
    latency_ms: dict[str, Distribution]
    stages_ms: dict[str, Distribution]
    photo: dict[str, int]
    conditions: dict[str, Conditions]


class OperatingPointFacts(TypedDict):
    """How a model's operating point was chosen, and what it gave on validation, by view."""

    rule: str
    expected: dict[str, Expected]


class Control(TypedDict):
    """The control kernel: its median per round over all turns, and slowest turn / fastest turn.

    repeated_turns were measured again since the kernel was slow in them.
    """

    kernel: str
    p50_ms_per_round: list[float]
    host_drift: float
    repeated_turns: int


class Host(TypedDict):
    """The machine and what is installed on it."""

    cpu: str
    instructions: list[str]
    logical_cores: int
    physical_cores: int | None
    memory_bytes: int
    os: str
    python: str
    versions: dict[str, str]
    load_average_1min: float | None


class Ratios(TypedDict):
    """Student divided by teacher, both in the same variant."""

    form: str
    parameters: float | None
    size: float
    latency: float | None
    metric: float | None


class DataFacts(TypedDict):
    """What the metrics were measured on."""

    name: str
    split: str
    examples: int
    digest: str


class Change(TypedDict):
    """What changed of a row since an earlier benchmark.

    slowdown is a fraction of the earlier median latency, both in control kernels, with the least
    and the most that the intervals of both allow; drops are percentage points by view; reasons why
    the row counts as worse, none if it does not.
    """

    key: str
    slowdown: float | None
    slowdown_interval: list[float] | None
    drops: dict[str, float]
    reasons: list[str]


class Against(TypedDict):
    """The comparison with an earlier benchmark; drops are of the same examples alone."""

    created_utc: str
    max_slowdown: float
    max_drop: float
    has_same_data: bool
    changes: list[Change]


class Bench(TypedDict):
    """bench.json."""

    schema_version: int
    kind: str
    msd_deploy: str
    created_utc: str
    run: str
    command: str
    config: dict[str, object]
    data: DataFacts
    metric: str
    host: Host
    control: Control
    operating_points: dict[ModelRole, OperatingPointFacts]
    rows: list[Row]
    apps: list[AppRow]
    ratios: Ratios
    against: Against | None
    notes: list[str]
