"""Waiting for what another process does."""

import time


def wait_for(condition, seconds=180):
    """What the condition gives, once that is anything; it fails after so many seconds."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found
