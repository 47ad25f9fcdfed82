# SPDX-License-Identifier: Apache-2.0
"""What people see: in a terminal, by rich, and in pictures, by matplotlib."""
