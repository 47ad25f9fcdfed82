# SPDX-License-Identifier: Apache-2.0
"""The KVM hosts that a lab can be: which Linux, and the Debian release around it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.lab.archive import FLAVOUR

#: Debian's own, or one with the patches of a folder of patches/.
Kvm = Literal["stock", "patched", "upstream"]

PATCHES = Path(__file__).resolve().parents[2] / "patches"


@dataclass(frozen=True)
class Sources:
    """What a KVM with patches is built from."""

    package: str
    compiler: str  # that built Debian's kernel, so what its modules have to be built with
    folders: Mapping[Kvm, str]  # of patches/


@dataclass(frozen=True)
class Host:
    """One kind of host."""

    name: str
    kernel: tuple[str, ...]  # the Debian suites that have its kernel
    userland: tuple[str, ...]  # …and all the rest, the release itself first
    sources: Sources | None = None
    flavour: str = FLAVOUR

    @property
    def series(self) -> str:
        """What the releases of its kernel begin with."""
        return f"{self.name.removesuffix('-rt').removesuffix('.x')}."

    @property
    def runs_guests(self) -> bool:
        """Whether its KVM takes the lab's AMD processor: PREEMPT_RT's asks for a constant TSC, which that lacks."""
        return self.flavour == FLAVOUR

    def patches(self, kvm: Kvm = "patched") -> list[Path]:
        """The project's patches that make this KVM of its own, in their order."""
        return patches_in(self.sources.folders[kvm]) if self.sources and kvm in self.sources.folders else []


def patches_in(folder: str) -> list[Path]:
    """The patches in this folder of patches/, in their order, without their cover letter."""
    return [path for path in sorted((PATCHES / folder).glob("*.patch")) if not path.name.startswith("0000-")]


_BULLSEYE = ("bullseye", "bullseye-security")
_BOOKWORM = ("bookworm", "bookworm-updates", "bookworm-security")
_TRIXIE = ("trixie", "trixie-updates", "trixie-security")

HOSTS: Mapping[str, Host] = {
    host.name: host
    for host in (
        # Debian 11's own bcc and Python are older than what the daemon needs.
        Host("5.10", _BULLSEYE, _BOOKWORM),
        Host("6.1", _BOOKWORM, _BOOKWORM, Sources("linux-source-6.1", "gcc-12", {"patched": "linux-6.1"})),
        # PREEMPT_RT, whose locks are others.
        Host("6.1-rt", _BOOKWORM, _BOOKWORM, flavour="rt-amd64"),
        Host("6.12", _TRIXIE, _TRIXIE, Sources("linux-source-6.12", "gcc-14", {"patched": "linux-6.12"})),
        Host(
            "7.x",
            ("trixie-backports",),
            _TRIXIE,
            Sources("linux-source-7.3", "gcc-14", {"patched": "linux-7.x", "upstream": "upstream"}),
        ),
    )
}
DEFAULT = "6.1"
