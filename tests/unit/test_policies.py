# SPDX-License-Identifier: Apache-2.0
"""Which policies are simulated, and under which limits."""

from __future__ import annotations

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.simulate.policies import AS_RECORDED, choose, limit, parsed


def test_limits_are_pages_or_times() -> None:
    """And under each the policies that were chosen; the recorded limit is always there."""
    assert [limit(text).instead_of(64) for text in ("128", "2x", "1.5x", "0.5x")] == [128, 128, 96, 64]
    assert AS_RECORDED.instead_of(70) == 70
    assert choose(["stock", "parents"], ["96", "2x"]) == (
        *("stock", "stock@96", "stock@2x"),
        *("parents", "parents@96", "parents@2x"),
    )
    assert choose(["stock@2x"], []) == ("stock@2x",)
    assert parsed("stock@2x")[0].name == "stock"


@pytest.mark.parametrize("text", ["", "x", "0x", "63", "2 x", "1e3", "-128", "99999999999", "nanx", "2x2"])
def test_what_is_no_limit_is_said(text: str) -> None:
    """With what to give."""
    with pytest.raises(
        ShadowwatchError, match="is not a limit; give a number of shadow pages from 64 on, or times the"
    ):
        choose(["stock"], [text])
