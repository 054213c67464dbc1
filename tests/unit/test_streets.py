"""The generated street scenes: what they show, and the folder they are written to."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelcontrast.datasets import cityscapes
from pixelcontrast.scenes import streets

RAW_IDS = {0, 1, 4, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 33}
VOID = {0, 1, 4}
MAIN = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "sky": 23,
    "person": 24,
    "car": 26,
}
SMALL = (64, 128)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [streets.render(0, index, (128, 256)) for index in range(20)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder; no test may change it."""
    folder = tmp_path_factory.mktemp("written") / "streets"
    streets.write(folder, num_train=5, num_val=3, size=SMALL)
    return folder


def pngs(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.png"))}


def test_render_repeats_its_pixels_and_leaves_earlier_scenes_alone():
    image, label = streets.render(3, 7, SMALL)
    before = image.copy(), label.copy()
    streets.render(3, 8, SMALL)
    again = streets.render(3, 7, SMALL)
    for old, returned, new in zip(before, (image, label), again, strict=True):
        np.testing.assert_array_equal(returned, old)
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(("seed", "index"), [(0, 1), (1, 0)])
def test_another_seed_or_index_is_another_scene(seed: int, index: int):
    image, label = streets.render(0, 0, SMALL)
    other_image, other_label = streets.render(seed, index, SMALL)
    assert (image != other_image).any(axis=-1).mean() > 0.9
    assert (label != other_label).mean() > 0.1


@pytest.mark.parametrize("size", [(256, 512), (64, 128), (33, 70)])
def test_shapes_dtypes_and_label_ids(size: tuple[int, int]):
    for index in range(2):
        image, label = streets.render(5, index, size)
        assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
        assert (label.shape, label.dtype) == (size, np.uint8)
        assert set(np.unique(label).tolist()) <= RAW_IDS


@pytest.mark.parametrize("name", MAIN)
def test_every_main_class_is_common(scenes: list[tuple[np.ndarray, np.ndarray]], name: str):
    assert sum(bool((label == MAIN[name]).any()) for _, label in scenes) >= 8


def test_there_is_something_to_ignore_but_little(scenes: list[tuple[np.ndarray, np.ndarray]]):
    void = [float(np.isin(label, list(VOID)).mean()) for _, label in scenes]
    assert max(void) > 0.02
    assert np.mean(void) < 0.1


def test_sky_is_above_the_houses_and_they_above_the_road(scenes: list[tuple[np.ndarray, np.ndarray]]):
    def middle(name: str) -> float:
        rows = [np.nonzero(label == MAIN[name])[0] for _, label in scenes]
        return float(np.concatenate(rows).mean())

    assert middle("sky") < middle("building") < scenes[0][1].shape[0] / 2 < middle("road")


def test_label_edges_lie_on_image_edges(scenes: list[tuple[np.ndarray, np.ndarray]]):
    """Shifting the labels against the picture by four pixels must cost contrast at their edges."""

    def contrast(image: np.ndarray, label: np.ndarray, shift: int) -> float:
        grey = image.astype(np.float32).mean(axis=-1)
        step = np.abs(np.diff(grey, axis=1))
        edge = np.roll(np.diff(label.astype(int), axis=1) != 0, shift, axis=1)
        return float(step[:, 8:-8][edge[:, 8:-8]].mean())

    aligned = np.mean([contrast(*scene, 0) for scene in scenes])
    for shift in (-4, 4):
        assert aligned > 1.8 * np.mean([contrast(*scene, shift) for scene in scenes])


def test_colour_alone_does_not_give_the_class(scenes: list[tuple[np.ndarray, np.ndarray]]):
    """The best guess from a pixel's colour, fitted and scored on the same scenes, still errs often."""
    colour = np.concatenate([(image // 16).reshape(-1, 3) for image, _ in scenes]).astype(int) @ (256, 16, 1)
    label = np.concatenate([label.ravel() for _, label in scenes])
    votes = np.bincount(colour * 34 + label, minlength=16**3 * 34).reshape(16**3, 34)
    assert votes.max(axis=1).sum() / votes.sum() < 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 0, SMALL), "seed"), ((0, -1, SMALL), "index"), ((0, 0, (31, 64)), "size .* at least 32")],
)
def test_render_refuses_what_it_cannot_draw(arguments: tuple[int, int, tuple[int, int]], message: str):
    with pytest.raises(ValueError, match=message):
        streets.render(*arguments)


