"""The canvas generated streets are painted on: camera, light, noise, shapes.

World coordinates are metres: x to the right, y up from the road, z away from the camera, which stands at
(0, eye, 0) and looks along z. A `Patch` is a window of the image together with the metres its pixels show on
one plane of it, so that a car's flank, a façade and a crossing are all painted by the same few calls:
a shape is a signed distance in metres, `Canvas.paint` turns it into coverage, colour and label.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from pixelcontrast.scenes.shapes import Array, Colour, capsule, limit, rgb, soft


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera without roll: size, focal length, vanishing point in pixels; `eye` level in m."""

    height: int
    width: int
    focal: float
    horizon: float
    centre: float
    eye: float

    def column(self, x: float, z: float) -> float:
        """The image column of a point `x` metres to the right at depth `z`."""
        return self.centre + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        """The image row of a point `y` metres above the road at depth `z`."""
        return self.horizon + self.focal * (self.eye - y) / z


@dataclass(frozen=True, kw_only=True)
class Light:
    """Sky, sun and air of one scene; `visibility` is the metres after which 1/e of the contrast is left.

    `shadow` is where the sun throws the shadow of a point, in metres (x, z) per metre of its height; `sun` is
    the share of the light that a shadow takes away.
    """

    zenith: Array
    haze: Array
    tint: Array
    clouds: float
    sun: float
    shadow: tuple[float, float]
    visibility: float

    def facing(self, normal_x: float) -> Array:
        """The light's colour [3, 1, 1] on a wall facing right (`normal_x` 1), left (-1) or the camera (0)."""
        to_sun = -self.shadow[0] * normal_x if normal_x else self.shadow[1]
        towards = max(to_sun / math.hypot(*self.shadow), -0.6)
        return self.tint * np.float32(1.0 + 0.45 * self.sun * (towards - 0.25))


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A window of the image and what its pixels show; all arrays are float32.

    `u`, `v` are metres on the plane, `scale` pixels per metre, each broadcasting to [h, w]. What is seen of a
    colour there is colour · `gain` + `air` (light and haze), which broadcast to [3, h, w]. A window outside
    the image has no pixels; painting it does nothing.
    """

    rows: slice
    cols: slice
    u: Array
    v: Array
    scale: Array
    gain: Array
    air: Array

    @property
    def empty(self) -> bool:
        """Whether the plane lies outside the image."""
        return self.rows.start >= self.rows.stop or self.cols.start >= self.cols.stop


@dataclass(kw_only=True)
class Canvas:
    """The picture in the making: `image` float32 [3, H, W], `label` uint8 [H, W], `lit` float32 [H, W].

    `lit` says how much light reaches the ground shown at a pixel; what stands there gets the same.
    """

    camera: Camera
    light: Light
    image: Array = field(init=False)
    label: Array = field(init=False)
    lit: Array = field(init=False)
    _faces: dict[float, Array] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        self.image = np.zeros((3, *shape), np.float32)
        self.label = np.zeros(shape, np.uint8)
        self.lit = np.ones(shape, np.float32)
        self._faces = {normal: self.light.facing(normal) for normal in (-1.0, 0.0, 1.0)}

    def _window(self, cols: tuple[float, float], rows: tuple[float, float]) -> tuple[slice, slice]:
        height, width = self.camera.height, self.camera.width
        top, bottom = (int(min(max(row, 0), height)) for row in (min(rows), max(rows) + 2.0))
        left, right = (int(min(max(col, 0), width)) for col in (min(cols), max(cols) + 2.0))
        return slice(top, bottom), slice(left, right)

    def _seen(self, depth: Array, shade: Array) -> tuple[Array, Array]:
        clear = np.exp(depth / -self.light.visibility)
        return shade * clear, self.light.haze * (1.0 - clear)

    def shows(self, x: float, z: float, margin: float) -> bool:
        """Whether a thing at (x, z) that reaches `margin` metres to either side is in view."""
        camera = self.camera
        return camera.column(x + margin, z) > 0.0 and camera.column(x - margin, z) < camera.width

    def frontal(self, x: float, z: float, half: float, top: float, bottom: float = 0.0) -> Patch:
        """The upright plane facing us at depth `z`: `u` runs right from `x`, ± `half`, `v` upwards."""
        camera = self.camera
        rows, cols = self._window(
            (camera.column(x - half, z), camera.column(x + half, z)),
            (camera.row(top, z), camera.row(bottom, z)),
        )
        scale = np.full((1, 1), camera.focal / z, np.float32)
        row, col = _pixels(rows)[:, None], _pixels(cols)[None]
        foot_row = int(min(max(camera.row(0.0, z), 0), camera.height - 1))
        foot_col = int(min(max(camera.column(x, z), 0), camera.width - 1))
        shade = self._faces[0.0] * self.lit[foot_row, foot_col]
        gain, air = self._seen(np.full((1, 1), z, np.float32), shade)
        return Patch(
            rows=rows,
            cols=cols,
            u=(col - camera.centre) / scale - x,
            v=camera.eye - (row - camera.horizon) / scale,
            scale=scale,
            gain=gain,
            air=air,
        )

    def lateral(self, x: float, near: float, far: float, top: float) -> Patch:
        """The upright plane along the street at `x` (not 0): `u` runs away from us, 0 at depth `near`."""
        camera = self.camera
        rows, cols = self._window(
            (camera.column(x, near), camera.column(x, far)), (camera.row(top, near), camera.row(0.0, near))
        )
        offset = (_pixels(cols)[None] - camera.centre) * math.copysign(1.0, x)
        depth = camera.focal * abs(x) / np.maximum(offset, 1e-3)
        depth = limit(depth, 0.8 * near, 1.2 * far)
        scale = camera.focal / depth
        gain, air = self._seen(depth, self._faces[-math.copysign(1.0, x)])
        return Patch(
            rows=rows,
            cols=cols,
            u=depth - near,
            v=camera.eye - (_pixels(rows)[:, None] - camera.horizon) / scale,
            scale=scale,
            gain=gain,
            air=air,
        )

    def ground(self, x: tuple[float, float], z: tuple[float, float]) -> Patch:
        """The road's plane around the rectangle `x` by `z`: `u` is x, `v` is z."""
        camera = self.camera
        columns = [camera.column(edge, depth) for edge in x for depth in z]
        rows, cols = self._window(
            (min(columns), max(columns)), (camera.row(0.0, z[0]), camera.row(0.0, z[1]))
        )
        rows = slice(max(rows.start, int(camera.horizon) + 1), max(rows.stop, int(camera.horizon) + 1))
        scale = (_pixels(rows)[:, None] - camera.horizon) / camera.eye
        depth = camera.focal / scale
        gain, air = self._seen(depth, self.light.tint)
        return Patch(
            rows=rows,
            cols=cols,
            u=(_pixels(cols)[None] - camera.centre) / scale,
            v=depth,
            scale=scale,
            gain=gain,
            air=air,
        )

    def paint(self, patch: Patch, distance: Array, colour: Array | Colour, label: int) -> None:
        """Fill a shape: `distance` in signed metres, negative inside; `colour` a triple or planar, in 0–1.

        The edge is one pixel of blending; the label changes where the shape covers half a pixel or more.
        """
        self.blend(patch, cover(distance, patch), colour, label)

    def blend(self, patch: Patch, coverage: Array, colour: Array | Colour, label: int) -> None:
        """As `paint`, from a coverage in 0–1, float32 [h, w]."""

        under = self.image[:, patch.rows, patch.cols]
        change = rgb(colour) * patch.gain + patch.air - under
        change *= coverage
        under += change
        np.copyto(self.label[patch.rows, patch.cols], np.uint8(label), where=coverage >= 0.5)

    def shadow(self, x: float, z: float, radius: float, height: float, length: float) -> None:
        """Darken the ground under and beside a thing that stands on (x, z), `length` metres deep."""
        reach_x, reach_z = (step * height if self.light.sun > 0.08 else 0.0 for step in self.light.shadow)
        margin = radius + 0.5
        columns = (min(x, x + reach_x) - margin, max(x, x + reach_x) + margin)
        depths = (max(min(z, z + reach_z) - margin, 1.0), max(z, z + reach_z) + length + margin)
        patch = self.ground(columns, depths)
        under = capsule(
            patch.u, patch.v, (x, z + radius), (x, z + max(length - radius, radius)), 0.8 * radius
        )
        dark = 0.55 * soft(under, 0.35)
        if reach_x:
            lit = self.lit[patch.rows, patch.cols]
            thrown = capsule(
                patch.u, patch.v, (x, z + length / 2), (x + reach_x, z + reach_z + length / 2), radius
            )
            dark = np.maximum(dark, (0.8 * self.light.sun) * soft(thrown, 0.25) * lit * lit)
        self.image[:, patch.rows, patch.cols] *= 1.0 - dark


def _pixels(span: slice) -> Array:
    return np.arange(span.start, span.stop, dtype=np.float32)


def cover(distance: Array, patch: Patch) -> Array:
    """Coverage in 0–1 of the pixels of a patch by a shape: one pixel wide at its edge."""
    coverage = distance * -patch.scale
    coverage += 0.5
    np.maximum(coverage, 0.0, out=coverage)
    return np.minimum(coverage, 1.0, out=coverage)
