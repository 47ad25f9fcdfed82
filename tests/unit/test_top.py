# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch top` as people and scripts run it: in a terminal of tmux's, and into pipes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.captures import CAPTURES
from tests.tmux import ROOT, TOP, Tmux
from tests.unit import lively
from tests.unit.daemon import Daemon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a lively capture in it."""
    lively.capture(tmp_path / "a.capture")
    return tmp_path


@pytest.fixture
def tmux(folder: Path) -> Iterator[Tmux]:
    """Top in a terminal, at rest five seconds into the capture."""
    tmux = Tmux(folder, [*TOP, "--replay", str(folder / "a.capture"), "--at", "5"])
    tmux.until("web1", "replay")
    tmux.press("Space")
    tmux.until("paused")
    yield tmux
    tmux.close()


def test_a_vm_is_opened_looked_at_and_left(tmux: Tmux) -> None:
    """Down, Enter, Tab, Tab, Esc; then the end, with the terminal as it was."""
    tmux.press("t")
    tmux.until("web1 thrashes")
    tmux.press("Enter")
    tmux.until("web1  pid 1", "parented ago")
    tmux.press("Tab")
    tmux.until("place on active_mmu_pages")
    tmux.press("Tab")
    tmux.until("recently parented", "cause")
    tmux.press("Escape")
    tmux.until("recent/s", gone="pid 1 ")
    tmux.press("q")
    assert "ended with 0" in tmux.until("ended with", gone="recent/s")


def test_filter_sort_units_and_help(tmux: Tmux) -> None:
    """Each is seen on the screen."""
    tmux.press("/", "d", "b")
    tmux.until("name contains: db", "db1", gone="web1  ")
    tmux.press("Enter")
    tmux.until("filter: db")
    tmux.press("Escape")
    tmux.until("web1", "idle3")
    tmux.press(">")
    tmux.until("share▼")
    tmux.press("r")
    tmux.until("share▲")
    tmux.press("?")
    tmux.until("Keys", "since the last update, in all")
    tmux.press("x")
    tmux.until("share▲")


def test_a_replay_steps_back_and_jumps(tmux: Tmux) -> None:
    """To the time that was asked for, steps on and back: the same screens come again, rates and sentence as well."""

    def to(seconds: str) -> None:
        tmux.press("J", *seconds, "Enter")

    to("7")
    before = tmux.until("replay 7.0 of", "web1 thrashes")
    tmux.press("t")
    there = tmux.until("replay 8.0 of", "web1 thrashes")
    tmux.press("T")
    assert tmux.until("replay 7.0 of", "web1 thrashes") == before
    tmux.press("t")
    assert tmux.until("replay 8.0 of", "web1 thrashes") == there
    to("0")
    tmux.until("replay 0.0 of", "Measuring: rates come with the next update.")


def test_it_follows_the_size_of_the_terminal(tmux: Tmux) -> None:
    """Smaller, and larger again; the footer stays the last line."""
    wide = tmux.until("alloc/s")
    tmux.resize(40, 12)
    # What is left of the larger screen has not both the heading and the last line.
    narrow = tmux.until("recent/s", "?: help", gone="alloc/s").rstrip("\n").split("\n")
    assert narrow[-1].startswith("?: help")
    assert max(map(len, narrow)) <= 40
    tmux.resize(100, 30)
    assert tmux.until("alloc/s", "?: help") == wide


def test_it_plays_by_itself_and_pauses(folder: Path) -> None:
    """Sixteen times as fast it is soon at the end, and stays there."""
    tmux = Tmux(folder, [*TOP, "--replay", str(folder / "a.capture"), "--speed", "16", "--interval", "0.25"])
    try:
        tmux.until("replay 9.8 of 9.8 s, × 16")
        tmux.press("J", "2", "Enter", "Space")
        tmux.until("replay 2.0 of 9.8 s, × 16", "paused")
    finally:
        tmux.close()


def test_a_replay_opens_a_vm_by_its_pid(folder: Path) -> None:
    """As without a capture."""
    tmux = Tmux(folder, [*TOP, "--replay", str(folder / "a.capture"), "--at", "5", "--vm", "2"])
    try:
        tmux.until("db1  pid 2", "parented ago")
    finally:
        tmux.close()


def test_ctrl_c_gives_the_terminal_back(tmux: Tmux) -> None:
    """As q does."""
    tmux.press("C-c")
    assert "ended with 0" in tmux.until("ended with", gone="recent/s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(tmux: Tmux, number: signal.Signals) -> None:
    """The shell's screen, its cursor, echo and lines; and its word for the end is that of the signal."""

    def terminal() -> tuple[bool, bool, bool]:
        with tmux.keyboard() as descriptor:
            flags = termios.tcgetattr(descriptor)[3]
        lines = flags & (termios.ICANON | termios.ECHO) == termios.ICANON | termios.ECHO
        return tmux.told("alternate_on") == "1", tmux.told("cursor_flag") == "1", lines

    assert terminal() == (True, False, False)
    os.kill(tmux.pid, number)
    assert tmux.until("ended with", gone="recent/s").strip() == f"ended with {128 + number}"
    assert terminal() == (False, True, True)


