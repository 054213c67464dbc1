"""Decoding image and label files; every error names the file and says what to do.

Both are decoded with Pillow. torchvision's decoder is deprecated since 0.29; that version ends the process
with a segmentation fault on a PNG with one wrong bit (measured), and unpacks 4-bit palette masks wrongly.
It is 10 % faster on a 2048×1024 PNG.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
"""File names that are taken for images, in capitals too."""
MAX_PIXELS = 80_000_000
"""Pixels that an image may have, just below where Pillow warns of a decompression bomb."""

_PNG_DEPTH_OFFSET = 24
"""Where a PNG's header holds the bits per value: behind signature, length, type, width and height."""
_ORIENTATION = 0x0112
"""EXIF's tag of how a camera was held: 1 upright, 5 to 8 on its side."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each orientation upright. ``ImageOps.exif_transpose`` does the same, and then writes
all tags anew, which fails where any of them is malformed."""


class FileError(ValueError):
    """A file or folder that cannot be used as it is; as text, the problem and the remedy.

    Attributes:
        problem: names the file.
        remedy: what the user can do about it.
    """

    def __init__(self, problem: str, *, remedy: str = ""):
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class Header(NamedTuple):
    """What a file says of itself before its pixels, which may be missing."""

    width: int
    """In pixels, as the image is read: after EXIF's turn."""
    height: int
    orientation: int
    """EXIF's; 1 where there is none."""


@dataclass(frozen=True)
class _Kind:
    """Which files are taken for what."""

    formats: tuple[str, ...]
    modes: tuple[str, ...]
    """Pillow's."""
    allowed: str
    """The modes in words, for errors."""
    remedy: str
    """How to save a file of another mode or depth."""

    def __str__(self) -> str:
        return " or ".join(self.formats)


_EIGHT_BITS = "save it with 8 bits per value, as a "
_AS_MASK = f"{_EIGHT_BITS}PNG of class ids; masks of colours: see mask_values in dataset.toml"
_IMAGE = _Kind(
    ("PNG", "JPEG"),
    ("RGB", "RGBA", "L", "P"),
    "8-bit RGB, RGBA, L, P",
    f"{_EIGHT_BITS}colour or grey image",
)
_LABEL = _Kind(("PNG",), ("L", "P", "1"), "8-bit L, P, and 1 bit", _AS_MASK)
_COLORS = _Kind(
    ("PNG",), ("RGB", "RGBA", "P", "L", "1"), "8-bit RGB, RGBA, P, L, and 1 bit", f"{_EIGHT_BITS}PNG"
)


def read_image(path: Path) -> Tensor:
    """Decode an image to uint8 [3, H, W] (a view with the channels last in memory).

    An image whose EXIF orientation says that it lies on its side is turned upright, as viewers show it.

    Raises:
        FileError: the file cannot be read, is damaged or truncated, holds no 8-bit picture, has transparent
            pixels or more than ``MAX_PIXELS``, or is neither PNG nor JPEG.
    """
    return decode_image(read_bytes(path, _IMAGE), path)


def decode_image(content: bytes, path: Path | str) -> Tensor:
    """Decode an image file's content, which came from a path or a URI; as ``read_image``."""
    image = _decode(content, path, _IMAGE)
    if (orientation := _orientation(image)) != 1:
        image = image.transpose(_UPRIGHT[orientation])
    return image_pixels(image, path)


def image_pixels(image: Image.Image, name: Path | str) -> Tensor:
    """An opened image's pixels, uint8 [3, H, W] (a view with the channels last in memory).

    Args:
        image: as it lies; EXIF's orientation is not applied.
        name: what errors call it.

    Raises:
        FileError: it is of another mode than those of 8 bits, or has transparent pixels.
    """
    _check_mode(image, name, _IMAGE)
    if image.has_transparency_data:
        _check_opaque(image, name)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def read_label(path: Path) -> np.ndarray:
    """Decode a label map to its stored ids, uint8 [H, W]: grey values, or the indices of a palette PNG.

    A 1-bit PNG holds the ids 0 and 1.

    Raises:
        FileError: the file cannot be read, is damaged or truncated, or is no PNG of a palette or of 8 or 1
            grey bits.
    """
    return decode_label(read_bytes(path, _LABEL), path)


def decode_label(content: bytes, path: Path | str) -> np.ndarray:
    """Decode a label file's content; as ``read_label``."""
    return np.asarray(_decode(content, path, _LABEL), np.uint8)  # 1 bit would be bool


@dataclass(frozen=True)
class ColorLabels:
    """Reads label maps whose classes are colours: an RGB PNG, a palette PNG by its palette's colours, or a
    grey PNG, whose value g is the colour (g, g, g): some tools save so a mask that has no other colours.

    Attributes:
        colors: the colours that may occur, at most 255.
    """

    colors: tuple[tuple[int, int, int], ...]

    def __call__(self, path: Path) -> np.ndarray:
        """Decode a label map to places in ``colors``, uint8 [H, W].

        Raises:
            FileError: as ``read_label``, or colours that must not occur.
        """
        codes = _codes(path)
        ids = _color_table(self.colors)[codes]
        if ids.max(initial=0) == len(self.colors):
            unknown = codes[ids == len(self.colors)]
            found = [str(_channels(code)) for code in np.unique(unknown)[:5].tolist()]
            raise FileError(
                f"{path}: {unknown.size} pixels of unknown colours, such as {', '.join(found)}; allowed are "
                f"the {len(self.colors)} colours of the label map",
                remedy="correct the mask (was it scaled, smoothed or saved as JPEG?), or add the colours",
            )
        return ids


