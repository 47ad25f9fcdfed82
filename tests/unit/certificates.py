# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl as an operator would, with all that Python 3.13 asks of them (RFC 5280)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = self._make(name, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        self._key = self.certificate.with_suffix(".key")

    def _make(self, name: str, *extensions: str, by: Sequence[str] = ()) -> Path:
        path = self.folder / f"{name}.pem"
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(path.with_suffix(".key")), "-out", str(path)]
        command += [*by, *(word for extension in extensions for word in ("-addext", extension))]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def issue(self, name: str, san: str) -> Path:
        """Sign a certificate for a subjectAltName such as IP:127.0.0.1; its key is beside it, ending in .key."""
        extensions = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature")
        by = ("-CA", str(self.certificate), "-CAkey", str(self._key))
        return self._make(name, *extensions, f"subjectAltName={san}", by=by)
