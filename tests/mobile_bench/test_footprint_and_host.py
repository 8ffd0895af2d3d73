import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from msd_mobile_bench import footprint
from msd_mobile_bench.footprint import peak_rss_bytes, rss_bytes
from msd_mobile_bench.host import describe_host


def test_the_peak_is_at_least_what_is_held_now() -> None:
    assert peak_rss_bytes() >= 0.9 * rss_bytes() > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux passes the peak on")
def test_the_peak_of_a_new_process_is_not_that_of_the_process_that_started_it() -> None:
    ballast = b"x" * 300_000_000
    script = "from msd_mobile_bench.footprint import peak_rss_bytes as peak; print(peak())"
    folder = Path(footprint.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(ballast) > int(done.stdout) > 1_000_000


def test_the_host_names_processor_system_and_versions_but_neither_machine_nor_user() -> None:
    host = describe_host()
    assert host["cpu"]
    assert host["memory_bytes"] > 100_000_000
    assert host["versions"]["numpy"]
    told = json.dumps(host)
    assert str(Path.home()) not in told
    if len(platform.node()) > 4:  # "vm" may stand anywhere
        assert platform.node() not in told
