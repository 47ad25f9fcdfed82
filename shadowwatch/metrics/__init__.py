# SPDX-License-Identifier: Apache-2.0
"""Snapshots as Prometheus metrics. The only user of prometheus_client."""
