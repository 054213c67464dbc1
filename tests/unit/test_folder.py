"""The user's own images: dataset.toml, patterns, lists, masks of ids and colours, names of all kinds."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelcontrast.config import Data
from pixelcontrast.datasets.dataset_file import read_dataset_file
from pixelcontrast.datasets.labels import IGNORE_INDEX
from pixelcontrast.datasets.segmentation import SegmentationSet, build_dataset
from small_sets import HEIGHT, WIDTH, sixteen_bit_rgb, some_ids, write_image, write_label, write_list

CLASSES = """
[[classes]]
name = "road"
color = [128, 64, 128]
[[classes]]
name = "car"
color = [0, 0, 142]
"""
BASIC = 'images = "images/{split}"\nmasks = "masks/{split}"\n'


def describe(root: Path, text: str) -> None:
    (root / "dataset.toml").write_text(text, encoding="utf-8")


def build(root: Path, split: Any = "train") -> SegmentationSet:
    return build_dataset(Data(layout="folder", root=str(root)), split)


def first_ids(dataset: SegmentationSet, count: int, index: int = 0) -> list[int]:
    return dataset.read(index)[1].flatten()[:count].tolist()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, names in (("train", "ab"), ("val", "c")):
        for seed, name in enumerate(names):
            write_image(tmp_path / "images" / split / f"{name}.jpg", seed=seed)
            write_label(tmp_path / "masks" / split / f"{name}.png", some_ids(2))
    describe(tmp_path, BASIC + CLASSES)
    return tmp_path


def test_folders_of_splits_are_read(root: Path) -> None:
    dataset = build(root)
    assert [dataset.name(index) for index in range(len(dataset))] == [
        "images/train/a.jpg",
        "images/train/b.jpg",
    ]
    assert dataset.labels.names == ("road", "car")
    assert first_ids(dataset, 3) == [0, 1, 0]
    assert len(build(root, "val")) == 1


def test_a_class_has_the_ids_it_is_given_and_others_are_refused(root: Path) -> None:
    text = 'ignored_ids = [9]\n[[classes]]\nname = "a"\nids = [0, 2]\n[[classes]]\nname = "b"\nids = [1]\n'
    describe(root, BASIC + text)
    write_label(root / "masks/train/a.png", np.array([0, 1, 2, 9])[some_ids(4)])
    assert first_ids(build(root), 4) == [0, 1, 0, IGNORE_INDEX]
    write_label(root / "masks/train/a.png", some_ids(4))
    with pytest.raises(ValueError, match=r"a\.png: unknown label ids: 3; allowed are 0–2, 9"):
        build(root).read(0)


def test_reduce_zero_label_ignores_0_and_counts_from_1(root: Path) -> None:
    describe(root, BASIC + "reduce_zero_label = true\n" + CLASSES)
    write_label(root / "masks/train/a.png", some_ids(3))
    assert first_ids(build(root), 3) == [IGNORE_INDEX, 0, 1]


def test_masks_of_colours_are_read_by_the_table(root: Path) -> None:
    text = 'mask_values = "colors"\nignored_colors = [[0, 0, 0]]\n'
    describe(root, BASIC + text + CLASSES + "mask_colors = [[0, 0, 142], [0, 0, 70]]\n")
    colors = np.array([(128, 64, 128), (0, 0, 142), (0, 0, 70), (0, 0, 0)], np.uint8)
    Image.fromarray(colors[some_ids(4)]).save(root / "masks/train/a.png")
    assert first_ids(build(root), 4) == [0, 1, 1, IGNORE_INDEX]
    for black in (np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), bool)):
        Image.fromarray(black).save(root / "masks/train/a.png")  # grey, as ImageMagick saves it
        assert first_ids(build(root), 2) == [IGNORE_INDEX, IGNORE_INDEX]
    write_label(root / "masks/train/a.png", some_ids(2))
    with pytest.raises(ValueError, match=r"a\.png: 384 pixels of unknown colours, such as \(1, 1, 1\)"):
        build(root).read(0)


def test_palette_masks_of_ids_keep_their_indices(root: Path) -> None:
    label = Image.fromarray(some_ids(2).astype(np.uint8))
    label.putpalette([9, 9, 9, 8, 8, 8])
    label.save(root / "masks/train/a.png", bits=1)
    assert first_ids(build(root), 3) == [0, 1, 0]


@pytest.mark.parametrize(
    ("images", "masks", "image", "mask"),
    [
        (
            "{split}/*_leftImg8bit.png",
            "{split}_gt/*_ids.png",
            "{split}/x_leftImg8bit.png",
            "{split}_gt/x_ids.png",
        ),
        ("img/{split}/*/*.jpg", "gt/{split}/*/*.png", "img/{split}/ulm/x.jpg", "gt/{split}/ulm/x.png"),
        ("{split}/**/*.jpg", "gt/*_{split}.png", "{split}/x.jpg", "gt/x_{split}.png"),
        ("img/{split}", "gt", "img/{split}/deep/x.JPG", "gt/deep/x.PNG"),
        ("img/{split}/**", "gt/{split}/**/*.png", "img/{split}/a/b/x.jpg", "gt/{split}/a/b/x.png"),
        ("img/{split}/**/", "gt/**", "img/{split}/x.jpg", "gt/x.png"),
        ("img [{split}]", "gt+(1)", "img [{split}]/x 1 (2).jpeg", "gt+(1)/x 1 (2).png"),
    ],
)
def test_what_the_stars_stand_for_pairs_image_and_mask(
    tmp_path: Path, images: str, masks: str, image: str, mask: str
) -> None:
    write_image(tmp_path / image.replace("{split}", "train"))
    write_label(tmp_path / mask.replace("{split}", "train"), some_ids(2))
    describe(tmp_path, f'images = "{images}"\nmasks = "{masks}"\n{CLASSES}')
    assert len(build(tmp_path)) == 1


@pytest.mark.parametrize("style", ["{}", "{}.jpg", "images/{}.jpg"])
def test_lists_with_mark_crlf_spaces_and_unicode_are_read(tmp_path: Path, style: str) -> None:
    names = ("straße 1", "a b", "été")
    for name in (*names, "other"):
        write_image(tmp_path / "images" / f"{name}.jpg")
        write_label(tmp_path / "masks" / f"{name}.png", some_ids(2))
    content = "\r\n".join([*(style.format(name) for name in names), "", ""])
    (tmp_path / "my train.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    describe(tmp_path, 'images = "images"\nmasks = "masks"\nlists = "my {split}.txt"\n' + CLASSES)
    assert sorted(pair.image.stem for pair in build(tmp_path).pairs) == sorted(names)


def test_names_that_macos_wrote_decomposed_are_found(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "été")
    write_image(tmp_path / "images" / f"{decomposed}.jpg")
    write_label(tmp_path / "masks" / "été.png", some_ids(2))
    write_list(tmp_path / "train.txt", ("été",))
    describe(tmp_path, 'images = "images"\nmasks = "masks"\nlists = "{split}.txt"\n' + CLASSES)
    assert len(build(tmp_path)) == 1


def test_endings_in_capitals_and_hidden_files(root: Path) -> None:
    for name in ("d.JPG", "e.jpeg", "f.PNG"):
        write_image(root / "images/train" / name)
        write_label(root / "masks/train" / f"{name[0]}.png", some_ids(2))
    (root / "images/train/._a.jpg").write_bytes(b"macOS")
    (root / "images/train/.thumbnails").mkdir()
    write_image(root / "images/train/.thumbnails/a.jpg")
    assert [pair.image.name for pair in build(root).pairs] == ["a.jpg", "b.jpg", "d.JPG", "e.jpeg", "f.PNG"]
    write_image(root / "images/train/a.png")
    with pytest.raises(ValueError, match=r"a\.png: the same name as .*a\.jpg; allowed is one file of a name"):
        build(root)


def test_a_link_back_to_its_own_folder_is_followed_once(root: Path) -> None:
    (root / "images/train/again").symlink_to(root / "images/train")
    assert len(build(root)) == 2


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_image_on_its_side_is_turned_when_the_mask_is_upright(root: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, turned = root / "images/train/a.jpg", orientation >= 5
    write_image(path, exif=exif)
    with Image.open(path) as stored:
        upright = stored.transpose(Image.Transpose.ROTATE_270 if turned else Image.Transpose.ROTATE_180)
    mask = some_ids(2).reshape(WIDTH, HEIGHT) if turned else some_ids(2)
    write_label(root / "masks/train/a.png", mask)
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert torch.equal(build(root).read(0)[0], expected)


def test_an_image_on_its_side_whose_mask_lies_too_is_refused(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(root / "images/train/a.jpg", exif=exif)
    with pytest.raises(
        ValueError, match=r"a\.jpg has 24×32 pixels but .* 32×24: EXIF orientation 6 turns the image"
    ):
        build(root).read(0)


def rgba(path: Path, alpha: int) -> None:
    pixels = np.full((HEIGHT, WIDTH, 4), 100, np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0, 3] = alpha
    Image.fromarray(pixels).save(path)


def bomb(path: Path) -> None:
    Image.new("L", (10_000, 8_001)).save(path)


WRONG_IMAGES = {
    "16-bit colour": (sixteen_bit_rgb, "values of 16 bits; allowed are 8-bit"),
    "transparent": (lambda path: rgba(path, 254), "transparent pixels, whose colour is undefined"),
    "a bomb": (bomb, "10000×8001 pixels; allowed are at most 80,000,000"),
    "CMYK": (
        lambda path: Image.new("CMYK", (WIDTH, HEIGHT)).save(path, "JPEG"),
        "mode CMYK is not supported",
    ),
    "TIFF": (
        lambda path: Image.new("RGB", (WIDTH, HEIGHT)).save(path, "TIFF"),
        "cannot be read as PNG or JPEG",
    ),
    "a web page": (lambda path: path.write_text("<html>"), "cannot be read as PNG or JPEG"),
}


@pytest.mark.parametrize("kind", WRONG_IMAGES)
def test_images_that_would_be_silently_wrong_are_named(root: Path, kind: str) -> None:
    write, message = WRONG_IMAGES[kind]
    (root / "images/train/a.jpg").unlink()
    write(root / "images/train/a.png")
    with pytest.raises(ValueError, match=r"images/train/a\.png: " + message):
        build(root).read(0)


def test_an_opaque_alpha_channel_changes_nothing(root: Path) -> None:
    (root / "images/train/a.jpg").unlink()
    rgba(root / "images/train/a.png", 255)
    assert (build(root).read(0)[0] == 100).all()


WRONG_FILES = {
    "no file": (None, r"dataset\.toml: no such file; `pixelcontrast data init .*` writes one"),
    "no toml": ("images = ", "cannot be read as TOML"),
    "no classes": (BASIC, "classes: missing"),
    "unknown key": (BASIC + "clases = 1\n" + CLASSES, "clases: "),
    "no ids": (
        BASIC + '[[classes]]\nname = "road"\nids = []\n',
        r"classes\.0\.ids: .*at least 1 item",
    ),
    "no colours": (
        BASIC + 'mask_values = "colors"\n[[classes]]\nname = "road"\nmask_colors = []\n',
        r"classes\.0\.mask_colors: .*at least 1 item",
    ),
    "wrong type": (BASIC + 'ignored_ids = ["x"]\n' + CLASSES, r"ignored_ids\.0: .*got 'x'"),
    "id too large": (
        BASIC + "ignored_ids = [256]\n" + CLASSES,
        r"ignored_ids\.0: .*less than or equal to 255",
    ),
    "no split": ('images = "images"\nmasks = "masks"\n' + CLASSES, "neither images nor lists has {split}"),
    "leaves": (
        'images = "../{split}"\nmasks = "masks"\n' + CLASSES,
        "'../{split}' leaves the data set's folder",
    ),
    "stars": (
        BASIC.replace("images/{split}", "images/{split}/**.png") + CLASSES,
        r"images: 'images/{split}/\*\*\.png' has \*\* within .*, as in 'images/{split}/\*\*/\*\.png'",
    ),
    "stars of masks": (BASIC.replace("masks/", "masks**/") + CLASSES, r"masks: .* within 'masks\*\*'"),
    "absolute": ('images = "/x/{split}"\nmasks = "masks"\n' + CLASSES, "leaves the data set's folder"),
    "id twice": (BASIC + "ignored_ids = [1]\n" + CLASSES, "id 1 has two meanings"),
    "name twice": (BASIC + CLASSES + '[[classes]]\nname = "car"\n', "two have the same name"),
    "zero twice": (BASIC + "reduce_zero_label = true\n" + CLASSES + "ids = [0]\n", "id 0 has two meanings"),
    "ids of colours": (
        BASIC + 'mask_values = "colors"\nignored_ids = [1]\n' + CLASSES,
        'only with mask_values = "ids"',
    ),
    "no colour": (BASIC + 'mask_values = "colors"\n[[classes]]\nname = "x"\n', "x has no color"),
    "colour twice": (
        BASIC + 'mask_values = "colors"\nignored_colors = [[0, 0, 142]]\n' + CLASSES,
        "a colour in the masks has two meanings",
    ),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_what_is_wrong_in_dataset_toml_is_named(root: Path, kind: str) -> None:
    text, message = WRONG_FILES[kind]
    (root / "dataset.toml").unlink() if text is None else describe(root, text)
    with pytest.raises(ValueError, match=message) as error:
        read_dataset_file(root)
    assert str(root / "dataset.toml") in str(error.value)


WRONG_LISTS = {
    "missing": (None, r"train\.txt: no such list, so the data set has no such split"),
    "latin-1": ("é\n".encode("latin-1"), r"train\.txt: cannot be read as a list in UTF-8"),
    "empty": (b"\n", r"train\.txt: an empty list"),
    "twice": (b"a\nb\na\n", r"train\.txt, line 3: a was already named in line 1"),
    "twice by other names": (
        b"a\nimages/train/b.jpg\nb.jpg\n",
        r"train\.txt: images/train/b\.jpg and b\.jpg are both .*b\.jpg; allowed is to name it once",
    ),
    "leaves": (b"../a\n", r"train\.txt, line 1: \.\./a leaves the data set's folder"),
    "absolute": (b"C:\\a.jpg\n", "leaves the data set's folder"),
    "unknown": (b"a\nz\n", r"train\.txt: names z, but there is no such image"),
}


@pytest.mark.parametrize("kind", WRONG_LISTS)
def test_what_is_wrong_in_a_list_is_named(root: Path, kind: str) -> None:
    content, message = WRONG_LISTS[kind]
    describe(root, 'images = "images/train"\nmasks = "masks/train"\nlists = "{split}.txt"\n' + CLASSES)
    if content is not None:
        (root / "train.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build(root)


def test_a_mask_of_another_place_is_named_where_it_should_be(root: Path) -> None:
    (root / "masks/train/a.png").rename(root / "masks/train/a_mask.png")
    with pytest.raises(ValueError, match=r"train/a\.jpg: image without label .*masks/train/a\.png"):
        build(root)
    describe(root, BASIC.replace("masks/{split}", "masks/{split}/*_mask.png") + CLASSES)
    with pytest.raises(ValueError, match=r"train/b\.jpg: image without label .*masks/train/b_mask\.png"):
        build(root)
    (root / "masks/train/a_mask.png").rename(root / "masks/train/b_mask.png")
    (root / "images/train/deep/er").mkdir(parents=True)
    (root / "images/train/a.jpg").rename(root / "images/train/deep/er/a.jpg")
    for masks in ("masks/{split}", "masks/{split}/**", "masks/{split}/**/*_mask.png"):
        describe(root, BASIC.replace("masks/{split}", masks) + CLASSES)
        with pytest.raises(ValueError, match=r"image without label .*masks/train/deep/er/a(_mask)?\.png"):
            build(root)


def test_the_fingerprint_changes_with_the_classes(root: Path) -> None:
    first = build(root).fingerprint
    describe(root, BASIC + CLASSES.replace("car", "bus"))
    assert build(root).fingerprint != first


def test_a_colour_belongs_to_the_fingerprint_only_where_masks_have_it(root: Path) -> None:
    """Beside masks of ids, colours are for pictures only: a run goes on when one is changed."""
    first = build(root).fingerprint
    describe(root, BASIC + CLASSES.replace("[0, 0, 142]", "[0, 0, 143]"))
    assert build(root).fingerprint == first
    in_colors = BASIC + 'mask_values = "colors"\n'
    prints = set()
    for classes in (CLASSES, CLASSES.replace("[0, 0, 142]", "[0, 0, 143]")):
        describe(root, in_colors + classes)
        prints.add(build(root).fingerprint)
    assert len(prints) == 2


def test_patterns_and_lists_may_begin_with_the_folder_itself(root: Path) -> None:
    expected = [pair.image for pair in build(root).pairs]
    describe(root, 'images = "./images//{split}/"\nmasks = ".//masks/{split}"\n' + CLASSES)
    assert [pair.image for pair in build(root).pairs] == expected
    (root / "train.txt").write_text("".join(f"./{image.relative_to(root)}\n" for image in expected))
    describe(root, 'images = "."\nmasks = "./masks"\nlists = "./{split}.txt"\n' + CLASSES)
    with pytest.raises(ValueError, match=r"image without label .*masks/images/train/a\.png"):
        build(root)
