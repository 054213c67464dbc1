"""`pixelcontrast data check`: every fault is found, named, has a remedy; what a set that is well holds."""

import os
import shutil
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelcontrast.cli.data import data_command
from pixelcontrast.config import Data
from pixelcontrast.datasets import check_files as files_check
from pixelcontrast.datasets.check_files import DataReport, check_files
from pixelcontrast.datasets.histogram import histogram_picture
from pixelcontrast.datasets.parallel import in_processes
from pixelcontrast.datasets.report import SplitReport
from pixelcontrast.datasets.segmentation import build_dataset, check_data
from small_sets import HEIGHT, WIDTH, some_ids, write_image, write_label

TOML = """images = "images/{split}"
masks = "masks/{split}"
ignored_ids = [255]
[[classes]]
name = "road"
color = [128, 64, 128]
[[classes]]
name = "car"
"""
TRAIN, VAL = "abcd", "xyz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(TRAIN + VAL):
        split = "train" if name in TRAIN else "val"
        write_image(tmp_path / f"images/{split}/{name}.jpg", seed=seed)
        ids = some_ids(2)
        ids[0] = 255
        write_label(tmp_path / f"masks/{split}/{name}.png", ids)
    (tmp_path / "dataset.toml").write_text(TOML)
    return tmp_path


def look(root: Path, processes: int = 1) -> DataReport:
    return check_files(Data(layout="folder", root=str(root)), processes=processes)