def test_the_folder_is_read_as_cityscapes(root: Path):
    train, val = (cityscapes.listing(root, split).found.pairs for split in ("train", "val"))
    assert (len(train), len(val)) == (5, 3)
    for pair in (*train, *val):
        with Image.open(pair.image) as image, Image.open(pair.label) as label:
            assert (image.mode, label.mode) == ("RGB", "L")
            assert image.size == label.size == (SMALL[1], SMALL[0])


def test_files_hold_what_render_gives(root: Path):
    image, label = streets.render(0, 0, SMALL)
    stem = "altenau/altenau_000000_000019"
    with Image.open(root / f"leftImg8bit/train/{stem}_leftImg8bit.png") as written:
        np.testing.assert_array_equal(np.asarray(written), image)
    with Image.open(root / f"gtFine/train/{stem}_gtFine_labelIds.png") as written:
        np.testing.assert_array_equal(np.asarray(written), label)


def test_all_scenes_differ_also_between_the_splits(root: Path):
    images = [content for name, content in pngs(root).items() if "leftImg8bit" in name]
    assert len(images) == len(set(images)) == 8


def test_validation_scenes_do_not_depend_on_the_number_of_training_scenes(root: Path, tmp_path: Path):
    streets.write(tmp_path / "more", num_train=6, num_val=3, size=SMALL)
    validation = {name: content for name, content in pngs(root).items() if "/val/" in name}
    assert validation.items() <= pngs(tmp_path / "more").items()


def test_a_complete_folder_is_left_alone(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    streets.write(root, num_train=5, num_val=3, size=SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_interrupted_writing_is_finished(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    left = 4

    def interrupted(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return streets_render(*arguments)

    streets_render = streets.render
    folder = tmp_path / "interrupted"
    monkeypatch.setattr(streets, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        streets.write(folder, num_train=5, num_val=3, size=SMALL)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert len(kept) == 8
    with pytest.raises(ValueError, match="seed"):
        streets.write(folder, num_train=5, num_val=3, size=SMALL, seed=1)
    streets.write(folder, num_train=5, num_val=3, size=SMALL)
    assert pngs(folder) == pngs(root)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["streets.json"]


@pytest.mark.parametrize(
    ("name", "value"), [("num_train", 4), ("num_val", 2), ("size", (64, 130)), ("seed", 1)]
)
def test_other_arguments_are_refused_by_name(root: Path, name: str, value: object):
    before = pngs(root)
    arguments: dict = {"num_train": 5, "num_val": 3, "size": SMALL, "seed": 0} | {name: value}
    with pytest.raises(ValueError, match=f"{root.name}: .*{name} .*delete the folder"):
        streets.write(root, **arguments)
    assert pngs(root) == before


def test_a_folder_of_other_pictures_is_refused(tmp_path: Path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=f"{tmp_path.name}: is not empty, .* name a new or an empty folder"):
        streets.write(tmp_path, num_train=1, num_val=1, size=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("bad", [{"num_train": 0}, {"num_val": 0}, {"size": (16, 512)}, {"seed": -1}])
def test_arguments_out_of_range_write_nothing(tmp_path: Path, bad: dict):
    with pytest.raises(ValueError, match=next(iter(bad))):
        streets.write(tmp_path / "none", **({"num_train": 1, "num_val": 1, "size": SMALL} | bad))
    assert not (tmp_path / "none").exists()
