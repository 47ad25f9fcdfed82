# SPDX-License-Identifier: Apache-2.0
"""Debian's packages of any suite, from the mirror that this machine's apt is configured to take them from."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.archive import PART, Index, index
from tests.lab.cache import Cache, Progress
from tests.lab.command import PATH, output, require, tail
from tests.lab.errors import LabError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FRESH_SECONDS = 24 * 3600.0
# apt's configuration besides the machine's own: state and sources of its own, and nothing installed.
CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
"""
# What apt says of each package that it would install.
INSTALLED = re.compile(r"^Inst (\S+) \((\S+)", re.MULTILINE)
# No documentation, and no translation: nobody reads them in a lab.
EXCLUDED = ("doc", "info", "locale", "man", "icons", "iso-codes", "bash-completion", "zsh")


class Apt:
    """The packages of some suites, whatever release this machine itself runs."""

    def __init__(self, cache: Cache, name: str, suites: Sequence[str]) -> None:
        require("apt-get")
        self._folder = cache.root.resolve() / f"apt-{name}"
        self._environment = {"APT_CONFIG": str(self._folder / "apt.conf")}
        with cache.locked(f"apt-{name}"):
            self._refresh(cache.progress, sources(suites))

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
        return dict(INSTALLED.findall(output(command, env=self._environment)))

    def unpack(self, folder: Path, packages: Mapping[str, str]) -> None:
        """Unpack packages, of each its name and version, into a folder, as a system with a merged /usr has them."""
        folder.mkdir(exist_ok=True)
        command = ["apt-get", "download", *(f"{name}={version}" for name, version in packages.items())]
        output(command, cwd=folder, env=self._environment, cure=f"after rm -r {self._folder} apt asks the mirror anew")
        for package in folder.glob("*.deb"):
            output(["dpkg-deb", "-x", package, folder])
            package.unlink()
        if (folder / "lib").is_dir():
            shutil.copytree(folder / "lib", folder / "usr/lib", symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder / "lib")
        (folder / "lib").symlink_to("usr/lib")

    def _refresh(self, progress: Progress, lines: str) -> None:
        """Ask the mirror what it has, unless that was lately: a new kernel of Debian's is a new lab."""
        stamp = self._folder / "updated"
        known = stamp.exists() and stamp.read_text() == lines
        if known and time.time() - stamp.stat().st_mtime < FRESH_SECONDS:
            return
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "apt.conf").write_text(CONFIGURATION.format(folder=self._folder))
        (self._folder / "sources.list").write_text(lines)
        try:
            output(["apt-get", "update", "--error-on=any"], env=self._environment)
        except LabError as error:
            if not known:
                raise
            progress(f"packages: those of {time.ctime(stamp.stat().st_mtime)}, since {error}")
        else:
            stamp.write_text(lines)


def sources(suites: Sequence[str]) -> str:
    """Return the lines of a sources.list for these suites."""
    template = "$(RELEASE) $(REPO_URI)"
    shown = output(["apt-get", "indextargets", "--format", template, "Created-By: Packages", "Origin: Debian"])
    known = [line.split() for line in shown.splitlines()]
    uris = {release.endswith("-security"): uri for release, uri in reversed(known)}
    if False not in uris:
        raise LabError("apt on this machine knows no mirror of Debian: add its sources, then apt-get update")
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
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
            *(f"--customize-hook={hook}" for hook in hooks),
            *(suites[0], "/dev/null", str(listing)),
        ]
        _watched(cache.progress, what, command, {**os.environ, "LC_ALL": "C", "PATH": PATH, "TMPDIR": folder})


def _watched(progress: Progress, what: str, command: list[str], environment: dict[str, str]) -> None:
    """Run mmdebstrap and pass on how far it is; nothing of it goes on when this is interrupted."""
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as run:
        try:
            for line in run.stdout or ():
                said.append(line)
                if shown := _worth_saying(line):
                    progress(f"{what}: {shown}")
        except BaseException:
            os.killpg(run.pid, signal.SIGKILL)
            raise
    if run.returncode:
        raise LabError(f"mmdebstrap exited {run.returncode}: {tail(''.join(said), 12)}")


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
