"""What occurs in masks: ids, colours, palettes. For ``data init``, before anything is known of them."""

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pixelcontrast.datasets.files import FileError, color_counts, read_header, read_label
from pixelcontrast.datasets.labels import Color

_MOST_COLORS = 1000
"""Beyond these many, what is read are no masks, and counting ends."""


@dataclass
class MaskValues:
    """What occurs in some masks."""

    num_masks: int = 0
    num_pixels: int = 0
    id_pixels: Counter[int] = field(default_factory=Counter)
    """Grey value or palette index → pixels."""
    id_masks: Counter[int] = field(default_factory=Counter)
    color_pixels: Counter[Color] = field(default_factory=Counter)
    """Colour → pixels, of RGB and palette masks."""
    color_masks: Counter[Color] = field(default_factory=Counter)
    palette: dict[int, set[Color]] = field(default_factory=dict)
    """Index → its colours in the palettes of the masks that use it."""
    num_rgb: int = 0
    faults: list[str] = field(default_factory=list)
    """What keeps a mask from being read, and the remedy, one text for each."""

    @property
    def are_mixed(self) -> bool:
        """Whether some masks are of colours and others grey, so that neither tells the classes of all."""
        return 0 < self.num_rgb < self.num_masks - len(self.faults) and not self.palette

    @property
    def are_colors(self) -> bool:
        """Whether colours are what tells the classes: of RGB masks, or where palettes contradict each
        other."""
        return self.num_rgb > 0 or any(len(colors) > 1 for colors in self.palette.values())

    def color_of(self, raw_id: int) -> Color | None:
        """The palettes' colour of an id, if they have one that is not grey."""
        colors = self.palette.get(raw_id, set())
        grey = all(len(set(color)) == 1 for found in self.palette.values() for color in found)
        return None if grey or len(colors) != 1 else next(iter(colors))

    def add(self, other: "MaskValues") -> None:
        """Take in what was found in other masks."""
        self.num_masks += other.num_masks
        self.num_pixels += other.num_pixels
        self.num_rgb += other.num_rgb
        self.id_pixels.update(other.id_pixels)
        self.id_masks.update(other.id_masks)
        self.color_pixels.update(other.color_pixels)
        self.color_masks.update(other.color_masks)
        for raw_id, colors in other.palette.items():
            self.palette.setdefault(raw_id, set()).update(colors)
        self.faults += other.faults
        if len(self.color_pixels) > _MOST_COLORS:
            raise ValueError(
                f"the masks have more than {_MOST_COLORS} colours; allowed are those of the classes alone "
                "(were they scaled, smoothed or saved as JPEG, or are these the images?)"
            )


def scan_masks(paths: list[Path]) -> MaskValues:
    """Read some masks, in any process."""
    values = MaskValues()
    for path in paths:
        values.num_masks += 1
        try:
            _scan(path, values)
        except FileError as error:
            values.faults.append(str(error))
    return values


def _scan(path: Path, values: MaskValues) -> None:
    try:
        ids = read_label(path)
    except FileError as error:
        try:
            read_header(path, "colors")
        except FileError:
            raise error from None  # of no kind: the error names the modes of the usual one
        colors = color_counts(path)
        values.num_rgb += 1
        values.num_pixels += sum(colors.values())
        values.color_pixels.update(colors)
        values.color_masks.update(colors.keys())
        return
    counts = np.bincount(ids.ravel(), minlength=256)
    found = {int(raw_id): int(counts[raw_id]) for raw_id in np.flatnonzero(counts)}
    values.num_pixels += ids.size
    values.id_pixels.update(found)
    values.id_masks.update(found.keys())
    palette = _palette(path)
    for raw_id, pixels in found.items():
        if palette is not None and raw_id < len(palette):
            values.palette.setdefault(raw_id, set()).add(palette[raw_id])
            values.color_pixels[palette[raw_id]] += pixels
    if palette is not None:
        values.color_masks.update({palette[raw_id] for raw_id in found if raw_id < len(palette)})


def _palette(path: Path) -> list[Color] | None:
    """The colours of a palette PNG, whose content has been read before."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        values = image.getpalette("RGB") if image.mode == "P" else None
    if values is None:
        return None
    return [(values[place], values[place + 1], values[place + 2]) for place in range(0, len(values), 3)]
