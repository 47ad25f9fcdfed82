# SPDX-License-Identifier: Apache-2.0
"""Tests: unit tests mirror the package; tests/lab runs the daemon on a real kernel."""
