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
    """Colour → pixels; of grey masks as ``ColorLabels`` reads them, g as (g, g, g)."""
    color_masks: Counter[Color] = field(default_factory=Counter)
    palette: dict[int, set[Color]] = field(default_factory=dict)
    """Index → its colours in the palettes of the masks that use it."""
    num_rgb: int = 0
    num_grey: int = 0
    first_rgb: Path | None = None
    first_grey: Path | None = None
    faults: list[str] = field(default_factory=list)
    """What keeps a mask from being read, and the remedy, one text for each."""

    @property
    def are_colors(self) -> bool:
        """Whether colours are what tells the classes: of RGB masks, or where palettes contradict each
        other."""
        return self.num_rgb > 0 or self.palettes_differ

    @property
    def palettes_differ(self) -> bool:
        """Whether a number has several colours in the palettes."""
        return any(len(colors) > 1 for colors in self.palette.values())

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
        self.num_grey += other.num_grey
        self.first_rgb = self.first_rgb or other.first_rgb
        self.first_grey = self.first_grey or other.first_grey
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
        values.first_rgb = values.first_rgb or path
        values.num_pixels += sum(colors.values())
        values.color_pixels.update(colors)
        values.color_masks.update(colors.keys())
        return
    counts = np.bincount(ids.ravel(), minlength=256)
    found = {int(raw_id): int(counts[raw_id]) for raw_id in np.flatnonzero(counts)}
    values.num_pixels += ids.size
    values.id_pixels.update(found)
    values.id_masks.update(found.keys())
    mode, colors = _colors_of_ids(path)
    if mode != "P":
        values.num_grey += 1
        values.first_grey = values.first_grey or path
    for raw_id, pixels in found.items():
        if raw_id < len(colors):
            values.color_pixels[colors[raw_id]] += pixels
            if mode == "P":
                values.palette.setdefault(raw_id, set()).add(colors[raw_id])
    values.color_masks.update({colors[raw_id] for raw_id in found if raw_id < len(colors)})


def _colors_of_ids(path: Path) -> tuple[str, list[Color]]:
    """Pillow's mode of a mask of ids, whose content has been read before, and the colour of each id there."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        mode, flat = image.mode, image.getpalette("RGB") or []
    if mode == "P":
        return mode, [(flat[place], flat[place + 1], flat[place + 2]) for place in range(0, len(flat), 3)]
    step = 255 if mode == "1" else 1  # a 1-bit mask's 1 is white
    return mode, [(grey, grey, grey) for grey in range(0, 256, step)]
