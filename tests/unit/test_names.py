"""File names that are not UTF-8, as archives of other systems leave them: named before anything is read."""

import re
from pathlib import Path

import pytest

from pixelcontrast.config import Data
from pixelcontrast.datasets.check_files import check_files
from pixelcontrast.datasets.propose import init
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.inference.predict import find_pictures
from pixelcontrast.storage import Storage
from small_sets import pascal_png, some_ids, write_image, write_label

TOML = (
    'images = "images/{split}"\nmasks = "masks/{split}"\n[[classes]]\nname = "a"\n[[classes]]\nname = "b"\n'
)
NAME = "Stra\udcdfe"
"""Latin-1's bytes for Straße, as Python gives them."""
MESSAGE = re.escape(r"Stra\xdfe.jpg' is not UTF-8; allowed are names in UTF-8; rename it; `convmv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train/a", f"train/{NAME}", "val/c")):
        try:
            write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "dataset.toml").write_text(TOML)
    return tmp_path


def test_a_data_set_is_refused_where_its_names_are_listed(root: Path) -> None:
    data = Data(layout="folder", root=str(root))
    with pytest.raises(ValueError, match=MESSAGE):
        build_dataset(data, "train")
    [found] = check_files(data, processes=1).findings
    assert (found.severity, found.subject, found.file) == ("problem", "split", "train")
    assert re.search(r"Stra\\xdfe\.jpg' is not UTF-8", found.problem)
    assert "convmv" in found.remedy


def test_published_layouts_and_folders_of_such_names_are_refused_too(tmp_path: Path) -> None:
    base = pascal_png(tmp_path, some_ids(60))
    try:
        (base / "SegmentationClassContext" / NAME).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    write_label(base / "SegmentationClassContext" / NAME / "a.png", some_ids(60))
    with pytest.raises(ValueError, match=r"Stra\\xdfe/a\.png' is not UTF-8"):
        build_dataset(Data(layout="pascal-context-59", root=str(base)), "train")


def test_init_says_it_before_it_writes_anything(root: Path) -> None:
    (root / "dataset.toml").unlink()
    with pytest.raises(ValueError, match=MESSAGE):
        init(root, images="images", masks="masks", processes=1)
    assert not list(root.glob("*.t*"))


def test_other_files_may_have_such_names(root: Path) -> None:
    for path in (*root.glob("images/train/S*"), *root.glob("masks/train/S*")):
        path.unlink()
    (root / f"images/train/{NAME}.txt").write_text("notes")
    assert len(build_dataset(Data(layout="folder", root=str(root)), "train")) == 1


def test_folders_to_predict_and_storages_name_it(root: Path, tmp_path: Path) -> None:
    place = root / "images/train"
    with pytest.raises(ValueError, match=MESSAGE):
        find_pictures([str(place)], out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=MESSAGE):
        find_pictures([f"{place}/{NAME}.jpg"], out=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=MESSAGE):
        Storage(str(place)).names()
