# SPDX-License-Identifier: Apache-2.0
"""What a lab is made of: the newest that can be had, or else what one was made of last."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar, get_args

from tests.lab import boot, image, kernel, patched, programs, qemu
from tests.lab.archive import KernelSet, MissingError, kernels, newest_first
from tests.lab.cache import Cache, Whole
from tests.lab.command import beside
from tests.lab.debian import Apt, sources
from tests.lab.errors import ArchiveError
from tests.lab.hosts import Host, Kvm

UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))
T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What a lab is made of."""

    emulator: qemu.Program
    kernel: kernel.Kernel
    boot: boot.Boot
    image: image.Image
    guests: Path  # their programs
    patched: Path | None  # KVM's modules with patches of the project's


@dataclass(frozen=True)
class Fetched:
    """What of a lab comes from an archive as it is."""

    kernel: kernel.Kernel
    source: Path | None  # of a KVM with patches


def prepare(cache: Cache, host: Host, kvm: Kvm) -> Parts:
    """Return the parts of this host's lab, made when they are not in the cache."""
    return newest_or_last(cache, host, lambda cache, fetched: _assemble(cache, fetched, kvm), kvm)


def newest_or_last(
    cache: Cache,
    host: Host,
    make: Callable[[Cache, Fetched], T],
    kvm: Kvm,
    lines: str | None = None,
) -> T:
    """Return what `make` makes of the newest kernel that can be had, or of the last one if an archive fails it.

    `lines` is a sources.list, by default one for the host's suites. ArchiveError: there is no last one either.
    """
    names = {each: f"lab-{host.name}-{each}" for each in get_args(Kvm)}
    own, with_patches = names[kvm], kvm != "stock"
    with cache.locked(f"lab-{host.name}"):
        # A lab with a KVM of our own has all that one without it needs.
        last = cache.whole(own) if with_patches else cache.whole(own, *names.values())
        kept = _kept(host, last) if last else None
        try:
            fetched = _fetch(cache, host, lines, kept.kernel.packages if kept else None, with_source=with_patches)
            made = make(cache, fetched)
        except ArchiveError as error:
            if last is None or kept is None:
                what = f"{error.what}, and the cache has no lab of host {host.name} to go on with"
                raise ArchiveError(what, error.cure) from None
            cache.progress(f"lab: the one built {_age(last.built)} ago stays in use, since {error.what}")
            return make(Cache(cache.root, cache.progress, last), kept)
        cache.remember(own, instead_of=names["stock"] if with_patches else "")
    return made


def _fetch(cache: Cache, host: Host, lines: str | None, last: KernelSet | None, *, with_source: bool) -> Fetched:
    """Fetch the newest kernel, but an older one only if what is known of the archive is what it has now."""
    apt = Apt(cache, host.name, sources(host.kernel) if lines is None else lines)
    if apt.failure:
        raise apt.failure
    tries = count()
    return apt.fetch(lambda: _newest(cache, apt, host, last, with_source=with_source, older=next(tries) > 0))


def _newest(cache: Cache, apt: Apt, host: Host, last: KernelSet | None, *, with_source: bool, older: bool) -> Fetched:
    """Fetch the newest kernel that fits; or, if that may be an older one, the newest that can be fetched, too."""
    source = host.sources.package if host.sources else ""
    lacks: list[str] = []
    for found in kernels(apt.kernels(), host.series, source, host.flavour):
        if isinstance(found, MissingError):
            lacks.append(f"no {found} in {apt.places}")
            continue
        if last and newest_first([last.version, found.version])[0] != found.version:
            break
        try:
            fetched = _fetched(cache, apt, host, found, with_source=with_source)
        except ArchiveError as error:
            if not older:
                raise
            lacks.append(error.what)
            continue
        if lacks:
            cache.progress(f"kernel: {found.release}, the newest one that can be had: {lacks[0]}")
        return fetched
    what = lacks[0] if lacks else f"no linux-image-{host.series}* in {apt.places}"
    cure = (
        "wait until Debian has published all parts of a kernel, which takes it hours, or have apt take another mirror"
    )
    raise ArchiveError(what, cure)


def _fetched(cache: Cache, apt: Apt, host: Host, packages: KernelSet, *, with_source: bool) -> Fetched:
    if not with_source:
        return Fetched(kernel.prepare(cache, apt, host, packages), None)
    with beside(lambda: patched.source(cache, apt, host, packages)) as source:
        unpacked = kernel.prepare(cache, apt, host, packages)
    return Fetched(unpacked, source.result())


def _kept(host: Host, last: Whole) -> Fetched:
    folder = last.artifacts[kernel.kind(host)]
    return Fetched(kernel.unpacked(host, folder), last.artifacts.get(patched.source_kind(host)))


def _assemble(cache: Cache, fetched: Fetched, kvm: Kvm) -> Parts:
    stock = fetched.kernel

    def build() -> tuple[qemu.Program, Path, Path | None]:
        emulator, guests = qemu.prepare(cache), programs.prepare(cache, stock)
        return emulator, guests, patched.prepare(cache, stock, fetched.source, kvm) if fetched.source else None

    # Each of the two leaves a second processor idle for half of its time.
    with beside(build) as built:
        start = boot.prepare(cache, stock)
        disk = image.prepare(cache, stock, start)
    emulator, guests, modules = built.result()
    return Parts(emulator, stock, start, disk, guests, modules)


def _age(since: float) -> str:
    seconds = time.time() - since
    for unit, length in UNITS:
        if whole := int(seconds / length):
            return f"{whole} {unit}{'s' if whole > 1 else ''}"
    return "less than a minute"
