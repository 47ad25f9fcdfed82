# SPDX-License-Identifier: Apache-2.0
"""`make release VERSION=x.y.z`: write the version wherever it stands, check, commit and tag."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

ROOT = Path(__file__).parent
#: The one place that the program takes it from, …
SOURCE = ROOT / "shadowwatch/__init__.py"
#: … and what shows it to people, or shows what the program shows.
SHOWN = ("docs/install.md", "examples/kubernetes/daemonset.yml", "tests/golden/metrics*.txt")
CHANGELOG, DEBIAN = ROOT / "CHANGELOG.md", ROOT / "debian/changelog"
UNRELEASED = "## Unreleased\n"

Version = tuple[int, ...]


class ReleaseError(Exception):
    """Why there is no release, and what to do about it."""


def parse(text: str) -> Version:
    """x.y.z as numbers."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise ReleaseError(f"{text or 'no VERSION'} is not a version; give VERSION=x.y.z")
    return tuple(map(int, text.split(".")))


def current() -> str:
    """The version that the sources have."""
    (found,) = re.findall(r'^__version__ = "(.*)"$', SOURCE.read_text(), re.MULTILINE)
    return str(found)


def bump(old: str, new: str, now: datetime) -> None:
    """Write the new version wherever the old one stands, and date what has changed."""
    head, unreleased, rest = CHANGELOG.read_text().partition(UNRELEASED)
    changes, _, older = rest.partition("\n## ")
    if not unreleased or not changes.strip():
        raise ReleaseError("CHANGELOG.md has nothing under Unreleased; say there what a user notices")
    CHANGELOG.write_text(f"{head}{UNRELEASED}\n## {new} ({now:%Y-%m-%d})\n{changes}\n## {older}")
    (maintainer,) = re.findall(r"^Maintainer: (.*)$", (ROOT / "debian/control").read_text(), re.MULTILINE)
    entries = re.sub(r"^- ", "  * ", re.sub(r"^  ", "    ", changes.strip(), flags=re.MULTILINE), flags=re.MULTILINE)
    entry = f"shadowwatch ({new}) unstable; urgency=medium\n\n{entries}\n\n -- {maintainer}  {format_datetime(now)}\n\n"
    DEBIAN.write_text(entry + DEBIAN.read_text())
    for path in (SOURCE, *(path for pattern in SHOWN for path in sorted(ROOT.glob(pattern)))):
        path.write_text(path.read_text().replace(old, new))


def git(*words: str) -> str:
    """Run git here, and return what it says."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def release(new: str, check: str) -> None:
    """Make the release, or raise ReleaseError and leave everything as it was."""
    old = current()
    if parse(new) <= parse(old):
        raise ReleaseError(f"{new} is not above {old}; give a higher VERSION")
    if git("status", "--porcelain"):
        raise ReleaseError("the checkout has changes; commit them, or put them aside with `git stash`")
    if git("tag", "--list", f"v{new}"):
        raise ReleaseError(f"the tag v{new} exists; give a higher VERSION")
    try:
        bump(old, new, datetime.now(UTC))
        if subprocess.run(shlex.split(check), cwd=ROOT, check=False).returncode:
            raise ReleaseError(f"`{check}` failed; fix that first")
        git("commit", "--quiet", "--all", "--message", f"release: {new}")
        git("tag", "--annotate", f"v{new}", "--message", f"shadowwatch {new}")
    finally:
        git("reset", "--quiet", "--hard")  # of a release that was made nothing is left to reset


def main() -> int:
    """Say what was done, or why not."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("version", nargs="?", default="")
    arguments.add_argument("--check", default="make unit", help="what must pass with the new version")
    given = arguments.parse_args()
    try:
        release(given.version, given.check)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"release: v{given.version} is committed and tagged; push it when `make soak` has passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
