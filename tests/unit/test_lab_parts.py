# SPDX-License-Identifier: Apache-2.0
"""Which kernel a lab gets, whatever state the archive is in: each test has an archive of tiny packages of its own."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.lab.cache import Cache
from tests.lab.errors import ArchiveError
from tests.lab.hosts import HOSTS, Kvm
from tests.lab.parts import Fetched, newest_or_last
from tests.unit.archive import SOURCE, Archive

OLD, NEW = "6.1.0-55-amd64", "6.1.0-56-amd64"
KBUILD = "linux-kbuild-6.1"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive with a whole kernel, 6.1.192-1."""
    archive = Archive(tmp_path / "archive")
    archive.kernel(OLD, "6.1.192-1")
    archive.source("6.1.192-1")
    archive.add(KBUILD, "6.1.192-1")
    return archive


class Labs:
    """Makes labs of an archive's packages, in a cache of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []

    def make(self, lines: str, host: str = "6.1", kvm: Kvm = "patched", image: str = "") -> Fetched:
        """Fetch a kernel and make an image of it, of these inputs, too; an archive that fails is part of the image."""

        def make(cache: Cache, fetched: Fetched) -> Fetched:
            def fill(folder: Path) -> None:
                if image == "fails":
                    raise ArchiveError("mmdebstrap exited 25", "see to the network")
                (folder / "release").write_text(fetched.kernel.release)

            folder = cache.artifact(f"image-{host}", [fetched.kernel.release, image], fill)
            assert (folder / "release").read_text() == fetched.kernel.release
            return fetched

        self.said.clear()
        cache = Cache(self.root, self.said.append)
        return newest_or_last(cache, HOSTS[host], make, kvm, lines)

    def a_day_later(self) -> None:
        """Let what is known of each archive be so old that it is asked again, and let each lab be as old."""
        for stamp in self.root.glob("apt-*/updated"):
            os.utime(stamp, (time.time() - 90000,) * 2)
        for record in self.root.glob("lab-*.json"):
            record.write_text(re.sub(r'"built": [\d.]+', f'"built": {time.time() - 90000}', record.read_text()))


@pytest.fixture
def labs(tmp_path: Path) -> Labs:
    """An empty cache."""
    return Labs(tmp_path / "cache")


def test_kbuild_newer_than_the_image(archive: Archive, labs: Labs) -> None:
    """Headers ask for a kbuild of their version or a newer one; the newest is taken, and the kernel is no older one."""
    archive.kernel(NEW, "6.1.192-2")
    archive.source("6.1.192-2")
    archive.add(KBUILD, "6.1.192-3")
    lab = labs.make(archive.publish().lines)
    assert lab.kernel.release == NEW
    assert lab.kernel.packages.binaries == [
        "linux-headers-6.1.0-56-amd64=6.1.192-2",
        "linux-headers-6.1.0-56-common=6.1.192-2",
        "linux-image-6.1.0-56-amd64=6.1.192-2",
        "linux-kbuild-6.1=6.1.192-3",
    ]
    assert lab.kernel.packages.source == {SOURCE: "6.1.192-2"}


def test_a_part_of_the_very_version(archive: Archive, labs: Labs) -> None:
    """A dependency on one version is not satisfied by a newer one."""
    archive.image(NEW, "6.1.192-2")
    archive.headers(NEW, "6.1.192-2", f"{KBUILD} (= 6.1.192-2)")
    archive.source("6.1.192-2")
    archive.add(KBUILD, "6.1.192-3")
    assert labs.make(archive.publish().lines).kernel.release == OLD
    assert f"kernel: {OLD}, the newest one that can be had: no {KBUILD} (= 6.1.192-2) in " in "\n".join(labs.said)


def test_image_newer_than_the_source(archive: Archive, labs: Labs) -> None:
    """The source of the same upstream version does, whatever Debian's revision is."""
    archive.kernel(NEW, "6.1.192-2")
    archive.add(KBUILD, "6.1.192-2")
    lab = labs.make(archive.publish().lines)
    assert (lab.kernel.release, lab.kernel.packages.source) == (NEW, {SOURCE: "6.1.192-1"})
    assert lab.source
    assert (lab.source / "Makefile").read_text() == "6.1.192-1"


def test_image_of_another_upstream_version_than_any_source(archive: Archive, labs: Labs) -> None:
    """The next older kernel is taken, one line says so; without patches there is no need of a source."""
    archive.kernel(NEW, "6.1.193-1")
    archive.add(KBUILD, "6.1.193-1")
    assert labs.make(archive.publish().lines).kernel.release == OLD
    assert f"kernel: {OLD}, the newest one that can be had: no {SOURCE} (= 6.1.193-1) in " in "\n".join(labs.said)


