# SPDX-License-Identifier: Apache-2.0
"""Grafana's dashboards: each panel is one declaration, and `make dashboards` writes the JSON files beside them."""
