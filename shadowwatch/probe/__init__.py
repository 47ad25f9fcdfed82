# SPDX-License-Identifier: Apache-2.0
"""What this host offers, which hooks serve which probe point, and the attached probes."""