def test_a_host_without_patches_needs_no_source(tmp_path: Path, labs: Labs) -> None:
    """Nor does it take a kernel of another series, or one for clouds."""
    archive = Archive(tmp_path / "archive")
    for release, version in (
        ("5.10.0-46-amd64", "5.10.262-1"),
        ("5.10.0-47-cloud-amd64", "5.10.263-1"),
        ("6.1.0-0.deb11.52-amd64", "6.1.180-1~deb11u1"),
    ):
        archive.image(release, version)
        archive.headers(release, version, "linux-kbuild-5.10")
    archive.add("linux-kbuild-5.10", "5.10.262-1")
    lab = labs.make(archive.publish().lines, "5.10", kvm="stock")
    assert (lab.kernel.release, lab.source) == ("5.10.0-46-amd64", None)


def test_a_host_of_another_flavour(archive: Archive, labs: Labs) -> None:
    """Each takes the kernels of its own alone, though one archive has both."""
    archive.kernel("6.1.0-56-rt-amd64", "6.1.192-1")
    lines = archive.publish().lines
    assert labs.make(lines, "6.1-rt", kvm="stock").kernel.release == "6.1.0-56-rt-amd64"
    assert labs.make(lines).kernel.release == OLD


def test_headers_missing(archive: Archive, labs: Labs) -> None:
    """The newest kernel that has some is taken."""
    archive.image(NEW, "6.1.192-2")
    archive.headers("6.1.0-57-amd64", "6.1.192-3", f"{KBUILD} (>= 6.1.192-3)")
    archive.source("6.1.192-3")
    archive.add(KBUILD, "6.1.192-3")
    assert labs.make(archive.publish().lines).kernel.release == OLD
    assert f"no linux-headers-{NEW} (= 6.1.192-2) in " in "\n".join(labs.said)


def test_only_an_old_kernel(tmp_path: Path, labs: Labs) -> None:
    """It is taken, and nothing is said of it."""
    archive = Archive(tmp_path / "archive")
    archive.kernel("6.1.0-50-amd64", "6.1.176-1")
    archive.source("6.1.176-1")
    archive.add(KBUILD, "6.1.176-1")
    lab = labs.make(archive.publish().lines)
    assert lab.kernel.packages.version == "6.1.176-1"
    assert not [line for line in labs.said if "can be had" in line]


def test_parts_of_one_package_each(tmp_path: Path, labs: Labs) -> None:
    """Later kernels are split, and their packages ask for each other by several ways."""
    archive, release, version = Archive(tmp_path / "archive"), "7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"
    same = ", ".join(f"linux-{part}-{release} (= {version})" for part in ("base", "binary", "modules"))
    archive.add(f"linux-image-{release}", version, f"dracut | initramfs-tools (>= 0.120), {same}")
    archive.add(f"linux-base-{release}", version, "linux-base (>= 4.12~)", {f"boot/vmlinuz-{release}": b""})
    archive.add(f"linux-binary-{release}", version, f"linux-base-{release} (= {version})")
    modules = {f"lib/modules/{release}/{name}": b"" for name in ("modules.order", "modules.builtin")}
    archive.add(f"linux-modules-{release}", version, f"linux-base-{release} (= {version})", modules)
    archive.headers(release, version, f"linux-base-{release} (= {version}), linux-kbuild-7.3.4+deb13")
    archive.add("linux-kbuild-7.3.4+deb13", version)
    archive.add("linux-source-7.3", version)
    lab = labs.make(archive.publish().lines, "7.x", kvm="stock")
    assert sorted(lab.kernel.packages.image) == [
        f"linux-{part}-{release}" for part in ("base", "binary", "image", "modules")
    ]
    assert sorted(lab.kernel.packages.headers) == [
        "linux-headers-7.3.4+deb13-amd64",
        "linux-headers-7.3.4+deb13-common",
        "linux-kbuild-7.3.4+deb13",
    ]


