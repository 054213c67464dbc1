"""Images that a camera held on its side: all orientations, and EXIF that is malformed."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pixelcontrast.datasets.camvid import LABELS
from pixelcontrast.datasets.files import read_header, read_image
from pixelcontrast.datasets.listing import Pair
from pixelcontrast.datasets.segmentation_set import SegmentationSet
from small_sets import HEIGHT, WIDTH, write_image, write_label

ORIENTATION, X_RESOLUTION, SOFTWARE = 0x0112, 0x011A, 0x0131
SHORT, RATIONAL, UNDEFINED, SIGNED_RATIONAL = 3, 5, 7, 10
ON_ITS_SIDE = ORIENTATION, SHORT, 1, struct.pack("<H", 6)


def exif(*entries: tuple[int, int, int, bytes], order: bytes = b"II") -> bytes:
    """EXIF of entries, each a tag, a type, a number of values and the values, little-endian."""
    table, values = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, content in entries:
        place = content.ljust(4, b"\0")
        if len(content) > 4:
            place = struct.pack("<I", start + len(values))
            values += content
        table += struct.pack("<HHI", tag, kind, count) + place
    head = order + struct.pack("<HI", 42, 8) + struct.pack("<H", len(entries))
    return b"Exif\0\0" + head + table + bytes(4) + values


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    path, tags = tmp_path / f"a.{ending}", Image.Exif()
    tags[ORIENTATION] = orientation
    write_image(path, exif=tags)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)
    assert read_header(path, "image") == (expected.shape[1], expected.shape[0], orientation)


@pytest.mark.parametrize(
    ("orientation", "size", "warned"),
    [(1, (24, 32), False), (3, (24, 32), True), (6, (24, 24), True), (6, (32, 24), False)],
)
def test_images_that_are_turned_without_their_labels_are_warned_of_at_the_start(
    tmp_path: Path, orientation: int, size: tuple[int, int], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A label that has the size of the image turned upright was made for it so."""
    pairs = []
    for name in "ab":
        pair = Pair(tmp_path / f"{name}.jpg", tmp_path / f"{name}.png")
        tags = Image.Exif()
        tags[ORIENTATION] = orientation if name == "b" else 1
        write_image(pair.image, size=size, exif=tags)
        upright = size[::-1] if tags[ORIENTATION] >= 5 else size
        write_label(pair.label, np.zeros(upright))
        pairs.append(pair)
    SegmentationSet(root=tmp_path, pairs=tuple(pairs), labels=LABELS).check_headers(seconds=60)
    assert ("1 of 2 images looked at are turned by their EXIF orientation" in caplog.text) == warned
    assert (f"such as {tmp_path / 'b.jpg'}: look" in caplog.text) == warned


MALFORMED = {
    "a resolution of -1/0": (X_RESOLUTION, SIGNED_RATIONAL, 1, struct.pack("<ii", -1, 0)),
    "an untyped resolution": (X_RESOLUTION, UNDEFINED, 8, bytes(range(8))),
    "a number for a program": (SOFTWARE, RATIONAL, 1, struct.pack("<II", 1, 1)),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_tag_does_not_keep_an_image_from_being_turned(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    write_image(path)
    stored = read_image(path)
    write_image(path, exif=exif(ON_ITS_SIDE, MALFORMED[kind]))
    assert read_image(path).equal(stored.flip(1).transpose(1, 2))
    assert read_header(path, "image") == (HEIGHT, WIDTH, 6)


def test_an_image_whose_exif_cannot_be_read_stays_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, exif=exif(ON_ITS_SIDE, order=b"XX"))
    with Image.open(path) as image:
        assert "exif" in image.info
    assert read_image(path).shape == (3, HEIGHT, WIDTH)
    assert read_header(path, "image") == (WIDTH, HEIGHT, 1)


def test_an_orientation_of_another_type_is_a_whole_number(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", exif=exif((ORIENTATION, RATIONAL, 1, struct.pack("<II", 6, 1))))
    header = read_header(tmp_path / "a.jpg", "image")
    assert f"{header.orientation}" == "6"
