"""Those on foot and on bicycles: each function paints one at (x, z) on a canvas."""

import math

import numpy as np

from pixelcontrast.scenes.canvas import Canvas, Patch
from pixelcontrast.scenes.palette import BICYCLE, CLOTHES, PAINTS, PERSON, RIDER, SKINS, TYRE, pick
from pixelcontrast.scenes.shapes import (
    Array,
    Colour,
    box,
    capsule,
    convex,
    ellipse,
    grain,
    limit,
    rgb,
)


def paint_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Someone walking: legs, coat, arms, head and hair; 1.5 to 1.9 m tall."""
    tall = rng.uniform(1.5, 1.92)
    patch = canvas.frontal(x, z, 0.5 * tall, tall)
    u, v = patch.u / tall, patch.v / tall
    lean = 1.0 if rng.random() < 0.5 else -1.0
    stride, arm, wide = rng.uniform(0.02, 0.13), rng.uniform(0.0, 0.09), rng.uniform(0.085, 0.12)
    coat, trousers, skin = pick(rng, CLOTHES), pick(rng, CLOTHES[:6]), pick(rng, SKINS)
    hem = 0.46 if rng.random() < 0.7 else 0.34
    fold = 1.0 + 0.16 * limit(u * (8.0 * lean), -1.0, 1.0) + 0.10 * grain(u * 60.0, v * 30.0)

    near = patch.scale[0, 0] > 20.0  # farther off, hands and shoes are less than a pixel

    def part(distance: Array, colour: Array | Colour) -> None:
        canvas.paint(patch, distance * tall, colour, PERSON)

    for foot, shade in ((-stride, 0.8), (stride, 1.0)):
        leg = capsule(u, v, (math.copysign(0.35 * wide, foot), 0.47), (1.15 * foot, 0.05), 0.042)
        part(leg, rgb(trousers) * shade)
        if near:
            part(
                box(u, v, (foot - 0.035, foot + 0.045 * lean + 0.02), (0.0, 0.045), 0.01), (0.08, 0.07, 0.07)
            )
    sides = ((-1.0, 0.82), (1.0, 1.0))
    for side, shade in sides:
        hand = (side * (wide + 0.02) + arm * lean * side, 0.46)
        part(capsule(u, v, (side * wide * 0.85, 0.78), hand, 0.03), rgb(coat) * shade)
        if near:
            part(ellipse(u, v, hand, (0.026, 0.026)), skin)
    torso = convex(
        u,
        v,
        ((-0.85 * wide, hem), (-wide, 0.78), (-0.04, 0.845), (0.04, 0.845), (wide, 0.78), (0.85 * wide, hem)),
    )
    part(torso - 0.008, fold * rgb(coat))
    part(ellipse(u, v, (0.0, 0.925), (0.052, 0.07)), skin)
    part(
        np.maximum(ellipse(u, v, (0.0, 0.935), (0.058, 0.07)), 0.935 - v),
        pick(rng, ((0.10, 0.08, 0.07), (0.4, 0.3, 0.2))),
    )
    if rng.random() < 0.3:
        part(box(u, v, (wide, wide + 0.1), (0.36, 0.5), 0.015), pick(rng, CLOTHES))


def paint_bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A parked bicycle, turned by some angle to the street."""
    patch = canvas.frontal(x, z, 0.95, 1.1)
    _bicycle(canvas, patch, patch.u / rng.uniform(0.4, 1.0), pick(rng, PAINTS))


def paint_cyclist(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A bicycle and its rider."""
    patch = canvas.frontal(x, z, 0.95, 1.8)
    u, v = patch.u / rng.uniform(0.3, 1.0), patch.v
    _bicycle(canvas, patch, u, pick(rng, PAINTS))
    coat, trousers, skin = pick(rng, CLOTHES), pick(rng, CLOTHES[:6]), pick(rng, SKINS)
    for knee, foot in (((0.25, 0.75), (0.05, 0.35)), ((0.18, 0.55), (0.02, 0.18))):
        for start, end in (((-0.18, 0.98), knee), (knee, foot)):
            canvas.paint(patch, capsule(u, v, start, end, 0.085), trousers, RIDER)
    canvas.paint(patch, capsule(u, v, (-0.16, 1.02), (0.1, 1.42), 0.16), coat, RIDER)
    canvas.paint(patch, capsule(u, v, (0.12, 1.38), (0.42, 1.05), 0.06), coat, RIDER)
    canvas.paint(patch, ellipse(u, v, (0.2, 1.64), (0.11, 0.13)), skin, RIDER)
    helmet = np.maximum(ellipse(u, v, (0.19, 1.67), (0.13, 0.12)), 1.66 - v)
    canvas.paint(patch, helmet, pick(rng, CLOTHES), RIDER)


def _bicycle(canvas: Canvas, patch: Patch, u: Array, paint: Colour) -> None:
    v = patch.v
    thick = max(0.03, 0.7 / float(patch.scale[0, 0]))  # thinner than a pixel, it would dissolve
    for hub in (-0.52, 0.52):
        canvas.paint(patch, np.abs(ellipse(u, v, (hub, 0.34), (0.33, 0.33))) - thick, TYRE, BICYCLE)
    joints = {"rear": (-0.52, 0.34), "pedals": (-0.05, 0.3), "saddle": (-0.2, 0.88), "head": (0.36, 0.85)}
    tubes = (
        ("rear", "pedals"),
        ("pedals", "saddle"),
        ("saddle", "head"),
        ("pedals", "head"),
        ("rear", "saddle"),
    )
    for start, end in tubes:
        canvas.paint(patch, capsule(u, v, joints[start], joints[end], thick), paint, BICYCLE)
    canvas.paint(patch, capsule(u, v, (0.52, 0.34), (0.33, 1.0), thick), paint, BICYCLE)
    canvas.paint(patch, capsule(u, v, (0.28, 1.0), (0.45, 1.02), thick), TYRE, BICYCLE)
    canvas.paint(patch, capsule(u, v, (-0.3, 0.92), (-0.12, 0.92), 0.04), TYRE, BICYCLE)