class Handler(SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def served(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same archive, by HTTP: its lines for apt."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=archive.folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"deb [trusted=yes] http://127.0.0.1:{server.server_port} ./\n"
        server.shutdown()


def test_an_archive_that_moved_on_is_asked_again(archive: Archive, served: str, labs: Labs) -> None:
    """What is known of it leads to a 404, and what it has now to a kernel that is newer still."""
    archive.publish()
    labs.make(served, kvm="stock")
    archive.kernel(NEW, "6.1.192-2")
    archive.add(KBUILD, "6.1.192-2")
    for part in (SOURCE, f"linux-image-{OLD}"):
        archive.remove(part, "6.1.192-1")
    archive.source("6.1.192-2")
    archive.publish()
    lab = labs.make(served)
    assert (lab.kernel.release, lab.kernel.packages.source) == (NEW, {SOURCE: "6.1.192-2"})
    assert "packages: asking the archive once more, since apt-get exited 100: " in "\n".join(labs.said)
    assert "404" in "\n".join(labs.said)


def test_a_package_that_stays_away_is_passed_over(archive: Archive, served: str, labs: Labs) -> None:
    """When the archive's own index is wrong, the next older kernel is taken."""
    archive.kernel(NEW, "6.1.192-2")
    archive.add(KBUILD, "6.1.192-2")
    archive.publish()
    archive.remove(f"linux-image-{NEW}", "6.1.192-2")
    lab = labs.make(served)
    assert lab.kernel.release == OLD
    assert f"kernel: {OLD}, the newest one that can be had: apt-get exited 100: " in labs.said[-1]
    assert "404" in labs.said[-1]


def test_the_mirror_gone_with_a_lab_in_the_cache(archive: Archive, labs: Labs) -> None:
    """The lab stays in use, with its age and the reason on one line."""
    before = labs.make(archive.publish().lines)
    labs.a_day_later()
    archive.folder.rename(archive.folder.with_name("gone"))
    assert labs.make(archive.lines) == before
    (line,) = labs.said
    assert line.startswith("lab: the one built 1 day ago stays in use, since apt-get exited 100: ")


def test_a_lab_with_patches_stays_in_use_without_them(archive: Archive, labs: Labs) -> None:
    """It has all that the other one needs, but not the other way round."""
    before = labs.make(archive.publish().lines)
    labs.a_day_later()
    archive.folder.rename(archive.folder.with_name("gone"))
    assert labs.make(archive.lines, kvm="stock").kernel == before.kernel
    for record in labs.root.glob("lab-*-patched.json"):
        record.rename(labs.root / "lab-6.1-stock.json")
    with pytest.raises(ArchiveError, match="has no lab of host"):
        labs.make(archive.lines)


def test_the_mirror_gone_without_a_lab_in_the_cache(archive: Archive, labs: Labs) -> None:
    """The error says what is missing, from where, and what to do."""
    with pytest.raises(ArchiveError) as error:
        labs.make(archive.lines)  # never published
    assert str(archive.folder) in str(error.value)
    assert str(error.value).endswith(
        ", and the cache has no lab of host 6.1 to go on with; see to the network, or have apt take another mirror"
    )


def test_nothing_fits(archive: Archive, labs: Labs) -> None:
    """The error says what is missing, from where, and what to do."""
    archive.remove(KBUILD, "6.1.192-1")
    with pytest.raises(ArchiveError) as error:
        labs.make(archive.publish().lines)
    assert str(error.value) == (
        f"no {KBUILD} (>= 6.1.192-1) in copy:{archive.folder} ./, and the cache has no lab of host 6.1 to go on with; "
        "wait until Debian has published all parts of a kernel, which takes it hours, or have apt take another mirror"
    )


def test_a_newer_lab_than_the_archive_has_stays_in_use(archive: Archive, labs: Labs) -> None:
    """Debian takes parts of a kernel away before the next one is whole: a lab does not go back for that."""
    archive.kernel(NEW, "6.1.192-2")
    archive.add(KBUILD, "6.1.192-2")
    before = labs.make(archive.publish().lines)
    archive.remove(f"linux-headers-{NEW}", "6.1.192-2")
    archive.publish()
    labs.a_day_later()
    assert labs.make(archive.lines) == before
    assert f"lab: the one built 1 day ago stays in use, since no linux-headers-{NEW} " in labs.said[-1]


def test_the_last_lab_stays_until_the_next_one_is_whole(archive: Archive, labs: Labs) -> None:
    """A kernel that was fetched does not take the place of the last one while its image cannot be made."""
    before = labs.make(archive.publish().lines)
    archive.kernel(NEW, "6.1.192-2")
    archive.add(KBUILD, "6.1.192-2")
    archive.publish()
    labs.a_day_later()
    assert labs.make(archive.lines, image="fails") == before
    assert labs.said[-2:] == [
        "lab: the one built 1 day ago stays in use, since mmdebstrap exited 25",
        "image-6.1: as it was, since mmdebstrap exited 25",
    ]
    assert len(list(labs.root.glob("kernel-6.1-*"))) == 2
    after = labs.make(archive.lines)
    assert after.kernel.release == NEW
    assert [len(list(labs.root.glob(f"{kind}-6.1-*"))) for kind in ("kernel", "source", "image")] == [1, 1, 1]
