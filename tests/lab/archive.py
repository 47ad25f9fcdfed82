# SPDX-License-Identifier: Apache-2.0
"""Which versions of a kernel's packages fit each other, of those that an archive has.

An archive is seldom of one piece: Debian publishes linux-kbuild and linux-source of a kernel before its signed image,
and takes those of an older one away while its image still stays.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cmp_to_key

FLAVOUR = "amd64"
#: What each package depends on, by its name and its version, the newest version first.
Index = Mapping[str, Mapping[str, str]]

# What a kernel consists of: of other packages that these ask for, nothing is needed here.
PART = re.compile(r"linux-(?:image|binary|modules|base|headers|kbuild)-\d\S*")
# One of a dependency's alternatives, as Debian Policy has them in chapter 7.
ALTERNATIVE = re.compile(r"\s*([^\s:(]+)(?::\w+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*(\S+)\s*\))?")


class MissingError(Exception):
    """A dependency, in Debian's own words, that nothing in the archive satisfies."""


@dataclass(frozen=True)
class KernelSet:
    """Packages of one kernel that fit each other; of each its name and version."""

    release: str
    version: str  # of the image
    image: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)  # empty where nobody asked for it

    @property
    def binaries(self) -> list[str]:
        """NAME=VERSION of each package but the source, sorted."""
        return sorted(f"{name}={version}" for name, version in {**self.image, **self.headers}.items())


def index(records: str) -> Index:
    """Read what apt-cache show prints."""
    found: dict[str, dict[str, str]] = {}
    for record in records.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)", record, re.MULTILINE))
        if "Package" in fields:
            found.setdefault(fields["Package"], {})[fields["Version"]] = fields.get("Depends", "")
    return {name: {version: known[version] for version in newest_first(known)} for name, known in found.items()}


def kernels(index: Index, series: str, source: str = "", flavour: str = FLAVOUR) -> Iterator[KernelSet | MissingError]:
    """Yield the kernels of a series such as "6.1.", the newest first, or what the archive lacks of them.

    With `source`, the name of a package, each has a version of it: its own, or else the newest one of the same
    upstream version, which differs by Debian's own changes.
    """
    name = re.compile(rf"linux-image-({re.escape(series)}[\w.+~]*(?:-\d[\w.+~]*)?-{flavour})")
    releases = {found[1]: versions for package, versions in index.items() if (found := name.fullmatch(package))}
    version_of = {version: release for release, versions in releases.items() for version in versions}
    for version in newest_first(version_of):
        release = version_of[version]
        try:
            image = _fitting(index, [f"linux-image-{release} (= {version})"])
            # Of this very version: the symbol versions in them are those of the image.
            both = _fitting(index, [f"linux-headers-{release} (= {version})"], image)
            yield KernelSet(
                release=release,
                version=version,
                image=image,
                headers={name: version for name, version in both.items() if name not in image},
                source={source: _source(index, source, version)} if source else {},
            )
        except MissingError as missing:
            yield missing


def newest_first(versions: Iterable[str]) -> list[str]:
    """Return Debian versions in their order."""
    return sorted(versions, key=cmp_to_key(lambda a, b: _holds(a, "<<", b) - _holds(b, "<<", a)))


def _source(index: Index, package: str, version: str) -> str:
    known = index.get(package, {})
    if version in known:
        return version
    upstream = version.rpartition("-")[0]
    for other in known:
        if other.rpartition("-")[0] == upstream:
            return other
    raise MissingError(f"{package} (= {version})")


def _fitting(index: Index, wanted: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Choose versions of the parts wanted, and of those that these depend on, beside those that are chosen."""
    chosen = dict(chosen or {})
    if not wanted:
        return chosen
    missing = None
    for found in ALTERNATIVE.finditer(wanted[0].replace("|", "\n")):
        name, relation, limit = found.groups()
        for version in [chosen[name]] if name in chosen else index.get(name, {}):
            if relation and not _holds(version, relation, limit):
                continue
            more = [] if name in chosen else _dependencies(index[name][version])
            try:
                return _fitting(index, [*wanted[1:], *more], {**chosen, name: version})
            except MissingError as error:
                missing = missing or error
    raise missing or MissingError(wanted[0])


def _dependencies(depends: str) -> list[str]:
    """Return the dependencies that only parts of a kernel can satisfy."""
    wanted = [dependency.strip() for dependency in depends.split(",")]
    return [one for one in wanted if one and all(PART.match(other.strip()) for other in one.split("|"))]


@cache
def _holds(version: str, relation: str, limit: str) -> bool:
    """Whether this relation is between two Debian versions."""
    words = {"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}
    command = ["dpkg", "--compare-versions", version, words[relation], limit]
    return subprocess.run(command, check=False).returncode == 0
