"""Evaluation against the field's tool, and the exported network against the plain one.

    python experiments/benchmarks/evaluation.py --out evaluation.json
    python experiments/benchmarks/evaluation.py --quick

One thread; the compared forms take turns. The confusion matrix is that of a 2048×1024 image with 19 classes,
a generated street scene and a prediction that is wrong in a tenth of its blocks, once from maps in memory
and once from PNG files. cityscapesscripts counts by Cython where it was built with it, else by numpy; the
row's name says which. Both counts are compared before they are timed.
"""

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from measure import Form, Row, command, row, seconds
from numpy.typing import NDArray
from PIL import Image

from pixelcontrast import Model, load_model
from pixelcontrast.datasets import cityscapes
from pixelcontrast.datasets.files import read_label
from pixelcontrast.evaluation import ConfusionMatrix
from pixelcontrast.inference import TrainedModel, export_model
from pixelcontrast.inference.metadata import Metadata, Source
from pixelcontrast.models import build_model
from pixelcontrast.scenes import streets

official = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
_LABELS = cityscapes.LABELS
_BLOCK = 32


def measured(quick: bool) -> Iterator[Row]:
    """Both comparisons."""
    yield from confusion_matrix(quick)
    yield from exported_network(quick)


def confusion_matrix(quick: bool) -> Iterator[Row]:
    """One image's counts, ours and cityscapesscripts', on the same raw ids."""
    height, width = (256, 512) if quick else (1024, 2048)
    truth = streets.render(0, 0, (height, width))[1]
    guess = _wrong_in_places(truth)
    tool = "cityscapesscripts" + (" (Cython)" if official.CSUPPORT else " (numpy)")
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{name}.png") for name in ("guess", "truth")]
        for file, ids in zip(files, (guess, truth), strict=True):
            Image.fromarray(ids).save(file)
        loaded = dict(zip(files, map(Image.fromarray, (guess, truth)), strict=True))
        train_ids = [_LABELS.encode(ids, file=Path(folder)) for ids in (guess, truth)]
        _check_equal(files, train_ids)
        forms: dict[str, Form] = {
            "ours": lambda: _count(*train_ids),
            "theirs": lambda: _official(files, SimpleNamespace(open=loaded.__getitem__)),
            "ours, files": lambda: _count_files(files),
            "theirs, files": lambda: _official(files, Image),
        }
        taken = seconds(forms, rounds=2 if quick else 9)
    size = f"{width}×{height}, 19 classes"
    for name, value in taken.items():
        yield row(f"confusion matrix, {size}, {name}", 1000 * value, "ms")
    yield row(f"confusion matrix, {size}, {tool} / ours", taken["theirs"] / taken["ours"], "×", at_least=10)
    ratio = taken["theirs, files"] / taken["ours, files"]
    yield row(f"confusion matrix from PNG, {size}, {tool} / ours", ratio, "×")


def exported_network(quick: bool) -> Iterator[Row]:
    """A forward pass of a network trained with contrast and exported, over one without contrast."""
    settings = Model(backbone="hrnet_w18_small" if quick else "hrnet_w18")
    torch.manual_seed(0)
    plain = build_model(settings, num_classes=19, embedding=False).eval()
    trained = build_model(settings, num_classes=19, embedding=True)
    metadata = Metadata(
        model=settings,
        classes=_LABELS.names,
        palette=_LABELS.colors,
        mean=plain.mean,
        std=plain.std,
        layout="cityscapes",
        root="",
        class_order=None,
        source=Source(run="benchmark", step=0, commit="unknown"),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = export_model(TrainedModel(trained, metadata), "safetensors", out=f"{folder}/a.safetensors")
        exported = load_model(file)
    images = torch.randn(1, 3, *((64, 128) if quick else (512, 1024)))
    with torch.inference_mode():
        taken = seconds(
            {"exported": lambda: exported(images), "plain": lambda: plain(images)}, rounds=3 if quick else 9
        )
    name = f"{settings.backbone}, {images.shape[3]}×{images.shape[2]}, exported / plain network"
    yield row(name, taken["exported"] / taken["plain"], "×", equal=1)


def _wrong_in_places(truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Raw ids with a tenth of the blocks set to another class."""
    generator, guess = np.random.default_rng(0), truth.copy()
    raw_ids = [raw_id for raw_id, train_id in _LABELS.train_ids.items() if train_id != 255]
    for top in range(0, truth.shape[0], _BLOCK):
        for left in range(0, truth.shape[1], _BLOCK):
            if generator.random() < 0.1:
                guess[top : top + _BLOCK, left : left + _BLOCK] = generator.choice(raw_ids)
    return guess


def _count(guess: torch.Tensor, truth: torch.Tensor) -> ConfusionMatrix:
    matrix = ConfusionMatrix(19)
    # A network predicts a class everywhere; what the scene leaves without one is ignored by both tools.
    matrix.update(guess.masked_fill(guess == 255, 0), truth)
    return matrix


def _count_files(files: list[str]) -> ConfusionMatrix:
    guess, truth = (_LABELS.encode(read_label(Path(file)), file=Path(file)) for file in files)
    return _count(guess, truth)


def _official(files: list[str], reader: object) -> NDArray[np.int64]:
    """cityscapesscripts' matrix of raw ids; ``reader`` opens the files."""
    official.args.evalInstLevelScore, official.args.evalPixelAccuracy = False, False
    vars(official)["Image"] = reader
    matrix = official.generateMatrix(official.args)
    official.evaluatePair(*files, matrix, {}, {}, official.args)
    return matrix


def _check_equal(files: list[str], train_ids: list[torch.Tensor]) -> None:
    ids = [raw_id for raw_id, train_id in _LABELS.train_ids.items() if train_id != 255]
    ids.sort(key=_LABELS.train_ids.__getitem__)
    theirs, ours = _official(files, Image)[np.ix_(ids, ids)], _count(*train_ids).matrix.numpy()
    # Where truth has a class the prediction has one, so that nothing was set to class 0 there.
    assert (theirs == ours).all(), "the two tools count differently"


if __name__ == "__main__":
    command(__doc__, measured)
