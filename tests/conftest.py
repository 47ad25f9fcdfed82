# SPDX-License-Identifier: Apache-2.0
"""How many examples of a property are tried: a few by default, many with --hypothesis-profile=soak."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine that is busy makes no property fail: no example has a deadline, and none has to be made in a while.
settings.register_profile("soak", max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in every run, so that a change fails by what it did.
settings.register_profile("few", settings.get_profile("soak"), max_examples=10, derandomize=True)
settings.load_profile("few")
