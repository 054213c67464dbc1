"""What the pictures show of rows of unit length: projections to the plane, similarities, confusions."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from pixelcontrast.inference.inspection.pixels import Pixels

_PERPLEXITY, _TSNE_INPUTS = 30, 50
"""scikit-learn's default; the dimensions that PCA leaves for t-SNE (van der Maaten and Hinton, JMLR 2008)."""


_SAME = 1e-6
"""Rows of unit length that differ by less differ by float32's rounding only."""


class Pair(NamedTuple):
    """An anchor, and the most similar pixel of another class in another image; places among the pixels."""

    anchor: int
    negative: int
    similarity: float
    """Their cosine."""
    own: float
    """The anchor's mean cosine with the other pixels of its class."""


def all_alike(rows: Tensor) -> bool:
    """Whether rows [n, D] are one point, up to rounding: PCA and t-SNE divide by the variance, which is 0.

    scikit-learn's t-SNE of what that gives ends the process with a segmentation fault.
    """
    return bool((rows - rows[0]).abs().max() <= _SAME)


def principal_components(rows: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows [n, D], n ≥ 2, in the plane of their largest variance: [n, 2], and the two components' shares.

    The rows must not be ``all_alike``.
    """
    fitted = PCA(n_components=2, svd_solver="full")
    points = fitted.fit_transform(rows.double().numpy())
    return points, fitted.explained_variance_ratio_


def neighbour_embedding(rows: Tensor) -> NDArray[np.float64]:
    """Rows [n, D], n ≥ 5, in the plane by t-SNE, which keeps nearest neighbours: [n, 2], seeded.

    The rows must not be ``all_alike``.
    """
    most = min(_TSNE_INPUTS, *rows.shape)
    reduced = PCA(n_components=most, svd_solver="full").fit_transform(rows.double().numpy())
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return np.asarray(found, np.float64)


def class_similarities(rows: Tensor, classes: Tensor, num_classes: int) -> NDArray[np.float64]:
    """Mean cosine of the pixels of two classes, [K, K]; on the diagonal of different pixels of one class.

    nan where a class has no pixel, or on the diagonal no second one.
    """
    counts = torch.bincount(classes, minlength=num_classes).double()
    sums = rows.new_zeros(num_classes, rows.shape[1], dtype=torch.float64)
    sums.index_add_(0, classes, rows.double())
    products = sums @ sums.T
    # A pixel's cosine with itself is 1: it must not count as one with its own class.
    products.diagonal().sub_(counts)
    number = counts[:, None] * counts
    number.diagonal().sub_(counts)
    return (products / number).masked_fill(number == 0, torch.nan).numpy()


def hardest_pairs(pixels: Pixels, layer: str, *, most: int) -> list[Pair]:
    """The hardest anchors with their nearest negatives, the hardest first, one for two classes.

    An anchor is the harder, the more similar its nearest negative is than its own class on average.
    Negatives are of other images: two pixels beside a class's edge may lie in the same cell of the map.
    """
    rows, classes = pixels.layers[layer], pixels.classes
    similar = rows @ rows.T
    same = classes[:, None] == classes
    others = same.clone().fill_diagonal_(False)
    own = (similar * others).sum(dim=1) / others.sum(dim=1)  # nan of a class with one pixel
    allowed = ~same & (pixels.images[:, None] != pixels.images)
    nearest, negatives = similar.masked_fill(~allowed, -torch.inf).max(dim=1)
    hardness = torch.where(own.isnan(), -torch.inf, nearest - own)
    pairs: dict[tuple[int, int], Pair] = {}
    for anchor in torch.argsort(hardness, descending=True).tolist():
        if hardness[anchor] == -torch.inf or len(pairs) == most:
            break
        negative = int(negatives[anchor])
        first, second = sorted((int(classes[anchor]), int(classes[negative])))
        pair = Pair(anchor, negative, float(nearest[anchor]), float(own[anchor]))
        pairs.setdefault((first, second), pair)
    return list(pairs.values())
