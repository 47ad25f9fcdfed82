# SPDX-License-Identifier: Apache-2.0
"""Attaching probes and becoming the half that stays."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shadowwatch.cost import Figures

#: They end a wait for the kvm module.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _hold_standard_streams() -> None:
    """Open nothing in place of one that is closed: what is written to it would go into a file that has its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(descriptor, True)


def wait_for_kvm() -> None:
    """Return when the kvm module is loaded; who starts before it need not start again."""
    from shadowwatch.probe.checks import require_all_but_kvm
    from shadowwatch.probe.host import gather, kvm_is_loaded
    from shadowwatch.service.log import say
    from shadowwatch.service.notify import Watchdog, notify

    _hold_standard_streams()
    if kvm_is_loaded():
        return
    require_all_but_kvm(gather())
    say("waiting for the kvm module to be loaded")
    notify("READY=1\nSTATUS=waiting for the kvm module to be loaded")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    watchdog = Watchdog()
    while not kvm_is_loaded():
        watchdog.turn(time.monotonic_ns())
        time.sleep(1)
        if signal.sigtimedwait(STOP_SIGNALS, 0):
            raise KeyboardInterrupt
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def collect(
    arguments: argparse.Namespace,
    *,
    captures: Sequence[str] = (),
    most: int | None = None,
    metrics_path: str = "",
    socket_path: str = "",
    audits: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Attach, then exec: returns only by an error. `settings` are what a reload may change."""
    from shadowwatch.control.record import create
    from shadowwatch.control.server import listen
    from shadowwatch.event.facts import Facts
    from shadowwatch.probe.attach import attach
    from shadowwatch.probe.checks import losses, paging, require
    from shadowwatch.probe.host import gather
    from shadowwatch.service.log import Level, say
    from shadowwatch.service.notify import passed_sockets
    from shadowwatch.start.handover import Handover, execute, unprivileged_user
    from shadowwatch.web.config import texts

    _hold_standard_streams()
    web = texts(arguments.web_config_file) if settings and arguments.web_config_file else {}
    host = gather()
    plan = require(host)
    for loss in losses(plan):
        say(loss, Level.NOTICE)
    user = unprivileged_user(arguments.user)
    group = None if user.name == "nobody" else user.gid
    control = listen(socket_path, group).detach() if socket_path else -1
    files = tuple((create(path), path) for path in captures)
    metrics = create(metrics_path) if metrics_path else -1
    difference = create(arguments.difference, keep=True) if arguments.difference else -1
    attached = attach(plan, int(arguments.ring_mib * (1 << 20)))
    cost = _measured(host.release)
    facts = Facts(
        host=platform.node(),
        kernel=host.release,
        policy=host.policy,
        probes={each.point: each.symbol for each in plan.attachments if each.program},
        role=host.role,
        functions=host.functions,
        paging=paging(host),
        recent_seconds=arguments.recent_seconds,
        table_seconds=cost.table_seconds if cost else None,
        fill_seconds=cost.fill_seconds if cost else 0.0,
    )
    handover = Handover(
        ring=attached.ring,
        ring_size=attached.ring_size,
        counters=attached.counters,
        requests=attached.requests,
        programs=attached.programs,
        commands=attached.commands,
        facts=facts.to_json(),
        listen=arguments.listen,
        audit_seconds=arguments.audit_interval,
        config=os.path.abspath(arguments.config) if settings and arguments.config else None,
        settings=settings or {},
        given=arguments.given if settings else {},
        web=web,
        audits=audits,
        difference=difference,
        difference_path=arguments.difference or "",
        captures=files,
        capture_most=most,
        control=control,
        listeners=passed_sockets(),
        metrics=metrics,
        seconds=getattr(arguments, "seconds", None),
    )
    execute(handover, attached.links, user)


def _measured(kernel: str) -> Figures | None:
    """What `shadowwatch cost` measured last on this kernel; a file that is not its own is said to be one."""
    from shadowwatch.cost import stored
    from shadowwatch.errors import ShadowwatchError
    from shadowwatch.service.log import Level, say

    try:
        found = stored()
    except ShadowwatchError as error:
        say(str(error), Level.WARNING)
        return None
    return found if found and found.kernel == kernel else None
