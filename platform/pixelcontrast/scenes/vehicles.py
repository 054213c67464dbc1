"""Cars, buses and trucks: each function paints one at (x, z) on a canvas."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pixelcontrast.scenes.canvas import Canvas, Patch
from pixelcontrast.scenes.palette import BUS, CAR, GLASS, PAINTS, TRUCK, TYRE, pick
from pixelcontrast.scenes.shapes import (
    Array,
    Colour,
    box,
    cloudy,
    convex,
    ellipse,
    limit,
    rgb,
    wrap,
)

Facing = Literal["away", "towards"]


@dataclass(frozen=True, kw_only=True)
class CarShape:
    """Metres of one car.

    `cabin` is how far from the rear its roof's outline stands: at the back below and above, then at the front
    above and below.
    """

    length: float
    width: float
    height: float
    waist: float
    cabin: tuple[float, float, float, float]


def car_shape(rng: np.random.Generator) -> CarShape:
    """A saloon, a hatchback, an estate or a small van."""
    length, height = rng.uniform(3.9, 4.8), rng.uniform(1.42, 1.6)
    cabins = (
        (0.14, 0.27, 0.56, 0.74),
        (0.03, 0.12, 0.54, 0.72),
        (0.02, 0.07, 0.58, 0.74),
        (0.01, 0.03, 0.70, 0.86),
    )
    kind = int(rng.choice(4, p=(0.3, 0.35, 0.2, 0.15)))
    if kind == 3:
        height += 0.4
    low_back, top_back, top_front, low_front = cabins[kind]
    return CarShape(
        length=length,
        width=rng.uniform(1.72, 1.9),
        height=height,
        waist=0.6 * height,
        cabin=(length * low_back, length * top_back, length * top_front, length * low_front),
    )


def paint_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, facing: Facing) -> None:
    """A car along the street, its near end at depth `z`: the flank, where it shows, then the near face."""
    shape, paint = car_shape(rng), pick(rng, PAINTS)
    inner = x - math.copysign(shape.width / 2, x)
    if inner * x > 0:
        flank = canvas.lateral(inner, z, z + shape.length, shape.height)
        along = flank.u if facing == "away" else shape.length - flank.u
        _car_flank(canvas, flank, along, shape, paint)
    _car_face(canvas, canvas.frontal(x, z, shape.width / 2 + 0.1, shape.height), shape, paint, facing)


def paint_crossing_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A car across the street, seen from its side."""
    shape, paint = car_shape(rng), pick(rng, PAINTS)
    patch = canvas.frontal(x, z, shape.length / 2, shape.height)
    heading = 1.0 if rng.random() < 0.5 else -1.0
    _car_flank(canvas, patch, patch.u * heading + shape.length / 2, shape, paint)


def _gloss(patch: Patch, paint: Colour, height: float) -> Array:
    """Car paint: lighter where it faces the sky, a bright line at the shoulder, some dirt below."""
    level = limit(patch.v / height, 0.0, 1.0)
    shine = 0.72 + 0.34 * level + 0.16 * np.exp(-(((level - 0.52) / 0.06) ** 2))
    return shine * rgb(paint) + 0.03 * level


def _glazing(patch: Patch, low: float, high: float) -> Array:
    """Dark glass that mirrors more of the sky towards its top, and something of the street."""
    level = limit((patch.v - low) / (high - low), 0.0, 1.0)
    mirrored = 1.0 + 1.3 * level**2 + 0.35 * cloudy(patch.u * 30.0, patch.v * 40.0 + 90.0)
    return limit(mirrored, 0.4, 3.0) * rgb(GLASS)


def _car_flank(canvas: Canvas, patch: Patch, along: Array, shape: CarShape, paint: Colour) -> None:
    u, v, height, waist = along, patch.v, shape.height, shape.waist
    low_back, top_back, top_front, low_front = shape.cabin
    gloss = _gloss(patch, paint, height)
    roof = convex(
        u, v, ((low_back, waist - 0.1), (top_back, height), (top_front, height), (low_front, waist - 0.1))
    )
    bonnet = convex(
        u,
        v,
        (
            (0.02, 0.3),
            (0.08, waist),
            (low_front, waist + 0.04),
            (shape.length - 0.15, 0.72),
            (shape.length, 0.3),
        ),
    )
    body = np.minimum(box(u, v, (0.0, shape.length), (0.2, 0.72), 0.16), bonnet)
    canvas.paint(patch, np.minimum(body, roof), gloss, CAR)
    glass = convex(
        u,
        v,
        (
            (low_back + 0.18, waist + 0.03),
            (top_back + 0.1, height - 0.1),
            (top_front - 0.04, height - 0.1),
            (low_front - 0.22, waist + 0.03),
        ),
    )
    pillar = 0.04 - np.abs(u - 0.45 * (low_back + low_front))
    canvas.paint(patch, np.maximum(glass, pillar), _glazing(patch, waist, height), CAR)
    canvas.paint(patch, box(u, v, (0.1, shape.length - 0.1), (0.2, 0.3)), (0.10, 0.10, 0.10), CAR)
    for hub in (0.18 * shape.length, 0.81 * shape.length):
        canvas.paint(patch, ellipse(u, v, (hub, 0.32), (0.33, 0.33)), TYRE, CAR)
        canvas.paint(patch, ellipse(u, v, (hub, 0.32), (0.19, 0.19)), (0.45, 0.46, 0.47), CAR)
    canvas.paint(patch, box(u, v, (-0.02, 0.14), (0.62, 0.8), 0.03), (0.60, 0.06, 0.05), CAR)
    canvas.paint(
        patch, box(u, v, (shape.length - 0.3, shape.length - 0.02), (0.6, 0.72), 0.03), (0.9, 0.9, 0.85), CAR
    )


