# SPDX-License-Identifier: Apache-2.0
"""Files of events: written, read, played again, and counted over time."""
