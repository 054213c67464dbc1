"""What ``pixelcontrast data init`` says of single files, and which names its lists can hold."""

from pathlib import Path
from typing import Any

import pytest

from pixelcontrast.config import Data
from pixelcontrast.datasets.check_files import check_files
from pixelcontrast.datasets.dataset_file import read_dataset_file
from pixelcontrast.datasets.propose import init
from pixelcontrast.datasets.segmentation import Split, build_dataset
from small_sets import some_ids, write_image, write_label


def test_one_file_is_told_in_the_singular(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "masks/b.png").write_bytes(b"no picture")
    notes = init(tmp_path, processes=1)
    assert "train.txt has 1 image and val.txt 1." in notes[0]
    assert notes[1].startswith("1 mask could not be read, the first: ")


@pytest.mark.parametrize("name", ["a ", " a", "a:b", "a\x0bb", "a\\b"])
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


def pairs_of(root: Path, split: Split) -> list[tuple[str, str]]:
    found = build_dataset(Data(layout="folder", root=str(root)), split).pairs
    return [
        (pair.image.relative_to(root).as_posix(), pair.label.relative_to(root).as_posix()) for pair in found
    ]


def init_beside(root: Path, ending: str) -> tuple[str, ...]:
    """Four images and their masks in one folder, proposed as both."""
    for seed, name in enumerate("abcd"):
        write_image(root / f"photos/{name}{ending}", seed=seed)
        write_label(root / f"photos/{name}_mask.png", some_ids(2))
    return init(root, images="photos", masks="photos", processes=1)


@pytest.mark.parametrize(("ending", "images"), [(".jpg", "photos/**/*.jpg"), (".png", "photos")])
def test_a_mask_beside_its_image_is_not_paired_with_itself(tmp_path: Path, ending: str, images: str) -> None:
    notes = init_beside(tmp_path, ending)
    described = read_dataset_file(tmp_path)
    assert (described.images, described.masks) == (images, "photos/**/*_mask.png")
    found = [*pairs_of(tmp_path, "train"), *pairs_of(tmp_path, "val")]
    assert sorted(found) == [(f"photos/{name}{ending}", f"photos/{name}_mask.png") for name in "abcd"]
    assert not any("Unpaired" in note for note in notes)


def test_an_image_that_is_its_own_label_is_a_fault_with_what_to_do(tmp_path: Path) -> None:
    init_beside(tmp_path, ".jpg")
    file = tmp_path / "dataset.toml"
    text = file.read_text().replace("photos/**/*.jpg", "photos").replace("photos/**/*_mask.png", "photos")
    file.write_text(text)
    for split in ("train", "val"):
        names = (tmp_path / f"{split}.txt").read_text().split()
        (tmp_path / f"{split}.txt").write_text("\n".join(f"{name}_mask" for name in names))
    with pytest.raises(ValueError, match=r"photos/\w_mask\.png: is its own label"):
        pairs_of(tmp_path, "train")
    assert not check_files(Data(layout="folder", root=str(tmp_path)), processes=1).well


def test_images_and_masks_that_are_the_same_files_are_refused(tmp_path: Path) -> None:
    for name in "abc":
        write_label(tmp_path / f"photos/{name}.png", some_ids(2))
    with pytest.raises(
        ValueError, match=r"at photos and masks at photos are the same files; tell them apart"
    ):
        init(tmp_path, images="photos", masks="photos", processes=1)


def test_two_kinds_of_masks_are_left_to_the_user(tmp_path: Path) -> None:
    for seed, name in enumerate("abcd"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_image(tmp_path / f"labels/{name}_color.png", seed=seed)
        write_label(tmp_path / f"labels/{name}_labelIds.png", some_ids(2))
    with pytest.raises(ValueError) as refused:
        init(tmp_path, processes=1)
    for kind in ("color", "labelIds"):
        assert f"labels/**/*_{kind}.png" in str(refused.value)
    assert "--images images --masks 'labels/**/*_" in str(refused.value)
    init(tmp_path, images="images", masks="labels/**/*_labelIds.png", processes=1)
    assert len(read_dataset_file(tmp_path).classes) == 2


@pytest.mark.parametrize(
    ("where", "splits", "options"),
    [
        ("images/{}/{}.jpg masks/{}/{}.png", ("Train", "Val", "Test"), {}),
        ("{}/images/{}.jpg {}/masks/{}.png", ("training", "validation", "testing"), {}),
        ("{}/{}.jpg {}annot/{}.png", ("train", "val", "test"), {}),
        (
            "x/{}/{}.jpg y/{}/{}.png",
            ("training", "val", "testing"),
            {"images": "x/{split}", "masks": "y/{split}"},
        ),
    ],
)
def test_the_test_split_has_its_name_in_the_file(
    tmp_path: Path, where: str, splits: tuple[str, ...], options: dict[str, Any]
) -> None:
    image, mask = where.split()
    for split in splits:
        for number in range(2):
            write_image(tmp_path / image.format(split, number), seed=number)
            write_label(tmp_path / mask.format(split, number), some_ids(2))
    init(tmp_path, processes=1, **options)
    named = read_dataset_file(tmp_path).split_names
    assert (named.train, named.val, named.test) == splits
    assert len(pairs_of(tmp_path, "test")) == 2


def test_a_missing_split_names_the_key_that_may_name_another_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / f"images/{split}/a.jpg")
        write_label(tmp_path / f"masks/{split}/a.png", some_ids(2))
    init(tmp_path, processes=1)
    with pytest.raises(ValueError, match=r"images/test: no such folder; .* split_names\.test"):
        pairs_of(tmp_path, "test")


def test_a_list_from_windows_may_have_its_separators(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/0", "a/1", "b/0")):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "train.txt").write_bytes(b"a\\0.jpg\r\nimages\\a\\1.jpg\r\n")
    (tmp_path / "val.txt").write_bytes(b"b\\0\r\n")
    init(tmp_path, processes=1)
    assert [image for image, _ in pairs_of(tmp_path, "train")] == ["images/a/0.jpg", "images/a/1.jpg"]
    assert [image for image, _ in pairs_of(tmp_path, "val")] == ["images/b/0.jpg"]
