"""Pictures of what was observed of one or several networks: PNG files and the words that go with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixelcontrast.datasets.segmentation import SegmentationSet
from pixelcontrast.evaluation.matrix_picture import Scale, matrix_picture
from pixelcontrast.evaluation.overlay import legend, overlay
from pixelcontrast.evaluation.pairs_picture import Patch, cut_patch, pairs_picture
from pixelcontrast.evaluation.scatter_picture import Panel, scatter_picture
from pixelcontrast.evaluation.sheet import beside, sheet, stacked, text
from pixelcontrast.inference.inspection.geometry import (
    Pair,
    all_alike,
    class_similarities,
    hardest_pairs,
    neighbour_embedding,
    principal_components,
)
from pixelcontrast.inference.inspection.observe import EMBEDDING, FEATURES, Observation
from pixelcontrast.runs.pictures import Picture

_PAIRS, _PATCH = 9, 72
"""Pairs per network; side of a patch in the image's pixels."""
_OVERLAY_WIDTH = 1200
_LAYERS = {FEATURES: "Decoder features", EMBEDDING: "Embedding"}
_MEANINGS = {
    FEATURES: "what the classifier and, in contrastive training, the projection head read",
    EMBEDDING: "what the projection head makes of the decoder features; used in training only",
}
_RED_BLUE = np.array(
    [(33, 102, 172), (146, 197, 222), (255, 255, 255), (244, 165, 130), (178, 24, 43)], np.float64
)
"""ColorBrewer's RdBu, turned round: blue for −1, white for 0, red for 1."""
_COSINE = Scale(
    colors=_RED_BLUE,
    low=-1,
    high=1,
    write=lambda value: f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1),  # no −.00
    ticks=((-1, "-1"), (0, "0"), (1, "1")),
    meaning="mean cosine of pixels of two classes",
    empty="no pixels of this class",
)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What the networks were shown."""

    dataset: SegmentationSet
    split: str
    num_images: int
    per_class: int

    @property
    def words(self) -> str:
        """Which pixels the figures are of."""
        return (
            f"Pixels: up to {self.per_class} of each class, drawn at random from {self.num_images} of the "
            f"{len(self.dataset)} {self.split} images, the same for every network."
        )


def draw(observations: Sequence[Observation], looked: Looked) -> list[tuple[Picture, bytes]]:
    """All pictures, in the order of a report.

    Args:
        observations: of networks with the data set's classes, on the same images.
        looked: the images, and how many pixels of each class were drawn.
    """
    drawn = []
    for layer in (FEATURES, EMBEDDING):
        shown = [seen for seen in observations if layer in seen.pixels.layers]
        if shown:
            drawn.append(_clouds(shown, layer, looked))
            drawn.append(_similarities(shown, layer, looked))
    drawn.append(_confusions(observations, looked))
    return [*drawn, *(_worst(seen, number, looked) for number, seen in enumerate(observations))]


def name_of(seen: Observation) -> str:
    """The run, how it was trained, and the checkpoint's step."""
    source = seen.model.metadata.source
    loss = "contrast" if seen.has_head else "cross-entropy"
    return f"{source.name} ({loss}, step {source.step:,})"


def _layer_words(shown: Sequence[Observation], layer: str) -> str:
    sizes = {
        f"{seen.pixels.layers[layer].shape[1]} numbers at stride {seen.model.stride:g}" for seen in shown
    }
    return (
        f"Layer: {_LAYERS[layer].lower()}, {_MEANINGS[layer]}; {' and '.join(sorted(sizes))}, "
        "stretched to unit length."
    )


def _clouds(shown: Sequence[Observation], layer: str, looked: Looked) -> tuple[Picture, bytes]:
    labels = looked.dataset.labels
    rows = [[make(seen, layer) for seen in shown] for make in (_pca_panel, _tsne_panel)]
    if len(shown) == 1:
        rows = [[*rows[0], *rows[1]]]
    body = scatter_picture(rows, labels.names, labels.colors)
    words = (
        f"{_layer_words(shown, layer)} {looked.words} PCA keeps the directions of largest variance; t-SNE "
        "keeps which pixels are neighbours, but neither distances between clusters nor their sizes."
    )
    title = f"{_LAYERS[layer]} in the plane, by PCA and t-SNE"
    return Picture(f"{layer}.png", title, words), sheet(body, title=title, notes=[words])


def _one_point(seen: Observation, layer: str, method: str) -> Panel:
    caption = f"{method}: one point, as all pixels have the same {_LAYERS[layer].lower()}"
    points = np.zeros((len(seen.pixels), 2))
    return Panel(title=name_of(seen), caption=caption, points=points, classes=seen.pixels.classes.numpy())


def _pca_panel(seen: Observation, layer: str) -> Panel:
    if all_alike(seen.pixels.layers[layer]):
        return _one_point(seen, layer, "PCA")
    points, shares = principal_components(seen.pixels.layers[layer])
    first, second = (f"{100 * share:.0f} %" for share in shares)
    caption = f"PCA: {first} (across) and {second} (up) of the variance"
    return Panel(title=name_of(seen), caption=caption, points=points, classes=seen.pixels.classes.numpy())


