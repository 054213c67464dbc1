"""A picture of how often each class occurs."""

import math
from io import BytesIO

from PIL import Image, ImageDraw

from pixelcontrast.datasets.check_files import DataReport
from pixelcontrast.typeface import font

_ROW, _BAR, _MARGIN, _NAME, _NUMBER = 22, 400, 16, 180, 90
_LEAST = 1e-5
"""Share of the pixels where a bar begins; the axis is logarithmic."""
_PAGE, _INK, _LINE = (255, 255, 255), (50, 50, 50), (225, 225, 225)


def histogram_picture(report: DataReport) -> bytes:
    """Draw a bar for each class and split, in the class's colour, on a logarithmic axis from 0.001 % to 100
    %.

    Returns:
        A PNG file's bytes.
    """
    face = font(12, *report.names)
    shares = {split: found.shares() for split, found in report.splits.items()}
    width = 2 * _MARGIN + _NAME + len(shares) * (_BAR + _NUMBER)
    page = Image.new("RGB", (width, 2 * _MARGIN + _ROW * (2 + len(report.names))), _PAGE)
    pen = ImageDraw.Draw(page)
    for column, (split, found) in enumerate(shares.items()):
        left = _MARGIN + _NAME + column * (_BAR + _NUMBER)
        pen.text((left, _MARGIN), f"{split}: {found[-1]:.2%} ignored", _INK, face)
        for decade in range(6):
            x = left + _BAR * decade // 5
            pen.line((x, _MARGIN + _ROW, x, page.height - _MARGIN - _ROW), _LINE)
            pen.text((x, page.height - _MARGIN - _ROW), f"{100 * 10.0 ** (decade - 5):g} %", _INK, face)
        for place, color in enumerate(report.colors):
            top, share = _MARGIN + _ROW * (1 + place), float(found[place])
            length = round(_BAR * (1 + math.log10(max(share, _LEAST)) / 5))
            pen.rectangle((left, top + 3, left + length, top + _ROW - 4), color, _LINE)
            pen.text((left + length + 6, top + 3), f"{share:.3%}", _INK, face)
    for place, name in enumerate(report.names):
        pen.text((_MARGIN, _MARGIN + _ROW * (1 + place) + 3), name[:26], _INK, face)
    file = BytesIO()
    page.save(file, "PNG", optimize=True)
    return file.getvalue()
