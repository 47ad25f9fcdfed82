# SPDX-License-Identifier: Apache-2.0
"""The privileged half: host facts → plan → attached probes → exec of the other half."""
