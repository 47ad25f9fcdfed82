# SPDX-License-Identifier: Apache-2.0
"""The reader of function graphs, by which `shadowwatch cost` is judged."""

from __future__ import annotations

from tests.kernel.durations import Fault, parse

GRAPH = """\
# tracer: function_graph
#
# CPU  TASK/PID         DURATION                  FUNCTION CALLS
# |     |    |           |   |                     |   |   |   |
 0)    vmm-174     |               |  /* kvm_mmu_get_page: sp gen 0 gfn 205 l4 8-byte q0 wux nxe ad root 0 sync new */
 0)    vmm-174     |               |  paging64_page_fault [kvm]() {
 1)   CPU-3-180    |               |  direct_page_fault() {
 0)    vmm-174     | + 32.508 us   |    kvm_mmu_zap_oldest_mmu_pages [kvm]();
 0)    vmm-174     |               |  /* kvm_mmu_get_page: sp gen 0 gfn 206 l3 8-byte q0 w-x nxe ad root 0 sync new */
 0)    vmm-174     |               |  /* kvm_mmu_get_page: sp gen 0 gfn 207 l2 8-byte q0 w-x nxe ad root 0 sync new */
 0)    vmm-174     |               |  /* kvm_mmu_get_page: sp gen 0 gfn 208 l1 8-byte q0 w-x nxe ad root 0 existing */
 ------------------------------------------
 0)    vmm-174     =>   CPU-3-180
 ------------------------------------------

 1)    vmm-174     | * 21993.66 us |  } /* paging64_page_fault [kvm] */
 1)   CPU-3-180    |               |    kvm_mmu_zap_oldest_mmu_pages.isra.0 [kvm]() {
 1)   CPU-3-180    | ! 113.159 us  |    } /* kvm_mmu_zap_oldest_mmu_pages.isra.0 [kvm] */
 1)   CPU-3-180    | ! 230.000 us  |  } /* direct_page_fault [kvm] */
 0)    vmm-174     |   3.500 us    |  paging64_page_fault [kvm]();
 0)   kswapd0-33   | + 10.000 us   |  kvm_mmu_zap_oldest_mmu_pages [kvm]();
 0)    vmm-174     |               |  paging64_page_fault [kvm]() {
"""


def test_each_fault_has_its_length_its_reclaim_and_its_pages() -> None:
    """By task, on whatever processor; pages that were there are not new, and calls without an end are left out."""
    assert list(parse(GRAPH)) == [
        Fault(us=21993.66, reclaim_us=32.508, reclaims=1, tables=2),
        Fault(us=230.0, reclaim_us=113.159, reclaims=1, tables=0),
        Fault(us=3.5),
    ]


TDP = """\
 0)    vmm-174     |               |  direct_page_fault [kvm]() {
 0)    vmm-174     |               |    kvm_tdp_mmu_map [kvm]() {
 0)    vmm-174     |               |  /* kvm_mmu_get_page: sp gen 0 gfn 206 l3 8-byte q0 direct wux root 1 sync new */
 0)    vmm-174     | + 10.000 us   |    } /* kvm_tdp_mmu_map [kvm] */
 0)    vmm-174     | + 12.000 us   |  } /* direct_page_fault [kvm] */
 0)    vmm-174     |               |  direct_page_fault [kvm]() {
 0)    vmm-174     |   2.000 us    |    kvm_tdp_mmu_map [kvm]();
 0)    vmm-174     |               |  /* kvm_mmu_get_page: sp gen 0 gfn 206 l3 8-byte q0 wux nxe ad root 0 sync new */
 0)    vmm-174     |   4.000 us    |  } /* direct_page_fault [kvm] */
"""


def test_pages_of_the_tdp_mmu_are_no_shadow_pages() -> None:
    """A nested guest's host has both, which are told by the same event."""
    assert list(parse(TDP)) == [Fault(us=12.0), Fault(us=4.0, tables=1)]
