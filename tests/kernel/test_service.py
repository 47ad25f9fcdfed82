# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service on a KVM host: privileges, memory, recording, and what it says when it cannot run."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.watch import Watch
from tests.kernel.watched import Watched, unexpected
from tests.lab.machine import Lab
from tests.lab.scrape import PORT, scrape_until
from tests.lab.workload import Vmm, Workload

RESIDENT_KIB = 40_000


def status(watched: Watched) -> dict[str, str]:
    """/proc/PID/status of the service's process."""
    text = watched.lab.run("cat /proc/$(systemctl show -p MainPID --value shadowwatch)/status").stdout
    return {name: value.strip() for name, value in (line.split(":", 1) for line in text.splitlines())}


#: System calls of x86-64, with arguments that would do no harm, and what an unconfined process is answered.
INTRUSIONS = {
    "socket": ("41,2,1,0", range(1024)),  # AF_INET
    "execve": ("59,0,0,0", [-errno.EFAULT]),
    "ptrace": ("101,16,1,0", [-errno.EPERM]),  # attach to init
    "unlink": ("87,0", [-errno.EFAULT]),
    "bpf": ("321,0,0,0", [-errno.EPERM, -errno.EINVAL]),
    "getpid": ("39", range(1 << 22)),
}


def intrude(lab: Lab, pid: str) -> dict[str, int]:
    """What the kernel answers this process to each of INTRUSIONS."""
    calls = [arguments for arguments, _ in INTRUSIONS.values()]
    said = lab.run(["python3", "/srv/shadowwatch/tests/lab/intruder.py", pid, *calls]).stdout
    return dict(zip(INTRUSIONS, map(int, said.split()), strict=True))


def test_the_long_running_half_has_no_privilege(patched: Watched) -> None:
    """Not root, no capability that it could use, and no way to gain one."""
    now = status(patched)
    own = patched.lab.run("id -u shadowwatch; id -g shadowwatch").stdout.split()
    assert now["Uid"].split() == [own[0]] * 4
    assert now["Gid"].split() == [own[1]] * 4
    assert set(now["Groups"].split()) <= {own[1]}
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(now[capabilities], 16) == 0, capabilities
    assert now["NoNewPrivs"] == "1"


