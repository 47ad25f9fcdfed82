# SPDX-License-Identifier: Apache-2.0
"""An archive of tiny packages, in a folder of its own."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab.patched import FILES

SOURCE = "linux-source-6.1"


@cache
def built(record: str, files: tuple[tuple[str, bytes], ...]) -> bytes:
    """A package with this control file; many archives have the same ones."""
    with TemporaryDirectory() as folder:
        tree, package = Path(folder, "tree"), Path(folder, "deb")
        for path, content in (("DEBIAN/control", record.encode()), *files):
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        subprocess.run(["dpkg-deb", "--build", "-Znone", tree, package], check=True, capture_output=True)
        return package.read_bytes()


class Archive:
    """Packages, and the index that publish() makes of those that are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = f"deb [trusted=yes] copy:{folder} ./\n"
        self._published = 0
        self._records: dict[str, str] = {}
        folder.mkdir()

    def add(self, name: str, version: str, depends: str = "", files: Mapping[str, bytes] | None = None) -> None:
        """Add a package, in the place of one of the same name and version."""
        fields = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "nobody"}
        fields |= {"Description": "tiny"} | ({"Depends": depends} if depends else {})
        record = "".join(f"{field}: {value}\n" for field, value in fields.items())
        content = built(record, tuple((files or {}).items()))
        package = self.folder / f"{name}_{version}.deb"
        package.write_bytes(content)
        record += f"Filename: ./{package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        self._records[package.name] = record

    def remove(self, name: str, version: str) -> None:
        """Take a package away; the index has it until publish()."""
        package = f"{name}_{version}.deb"
        (self.folder / package).unlink()
        del self._records[package]

    def publish(self) -> Archive:
        """Write the index."""
        index = self.folder / "Packages"
        index.write_text("\n".join(self._records.values()))
        # A second later than the last one: HTTP knows no smaller difference.
        self._published += 1
        os.utime(index, (self._published,) * 2)
        return self

    def image(self, release: str, version: str) -> None:
        """Add the image of a kernel."""
        files = {f"boot/vmlinuz-{release}": b"", f"lib/modules/{release}/modules.order": b""}
        files[f"lib/modules/{release}/modules.builtin"] = b""
        self.add(f"linux-image-{release}", version, "kmod, linux-initramfs-tool", files)

    def headers(self, release: str, version: str, kbuild: str) -> None:
        """Add the headers of a kernel, which depend on this kbuild."""
        common = release.replace("-amd64", "-common")
        self.add(f"linux-headers-{common}", version)
        depends = f"linux-headers-{common} (= {version}), {kbuild}, linux-compiler-gcc-12-x86"
        self.add(f"linux-headers-{release}", version, depends, {f"usr/src/linux-headers-{release}/.config": b""})

    def kernel(self, release: str, version: str) -> None:
        """Add the image and the headers of a kernel, which ask for its kbuild or a newer one, as those of Debian 12."""
        self.image(release, version)
        self.headers(release, version, f"linux-kbuild-6.1 (>= {version})")

    def source(self, version: str) -> None:
        """Add the source of a kernel: what is taken of it, each with the version in it."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz") as tar:
            for name in FILES.split():
                member = tarfile.TarInfo(f"{SOURCE}/{name.replace('*', 'x')}")
                member.size = len(version)
                tar.addfile(member, io.BytesIO(version.encode()))
        self.add(SOURCE, version, files={f"usr/src/{SOURCE}.tar.xz": packed.getvalue()})
