# SPDX-License-Identifier: Apache-2.0
"""The long-running half, without any privilege: `python -m shadowwatch.daemon`."""
