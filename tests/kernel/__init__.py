# SPDX-License-Identifier: Apache-2.0
"""Tests on real kernels, in the lab: what the daemon says against what the kernel says."""
