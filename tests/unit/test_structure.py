# SPDX-License-Identifier: Apache-2.0
"""Rooms: each outside library in one of them, and imports that point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import shadowwatch

PACKAGE = Path(shadowwatch.__file__).parent

LIBRARIES = {"bcc": "probe/attach.py", "prometheus_client": "metrics/", "rich": "view/", "psutil": "daemon/vmname.py"}
LIBRARIES |= {"isal": "metrics/exporter.py"}
LIBRARIES |= {"matplotlib": "view/plot.py", "yaml": "web/config.py", "bcrypt": "web/users.py"}

#: Room -> those that it imports from. Every arrow is here, and each points to a room that stands above.
ARROWS = {
    "errors": "",
    "event": "",
    "file": "errors",
    "cost": "errors file",
    "service": "errors",
    "snapshot": "",
    "mmu": "errors event snapshot",
    "source": "event snapshot",
    "web": "errors file service",
    "probe": "errors cost event mmu",
    "simulate": "errors event snapshot mmu",
    "watch": "event snapshot mmu simulate",
    "capture": "errors event snapshot mmu source watch",
    "metrics": "errors event snapshot mmu web watch",
    "control": "errors event snapshot source watch capture",
    "view": "errors cost event snapshot mmu source probe simulate capture",
    "pages": "errors snapshot source watch web view",
    "config": "errors file simulate metrics control view",
    "start": "errors cost event service web probe control",
    "commands": "errors file cost event snapshot mmu source web probe simulate watch capture metrics control view pages"
    " config start",
    "daemon": "errors event service source web probe watch capture metrics control view pages config start",
    "cli": "errors service commands",
    "__main__": "cli",
}

#: Imports that say too little.
UNCLEAR = {"?", "shadowwatch", "shadowwatch.*"}

#: What a view does not do: it draws what it is given.
NOT_FOR_VIEWS = {"socket", "subprocess", "tempfile", "urllib", "pathlib", "shutil", "http", "asyncio"}


def modules_in(source: str, module: str) -> Iterator[str]:
    """The modules that the source of this one imports, wherever in it and in whatever way it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(module.split(".")[: -node.level]) if node.level else ""
            package = ".".join(filter(None, (above, node.module)))
            # `from package import name` may import a module of the package.
            yield from (f"{package}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__", "run_module"):
                name = node.args[0] if node.args else None
                yield name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def module_of(path: Path) -> str:
    """The name by which a file of the package is imported, of a package's face with __init__."""
    return ".".join(("shadowwatch", *path.relative_to(PACKAGE).with_suffix("").parts))


def room_of(name: str) -> str:
    """The room of a module of ours, "" of a name that stands in the package's face."""
    room = name.split(".")[1] if "." in name else ""
    return room if room and ((PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists()) else ""


def is_ours(name: str) -> bool:
    """Whether it names a module of this package, or all that is in its face."""
    return name.split(".")[0] == "shadowwatch"


FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def imports() -> tuple[tuple[Path, str], ...]:
    """Each file of the package with each module that it imports."""
    return tuple((path, name) for path in FILES for name in modules_in(path.read_text(), module_of(path)))


@pytest.mark.parametrize(
    "source",
    [
        "import shadowwatch.view.top",
        "import shadowwatch.view.top as top",
        "from shadowwatch.view.top import once",
        "from shadowwatch.view import top",
        "from shadowwatch import view",
        "from shadowwatch import view as anything",
        "from ..view import top",
        "from .. import view",
        "from ..view.top import once",
        "def late() -> None:\n    from shadowwatch import view",
        "if TYPE_CHECKING:\n    import shadowwatch.view",
        "class Late:\n    from shadowwatch import view",
        "import importlib\nimportlib.import_module('shadowwatch.view')",
        "from importlib import import_module\nimport_module('shadowwatch.view.top')",
        "__import__('shadowwatch.view')",
    ],
)
def test_the_rule_has_no_hole(source: str) -> None:
    """However a module of the model would import a view, it is seen."""
    seen = {room_of(name) for name in modules_in(source, "shadowwatch.mmu.model") if is_ours(name)}
    assert seen == {"view"}


def test_an_import_by_a_name_that_is_made_up_is_seen() -> None:
    """Nobody can tell what it imports, so nobody may; nor the whole package, which has what others imported."""
    for source in (
        "importlib.import_module(name)",
        "import shadowwatch",
        "from shadowwatch import *",
        "from .. import *",
    ):
        assert set(modules_in(source, "shadowwatch.mmu.model")) <= UNCLEAR, source
    assert [(path.name, name) for path, name in imports() if name in UNCLEAR] == []


def test_imports_are_those_that_are_drawn() -> None:
    """No room imports from another but by an arrow, and no arrow is there that none needs."""
    arrows: dict[str, set[str]] = {room: set() for room in ARROWS}
    for path, name in imports():
        if is_ours(name) and (room := room_of(name)):
            own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
            if room != own and own != "__init__":
                arrows[own].add(room)
    assert arrows == {room: set(to.split()) for room, to in ARROWS.items()}


def test_arrows_point_one_way() -> None:
    """To rooms that stand above, so there is no circle, and who reads from the top knows all that a room needs."""
    rooms = list(ARROWS)
    for room, to in ARROWS.items():
        assert all(rooms.index(other) < rooms.index(room) for other in to.split()), room


def test_each_library_lives_in_one_room() -> None:
    """And each is used there."""
    files = [(str(path.relative_to(PACKAGE)), name.split(".")[0]) for path, name in imports()]
    users = {library: {file for file, name in files if name == library} for library in LIBRARIES}
    for library, room in LIBRARIES.items():
        assert users[library], library
        assert all(file.startswith(room) for file in users[library]), users[library]


def test_views_draw_and_nothing_else() -> None:
    """They connect to nothing, start nothing, and open no file: who calls them does."""
    for path, name in imports():
        if path.parent.name == "view":
            assert name.split(".")[0] not in NOT_FOR_VIEWS, (path.name, name)
    for path in (PACKAGE / "view").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert "open" not in calls, path.name


@pytest.mark.parametrize("words", [("-c", "import shadowwatch.config"), ("-m", "shadowwatch", "--version")])
def test_a_command_that_needs_little_starts_fast(words: tuple[str, ...]) -> None:
    """It loads no model, no simulator and nothing that draws or serves."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    loaded = re.findall(r"\| +(\S+)$", done.stderr, re.M)
    assert "shadowwatch.config" in loaded
    heavy = ("bcc", "rich", "prometheus_client", "matplotlib", "psutil", "yaml", "asyncio")
    ours = tuple(f"shadowwatch.{room}" for room in ("event", "mmu", "simulate", "watch", "view", "metrics", "web"))
    assert not [name for name in loaded if name.split(".")[0] in heavy or name.startswith(ours)]


def test_the_model_has_no_clock_and_no_file() -> None:
    """mmu/ and simulate/ can be fed from anywhere."""
    outside = {
        name.split(".")[0] for path, name in imports() if path.relative_to(PACKAGE).parts[0] in ("mmu", "simulate")
    }
    assert outside <= {
        "__future__",
        "bisect",
        "collections",
        "copy",
        "copyreg",
        "dataclasses",
        "difflib",
        "enum",
        "itertools",
        "re",
        "shadowwatch",
        "typing",
    }
