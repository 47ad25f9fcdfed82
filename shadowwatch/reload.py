# SPDX-License-Identifier: Apache-2.0
"""Settings that change while the daemon runs: the file is read anew, and the model stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shadowwatch.config import DEFAULT, TABLES, read, settle
from shadowwatch.errors import ShadowwatchError
from shadowwatch.log import Level, say


class Reload:
    """The settings of `run` as they are, and who changes those that are `live`."""

    def __init__(
        self,
        config: str | None,
        settings: Mapping[str, Any],
        given: Mapping[str, Any],
        changes: Mapping[str, Callable[[Any], None]],
    ) -> None:
        """`changes` maps a live setting's name to what takes its value, and ShadowwatchError refuses it."""
        self._config = config
        self._now = dict(settings)
        self._given = given
        self._changes = changes

    def turn(self) -> None:
        """Read the file; what is not right in it leaves all as it is, and what cannot change is said."""
        try:
            values = settle("run", read(self._config), self._given)
        except ShadowwatchError as error:
            say(f"{error}; all settings stay as they are", Level.WARNING)
            return
        changed, fixed = [], []
        for setting in TABLES["run"]:
            value = values[setting.name]
            if value == self._now[setting.name]:
                continue
            if setting.live:
                self._changes[setting.name](value)
                self._now[setting.name] = value
                changed.append(f"{setting.key} is {'the default' if value is None else value}")
            else:
                fixed.append(setting.key)
        what = ", ".join(changed) or "nothing changes"
        restart = f"; for {', '.join(fixed)} restart shadowwatch" if fixed else ""
        say(f"read {self._config or DEFAULT} anew: {what}{restart}", Level.WARNING if fixed else Level.INFO)
