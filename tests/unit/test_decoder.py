# SPDX-License-Identifier: Apache-2.0
"""Whose event it is, what is missing and who has ended: the model and the simulator hear the same."""

from __future__ import annotations

from shadowwatch.event.abi import Flags
from shadowwatch.mmu.model import Model
from shadowwatch.simulate.simulator import Simulator
from tests.unit.heard import Heard, grown, spt
from tests.unit.kernel import Kernel
from tests.unit.story import FACTS, FUNCTIONS, ROLES

VMS = 50


def test_vms_whose_end_was_lost_leave_nothing_in_the_simulator() -> None:
    """As in the model, a walk over vm_list ends them; their estimates stay."""
    kernel = Kernel()
    model, simulator = Model(ROLES, FUNCTIONS), Simulator(FACTS, "parents")

    def hear() -> None:
        records = kernel.ring.take()
        model.feed(records)
        simulator.feed(records)

    for number in range(VMS):
        grown(kernel.add(0x1000 * (number + 1), number))
    hear()
    assert (len(model.living()), len(simulator.living())) == (VMS, VMS)
    kernel.ring.full = lambda: True
    for kvm in list(kernel.vms_by_address):
        kernel.end(kvm)
    kernel.ring.full = lambda: False
    assert kernel.vms(1, True) & Flags.LAST
    hear()
    assert (model.living(), simulator.living()) == ((), ())
    assert len(simulator.estimates()) == VMS


def test_what_is_lost_during_the_first_walk_spoils_it() -> None:
    """A VM that ran before the probes came has had no number yet when its walk begins, and none is missing."""
    heard = Heard(unheard=True)
    vm = heard.vm
    vm.seq = 0
    vm.step_records = 3
    vm.wanted = 1
    vm.make_step()
    heard.hear()
    heard.kernel.ring.full = lambda: True
    vm.zap(vm.oldest())
    heard.kernel.ring.full = lambda: False
    while vm.place.next is not None:
        vm.make_step()
    heard.hear()
    assert not heard.model.vm(vm.kvm).exact
    assert heard.model.vm(vm.kvm).lost == 1


def test_a_page_that_came_before_a_loss_is_not_taken_for_known() -> None:
    """The simulator begins again, as the model does, also when the first number that it hears is a walk's."""
    heard = Heard(unheard=True)
    vm = heard.vm
    vm.seq = 0
    simulator = Simulator(FACTS, "parents")
    heard.kernel.walk(vm.kvm, 1, True)
    simulator.feed(heard.kernel.ring.take())
    (simulated,) = simulator.living()
    assert not simulated.blank
    heard.kernel.ring.full = lambda: True
    vm.zap(spt(12))
    heard.kernel.ring.full = lambda: False
    heard.kernel.walk(vm.kvm, 2, True)
    records = heard.kernel.ring.take()
    simulator.feed(records[:88])
    assert simulated.blank
