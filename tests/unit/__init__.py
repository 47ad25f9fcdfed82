# SPDX-License-Identifier: Apache-2.0
"""Tests that need no kernel of their own."""
