"""Pixels of a split, as many of each class and the same ones for every network, with a network's features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelcontrast.contrast.maps import nearest, pixel_rows, unit
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.draws import hashed

_STREAM = int.from_bytes(b"inspect")
"""Sets these draws apart from all others that are keyed on an image and a pixel."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """n labelled pixels, where they are and what a network makes of them; each field has n rows."""

    classes: Tensor
    """int64: the true class."""
    images: Tensor
    """int64: the image's index in the split."""
    rows: Tensor
    """int64: in the image."""
    columns: Tensor
    keys: Tensor
    """int64: the smallest of a class are drawn."""
    predicted: Tensor
    """int64."""
    layers: Mapping[str, Tensor]
    """The layer's name → float32 [n, D], rows of unit length."""

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, places: Tensor) -> "Pixels":
        """Some of them, in that order."""
        return Pixels(
            classes=self.classes[places],
            images=self.images[places],
            rows=self.rows[places],
            columns=self.columns[places],
            keys=self.keys[places],
            predicted=self.predicted[places],
            layers={name: rows[places] for name, rows in self.layers.items()},
        )


def draw_pixels(
    image: int,
    label: Tensor,
    prediction: Tensor,
    maps: Mapping[str, Tensor],
    *,
    per_class: int,
    spread_over: Sequence[int],
    align_corners: bool,
) -> Pixels:
    """At most ``per_class`` random pixels of each class of an image; the draw depends on the label alone.

    Args:
        image: its index in the split.
        label: int64 [H, W].
        prediction: int64 [H, W].
        maps: the layer's name → [1, D, h, w], of any size: read at the cell nearest to the pixel.
        spread_over: height and width that the maps' cells cover: the label's, or more where it was padded.
        align_corners: how the network upsamples its logits.
    """
    width = label.shape[1]
    padded_height, padded_width = spread_over
    places = torch.nonzero(label.flatten() != IGNORE_INDEX).squeeze(1)
    keys = hashed(_STREAM, image, places)
    chosen = _smallest(label.flatten()[places], keys, per_class)
    places, keys = places[chosen], keys[chosen]
    rows, columns = places.div(width, rounding_mode="floor"), places % width
    layers = {}
    for name, layer in maps.items():
        row = nearest(rows, padded_height, layer.shape[2], align_corners=align_corners)
        column = nearest(columns, padded_width, layer.shape[3], align_corners=align_corners)
        cells = row * layer.shape[3] + column
        layers[name] = unit(pixel_rows(layer, cells.to(layer.device))).cpu().float()
    return Pixels(
        classes=label.flatten()[places],
        images=torch.full_like(places, image),
        rows=rows,
        columns=columns,
        keys=keys,
        predicted=prediction.flatten()[places],
        layers=layers,
    )


def merge(first: Pixels, second: Pixels, *, per_class: int) -> Pixels:
    """The draw of two sets of images together, sorted by class: the smallest keys win."""
    both = Pixels(
        classes=torch.cat([first.classes, second.classes]),
        images=torch.cat([first.images, second.images]),
        rows=torch.cat([first.rows, second.rows]),
        columns=torch.cat([first.columns, second.columns]),
        keys=torch.cat([first.keys, second.keys]),
        predicted=torch.cat([first.predicted, second.predicted]),
        layers={name: torch.cat([rows, second.layers[name]]) for name, rows in first.layers.items()},
    )
    return both.at(_smallest(both.classes, both.keys, per_class))


def _smallest(classes: Tensor, keys: Tensor, per_class: int) -> Tensor:
    """Places of the ``per_class`` smallest keys of each class, sorted by class, then key."""
    order = torch.argsort(keys)
    order = order[torch.argsort(classes[order], stable=True)]
    _, counts = torch.unique_consecutive(classes[order], return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[torch.arange(len(order)) - first < per_class]
