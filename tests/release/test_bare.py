# SPDX-License-Identifier: Apache-2.0
"""README's two commands on each Debian release with next to nothing installed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.lab.scrape import Metrics, scrape_until
from tests.release.root import RELEASES, Root, bare

#: For what is not in question here: a machine that is busy, and a mirror that is far.
FIRST_SECONDS = 3600.0
REAL_SECONDS = 600.0
END_SECONDS = 120.0
#: Of what a run that failed has said.
LAST_LINES = 60


@pytest.fixture(params=RELEASES)
def root(request: pytest.FixtureRequest) -> Iterator[Root]:
    """A bare root of the release, with this checkout in it."""
    if os.geteuid():
        pytest.skip("only root can enter a root file system of another release")
    with bare(request.param) as made:
        yield made


@pytest.mark.soak
def test_make_run_shows_metrics_of_all_guests(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    """The first time and the next, of the real Linux, too; SIGINT ends it, and no process and no folder is left."""
    for which in ("first", "next"):
        begun = time.monotonic()
        with root.popen("exec make run") as process:
            try:
                said, port = _published(process)
                shown = time.monotonic() - begun
                scrape_until(port, _all_there, REAL_SECONDS)
                real = time.monotonic() - begun
            finally:
                os.killpg(process.pid, signal.SIGINT)
                rest, _ = process.communicate(timeout=END_SECONDS)
        with capsys.disabled():
            name, load = root.path.parent.name, os.getloadavg()[0]
            print(f"\n{name}: {which} metrics after {shown:.0f} s, those of linux after {real:.0f} s; load {load:.1f}")
        assert "linux: reclaimed" in rest, said + rest
        assert "left running" not in rest, said + rest
        assert not [*root.path.glob("tmp/shadowwatch-*")]


@pytest.mark.soak
def test_make_test_passes(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    """The unit tier on that release's own Python and libraries, and the lab's proofs."""
    begun = time.monotonic()
    with root.popen("exec make test") as process:
        said, _ = process.communicate()
    with capsys.disabled():
        name, load = root.path.parent.name, os.getloadavg()[0]
        print(f"\n{name}: make test took {time.monotonic() - begun:.0f} s; load {load:.1f}")
    assert process.returncode == 0, "\n".join(said.splitlines()[-LAST_LINES:])
    assert "left running" not in said


def _published(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Return what was said until the address of the metrics, and its port."""
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if line.startswith("http://"):
            return said, int(line.strip().removesuffix("/metrics").rpartition(":")[2])
    raise AssertionError(f"make run ended without metrics: {said}")


def _all_there(metrics: Metrics) -> bool:
    """Whether the guests that are to thrash do, and the real one is past its firmware, which takes some fifty pages."""
    thrash = all(metrics.sum("recently_parented_zaps_total", vm=vm) > 0 for vm in ("rfc-zipf", "rfc-hotset"))
    return thrash and metrics.sum("allocations_total", vm="linux") > 1_000
