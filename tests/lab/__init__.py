# SPDX-License-Identifier: Apache-2.0
"""A KVM host under emulation, for tests that need a real kernel and real guests: `python -m tests.lab` shows how."""
