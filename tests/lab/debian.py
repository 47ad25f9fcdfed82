# SPDX-License-Identifier: Apache-2.0
"""Debian's packages of any suite, from the mirror that this machine's apt is configured to take them from."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.lab.archive import PART, Index, index
from tests.lab.cache import Cache, Progress
from tests.lab.command import PATH, child, output, require, tail
from tests.lab.errors import ArchiveError, LabError

T = TypeVar("T")
CURE = "see to the network, or have apt take another mirror"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FRESH_SECONDS = 24 * 3600.0
# apt's configuration besides the machine's own: state and sources of its own, and nothing installed. A person waits,
# so an archive that is not there is given up soon, unless the machine's own configuration says otherwise.
CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
Acquire::Retries "1";
Acquire::http::Timeout "15";
Acquire::https::Timeout "15";
"""
# What apt says of each package that it would install.
INSTALLED = re.compile(r"^Inst (\S+) \((\S+)", re.MULTILINE)
# No documentation, and no translation: nobody reads them in a lab.
EXCLUDED = ("doc", "info", "locale", "man", "icons", "iso-codes", "bash-completion", "zsh")


class Apt:
    """The packages that the lines of a sources.list lead to, whatever release this machine itself runs."""

    def __init__(self, cache: Cache, name: str, lines: str) -> None:
        require("apt-get")
        self._cache = cache
        self._name = f"apt-{name}"
        self._folder = cache.root.resolve() / self._name
        self._lines = lines
        self._environment = {"APT_CONFIG": str(self._folder / "apt.conf")}
        #: Why the archive could not be asked, so that what is known of it is old.
        self.failure: ArchiveError | None = None
        stamp = self._stamp
        known = stamp.exists() and stamp.read_text() == lines
        if known and time.time() - stamp.stat().st_mtime < FRESH_SECONDS:
            return
        try:
            self.refresh()
        except ArchiveError as error:
            if not known:
                raise
            self.failure = error

    @property
    def places(self) -> str:
        """Where the packages come from, for people."""
        words = [re.sub(r"\[.*?\] ?", "", line).split() for line in self._lines.splitlines()]
        return ", ".join(" ".join(line[1:3]) for line in words)

    @property
    def _stamp(self) -> Path:
        return self._folder / "updated"

    def refresh(self) -> None:
        """Ask the archive what it has; it is asked once a day without that: a new kernel of Debian's is a new lab."""
        with self._cache.locked(self._name):
            for part in ("state/lists/partial", "cache/archives/partial"):
                (self._folder / part).mkdir(parents=True, exist_ok=True)
            (self._folder / "apt.conf").write_text(CONFIGURATION.format(folder=self._folder))
            (self._folder / "sources.list").write_text(self._lines)
            self._ask(["apt-get", "update", "--error-on=any"])
            self._stamp.write_text(self._lines)

    def fetch(self, get: Callable[[], T]) -> T:
        """Return what `get` gets; if the archive fails it, what it gets when the archive has been asked again.

        What is known of an archive may be a day old, and is old a minute after the archive has changed.
        """
        try:
            return get()
        except ArchiveError as error:
            self._cache.progress(f"packages: asking the archive once more, since {error.what}")
            self.refresh()
        return get()

    def show(self, package: str, field: str) -> str:
        """Return one field of what is known of a package: of its newest version, or of NAME=VERSION."""
        command = ["apt-cache", "show", "--no-all-versions", package]
        found = re.search(rf"^{field}: (.*)", output(command, env=self._environment), re.MULTILINE)
        return found[1] if found else ""

    def kernels(self) -> Index:
        """Return all versions of all packages that kernels and their sources consist of."""
        names = output(["apt-cache", "pkgnames", "linux-"], env=self._environment).split()
        wanted = [name for name in names if PART.fullmatch(name) or name.startswith("linux-source-")]
        return index(output(["apt-cache", "show", *wanted], env=self._environment)) if wanted else {}

    def resolved(self, package: str) -> dict[str, str]:
        """Return a package and all that it depends on, of each its name and version, as apt would install them."""
        command = ["apt-get", "install", "--simulate", "--no-install-recommends", package]
        return dict(INSTALLED.findall(self._ask(command)))

    def download(self, folder: Path, packages: Mapping[str, str]) -> None:
        """Put packages, of each its name and version, into a folder."""
        self._ask(["apt-get", "download", *(f"{name}={version}" for name, version in packages.items())], folder)

    def unpack(self, folder: Path, packages: Mapping[str, str]) -> None:
        """Unpack packages, of each its name and version, into a folder, as a system with a merged /usr has them."""
        shutil.rmtree(folder, ignore_errors=True)  # what a download that failed has left
        folder.mkdir()
        self.download(folder, packages)
        for package in folder.glob("*.deb"):
            output(["dpkg-deb", "-x", package, folder])
            package.unlink()
        if (folder / "lib").is_dir():
            shutil.copytree(folder / "lib", folder / "usr/lib", symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder / "lib")
        (folder / "lib").symlink_to("usr/lib")

    def _ask(self, command: list[str], folder: Path | None = None) -> str:
        try:
            return output(command, cwd=folder, env=self._environment)
        except LabError as error:
            raise ArchiveError(str(error), CURE) from None


