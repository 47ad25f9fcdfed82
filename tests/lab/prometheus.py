# SPDX-License-Identifier: Apache-2.0
"""Debian's own Prometheus: unpacked, not installed, so that no service of that name starts on this machine."""

from pathlib import Path

from tests.lab.cache import Cache, default_root
from tests.lab.command import output
from tests.lab.hosts import DEFAULT, HOSTS
from tests.lab.kernel import packages
from tests.lab.machine import quiet

PACKAGE = "prometheus"


def prepare() -> Path:
    """Return a folder with the programs prometheus and promtool, made when it is not in the cache."""
    cache = Cache(default_root(), quiet)
    apt = packages(cache, HOSTS[DEFAULT])
    version = apt.show(PACKAGE, "Version")
    folder = cache.artifact(PACKAGE, [version], lambda folder: apt.unpack(folder, version, [PACKAGE]))
    return folder / "usr/bin"


def promtool(*words: str | Path) -> str:
    """Return what promtool says; LabError with its last words when it is not content."""
    return output([prepare() / "promtool", *words])
