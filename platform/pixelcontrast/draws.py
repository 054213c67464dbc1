"""Random draws that are a pure function of integers: the same on CPU and CUDA, on any number of workers.

No generator is ever advanced. A draw is named by what it is for, e.g. (seed, stream, position, pixel), so
whoever needs it can compute it, in any order and in any process.
"""

import torch
from torch import Tensor

_MASK_63 = (1 << 63) - 1


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that holds it."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def hashed(*counters: int | Tensor) -> Tensor:
    """Hash integers, broadcast against each other, to keys that behave as independent uniform draws.

    A chain of SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014), one link per counter.

    Args:
        counters: ints or int64 tensors of broadcastable shapes; at least one must be a tensor for the
            result to lie on its device.

    Returns:
        int64 keys in [0, 2**63) of the broadcast shape.
    """
    state = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        counter = torch.as_tensor(counter, dtype=torch.int64)
        if counter.ndim:
            state = state.to(counter.device)
        state = _mix((state ^ counter) + _GOLDEN)
    return state & _MASK_63


def uniform(*counters: int | Tensor) -> Tensor:
    """``hashed`` as float64 in [0, 1)."""
    return (hashed(*counters) >> 10).to(torch.float64) / float(1 << 53)


def permutation(n: int, *counters: int) -> Tensor:
    """A permutation of 0 … n−1, int64 [n]: the order of n hashed keys."""
    return torch.argsort(hashed(*counters, torch.arange(n)), stable=True)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift in zeros: torch's own >> repeats the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
