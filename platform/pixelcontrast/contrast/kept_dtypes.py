"""Modules whose buffers a cast of the whole network leaves in the dtypes that they need."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class KeepsDtypes(nn.Module):
    """A module whose buffers keep their dtypes under ``half()``, ``double()``, ``to(dtype)`` and ``type()``.

    A network that holds the module is cast as a whole. Its parameters may lose precision; sums in float64,
    counters, and a memory whose dtype is a setting may not. Moves to another device act as on any module.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def without_cast(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(without_cast, recurse)
