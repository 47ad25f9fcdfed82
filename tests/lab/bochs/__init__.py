# SPDX-License-Identifier: Apache-2.0
"""A KVM host with Intel's virtualization: Bochs emulates VMX with EPT, which QEMU without acceleration does not."""
