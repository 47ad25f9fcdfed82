# SPDX-License-Identifier: Apache-2.0
"""The RFC's ideas, measured: workloads × policies × limits × seeds, what the kernel did, and what was predicted."""
