"""One generated street scene: the picture and its labels."""

import math

import numpy as np

from pixelcontrast.scenes import furniture
from pixelcontrast.scenes.canvas import Canvas
from pixelcontrast.scenes.layout import (
    random_building,
    random_buildings,
    random_camera,
    random_light,
    random_parked,
    random_people,
    random_planted,
    random_street,
    random_traffic,
)
from pixelcontrast.scenes.palette import EGO_VEHICLE, PAINTS, pick
from pixelcontrast.scenes.shapes import Array, cloudy, limit, rgb
from pixelcontrast.scenes.surfaces import (
    Building,
    Street,
    paint_end,
    paint_flank,
    paint_ground,
    paint_sky,
)

SHADOWS_TO = 45.0  # metres; beyond it a shadow on the ground is a line
SMALLEST = 32  # pixels; below this the perspective leaves nothing to see


def render(seed: int, index: int, size: tuple[int, int] = (256, 512)) -> tuple[Array, Array]:
    """Paint one street scene from the driver's seat.

    Args:
        seed: which world, 0 or more.
        index: which scene of it, 0 or more.
        size: height and width in pixels, each at least 32; made for a width of twice the height.

    Returns:
        The image, uint8 [H, W, 3] RGB, and its label, uint8 [H, W] of the raw Cityscapes ids in `palette`.
        The same arguments give the same pixels, whatever was rendered before.

    Raises:
        ValueError: a negative seed or index, or a side below 32 pixels.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, not {seed} and {index}")
    if min(size) < SMALLEST:
        raise ValueError(f"size (height, width) must be at least {SMALLEST} pixels each, not {tuple(size)}")
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    canvas = Canvas(camera=random_camera(rng, size), light=random_light(rng))
    street = random_street(rng)
    buildings = random_buildings(rng, street)
    things = [
        *random_traffic(rng, street),
        *random_parked(rng, street),
        *random_people(rng, street),
        *random_planted(rng, street),
    ]
    paint_sky(canvas, (rng.uniform(0, 500), rng.uniform(0, 500)))
    paint_ground(canvas, street, buildings)
    things = [thing for thing in things if canvas.shows(thing.x, thing.z + thing.length, 4.0)]
    for thing in things:
        if thing.z < SHADOWS_TO:
            canvas.shadow(thing.x, thing.z, thing.radius, thing.height, thing.length)
    _paint_distance(canvas, rng)
    _paint_rows(canvas, rng, street, buildings)
    for thing in sorted(things, key=lambda thing: -thing.z):
        thing.paint(canvas, rng, thing.x, thing.z)
    if rng.random() < 0.4:
        _paint_bonnet(canvas, rng)
    return _expose(canvas.image, rng), canvas.label


def _paint_distance(canvas: Canvas, rng: np.random.Generator) -> None:
    """What closes the view: far houses across the street's end, woods before them."""
    for _ in range(int(rng.integers(2, 5))):
        side = -1 if rng.random() < 0.5 else 1
        house = random_building(
            rng, side, rng.uniform(-70.0, 70.0), (rng.uniform(125.0, 170.0), 200.0), rng.uniform(8.0, 26.0)
        )
        paint_end(canvas, house, rng.uniform(14.0, 34.0))
    for _ in range(int(rng.integers(4, 7))):
        furniture.paint_wood(canvas, rng, rng.uniform(-75.0, 75.0), rng.uniform(100.0, 120.0))


def _paint_rows(canvas: Canvas, rng: np.random.Generator, street: Street, buildings: list[Building]) -> None:
    """The houses of both sides, far to near, with whatever fills the gaps between them."""
    for side in (-1, 1):
        row = [house for house in buildings if house.side == side]
        nearer = [None, *row[:-1]]
        for house, neighbour in reversed(list(zip(row, nearer, strict=True))):
            gap = house.near - (neighbour.far if neighbour else 0.8)
            stands_out = neighbour is not None and side * (neighbour.front - house.front) > 0.1
            if gap > 0.5 or stands_out:
                paint_end(canvas, house, 14.0)
            paint_flank(canvas, house)
            if gap > 2.5:
                _paint_gap(canvas, rng, street.fronts[side > 0], house.near - gap, house.near)


def _paint_gap(canvas: Canvas, rng: np.random.Generator, line: float, near: float, far: float) -> None:
    side = math.copysign(1.0, line)
    depths = [rng.uniform(max(near, 9.0), max(far, 12.0)) for _ in range(int(rng.integers(1, 4)))]
    for z in sorted(depths, reverse=True):
        furniture.paint_tree(canvas, rng, line + side * rng.uniform(3.0, 8.0), z)
    edges = (furniture.paint_hedge, furniture.paint_fence, furniture.paint_wall)
    if rng.random() < 0.75:
        edges[int(rng.integers(len(edges)))](canvas, rng, line, near, far)


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The camera car's own bonnet at the lower edge, dark or in any paint, mirroring the sky."""
    height, width = canvas.label.shape
    top = height * rng.uniform(0.86, 0.95)
    row = np.arange(height, dtype=np.float32)[int(top) :, None]
    col = np.arange(width, dtype=np.float32)[None] / width - 0.5
    edge = top + height * rng.uniform(0.2, 0.5) * np.abs(col) ** 2.5
    inside = limit(row - edge + 0.5, 0.0, 1.0)
    rim = np.exp((edge - row) / (0.02 * height))
    mirrored = 0.35 * rim + 0.06 * cloudy(col * 200.0, row * 3.0)
    paint = rgb(pick(rng, PAINTS)) * canvas.light.tint
    colour = paint * 0.8 + mirrored * canvas.light.zenith
    window = canvas.image[:, int(top) :]
    window += inside * (colour - window)
    canvas.label[int(top) :][inside >= 0.5] = EGO_VEHICLE


def _expose(image: Array, rng: np.random.Generator) -> Array:
    """What lens and sensor make of the light [3, H, W]: soft, vignetted, exposed, noisy; uint8 [H, W, 3]."""
    _, height, width = image.shape
    _blur(image, rng.uniform(0.05, 0.22))
    row = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None] ** 2
    col = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None] ** 2
    metered = rng.uniform(0.38, 0.52) / float(image.mean())  # a camera exposes for the mean, most of the way
    gain = (255.0 * metered**0.8) * (1.0 - rng.uniform(0.03, 0.14) * (row + col))
    image *= gain * rgb((rng.uniform(0.95, 1.05), 1.0, rng.uniform(0.95, 1.05)))
    image += rng.uniform(1.0, 3.5) * rng.standard_normal((height, width), np.float32) + np.float32(0.5)
    np.clip(image, 0.0, 255.0, out=image)
    interleaved = np.empty((height, width, 3), np.uint8)
    np.copyto(interleaved.transpose(2, 0, 1), image, casting="unsafe")
    return interleaved


def _blur(image: Array, share: float) -> None:
    """Let each pixel give `share` of itself to either neighbour, along rows and columns; the border stays."""
    for axis in (1, 2):
        turned = image if axis == 1 else image.swapaxes(1, 2)
        spread = turned[:, :-2] + turned[:, 2:]
        spread *= share
        turned[:, 1:-1] *= 1.0 - 2.0 * share
        turned[:, 1:-1] += spread
