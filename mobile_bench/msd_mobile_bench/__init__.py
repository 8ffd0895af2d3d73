"""Measurement of every exported variant of a model: latency, memory, size and accuracy."""

from msd_mobile_bench.api import bench, import_apps
from msd_mobile_bench.config import BenchConfig

__all__ = ["BenchConfig", "bench", "import_apps"]