def _tsne_panel(seen: Observation, layer: str) -> Panel:
    if all_alike(seen.pixels.layers[layer]):
        return _one_point(seen, layer, "t-SNE")
    points = neighbour_embedding(seen.pixels.layers[layer])
    caption = f"t-SNE of {len(points):,} pixels; the axes have no meaning"
    return Panel(title=name_of(seen), caption=caption, points=points, classes=seen.pixels.classes.numpy())


def _similarities(shown: Sequence[Observation], layer: str, looked: Looked) -> tuple[Picture, bytes]:
    names = looked.dataset.labels.names
    matrices = []
    for seen in shown:
        values = class_similarities(seen.pixels.layers[layer], seen.pixels.classes, len(names))
        matrices.append(matrix_picture(values, names, scale=_COSINE, title=_gap_words(seen, values)))
    words = (
        f"The mean cosine of a pixel of one class with one of another; on the diagonal, of two pixels of the "
        f"same class. Separate classes are red on the diagonal and pale elsewhere. "
        f"{_layer_words(shown, layer)} {looked.words}"
    )
    title = f"{_LAYERS[layer]}: similarity of the classes"
    body = beside(matrices) if len(names) * len(matrices) <= 60 else stacked(matrices)
    return Picture(f"{layer}-similarity.png", title, words), sheet(body, title=title, notes=[words])


def _gap_words(seen: Observation, values: NDArray[np.float64]) -> str:
    """The run, and its mean on and off the diagonal."""
    off = ~np.eye(len(values), dtype=bool)
    own, others = (_mean_words(part) for part in (values.diagonal(), values[off]))
    return f"{name_of(seen)}: own {own}, others {others}"


def _mean_words(values: NDArray[np.float64]) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.2f}" if len(known) else "none"


def _confusions(observations: Sequence[Observation], looked: Looked) -> tuple[Picture, bytes]:
    parts = []
    for seen in observations:
        layer = EMBEDDING if seen.has_head else FEATURES
        pairs = hardest_pairs(seen.pixels, layer, most=_PAIRS)
        heading = f"{name_of(seen)}, by the {_LAYERS[layer].lower()}"
        shown = [_patches(seen, pair, looked.dataset) for pair in pairs]
        body = [pairs_picture(shown)] if shown else [text(["No two classes have pixels."], 520, size=12)]
        parts.append(stacked([text([heading], 640, size=14), *body], gap=6))
    words = (
        "Left in each pair an anchor, right its nearest negative: the most similar pixel of another class in "
        "another image. Frames have the colour of the true class, rings mark the pixel, black is beyond the "
        "image. An anchor is the harder, the more similar its nearest negative is than its own class on "
        f"average; of two classes, the hardest is shown. {looked.words}"
    )
    title = "Confusions: the hardest anchors with their nearest negatives"
    return Picture("confusions.png", title, words), sheet(stacked(parts), title=title, notes=[words])


def _patches(seen: Observation, pair: Pair, dataset: SegmentationSet) -> tuple[Patch, Patch, str]:
    caption = (
        f"cosine {pair.similarity:.2f}; with its own class {pair.own:.2f} on average. Predicted: "
        f"{_predicted(seen, pair.anchor, dataset)}, {_predicted(seen, pair.negative, dataset)}"
    )
    anchor, negative = (_patch(seen, place, dataset) for place in (pair.anchor, pair.negative))
    return anchor, negative, caption


def _predicted(seen: Observation, place: int, dataset: SegmentationSet) -> str:
    return dataset.labels.names[int(seen.pixels.predicted[place])]


def _patch(seen: Observation, place: int, dataset: SegmentationSet) -> Patch:
    pixels, labels = seen.pixels, dataset.labels
    number = int(pixels.classes[place])
    image = dataset.read(int(pixels.images[place]))[0].permute(1, 2, 0).numpy()
    cut = cut_patch(image, int(pixels.rows[place]), int(pixels.columns[place]), side=_PATCH)
    return Patch(image=cut, title=labels.names[number], color=labels.colors[number])


def _worst(seen: Observation, number: int, looked: Looked) -> tuple[Picture, bytes]:
    parts = [_worst_row(seen, place, looked) for place in range(len(seen.worst))]
    words = (
        f"Image, truth and prediction of the {len(parts)} images with the lowest mIoU of the "
        f"{looked.num_images} {looked.split} images looked at. An image's mIoU is the mean over the classes "
        "that occur in it or are predicted."
    )
    title = f"Worst images of {name_of(seen)}"
    colors = legend(looked.dataset.labels.names, looked.dataset.labels.colors, width=parts[0].width)
    body = stacked([*parts, Image.open(BytesIO(colors))])
    return Picture(f"worst-{number + 1}.png", title, words), sheet(body, title=title, notes=[words])


def _worst_row(seen: Observation, place: int, looked: Looked) -> Image.Image:
    bad, dataset = seen.worst[place], looked.dataset
    image, truth = dataset.read(bad.index)
    row = Image.fromarray(overlay(image, truth, bad.prediction, np.array(dataset.labels.colors, np.uint8)))
    if row.width > _OVERLAY_WIDTH:
        size = _OVERLAY_WIDTH, round(row.height * _OVERLAY_WIDTH / row.width)
        row = row.resize(size, Image.Resampling.LANCZOS)
    heading = f"mIoU {100 * bad.miou:.1f} %: {dataset.name(bad.index)}"
    return stacked([text([heading], row.width, size=13), row], gap=2)
