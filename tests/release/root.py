# SPDX-License-Identifier: Apache-2.0
"""A Debian release with next to nothing in it, as a fresh machine has it, in a folder: its processes see no others."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab import debian
from tests.lab.cache import Cache, default_root
from tests.lab.hosts import HOSTS
from tests.lab.machine import CHECKOUT, say

#: The suites of each release that is tested.
RELEASES = {HOSTS[name].userland[0]: HOSTS[name].userland for name in ("6.1", "6.12")}
#: Besides what makes it a system: how one gets a checkout, and its first command.
PACKAGES = ("ca-certificates", "git", "make", "python3")
#: How this machine reaches the world.
FILES = ("/etc/hosts", "/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/xdg/pip")
VARIABLES = ("PIP_", "SSL_", "REQUESTS_", "http", "no_proxy")

#: The first process of the namespace, so that all others end with it; it says which of them the command left.
FIRST = """\
mount --rbind /dev "$0/dev"
mount -t proc proc "$0/proc"
trap : INT
chroot "$0" sh -c "$1"
status=$?
for process in "$0"/proc/[0-9]*; do
    if [ "$process" != "$0/proc/$$" ] && [ -e "$process/exe" ]; then
        read -r name <"$process/comm"
        echo "left running: $name"
    fi
done
exit $status
"""


class Root:
    """A root file system that commands are run in, as root; its checkout in /srv/shadowwatch others can read, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        kept = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
        self._environment = {**kept, "HOME": "/root", "LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def popen(self, line: str) -> subprocess.Popen[str]:
        """Start a line for the shell in the checkout; all that it says comes out of one pipe.

        Signals are for the process group of what is returned: SIGINT reaches them all, as from a keyboard.
        """
        return subprocess.Popen(
            [
                # Who runs tests in the background has SIGINT ignored.
                *("env", "--default-signal=INT", "setpriv", "--pdeathsig=KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", FIRST, str(self.path), f"cd /srv/shadowwatch && {line}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            start_new_session=True,
        )


@contextmanager
def bare(release: str, packages: Sequence[str] = ()) -> Iterator[Root]:
    """Make a root of one of RELEASES, with these packages besides, for as long as it is needed; only root can."""
    with TemporaryDirectory(prefix=f"shadowwatch-{release}-") as folder:
        path = Path(folder, "root")
        hooks = [f'cp -a "$1" {shlex.quote(str(path))}']
        cache = Cache(default_root(), say)
        debian.bootstrap(cache, f"bare {release}", RELEASES[release], [*PACKAGES, *packages], hooks)
        for name in FILES:
            _copy(Path(name), path / name[1:])
        _check_out(path / "srv/shadowwatch")
        yield Root(path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, target)


def _check_out(target: Path) -> None:
    """Copy this checkout as it is now, with what is not committed yet, and nothing that git would not keep."""
    shown = subprocess.run(
        ["git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, shown.split("\0")):
        if (CHECKOUT / name).exists():  # else it is deleted, but not yet in git
            _copy(CHECKOUT / name, target / name)
    # As a clone has it.
    git = ["git", "-C", str(target), "-c", "user.name=root", "-c", "user.email=root@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "The checkout"]):
        subprocess.run([*git, *words], check=True)
