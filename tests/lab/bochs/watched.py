# SPDX-License-Identifier: Apache-2.0
"""The daemon beside guests on a host with Intel's processor.

Its root file system is the lab's, on the second disk; a script does what systemd and ssh do there. To start the daemon
takes one to three minutes of a processor, so one host has all guests of a mode.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from tests.lab.bochs.host import Host, loading
from tests.lab.bochs.machine import Hardware
from tests.lab.cache import Progress
from tests.lab.hosts import DEFAULT
from tests.lab.machine import CHECKOUT, Mode, quiet
from tests.lab.scrape import PORT, Metrics
from tests.lab.snapshot import DAEMON
from tests.lab.workload import Reading, Workload

MODULES = ("ata_piix", "sd_mod", "ext4")
HARDWARE = Hardware(memory=1024)
DAEMON_COMMAND = "shadowwatch run --user nobody --ring-mib 32 --audit-interval 0.1 --difference /tmp/difference"
METRICS = "shadowwatch_"
SCRIPT = """\
for module in $(cat /modules/order); do
    case $module in kvm* | irqbypass*) ;; *) insmod "/modules/$module" ;; esac
done
until [ -b /dev/sdb ]; do sleep 1; done
mount -t ext4 /dev/sdb /root
for folder in run tmp; do mount -t tmpfs -o mode=1777 "$folder" "/root/$folder"; done
mount -t tracefs tracing /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
for folder in dev proc sys srv/shadowwatch; do mount -o rbind "/$folder" "/root/$folder"; done
ip link set lo up
mkdir -m 777 /root/run/shadowwatch

# All of the metrics, or the sum of one.
metrics() {{ wget -qO- http://127.0.0.1:{port}/metrics; }}
sum() {{ metrics | awk -v name="^shadowwatch_$1[{{]" '$0 ~ name {{ total += $NF }} END {{ print int(total) }}'; }}
# Wait for this, and say so: a machine that is silent is taken for one that hangs.
await() {{
    tries=0
    until eval "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt {tries} ] || {{ echo "lab: in vain for $1: $(cat /daemon)"; exit 1; }}
        echo "lab: $(cut -d ' ' -f 1 /proc/uptime) s: waiting for $1"
        sleep 1
    done
}}

{load}
chroot /root /usr/bin/env PATH=/usr/sbin:/usr/bin HOME=/root {daemon} >/daemon 2>&1 &
await 'metrics >/dev/null 2>&1'
cat /daemon

mkfifo /hold
{guests}
audited=$(sum vm_audits_total)
await '[ "$(sum vm_audits_total)" -ge $((audited + {audits})) ]'
cat /said-*
metrics | grep '^{metrics}[a-z_]*[{{].*vm="\\|^{metrics}events_'
"""
#: A guest is there until the end.
GUEST = """\
: >/said-{number}
{{ cat /steps-{number}; cat /hold; }} | {vmm} >/said-{number} &
await '[ "$(wc -l </said-{number})" -ge {said} ]'
"""
#: Seconds of its own clock, each ten and more of a processor here.
TRIES = 60


def watched(
    mode: Mode,
    guests: Sequence[tuple[Workload, Sequence[str]]],
    audits: int,
    *,
    host: str = DEFAULT,
    progress: Progress = quiet,
) -> tuple[list[Reading], Metrics]:
    """Return the kernel's counters after each step of each guest, and the daemon's after so many audits of each then.

    The end of the workload itself is a step without a name.
    """
    parts = [
        GUEST.format(number=number, vmm=shlex.join(workload.argv()), said=len(steps))
        for number, (workload, steps) in enumerate(guests)
    ]
    script = SCRIPT.format(
        port=PORT,
        tries=TRIES,
        load=loading(mode),
        daemon=DAEMON_COMMAND,
        guests="".join(parts),
        audits=audits * len(guests),
        metrics=METRICS,
    )
    files: dict[str, Path | bytes] = {
        f"srv/shadowwatch/{path.relative_to(CHECKOUT)}": path
        for folder, pattern in DAEMON
        for path in (CHECKOUT / folder).rglob(pattern)
        if path.is_file()
    }
    for number, (_, steps) in enumerate(guests):
        files[f"steps-{number}"] = "".join(f"{step}\n" for step in steps if step).encode()
    readings, metrics = [], []
    machine = Host(
        script, host=host, modules=MODULES, files=files, with_root=True, hardware=HARDWARE, progress=progress
    )
    with machine:
        for line in machine.lines():
            if line.startswith("{"):
                readings.append(Reading(**json.loads(line)))
            elif line.startswith(METRICS):
                metrics.append(f"{line}\n")
            else:
                progress(f"intel: {line}")
        progress(f"intel: {machine.machine.processor_seconds():.0f} s of processor time")
    return readings, Metrics("".join(metrics))
