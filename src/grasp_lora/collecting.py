"""Collecting reference cycles without a look at all that was imported."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["old_objects_left_alone"]


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Within, the collector of reference cycles looks only at objects that are made within.

    Every stage collects what the one before left, as a Trainer leaves its model, and a plan is many small
    objects; the modules of torch and transformers are a million more, and looking at them takes half a second
    each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
