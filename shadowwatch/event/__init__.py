# SPDX-License-Identifier: Apache-2.0
"""Wire events: their layout, the ring that they arrive in, and the files that keep them."""
