# SPDX-License-Identifier: Apache-2.0
"""What the kernel still does for a confined process."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

#: Python's names for what an intruder would like to do -> how.
REFUSED = {
    "start a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "start one by spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "make an Internet socket": "socket.socket(socket.AF_INET)",
    "make a local socket": "socket.socket(socket.AF_UNIX)",
    "connect one that it has": "local.connect('/nobody')",
    "write to a file": "os.open(path, os.O_WRONLY)",
    "read and write one": "os.open(path, os.O_RDWR)",
    "make a file": "os.open(path + '.new', os.O_RDONLY | os.O_CREAT)",
    "empty a file": "os.open(path, os.O_RDONLY | os.O_TRUNC)",
    "remove a file": "os.unlink(path)",
    "rename a file": "os.rename(path, path + '.new')",
    "change a file's mode": "os.chmod(path, 0o777)",
    "look into a process": "call(101, 16, os.getppid(), 0, 0)",  # ptrace(PTRACE_ATTACH)
    "end a process": "os.kill(os.getppid(), 9)",
    "load a BPF program": "call(321, 0, 0, 0)",
    "open a perf event": "call(298, 0, 0, -1, -1, 0)",
    "take another user": "os.setuid(0)",
    "take another namespace": "call(272, 0x10000000)",  # unshare(CLONE_NEWUSER)
    "see to its own filter": "call(317, 1, 0, 0)",  # seccomp
}

SCRIPT = """
import ctypes, errno, os, socket, sys, threading
from shadowwatch.daemon.confine import confine
path, attempts = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
local = socket.socket(socket.AF_UNIX)
listener = socket.create_server(("127.0.0.1", 0))
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    if libc.syscall(*words) == -1:
        raise OSError(ctypes.get_errno(), "refused")
said = []
def attempt():
    for name, code in attempts.items():
        try:
            exec(code)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                continue
            name += f" ({error})"
        said.append(name)
confining, confined = threading.Event(), threading.Event()
def earlier():
    confining.wait()
    attempt()
    confined.set()
threading.Thread(target=earlier).start()
confine()
confining.set()
confined.wait()
attempt()
later = threading.Thread(target=attempt)
later.start()
later.join()
print(listener.getsockname()[1], open("/proc/self/status").read().split("Seccomp:")[1].split()[0], flush=True)
connection, _ = listener.accept()
connection.sendall(open(path, "rb").read())
connection.close()
print(said)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that everybody may do everything to."""
    path = tmp_path / "file"
    path.write_text("as it was")
    path.chmod(0o666)
    return path


def test_what_an_intruder_would_like_is_refused(file: Path) -> None:
    """In threads from before and from after, while files are read, threads begin and connections are answered."""
    words = [word for pair in REFUSED.items() for word in pair]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, file, *words], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port, seccomp = process.stdout.readline().split()
        assert seccomp == "2"
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as asker:
            assert asker.recv(100) == b"as it was"
        assert process.stdout.readline() == "[]\n"
    assert process.returncode == 0
    assert file.read_text() == "as it was"
    assert file.stat().st_mode & 0o777 == 0o666


def test_without_the_library_one_line_says_so() -> None:
    """With the cure, before anything is refused."""
    code = """if True:
    import ctypes
    def missing(name): raise OSError(f"{name}: cannot open shared object file")
    ctypes.CDLL = missing
    from shadowwatch.daemon.confine import confine
    confine()"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.stderr.endswith(
        "ShadowwatchError: libseccomp cannot be used (libseccomp.so.2: cannot open shared object file);"
        " apt install libseccomp2\n"
    )
