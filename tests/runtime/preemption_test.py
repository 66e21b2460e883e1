import os
import signal
import sys

import pytest

from jaxlab.runtime.preemption import Preemption, exit_on_sigterm


def test_a_signal_is_a_request_and_the_second_interrupt_interrupts(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # as in a notebook
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested
        assert preemption.reached(2)
        with pytest.raises(SystemExit) as leaving:
            preemption.leave()
        assert leaving.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.reached(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_request_ends_what_can_be_done_again_and_nothing_else():
    reached = []
    with Preemption() as preemption:
        with preemption.interrupting():
            reached.append("before")
        with preemption.interrupting():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append("after the signal")
            except Exception:
                reached.append("taken for an error")
        reached.append("behind")
        assert preemption.pending
        # Another request, outside of it, interrupts nothing.
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("saved")
    assert reached == ["before", "behind", "saved"]


def test_sigterm_elsewhere_is_an_exception_so_that_scratch_files_go():
    before = signal.getsignal(signal.SIGTERM)
    try:
        exit_on_sigterm()
        with pytest.raises(SystemExit) as leaving:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert leaving.value.code == 143
