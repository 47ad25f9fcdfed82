# SPDX-License-Identifier: Apache-2.0
"""Settings that change while the daemon runs: the file is read again, and the model stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shadowwatch.config import DEFAULT, TABLES, read, settle
from shadowwatch.errors import ShadowwatchError
from shadowwatch.service.log import Level, say


class Reload:
    """The settings of `run` as they are, and who changes those that are `live`."""

    def __init__(
        self,
        config: str | None,
        settings: Mapping[str, Any],
        given: Mapping[str, Any],
        changes: Mapping[str, Callable[[Any], None]],
    ) -> None:
        """`changes` maps a live setting's name to what takes its value; the first may refuse it (ShadowwatchError)."""
        self._config = config
        self._now = dict(settings)
        self._given = given
        self._changes = changes

    def turn(self) -> None:
        """Read the file; what is not right in it leaves all as it is, and what cannot change is said."""
        try:
            values = settle("run", read(self._config), self._given)
            # Also those that are as they were: a file that one names may be another. The one that refuses comes first.
            for name, change in self._changes.items():
                change(values[name])
        except ShadowwatchError as error:
            say(f"{error}; all settings stay as they are", Level.WARNING)
            return
        except Exception as error:  # a model of days is worth more than to know by a traceback what was not thought of
            say(f"cannot read {self._config or DEFAULT}: {error!r}; all settings stay as they are", Level.WARNING)
            return
        different = [setting for setting in TABLES["run"] if values[setting.name] != self._now[setting.name]]
        changed = [f"{setting.key} is {_words(values[setting.name])}" for setting in different if setting.live]
        fixed = [setting.key for setting in different if not setting.live]
        self._now |= {setting.name: values[setting.name] for setting in different if setting.live}
        what = ", ".join(changed) or "no setting changed"
        restart = f"; for {', '.join(fixed)} restart shadowwatch" if fixed else ""
        say(f"read {self._config or DEFAULT} again: {what}{restart}", Level.WARNING if fixed else Level.INFO)


def _words(value: Any) -> str:
    return "the default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
