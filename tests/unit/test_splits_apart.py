"""Train and val share no image: a training that would score what it was trained on does not start."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pixelcontrast.config import Data
from pixelcontrast.datasets import listing
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.datasets.segmentation import build_dataset, check_data
from small_sets import pascal_png, some_ids, write_image, write_label, write_list

LISTS = 'images = "images"\nmasks = "masks"\nlists = "{split}.txt"\n'
FOLDERS = 'images = "images/{split}"\nmasks = "masks/{split}"\n'
CLASSES = '[[classes]]\nname = "road"\n[[classes]]\nname = "car"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images, three to train on and one to validate, told apart by lists."""
    for seed, name in enumerate("abcd"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "dataset.toml").write_text(LISTS + CLASSES)
    write_list(tmp_path / "train.txt", ("a", "b", "c"))
    write_list(tmp_path / "val.txt", ("d",))
    return tmp_path


def folder(root: Path) -> Data:
    return Data(layout="folder", root=str(root))


def test_an_image_in_both_lists_is_refused_packed_or_not(root: Path) -> None:
    check_data(folder(root))
    write_list(root / "val.txt", ("d", "b", "images/c.jpg"))
    message = r"also holds 2 of 3 validation images, the first images/b\.jpg: the mIoU would be inflated"
    with pytest.raises(ValueError, match=message):
        check_data(folder(root))
    pack(folder(root), str(root / "packed"))
    with pytest.raises(ValueError, match=message):
        check_data(replace(folder(root), root=str(root / "packed")))


def test_a_folder_that_is_a_link_to_the_other_split_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/a.jpg")
    write_label(tmp_path / "masks/train/a.png", some_ids(2))
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").symlink_to(tmp_path / kind / "train")
    (tmp_path / "dataset.toml").write_text(FOLDERS + CLASSES)
    with pytest.raises(ValueError, match=r"also holds 1 of 1 validation image, the first images/val/a"):
        check_data(folder(tmp_path))


def test_published_lists_that_share_an_image_are_refused(tmp_path: Path) -> None:
    base = pascal_png(tmp_path, some_ids(60))
    data = Data(layout="pascal-context-60", root=str(tmp_path), class_order="voc")
    check_data(data)
    write_list(base / "ImageSets/SegmentationContext/val.txt", ("2008_000003", "2009_000001"))
    with pytest.raises(ValueError, match=r"holds 1 of 2 validation images, the first .*2008_000003"):
        check_data(data)


@pytest.mark.parametrize(
    ("names", "splits"),
    [('train = "all", val = "all"', "train and val"), ('train = "x", test = "x"', "train and test")],
)
def test_train_has_a_name_that_no_other_split_has(root: Path, names: str, splits: str) -> None:
    (root / "dataset.toml").write_text(f"{LISTS}split_names = {{ {names} }}\n{CLASSES}")
    with pytest.raises(ValueError, match=rf"dataset\.toml: split_names: {splits} are both '(all|x)'"):
        build_dataset(folder(root), "train")


def test_val_and_test_may_be_the_same_images(root: Path) -> None:
    (root / "dataset.toml").write_text(f'{LISTS}split_names = {{ test = "val" }}\n{CLASSES}')
    check_data(folder(root))
    assert len(build_dataset(folder(root), "test")) == 1


def test_a_check_lists_every_folder_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    list_below: Callable = listing._names_below

    def counted(place: str, prefix: str, seen: set):
        looked_at.append(place)
        return list_below(place, prefix, seen)

    monkeypatch.setattr(listing, "_names_below", counted)
    check_data(folder(root))
    assert sorted(looked_at) == sorted(2 * [str(root / "images"), str(root / "masks")])  # once per split
