"""`pixelcontrast data check` where a split cannot be listed: the remedy is that of the cause; what is shown
of a set that can be read and is not well."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from pixelcontrast.cli.data import data_command
from pixelcontrast.config import Data, Layout
from pixelcontrast.datasets.check_files import DataReport, check_files
from small_sets import some_ids, write_image, write_label

TOML = """images = "images/{split}"
masks = "masks/{split}"
[[classes]]
name = "road"
[[classes]]
name = "car"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train/a", "val/x")):
        write_image(tmp_path / f"images/{name}.jpg", seed=seed)
        write_label(tmp_path / f"masks/{name}.png", some_ids(2))
    (tmp_path / "dataset.toml").write_text(TOML)
    return tmp_path


def look(root: Path) -> DataReport:
    return check_files(Data(layout="folder", root=str(root)), processes=1)


def rewrite(root: Path, old: str, new: str) -> None:
    (root / "dataset.toml").write_text(TOML.replace(old, new, 1))


def with_lists(root: Path, **lists: str) -> None:
    rewrite(root, "[[classes]]", 'lists = "{split}.txt"\n[[classes]]')
    for split, text in lists.items():
        (root / f"{split}.txt").write_text(text)


CAUSES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "folder": (
        lambda root: (root / "images/val").rename(root / "x"),
        "val",
        "the layout's tree in experiments",
    ),
    "TOML": (
        lambda root: rewrite(root, "[[classes]]", "[[classes"),
        "train, val",
        "correct what stands there",
    ),
    "key": (lambda root: rewrite(root, "name", "nam"), "train, val", "dataset_file.py has all of them"),
    "no TOML": (lambda root: (root / "dataset.toml").unlink(), "train, val", "`pixelcontrast data init"),
    "twice": (
        lambda root: with_lists(root, train="a\na\n", val="x\n"),
        "train",
        "remove one of the two lines",
    ),
    "twice by other names": (
        lambda root: with_lists(root, train="a\nimages/train/a.jpg\n", val="x\n"),
        "train",
        "remove one of the two lines",
    ),
    "no list": (lambda root: with_lists(root, train="a\n"), "val", "write it, with one image name per line"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_remedy_is_that_of_the_cause_and_said_once(root: Path, cause: str) -> None:
    make, splits, remedy = CAUSES[cause]
    make(root)
    [found] = [found for found in look(root).findings if found.subject == "split"]
    assert found.file == splits
    assert remedy in found.remedy


def test_an_image_in_two_lists_is_said_to_be_in_both(root: Path) -> None:
    with_lists(root, train="train/a\nval/x\n", val="images/val/x.jpg\n")
    path = root / "dataset.toml"
    path.write_text(path.read_text().replace("/{split}", ""))
    [found] = [found for found in look(root).findings if found.subject == "leak"]
    assert (found.file, found.problem) == ("images/val/x.jpg", "listed in train and in val")
    assert found.remedy == "remove it from val or from train"


def test_a_root_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder; give the data set's folder, or a pack"):
        look(tmp_path / "nowhere")


def test_every_layout_has_its_tree_in_the_readme() -> None:
    table = (Path(__file__).parents[2] / "experiments/README.md").read_text().partition("## Layouts")[2]
    assert [layout for layout in get_args(Layout) if f"`{layout}`" not in table] == []


def test_what_was_counted_is_shown_although_something_is_wrong(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(root / "images/val/b.jpg")  # the same pixels as train/a
    write_label(root / "masks/val/b.png", some_ids(2))
    picture = root / "classes.png"
    with pytest.raises(SystemExit) as stop:
        data_command(["check", str(root), "--processes", "1", "--histogram", str(picture)])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    for text in ("1 problem, 0 notes", "50.000", "--optim.class-weights 1 1", f"histogram  {picture}"):
        assert text in shown
    assert "all well" not in shown
    assert picture.exists()
    picture.unlink()
    (root / "masks/val/b.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        data_command(["check", str(root), "--processes", "1", "--histogram", str(picture)])
    assert "weights, and the histogram, are left out: not every file" in capsys.readouterr().out
    assert not picture.exists()


def test_a_class_that_no_label_has_is_said_once(root: Path) -> None:
    for mask in root.glob("masks/*/*.png"):
        write_label(mask, some_ids(1))
    (found,) = look(root).findings
    assert found[:4] == ("problem", "class", "car", "no pixel in train")