def on_its_side(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(root / "images/train/a.jpg", size=(WIDTH, HEIGHT), exif=exif)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def link_out(root: Path, name: str) -> None:
    path, target = root / name, root.with_name(f"{root.name}-elsewhere") / name
    target.parent.mkdir(parents=True)
    path.rename(target)
    path.symlink_to(target)


def only_road(root: Path) -> None:
    for path in (root / "masks/train").iterdir():
        write_label(path, np.zeros((HEIGHT, WIDTH)))


def void(root: Path) -> None:
    for path in (root / "masks/val").iterdir():
        write_label(path, np.full((HEIGHT, WIDTH), 255))


def rewrite(root: Path, old: str, new: str) -> None:
    (root / "dataset.toml").write_text(TOML.replace(old, new))


def escape(root: Path) -> None:
    rewrite(root, 'masks = "masks/{split}"', 'masks = "masks/{split}"\nlists = "{split}.txt"')
    (root / "train.txt").write_text("a\n../../x\n")
    (root / "val.txt").write_text("x\n")


FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "missing label": (
        lambda root: (root / "masks/train/a.png").unlink(),
        "problem",
        "images/train/a.jpg",
        "image without label masks/train/a.png",
    ),
    "missing image": (
        lambda root: (root / "images/train/a.jpg").unlink(),
        "note",
        "masks/train/a.png",
        "label without image",
    ),
    "truncated image": (
        lambda root: truncate(root / "images/train/b.jpg"),
        "problem",
        "images/train/b.jpg",
        "cannot be read as PNG or JPEG: image file is truncated",
    ),
    "truncated mask": (
        lambda root: (root / "masks/train/b.png").write_bytes((root / "masks/train/b.png").read_bytes()[:60]),
        "problem",
        "masks/train/b.png",
        "cannot be read as PNG",
    ),
    "no image": (
        lambda root: (root / "images/val/x.jpg").write_text("<html>"),
        "problem",
        "images/val/x.jpg",
        "cannot be read as PNG or JPEG: its content is of another kind",
    ),
    "sizes": (
        lambda root: write_label(root / "masks/val/x.png", some_ids(2)[:-1]),
        "problem",
        "masks/val/x.png",
        "images/val/x.jpg has 32×24 pixels but its label masks/val/x.png has 32×23",
    ),
    "colours": (
        lambda root: Image.new("RGB", (WIDTH, HEIGHT)).save(root / "masks/val/x.png"),
        "problem",
        "masks/val/x.png",
        "mode RGB is not supported",
    ),
    "16 bits": (
        lambda root: Image.fromarray(some_ids(2)).save(root / "masks/val/x.png"),
        "problem",
        "masks/val/x.png",
        "mode I;16 is not supported",
    ),
    "ids": (
        lambda root: write_label(root / "masks/val/x.png", some_ids(5)),
        "problem",
        "masks/val/x.png",
        "unknown label ids: 2–4; allowed are 0–1, 255",
    ),
    "bomb": (
        lambda root: Image.new("L", (10_000, 8_001)).save(root / "images/val/x.jpg"),
        "problem",
        "images/val/x.jpg",
        "10000×8001 pixels; allowed are at most 80,000,000",
    ),
    "class": (only_road, "problem", "car", "no pixel in train"),
    "void": (void, "problem", "val", "no labelled pixel in val"),
    "duplicate": (
        lambda root: shutil.copy(root / "images/train/a.jpg", root / "images/train/c.jpg"),
        "problem",
        "images/train/c.jpg",
        "the same pixels as images/train/a.jpg",
    ),
    "leak": (
        lambda root: shutil.copy(root / "images/train/a.jpg", root / "images/val/y.jpg"),
        "problem",
        "images/val/y.jpg",
        "the same pixels as images/train/a.jpg, and that is in train",
    ),
    "link": (
        lambda root: link_out(root, "images/train/d.jpg"),
        "problem",
        "images/train/d.jpg",
        "a link out of the data set's folder, to ",
    ),
    "linked folder": (
        lambda root: link_out(root, "masks/val"),
        "problem",
        "masks/val",
        "a link out of the data set's folder, to ",
    ),
    "empty split": (
        lambda root: [path.unlink() for path in (root / "images/val").iterdir()],
        "problem",
        "val",
        "images/val: no images found in this folder",
    ),
    "escape": (escape, "problem", "train", "train.txt, line 2: ../../x leaves the data set's folder"),
    "settings": (lambda root: rewrite(root, "ignored_ids", "ignore"), "problem", "train, val", "ignore: "),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_and_named_with_a_remedy(root: Path, kind: str) -> None:
    make, severity, file, problem = FAULTS[kind]
    make(root)
    findings = [found for found in look(root).findings if found.file == file]
    assert [found.severity for found in findings] == [severity]
    assert problem in findings[0].problem
    assert findings[0].remedy


def test_an_image_that_is_turned_is_said(root: Path) -> None:
    on_its_side(root)
    report = look(root)
    assert report.well
    [found] = report.findings
    assert (found.severity, found.file) == ("note", "images/train/a.jpg")
    assert "EXIF orientation 6: the image is turned" in found.problem


def test_a_set_that_is_well_is_counted(root: Path) -> None:
    report = look(root)
    assert report.well
    assert not report.findings
    assert list(report.splits) == ["train", "val"]
    train = report.splits["train"]
    half = len(TRAIN) * (HEIGHT - 1) * WIDTH // 2
    assert train.class_pixels.tolist() == [half, half, len(TRAIN) * WIDTH]
    assert train.class_images.tolist() == [4, 4, 4]
    assert train.sizes == {(WIDTH, HEIGHT): 4}
    np.testing.assert_allclose(train.shares(), [0.5, 0.5, 1 / HEIGHT])
    np.testing.assert_allclose(train.class_weights(), [1, 1])


def test_class_weights_are_roots_of_the_median_frequency_over_each() -> None:
    pixels, images = np.array([9000, 100, 0, 400, 50]), np.array([10, 10, 0, 1, 10])
    found = SplitReport(10, pixels, images).class_weights()  # 900, 10 and 400 a picture; the last is ignored
    np.testing.assert_allclose(found, [(400 / 900) ** 0.5, 40**0.5, 1, 1])
    nothing = np.zeros(3, np.int64)
    np.testing.assert_allclose(SplitReport(0, nothing, nothing).class_weights(), [1, 1])


def test_other_processes_find_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_label(root / "masks/val/x.png", some_ids(5))
    (root / "masks/train/a.png").write_bytes(b"")
    alone = look(root)
    monkeypatch.setattr(files_check, "_FEW", 0)
    monkeypatch.setattr(files_check, "_CHUNK", 1)
    together = look(root, processes=2)
    assert together.findings == alone.findings
    for split, found in alone.splits.items():
        assert together.splits[split].class_pixels.tolist() == found.class_pixels.tolist()
        assert together.splits[split].sizes == found.sizes
        assert together.splits[split].contents == found.contents


def _after(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_the_first_file_comes_first_also_when_it_takes_longest() -> None:
    """In another order the sha256 of a data set's files would be another one."""
    assert list(in_processes(_after, [0.5, 0.0, 0.0], processes=2)) == [0.5, 0.0, 0.0]


def test_progress_ends_at_the_number_of_pairs(root: Path) -> None:
    told: list[tuple[int, int]] = []
    check_files(Data(layout="folder", root=str(root)), processes=1, on_progress=lambda *now: told.append(now))
    assert told[-1] == (7, 7)


def test_the_command_shows_contents_and_ends_with_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        data_command(["check", str(root), "--processes", "1", "--histogram", str(root / "classes.png")])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        "road",
        "car",
        "50.000",
        "train: 4 images of 32×24 (4)",
        "--optim.class-weights 1 1",
        "all well",
    ):
        assert text in shown
    assert Image.open(root / "classes.png").size[0] > 500


def test_contents_are_the_bytes_of_all_files(root: Path) -> None:
    first = look(root).splits
    other = next((root / "images/train").iterdir())
    with other.open("ab") as file:
        file.write(b"a comment after the end, which no decoder reads")
    second = look(root).splits
    assert len(first["train"].contents) == 64
    assert second["train"].contents != first["train"].contents
    assert second["val"].contents == first["val"].contents
    other.write_bytes(b"")
    assert look(root).splits["train"].contents != second["train"].contents


def test_the_command_shows_findings_and_ends_with_1(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in "abc":
        write_label(root / f"masks/train/{name}.png", some_ids(5))
    with pytest.raises(SystemExit) as stop:
        data_command(["check", str(root), "--processes", "1", "--limit", "2"])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert shown.count("unknown label ids: 2–4") == 2
    assert "… and 1 more problem of this kind: label" in shown
    assert "3 problems, 0 notes" in shown
    assert "all well" not in shown
    assert "shares of the classes, sizes and weights are left out: not every file" in shown
    assert "--optim.class-weights" not in shown


def test_the_histogram_has_a_bar_as_long_as_the_logarithm(root: Path) -> None:
    picture = np.array(Image.open(BytesIO(histogram_picture(look(root)))).convert("RGB"))
    road = int((picture == (128, 64, 128)).all(axis=2).any(axis=0).sum())
    assert 700 < road < 800  # two splits, 400 pixels for 100 %


def test_the_quick_look_before_a_training_reads_all_headers_in_time(root: Path) -> None:
    data = Data(layout="folder", root=str(root))
    check_data(data)
    assert build_dataset(data, "train").check_headers(seconds=60) == len(TRAIN)
    assert build_dataset(data, "train").check_headers(seconds=0) < len(TRAIN)


QUICK = (
    "sizes",
    "colours",
    "16 bits",
    "no image",
    "bomb",
    "missing label",
    "empty split",
    "escape",
    "settings",
)


@pytest.mark.parametrize("kind", QUICK)
def test_the_quick_look_finds_what_headers_tell(root: Path, kind: str) -> None:
    for name in "xz":  # the first and the last: what is wrong must not be in the first pair
        shutil.copy(root / f"images/val/{name}.jpg", root / f"images/val/a{name}.jpg")
        shutil.copy(root / f"masks/val/{name}.png", root / f"masks/val/a{name}.png")
    FAULTS[kind][0](root)
    with pytest.raises(ValueError, match=r"/"):
        check_data(Data(layout="folder", root=str(root)))


@pytest.mark.skipif("CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT is not set")
def test_the_quick_look_at_camvid_is_quick() -> None:
    dataset = build_dataset(Data(layout="camvid", root=os.environ["CAMVID_ROOT"]), "train")
    assert dataset.check_headers(seconds=30) == 367
