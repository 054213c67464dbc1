"""Small data sets in the exact layouts of the published ones: real JPEG, PNG and MATLAB files."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 24, 32
NAMES = {"train": ("2008_000002", "2008_000003"), "val": ("2009_000001",)}


def some_ids(num_ids: int, first: int = 0) -> np.ndarray:
    """Every id from ``first`` on in turn, uint16 [24, 32]."""
    return (first + np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % num_ids).astype(np.uint16)


def write_image(
    path: Path, *, size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0, **options: object
) -> None:
    """Random pixels as JPEG or PNG, by the name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(pixels).save(path, kind, **options)


def write_label(path: Path, ids: np.ndarray) -> None:
    """An 8-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


def write_mat(path: Path, **variables: object) -> None:
    """A compressed MATLAB file, as the releases have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def sixteen_bit_rgb(path: Path) -> None:
    """An RGB PNG of 16 bits per value, which Pillow cannot write and reads as 8 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    rows = bytes(1 + 6 * WIDTH) * HEIGHT
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def write_list(path: Path, names: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n", encoding="utf-8")


def pascal_mat(root: Path) -> Path:
    """The official release: VOC2010 and ``trainval/<id>.mat`` beside it; returns VOC2010."""
    base = root / "VOCdevkit" / "VOC2010"
    for split, names in NAMES.items():
        for number, name in enumerate(names):
            write_image(base / "JPEGImages" / f"{name}.jpg", seed=number + len(split))
            write_mat(root / "trainval" / f"{name}.mat", LabelMap=some_ids(459, first=1))
        write_list(base / "ImageSets" / "Main" / f"{split}.txt", names)
    write_image(base / "JPEGImages" / "2010_000000.jpg")  # of VOC's test set: belongs to no split
    return base


def pascal_png(root: Path, ids: np.ndarray) -> Path:
    """mmsegmentation's layout; returns VOC2010."""
    base = root / "VOCdevkit" / "VOC2010"
    for split, names in NAMES.items():
        for name in names:
            write_image(base / "JPEGImages" / f"{name}.jpg")
            write_label(base / "SegmentationClassContext" / f"{name}.png", ids)
        write_list(base / "ImageSets" / "SegmentationContext" / f"{split}.txt", names)
    return base


def reference_pngs(root: Path, ids: np.ndarray) -> None:
    """``{train,val}/{image,label}``, as the method's reference has PASCAL-Context and COCO-Stuff 10k."""
    for split, names in NAMES.items():
        for name in names:
            write_image(root / split / "image" / f"{name}.jpg")
            write_label(root / split / "label" / f"{name}.png", ids)


def coco_164k(root: Path) -> None:
    """The pixel values of ``stuffthingmaps`` that occur, and 255."""
    absent = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    values = np.array([*(value for value in range(182) if value not in absent), 255])
    for split, name in (("train", "000000000009"), ("val", "000000000139")):
        write_image(root / "images" / f"{split}2017" / f"{name}.jpg")
        labels = root / "annotations" / f"{split}2017"
        write_label(labels / f"{name}.png", values[some_ids(172)])
        write_label(labels / f"{name}_labelTrainIds.png", some_ids(171))


def coco_10k(root: Path, *, num_names: int = 183) -> None:
    """Version 1.1, or 1.0 with 172 names."""
    absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    values = np.array([raw_id for raw_id in range(183) if raw_id not in absent], np.uint8)
    names = np.array([f"class {number}" for number in range(num_names)], dtype=object)[:, None]
    for split, name in (("train", "COCO_train2014_000000000077"), ("test", "COCO_train2014_000000000825")):
        write_image(root / "images" / f"{name}.jpg")
        write_mat(root / "annotations" / f"{name}.mat", S=values[some_ids(172)], names=names)
        write_list(root / "imageLists" / f"{split}.txt", (name,))


def ade20k(root: Path) -> None:
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_image(root / "images" / split / f"{name}.jpg")
        write_label(root / "annotations" / split / f"{name}.png", some_ids(151))


def camvid_full(root: Path, colors: list[tuple[int, int, int]]) -> None:
    """The original release: a pair of each of SegNet's splits."""
    for name in (
        "0001TP_006690",
        "0016E5_00390",
        "0006R0_f00930",
        "0016E5_07959",
        "0001TP_008550",
        "Seq05VD_f00000",
    ):
        write_image(root / "701_StillsRaw_full" / f"{name}.png")
        pixels = np.array(colors, np.uint8)[some_ids(len(colors))]
        path = root / "LabeledApproved_full" / f"{name}_L.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
