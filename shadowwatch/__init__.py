# SPDX-License-Identifier: Apache-2.0
"""Watch KVM reclaim shadow pages: the tree, the list and the zaps that should not have been."""

__version__ = "0.1.0"
