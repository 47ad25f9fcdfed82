# SPDX-License-Identifier: Apache-2.0
"""`make release`, in a clone that is thrown away."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shadowwatch import __version__

CHECKOUT = Path(__file__).parents[2]
#: What holds the version in the sources and in the package together, as the check of a release.
CHECK = f"{sys.executable} -m pytest -q -p no:cacheprovider tests/unit/test_package.py -k programs_version"


def git(folder: Path, *words: str) -> str:
    """Run git there."""
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as it is now, committed."""
    files = git(CHECKOUT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    present = "\0".join(file for file in files if file and (CHECKOUT / file).exists())
    folder = tmp_path_factory.mktemp("committed")
    packed = subprocess.run(
        ["tar", "--create", "--null", "--files-from=-"],
        cwd=CHECKOUT,
        input=present.encode(),
        capture_output=True,
        check=True,
    )
    subprocess.run(["tar", "--extract"], cwd=folder, input=packed.stdout, check=True)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture
def clone(committed: Path, tmp_path: Path) -> Path:
    """One to make a release in."""
    return cloned(committed, tmp_path / "clone")


@pytest.fixture(scope="module")
def untouched(committed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that no test changes."""
    return cloned(committed, tmp_path_factory.mktemp("untouched") / "clone")


def cloned(committed: Path, folder: Path) -> Path:
    """A clone there, in which one can commit."""
    git(committed, "clone", "--quiet", "--shared", ".", str(folder))
    for key, value in (("user.name", "a"), ("user.email", "a@example.org")):
        git(folder, "config", key, value)
    return folder


def release(folder: Path, *words: str, check: str = "true") -> subprocess.CompletedProcess[str]:
    """What make does."""
    command = [sys.executable, "release.py", *words, "--check", check]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.soak
def test_a_release_has_its_version_everywhere_a_commit_and_a_tag(clone: Path) -> None:
    """Checked with the new version, which stands wherever the old one stood; what was unreleased is dated."""
    done = release(clone, "9.8.7", check=CHECK)
    assert (done.returncode, done.stderr) == (0, "")
    assert git(clone, "describe") == "v9.8.7\n"
    assert git(clone, "log", "-1", "--format=%s") == "release: 9.8.7\n"
    assert git(clone, "status", "--porcelain") == ""
    left = git(clone, "grep", "--fixed-strings", "--files-with-matches", __version__).split()
    assert {path for path in left if not path.startswith(("patches/", "docs/experiment"))} == {
        "CHANGELOG.md",
        "debian/changelog",
    }
    changelog = (clone / "CHANGELOG.md").read_text()
    before = (CHECKOUT / "CHANGELOG.md").read_text()
    assert re.search(r"^## Unreleased\n\n## 9\.8\.7 \(\d{4}-\d\d-\d\d\)\n\n- ", changelog, re.MULTILINE)
    assert re.findall("^- .*", changelog, re.MULTILINE) == re.findall("^- .*", before, re.MULTILINE)
    parsed = subprocess.run(
        ["dpkg-parsechangelog", "--file", clone / "debian/changelog"], capture_output=True, text=True, check=True
    )
    assert parsed.stderr == ""
    assert "\nVersion: 9.8.7\n" in parsed.stdout


@pytest.mark.parametrize(
    ("words", "check", "said"),
    [
        ((), "true", "no VERSION is not a version; give VERSION=x.y.z"),
        (("1.2",), "true", "1.2 is not a version; give VERSION=x.y.z"),
        ((__version__,), "true", f"{__version__} is not above {__version__}; give a higher VERSION"),
        (("9.8.7",), "false", "`false` failed; fix that first"),
    ],
)
def test_no_release_changes_nothing(untouched: Path, words: tuple[str, ...], check: str, said: str) -> None:
    """And says why in one line."""
    before = git(untouched, "rev-parse", "HEAD")
    done = release(untouched, *words, check=check)
    assert (done.returncode, done.stderr) == (1, f"release: {said}\n")
    assert git(untouched, "status", "--porcelain") == ""
    assert (git(untouched, "rev-parse", "HEAD"), git(untouched, "tag")) == (before, "")


def test_what_is_not_committed_is_kept(clone: Path) -> None:
    """A release begins with a clean checkout; it does not make one."""
    (clone / "README.md").write_text("mine\n")
    done = release(clone, "9.8.7")
    assert done.stderr.startswith("release: the checkout has changes; commit them")
    assert (clone / "README.md").read_text() == "mine\n"
