# SPDX-License-Identifier: Apache-2.0
"""Debian's own Prometheus: unpacked, not installed, so that no service of that name starts on this machine."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.parse import urlencode

import yaml

from tests.lab.cache import Cache, default_root
from tests.lab.command import output, tail
from tests.lab.connection import free_port
from tests.lab.debian import Apt, sources
from tests.lab.ending import Ending
from tests.lab.errors import LabError
from tests.lab.hosts import DEFAULT, HOSTS
from tests.lab.machine import quiet

PACKAGE = "prometheus"
#: The time between two scrapes, and between two evaluations of the rules.
INTERVAL = "2s"

#: The emulated machine may have little of a busy processor.
SECONDS = 150.0

Labels = Mapping[str, str]
T = TypeVar("T")


@functools.cache
def prepare() -> Path:
    """Return a folder with the programs prometheus and promtool, made when it is not in the cache."""
    cache = Cache(default_root(), quiet)
    apt = Apt(cache, DEFAULT, sources(HOSTS[DEFAULT].kernel))

    def newest() -> Path:
        version = apt.show(PACKAGE, "Version")
        return cache.artifact(PACKAGE, [version], lambda folder: apt.unpack(folder, {PACKAGE: version}))

    return apt.fetch(newest) / "usr/bin"


def promtool(*words: str | Path) -> str:
    """Return what promtool says; LabError with its last words when it is not content."""
    return output([prepare() / "promtool", *words])


def hastened(rules: str, durations: Mapping[str, str]) -> str:
    """Return the same rules with other durations, in `for` and in brackets: nobody waits ten minutes in a test."""
    whole = yaml.safe_load(rules)
    for group in whole["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{durations[found[1]]}]", rule["expr"])
            if "for" in rule:
                rule["for"] = durations[rule["for"]]
    return yaml.safe_dump(whole)


class Prometheus(Ending):
    """A server that scrapes one port of this machine and evaluates rules; quit() ends it."""

    def __init__(self, folder: Path, port: int, rules: str) -> None:
        (folder / "rules.yml").write_text(rules)
        scrape = {"job_name": "shadowwatch", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        configuration = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": ["rules.yml"],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        listen = f"127.0.0.1:{free_port()}"
        self._address = f"http://{listen}"
        self._log = folder / "log"
        command = [
            *("setpriv", "--pdeathsig=KILL", str(prepare() / "prometheus"), f"--web.listen-address={listen}"),
            *(f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--log.level=warn"),
        ]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.until(self._answers, True)
        except BaseException:
            self.quit()
            raise

    def ask(self, expr: str) -> list[tuple[Labels, float]]:
        """Evaluate a query now; LabError when Prometheus finds fault with it."""
        data = self._get("query", query=expr)
        found = [({}, data["result"])] if data["resultType"] == "scalar" else data["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def firing(self, **labels: str) -> set[str]:
        """Return the names of the alerts with these labels that fire now."""
        return {
            alert["labels"]["alertname"]
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing" and labels.items() <= alert["labels"].items()
        }

    def until(self, look: Callable[[], T], wanted: T, seconds: float = SECONDS) -> None:
        """Look again and again until there is what is wanted; LabError with what there was when it never is."""
        deadline = time.monotonic() + seconds
        while (found := look()) != wanted:
            if time.monotonic() > deadline or self._process.poll() is not None:
                said = tail(self._log.read_text())
                raise LabError(f"Prometheus has {found} and not {wanted} in {seconds:.0f} s; it said: {said}")
            time.sleep(0.2)

    def quit(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.ask("up"))
        except (URLError, ConnectionError):  # it is about to listen
            return False

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self._address}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise LabError(f"Prometheus refuses {parameters}: {error.read().decode()}") from None