def color_counts(path: Path) -> dict[tuple[int, int, int], int]:
    """Colour → pixels of a label map of colours; raises ``FileError`` as ``read_label``."""
    codes, counts = np.unique(_codes(path), return_counts=True)
    return {_channels(code): count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)}


def read_header(path: Path, content: Literal["image", "ids", "colors"]) -> Header:
    """Look at a file's header only: kind, mode, size.

    Args:
        path: the file.
        content: what it is to be: an image, or a label map of ids or of colours.

    Raises:
        FileError: as ``read_image``, as far as the header tells.
    """
    kind = {"image": _IMAGE, "ids": _LABEL, "colors": _COLORS}[content]
    try:
        with path.open("rb") as file, Image.open(file, formats=kind.formats) as image:
            _check_size(image, path)
            file.seek(0)
            _check_values(image, file.read(_PNG_DEPTH_OFFSET + 1), path, kind)
            orientation = _orientation(image) if kind is _IMAGE else 1
            width, height = image.size
    except FileError:
        raise
    except Exception as error:
        raise _unreadable(path, kind, error) from error
    turned = orientation >= 5
    return Header(height if turned else width, width if turned else height, orientation)


def read_bytes(path: Path, kind: _Kind = _IMAGE) -> bytes:
    """A file's content; raises ``FileError`` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, kind, error) from error


def _decode(content: bytes, path: Path | str, kind: _Kind) -> Image.Image:
    try:
        # Only verify() looks at a PNG's checksums: without it one in eight CamVid labels with a wrong bit
        # decodes to wrong ids without an error (measured).
        opened = _open(content, kind)
        _check_size(opened, path)
        opened.verify()
        image = _open(content, kind)
        image.load()
    except FileError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types, and none of them names the file.
        raise _unreadable(path, kind, error) from error
    _check_values(image, content[: _PNG_DEPTH_OFFSET + 1], path, kind)
    return image


def _open(content: bytes, kind: _Kind) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=kind.formats)


def _unreadable(path: Path | str, kind: _Kind, error: Exception) -> FileError:
    if isinstance(error, Image.DecompressionBombError):  # before its size could be looked at
        return _too_large(path, "too many pixels")
    # Pillow's own message has an address in memory.
    reason = "its content is of another kind" if isinstance(error, UnidentifiedImageError) else error
    return FileError(
        f"{path}: cannot be read as {kind}: {reason}",
        remedy=f"copy or download the file again; it must be {kind}",
    )


def _check_size(image: Image.Image, path: Path | str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"{image.width}×{image.height} pixels")


def _too_large(path: Path | str, what: str) -> FileError:
    return FileError(
        f"{path}: {what}; allowed are at most {MAX_PIXELS:,}",
        remedy="cut it, and its mask, into tiles",
    )


def _check_mode(image: Image.Image, path: Path | str, kind: _Kind) -> None:
    if image.mode not in kind.modes:
        problem = f"{path}: mode {image.mode} is not supported; allowed are {kind.allowed}"
        raise FileError(problem, remedy=kind.remedy)


def _check_values(image: Image.Image, head: bytes, path: Path | str, kind: _Kind) -> None:
    """Check the mode, and the bits per value that stand at the file's head."""
    _check_mode(image, path, kind)
    if image.format != "PNG":
        return
    depth = head[_PNG_DEPTH_OFFSET]
    # Pillow takes the high byte of 16 bits, and stretches 1 to 4 grey bits to 0 … 255, which changes ids.
    if depth == 16 or (depth != 8 and image.mode == "L" and kind is not _IMAGE):
        values = "grey values" if image.mode == "L" else "values"
        problem = f"{path}: {values} of {depth} bits; allowed are {kind.allowed}"
        raise FileError(problem, remedy=kind.remedy)


def _check_opaque(image: Image.Image, path: Path | str) -> None:
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    if least != 255:
        raise FileError(
            f"{path}: transparent pixels, whose colour is undefined; allowed are opaque images",
            remedy="flatten the image onto a background, and save it without transparency",
        )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation. Of a PNG only what stands before its pixels, or all of it once they are decoded.

    An orientation that cannot be read is none, as for viewers.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises several types over malformed EXIF
        return 1
    return int(found) if found in range(1, 9) else 1


def _codes(path: Path) -> np.ndarray:
    """Red, green and blue of each pixel as one number, int32 [H, W]."""
    image = _decode(read_bytes(path, _COLORS), path, _COLORS)
    if image.mode == "RGBA":
        _check_opaque(image, path)
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def _channels(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


@lru_cache(maxsize=2)
def _color_table(colors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """The place in ``colors`` of every 24-bit code, uint8; their number for all others."""
    assert len(colors) <= 255
    table = np.full(1 << 24, len(colors), np.uint8)
    for place, (red, green, blue) in enumerate(colors):
        table[red << 16 | green << 8 | blue] = place
    return table
