# SPDX-License-Identifier: Apache-2.0
"""The DaemonSet's privileges on a real host: enough, and none of them for nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.kernel.watched import AUDITS, Watched
from tests.lab.workload import Vmm, Workload
from tests.unit.test_fleet import daemonset_pod

pytestmark = pytest.mark.soak

#: What a container sees of the host: its own /sys and root file system, both read-only, nothing mounted beneath /sys.
#: Root has the capabilities named, and gains none.
CONTAINER = """
umount -l /sys/kernel/tracing /sys/kernel/debug /sys/kernel/security /sys/fs/bpf 2>/dev/null
mount -o remount,ro,bind /sys && mount -o remount,ro,bind / && mount -t tmpfs tmpfs /tmp || exit
exec setpriv --no-new-privs --bounding-set=-all{capabilities} shadowwatch audit --rounds 1 --audit-interval 0.2
"""
PARANOID = "/proc/sys/kernel/perf_event_paranoid"

(CONTEXT,) = [container["securityContext"] for container in daemonset_pod()["containers"]]
ADDED = CONTEXT["capabilities"]["add"]


@pytest.fixture(scope="module")
def node(stock: Watched) -> Iterator[Watched]:
    """A host with a VM, without the service, that lets CAP_PERFMON open probes as kernels do by default."""
    before = stock.lab.run(f"cat {PARANOID}").stdout
    stock.lab.run(f"systemctl stop shadowwatch && echo 2 >{PARANOID}")
    with Vmm(stock.lab, Workload("pod", accesses=1_000)) as vmm:
        vmm.finished()
        yield stock
    stock.lab.run(["tee", PARANOID], stdin=before)
    stock.lab.start_daemon(AUDITS)


def audit(node: Watched, capabilities: list[str]) -> subprocess.CompletedProcess[str]:
    """Attach, read the VM's list, compare, and end, as in a container with these capabilities."""
    script = CONTAINER.format(capabilities="".join(f",+{capability.lower()}" for capability in capabilities))
    return node.lab.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], check=False)


def test_the_pods_privileges_are_enough(node: Watched) -> None:
    """All probes attach, nothing stays unknown, and the VM has its name."""
    assert CONTEXT["readOnlyRootFilesystem"]
    assert not CONTEXT["allowPrivilegeEscalation"]
    done = audit(node, ADDED)
    assert done.returncode == 0, done.stderr
    assert "no hook" not in done.stdout
    assert "\npod " in done.stdout


# Without SETPCAP all goes well, but the half that stays could not empty its bounding set.
@pytest.mark.parametrize("capability", sorted({*ADDED} - {"SETPCAP"}))
def test_none_is_for_nothing(node: Watched, capability: str) -> None:
    """Without it the daemon does not start, and says why in one line, or it says what stays unknown."""
    done = audit(node, [other for other in ADDED if other != capability])
    if done.returncode:
        assert "Traceback" not in done.stderr
        *_, last = done.stderr.splitlines() or [""]
        assert last.startswith("shadowwatch: "), done.stderr + done.stdout
    else:
        assert "so unknown:" in done.stdout
