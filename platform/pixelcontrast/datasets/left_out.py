"""What lies among a split's files and is not used, so that nothing is left out in silence."""

from collections.abc import Iterator

from pixelcontrast.datasets.files import IMAGE_ENDINGS
from pixelcontrast.datasets.listing import Pairing
from pixelcontrast.words import count

OTHER_PICTURES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".jp2", ".jpe", ".jfif", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings of pictures that are no PNG or JPEG by their names."""


def left_out(found: Pairing) -> Iterator[str]:
    """A line for each kind of files that are left out: pictures of other formats, labels without image."""
    folders = sorted({pair.image.parent for pair in found.pairs})
    others = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in OTHER_PICTURES and not path.name.startswith(".")
    ]
    if others:
        allowed = ", ".join(IMAGE_ENDINGS)
        yield f"{_left_out(len(others), 'picture')}, such as {others[0]}: allowed are {allowed}"
    if found.unused:
        yield f"{_left_out(len(found.unused), 'label')}, such as {found.unused[0]}: without an image"


def _left_out(number: int, noun: str) -> str:
    return f"{count(number, noun)} {'is' if number == 1 else 'are'} left out"
