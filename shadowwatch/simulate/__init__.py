# SPDX-License-Identifier: Apache-2.0
"""What reclaim would have done in another order: recorded events → simulated lists → estimates."""
