# SPDX-License-Identifier: Apache-2.0
"""Things in the lab that have to be ended."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Ending(ABC):
    """A guest, say: quit() ends it, or the end of a `with` statement."""

    @abstractmethod
    def quit(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quit()
