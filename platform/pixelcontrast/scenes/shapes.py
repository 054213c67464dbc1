"""Shapes, noise and colours: arrays in, arrays out.

Shapes are signed distances, negative inside. Colours are planar, float32 [3, 1, 1] or [3, h, w]: NumPy is
several times faster with long rows innermost.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

Array = np.ndarray
Colour = tuple[float, float, float]

TILE = 512  # pixels per side of the repeating noise tiles; a power of two, so that wrapping is a bit mask


def rgb(colour: Array | Colour) -> Array:
    """A colour as a planar array: [3, 1, 1] from a triple, planar arrays as they are."""
    return np.asarray(colour, np.float32).reshape(3, 1, 1) if isinstance(colour, tuple) else colour


def limit(values: Array, low: float, high: float) -> Array:
    """`np.clip` without its overhead, which for small windows is most of the time."""
    limited = np.maximum(values, low)
    return np.minimum(limited, high, out=limited)


def soft(distance: Array, width: float) -> Array:
    """Coverage in 0–1 of a shape whose edge fades over `width` metres to either side."""
    return limit(0.5 - distance / (2.0 * width), 0.0, 1.0)


def wrap(values: Array, period: float) -> Array:
    """Distance from the middle of the current period, in -period/2 to period/2."""
    share = values * (1.0 / period)
    return (share - np.floor(share) - 0.5) * period


def mix(under: Array, over: Array | Colour, coverage: Array) -> Array:
    """`over` laid on `under`, planar [3, h, w], with `coverage` [h, w]."""
    change = rgb(over) - under
    change *= coverage
    change += under
    return change


def box(
    u: Array, v: Array, across: tuple[float, float], up: tuple[float, float], radius: float = 0.0
) -> Array:
    """Signed distance to a rectangle with rounded corners."""
    out_u = np.abs(u - (across[0] + across[1]) / 2) - ((across[1] - across[0]) / 2 - radius)
    out_v = np.abs(v - (up[0] + up[1]) / 2) - ((up[1] - up[0]) / 2 - radius)
    if radius == 0.0:
        return np.maximum(out_u, out_v)
    corner = np.sqrt(np.maximum(out_u, 0.0) ** 2 + np.maximum(out_v, 0.0) ** 2)
    return corner + np.minimum(np.maximum(out_u, out_v), 0.0) - radius


def ellipse(u: Array, v: Array, centre: tuple[float, float], radii: tuple[float, float]) -> Array:
    """Signed distance to an ellipse, exact for a circle and near the edge of a mild ellipse."""
    square = ((u - centre[0]) * (1.0 / radii[0])) ** 2 + ((v - centre[1]) * (1.0 / radii[1])) ** 2
    return (np.sqrt(square) - 1.0) * min(radii)


def capsule(u: Array, v: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Signed distance to a line segment of thickness 2 · `radius` with round ends."""
    along_u, along_v = end[0] - start[0], end[1] - start[1]
    square = max(along_u**2 + along_v**2, 1e-9)
    from_u, from_v = u - start[0], v - start[1]
    share = limit(from_u * (along_u / square) + from_v * (along_v / square), 0.0, 1.0)
    return np.sqrt((from_u - share * along_u) ** 2 + (from_v - share * along_v) ** 2) - radius


def convex(u: Array, v: Array, corners: Sequence[tuple[float, float]]) -> Array:
    """Signed distance to a convex polygon, corners clockwise with v up; too small outside its corners."""
    edges = zip(corners, [*corners[1:], corners[0]], strict=True)
    distance = np.full(np.broadcast_shapes(u.shape, v.shape), -np.inf, np.float32)
    for (u0, v0), (u1, v1) in edges:
        length = math.hypot(u1 - u0, v1 - v0)
        np.maximum(distance, (u - u0) * ((v0 - v1) / length) + (v - v0) * ((u1 - u0) / length), out=distance)
    return distance


def cloudy(x: Array, y: Array) -> Array:
    """Smooth noise of about ± 1; features span some 16 to 128 units. Repeats after 512."""
    return _look_up(_tile((4, 8, 16, 32), 0.65), x, y)


def grain(x: Array, y: Array) -> Array:
    """Rough noise of about ± 1; features span some 2 to 16 units. Repeats after 512."""
    return _look_up(_tile((32, 64, 128, 256), 0.65), x, y)


def mottled(x: Array, y: Array) -> Array:
    """Noise of about ± 1 at all scales from 2 to 128 units: stains and grain in one. Repeats after 512."""
    return _look_up(_tile((4, 8, 16, 32, 64, 128, 256), 0.8), x, y)


def _look_up(tile: Array, x: Array, y: Array) -> Array:
    return tile.take((y.astype(np.int32) & (TILE - 1)) * TILE + (x.astype(np.int32) & (TILE - 1)))


@cache
def _tile(frequencies: tuple[int, ...], fading: float) -> Array:
    """Periodic value noise, float32 [TILE * TILE], always the same: scenes vary by where they look."""
    rng = np.random.Generator(np.random.Philox(key=TILE))
    total = np.zeros((TILE, TILE), np.float32)
    for octave, cells in enumerate(frequencies):
        lattice = rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32)
        place = np.arange(TILE, dtype=np.float32) * (cells / TILE)
        low = place.astype(np.int32)
        share = place - low
        share = share * share * (3.0 - 2.0 * share)
        high = (low + 1) % cells
        rows = lattice[low] * (1.0 - share[:, None]) + lattice[high] * share[:, None]
        total += (rows[:, low] * (1.0 - share) + rows[:, high] * share) * fading**octave
    return (total / (2.5 * total.std())).ravel()
