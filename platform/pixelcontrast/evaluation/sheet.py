"""A white page for pictures: side by side or stacked, under a title, above notes that wrap."""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw

from pixelcontrast.typeface import Font, font

PAGE, INK, MUTED = (255, 255, 255), (40, 40, 40), (95, 95, 95)
_MARGIN, _GAP = 12, 16


def sheet(body: Image.Image, *, title: str, notes: Sequence[str] = ()) -> bytes:
    """A PNG file's bytes: the body between its title and its notes, both wrapped to its width."""
    width = max(body.width, 520)
    parts = [text([title], width, size=16), body, text(notes, width, size=12, color=MUTED)]
    page = stacked([part for part in parts if part.height], gap=8)
    framed = Image.new("RGB", (page.width + 2 * _MARGIN, page.height + 2 * _MARGIN), PAGE)
    framed.paste(page, (_MARGIN, _MARGIN))
    file = BytesIO()
    framed.save(file, "PNG", optimize=True)
    return file.getvalue()


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, their upper edges aligned."""
    row = Image.new(
        "RGB",
        (sum(each.width for each in pictures) + _GAP * (len(pictures) - 1), max(p.height for p in pictures)),
        PAGE,
    )
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return row


def stacked(pictures: Sequence[Image.Image], *, gap: int = _GAP) -> Image.Image:
    """Pictures in a column, their left edges aligned."""
    column = Image.new(
        "RGB",
        (max(each.width for each in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1)),
        PAGE,
    )
    top = 0
    for picture in pictures:
        column.paste(picture, (0, top))
        top += picture.height + gap
    return column


def text(
    paragraphs: Sequence[str], width: int, *, size: int, color: tuple[int, int, int] = INK
) -> Image.Image:
    """Paragraphs, wrapped between words to ``width`` pixels; empty ones and none at all take no room."""
    face = font(size, *paragraphs)
    written = [line for paragraph in paragraphs if paragraph for line in _wrapped(paragraph, width, face)]
    height = round(1.4 * size)
    block = Image.new("RGB", (width, height * len(written)), PAGE)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(written):
        draw.text((0, number * height), line, fill=color, font=face)
    return block


def _wrapped(paragraph: str, width: int, face: Font) -> list[str]:
    lines = [""]
    for word in paragraph.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