def test_keys_that_come_at_once_follow_one_another(tmux: Tmux) -> None:
    """Each finds what the one before has made: the filter's only VM is opened, and three steps are three."""
    tmux.press_at_once("/", "d", "b", "Enter", "Enter", sent=5)
    tmux.until("db1  pid 2")
    tmux.press_at_once("t", "t", "T", "t", "Escape", sent=5)
    tmux.until("replay 7.0 of", "filter: db", gone="pid 2 ")


def test_a_thousand_vms_scroll(tmp_path: Path) -> None:
    """To the end and back."""
    path = lively.capture(tmp_path / "many.capture", idle=998)
    tmux = Tmux(tmp_path, [*TOP, "--replay", str(path), "--sort", "name", "--interval", "0.25"])
    # Two spaces follow a name in the table, and one in the sentence above it.
    try:
        tmux.until("1,000 VMs", "web1")
        tmux.press("End")
        tmux.until("db1", gone="web1  ")
        tmux.press("PageUp", "PageUp", "Home")
        tmux.until("web1", gone="db1  ")
    finally:
        tmux.close()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run top into a pipe."""
    return subprocess.run(
        [*TOP, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_a_pipe_gets_the_table_once_and_whole(folder: Path) -> None:
    """No colour, no screen, no line cut, whatever the terminal is said to be."""
    done = run("--replay", str(folder / "a.capture"), TERM="xterm-256color", COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[:5] == ["VM", "loses", "reclaim/s", "recent/s▼", "share"]
    assert [row.split()[0] for row in rows] == ["web1", "db1", "idle3", "idle4"]
    assert "quota:" in rows[0]


def test_colours_in_a_pipe_take_no_column(folder: Path) -> None:
    """Who wants them there, with FORCE_COLOR, has given it no width all the same."""
    plain = run("--replay", str(folder / "a.capture"), COLUMNS="40")
    coloured = run("--replay", str(folder / "a.capture"), COLUMNS="40", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b" in coloured.stdout
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured.stdout) == plain.stdout


def test_json_and_csv_say_the_same(folder: Path) -> None:
    """Raw numbers under the columns' keys."""
    arguments = ("--replay", str(folder / "a.capture"), "--columns", "name,pages,limit,recent,state", "--sort", "pages")
    objects = json.loads(run(*arguments, "--json").stdout)
    lines = list(csv.DictReader(io.StringIO(run(*arguments, "--csv").stdout)))
    advice = [each.pop("advice") for each in objects]
    assert [list(each) for each in objects] == [["name", "pages", "limit", "recent", "state"]] * 4
    assert [{key: str(value) for key, value in each.items()} for each in objects] == lines
    assert objects[0]["name"] == "web1"
    assert objects[0]["pages"] == 64
    assert objects[0]["recent"] == pytest.approx((473 - 5) / 9.75)  # five came with the first look
    assert advice[0].pop("spares") > 0.9
    assert advice[0] == {"limit": 512, "memory": 448 * 8416, "qemu": "-machine kvm-shadow-mem=2097152"}
    assert advice[1:] == [None] * 3


