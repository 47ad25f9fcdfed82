# SPDX-License-Identifier: Apache-2.0
"""Configurations that are not right: one line at a check, and at a reload nothing changes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from shadowwatch.cli import main
from shadowwatch.daemon.reload import Reload
from shadowwatch.start.handover import RELOAD_SIGNAL
from tests.unit.bad_files import PLACES, TOML, WEB, Bad
from tests.unit.certificates import Authority
from tests.unit.kernelless import Kernelless
from tests.unit.story import Story


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server's certificate and key, and the authority's in DER."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.issue("server", "IP:127.0.0.1")
    subprocess.run(
        ["openssl", "x509", "-in", "ca.pem", "-outform", "der", "-out", "ca.der"], check=True, cwd=authority.folder
    )
    return authority.folder


def remove(path: Path) -> None:
    """Whatever it is."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", [PLACES, TOML], ids=["places", "TOML"])
def test_no_configuration_ends_the_daemon_by_a_reload(kind: dict[str, Bad], tmp_path: Path) -> None:
    """One line that says what is wrong with each, then the metrics are served with what they counted before."""
    config = tmp_path / "a.toml"
    config.write_text("")
    with Kernelless(config) as daemon:
        _reload_each(daemon, config, kind)


@pytest.mark.parametrize("kind", [PLACES, WEB], ids=["places", "YAML"])
def test_no_web_configuration_ends_the_daemon_by_a_reload(
    kind: dict[str, Bad], tmp_path: Path, certificates: Path
) -> None:
    """The same of web.config, and of what it names."""
    shutil.copytree(certificates, tmp_path, dirs_exist_ok=True)
    config, web = tmp_path / "a.toml", tmp_path / "web.yml"
    config.write_text(f'[run]\nweb-config-file = "{web}"\n')
    with Kernelless(config) as daemon:
        _reload_each(daemon, web, kind)


def _reload_each(daemon: Kernelless, path: Path, kind: dict[str, Bad]) -> None:
    _count_one(daemon)
    for name, bad in kind.items():
        remove(path)
        bad.put(path)
        said = daemon.reload()
        assert bad.said in said, name
        assert said.endswith("; all settings stay as they are"), name
        with urlopen(f"http://{daemon.address}/metrics", timeout=10) as answer:
            assert b'shadowwatch_allocations_total{vm="4711",level="1"} 1\n' in answer.read(), name
    daemon.end()


def _count_one(daemon: Kernelless) -> None:
    story = Story()
    story.ns = time.monotonic_ns()
    story.alloc(1)
    daemon.put(story.records())


@pytest.mark.parametrize(("name", "bad"), (PLACES | TOML).items(), ids=(PLACES | TOML).keys())
def test_a_check_says_what_is_wrong(name: str, bad: Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same line as at a reload, in short time, and exit code 1."""
    path = tmp_path / "a.toml"
    bad.put(path)
    assert main(["run", "--config.check", "--config", str(path)]) == 1
    _one_line(bad, capsys)


@pytest.mark.parametrize(("name", "bad"), (PLACES | WEB).items(), ids=(PLACES | WEB).keys())
def test_a_check_says_what_is_wrong_with_a_web_configuration(
    name: str, bad: Bad, tmp_path: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is checked although there is no other file."""
    shutil.copytree(certificates, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "web.yml"
    bad.put(path)
    assert main(["run", "--config.check", "--web.config.file", str(path)]) == 1
    _one_line(bad, capsys)


def _one_line(bad: Bad, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = capsys.readouterr()
    assert out == ""
    assert bad.said in err
    assert err.startswith("shadowwatch: ")
    assert err.count("\n") == 1
    assert len(err) < 1100


def test_a_check_names_what_it_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A web.config alone, and both."""
    config, web = tmp_path / "a.toml", tmp_path / "web.yml"
    config.write_text("[run]\n")
    web.write_text("")
    assert main(["run", "--config.check", "--web.config.file", str(web)]) == 0
    assert capsys.readouterr().out == f"shadowwatch: {web} is valid\n"
    assert main(["run", "--config.check", "--config", str(config), "--web.config.file", str(web)]) == 0
    assert capsys.readouterr().out == f"shadowwatch: {config} is valid\nshadowwatch: {web} is valid\n"


def test_a_configuration_is_utf_8_and_may_have_a_mark_that_says_so(tmp_path: Path) -> None:
    """Whatever the locale is; Windows' editors put the mark there."""
    config = tmp_path / "a.toml"
    config.write_bytes("\ufeff[run]\nuser = 'büro'\n".encode())
    script = "import sys; from shadowwatch.config import read; print(ascii(read(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "{'run': {'user': 'b\\xfcro'}}\n"


def test_what_nobody_thought_of_changes_nothing_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the program itself is one line, too, while a daemon has a model to lose."""

    def change(value: object) -> None:
        raise ZeroDivisionError("oh")

    config = tmp_path / "a.toml"
    config.write_text("")
    Reload(str(config), {"ring_mib": 4}, {}, {"ring_mib": change}).turn()
    said = f"shadowwatch: cannot read {config}: ZeroDivisionError('oh'); all settings stay as they are\n"
    assert capsys.readouterr().out == said


def test_a_reader_of_its_lines_that_goes_ends_no_daemon(tmp_path: Path) -> None:
    """As `tee` does: what it says of reloads is lost, and the metrics are not."""
    config = tmp_path / "a.toml"
    config.write_text("no TOML")
    with Kernelless(config) as daemon:
        stdout, daemon.process.stdout = daemon.process.stdout, None
        assert stdout
        stdout.close()
        daemon.process.send_signal(RELOAD_SIGNAL)
        pending = re.compile("^ShdPnd:\t0*1$", re.MULTILINE)
        while pending.search(Path(f"/proc/{daemon.process.pid}/status").read_text()):
            assert daemon.process.poll() is None
        for _ in range(2):  # a look may have been under way
            _count_one(daemon)
