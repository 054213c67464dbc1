"""The typeface of pictures: one that has the letters of what they say."""

import logging
from functools import cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INSTALLED = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial.ttf",
    "Arial Unicode.ttf",
)
"""Files that Pillow finds where a system keeps its typefaces, in the order in which they are tried."""
_NO_LETTER = "\uffff"
_TRIED = 12
"""Size in which it is tried what a typeface has."""

logger = logging.getLogger(__name__)


def font(size: int, *texts: str) -> Font:
    """Pillow's own typeface, which every machine has, where it has all letters of ``texts``; it has the
    English ones. Else the first installed one that has them, or the one that has most, and a warning.

    Args:
        size: in pixels.
        texts: what is written with it.
    """
    letters = frozenset("".join(texts))
    return _load(None if "".join(letters).isascii() else _choose(letters), size)


@cache
def _load(name: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)


@cache
def _choose(letters: frozenset[str]) -> str | None:
    """The file of an installed typeface; None is Pillow's own."""
    best, lacking = None, _lacking(None, letters)
    for name in _INSTALLED:
        if lacking and len(found := _lacking(name, letters)) < len(lacking):
            best, lacking = name, found
    if lacking:
        _warn(", ".join(lacking))
    return best


def _lacking(name: str | None, letters: frozenset[str]) -> list[str]:
    """The letters that a typeface does not have; all, where it is not installed."""
    try:
        face = _load(name, _TRIED)
    except OSError:
        return sorted(letters)
    unknown = _drawn(face, _NO_LETTER)
    return [letter for letter in sorted(letters) if not letter.isspace() and _drawn(face, letter) == unknown]


def _drawn(face: Font, letter: str) -> bytes:
    page = Image.new("L", (3 * _TRIED, 3 * _TRIED))
    ImageDraw.Draw(page).text((_TRIED, _TRIED), letter, 255, face)
    return page.tobytes()


@cache
def _warn(letters: str) -> None:
    """Once in a process."""
    logger.warning(
        "pictures show boxes in place of %s, which no typeface that was found has; install DejaVu Sans, or "
        "Noto Sans CJK (Debian: fonts-dejavu-core, fonts-noto-cjk)",
        letters,
    )
