"""What a training says of its data before it starts: classes that do not occur, files that are left out."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelcontrast.config import Data
from pixelcontrast.datasets import segmentation
from pixelcontrast.datasets.packing.write import pack
from pixelcontrast.datasets.segmentation import build_dataset, check_data
from small_sets import write_image, write_label

TOML = """images = "images/{split}"
masks = "masks/{split}"
ignored_ids = [255]
[[classes]]
name = "road"
[[classes]]
name = "car"
[[classes]]
name = "tram"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images to train on and one to validate, of roads and cars."""
    for seed, name in enumerate(("train/a", "train/b", "val/c")):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        width, height = Image.open(tmp_path / f"images/{name}.jpg").size
        ids = np.arange(width * height, dtype=np.uint8).reshape(height, width) % 2
        write_label(tmp_path / f"masks/{name}.png", ids)
    (tmp_path / "dataset.toml").write_text(TOML)
    return tmp_path


def said(root: Path, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.WARNING):
        check_data(Data(layout="folder", root=str(root)))
    return caplog.text


def test_a_class_that_no_label_has_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "no pixel in the training labels, so never learnt: tram" in said(root, caplog)
    caplog.clear()
    assert said(root, caplog) == "", "once: a search looks at the data before every trial"
    (root / "dataset.toml").write_text(TOML.replace('[[classes]]\nname = "tram"\n', ""))
    caplog.clear()
    assert said(root, caplog) == ""


def void(path: Path) -> None:
    write_label(path, np.full_like(np.asarray(Image.open(path)), 255))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", r"all pixels of all 2 labels to train on are ignored; at least one must have a class"),
        ("val", r"all pixels of all 1 labels to validate on are ignored; at least one must have a class"),
    ],
)
def test_a_split_of_void_labels_is_refused_packed_or_not(root: Path, split: str, message: str) -> None:
    for path in (root / "masks" / split).iterdir():
        void(path)
    data = Data(layout="folder", root=str(root))
    with pytest.raises(ValueError, match=message):
        check_data(data)
    pack(data, str(root / "packed"))
    with pytest.raises(ValueError, match=message):
        check_data(replace(data, root=str(root / "packed")))


def test_bad_samples_that_are_skipped_hide_no_classes_that_are_never_learnt(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Data(layout="folder", root=str(root), on_bad_sample="skip")
    (root / "masks/train/a.png").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        check_data(data)
    assert "no pixel in the training labels, so never learnt: tram" in caplog.text
    void(root / "masks/train/b.png")
    with pytest.raises(ValueError, match=r"all 1 labels to train on are ignored \(1 more cannot be read\)"):
        check_data(data)
    (root / "masks/train/b.png").write_bytes(b"damaged too")
    with pytest.raises(
        ValueError, match=r"none of the 2 labels to train on can be read; the first: .*train/[ab]\.png"
    ):
        check_data(data)


def test_void_labels_are_no_hindrance_when_time_is_over_before_another_is_found(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "defg":
        shutil.copy(root / "images/val/c.jpg", root / f"images/val/{name}.jpg")
        shutil.copy(root / "masks/val/c.png", root / f"masks/val/{name}.png")
    for name in "cdef":
        void(root / f"masks/val/{name}.png")
    monkeypatch.setattr(segmentation, "_LABELS_S", 0.0)
    check_data(Data(layout="folder", root=str(root)))


def test_ids_that_must_not_occur_in_labels_to_validate_on_are_named(root: Path) -> None:
    shutil.copy(root / "images/val/c.jpg", root / "images/val/d.jpg")
    write_label(root / "masks/val/d.png", np.full_like(np.asarray(Image.open(root / "masks/val/c.png")), 7))
    with pytest.raises(ValueError, match=r"val/d\.png: unknown label ids: 7; allowed are 0–2, 255"):
        check_data(Data(layout="folder", root=str(root)))


def test_files_that_are_left_out_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("d.webp", "e.TIF", ".f.webp"):
        (root / "images/train" / name).write_bytes(b"a picture")
    shutil.copy(root / "masks/train/a.png", root / "masks/train/z.png")
    text = said(root, caplog)
    assert f"train: 2 pictures are left out, such as {root}/images/train/d.webp: allowed" in text
    assert f"train: 1 label is left out, such as {root}/masks/train/z.png: without an image" in text


def test_endings_in_capitals_and_both_formats_are_taken_and_hidden_files_are_not(root: Path) -> None:
    shutil.copy(root / "images/train/a.jpg", root / "images/train/g.JPG")
    Image.open(root / "images/train/a.jpg").save(root / "images/train/h.png")
    (root / "images/train/._h.png").write_bytes(b"of macOS")
    for name in "gh":
        shutil.copy(root / "masks/train/a.png", root / f"masks/train/{name}.png")
    dataset = build_dataset(Data(layout="folder", root=str(root)), "train")
    assert [pair.image.name for pair in dataset.pairs] == ["a.jpg", "b.jpg", "g.JPG", "h.png"]


def test_an_image_turned_upside_down_by_its_camera_is_read_as_it_is_shown(root: Path) -> None:
    dataset = build_dataset(Data(layout="folder", root=str(root)), "train")
    stored, _ = dataset.read(0)
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180°
    write_image(root / "images/train/a.jpg", seed=0, exif=exif)
    turned, _ = dataset.read(0)
    assert turned.equal(stored.flip(1, 2))
