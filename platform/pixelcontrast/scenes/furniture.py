"""What grows or is planted along a generated street: trees, hedges, lamps, signs, lights, bins, fences."""

import math

import numpy as np

from pixelcontrast.scenes.canvas import Canvas, Patch
from pixelcontrast.scenes.palette import (
    BLUE,
    FENCE,
    LEAVES,
    POLE,
    RED,
    STATIC,
    STEEL,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    WALL,
    WHITE,
    YELLOW,
    pick,
)
from pixelcontrast.scenes.shapes import (
    Array,
    Colour,
    box,
    capsule,
    cloudy,
    convex,
    ellipse,
    grain,
    limit,
    rgb,
    wrap,
)


def paint_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A tree of 6 to 11 m: a trunk and a crown of overlapping ragged clumps with gaps; all vegetation."""
    tall, leaf = rng.uniform(6.0, 11.0), pick(rng, LEAVES)
    spread = tall * rng.uniform(0.24, 0.36)
    trunk = canvas.frontal(x, z, 0.5, 0.6 * tall)
    edge = np.abs(trunk.u + 0.06 * cloudy(trunk.v * 25.0, trunk.v)) - 0.16 - 0.09 * np.exp(-trunk.v)
    bark = (0.9 + 0.2 * grain(trunk.u * 30.0, trunk.v * 6.0)) * rgb((0.24, 0.20, 0.16))
    canvas.paint(trunk, edge, bark, VEGETATION)
    crown = canvas.frontal(x, z, spread * 1.3, tall * 1.08, 0.28 * tall)
    clumps = np.full((crown.v.shape[0], crown.u.shape[1]), np.inf, np.float32)
    for _ in range(7):
        angle, reach, size = rng.uniform(0.0, math.tau), rng.uniform(0.1, 0.6), rng.uniform(0.38, 0.62)
        centre = (reach * spread * math.cos(angle), 0.66 * tall + 0.4 * tall * reach * math.sin(angle))
        across, up = (crown.u - centre[0]) * (1.0 / size), (crown.v - centre[1]) * (1.1 / size)
        np.minimum(clumps, across * across + up * up, out=clumps)
    outline = (np.sqrt(clumps) - spread) * 0.5
    _paint_leaves(canvas, crown, outline, leaf, rng.uniform(0.0, 500.0), 0.66 * tall)


def paint_bush(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bush of 0.8 to 2 m."""
    wide, tall = rng.uniform(0.6, 1.6), rng.uniform(0.8, 2.0)
    patch = canvas.frontal(x, z, 1.2 * wide, 1.2 * tall)
    shape = np.minimum(
        ellipse(patch.u, patch.v, (-0.2 * wide, 0.45 * tall), (0.75 * wide, 0.55 * tall)),
        ellipse(patch.u, patch.v, (0.35 * wide, 0.35 * tall), (0.6 * wide, 0.45 * tall)),
    )
    _paint_leaves(canvas, patch, shape, pick(rng, LEAVES), rng.uniform(0.0, 500.0), 0.4 * tall)


