# SPDX-License-Identifier: Apache-2.0
"""What is fed to the daemon from outside, from seeds that are nearly right: a property of each, with many inputs.

An input is a seed with a few edits; Hypothesis chooses the edits, keeps and shortens those that fail. Since it takes
longer to choose them than most inputs take, they are done to every seed, and at several places of each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

#: Where: a 65,536th of the seed. How much goes there, what comes there, and how often.
Edit = tuple[int, int, bytes, int]

#: Examples in one run of Hypothesis, which is told how many there are and not how long they take.
EXAMPLES = 50

#: Where Hypothesis keeps what failed, to try it first the next time.
FOUND = Path(__file__).parents[2] / ".hypothesis" / "examples"

#: No input may take longer: the loop of a daemon that has one waits for it.
LONGEST_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Target:
    """`feed` takes an input, and raises what must not be; `words` are what its language has.

    `places` is at how many places of a seed the same edits are done.
    """

    name: str
    feed: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    places: int = 1


def seconds() -> float:
    """How much of the processor's time each target has."""
    return float(os.environ.get("SHADOWWATCH_FUZZ_SECONDS", "10"))


def edited(whole: bytes, edits: Sequence[Edit]) -> bytes:
    """The seed after these edits, one after the other."""
    for where, less, more, times in edits:
        place = len(whole) * where >> 16
        whole = whole[:place] + more * times + whole[place + less :]
    return whole


def _edits(words: Sequence[bytes]) -> st.SearchStrategy[list[Edit]]:
    edit = st.tuples(
        st.integers(0, 65_535),
        st.sampled_from((0, 0, 1, 2, 7, 40)),
        st.sampled_from(words) | st.binary(max_size=4),
        st.sampled_from((1, 1, 1, 1, 2, 300)),
    )
    return st.lists(edit, min_size=1, max_size=5)


@contextmanager
def _in_time(data: bytes) -> Iterator[None]:
    begun = time.process_time()
    yield
    took = time.process_time() - begun
    assert took < LONGEST_SECONDS, f"{took:.1f} s for {data[:2000]!r}"


def fuzz(target: Target, duration: float) -> int:
    """Feed it for so many seconds of processor time; returns how many inputs. What failed before is tried first."""
    fed = 0
    end = time.process_time() + duration

    @given(_edits(target.words))
    def each_seed(edits: list[Edit]) -> None:
        nonlocal fed
        for whole, place in product(target.seeds, range(target.places)):
            shift = (place << 16) // target.places
            data = edited(whole, [((where + shift) & 65_535, less, more, times) for where, less, more, times in edits])
            with _in_time(data):
                target.feed(data)
            fed += 1

    # A name of its own in Hypothesis' memory of what failed.
    each_seed.hypothesis.inner_test.__qualname__ = f"fuzz.{target.name}"  # type: ignore[attr-defined]
    settings(
        max_examples=EXAMPLES,
        derandomize=False,
        database=DirectoryBasedExampleDatabase(FOUND),
        deadline=None,
        phases=(Phase.reuse, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(each_seed)
    while time.process_time() < end:
        each_seed()
    return fed
