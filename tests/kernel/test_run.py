# SPDX-License-Identifier: Apache-2.0
"""`make run` without a terminal: an address, a summary, and a clean end when asked."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil

from tests.lab.machine import CHECKOUT
from tests.lab.scrape import Metrics, scrape_until

SECONDS = 300


def test_it_publishes_metrics_and_leaves_nothing_behind() -> None:
    """The RFC's guests thrash, the real Linux is there, SIGINT ends all of it, and the exit code is 0."""
    command = [sys.executable, "-m", "tests.lab", "run"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        port = int(address.removesuffix("/metrics").rpartition(":")[2])

        def all_there(metrics: Metrics) -> bool:
            return metrics.sum("allocations_total", vm="linux") > 0

        metrics = scrape_until(port, all_there, SECONDS)
        for vm in ("rfc-zipf", "rfc-hotset"):
            assert metrics.sum("recently_parented_zaps_total", vm=vm) > 0
        started = psutil.Process(process.pid).children(recursive=True)
        assert any("qemu" in child.name() for child in started)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "rfc-zipf: " in rest
    assert psutil.wait_procs(started, timeout=10)[1] == []