def paint_wood(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A clump of far trees, some 25 m across."""
    tall = rng.uniform(7.0, 15.0)
    patch = canvas.frontal(x, z, 16.0, 1.3 * tall)
    skyline = tall * (0.8 + 0.3 * cloudy(patch.u * 6.0 + rng.uniform(0.0, 500.0), patch.u * 0.0))
    shape = np.maximum(patch.v - skyline, np.abs(patch.u) - 13.0)
    _paint_leaves(canvas, patch, shape, pick(rng, LEAVES[:4]), rng.uniform(0.0, 500.0), 0.5 * tall)


def paint_hedge(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """A hedge along the street."""
    tall = rng.uniform(1.0, 2.4)
    patch = canvas.lateral(x, near, far, 1.3 * tall)
    shape = box(patch.u, patch.v, (0.0, far - near), (-1.0, tall))
    _paint_leaves(canvas, patch, shape, pick(rng, LEAVES[:4]), rng.uniform(0.0, 500.0), 0.6 * tall)


def _paint_leaves(
    canvas: Canvas, patch: Patch, shape: Array, leaf: Colour, phase: float, middle: float
) -> None:
    u, v = patch.u + phase, patch.v
    clump, speck = cloudy(u * 40.0, v * 40.0), grain(u * 22.0, v * 22.0)
    distance = shape + 0.30 * clump + 0.20 * speck
    sunny = -math.copysign(canvas.light.sun, canvas.light.shadow[0]) * limit(patch.u / 2.5, -1.0, 1.0)
    tone = 0.85 + 0.30 * limit((v - middle) / 2.5, -1.0, 1.0) + 0.22 * sunny + 0.28 * speck + 0.25 * clump
    colour = limit(tone, 0.25, 2.0) * rgb(leaf)
    canvas.paint(patch, distance, colour, VEGETATION)


def paint_fence(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """Railings along the street; one sees through them, but all is labelled fence, as in Cityscapes."""
    patch = canvas.lateral(x, near, far, 1.2)
    length = far - near
    canvas.label[patch.rows, patch.cols][box(patch.u, patch.v, (0.0, length), (0.0, 1.05)) < 0] = FENCE
    bars = np.minimum(np.abs(wrap(patch.u, 0.3)) - 0.025, np.abs(patch.v - 1.0) - 0.04)
    shape = np.maximum(bars, box(patch.u, patch.v, (0.0, length), (0.0, 1.05)))
    canvas.paint(patch, shape, pick(rng, ((0.12, 0.13, 0.13), (0.55, 0.56, 0.56), (0.38, 0.28, 0.2))), FENCE)


def paint_wall(canvas: Canvas, rng: np.random.Generator, x: float, near: float, far: float) -> None:
    """A garden wall along the street."""
    tall = rng.uniform(1.2, 2.6)
    patch = canvas.lateral(x, near, far, tall)
    stones = grain(np.floor(patch.u / 0.5) * 9.0, np.floor(patch.v / 0.25) * 5.0)
    texture = 1.0 + 0.10 * stones + 0.10 * cloudy(patch.u * 20.0, patch.v * 30.0)
    stone = pick(rng, ((0.56, 0.52, 0.46), (0.46, 0.28, 0.22), (0.62, 0.62, 0.60)))
    shape = box(patch.u, patch.v, (0.0, far - near), (-1.0, tall))
    canvas.paint(patch, shape, texture * rgb(stone), WALL)


def paint_lamp(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    tall, arm = rng.uniform(5.5, 8.5), -math.copysign(rng.uniform(0.8, 1.8), x)
    steel = pick(rng, (STEEL, (0.16, 0.19, 0.18), (0.58, 0.58, 0.57)))
    _mast(canvas, x, z, tall, 0.075, steel)
    top = canvas.frontal(x, z, 2.5, tall + 0.3, tall - 0.3)
    canvas.paint(top, capsule(top.u, top.v, (0.0, tall - 0.1), (arm, tall + 0.1), 0.05), steel, POLE)
    canvas.paint(top, ellipse(top.u, top.v, (arm * 1.15, tall + 0.06), (0.4, 0.12)), (0.66, 0.66, 0.64), POLE)


def paint_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """One or two traffic signs on a post."""
    tall, size = rng.uniform(2.5, 3.1), rng.uniform(0.34, 0.46)
    _mast(canvas, x, z, tall, 0.055, pick(rng, (STEEL, (0.60, 0.60, 0.59))))
    patch = canvas.frontal(x, z, 0.6, tall + 0.1, tall - 3.0 * size)
    faces = (_round_sign, _triangle_sign, _square_sign, _diamond_sign)
    faces[int(rng.integers(len(faces)))](canvas, patch, tall - size, size)
    if rng.random() < 0.3:
        plate = box(patch.u, patch.v, (-0.3, 0.3), (tall - 2.75 * size, tall - 2.15 * size), 0.02)
        canvas.paint(patch, plate, WHITE, TRAFFIC_SIGN)


def _round_sign(canvas: Canvas, patch: Patch, v: float, size: float) -> None:
    canvas.paint(patch, ellipse(patch.u, patch.v, (0.0, v), (size, size)), RED, TRAFFIC_SIGN)
    canvas.paint(patch, ellipse(patch.u, patch.v, (0.0, v), (0.74 * size, 0.74 * size)), WHITE, TRAFFIC_SIGN)
    figure = box(patch.u, patch.v, (-0.35 * size, 0.35 * size), (v - 0.22 * size, v + 0.22 * size))
    canvas.paint(patch, figure, (0.15, 0.15, 0.16), TRAFFIC_SIGN)


def _triangle_sign(canvas: Canvas, patch: Patch, v: float, size: float) -> None:
    for share, colour in ((1.0, RED), (0.62, WHITE)):
        width, low, high = 1.05 * size * share, v - 0.75 * size * share, v + size * share
        corners = ((-width, low), (0.0, high), (width, low))
        canvas.paint(patch, convex(patch.u, patch.v, corners), colour, TRAFFIC_SIGN)


def _square_sign(canvas: Canvas, patch: Patch, v: float, size: float) -> None:
    outer, inner = 0.85 * size, 0.42 * size
    canvas.paint(
        patch, box(patch.u, patch.v, (-outer, outer), (v - outer, v + outer), 0.05), BLUE, TRAFFIC_SIGN
    )
    canvas.paint(patch, box(patch.u, patch.v, (-inner, inner), (v - inner, v + inner)), WHITE, TRAFFIC_SIGN)


def _diamond_sign(canvas: Canvas, patch: Patch, v: float, size: float) -> None:
    for share, colour in ((1.0, WHITE), (0.72, YELLOW)):
        reach = 1.05 * size * share
        corners = ((-reach, v), (0.0, v + reach), (reach, v), (0.0, v - reach))
        canvas.paint(patch, convex(patch.u, patch.v, corners), colour, TRAFFIC_SIGN)


def paint_traffic_light(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A post with a signal head, one of its three lamps lit."""
    tall = rng.uniform(3.2, 3.8)
    _mast(canvas, x, z, tall - 0.2, 0.07, STEEL)
    patch = canvas.frontal(x, z, 0.3, tall + 0.1, tall - 1.2)
    head = box(patch.u, patch.v, (-0.22, 0.22), (tall - 1.15, tall), 0.06)
    canvas.paint(patch, head, (0.08, 0.09, 0.09), TRAFFIC_LIGHT)
    lit = int(rng.integers(3))
    for place, colour in enumerate(((1.0, 0.16, 0.10), (1.0, 0.72, 0.15), (0.20, 0.95, 0.55))):
        lamp = ellipse(patch.u, patch.v, (0.0, tall - 0.22 - 0.35 * place), (0.13, 0.13))
        canvas.paint(patch, lamp, rgb(colour) * (1.0 if place == lit else 0.2), TRAFFIC_LIGHT)


def _mast(canvas: Canvas, x: float, z: float, tall: float, radius: float, colour: Colour) -> None:
    """A round post, lighter along its middle; never thinner than a pixel and a half, or it would flicker."""
    radius = max(radius, 0.75 * z / canvas.camera.focal)
    patch = canvas.frontal(x, z, 2.0 * radius, tall)
    middle = 1.15 - 0.5 * limit(np.abs(patch.u) / radius, 0.0, 1.0)
    canvas.paint(patch, box(patch.u, patch.v, (-radius, radius), (0.0, tall)), middle * rgb(colour), POLE)


def paint_bin(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A wheeled bin; Cityscapes calls such things static and does not score them."""
    patch = canvas.frontal(x, z, 0.4, 1.15)
    body = pick(rng, ((0.16, 0.17, 0.17), (0.20, 0.32, 0.20), (0.18, 0.24, 0.36), (0.45, 0.36, 0.16)))
    canvas.paint(
        patch, convex(patch.u, patch.v, ((-0.24, 0.0), (-0.3, 1.0), (0.3, 1.0), (0.24, 0.0))), body, STATIC
    )
    lid = rgb(body) * 0.7
    canvas.paint(patch, box(patch.u, patch.v, (-0.34, 0.34), (0.96, 1.08), 0.04), lid, STATIC)
