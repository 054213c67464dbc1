"""Scores against written-out and foreign ones; pictures by their pixels."""

import math
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from pixelcontrast.evaluation import (
    ConfusionMatrix,
    Scores,
    blend,
    confusion_picture,
    contact_sheet,
    overlay,
)
from processes import run_ranks


def case(seed: int, num_classes: int = 6, shape=(3, 17, 23), void: float = 0.2):
    """Predictions, right half of the time: class 4 is never true, class 5 neither true nor predicted."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes - 2, shape, generator=generator)
    noise = torch.randint(0, num_classes - 1, shape, generator=generator)
    predictions = torch.where(torch.rand(shape, generator=generator) < 0.5, labels, noise)
    return predictions, labels.masked_fill(torch.rand(shape, generator=generator) < void, 255)


def by_hand(predictions, labels, num_classes) -> Scores:
    both = zip(labels.flatten().tolist(), predictions.flatten().tolist(), strict=True)
    pairs = [(t, p) for t, p in both if t != 255]
    iou = []
    for c in range(num_classes):
        union = sum(t == c or p == c for t, p in pairs)
        iou.append(sum(t == c and p == c for t, p in pairs) / union if union else math.nan)
    present = [value for value in iou if not math.isnan(value)]
    recall = []
    for c in range(num_classes):
        guesses = [p for t, p in pairs if t == c]
        recall.append(guesses.count(c) / len(guesses) if guesses else math.nan)
    occurring = [c for c in range(num_classes) if not math.isnan(recall[c])]
    return Scores(
        miou=sum(present) / len(present),
        pixel_accuracy=sum(t == p for t, p in pairs) / len(pairs),
        mean_accuracy=sum(recall[c] for c in occurring) / len(occurring),
        frequency_weighted_iou=sum(iou[t] for t, _ in pairs) / len(pairs),
        iou=tuple(iou),
        accuracy=tuple(recall),
    )


def test_scores_equal_a_written_out_count():
    predictions, labels = case(0)
    matrix = ConfusionMatrix(6)
    matrix.update(predictions, labels)
    got, want = matrix.scores(), by_hand(predictions, labels, 6)
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert getattr(got, name) == pytest.approx(getattr(want, name), abs=1e-12)
    assert got.iou == pytest.approx(want.iou, abs=1e-12, nan_ok=True)
    assert got.accuracy == pytest.approx(want.accuracy, abs=1e-12, nan_ok=True)
    assert got.iou[4] == 0  # predicted in vain counts,
    assert math.isnan(got.iou[5])  # absent does not


def test_means_are_over_the_classes_that_occur_or_are_predicted():
    """The example by which tools that average otherwise give 0.475, 0.19 and 0.69."""
    predictions = torch.tensor([[2, 2, 3], [8, 2, 4], [3, 0, 2]])
    labels = torch.tensor([[1, 2, 2], [8, 2, 1], [3, 255, 1]])
    matrix = ConfusionMatrix(10)
    matrix.update(predictions, labels)
    scores = matrix.scores()
    assert {c: scores.iou[c] for c in (1, 2, 3, 4, 8)} == {1: 0, 2: 0.4, 3: 0.5, 4: 0, 8: 1}
    assert scores.miou == pytest.approx(0.38)
    assert scores.pixel_accuracy == pytest.approx(0.5)
    assert scores.mean_accuracy == pytest.approx(2 / 3)
    assert scores.frequency_weighted_iou == pytest.approx(0.3375)


def test_scores_are_of_the_data_set_and_equal_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex  # here: slow, and ranks import this file

    macro = MulticlassJaccardIndex(6, ignore_index=255, average="macro")
    single = MulticlassJaccardIndex(6, ignore_index=255, average="none")
    matrix, per_image = ConfusionMatrix(6), []
    for seed, void in enumerate((0.0, 0.3, 0.9)):
        predictions, labels = case(seed, shape=(2, 9 + 5 * seed, 11), void=void)
        matrix.update(predictions.to(torch.uint8), labels.to(torch.uint8))
        macro.update(predictions, labels)
        single.update(predictions, labels)
        per_image.append(by_hand(predictions, labels, 6).miou)
    scores = matrix.scores()
    assert scores.miou == pytest.approx(macro.compute().item(), abs=1e-6)
    assert list(scores.iou[:5]) == pytest.approx(single.compute().tolist()[:5], abs=1e-6)
    assert abs(scores.miou - sum(per_image) / 3) > 1e-3


def test_scores_equal_cityscapes_own_evaluation(tmp_path, capsys):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    raw_id = np.zeros(256, np.uint8)  # of a training id; void pixels become raw id 0, unlabeled
    for train_id in range(19):
        raw_id[train_id] = labels.trainId2label[train_id].id
    truths, guesses, matrix = [], [], ConfusionMatrix(19)
    for index in range(2):
        prediction, truth = case(index, num_classes=19, shape=(20, 30))
        matrix.update(prediction, truth)
        for files, ids, kind in ((truths, truth, "truth"), (guesses, prediction, "guess")):
            files.append(str(tmp_path / f"{kind}{index}.png"))
            Image.fromarray(raw_id[ids.numpy()]).save(files[-1])
    official.args.evalInstLevelScore, official.args.quiet, official.args.JSONOutput = False, True, False
    result = official.evaluateImgLists(guesses, truths, official.args)
    capsys.readouterr()
    scores = matrix.scores()
    want = [result["classScores"][labels.trainId2label[train_id].name] for train_id in range(19)]
    assert scores.iou == pytest.approx(want, abs=1e-12, nan_ok=True)
    assert scores.miou == pytest.approx(result["averageScoreClasses"], abs=1e-12)


def test_nothing_counted_gives_nan_and_an_empty_batch_changes_nothing():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 255))
    matrix.update(torch.zeros(0, 2, 2, dtype=torch.int64), torch.zeros(0, 2, 2, dtype=torch.int64))
    scores = matrix.scores()
    assert all(map(math.isnan, (scores.miou, scores.pixel_accuracy, *scores.iou)))


@pytest.mark.parametrize(
    ("predictions", "labels", "says"),
    [
        ([0, 3], [0, 0], "predicted class 3"),  # would land in truth 1, prediction 0
        ([0, -1], [1, 1], "predicted class -1"),
        ([0, 0], [3, 255], "true class 3"),
        ([0, 0], [-1, 0], "true class -1"),
        ([0, 0], [2**32, 0], "true class 4294967296"),
        ([0, 0], [0], "not one shape"),
    ],
)
def test_an_id_out_of_range_is_an_error_not_another_class(predictions, labels, says):
    matrix = ConfusionMatrix(3)
    dtypes = [torch.int64]
    if all(0 <= each < 256 for each in predictions + labels):
        dtypes.append(torch.uint8)
    for dtype in dtypes:
        with pytest.raises(ValueError, match=says):
            matrix.update(torch.tensor(predictions, dtype=dtype), torch.tensor(labels, dtype=dtype))
        assert not matrix.matrix.any()


def count_on_a_rank(rank: int, world_size: int) -> torch.Tensor:
    matrix = ConfusionMatrix(6)
    if rank == 0:  # the other has no image
        matrix.update(*case(0))
        matrix.update(*case(1))
    matrix.matrix += 2**40 * rank // (world_size - 1)  # exact beyond what float32 and int32 hold
    matrix.all_reduce()
    return matrix.matrix


def test_all_ranks_get_the_sum():
    summed = run_ranks(2, count_on_a_rank)
    whole = ConfusionMatrix(6)
    whole.update(*case(0))
    whole.update(*case(1))
    for matrix in summed:
        assert torch.equal(matrix, whole.matrix + 2**40)


COLORS = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)


def test_overlay_shows_image_truth_and_prediction():
    image = torch.arange(3 * 8 * 10, dtype=torch.uint8).reshape(3, 8, 10)
    image[:, :, 5:] = 100  # so that what varies there is not the image
    truth = torch.zeros(8, 10, dtype=torch.int64)
    truth[:, 5:] = 255
    row = overlay(image, truth, torch.ones(8, 10, dtype=torch.int64), COLORS)
    gap = (row.shape[1] - 30) // 2
    panels = [row[:, start : start + 10] for start in (0, 10 + gap, 20 + 2 * gap)]
    np.testing.assert_array_equal(panels[0], image.numpy().transpose(1, 2, 0))
    assert (panels[1][:, :5].argmax(-1) == 0).all()
    assert (panels[2].argmax(-1) == 2).all()
    ignored = panels[1][:, 5:]
    assert (ignored == ignored[..., :1]).all()  # grey, and striped:
    assert np.ptp(ignored) > 60


def blended_at_once(picture: np.ndarray, classes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    grey = picture.astype(float) @ np.array([0.299, 0.587, 0.114])
    striped = np.where(np.indices(grey.shape).sum(0) // 3 % 3 == 0, 0.25 * grey, 0.45 * grey + 110)
    colored = 0.68 * palette[np.where(classes < len(palette), classes, 0)] + 0.32 * grey[..., None]
    return np.where((classes < len(palette))[..., None], colored, striped[..., None]).round()


def test_a_large_picture_is_blended_in_little_memory_with_the_same_pixels():
    draws = np.random.default_rng(0)
    picture = draws.integers(0, 256, (1100, 2000, 3), dtype=np.uint8)
    classes = draws.integers(0, 4, (1100, 2000), dtype=np.uint8)
    classes[:, 900:1100] = 255
    palette = draws.integers(0, 256, (3, 3), dtype=np.uint8)
    tracemalloc.start()
    blended = blend(picture, classes, palette)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / classes.size < 8  # bytes per pixel, three of which are the result
    np.testing.assert_array_equal(blended, blended_at_once(picture, classes, palette))


def test_overlay_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"classes \[4, 5\] do not fit an image \[8, 10\]"):
        overlay(np.zeros((3, 8, 10)), np.zeros((4, 5), int), np.zeros((8, 10), int), COLORS)


def test_contact_sheet_holds_every_row_and_a_legend():
    rows = [np.full((30, 200, 3), value, np.uint8) for value in (10, 20, 30)]
    plain = np.asarray(Image.open(BytesIO(contact_sheet(rows))))
    for value in (10, 20, 30):
        assert (plain == value).all(-1).sum() >= 30 * 200
    titled = contact_sheet(rows, names=["sky", "road"], colors=COLORS, title="streets")
    legend = np.asarray(Image.open(BytesIO(titled)))
    assert legend.shape[0] > plain.shape[0]
    for channel in (0, 2):  # a swatch for each class
        strong = (legend[..., channel].astype(int) - legend.min(-1)) > 150
        assert strong.sum() >= 100


def test_wide_rows_are_scaled_down():
    sheet = Image.open(BytesIO(contact_sheet([np.zeros((512, 3000, 3), np.uint8)], max_width=600)))
    assert sheet.width < 640
    assert sheet.height < 160


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def frame(picture: np.ndarray) -> tuple[int, int, int]:
    """Left, top and side of the matrix, whose outline is the picture's longest upright line."""
    outline = (picture == 50).all(2)
    left = int(outline.sum(0).argmax())
    rows = np.flatnonzero(outline[:, left])
    return left, int(rows[0]), len(rows)


