# SPDX-License-Identifier: Apache-2.0
"""Asking a running daemon, through its socket."""