@pytest.mark.soak
def test_run_by_root_it_leaves_no_capability_either(bare: Lab) -> None:
    """Without systemd: another user, no group, the bounding set empty, too, and the filter its own."""
    lab = bare
    lab.make_user()
    recorder = lab.popen("exec shadowwatch record /srv/out/root.capture", stderr=subprocess.STDOUT)
    assert recorder.stdout
    assert "probes on Linux" in recorder.stdout.readline()
    # It says that before it is confined.
    path = "/proc/$(pgrep -f 'shadowwatch[.]daemon')/status"
    text = lab.run(f"until grep -q 'Seccomp:.*2' {path}; do :; done; cat {path}; id -u shadowwatch").stdout
    *lines, user = text.splitlines()
    now = {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
    lab.run("pkill -INT -f shadowwatch.daemon")
    recorder.communicate(timeout=60)
    assert now["Uid"].split() == [user] * 4
    assert now["Groups"] == ""
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(now[capabilities], 16) == 0, capabilities
    assert now["NoNewPrivs"] == "1"


def test_who_gets_into_the_long_running_half_gets_no_further(patched: Watched) -> None:
    """The kernel refuses the process itself what an intruder would like, as it does not another of that user."""
    lab = patched.lab
    now = status(patched)
    sleeper = lab.popen("exec setpriv --reuid shadowwatch --clear-groups sh -c 'echo $$; exec sleep 600'")
    assert sleeper.stdout
    other = sleeper.stdout.readline().strip()
    allowed = intrude(lab, other)
    lab.run(["kill", other])
    for name, (_, answers) in INTRUSIONS.items():
        assert allowed[name] in answers, (name, allowed[name])
    assert intrude(lab, now["Pid"]) == dict.fromkeys(INTRUSIONS, -errno.ENOSYS) | {"getpid": int(now["Pid"])}
    assert patched.metrics().sum("events_received_total") > 0


def test_the_unit_is_rated_as_well_protected(patched: Watched) -> None:
    """By systemd's own measure: 10 is bare, what others of this kind ship is at 6.0 to 9.6."""
    rated = patched.lab.run("systemd-analyze security --no-pager shadowwatch | tail -n 1").stdout
    assert float(rated.split(": ")[1].split()[0]) <= 3.0, rated


def test_it_keeps_only_the_descriptors_that_it_needs(patched: Watched) -> None:
    """Ring, counters, requests, command lines, links, and programs of events, whose misses are counted there.

    Not the program that answers requests, and no map that only programs use.
    """
    pid = patched.lab.run("systemctl show -p MainPID --value shadowwatch").stdout.strip()
    info = patched.lab.run(f"cat /proc/{pid}/fdinfo/*").stdout.splitlines()
    # mmap keeps a descriptor of its own, so a map has more than one.
    assert len({line for line in info if line.startswith("map_id:")}) == 4
    points = {"alloc", "zap", "caller", "link", "move", "reclaim", "flush", "flusher", "write", "set", "destroy"}
    assert sum(line.startswith("prog_type:") for line in info) == len(points)


def test_an_ended_vm_is_said_to_have_ended(patched: Watched) -> None:
    """Its last figures stay, its state says so, and all of its pages were zapped."""
    with Vmm(patched.lab, Workload("ending", accesses=2_000)) as vmm:
        vmm.finished()
    metrics = scrape_until(patched.port, lambda metrics: metrics.sum("vm_info", vm="ending", state="ended") == 1)
    assert metrics.sum("pages", vm="ending") == 0
    assert metrics.sum("zaps_total", vm="ending") == metrics.sum("allocations_total", vm="ending")


def test_replay_of_a_recording_gives_the_live_runs_metrics(bare: Lab, tmp_path: Path) -> None:
    """Byte for byte: the file written at the end, the last scrape, and the replay on another machine."""
    lab = bare
    recorder = lab.popen(
        "exec shadowwatch record /srv/out/live.capture --metrics /srv/out/live.prom", stderr=subprocess.STDOUT
    )
    assert recorder.stdout
    assert f"http://127.0.0.1:{PORT}/" in recorder.stdout.readline()
    with Vmm(lab, Workload("recorded", accesses=5_000)) as vmm:
        counters = vmm.finished().counters
        watched = Watched(lab)
        watched.settled("recorded", counters["mmu_cache_miss"])
        scraped = scrape_until(watched.port, lambda metrics: metrics.sum("events_behind_seconds") == 0)
        lab.run("pkill -INT -f shadowwatch.daemon")
        recorder.communicate(timeout=60)
    assert recorder.returncode == 0
    for name in ("live.capture", "live.prom"):
        shutil.copy(lab.out / name, tmp_path)
    live = (tmp_path / "live.prom").read_bytes()
    replay = subprocess.run(
        [sys.executable, "-m", "shadowwatch", "replay", str(tmp_path / "live.capture")], check=True, capture_output=True
    )
    assert replay.stdout == live
    assert scraped.ours() == [line for line in live.decode().splitlines() if "shadowwatch_" in line]
    assert scraped.sum("allocations_total", vm="recorded") == counters["mmu_cache_miss"]


def test_a_recording_through_the_running_daemon_begins_in_mid_run(stock: Watched, tmp_path: Path) -> None:
    """Of a VM with pages from before: replayed, it is exact, with every event since, and nothing is missing."""
    lab = stock.lab
    with Vmm(lab, Workload("midway", accesses=2_000)) as vmm:
        before = vmm.finished().counters
        recorder = lab.popen("exec shadowwatch record /srv/out/midway.capture", stderr=subprocess.STDOUT)
        assert recorder.stdout
        assert "recording to /srv/out/midway.capture" in recorder.stdout.readline()
        after = vmm.again().counters
        stock.settled("midway", after["mmu_cache_miss"])
        lab.run("pkill -INT -f 'shadowwatch record'")
        said, _ = recorder.communicate(timeout=60)
    assert recorder.returncode == 0, said
    shutil.copy(lab.out / "midway.capture", tmp_path)
    with reading(str(tmp_path / "midway.capture")) as reader:
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.batches():
            watch.take(batch)
    (vm,) = (vm for vm in watch.snapshot().vms if vm.name == "midway")
    assert sum(vm.allocations.values()) == after["mmu_cache_miss"] - before["mmu_cache_miss"]
    assert sum(vm.pages.values()) == after["mmu_cache_miss"] - after["mmu_shadow_zapped"]
    assert (vm.exact, vm.lost, vm.unknown_pages) == (True, 0, {})
    assert stock.metrics().sum("events_lost_total") == 0


@pytest.mark.soak
def test_top_and_tree_show_what_the_kernel_counts(fresh: Watched) -> None:
    """Through the running daemon's socket, and by a daemon of top's own, of which nothing is left."""
    lab = fresh.lab
    top = "shadowwatch top --json --interval 0.3 --columns name,pages,limit,state --filter shown"
    with Vmm(lab, Workload("shown", accesses=2_000)) as vmm:
        counters = vmm.finished().counters
        fresh.settled("shown", counters["mmu_cache_miss"])
        pages = counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"]
        row = {"name": "shown", "pages": pages, "limit": 64, "state": "exact"}
        assert json.loads(lab.run(top).stdout) == [row]
        tree = json.loads(lab.run("shadowwatch tree shown --format json").stdout)
        assert len(tree["pages"]) == pages
        assert len({page["list_position"] for page in tree["pages"]}) == pages
        assert f"shown, pid {tree['vm']['pid']}, exact; {pages} pages" in lab.run("shadowwatch tree shown").stdout
        lab.run("systemctl stop shadowwatch")
        done = lab.run(top, check=False)
        assert done.stderr.startswith("shadowwatch: no daemon answers at /run/shadowwatch/control; start it with")
        assert json.loads(lab.run(f"{top} --standalone").stdout) == [row]
        assert lab.run("pgrep -f shadowwatch.daemon", check=False).stdout == ""


def test_a_reload_keeps_the_model_and_the_journal_says_so_with_fields(stock: Watched) -> None:
    """SIGHUP to the service: a good file's settings, then a bad file; nothing that was counted is lost."""
    lab = stock.lab

    def reload(text: str, words: str) -> dict[str, str]:
        lab.run("cat >/etc/shadowwatch.toml", stdin=text)
        lab.run("systemctl kill -s HUP --kill-who=main shadowwatch")
        find = f"journalctl -u shadowwatch -o json | grep -F '{words}'"
        said = lab.run(f"for try in $(seq 50); do {find} && break; sleep 0.1; done").stdout
        entry: dict[str, str] = json.loads(said)
        return entry

    with Vmm(lab, Workload("kept", accesses=2_000)) as vmm:
        counters = vmm.finished().counters
        stock.settled("kept", counters["mmu_cache_miss"])
        entry = reload("[run]\nrecent-seconds = 5\nring-mib = 16\n", "recent-seconds is 5")
        assert entry["MESSAGE"] == (
            "read /etc/shadowwatch.toml again: recent-seconds is 5; for ring-mib restart shadowwatch"
        )
        assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("4", "shadowwatch")
        entry = reload("[rnu]\n", "did you mean run")
        assert entry["MESSAGE"].endswith("there is no rnu; did you mean run; all settings stay as they are")
        assert stock.metrics().sum("allocations_total", vm="kept") == counters["mmu_cache_miss"]
        assert stock.metrics().sum("vm_exact", vm="kept") == 1
    lab.run("rm /etc/shadowwatch.toml")


def test_the_socket_is_not_for_everybody(stock: Watched) -> None:
    """For root and the daemon's group; others are told how they may."""
    done = stock.lab.run("setpriv --reuid 1000 --clear-groups shadowwatch record /dev/null", check=False)
    assert done.returncode == 1
    assert "shadowwatch: /run/shadowwatch/control is for root and members of the group shadowwatch" in done.stderr


def test_members_of_the_daemons_group_need_no_root(stock: Watched) -> None:
    """They may ask for all that views show."""
    lab = stock.lab
    member = "setpriv --reuid 1000 --regid shadowwatch --clear-groups shadowwatch"
    with Vmm(lab, Workload("asked", accesses=1_000)) as vmm:
        stock.settled("asked", vmm.finished().counters["mmu_cache_miss"])
        (row,) = json.loads(lab.run(f"{member} top --json --interval 0.2 --filter asked").stdout)
        assert row["state"] == "exact"
        assert lab.run(f"{member} tree asked").stdout.startswith("asked, pid")


@pytest.mark.soak
def test_without_root_or_kvm_it_says_so_in_one_sentence(fresh: Watched) -> None:
    """On a real host, with nothing faked; doctor agrees by its exit code."""
    lab = fresh.lab
    done = lab.run("setpriv --reuid nobody shadowwatch run", check=False)
    assert (done.returncode, done.stderr) == (1, "shadowwatch: shadowwatch is not root; run it with sudo\n")
    assert lab.run("shadowwatch doctor", check=False).returncode == 0
    lab.run("systemctl stop shadowwatch")
    lab.unload_kvm()
    done = lab.run("shadowwatch record /dev/null", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "shadowwatch: the kvm module is not loaded; modprobe kvm_intel or kvm_amd;"
        " if that fails, switch virtualization on in the firmware\n"
    )
    assert lab.run("shadowwatch doctor", check=False).returncode == 1


def test_a_browser_is_shown_the_host_and_each_vm(patched: Watched) -> None:
    """By the installed daemon, confined as it is: what draws is loaded when somebody asks."""

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{patched.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    with Vmm(patched.lab, Workload("browsed", accesses=2_000)) as vmm:
        vmm.finished()
    scrape_until(patched.port, lambda metrics: metrics.sum("vm_info", vm="browsed") == 1)
    assert '<a href="/vm/browsed"' in page("/")
    assert "<h1>browsed</h1>" in page("/vm/browsed")


def test_it_stayed_small_and_silent(patched: Watched) -> None:
    """Resident memory at its highest, and no word in the journal but at a start, or of what tests did to it."""
    assert int(status(patched)["VmHWM"].split()[0]) < RESIDENT_KIB
    said = patched.said()
    assert said
    assert unexpected(said) == []
