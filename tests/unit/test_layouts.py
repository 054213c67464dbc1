"""PASCAL-Context, COCO-Stuff, ADE20K and full-size CamVid in their official layouts: which ids are read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import small_sets
from pixelcontrast.config import Data
from pixelcontrast.datasets import ade20k, camvid, coco_stuff, pascal_context
from pixelcontrast.datasets.labels import IGNORE_INDEX, voc_color
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset
from small_sets import some_ids, write_label, write_list, write_mat


def build(layout: Any, root: Path, split: Any = "train", **options: Any) -> SegmentationSet:
    return build_dataset(Data(layout=layout, root=str(root), **options), split)


def names(dataset: SegmentationSet) -> list[str]:
    return [pair.image.stem for pair in dataset.pairs]


def id_of(dataset: SegmentationSet, name: str) -> int:
    return dataset.labels.names.index(name)


def by_raw_id(dataset: SegmentationSet, num_ids: int) -> list[int]:
    """The train ids of the first pixels, whose raw ids are 0, 1, …"""
    return dataset.read(0)[1].flatten()[:num_ids].tolist()


def test_voc_colours_are_the_development_kit_s() -> None:
    assert [voc_color(index) for index in (0, 1, 2, 15, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (224, 224, 192),
    ]
    assert len({voc_color(index) for index in range(256)}) == 256


@pytest.mark.parametrize("order", [None, "alphabetical", "voc"])
def test_pascal_context_mat_files_name_their_classes_in_either_order(tmp_path: Path, order: Any) -> None:
    small_sets.pascal_mat(tmp_path)
    dataset = build("pascal-context-59", tmp_path, class_order=order)
    assert names(dataset) == list(small_sets.NAMES["train"])
    assert names(build("pascal-context-59", tmp_path, "val")) == list(small_sets.NAMES["val"])
    read = by_raw_id(dataset, 459)  # the first pixel is id 1
    expected = {2: "aeroplane", 23: "bicycle", 284: "person", 360: "sky", 397: "diningtable", 458: "wood"}
    for raw_id, name in expected.items():
        assert read[raw_id - 1] == id_of(dataset, name)
    assert read[0] == IGNORE_INDEX
    assert sorted({*read} - {IGNORE_INDEX}) == [*range(59)]
    if order == "voc":
        assert dataset.labels.names[:3] == ("aeroplane", "bicycle", "bird")
    else:
        assert dataset.labels.names[:3] == ("aeroplane", "bag", "bed")


def test_pascal_context_60_has_background_as_class_0(tmp_path: Path) -> None:
    small_sets.pascal_mat(tmp_path)
    dataset = build("pascal-context-60", tmp_path)
    read = by_raw_id(dataset, 459)
    assert dataset.labels.names[0] == "background"
    assert read[0] == 0
    assert read[283] == id_of(dataset, "person")
    assert sorted({*read}) == [*range(60)]


def test_pascal_context_ids_beyond_459_are_named(tmp_path: Path) -> None:
    small_sets.pascal_mat(tmp_path)
    write_mat(tmp_path / "trainval" / "2008_000002.mat", LabelMap=some_ids(461, first=1))
    with pytest.raises(ValueError, match=r"2008_000002\.mat: unknown label ids: 460–461; allowed are 0–459"):
        build("pascal-context-59", tmp_path).read(0)


@pytest.mark.parametrize(("order", "of_6"), [("voc", "bus"), ("alphabetical", "bicycle")])
def test_pascal_context_pngs_are_read_in_the_order_that_is_set(tmp_path: Path, order: Any, of_6: str) -> None:
    small_sets.pascal_png(tmp_path, some_ids(60))
    for layout, background in (("pascal-context-59", IGNORE_INDEX), ("pascal-context-60", 0)):
        dataset = build(layout, tmp_path, class_order=order)
        read = by_raw_id(dataset, 60)
        assert read[0] == background
        assert read[6] == id_of(dataset, of_6)


def test_pascal_context_pngs_without_an_order_are_refused(tmp_path: Path) -> None:
    small_sets.reference_pngs(tmp_path, some_ids(60))
    with pytest.raises(
        ValueError, match=r"data\.class_order: not set, and .*allowed are alphabetical .* and voc"
    ):
        build("pascal-context-59", tmp_path)
    dataset = build("pascal-context-59", tmp_path, class_order="alphabetical")
    assert by_raw_id(dataset, 60)[6] == id_of(dataset, "bicycle")


@pytest.mark.parametrize(("order", "person"), [("voc", 15), ("alphabetical", 37)])
def test_voc_s_own_labels_tell_the_order_and_contradict_a_wrong_one(
    tmp_path: Path, order: Any, person: int
) -> None:
    base = small_sets.pascal_png(tmp_path, np.full((24, 32), person))
    voc = np.full((24, 32), 15)
    voc[:2] = 255
    write_label(base / "SegmentationClass" / "2008_000003.png", voc)
    dataset = build("pascal-context-59", tmp_path)
    assert by_raw_id(dataset, 1) == [id_of(dataset, "person")]
    other: Any = "voc" if order == "alphabetical" else "alphabetical"
    with pytest.raises(ValueError, match=rf"data\.class_order: {other}, but .* in the order {order}, as"):
        build("pascal-context-59", tmp_path, class_order=other)


def test_class_order_of_other_layouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.class_order: voc, but data\.layout is ade20k; allowed is to leave"
    ):
        build("ade20k", tmp_path, class_order="voc")


def test_detail_s_file_gives_the_split_instead_of_voc_s_list(tmp_path: Path) -> None:
    base = small_sets.pascal_mat(tmp_path)
    phases = {"2008_000002": "train", "2008_000003": "val", "2009_000001": "val"}
    images = [{"file_name": f"{name}.jpg", "phase": phase, "ü": 1} for name, phase in phases.items()]
    tree = {"annos": [{"images": [3]}], "images": images, "annos_segmentation": ["x" * 100]}
    (base / "trainval_merged.json").write_text(json.dumps(tree), encoding="utf-8")
    assert names(build("pascal-context-59", tmp_path)) == ["2008_000002"]
    assert names(build("pascal-context-59", tmp_path, "val")) == ["2008_000003", "2009_000001"]
    (base / "trainval_merged.json").write_text('{"images": [{"file_name"')
    with pytest.raises(ValueError, match=r"trainval_merged\.json: cannot be read as Detail's file"):
        build("pascal-context-59", tmp_path)


def test_coco_stuff_164k_is_compacted_to_171_classes(tmp_path: Path) -> None:
    small_sets.coco_164k(tmp_path)
    dataset = build("coco-stuff-164k", tmp_path)
    read = by_raw_id(dataset, 172)
    assert read == [*range(171), IGNORE_INDEX]
    assert dataset.labels.names[11] == "stop sign"
    assert dataset.labels.names[170] == "wood"
    write_label(dataset.pairs[0].label, np.full((24, 32), 11))
    with pytest.raises(ValueError, match=r"000000000009\.png: unknown label ids: 11; allowed are 0–10, 12"):
        dataset.read(0)


def test_coco_stuff_10k_has_the_same_classes_under_other_ids(tmp_path: Path) -> None:
    small_sets.coco_10k(tmp_path)
    dataset = build("coco-stuff-10k", tmp_path)
    assert by_raw_id(dataset, 172) == [IGNORE_INDEX, *range(171)]
    assert dataset.labels.names == coco_stuff.LABELS_164K.names
    assert coco_stuff.LABELS_10K.train_ids[13] == coco_stuff.LABELS_164K.train_ids[12] == 11
    assert names(build("coco-stuff-10k", tmp_path, "val")) == ["COCO_train2014_000000000825"]


def test_coco_stuff_10k_of_version_1_0_is_refused(tmp_path: Path) -> None:
    small_sets.coco_10k(tmp_path, num_names=172)
    with pytest.raises(ValueError, match=r"000077\.mat: a label map of COCO-Stuff 10k version 1\.0"):
        build("coco-stuff-10k", tmp_path).read(0)


def test_the_reference_s_pngs_of_coco_stuff_10k_keep_the_ids(tmp_path: Path) -> None:
    small_sets.reference_pngs(tmp_path, np.full((24, 32), 182))
    dataset = build("coco-stuff-10k", tmp_path)
    assert by_raw_id(dataset, 1) == [id_of(dataset, "wood")]


def test_ade20k_ignores_0_and_counts_from_1(tmp_path: Path) -> None:
    small_sets.ade20k(tmp_path / "ADEChallengeData2016")
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        dataset = build("ade20k", root)
        assert by_raw_id(dataset, 151) == [IGNORE_INDEX, *range(150)]
        assert names(build("ade20k", root, "val")) == ["ADE_val_00000001"]
    assert ade20k.LABELS.names[:2] == ("wall", "building")
    assert ade20k.LABELS.names[149] == "flag"
    assert ade20k.LABELS.colors[12] == (150, 5, 61)


COLORS = [(0, 0, 192), (64, 128, 192), (0, 0, 0), (192, 64, 128), (128, 128, 64), (64, 192, 128)]


def test_full_size_camvid_is_grouped_to_the_11_classes_and_split_by_name(tmp_path: Path) -> None:
    small_sets.camvid_full(tmp_path, COLORS)
    dataset = build("camvid-full", tmp_path)
    assert names(dataset) == ["0001TP_006690", "0006R0_f00930", "0016E5_00390"]
    assert names(build("camvid-full", tmp_path, "val")) == ["0016E5_07959"]
    expected = ["pavement", "car", None, "car", "sign", "pavement"]
    ids = [IGNORE_INDEX if name is None else id_of(dataset, name) for name in expected]
    assert by_raw_id(dataset, 6) == ids
    assert dataset.labels.names == camvid.LABELS.names
    assert dataset.labels.colors == camvid.LABELS.colors


def test_a_colour_that_is_no_class_is_named(tmp_path: Path) -> None:
    small_sets.camvid_full(tmp_path, [*COLORS, (1, 2, 3)])
    with pytest.raises(
        ValueError, match=r"_L\.png: 109 pixels of unknown colours, such as \(1, 2, 3\); allowed"
    ):
        build("camvid-full", tmp_path).read(0)


def test_class_tables_have_the_published_lengths() -> None:
    spaces = {
        59: pascal_context.label_space("voc", background=False, num_raw=459),
        60: pascal_context.label_space("alphabetical", background=True, num_raw=60),
        171: coco_stuff.LABELS_164K,
        150: ade20k.LABELS,
    }
    for length, space in spaces.items():
        assert len(set(space.names)) == space.num_classes == length
        # ADE20K's own table gives screen door and crt screen one colour.
        assert len(set(space.colors)) == length - (length == 150)


def test_wide_and_narrow_ids_are_encoded_alike() -> None:
    labels = pascal_context.label_space("voc", background=True, num_raw=459)
    ids = some_ids(256)
    narrow = labels.encode(ids.astype(np.uint8), file=Path("a"))
    for order in ("C", "F"):
        wide = labels.encode(np.asarray(ids, order=order), file=Path("a"))
        assert wide.is_contiguous()
        assert wide.dtype == torch.uint8
        assert torch.equal(wide, narrow)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_truncated_mat_file_is_named(tmp_path: Path, share: float) -> None:
    small_sets.pascal_mat(tmp_path)
    path = tmp_path / "trainval" / "2008_000002.mat"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"2008_000002\.mat: (cannot be read as a MATLAB file|no variable)"):
        build("pascal-context-59", tmp_path).read(0)


WRONG_MATS = {
    "another variable": ({"S": some_ids(3)}, "no variable LabelMap; it has S"),
    "half ids": ({"LabelMap": some_ids(3) + 0.5}, "type float64 that are no ids"),
    "negative": ({"LabelMap": some_ids(3).astype(np.int32) - 1}, "type int32 that are no ids"),
    "a volume": ({"LabelMap": np.zeros((3, 4, 2), np.uint8)}, "LabelMap is 3×4×2; allowed are matrices"),
}


@pytest.mark.parametrize("kind", WRONG_MATS)
def test_mat_files_that_hold_no_ids_are_named(tmp_path: Path, kind: str) -> None:
    variables, message = WRONG_MATS[kind]
    small_sets.pascal_mat(tmp_path)
    write_mat(tmp_path / "trainval" / "2008_000002.mat", **variables)
    with pytest.raises(ValueError, match=r"2008_000002\.mat.*" + message):
        build("pascal-context-59", tmp_path).read(0)


def test_whole_numbers_of_other_types_are_ids(tmp_path: Path) -> None:
    small_sets.pascal_mat(tmp_path)
    expected = build("pascal-context-59", tmp_path).read(0)[1]
    write_mat(tmp_path / "trainval" / "2008_000002.mat", LabelMap=some_ids(459, first=1).astype(np.float64))
    assert torch.equal(build("pascal-context-59", tmp_path).read(0)[1], expected)


def test_a_listed_image_that_is_missing_is_named(tmp_path: Path) -> None:
    base = small_sets.pascal_mat(tmp_path)
    write_list(base / "ImageSets" / "Main" / "train.txt", ("2008_000002", "2008_999999"))
    with pytest.raises(ValueError, match=r"train\.txt: names 2008_999999, but there is no such image"):
        build("pascal-context-59", tmp_path)


def test_missing_labels_are_counted(tmp_path: Path) -> None:
    small_sets.pascal_mat(tmp_path)
    for name in small_sets.NAMES["train"]:
        (tmp_path / "trainval" / f"{name}.mat").unlink()
    with pytest.raises(ValueError, match=r"2008_000002\.jpg: image without label .*\(1 more such files\)"):
        build("pascal-context-59", tmp_path)


def test_no_split_list_is_named(tmp_path: Path) -> None:
    base = small_sets.pascal_mat(tmp_path)
    (base / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(
        ValueError, match=r"VOC2010: no split lists; allowed are ImageSets/SegmentationContext/train"
    ):
        build("pascal-context-59", tmp_path)


def test_palette_masks_of_colours_are_read_by_their_palette(tmp_path: Path) -> None:
    small_sets.camvid_full(tmp_path, COLORS)
    dataset = build("camvid-full", tmp_path)
    expected = dataset.read(0)[1]
    with Image.open(dataset.pairs[0].label) as label:
        label.quantize(6).save(dataset.pairs[0].label)
    assert torch.equal(dataset.read(0)[1], expected)
