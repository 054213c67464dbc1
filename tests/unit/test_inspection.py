"""``pixelcontrast inspect``: which pixels are drawn, what the pictures show of them, files and report."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pixelcontrast import Contrast, Data, Model, load_model
from pixelcontrast.cli.inspect import inspect as command
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.evaluation import ConfusionMatrix
from pixelcontrast.evaluation.scatter_picture import scatter_picture
from pixelcontrast.inference.inspection import draw as draw_module
from pixelcontrast.inference.inspection import geometry
from pixelcontrast.inference.inspection import inspect as inspect_module
from pixelcontrast.inference.inspection import observe as observe_module
from pixelcontrast.inference.inspection.geometry import (
    class_similarities,
    hardest_pairs,
    neighbour_embedding,
    principal_components,
)
from pixelcontrast.inference.inspection.inspect import inspect
from pixelcontrast.inference.inspection.observe import EMBEDDING, FEATURES, images_of, observe
from pixelcontrast.inference.inspection.pixels import Pixels, draw_pixels, merge
from pixelcontrast.inference.trained import load_with_head
from pixelcontrast.reports import pictures_folder, write_report
from pixelcontrast.runs.pictures import Picture, read_pictures, write_pictures
from pixelcontrast.storage import Storage
from trained_runs import write_run

SMALL = Model(backbone="hrnet_w18_small", embedding_dim=8)
FILES = [
    "features.png",
    "features-similarity.png",
    "embedding.png",
    "embedding-similarity.png",
    "confusions.png",
    "worst-1.png",
]


def unit_rows(count: int, dim: int = 6) -> torch.Tensor:
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=1)


def pixels_of(rows: torch.Tensor, classes: list[int], images: list[int]) -> Pixels:
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    return Pixels(
        classes=torch.tensor(classes),
        images=torch.tensor(images),
        rows=zeros,
        columns=zeros,
        keys=zeros,
        predicted=zeros,
        layers={FEATURES: rows},
    )


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of each class: t-SNE of thousands takes seconds."""
    monkeypatch.setattr(observe_module, "_MAX_PIXELS", 190)


@pytest.fixture(scope="module")
def streets(scenes: Path) -> Data:
    return Data(layout="cityscapes", root=str(scenes))


