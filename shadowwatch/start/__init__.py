# SPDX-License-Identifier: Apache-2.0
"""The privileged half: attach, give everything up, become the long-running half."""
