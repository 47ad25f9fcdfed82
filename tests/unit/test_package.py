# SPDX-License-Identifier: Apache-2.0
"""What is installed: from the sources that pip takes, and what Debian's package says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shadowwatch import __version__
from tests.unit.test_checks import LACKS

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.soak
def test_pip_installs_the_sources_beside_the_systems_packages(tmp_path: Path) -> None:
    """The source archive has all that a wheel needs, the wheel the BPF sources and the runbook; the command runs."""

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
    assert "KvmReclaimStorm" in run(
        "venv/bin/python", "-c", "from shadowwatch.metrics.runbook import *; print(runbook())"
    )


def test_debians_package_has_the_programs_version() -> None:
    """Its changelog says it once more, and so does the document that shows an upgrade to it."""
    newest = (CHECKOUT / "debian/changelog").read_text().splitlines()[0]
    assert re.match(r"shadowwatch \((.*)\) ", newest)[1] == __version__  # type: ignore[index]
    assert f"\nshadowwatch {__version__}…\n" in (CHECKOUT / "docs/install.md").read_text()


def test_debians_package_brings_every_document_and_example() -> None:
    """The folders whole, so that what README names is where it says, beneath one folder."""

    def listed(name: str) -> list[str]:
        return [line.split()[0] for line in (CHECKOUT / f"debian/shadowwatch.{name}").read_text().splitlines()]

    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs"} == set(listed("docs"))
    assert {"examples/*", "docs/shadowwatch.toml", "systemd/shadowwatch.socket"} == set(listed("examples"))
    assert {"dashboards/*.json", "prometheus/rules.yml"} <= set(listed("install"))
    (copied,) = re.findall(
        r"^\t@cp -a ((?:.*\\\n)*.*) dist/shadowwatch$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE
    )
    needed = {path.split("/")[0] for name in ("docs", "examples", "install") for path in listed(name)} - {"debian"}
    assert needed <= set(re.findall(r"[\w.]+", copied))


def test_debians_package_brings_what_the_doctor_would_ask_for() -> None:
    """Every Python package that is named as a cure is a dependency, and headers are recommended."""
    control = (CHECKOUT / "debian/control").read_text()
    cures = {name for _, said in LACKS for name in re.findall(r"apt install (python3-\w+)", said)} | {"libseccomp2"}
    assert "python3-bpfcc" in cures
    (depends,) = re.findall(r"^Depends:\n((?: .*\n)+)", control, re.MULTILINE)
    assert cures <= set(re.findall(r"[\w-]+", depends))
    assert "\nRecommends: linux-headers-amd64" in control


def test_debians_package_knows_every_package_that_a_message_asks_for() -> None:
    """What only some need is suggested: YAML and bcrypt for a web.config file, matplotlib to plot, Graphviz for SVG.

    And what saves time: ISA-L, which no message asks for.
    """
    sources = "".join(path.read_text() for path in (CHECKOUT / "shadowwatch").rglob("*.py"))
    asked = set(re.findall(r"apt install ([\w-]+\w)", sources)) - {"linux-headers"}
    control = (CHECKOUT / "debian/control").read_text()
    (suggested,) = re.findall(r"^Suggests: (.*)", control, re.MULTILINE)
    optional = {"python3-yaml", "python3-bcrypt", "python3-matplotlib", "graphviz"}
    assert set(suggested.split(", ")) - {"python3-isal"} == optional < asked
    assert asked <= set(re.findall(r"[\w-]+", control))
