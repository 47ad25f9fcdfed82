# SPDX-License-Identifier: Apache-2.0
"""The model: each VM's shadow pages, their parents and children, and active_mmu_pages."""
