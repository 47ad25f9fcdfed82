# SPDX-License-Identifier: Apache-2.0
"""Labs for each file of tests: one with the patched KVM, one with Debian's own, the daemon as a service in both."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.kernel.watched import AUDITS, Watched
from tests.lab.hosts import Kvm
from tests.lab.machine import Lab, say
from tests.lab.snapshot import ready


@pytest.fixture(scope="module")
def patched() -> Iterator[Watched]:
    """The patched KVM, which serves all orders."""
    yield from watched("patched")


@pytest.fixture(scope="module")
def stock() -> Iterator[Watched]:
    """Debian's own KVM."""
    yield from watched("stock")


@pytest.fixture
def fresh() -> Iterator[Watched]:
    """Debian's own KVM, in a lab for one test that ends the daemon or takes KVM away."""
    yield from watched("stock")


@pytest.fixture
def bare() -> Iterator[Lab]:
    """Debian's own KVM without the daemon, in a lab for one test."""
    with ready("bare", kvm="stock", progress=say) as lab:
        yield lab


def watched(kvm: Kvm) -> Iterator[Watched]:
    """A lab that goes on from where the daemon had just become ready."""
    with ready(kvm, kvm=kvm, daemon=AUDITS, progress=say) as lab:
        yield Watched(lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Of each lab that a failed test used, say what became of it."""
    report = yield
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        for name, used in getattr(item, "funcargs", {}).items():
            lab = used.lab if isinstance(used, Watched) else used
            if isinstance(lab, Lab) and (trouble := lab.trouble()):
                report.sections.append((name, trouble))
    return report
