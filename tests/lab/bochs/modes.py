# SPDX-License-Identifier: Apache-2.0
"""The parameters of KVM's modules on Intel."""

from collections.abc import Mapping

from tests.lab.machine import MODES as AMD_MODES
from tests.lab.machine import Mode

#: The same ways to use the shadow MMU as on AMD, by the names that kvm-intel has for the parameters of kvm-amd.
MODES: Mapping[Mode, Mapping[str, Mapping[str, str]]] = {
    mode: {
        "kvm": wanted["kvm"],
        "kvm-intel": {"ept": wanted["kvm_amd"]["npt"], "nested": wanted["kvm_amd"]["nested"]},
    }
    for mode, wanted in AMD_MODES.items()
}