def test_no_colour_and_dumb_terminals_behave(folder: Path) -> None:
    """NO_COLOR leaves bold and reverse; a dumb terminal is no terminal."""
    shown = {}
    for name, environment in {"colour": "TERM=xterm-256color", "plain": "NO_COLOR=1", "dumb": "TERM=dumb"}.items():
        out = folder / name
        command = f"{environment} {' '.join(TOP)} --replay {folder / 'a.capture'} --once"
        subprocess.run(["script", "-qec", command, str(out)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        shown[name] = out.read_text()
    assert "\x1b[1;31m" in shown["colour"]
    assert "31m" not in shown["plain"]
    assert "web1" in shown["dumb"]
    assert "\x1b" not in shown["dumb"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--socket", "/nonexistent/control"], "no daemon answers at /nonexistent/control; start it with"),
        (["--replay", "/nonexistent/a"], "cannot read /nonexistent/a: No such file or directory; check the path"),
        (["--columns", "name,pges"], "there is no column pges; did you mean pages"),
        (["--sort", "nme"], "there is no column nme; did you mean name"),
        (["--sort", "zapped"], "the column zapped to sort by is not shown; add it to --columns"),
        (["--sort", "pages", "--columns", "name,limit"], "the column pages to sort by is not shown"),
        (["--speed", "2"], "--speed is that of a capture; add --replay FILE"),
        (["--replay", "a", "--standalone"], "--replay and --standalone are 2 places to take events from; leave all"),
        (["--replay", "a", "--socket", "/b", "--standalone"], "--replay and --standalone and --socket are 3 places"),
        (["--config", "/nonexistent/a"], "cannot read /nonexistent/a: No such file or directory; check its path"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: list[str], said: str) -> None:
    """On standard error, and the exit code says so too."""
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"shadowwatch: {said}")
    assert done.stderr.count("\n") == 1


def test_a_vm_that_is_not_there_is_one_sentence(daemon: Daemon) -> None:
    """It names those that are; by its pid a VM is found, too."""
    done = run("--socket", daemon.path, "--vm", "nobody")
    assert done.stderr == "shadowwatch: there is no VM nobody; choose from web1 (pid 4711)\n"
    assert run("--socket", daemon.path, "--vm", "4711", "--interval", "0.1").returncode == 0


def test_a_cut_capture_is_shown_up_to_the_cut(tmp_path: Path) -> None:
    """And then the sentence that says so."""
    (tmp_path / "cut").write_bytes(CAPTURES["stock"].read_bytes()[:100_000])
    done = run("--replay", str(tmp_path / "cut"))
    assert done.returncode == 1
    assert "zipf" in done.stdout
    assert "is cut off after" in done.stderr


def test_it_stops_and_goes_on_as_a_job_of_a_shell(folder: Path) -> None:
    """By a key and by signals: the shell has the terminal meanwhile, then top has its screen and its keys again."""
    with closing(Tmux(folder, ["bash", "--norc", "-i"])) as shell:
        stopped_and_continued(shell, folder)


def stopped_and_continued(shell: Tmux, folder: Path) -> None:
    """Top in this shell, stopped in each way."""
    shell.until("bash")
    replay = f"{' '.join(TOP)} --replay {folder / 'a.capture'} --at 5"
    shell.press("PS1='prompt '; stty echo", "Enter", replay, "Enter")
    shell.until("web1", "replay")
    shell.press("Space")
    shell.until("paused")
    for stop in ("C-z", "TSTP", "STOP"):
        if stop == "C-z":
            shell.press(stop)
        else:
            (pid,) = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
            os.kill(int(pid), getattr(signal, f"SIG{stop}"))
        shell.until("Stopped")
        if stop != "STOP":
            assert (shell.told("alternate_on"), shell.told("cursor_flag")) == ("0", "1")
            shell.press("echo fo''und", "Enter")
            shell.until("found")
        shell.press("fg", "Enter")
        shell.until("web1", "paused", "?: help")
        assert shell.told("alternate_on") == "1"
        shell.press("u")
        shell.until("since the last update")
        shell.press("u", "u")
        shell.until("web1", gone="in all")
        shell.press("q")
        shell.until("prompt", gone="?: help")
        shell.press("clear", "Enter", replay, "Enter")
        shell.until("web1", "replay", "?: help")
        shell.press("Space")
        shell.until("paused")


def test_what_is_pasted_presses_no_keys(tmux: Tmux) -> None:
    """It is typed where something is asked for, and nothing elsewhere."""
    tmux._run("set-buffer", "q/db1")
    tmux._run("paste-buffer", "-p")
    tmux.press("/")
    tmux.until("name contains:")
    tmux._run("paste-buffer", "-p")
    tmux.until("name contains: q/db1")


@pytest.mark.parametrize("vm", ["db1", "2"])
def test_one_vm_is_shown_once_by_its_name_or_pid(vm: str, folder: Path) -> None:
    """All of them were, whichever was asked for."""
    asked = ("--replay", str(folder / "a.capture"), "--vm", vm)
    assert [row.split()[0] for row in run(*asked, "--once").stdout.splitlines()] == ["VM", "db1"]
    assert [each["name"] for each in json.loads(run(*asked, "--json").stdout)] == ["db1"]
    assert [each["pid"] for each in csv.DictReader(io.StringIO(run(*asked, "--csv").stdout))] == ["2"]


def test_a_vm_that_is_not_there_is_no_table(folder: Path) -> None:
    """Also for scripts."""
    for form in ("--once", "--json", "--csv"):
        done = subprocess.run(
            [*TOP, form, "--replay", str(folder / "a.capture"), "--vm", "nobody"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("shadowwatch: there is no VM nobody; choose from web1 (pid 1), ")
