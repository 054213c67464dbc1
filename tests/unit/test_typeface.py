"""The typeface of pictures: names in any script are drawn, not shown as boxes."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pixelcontrast import typeface
from pixelcontrast.evaluation.overlay import legend


def is_installed(name: str) -> bool:
    try:
        return bool(ImageFont.truetype(name, 13))
    except OSError:
        return False


needs_dejavu = pytest.mark.skipif(
    not is_installed("DejaVuSans.ttf"), reason="DejaVu Sans is not installed on this machine"
)


@pytest.fixture(autouse=True)
def anew() -> None:
    typeface._choose.cache_clear()
    typeface._warn.cache_clear()


def drawn(face: typeface.Font, letter: str) -> bytes:
    page = Image.new("L", (40, 40))
    ImageDraw.Draw(page).text((10, 10), letter, 255, face)
    return page.tobytes()


def test_english_names_are_drawn_in_the_typeface_that_every_machine_has() -> None:
    assert typeface.font(13, "road", "side-walk 2") is typeface.font(13)
    assert drawn(typeface.font(13), "a") == drawn(ImageFont.load_default(13), "a")


@needs_dejavu
@pytest.mark.parametrize("name", ["trée", "Gehweg/Straße", "дорога", "δρόμος"])
def test_letters_that_pillow_s_own_lacks_are_drawn_in_an_installed_one(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    face, plain = typeface.font(13, "road", name), typeface.font(13)
    box = drawn(face, "\uffff")
    assert all(drawn(face, letter) != box for letter in name)
    assert any(drawn(plain, letter) == drawn(plain, "\uffff") for letter in name)
    assert not caplog.messages


def test_what_no_typeface_has_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(typeface, "_INSTALLED", ("no-such-typeface.ttf",))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert legend(["road", "trée", "Straße"], np.zeros((3, 3), np.uint8))
    (said,) = caplog.messages
    assert said.startswith("pictures show boxes in place of ß, é, which no typeface")
    assert typeface.font(13, "trée") is typeface.font(13)


@needs_dejavu
def test_a_legend_shows_other_names_as_other_pictures() -> None:
    """Where they are boxes, ä and ö look alike."""
    colors = np.zeros((1, 3), np.uint8)
    assert legend(["ä"], colors) != legend(["ö"], colors)