def _car_face(canvas: Canvas, patch: Patch, shape: CarShape, paint: Colour, facing: Facing) -> None:
    u, v, half, height, waist = np.abs(patch.u), patch.v, shape.width / 2, shape.height, shape.waist
    canvas.paint(patch, box(u, v, (half - 0.26, half - 0.04), (0.0, 0.5), 0.03), TYRE, CAR)
    gloss = _gloss(patch, paint, height)
    roof = convex(
        patch.u,
        v,
        (
            (-half + 0.04, waist - 0.1),
            (-0.74 * half, height),
            (0.74 * half, height),
            (half - 0.04, waist - 0.1),
        ),
    )
    body = box(patch.u, v, (-half, half), (0.2, waist + 0.06), 0.14)
    canvas.paint(patch, np.minimum(body, roof), gloss, CAR)
    glass = convex(
        patch.u,
        v,
        (
            (-0.86 * half, waist + 0.06),
            (-0.68 * half, height - 0.09),
            (0.68 * half, height - 0.09),
            (0.86 * half, waist + 0.06),
        ),
    )
    canvas.paint(patch, glass, _glazing(patch, waist, height), CAR)
    canvas.paint(
        patch, box(patch.u, v, (-0.96 * half, 0.96 * half), (0.2, 0.36), 0.05), (0.11, 0.11, 0.11), CAR
    )
    lamps = box(u, v, (0.62 * half, 0.95 * half), (waist - 0.28, waist - 0.08), 0.05)
    if facing == "away":
        canvas.paint(patch, lamps, (0.70, 0.07, 0.05), CAR)
        canvas.paint(patch, box(patch.u, v, (-0.27, 0.27), (0.52, 0.64), 0.02), (0.86, 0.86, 0.80), CAR)
    else:
        canvas.paint(
            patch, box(patch.u, v, (-0.5 * half, 0.5 * half), (0.44, 0.64), 0.06), (0.07, 0.07, 0.08), CAR
        )
        canvas.paint(patch, lamps, (0.95, 0.95, 0.90), CAR)
        canvas.paint(patch, box(patch.u, v, (-0.26, 0.26), (0.3, 0.4), 0.02), (0.86, 0.86, 0.80), CAR)


def paint_bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A city bus coming towards the camera, or a standing one."""
    paint, band = pick(rng, PAINTS[3:]), pick(rng, PAINTS)
    faces = _box_faces(canvas, x, z, 2.5, 3.1, 11.0)
    for patch, along, half in faces:
        v = patch.v
        canvas.paint(patch, box(along, v, (-half, half), (0.3, 3.1), 0.12), _gloss(patch, paint, 3.1), BUS)
        canvas.paint(patch, box(along, v, (-half, half), (0.35, 0.8)), band, BUS)
        panes = np.maximum(np.abs(v - 1.95) - 0.65, 0.06 - np.abs(wrap(along, 1.6)))
        panes = np.maximum(panes, np.abs(along) - half + 0.12)
        canvas.paint(patch, panes, _glazing(patch, 1.2, 2.7), BUS)
        hubs = (-0.28 * half, 0.55 * half) if half > 2 else (-half + 0.2, half - 0.2)
        for hub in hubs:
            canvas.paint(patch, ellipse(along, v, (hub, 0.45), (0.46 if half > 2 else 0.15, 0.46)), TYRE, BUS)
    patch, along, _ = faces[-1]
    v = patch.v
    canvas.paint(patch, box(along, v, (-0.8, 0.8), (2.72, 2.98), 0.04), (0.08, 0.07, 0.05), BUS)
    canvas.paint(patch, box(along, v, (-0.55, 0.55), (2.79, 2.92)), (0.95, 0.66, 0.18), BUS)
    canvas.paint(patch, box(np.abs(along), v, (0.75, 1.1), (0.62, 0.8), 0.05), (0.95, 0.95, 0.88), BUS)


def paint_truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A box truck seen from behind."""
    paint = pick(rng, PAINTS)
    faces = _box_faces(canvas, x, z, 2.4, 3.3, 7.5)
    for patch, along, half in faces:
        v = patch.v
        canvas.paint(patch, box(along, v, (-half, half), (0.9, 3.3), 0.03), _gloss(patch, paint, 3.3), TRUCK)
        canvas.paint(patch, box(along, v, (-half, half), (0.5, 0.95)), (0.13, 0.13, 0.13), TRUCK)
        hubs = (-0.7 * half, 0.6 * half) if half > 2 else (-half + 0.25, half - 0.25)
        for hub in hubs:
            canvas.paint(
                patch, ellipse(along, v, (hub, 0.48), (0.48 if half > 2 else 0.22, 0.48)), TYRE, TRUCK
            )
    patch, along, _ = faces[-1]
    v = patch.v
    canvas.paint(patch, np.maximum(np.abs(along) - 0.02, np.abs(v - 2.1) - 1.1), (0.20, 0.20, 0.20), TRUCK)
    canvas.paint(patch, box(np.abs(along), v, (0.85, 1.12), (0.62, 0.8), 0.03), (0.70, 0.07, 0.05), TRUCK)


def _box_faces(
    canvas: Canvas, x: float, z: float, width: float, height: float, length: float
) -> list[tuple[Patch, Array, float]]:
    """Flank (if it shows) and near face of a box: patch, metres from the face's middle, half its extent."""
    near = canvas.frontal(x, z, width / 2, height)
    faces = [(near, near.u, width / 2)]
    inner = x - math.copysign(width / 2, x)
    if inner * x > 0:
        flank = canvas.lateral(inner, z, z + length, height)
        faces.insert(0, (flank, flank.u - length / 2, length / 2))
    return faces
