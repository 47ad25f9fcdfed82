# SPDX-License-Identifier: Apache-2.0
"""Tests on bare Debian releases, as a new machine has them."""