def cell(picture: np.ndarray, num_classes: int, row: int, column: int) -> list[int]:
    """The colour of a cell, beside what may be written in it."""
    left, top, side = frame(picture)
    step = (side - 1) // num_classes
    return picture[top + row * step + 3, left + column * step + 3].tolist()


@pytest.mark.parametrize("num_classes", [1, 11, 19, 171])
def test_confusion_picture_is_dark_where_pixels_are(num_classes):
    names = [f"class-{index}" for index in range(num_classes)]
    picture = decode(confusion_picture(np.eye(num_classes, dtype=int) * 900, names))
    for index in {0, num_classes // 2, num_classes - 1}:
        assert cell(picture, num_classes, index, index) == [8, 48, 107]
    if num_classes > 1:
        assert cell(picture, num_classes, 0, num_classes - 1) == [255, 255, 255]
        assert cell(picture, num_classes, num_classes - 1, 0) == [255, 255, 255]
    assert picture[0, 0].tolist() == picture[-1, -1].tolist() == [255, 255, 255]


def test_confusion_picture_shares_are_of_the_true_class():
    pixels = [[10, 10, 0], [0, 3000, 1000], [0, 0, 0]]
    picture = decode(confusion_picture(pixels, ["a", "b", "c"], title="step 8"))
    assert cell(picture, 3, 0, 0) == cell(picture, 3, 0, 1) == [107, 174, 214], "a half, of few pixels"
    assert cell(picture, 3, 1, 1) == [33, 113, 181], "three quarters"
    assert cell(picture, 3, 1, 2) == [198, 219, 239], "a quarter"
    empty = [cell(picture, 3, 2, column) for column in range(3)]
    assert empty == [[236, 236, 236]] * 3, "a class without pixels is not one that is never found"


def test_confusion_picture_writes_percent_only_where_they_fit():
    def written(num_classes: int) -> bool:
        names = [""] * num_classes
        picture = decode(confusion_picture(np.eye(num_classes, dtype=int), names))
        left, top, side = frame(picture)
        step = (side - 1) // num_classes
        return bool((picture[top + 2 : top + step - 2, left + 2 : left + step - 2].sum(2) > 700).any())

    assert written(11)
    assert written(19)
    assert not written(171)


def test_confusion_picture_refuses_counts_that_do_not_fit_the_names():
    with pytest.raises(ValueError, match=r"\[2, 3\] are not one row and column for 2 names"):
        confusion_picture([[1, 2, 3], [4, 5, 6]], ["a", "b"])
    with pytest.raises(ValueError, match="0 names"):
        confusion_picture([], [])
