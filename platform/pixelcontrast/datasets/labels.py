"""The classes of a data set: names, colours, and the map from what its files hold to what is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IGNORE_INDEX = 255
"""The train id of pixels that no loss and no metric counts."""


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """The classes of a data set, by train id 0 … num_classes − 1.

    Two data sets that have the same classes in the same order have equal ``names`` and ``colors``.
    """

    names: tuple[str, ...]
    """Class names, by train id."""
    colors: tuple[tuple[int, int, int], ...]
    """RGB of each class for pictures, by train id."""
    train_ids: Mapping[int, int]
    """Raw id in the label files → train id or ``IGNORE_INDEX``. A raw id that is no key must not occur."""

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.colors)
        assert set(self.train_ids.values()) <= {*range(len(self.names)), IGNORE_INDEX}

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored pixels."""
        return len(self.names)

    def encode(self, raw: np.ndarray, *, file: Path) -> Tensor:
        """Map raw ids to train ids.

        Args:
            raw: [H, W] uint8, as stored.
            file: where they come from, for the error.

        Returns:
            [H, W] uint8 train ids, ``IGNORE_INDEX`` where ignored.

        Raises:
            ValueError: ids that must not occur in this data set.
        """
        # bytes.translate is twice as fast as indexing an array, and finds unknown ids on the way.
        content = bytearray(np.ascontiguousarray(raw))
        unknown = sorted(set(content.translate(None, delete=bytes(self.train_ids))))
        if unknown:
            allowed = _ranges(sorted(self.train_ids))
            raise ValueError(f"{file}: unknown label ids: {_ranges(unknown)}; allowed are {allowed}")
        return torch.frombuffer(content.translate(self._table), dtype=torch.uint8).reshape(raw.shape)

    @cached_property
    def _table(self) -> bytes:
        """The train id of each raw id 0 … 255."""
        return bytes(self.train_ids.get(raw_id, IGNORE_INDEX) for raw_id in range(256))


def _ranges(ids: list[int]) -> str:
    """Ascending ids as text: 0–33, 255."""
    runs: list[list[int]] = []
    for raw_id in ids:
        if runs and runs[-1][1] == raw_id - 1:
            runs[-1][1] = raw_id
        else:
            runs.append([raw_id, raw_id])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
