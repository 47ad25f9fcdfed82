# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: figures for people, and each as a line of JSON."""
