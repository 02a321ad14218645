"""What a signal does depends on whether somebody looks, now and not before."""

import signal

import pytest

from grasp_lora.stopping import Interrupted, Stopping


def test_a_signal_ends_at_once_when_nobody_looks_any_more():
    stopping = Stopping()
    with stopping.on_signals():
        with stopping.looked_at():
            pass
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_what_was_asked_before_does_not_end_what_begins_now():
    stopping = Stopping()
    with stopping.on_signals(), stopping.looked_at():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        stopping.end("it ended")
    with stopping.on_signals():
        assert stopping.requested == 0