@pytest.fixture(scope="module")
def runs(streets: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run with contrast, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    shared = {"data": streets, "model": SMALL, "num_classes": 19, "steps": (4,)}
    return (
        write_run(folder, name="contrast", **shared)[0],
        write_run(folder, name="ce", contrast=Contrast(weight=0.0), **shared)[0],
    )


def draw(image: int, label: Tensor, prediction: Tensor, maps: dict[str, Tensor], *, per_class: int) -> Pixels:
    """As ``draw_pixels``, from maps that cover the label without padding."""
    of_image = partial(draw_pixels, image, label, prediction, maps, spread_over=label.shape)
    return of_image(per_class=per_class, align_corners=True)


@pytest.mark.parametrize("height", [32, 21], ids=["whole", "padded"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_features_are_those_that_upsampling_weighs_most(align_corners: bool, height: int) -> None:
    """The nearest cell's: of a map whose cells count rows, within half a cell of the upsampled count."""
    cells = torch.arange(6).float()[None, None, :, None].expand(1, 1, 6, 6)
    upsampled = F.interpolate(cells, (32, 32), mode="bilinear", align_corners=align_corners)[0, 0]
    label = torch.zeros(height, 32).long()
    angles = torch.cat([(cells / 6).cos(), (cells / 6).sin()], dim=1)
    of_label = partial(draw_pixels, 0, label, label, {"map": angles}, per_class=99)
    drawn = of_label(spread_over=(32, 32), align_corners=align_corners)
    rows = drawn.layers["map"]
    found = 6 * torch.atan2(rows[:, 1], rows[:, 0])
    assert (found - upsampled[drawn.rows, drawn.columns]).abs().max() <= 0.5 + 1e-4


def test_the_same_pixels_are_drawn_whatever_the_network(streets: Data) -> None:
    _, label = build_dataset(streets, "val").read(0)
    label = label.long()
    coarse = draw(0, label, label, {"a": torch.randn(1, 4, 8, 16)}, per_class=5)
    fine = draw(0, label, 0 * label, {"b": torch.randn(1, 3, 16, 32)}, per_class=5)
    for field in ("classes", "rows", "columns"):
        assert torch.equal(getattr(coarse, field), getattr(fine, field))
    assert torch.equal(coarse.classes, label[coarse.rows, coarse.columns])
    expected = torch.bincount(label[label != 255].flatten()).clamp(max=5)
    assert torch.equal(torch.bincount(coarse.classes), expected)
    assert not torch.equal(draw(1, label, label, {}, per_class=5).rows, coarse.rows)


@pytest.mark.parametrize("align_corners", [True, False])
def test_features_are_those_of_the_cell_that_a_pixel_lies_in(align_corners: bool) -> None:
    label = torch.tensor([[0, 0, 1, 1], [255, 0, 1, 2]])
    layer = torch.tensor([[[[3.0, 0.0]], [[4.0, 5.0]]]])  # [1, 2, 1, 2]: left half (3, 4), right half (0, 5)
    of_label = partial(draw_pixels, 0, label, label, {"map": layer}, per_class=9)
    drawn = of_label(spread_over=label.shape, align_corners=align_corners)
    for column, row in zip(drawn.columns, drawn.layers["map"], strict=True):
        assert torch.allclose(row, torch.tensor([0.6, 0.8] if column < 2 else [0.0, 1.0]))


def test_the_draw_does_not_depend_on_the_order_of_the_images(streets: Data) -> None:
    dataset = build_dataset(streets, "val")
    drawn = [draw(i, label := dataset.read(i)[1].long(), label, {}, per_class=7) for i in range(3)]
    one = merge(merge(drawn[0], drawn[1], per_class=7), drawn[2], per_class=7)
    other = merge(drawn[2], merge(drawn[1], drawn[0], per_class=7), per_class=7)
    assert torch.equal(one.keys, other.keys)
    assert int(torch.bincount(one.classes).max()) == 7
    assert len(one.images.unique()) > 1


def test_class_similarities_equal_a_loop_over_pairs_of_pixels() -> None:
    rows, classes = unit_rows(7), torch.tensor([0, 0, 0, 1, 1, 3, 0])
    found = class_similarities(rows, classes, 4)
    for first in range(4):
        for second in range(4):
            cosines = [
                float(rows[i].double() @ rows[j].double())
                for i in range(7)
                for j in range(7)
                if i != j and (classes[i], classes[j]) == (first, second)
            ]
            if cosines:
                assert found[first, second] == pytest.approx(np.mean(cosines), abs=1e-6)
            else:
                assert np.isnan(found[first, second])


def test_hardest_pairs_equal_a_search_over_all_pairs() -> None:
    rows, classes, images = unit_rows(12), [0] * 4 + [1] * 4 + [2] * 3 + [3], [0, 1, 2, 3] * 3
    found = hardest_pairs(pixels_of(rows, classes, images), FEATURES, most=9)
    similar, best = (rows @ rows.T).tolist(), {}
    for anchor in range(11):  # class 3 has one pixel, and so no positive
        positives = [j for j in range(12) if classes[j] == classes[anchor] and j != anchor]
        own = sum(similar[anchor][j] for j in positives) / len(positives)
        others = [j for j in range(12) if classes[j] != classes[anchor] and images[j] != images[anchor]]
        negative = max(others, key=lambda j, of=anchor: similar[of][j])
        hardness = similar[anchor][negative] - own
        both = tuple(sorted((classes[anchor], classes[negative])))
        best[both] = max(best.get(both, (-9.0, 0, 0)), (hardness, anchor, negative))
    expected = [(anchor, negative) for _, anchor, negative in sorted(best.values(), reverse=True)]
    assert [(pair.anchor, pair.negative) for pair in found] == expected
    assert all(images[pair.anchor] != images[pair.negative] for pair in found)


def test_projections_keep_clusters_apart() -> None:
    centres = 3 * torch.eye(8)[:3]
    classes = torch.arange(60) % 3
    rows = centres[classes] + 0.2 * torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows, dim=1)
    points, shares = principal_components(rows)
    assert 0.7 < shares.sum() < 1
    for plane in (points, neighbour_embedding(rows)):
        distances = torch.cdist(torch.from_numpy(plane), torch.from_numpy(plane)).fill_diagonal_(torch.inf)
        assert torch.equal(classes[distances.argmin(dim=1)], classes)


def test_the_worst_images_have_the_lowest_miou(runs: tuple[str, str], streets: Data) -> None:
    dataset, model = build_dataset(streets, "val"), load_model(runs[0])
    mious = {}
    for index in range(len(dataset)):
        image, label = dataset.read(index)
        confusion = ConfusionMatrix(19)
        confusion.update(torch.from_numpy(model.predict(image.permute(1, 2, 0).numpy())), label)
        mious[index] = confusion.scores().miou
    seen = observe(load_with_head(runs[0]), dataset, images_of(dataset), on_image=lambda: None)
    assert [bad.index for bad in seen.worst] == sorted(mious, key=mious.__getitem__)[:4]
    assert seen.worst[0].miou == pytest.approx(min(mious.values()))


def test_a_run_without_contrast_has_features_but_no_embedding(runs: tuple[str, str], streets: Data) -> None:
    dataset, done = build_dataset(streets, "val"), []
    seen = [observe(load_with_head(run), dataset, [0, 1], on_image=lambda: done.append(1)) for run in runs]
    assert [set(each.pixels.layers) for each in seen] == [{FEATURES, EMBEDDING}, {FEATURES}]
    assert torch.equal(seen[0].pixels.keys, seen[1].pixels.keys)
    assert seen[0].pixels.layers[EMBEDDING].shape[1] == 8
    assert len(done) == 4


def test_pictures_state_layer_and_pixels_and_the_report_shows_them(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Inspection" not in Path(write_report(runs[0])).read_text()
    command(runs[0])
    printed = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in printed] == [*FILES, "report.html"]
    for line in printed[:-1]:
        Image.open(line).verify()
    pictures = {picture.file: picture for picture in read_pictures(Storage(runs[0]) / "pictures")}
    assert "at stride 4" in pictures["features.png"].words
    assert "Layer: embedding, what the projection head makes" in pictures["embedding.png"].words
    pixels = "Pixels: up to 10 of each class, drawn at random from 5 of the 5 val images"
    assert all(pixels in picture.words for name, picture in pictures.items() if name != "worst-1.png")
    report = Path(write_report(runs[0])).read_text()  # a later report still has them
    assert report.count("data:image/png;base64") == len(FILES)
    assert all(picture.title in report for picture in pictures.values())


def test_several_runs_stand_side_by_side(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    command(runs[0], (runs[1],))
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    folder = Path(pictures_folder(runs).path())
    assert printed == [
        *(folder / name for name in [*FILES, "worst-2.png"]),
        folder.with_name(f"{folder.name.removesuffix('-pictures')}.html"),
    ]
    # Two networks have features, below each other by PCA and by t-SNE; the one with an embedding has one row.
    two_rows, one_row = (Image.open(folder / f"{layer}.png").height for layer in (FEATURES, EMBEDDING))
    assert two_rows > 1.5 * one_row
    assert "Worst images of ce (cross-entropy, step 4)" in printed[-1].read_text()


def test_an_embedding_that_collapsed_to_one_point_is_drawn_and_named(
    runs: tuple[str, str], streets: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = build_dataset(streets, "val")
    seen = observe(load_with_head(runs[0]), dataset, [0], on_image=lambda: None)
    rows = seen.pixels.layers[EMBEDDING]
    with torch.inference_mode():
        rows[:] = F.normalize(torch.ones(rows.shape[1]), dim=0)
    captions: list[str] = []
    monkeypatch.setattr(
        draw_module,
        "scatter_picture",
        lambda panels, *colours: (
            captions.extend(panel.caption for row in panels for panel in row)
            or scatter_picture(panels, *colours)
        ),
    )
    t_sne = geometry.TSNE.fit_transform

    def without_crash(of: geometry.TSNE, points: np.ndarray) -> np.ndarray:
        assert points.std(axis=0)[0] > 1e-12, "here scikit-learn ends the process"
        return t_sne(of, points)

    monkeypatch.setattr(geometry.TSNE, "fit_transform", without_crash)
    looked = draw_module.Looked(dataset=dataset, split="val", num_images=1, per_class=10)
    drawn = draw_module.draw([seen], looked)
    assert [picture.file for picture, _ in drawn] == FILES
    same = "one point, as all pixels have the same embedding"
    assert captions[2:] == [f"PCA: {same}", f"t-SNE: {same}"]


def test_a_data_set_with_other_classes_is_refused(runs: tuple[str, str], tmp_path: Path) -> None:
    other, _ = write_run(tmp_path, name="b", model=SMALL, num_classes=11, steps=(4,))
    with pytest.raises(ValueError, match=r"it has 19 classes, and the network 11"):
        inspect([runs[0], other], out=Storage(str(tmp_path / "pictures")))


def test_a_folder_that_cannot_be_written_is_named_before_a_network_runs(
    runs: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(inspect_module, "observe", lambda *_args, **_kwargs: pytest.fail("a network runs"))
    with pytest.raises(ValueError, match=r"file/pictures cannot be written"):
        inspect([runs[0]], out=Storage(str(tmp_path / "file" / "pictures"), option="RUN"))


def test_a_picture_that_was_deleted_is_left_out(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    write_pictures(folder, [(Picture("a.png", "A", ""), b"a"), (Picture("b.png", "B", ""), b"b")])
    (tmp_path / "a.png").unlink()
    assert [picture.file for picture in read_pictures(folder)] == ["b.png"]


def test_a_damaged_list_of_pictures_is_named(tmp_path: Path) -> None:
    for content in ("[", '[{"file": "../a.png", "title": "", "words": ""}]', '[{"name": "a"}]'):
        (tmp_path / "pictures.json").write_text(content)
        with pytest.raises(ValueError, match=r"pictures\.json: damaged; rerun `pixelcontrast inspect`"):
            read_pictures(Storage(str(tmp_path)))
