# SPDX-License-Identifier: Apache-2.0
"""What shadowwatch says when the world is not as it must be."""

from __future__ import annotations


class ShadowwatchError(Exception):
    """One line for a person: what happened, to what, and the cure."""
