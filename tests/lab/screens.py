# SPDX-License-Identifier: Apache-2.0
"""`make screens`: the screens of README, taken in the lab: top in stock order, with parents moved up, and of one VM."""

from __future__ import annotations

import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.machine import Lab, say
from tests.lab.show import GUESTS, PAUSE_MS
from tests.lab.workload import Vmm
from tests.tmux import ROOT, TOP, Tmux

WIDTH, HEIGHT = 116, 12
SECONDS = 120.0


def keep(name: str, screen: str) -> None:
    """Write a screen to docs/, without the empty lines between the table and the footer."""
    lines = [line.rstrip() for line in screen.rstrip().splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    (ROOT / "docs" / name).write_text(f"{text}\n")
    say(f"screens: docs/{name}")


def main() -> None:
    """Boot, let guests thrash, and take the screens."""
    with ExitStack() as open_now:
        folder = Path(open_now.enter_context(tempfile.TemporaryDirectory()))
        lab = open_now.enter_context(Lab.boot(kvm="patched", progress=say))
        lab.policy("stock")
        lab.start_daemon()
        for workload in GUESTS:
            open_now.enter_context(Vmm(lab, workload, rounds=0, pause_ms=PAUSE_MS))
        tmux = Tmux(folder, [*TOP, "--socket", lab.control(), "--interval", "2"], WIDTH, HEIGHT)
        open_now.callback(tmux.close)
        tmux.until("A limit of", "which went with them.", "rfc-hotset", seconds=SECONDS)
        keep("top-stock.txt", tmux.screen())
        lab.policy("parents")
        tmux.until("policy parents", "is not to blame", "gained a child.", "rfc-hotset", seconds=SECONDS)
        keep("top-parents.txt", tmux.screen())
        lab.policy("stock")
        tmux.until("policy stock", "A limit of", "which went with them.", seconds=SECONDS)
        tmux.resize(WIDTH, 24)
        tmux.press("Home", "Enter", "Space")
        tmux.until("paused", "parented ago", seconds=SECONDS)
        keep("top-vm.txt", tmux.screen())


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"screens: {error}")
