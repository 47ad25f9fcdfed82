# SPDX-License-Identifier: Apache-2.0
"""The project on each Debian release that it is for, with next to nothing installed."""
