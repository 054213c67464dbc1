"""`pixelcontrast data show` and `data pack` as commands."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from packs import write_folder
from pixelcontrast.cli.data import data_command
from pixelcontrast.evaluation import samples_sheet


def show(root: str, out: Path, *options: str) -> Image.Image:
    data_command(["show", root, "--crop-size", "24", "32", "--out", str(out), *options])
    return Image.open(out)


def test_a_pack_shows_the_crops_of_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "photos")
    data_command(["pack", data.root, str(tmp_path / "packed"), "--processes", "1"])
    assert re.search(r"train: 9 samples in 1 shard, [\d.]+ MB", capsys.readouterr().out)
    before = show(data.root, tmp_path / "a.png", "--num", "6")
    after = show(str(tmp_path / "packed"), tmp_path / "b.png", "--num", "6")
    assert np.array_equal(np.asarray(before), np.asarray(after))
    other = show(str(tmp_path / "packed"), tmp_path / "c.png", "--num", "6", "--seed", "1")
    assert not np.array_equal(np.asarray(before), np.asarray(other))
    assert "c.png: 6 crops of 9 training images" in capsys.readouterr().out


def test_crops_are_scaled_flipped_and_coloured_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_folder(tmp_path / "photos")
    plain = ("--scale-range", "1", "1", "--flip-probability", "0", "--color-jitter", "0")
    sheets = [
        np.asarray(show(data.root, tmp_path / "a.png", "--num", "6", *plain, *options))
        for options in ((), ("--scale-range", "2", "2"), ("--flip-probability", "1"), ("--color-jitter", "1"))
    ]
    assert not any(np.array_equal(sheets[0], other) for other in sheets[1:])
    with pytest.raises(SystemExit):
        show(data.root, tmp_path / "b.png", "--scale-range", "2", "1")
    assert "scale_range" in capsys.readouterr().err


def test_a_sheet_has_every_crop_its_label_and_a_legend() -> None:
    crops = [
        (np.full((20, 30, 3), 10 * number, np.uint8), np.full((20, 30), number % 2)) for number in range(3)
    ]
    colors = [(255, 0, 0), (0, 0, 255)]
    sheet = np.asarray(Image.open(BytesIO(samples_sheet(crops, names=("road", "car"), colors=colors))))
    for shade in (10, 20):
        assert (sheet == shade).all(axis=2).sum() >= 20 * 30
    red, blue = sheet[..., 0].astype(int) - sheet[..., 2], sheet[..., 2].astype(int) - sheet[..., 0]
    assert (red > 100).sum() > 2 * 20 * 30  # two crops, and the legend's swatch
    assert 20 * 30 < (blue > 100).sum() < 2 * 20 * 30


def test_a_sheet_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "photos")
    with pytest.raises(SystemExit) as ended:
        show(data.root, tmp_path / "a.png", "--num", "0")
    assert ended.value.code == 2
    assert "--num 0: allowed are 1 and more" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["show", "/nowhere", "--out"], ["check", "/nowhere", "--histogram"]):
        for place, says in (
            (tmp_path / "a" / "b.png", f"no folder {tmp_path / 'a'}"),
            (tmp_path, "a folder"),
        ):
            with pytest.raises(SystemExit) as ended:
                data_command([*words, str(place)])
            assert ended.value.code == 2
            said = capsys.readouterr().err
            assert said.startswith(f"{words[-1]} {place}: ")
            assert says in said
