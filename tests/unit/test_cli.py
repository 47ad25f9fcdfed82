# SPDX-License-Identifier: Apache-2.0
"""The command as a person runs it: a process, its output, its exit code."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from shadowwatch import __version__
from shadowwatch.probe.plan import make_plan
from shadowwatch.view.doctor import show
from tests.golden import matches
from tests.unit.forged import capture, frame
from tests.unit.hosts import PATCHED, STOCK
from tests.unit.test_capture import recorded
from tests.unit.test_record import Terminal


def shadowwatch(*words: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "shadowwatch", *words],
        capture_output=True,
        text=True,
        timeout=60,
        user=user,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_replay_prints_the_metrics_of_the_recorded_run(tmp_path: Path) -> None:
    """Byte for byte."""
    content, live = recorded()
    path = tmp_path / "a.capture"
    path.write_bytes(content)
    done = shadowwatch("replay", str(path))
    assert done.stdout.encode() == live
    assert (done.returncode, done.stderr) == (0, "")


def test_replay_of_a_cut_file_prints_what_there_is_and_says_so(tmp_path: Path) -> None:
    """Figures on standard output, one sentence on standard error, exit code 1."""
    content, live = recorded()
    path = tmp_path / "a.capture"
    path.write_bytes(content[:-1])
    done = shadowwatch("replay", str(path))
    assert done.stdout.encode() == live
    assert done.returncode == 1
    assert done.stderr == (
        f"shadowwatch: {path} is cut off after 8 events; the figures cover no more,"
        " stop the next recording with Ctrl-C or SIGTERM, before the disk is full, to have all\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replay", "/no/such/file"), "cannot read /no/such/file: No such file or directory; check the path"),
        (
            ("run", "--listen", "nowhere"),
            "nowhere is not an address to listen on; give HOST:PORT, such as 127.0.0.1:9790",
        ),
        (("tree", "zipf", "--at", "5"), "--at is a time in a capture; add --replay FILE"),
        (("top", "--once", "--at", "5"), "--at is a time in a capture; add --replay FILE"),
        (
            ("simulate", "/no", "--limit", "2"),
            "'2' is not a limit; give a number of shadow pages from 64 on, or times the VM's own, such as 2x",
        ),
        (
            ("tree", "a", "--replay", "b", "--socket", "/c"),
            "--replay and --socket are 2 places to take events from; leave all but one out",
        ),
        (
            ("record", "/dev/null", "--standalone", "--socket", "/c"),
            "--standalone and --socket are 2 places to take events from; leave all but one out",
        ),
        # As of a variable of a script that has no value: it is not the live host that was meant.
        (("top", "--once", "--replay", ""), "cannot read : No such file or directory; check the path"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: tuple[str, ...], said: str) -> None:
    """No traceback for what the world can do."""
    done = shadowwatch(*words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"shadowwatch: {said}\n")


@pytest.mark.parametrize("words", [("top",), ("tree", "zipf")], ids=lambda words: words[0])
def test_without_a_daemon_only_flags_of_the_command_are_named(words: tuple[str, ...]) -> None:
    """A flag that another command has is no way out."""
    named = set(re.findall(r"--[\w-]+", shadowwatch(*words, "--socket", "/no/such").stderr))
    assert "--replay" in named
    assert named <= set(re.findall(r"--[\w-]+", shadowwatch(words[0], "--help").stdout))


def test_audits_say_how_far_apart_they_are() -> None:
    """Its default is not that of the daemon, which makes none."""
    shown = " ".join(shadowwatch("audit", "--help").stdout.split())
    assert "kernel's own lists every so many seconds (default 1) --difference" in shown
    assert "every so many seconds (default: never)" in " ".join(shadowwatch("run", "--help").stdout.split())


def test_without_root_one_line_says_so() -> None:
    """Before anything else is tried."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to become somebody else")
    # The checkout may not be readable for another user, so the import happens before the change.
    code = "import os, sys; from shadowwatch.cli import main; import shadowwatch.probe.attach, shadowwatch.probe.checks"
    code += (
        "\nimport shadowwatch.metrics.exporter, shadowwatch.start.handover; os.setuid(65534); sys.exit(main(['run']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "shadowwatch: shadowwatch is not root; run it with sudo\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    "option",
    [
        *(("--recent-seconds", seconds) for seconds in ("0", "nan", "1e300")),
        ("--ring-mib", "0"),
        ("--difference", ""),
        ("--socket", ""),
    ],
)
def test_values_out_of_range_are_refused(option: tuple[str, str]) -> None:
    """By argparse, with usage."""
    done = shadowwatch("run", *option)
    assert done.returncode == 2
    assert f"argument {option[0]}" in done.stderr


