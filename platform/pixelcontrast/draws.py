"""Random draws that are a pure function of integers: the same on CPU and CUDA, on any number of workers.

No generator is ever advanced. A draw is named by what it is for, e.g. (seed, stream, position, pixel), so
whoever needs it can compute it, in any order and in any process.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK_63, _MASK_64 = (1 << 63) - 1, (1 << 64) - 1


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
    return torch.as_tensor(_chain(0, counters)) & _MASK_63


def streams(seed: int, names: Sequence[int], first: Tensor, *counters: int | Tensor) -> Tensor:
    """``hashed(seed, name, first, *counters)`` of every name, stacked: in one go, as a GPU likes it."""
    states = torch.stack([first ^ _chain(0, (seed, name)) for name in names])
    return torch.as_tensor(_chain(_mix(states + _GOLDEN), counters)) & _MASK_63


def _chain(state: int | Tensor, counters: Sequence[int | Tensor]) -> int | Tensor:
    for counter in counters:
        state = (state ^ counter) + _GOLDEN
        state = _mix_int(state) if isinstance(state, int) else _mix(state)
    return state


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


def _mix_int(value: int) -> int:
    """``_mix`` of an int64, without tensors: a GPU would take as long as for those of a whole map."""
    z = value & _MASK_64
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK_64
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK_64
    return _signed(z ^ (z >> 31))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift in zeros: torch's own >> repeats the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
