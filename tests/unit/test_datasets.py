"""Layouts, label maps and the reading of single pairs: what is wrong is named."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from pixelcontrast.config import Data
from pixelcontrast.datasets import camvid, cityscapes
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset, check_data

HEIGHT, WIDTH = 6, 9


def write_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_label(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


def some_ids(num_ids: int) -> np.ndarray:
    return np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % num_ids


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    for split, names in (("train", "cab"), ("val", "d")):
        for name in names:
            write_image(tmp_path / split / f"{name}.png")
            write_label(tmp_path / f"{split}annot" / f"{name}.png", some_ids(12))
    return tmp_path


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    for split, names in (("train", ("ulm_1", "bonn_2")), ("val", ("jena_3",))):
        for name in names:
            city = name.split("_")[0]
            write_image(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            write_label(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", some_ids(34))
    return tmp_path


def camvid_set(root: Path) -> SegmentationSet:
    return build_dataset(Data(layout="camvid", root=str(root)), "train")


def test_cityscapes_labels_are_those_of_cityscapesscripts() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    expected = {label.id % 256: 255 if label.trainId < 0 else label.trainId for label in official}
    trained = sorted(
        (label for label in official if 0 <= label.trainId < 255), key=lambda label: label.trainId
    )
    assert dict(cityscapes.LABELS.train_ids) == expected
    assert cityscapes.LABELS.names == tuple(label.name for label in trained)
    assert cityscapes.LABELS.colors == tuple(label.color for label in trained)
    assert cityscapes.LABELS.num_classes == 19


def test_cityscapes_is_read_as_train_ids_in_the_order_of_cities(cityscapes_root: Path) -> None:
    dataset = build_dataset(Data(layout="cityscapes", root=str(cityscapes_root)), "train")
    assert [pair.image.name for pair in dataset.pairs] == ["bonn_2_leftImg8bit.png", "ulm_1_leftImg8bit.png"]
    image, label = dataset.read(0)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert label.shape == (HEIGHT, WIDTH)
    assert image.dtype == label.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(np.array(Image.open(dataset.pairs[0].image))).permute(2, 0, 1))
    by_raw_id = label.flatten()[:34].tolist()
    assert by_raw_id[7] == 0
    assert by_raw_id[33] == 18
    assert by_raw_id[:7] == [IGNORE_INDEX] * 7


def test_cityscapes_licence_plate_is_ignored_and_a_train_id_file_is_refused(cityscapes_root: Path) -> None:
    dataset = build_dataset(Data(layout="cityscapes", root=str(cityscapes_root)), "val")
    write_label(dataset.pairs[0].label, np.full((HEIGHT, WIDTH), 255))
    assert (dataset.read(0)[1] == IGNORE_INDEX).all()
    write_label(dataset.pairs[0].label, some_ids(38))
    with pytest.raises(
        ValueError, match=r"jena_3_gtFine_labelIds\.png: unknown label ids: 34–37; .* 0–33, 255"
    ):
        dataset.read(0)


def test_camvid_is_sorted_and_void_is_ignored(camvid_root: Path) -> None:
    dataset = camvid_set(camvid_root)
    assert [pair.image.name for pair in dataset.pairs] == ["a.png", "b.png", "c.png"]
    assert len(dataset) == 3
    label = dataset.read(1)[1].flatten()[:12].tolist()
    assert label == [*range(11), IGNORE_INDEX]
    assert camvid.LABELS.num_classes == 11


def test_fingerprint_names_the_samples_and_not_the_place(
    camvid_root: Path, tmp_path_factory: pytest.TempPathFactory
):
    elsewhere = tmp_path_factory.mktemp("other") / "camvid"
    elsewhere.symlink_to(camvid_root)
    original = camvid_set(camvid_root).fingerprint
    assert camvid_set(elsewhere).fingerprint == original
    assert build_dataset(Data(layout="camvid", root=str(camvid_root)), "val").fingerprint != original
    write_image(camvid_root / "train" / "z.png")
    write_label(camvid_root / "trainannot" / "z.png", some_ids(11))
    longer = camvid_set(camvid_root).fingerprint
    assert longer != original
    with (camvid_root / "train" / "z.png").open("ab") as file:
        file.write(b"another image")
    assert camvid_set(camvid_root).fingerprint != longer, "the same names, other contents"


def test_missing_folders_are_named_with_the_layout(tmp_path: Path) -> None:
    def listing(layout: Literal["cityscapes", "camvid"], root: Path) -> None:
        build_dataset(Data(layout=layout, root=str(root)), "train")

    with pytest.raises(ValueError, match=r"nowhere: no such folder; expected is leftImg8bit/train/<city>"):
        listing("cityscapes", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"train: no such folder; expected is train/<name>\.png"):
        listing("camvid", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"trainannot: no such folder"):
        listing("camvid", tmp_path)
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(ValueError, match=r"train: no images found in this folder; expected is"):
        listing("camvid", tmp_path)


def test_image_without_label_is_named(camvid_root: Path) -> None:
    (camvid_root / "trainannot" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"train/b\.png: image without label .*trainannot/b\.png"):
        camvid_set(camvid_root)


def test_four_bit_palette_labels_keep_their_indices(camvid_root: Path) -> None:
    """torchvision's decoder gives packed nibbles for these; ``.convert("L")`` gives the palette's greys."""
    dataset = camvid_set(camvid_root)
    label = Image.fromarray(some_ids(11).astype(np.uint8))
    label.putpalette([value for color in camvid.LABELS.colors for value in color])
    label.save(dataset.pairs[0].label, bits=4)
    assert dataset.pairs[0].label.read_bytes()[24] == 4
    assert torch.equal(dataset.read(0)[1], torch.from_numpy(some_ids(11).astype(np.uint8)))


def grey_png(path: Path, *, bits: int) -> None:
    """A grey PNG of zeros, with fewer bits than Pillow writes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    rows = bytes(1 + (WIDTH * bits + 7) // 8) * HEIGHT
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def converted(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(some_ids(11).astype(np.uint8)).convert(mode).save(path, "PNG")


WRONG_LABELS = {
    "16-bit": (lambda path: Image.fromarray(some_ids(11).astype(np.uint16)).save(path), "mode I;16 is not"),
    "rgb": (converted("RGB"), "mode RGB is not supported"),
    "grey and alpha": (converted("LA"), "mode LA is not supported"),
    "2-bit grey": (lambda path: grey_png(path, bits=2), "grey values of 2 bits"),
    "4-bit grey": (lambda path: grey_png(path, bits=4), "grey values of 4 bits"),
    "jpeg": (lambda path: Image.new("L", (WIDTH, HEIGHT)).save(path, "JPEG"), "cannot be read as PNG"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as PNG"),
    "gone": (lambda path: path.unlink(), "cannot be read as PNG"),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_labels_that_are_no_ids_are_named(camvid_root: Path, kind: str) -> None:
    write, message = WRONG_LABELS[kind]
    dataset = camvid_set(camvid_root)
    write(dataset.pairs[0].label)
    with pytest.raises(ValueError, match=message) as error:
        dataset.read(0)
    assert str(error.value).startswith(str(dataset.pairs[0].label))


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_truncated_files_are_named(camvid_root: Path, which: str, share: float) -> None:
    dataset = camvid_set(camvid_root)
    path: Path = getattr(dataset.pairs[0], which)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cannot be read as") as error:
        dataset.read(0)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("which", ["image", "label"])
def test_no_wrong_bit_changes_a_pixel_unnoticed(camvid_root: Path, which: str) -> None:
    """Pillow alone accepts some of these with wrong values; torchvision's decoder crashes the process."""
    dataset = camvid_set(camvid_root)
    path: Path = getattr(dataset.pairs[0], which)
    content, pixels = path.read_bytes(), torch.cat([part.flatten() for part in dataset.read(0)])
    harmless = 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        message = None
        try:
            assert torch.equal(torch.cat([part.flatten() for part in dataset.read(0)]), pixels)
            harmless += 1
        except ValueError as error:
            message = str(error)
        assert message is None or message.startswith(str(path))
    assert harmless <= 12, "only in the end chunk, which holds nothing"


def test_sixteen_bit_grey_image_is_named_and_grey_image_is_read_as_rgb(camvid_root: Path) -> None:
    dataset = camvid_set(camvid_root)
    Image.fromarray(some_ids(11).astype(np.uint16)).save(dataset.pairs[0].image)
    with pytest.raises(ValueError, match=r"a\.png: mode I;16 is not supported; allowed are 8-bit RGB"):
        dataset.read(0)
    Image.fromarray(some_ids(200).astype(np.uint8)).save(dataset.pairs[0].image)
    assert torch.equal(dataset.read(0)[0], torch.from_numpy(some_ids(200).astype(np.uint8)).expand(3, -1, -1))


def test_image_and_label_of_different_size_are_both_named(camvid_root: Path) -> None:
    dataset = camvid_set(camvid_root)
    write_image(dataset.pairs[0].image, (HEIGHT, WIDTH + 1))
    with pytest.raises(
        ValueError, match=r"train/a\.png has 10×6 pixels but its label .*annot/a\.png has 9×6"
    ):
        dataset.read(0)


def test_unknown_ids_are_named(camvid_root: Path) -> None:
    dataset = camvid_set(camvid_root)
    write_label(dataset.pairs[0].label, np.where(some_ids(12) == 3, 77, some_ids(15)))
    with pytest.raises(ValueError, match=r"annot/a\.png: unknown label ids: 12–14, 77; allowed are 0–11"):
        dataset.read(0)


def test_check_data_looks_at_both_splits(camvid_root: Path) -> None:
    data = Data(layout="camvid", root=str(camvid_root))
    check_data(data)
    label = camvid_root / "valannot" / "d.png"
    label.write_bytes(label.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"valannot/d\.png"):
        check_data(data)
    label.unlink()
    with pytest.raises(ValueError, match=r"image without label .*valannot/d\.png"):
        check_data(data)


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_real_camvid_has_its_classes_where_they_belong() -> None:
    data = Data(layout="camvid", root=os.environ["CAMVID_ROOT"])
    train, val = build_dataset(data, "train"), build_dataset(data, "val")
    assert (len(train), len(val)) == (367, 101)
    labels = [train.read(index)[1] for index in range(0, len(train), 20)]
    height = torch.stack([label.float() for label in labels]).shape[1]
    rows = torch.arange(height)[None, :, None].expand(len(labels), -1, labels[0].shape[1])
    stacked = torch.stack(labels)
    mean_row = {
        name: rows[stacked == train_id].float().mean() for train_id, name in enumerate(camvid.LABELS.names)
    }
    assert mean_row["sky"] < mean_row["building"] < mean_row["car"] < mean_row["road"]
    assert set(stacked.unique().tolist()) == {*range(11), IGNORE_INDEX}