def sources(suites: Sequence[str]) -> str:
    """Return the lines of a sources.list for these suites."""
    template = "$(RELEASE) $(REPO_URI)"
    shown = output(["apt-get", "indextargets", "--format", template, "Created-By: Packages", "Origin: Debian"])
    known = [line.split() for line in shown.splitlines()]
    uris = {release.endswith("-security"): uri for release, uri in reversed(known)}
    if False not in uris:
        raise ArchiveError("apt on this machine knows no mirror of Debian", "add its sources, then apt-get update")
    lines = []
    for suite in suites:
        # The security archive is beside the other wherever one does not know better.
        uri = uris.get(suite.endswith("-security"), f"{uris[False].rstrip('/')}-security")
        lines.append(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
    return "".join(lines)


def bootstrap(cache: Cache, what: str, suites: Sequence[str], packages: Sequence[str], hooks: Sequence[str]) -> None:
    """Install packages of these suites in a folder that only the hooks, mmdebstrap's own, ever see.

    It works for a user other than root where the system lets it.
    """
    require("mmdebstrap")
    # With nothing mounted in it, the folder goes into an image as it stands, and an interrupted run leaves no mount.
    # Root can make the devices that packages ask for; for others mmdebstrap mounts them where nobody else sees it.
    mounts = ["chroot/mount"] if os.geteuid() == 0 else ["chroot/mount/proc", "chroot/mount/sys"]
    with tempfile.TemporaryDirectory(prefix="shadowwatch-bootstrap-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # in a user namespace of its own mmdebstrap is somebody else
        listing, options = Path(folder, "sources.list"), Path(folder, "apt.conf")
        listing.write_text(sources(suites))
        options.write_text(_options())
        command = [
            *("mmdebstrap", "--verbose", "--variant=apt", "--format=null", f"--include={','.join(packages)}"),
            *(f"--skip={part}" for part in [*mounts, "cleanup"]),
            *('--aptopt=APT::Install-Recommends "false"', f"--aptopt={options}"),
            "--dpkgopt=force-unsafe-io",  # what a power cut leaves of it is made again anyway
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
            *(f"--customize-hook={hook}" for hook in hooks),
            *(suites[0], "/dev/null", str(listing)),
        ]
        _watched(cache.progress, what, command, {**os.environ, "LC_ALL": "C", "PATH": PATH, "TMPDIR": folder})


def _watched(progress: Progress, what: str, command: list[str], environment: dict[str, str]) -> None:
    """Run mmdebstrap and pass on how far it is; nothing of it goes on when this is interrupted."""
    said = []
    with child(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as run:
        for line in run.stdout or ():
            said.append(line)
            if shown := _worth_saying(line):
                progress(f"{what}: {shown}")
    if run.returncode:
        unfetched = re.search(r"^(Err:|[EW]: Failed to fetch)", "".join(said), re.MULTILINE)
        what = f"mmdebstrap exited {run.returncode}: {tail(''.join(said), 12)}"
        raise ArchiveError(what, CURE) if unfetched else LabError(what)


def _worth_saying(line: str) -> str:
    """Return what a person who waits would like to know."""
    if found := re.search(r"(\d+) newly installed", line):
        return f"{found[1]} packages"
    if found := re.search(r"Need to get ([^/]+?)(?:/\S+ \S+)? of archives", line):
        return f"downloading {found[1]}"
    if line.startswith(("I: installing", "I: extracting")):
        return line[3:].strip()
    return ""


def _options() -> str:
    """Return how this machine's apt reaches its sources: proxies, certificates and what it checks."""
    shown = output(["apt-config", "dump", "--no-empty", "--format", '%f "%v";%n'])
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
    return "".join(f"{line}\n" for line in shown.splitlines() if line.startswith(wanted))