@pytest.mark.parametrize(
    "words",
    ["run --config", "top --config", "top --vm", "record a --metrics", "cost"],
)
def test_a_value_that_is_empty_is_not_taken_for_none(words: str) -> None:
    """As of a variable of a script that has no value: it is neither the default file nor all VMs that were meant."""
    done = shadowwatch(*words.split(), "")
    assert done.returncode == 2
    assert done.stderr.endswith(": it is empty; leave it out, or give it a value\n")


def test_of_two_flags_none_is_ignored() -> None:
    """Where there can be only one of both."""
    done = shadowwatch("top", "--json", "--csv")
    assert done.returncode == 2
    assert "not allowed with argument --" in done.stderr


def test_version_and_help() -> None:
    """Every command has its line of help."""
    assert shadowwatch("--version").stdout.startswith(f"shadowwatch {__version__}")
    shown = shadowwatch("--help").stdout
    for command in ("run", "record", "audit", "replay", "doctor"):
        assert f"\n    {command} " in shown


@pytest.mark.parametrize("name", ["patched", "stock", "bare"])
def test_doctor_fits_one_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole host, and one that lacks what it can: golden, 80 × 34 at most for a whole one."""
    monkeypatch.setenv("TERM", "dumb")  # it has 80 columns, and no colours
    bare = replace(
        STOCK, root=False, bcc=False, headers=False, kvm=False, layouts={}, role={}, parameters={}, symbols={}
    )
    host = {"patched": PATCHED, "stock": STOCK, "bare": bare}[name]
    out = Terminal()
    assert show(host, make_plan(host), False, out) == (name != "bare")
    text = "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())
    if name != "bare":
        assert len(text.splitlines()) <= 34
    assert max(map(len, text.splitlines())) <= 80
    matches(f"doctor-{name}.txt", text)


def test_doctor_folds_no_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing and how to fix it stay one line, which scripts look for, whatever COLUMNS says."""
    monkeypatch.setenv("COLUMNS", "40")
    host, out = replace(STOCK, headers=False), io.StringIO()
    assert not show(host, make_plan(host), False, out)
    fix = "the headers of kernel 6.1.0-56-amd64 are not installed; apt install linux-headers-6.1.0-56-amd64"
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert f"no  headers         {fix}" in lines
    assert lines[-1].startswith("Not ready. In this order: ")


def test_doctor_says_how_a_kvm_without_a_choice_reclaims() -> None:
    """With the series for the KVM list it is no stock KVM, though it has no parameter."""
    host, out = replace(STOCK, only_policy="childless"), io.StringIO()
    show(host, make_plan(host), False, out)
    assert "patched, always reclaims as reclaim_policy childless" in out.getvalue()


def test_doctor_ends_with_what_to_do_in_which_order() -> None:
    """One sentence of all fixes, from the top of the screen down, and a line's end behind it."""
    host = replace(STOCK, root=False, headers=False, symbols={})
    out = io.StringIO()
    assert not show(host, make_plan(host), False, out)
    last = out.getvalue().rpartition("\n\n")[2]
    assert last.endswith("\n")
    assert " ".join(last.split()) == (
        "Not ready. In this order: run it with sudo; apt install linux-headers-6.1.0-56-amd64;"
        " boot a kernel with a hook for each probe point marked “no”, such as Debian's 6.1;"
        " then run shadowwatch doctor again."
    )


def test_alone_it_prints_its_help_and_fails() -> None:
    """As git does: a person sees what there is, a script that lost its command does not go on."""
    done = shadowwatch()
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == shadowwatch("--help").stdout


def test_doctor_says_that_a_daemon_runs_already() -> None:
    """Then there is nothing to begin: who installed the package goes on with `top`."""
    out = io.StringIO()
    assert show(STOCK, make_plan(STOCK), True, out)
    assert out.getvalue().endswith("\nReady, and it runs: shadowwatch top\n")


def test_a_replay_that_is_served_is_healthy_and_ready(tmp_path: Path) -> None:
    """Whatever the recorded host's clock said, and also without any event: there is no loop that could stand still."""
    path = tmp_path / "a.capture"
    for content in (recorded()[0], capture([frame(b"LAST", b"0")])):
        path.write_bytes(content)
        command = [sys.executable, "-m", "shadowwatch", "replay", str(path), "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
            try:
                assert served.stdout
                address = served.stdout.readline().split()[1].rstrip(";")
                for page in ("healthy", "ready"):
                    assert urlopen(f"{address}-/{page}", timeout=10).read().decode() == f"{page}\n"
            finally:
                served.terminate()
