# SPDX-License-Identifier: Apache-2.0
"""For all tests: how many examples of a property are tried, and by how many threads numpy works.

A few examples by default, many with --hypothesis-profile=soak.
"""

from __future__ import annotations

import gc
import os

from hypothesis import HealthCheck, settings

# A machine that is busy makes no property fail: no example has a deadline, and none has to be made in a while.
settings.register_profile("soak", max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in every run, so that a change fails by what it did.
settings.register_profile("few", settings.get_profile("soak"), max_examples=10, derandomize=True)
settings.load_profile("few")

# numpy's threads spin while there is nothing to do, and pictures are drawn by one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What tests are collected and reported by stays to the end: to look for garbage in it is a fifth of the time.
gc.set_threshold(50_000, 20, 50)
