# SPDX-License-Identifier: Apache-2.0
"""The commands, one file each: what the command line asks of people, and what is done then."""
