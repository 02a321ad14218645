"""The k-th smallest of many floats, and floats under a mask, where PyTorch is slow on a CPU.

A float that is not negative has larger bits, read as an integer, where it is larger. So the upper bits are
counted instead of all being sorted, and integers are multiplied by a mask instead of branching at each entry.
All results are what sorting and `torch.where` give, to the last bit.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["CPU", "kth_smallest", "multiply", "take"]

CPU = torch.device("cpu")

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_UPPER = 13  # bits that are counted: 8192 counters stay in a core's own cache, and a bucket has few entries


def kth_smallest(scores: Tensor, ks: Sequence[int]) -> Tensor:
    """The k-th smallest score for each k, as `torch.sort` has it at k - 1.

    Args:
        scores: (d,), on a CPU, without a sign, in float32 or wider.
        ks: Each from 1 to d.
    """
    bits = scores.view(_INTEGERS[scores.element_size()])
    bucket_of = bits >> (8 * scores.element_size() - 1 - _UPPER)
    up_to = np.cumsum(torch.bincount(bucket_of).numpy())  # entries in a bucket and those before it
    entries, buckets = bits.numpy(), bucket_of.numpy()
    found = np.empty(len(ks), entries.dtype)
    for n, bucket in enumerate(np.searchsorted(up_to, ks)):
        inside = entries[buckets == bucket]
        place = ks[n] - 1 - (up_to[bucket - 1] if bucket else 0)
        found[n] = np.partition(inside, place)[place]
    return torch.from_numpy(found).view(scores.dtype)


def multiply(tensors: Sequence[Tensor], masks: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """out = tensor * mask; `out` may be `tensors`.

    A CPU widens masks many at a time if they are bytes, booleans one by one. Elsewhere a call for each tensor
    would take longer than what it does.
    """
    if out and out[0].device != CPU:
        if out is not tensors:
            torch._foreach_copy_(list(out), list(tensors))
        torch._foreach_mul_(list(out), list(masks))
        return
    for tensor, mask, product in zip(tensors, masks, out, strict=True):
        torch.mul(tensor, mask.view(torch.int8), out=product)


def take(into: Tensor, other: Tensor, where: Tensor) -> None:
    """into[where] = other[where]."""
    if into.device != CPU:
        torch.where(where, other, into, out=into)
        return
    integers = _INTEGERS[into.element_size()]
    into, other = into.view(integers), other.view(integers)
    into ^= (into ^ other).mul_(where.view(torch.int8))
