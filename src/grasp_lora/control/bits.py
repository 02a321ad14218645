"""The k-th smallest of many floats, and floats under a mask, where PyTorch is slow on a CPU.

A float that is not negative has larger bits, read as an integer, where it is larger. So the upper bits are
counted instead of all being sorted, and integers are multiplied by a mask instead of branching at each entry.
All results are what sorting and `torch.where` give, to the last bit.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from grasp_lora.control.blocks import Blocks

__all__ = ["CPU", "kth_smallest", "multiply", "take", "take_each", "zero_outside"]

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


def multiply(tensors: Blocks, masks: Blocks, out: Sequence[Tensor]) -> None:
    """out = tensor * mask.

    A CPU widens masks many at a time if they are bytes, booleans one by one.
    """
    if out[0].device == CPU:
        for tensor, mask, product in zip(tensors, masks, out, strict=True):
            torch.mul(tensor, mask.view(torch.int8), out=product)
    else:
        for of, block, mask in zip(tensors.order, tensors.blocks, masks.blocks, strict=True):
            torch._foreach_copy_([out[i] for i in of], [*(block * mask).unbind(0)])


def zero_outside(tensors: Mapping[int, Tensor], masks: Blocks) -> None:
    """tensor *= mask, of those tensors that there are, each beside the mask of its number."""
    for of, block in zip(masks.order, masks.blocks, strict=True):
        own = [i for i in of if i in tensors]
        if block.device == CPU:
            for i in own:
                tensors[i].mul_(masks[i].view(torch.int8))
        elif own:  # numbers of one type, or each tensor is a call of its own
            kept = dict(zip(of, block.to(tensors[own[0]].dtype).unbind(0), strict=True))
            torch._foreach_mul_([tensors[i] for i in own], [kept[i] for i in own])


def take(into: Tensor, other: Tensor, where: Tensor) -> None:
    """into[where] = other[where]."""
    if into.device != CPU:
        torch.where(where, other, into, out=into)
        return
    integers = _INTEGERS[into.element_size()]
    into, other = into.view(integers), other.view(integers)
    into ^= (into ^ other).mul_(where.view(torch.int8))


def take_each(into: Blocks, others: Sequence[Tensor], where: Blocks) -> None:
    """`take` of all tensors."""
    if into[0].device == CPU:
        for each in zip(into, others, where, strict=True):
            take(*each)
    else:
        for of, block, mask in zip(into.order, into.blocks, where.blocks, strict=True):
            take(block, torch.stack([others[i] for i in of]), mask)
