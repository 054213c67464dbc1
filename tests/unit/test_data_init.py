"""``pixelcontrast data init``: the dataset.toml it writes can be read, and says what is in the masks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelcontrast.cli.data import data_command
from pixelcontrast.config import Data
from pixelcontrast.datasets.check_files import check_files
from pixelcontrast.datasets.dataset_file import DatasetFile, read_dataset_file
from pixelcontrast.datasets.propose import init
from pixelcontrast.datasets.segmentation import build_dataset
from small_sets import some_ids, write_image, write_label, write_list


def write_pairs(
    root: Path, images: str, masks: str, names: str = "abcd", ids: np.ndarray | None = None
) -> None:
    for split in ("train", "val"):
        for seed, name in enumerate(names):
            values = {"split": split, "name": f"{split[0]}{name}"}
            write_image(root / images.format(**values), seed=seed + 10 * len(split))
            write_label(root / masks.format(**values), some_ids(3) if ids is None else ids)


def propose(root: Path, **options: Any) -> tuple[DatasetFile, tuple[str, ...]]:
    notes = init(root, processes=1, **options)
    return read_dataset_file(root), notes


def sizes(root: Path) -> tuple[int, int]:
    data = Data(layout="folder", root=str(root))
    return len(build_dataset(data, "train")), len(build_dataset(data, "val"))


PLACES = [
    ("images/{split}/{name}.jpg", "masks/{split}/{name}.png", "images/{split}", "masks/{split}"),
    ("{split}/images/{name}.jpg", "{split}/labels/{name}.png", "{split}/images", "{split}/labels"),
    ("{split}/{name}.jpg", "{split}annot/{name}.png", "{split}", "{split}annot"),
    ("Images/{split}ing/{name}.jpg", "GT/{split}ing/{name}.png", None, None),
    (
        "images/{split}/{name}.jpg",
        "masks/{split}/{name}_mask.png",
        "images/{split}",
        "masks/{split}/**/*_mask.png",
    ),
]


@pytest.mark.parametrize(("image", "mask", "images", "masks"), PLACES)
def test_usual_folders_are_found(tmp_path: Path, image: str, mask: str, images: Any, masks: Any) -> None:
    write_pairs(tmp_path, image, mask)
    if images is None:
        for folder in ("Images", "GT"):
            (tmp_path / folder / "valing").rename(tmp_path / folder / "validation")
    described, notes = propose(tmp_path)
    if images is not None:
        assert (described.images, described.masks) == (images, masks)
    assert sizes(tmp_path) == (4, 4)
    assert notes == ()
    assert [(entry.name, entry.ids) for entry in described.classes] == [
        (f"class_{i}", (i,)) for i in range(3)
    ]
    assert "33.33% of the pixels, in 8 of 8 masks" in (tmp_path / "dataset.toml").read_text()
    assert check_files(Data(layout="folder", root=str(tmp_path)), processes=1).well


def test_without_splits_lists_are_written_and_stay_as_they_are(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(30)]
    for seed, name in enumerate(names):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(3))
    _, notes = propose(tmp_path)
    assert "No splits were found" in notes[0]
    train, val = ((tmp_path / f"{split}.txt").read_text().split() for split in ("train", "val"))
    assert sorted(train + val) == names
    assert 1 <= len(val) <= 8
    assert sizes(tmp_path) == (len(train), len(val))
    (tmp_path / "dataset.toml").unlink()
    (tmp_path / "train.txt").write_text("00\n")
    assert propose(tmp_path)[1] == ()
    assert sizes(tmp_path)[0] == 1


def test_an_export_in_the_form_of_voc_keeps_its_splits(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / f"JPEGImages/{number}.jpg", seed=number)
        write_label(tmp_path / f"SegmentationClass/{number}.png", some_ids(3))
    write_list(tmp_path / "ImageSets/Segmentation/train.txt", ("0", "1", "2"))
    write_list(tmp_path / "ImageSets/Segmentation/val.txt", ("3",))
    described, notes = propose(tmp_path)
    assert (described.images, described.masks) == ("JPEGImages", "SegmentationClass")
    assert described.lists == "ImageSets/Segmentation/{split}.txt"
    assert sizes(tmp_path) == (3, 1)
    assert notes == ()
    assert not list(tmp_path.glob("*.txt"))


def test_train_and_test_without_val_are_said_with_what_to_do(tmp_path: Path) -> None:
    for split in ("train", "Test"):
        for number in range(4):
            write_image(tmp_path / f"{split}/images/{number}.jpg", seed=number)
            write_label(tmp_path / f"{split}/masks/{number}.png", some_ids(3))
    with pytest.raises(ValueError, match=r"train and Test are there, and no val, .* --images train/IMAGES"):
        propose(tmp_path)
    propose(tmp_path, images="train/images", masks="train/masks")
    assert sizes(tmp_path) == (3, 1)


def list_of(root: Path, split: str) -> list[str]:
    return (root / f"{split}.txt").read_text().split()


@pytest.mark.parametrize("options", [{}, {"images": "images", "masks": "labels"}])
def test_a_folder_called_test_is_never_trained_on(tmp_path: Path, options: dict[str, str]) -> None:
    for seed, name in enumerate([*(f"train/{number}" for number in range(5)), "Test/6", "Test/7"]):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"labels/{name}.png", some_ids(3))
    _, notes = propose(tmp_path, **options)
    assert sorted(list_of(tmp_path, "train") + list_of(tmp_path, "val")) == [
        f"train/{number}" for number in range(5)
    ]
    assert list_of(tmp_path, "test") == ["Test/6", "Test/7"]
    assert "No images for validation were found: train.txt has 4 images and val.txt 1" in notes[0]
    assert "test.txt has the 2 images in folders called test" in notes[1]
    assert len(build_dataset(Data(layout="folder", root=str(tmp_path)), "test")) == 2


def test_folders_called_val_and_test_are_told_apart_below_a_pattern(tmp_path: Path) -> None:
    for seed, name in enumerate(["x/1", "x/2", "val/3", "test/4"]):
        write_image(tmp_path / f"photos/{name}.jpg", seed=seed)
        write_label(tmp_path / f"gt/{name}.png", some_ids(3))
    propose(tmp_path, images="photos/*/*.jpg", masks="gt/*/*.png")
    assert [list_of(tmp_path, split) for split in ("train", "val", "test")] == [
        ["x/1", "x/2"],
        ["val/3"],
        ["test/4"],
    ]


def test_images_and_masks_without_a_partner_are_said(tmp_path: Path) -> None:
    for seed, name in enumerate("abcdef"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name if name < 'd' else f'{name}{name}'}.png", some_ids(3))
    assert propose(tmp_path)[1][0] == (
        "Unpaired: 3 images without a mask, the first images/d.jpg; 3 masks without an image, the first "
        "masks/dd.png. Correct their names, or add what is missing: images are .jpg, .jpeg or .png files, "
        "masks .png."
    )
    notes = check_files(Data(layout="folder", root=str(tmp_path)), processes=1).findings
    assert [(note.severity, note.file, note.problem) for note in notes] == [
        ("note", "images/d.jpg", "no list names this image, nor 2 others"),
        ("note", "masks/dd.png", "no list names this label, nor 2 others"),
    ]
    (tmp_path / "test.txt").write_text("d\ne\nf\n")
    notes = check_files(Data(layout="folder", root=str(tmp_path)), processes=1).findings
    assert [note.file for note in notes] == ["masks/dd.png"]


def test_without_images_to_train_on_nothing_is_written(tmp_path: Path) -> None:
    for seed, name in enumerate(["val/1", "val/2", "test/3"]):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(3))
    with pytest.raises(
        ValueError, match=r"2 are in folders called val, 1 in test, and 0 elsewhere; .*--images"
    ):
        propose(tmp_path)
    assert not list(tmp_path.glob("*.t*"))


def test_splits_may_have_the_same_names(tmp_path: Path) -> None:
    for split, ids in (("train", some_ids(2)), ("val", some_ids(2, first=5))):
        write_image(tmp_path / f"images/{split}/1.jpg", seed=len(split))
        write_label(tmp_path / f"masks/{split}/1.png", ids)
    described, _ = propose(tmp_path)
    assert [entry.ids for entry in described.classes] == [(0,), (1,), (5,), (6,)]


def test_patterns_that_are_given_are_used(tmp_path: Path) -> None:
    write_pairs(tmp_path, "all/{split}_{name}_rgb.jpg", "all/{split}_{name}_ids.png")
    with pytest.raises(ValueError, match=r"masks: 'all/\*\*\.png' has \*\* within '\*\*\.png'"):
        propose(tmp_path, images="all/{split}_*_rgb.jpg", masks="all/**.png")
    propose(tmp_path, images="all/{split}_*_rgb.jpg", masks="all/{split}_*_ids.png")
    assert sizes(tmp_path) == (4, 4)
    with pytest.raises(ValueError, match=r"dataset\.toml: is there already; edit it, or delete it"):
        propose(tmp_path)


def test_patterns_that_leave_the_folder_are_refused_before_masks_are_read(tmp_path: Path) -> None:
    for images in ("../{split}", str(tmp_path / "{split}")):
        with pytest.raises(ValueError, match=r"images: '.*' leaves the data set's folder"):
            init(tmp_path, images=images, masks="masks/{split}", processes=1)


def test_patterns_that_are_given_find_folders_of_other_usual_names(tmp_path: Path) -> None:
    write_pairs(tmp_path, "{split}/{name}.jpg", "{split}/{name}_mask.png")
    (tmp_path / "val").rename(tmp_path / "valid")  # as Roboflow exports it
    described, _ = propose(tmp_path, images="{split}/*.jpg", masks="{split}/*_mask.png")
    assert (described.split_names.train, described.split_names.val) == ("train", "valid")
    assert sizes(tmp_path) == (4, 4)


@pytest.mark.parametrize("ids", [(0, 1, 255), (1, 255)])
def test_255_is_ignored_where_there_are_ids_but_0(tmp_path: Path, ids: tuple[int, ...]) -> None:
    image, mask = "images/{split}/{name}.jpg", "masks/{split}/{name}.png"
    write_pairs(tmp_path, image, mask, ids=np.array(ids)[some_ids(len(ids))])
    described, notes = propose(tmp_path)
    assert described.ignored_ids == (255,)
    assert [entry.ids for entry in described.classes] == [(raw_id,) for raw_id in ids[:-1]]
    assert notes == ()


def test_255_is_a_class_beside_0_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png", ids=255 * some_ids(2))
    described, notes = propose(tmp_path)
    assert [entry.ids for entry in described.classes] == [(0,), (255,)]
    assert "255 was taken for a class" in notes[0]


def test_masks_of_colours_become_a_table_of_colours(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")
    colors = np.array([(1, 2, 3), (4, 5, 6), (4, 5, 6)], np.uint8)
    for path in tmp_path.glob("masks/*/*.png"):
        Image.fromarray(colors[some_ids(3)]).save(path)
    described, _ = propose(tmp_path)
    assert described.mask_values == "colors"
    assert [entry.color for entry in described.classes] == [(4, 5, 6), (1, 2, 3)]
    assert set(
        build_dataset(Data(layout="folder", root=str(tmp_path)), "val").read(0)[1].unique().tolist()
    ) == {0, 1}


def test_masks_of_1_bit_hold_the_ids_0_and_1(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")
    for path in tmp_path.glob("masks/*/*.png"):
        Image.fromarray(some_ids(2) == 1).save(path)
    described, notes = propose(tmp_path)
    assert [entry.ids for entry in described.classes] == [(0,), (1,)]
    assert notes == ()
    data = Data(layout="folder", root=str(tmp_path))
    assert build_dataset(data, "val").read(0)[1].flatten()[:4].tolist() == [0, 1, 0, 1]
    assert check_files(data, processes=1).well


@pytest.mark.parametrize("bits", [1, 8])
def test_grey_masks_among_masks_of_colours_are_read_as_their_colours(tmp_path: Path, bits: int) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")
    paths = sorted(tmp_path.glob("masks/*/*.png"))
    for path in paths:
        Image.fromarray(np.array([(0, 0, 0), (255, 255, 255), (4, 5, 6)], np.uint8)[some_ids(3)]).save(path)
    white = some_ids(2) == 1  # as ImageMagick saves a mask that has no colours but black and white
    Image.fromarray(white if bits == 1 else white.astype(np.uint8) * 255).save(paths[2])
    described, notes = propose(tmp_path)
    assert described.mask_values == "colors"
    assert {entry.color for entry in described.classes} == {(0, 0, 0), (255, 255, 255), (4, 5, 6)}
    [note] = notes
    assert f"1 of 8 masks are grey, the first {paths[2]}, and others hold colours, such as {paths[0]}" in note
    assert 'in 8 of 8 masks\nname = "color_0_0_0"' in (tmp_path / "dataset.toml").read_text()
    assert check_files(Data(layout="folder", root=str(tmp_path)), processes=1).well


def palette(path: Path, colors: list[int]) -> None:
    label = Image.fromarray(some_ids(2).astype(np.uint8))
    label.putpalette(colors)
    label.save(path)


def test_palettes_give_colours_and_contradicting_ones_are_the_classes(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")
    paths = sorted(tmp_path.glob("masks/*/*.png"))
    for path in paths:
        palette(path, [9, 8, 7, 6, 5, 4])
    described, _ = propose(tmp_path)
    assert [(entry.ids, entry.color) for entry in described.classes] == [((0,), (9, 8, 7)), ((1,), (6, 5, 4))]
    (tmp_path / "dataset.toml").unlink()
    palette(paths[0], [6, 5, 4, 9, 8, 7])
    described, notes = propose(tmp_path)
    assert described.mask_values == "colors"
    assert "one number has several colours" in notes[0]


def pictures(root: Path) -> None:
    for path in root.glob("masks/*/*.png"):
        write_image(path)


def sixteen_bits(root: Path) -> None:
    for path in root.glob("masks/*/*.png"):
        Image.fromarray(some_ids(3)).save(path)


WRONG = {
    "pictures": (pictures, r"different values in 8 masks|more than 1000 colours"),
    "16 bits": (
        sixteen_bits,
        r"none of 8 masks can be read; .*ta\.png: mode I;16 is not supported; allowed are 8-bit L, P",
    ),
    "no masks": (
        lambda root: (root / "masks").rename(root / "stuff"),
        r"no images and masks under usual names",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_proposed_is_said_and_nothing_written(tmp_path: Path, kind: str) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")
    make, message = WRONG[kind]
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        propose(tmp_path)
    assert not (tmp_path / "dataset.toml").exists()


def test_lists_are_written_only_when_the_masks_can_be_used(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_image(tmp_path / f"masks/{name}.png", seed=seed)
    with pytest.raises(ValueError, match=r"different values|more than 1000 colours"):
        propose(tmp_path)
    assert not list(tmp_path.glob("*.t*"))
    for name in "abc":
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"only val\.txt is there; allowed are both train\.txt and val"):
        propose(tmp_path)


def test_names_with_quotes_and_unicode_are_written_as_toml(tmp_path: Path) -> None:
    write_pairs(tmp_path, 'bil"der/{split}/{name}.jpg', "mäsken/{split}/{name}.png")
    described, _ = propose(tmp_path, images='bil"der/{split}', masks="mäsken/{split}")
    assert described.images == 'bil"der/{split}'
    assert sizes(tmp_path) == (4, 4)


def test_the_command_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path, "images/{split}/{name}.jpg", "masks/{split}/{name}.png")
    data_command(["init", str(tmp_path), "--processes", "1"])
    assert f"then: pixelcontrast data check {tmp_path}\n" in capsys.readouterr().out
    spaced = tmp_path.rename(tmp_path.with_name("my photos"))
    (spaced / "dataset.toml").unlink()
    data_command(["init", str(spaced), "--processes", "1"])
    assert f"then: pixelcontrast data check '{spaced}'\n" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        data_command(["init", str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
