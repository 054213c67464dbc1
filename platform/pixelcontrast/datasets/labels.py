"""The classes of a data set: names, colours, and the map from what its files hold to what is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from pixelcontrast.datasets.files import FileError

IGNORE_INDEX = 255
"""The train id of pixels that no loss and no metric counts."""

Color = tuple[int, int, int]
"""Red, green and blue, 0 … 255."""

_UNKNOWN = 256
"""Marks, among train ids of 16 bits, a raw id that must not occur."""


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """The classes of a data set, by train id 0 … num_classes − 1.

    Two data sets that have the same classes in the same order have equal ``names`` and ``colors``.
    """

    names: tuple[str, ...]
    """Class names, by train id."""
    colors: tuple[Color, ...]
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
            raw: [H, W] uint8 or uint16, as stored.
            file: where they come from, for the error.

        Returns:
            [H, W] uint8 train ids, ``IGNORE_INDEX`` where ignored.

        Raises:
            ValueError: ids that must not occur in this data set.
        """
        if raw.dtype != np.uint8:
            return self._encode_wide(raw, file)
        # bytes.translate is twice as fast as indexing an array, and finds unknown ids on the way.
        content = bytearray(np.ascontiguousarray(raw))
        unknown = set(content.translate(None, delete=self._known))
        if unknown:
            self._refuse(unknown, file)
        return torch.frombuffer(content.translate(self._table), dtype=torch.uint8).reshape(raw.shape)

    def _encode_wide(self, raw: np.ndarray, file: Path) -> Tensor:
        """The same for uint16 ids, as PASCAL-Context's 459 need them."""
        encoded = self._wide_table[raw]
        if encoded.max(initial=0) == _UNKNOWN:
            self._refuse(set(raw[encoded == _UNKNOWN].tolist()), file)
        return torch.from_numpy(np.ascontiguousarray(encoded, dtype=np.uint8))

    def _refuse(self, unknown: set[int], file: Path) -> NoReturn:
        raise FileError(
            f"{file}: unknown label ids: {ranges(sorted(unknown))}; "
            f"allowed are {ranges(sorted(self.train_ids))}",
            remedy="correct the mask, or the layout (of a folder: the ids in its dataset.toml)",
        )

    @cached_property
    def _table(self) -> bytes:
        """The train id of each raw id 0 … 255."""
        return bytes(self.train_ids.get(raw_id, IGNORE_INDEX) for raw_id in range(256))

    @cached_property
    def _known(self) -> bytes:
        """The raw ids up to 255 that may occur."""
        return bytes(raw_id for raw_id in self.train_ids if raw_id < 256)

    @cached_property
    def _wide_table(self) -> np.ndarray:
        """The train id of each raw id 0 … 65535, uint16; ``_UNKNOWN`` for those that must not occur."""
        table = np.full(1 << 16, _UNKNOWN, np.uint16)
        table[list(self.train_ids)] = list(self.train_ids.values())
        return table


def voc_color(index: int) -> Color:
    """The colour of a class in PASCAL VOC's colour map: the bits of its number dealt to red, green and blue.

    Source: ``VOClabelcolormap.m`` of the VOC development kit. The first 256 colours all differ.
    """
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


def ranges(ids: list[int]) -> str:
    """Ascending ids as text: 0–33, 255."""
    runs: list[list[int]] = []
    for raw_id in ids:
        if runs and runs[-1][1] == raw_id - 1:
            runs[-1][1] = raw_id
        else:
            runs.append([raw_id, raw_id])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
