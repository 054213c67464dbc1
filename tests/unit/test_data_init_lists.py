"""What ``pixelcontrast data init`` says of single files, and which names its lists can hold."""

from pathlib import Path

import pytest

from pixelcontrast.datasets.dataset_file import read_dataset_file
from pixelcontrast.datasets.propose import init
from small_sets import some_ids, write_image, write_label


def test_one_file_is_told_in_the_singular(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "masks/b.png").write_bytes(b"no picture")
    notes = init(tmp_path, processes=1)
    assert "train.txt has 1 image and val.txt 1." in notes[0]
    assert notes[1].startswith("1 mask could not be read, the first: ")


@pytest.mark.parametrize("name", ["a ", " a", "a:b", "a\x0bb"])
def test_a_name_that_no_list_can_hold_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    for seed, key in enumerate((name, "c", "d")):
        write_image(tmp_path / f"images/{key}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{key}.png", some_ids(2))
    with pytest.raises(ValueError, match=r"cannot stand in a list .*; rename the image and its mask"):
        init(tmp_path, processes=1)
    assert not list(tmp_path.glob("*.t*"))


def test_one_missing_mask_does_not_hide_how_the_others_are_named(tmp_path: Path) -> None:
    for seed, name in enumerate("abcd"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
    for name in "abc":
        write_label(tmp_path / f"masks/{name}_mask.png", some_ids(2))
    notes = init(tmp_path, processes=1)
    assert notes[0].startswith("Unpaired: 1 image without a mask, the first images/d.jpg.")
    assert read_dataset_file(tmp_path).masks == "masks/**/*_mask.png"


def test_masks_that_are_no_png_are_told_to_be_converted(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_image(tmp_path / f"masks/{name}.jpg", seed=seed)
    with pytest.raises(ValueError, match=r"no \.png files at masks; convert pictures of other"):
        init(tmp_path, processes=1)
