# SPDX-License-Identifier: Apache-2.0
"""What is installed: from the sources that pip takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shadowwatch import __version__

CHECKOUT = Path(__file__).parents[2]


def test_pip_installs_the_sources_beside_the_systems_packages(tmp_path: Path) -> None:
    """The source archive has all that a wheel is made of, the wheel the BPF sources, and the command runs."""

    def run(*words: str | Path) -> str:
        return subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    hatchling = Path(sys.executable).parent / "hatchling"
    subprocess.run([hatchling, "build", "-t", "sdist", "-d", tmp_path], cwd=CHECKOUT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    run("/usr/bin/python3", "-m", "venv", "--system-site-packages", "venv")
    # Without a registry: Debian's hatchling makes the wheel.
    run("venv/bin/pip", "install", "--no-index", "--no-deps", "--no-build-isolation", archive)
    assert run("venv/bin/shadowwatch", "--version") == f"shadowwatch {__version__}\n"
    code = "from shadowwatch.probe.attach import source_folder as f; print(f(), *sorted(p.name for p in f().iterdir()))"
    folder, *names = run("venv/bin/python", "-c", code).split()
    assert folder.startswith(str(tmp_path))
    assert names == sorted(path.name for path in (CHECKOUT / "bpf").iterdir())
