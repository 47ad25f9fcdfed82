# SPDX-License-Identifier: Apache-2.0
"""HTTP with TLS and passwords, as Prometheus' exporter-toolkit is configured. It knows nothing of what is served."""
