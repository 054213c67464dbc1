"""What stands where in a generated street, and in which light: drawn at random before anything is painted."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pixelcontrast.scenes import furniture, people, vehicles
from pixelcontrast.scenes.canvas import Camera, Canvas, Light
from pixelcontrast.scenes.palette import GLASSES, GROUNDS, ROOFS, SHOPS, SKIES, TRIMS, WALLS, pick
from pixelcontrast.scenes.shapes import Array, Colour, rgb
from pixelcontrast.scenes.surfaces import Building, Street

Painter = Callable[[Canvas, np.random.Generator, float, float], None]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that stands on the ground at (x, z): how to paint it, and the body that throws its shadow."""

    paint: Painter
    x: float
    z: float
    radius: float
    height: float
    length: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Planting:
    """What is repeated along a `share` of the kerbs, `out` metres behind them, from `first` to `last`."""

    paint: Painter
    share: float
    out: float
    first: tuple[float, float]
    step: tuple[float, float]
    last: float
    radius: float
    height: float


PLANTS = (
    Planting(
        paint=furniture.paint_tree,
        share=0.55,
        out=0.9,
        first=(9.0, 22.0),
        step=(7.0, 16.0),
        last=60.0,
        radius=1.4,
        height=6.5,
    ),
    Planting(
        paint=furniture.paint_lamp,
        share=0.7,
        out=0.5,
        first=(8.0, 20.0),
        step=(18.0, 28.0),
        last=55.0,
        radius=0.06,
        height=7.0,
    ),
    Planting(
        paint=furniture.paint_sign,
        share=0.8,
        out=0.45,
        first=(6.5, 16.0),
        step=(12.0, 30.0),
        last=45.0,
        radius=0.06,
        height=2.6,
    ),
)


def random_camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A camera behind a windscreen, 1.3 to 1.9 m up, for images of `size` (height, width)."""
    height, width = size
    return Camera(
        height=height,
        width=width,
        focal=width * rng.uniform(0.72, 0.98),
        horizon=height * rng.uniform(0.38, 0.50),
        centre=width * rng.uniform(0.38, 0.62),
        eye=rng.uniform(1.3, 1.9),
    )


def random_light(rng: np.random.Generator) -> Light:
    """A blend of two skies, so that no two scenes share one."""
    first, second = (SKIES[int(rng.integers(len(SKIES)))] for _ in range(2))
    share = rng.beta(0.6, 0.6)

    def between(one: float, other: float) -> float:
        return (1.0 - share) * one + share * other

    def blend(one: Colour, other: Colour) -> Array:
        return np.float32(1.0 - share) * rgb(one) + np.float32(share) * rgb(other)

    side = -1.0 if rng.random() < 0.5 else 1.0
    return Light(
        zenith=blend(first.zenith, second.zenith),
        haze=blend(first.haze, second.haze),
        tint=blend(first.tint, second.tint),
        clouds=rng.uniform(0.15, 0.75),
        sun=between(first.sun, second.sun),
        shadow=(side * rng.uniform(0.35, 1.6), rng.uniform(-0.8, 0.8)),
        visibility=between(first.visibility, second.visibility),
    )


def random_street(rng: np.random.Generator) -> Street:
    """A street of two lanes, or three with parking, its pavements, and grass on some sides."""
    kerbs = (-rng.uniform(3.0, 7.5), rng.uniform(2.6, 5.0))
    fronts, lawns = [], []
    for kerb in kerbs:
        side = math.copysign(1.0, kerb)
        walk, lawn = rng.uniform(2.4, 6.0), rng.uniform(1.0, 4.0) if rng.random() < 0.4 else 0.0
        verge = rng.random() < 0.5  # the grass lies at the kerb, else before the houses
        inner = abs(kerb) + (0.5 if verge else walk)
        fronts.append(kerb + side * (walk + lawn))
        lawns.append((inner, inner + lawn))
    return Street(
        kerbs=kerbs,
        fronts=(fronts[0], fronts[1]),
        middle=-rng.uniform(1.5, 2.0),
        lawns=(lawns[0], lawns[1]),
        asphalt=pick(rng, GROUNDS[:5]),
        paving=pick(rng, GROUNDS),
        slab=(0.45, 0.7, 1.1)[int(rng.integers(3))],
        cobbles=rng.random() < 0.2,
        marks=rng.uniform(0.25, 0.95),
        crossing=rng.uniform(8.0, 22.0) if rng.random() < 0.3 else None,
        phase=(rng.uniform(0, 500), rng.uniform(0, 500)),
    )


def random_buildings(rng: np.random.Generator, street: Street) -> list[Building]:
    """Both rows, from just behind the camera to where the street ends, with a gap here and there."""
    row = []
    for side, line in zip((-1, 1), street.fronts, strict=True):
        depth, gaps, stature = rng.uniform(-6.0, 3.0), rng.uniform(0.05, 0.6), rng.uniform(6.0, 18.0)
        while depth < 95.0:
            length = rng.uniform(9.0, 26.0)
            front = line + side * (rng.uniform(0.2, 3.0) if rng.random() < 0.3 else 0.0)
            near, far = max(depth, 0.8), depth + length
            if far > near + 1.0:
                row.append(random_building(rng, side, front, (near, far), stature))
            depth = far + (rng.uniform(3.0, 22.0) if rng.random() < gaps else 0.0)
    return row


def random_building(
    rng: np.random.Generator, side: int, front: float, span: tuple[float, float], stature: float
) -> Building:
    """A house over the depths `span`, about `stature` metres high."""
    eaves = rng.uniform(1.2, 2.6) if rng.random() < 0.5 else 0.3
    pane = (rng.uniform(0.3, 0.6), rng.uniform(0.45, 0.65))
    if rng.random() < 0.2:
        pane = (0.93, rng.uniform(0.6, 0.9))  # bands of glass, as on offices
    return Building(
        side=side,
        front=front,
        near=span[0],
        far=span[1],
        height=stature * rng.uniform(0.7, 1.35) + 1.5,
        wall=pick(rng, WALLS),
        trim=pick(rng, TRIMS),
        glass=pick(rng, GLASSES),
        roof=pick(rng, ROOFS),
        shop=pick(rng, SHOPS),
        storey=rng.uniform(2.8, 3.7),
        bay=rng.uniform(1.8, 3.4),
        pane=pane,
        ground_floor=rng.uniform(3.2, 4.2),
        eaves=eaves,
        bricks=rng.uniform(0.1, 0.3) if rng.random() < 0.4 else 0.0,
        phase=rng.uniform(0, 300),
    )


def _car_at(x: float, z: float, facing: vehicles.Facing) -> Thing:
    return Thing(
        paint=partial(vehicles.paint_car, facing=facing), x=x, z=z, radius=0.9, height=1.2, length=4.2
    )


def random_traffic(rng: np.random.Generator, street: Street) -> list[Thing]:
    """What drives: ahead of us, towards us in the other lane, now and then across; cyclists."""
    things = []
    parking = 2.2 if street.kerbs[1] > 4.0 else 0.0
    ours = (street.middle + street.kerbs[1] - parking) / 2
    theirs = street.middle - 1.6
    if rng.random() < 0.55:
        z = rng.uniform(9.0, 40.0)
        if rng.random() < 0.15:
            things.append(Thing(paint=vehicles.paint_truck, x=ours, z=z, radius=1.2, height=2.5, length=7.0))
        else:
            things.append(_car_at(ours + rng.normal(0.0, 0.2), z, "away"))
    z = rng.uniform(8.0, 30.0)
    for _ in range(int(rng.integers(0, 4))):
        if rng.random() < 0.2:
            things.append(Thing(paint=vehicles.paint_bus, x=theirs, z=z, radius=1.2, height=2.5, length=10.0))
        else:
            things.append(_car_at(theirs + rng.normal(0.0, 0.2), z, "towards"))
        z += rng.uniform(13.0, 30.0)
    if rng.random() < 0.15:
        x, z = rng.uniform(-5.0, 5.0), rng.uniform(22.0, 45.0)
        things.append(Thing(paint=vehicles.paint_crossing_car, x=x, z=z, radius=1.6, height=1.0))
    if rng.random() < 0.3:
        x = street.kerbs[1] - rng.uniform(0.6, 1.2) if rng.random() < 0.6 else street.kerbs[0] + 0.9
        things.append(
            Thing(paint=people.paint_cyclist, x=x, z=rng.uniform(7.0, 22.0), radius=0.3, height=1.6)
        )
    return things


def random_parked(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Rows of cars at the kerbs where the lane leaves room, with free places between them."""
    things = []
    for side, kerb in zip((-1, 1), street.kerbs, strict=True):
        if abs(kerb) < 3.6 or rng.random() < 0.3:
            continue
        taken, z = rng.uniform(0.3, 0.95), rng.uniform(4.5, 12.0)
        while z < 60.0:
            if rng.random() < taken:
                along = side > 0 or rng.random() < 0.3
                things.append(
                    _car_at(kerb - side * rng.uniform(0.95, 1.15), z, "away" if along else "towards")
                )
            z += rng.uniform(5.4, 7.0)
    return things


def random_people(rng: np.random.Generator, street: Street) -> list[Thing]:
    """People on the pavements, alone and in twos, some crossing; bicycles left at the kerb."""
    things = []
    person = partial(Thing, paint=people.paint_person, radius=0.25, height=1.7)
    for kerb, front in zip(street.kerbs, street.fronts, strict=True):
        side = math.copysign(1.0, kerb)
        inner, outer = kerb + 0.4 * side, front - 0.5 * side
        for _ in range(int(rng.poisson(2.8))):
            x, z = rng.uniform(min(inner, outer), max(inner, outer)), 6.0 + 34.0 * rng.random() ** 1.5
            things.append(person(x=x, z=z))
            if rng.random() < 0.35:
                things.append(
                    person(x=x + (0.6 if rng.random() < 0.5 else -0.6), z=z + rng.uniform(-0.3, 0.5))
                )
        if rng.random() < 0.25:
            bicycle = partial(Thing, paint=people.paint_bicycle, radius=0.2, height=0.8)
            z = rng.uniform(7.0, 20.0)
            things.extend(bicycle(x=kerb + 0.6 * side, z=z + 0.9 * place) for place in range(3))
    if rng.random() < 0.3:
        z = street.crossing or rng.uniform(10.0, 25.0)
        crossing = range(int(rng.integers(1, 4)))
        things.extend(person(x=rng.uniform(*street.kerbs), z=z + rng.uniform(-1.2, 1.2)) for _ in crossing)
    return things


def random_planted(rng: np.random.Generator, street: Street) -> list[Thing]:
    """Trees, lamps, signs, lights and bins along the kerbs, bushes on the lawns."""
    things = []
    for kerb, front, lawn in zip(street.kerbs, street.fronts, street.lawns, strict=True):
        side = math.copysign(1.0, kerb)
        for plan in PLANTS:
            if rng.random() < plan.share:
                z = rng.uniform(*plan.first)
                while z < plan.last:
                    x = kerb + side * plan.out
                    things.append(Thing(paint=plan.paint, x=x, z=z, radius=plan.radius, height=plan.height))
                    z += rng.uniform(*plan.step)
        if rng.random() < 0.5:
            z = (street.crossing or rng.uniform(9.0, 24.0)) + 1.8
            light = furniture.paint_traffic_light
            things.append(Thing(paint=light, x=kerb + side * 0.4, z=z, radius=0.08, height=3.4))
        if rng.random() < 0.3:
            z = rng.uniform(6.0, 18.0)
            bin_ = partial(Thing, paint=furniture.paint_bin, x=front - side * 0.5, radius=0.3, height=1.0)
            things.extend(bin_(z=z + 0.8 * place) for place in range(2))
        for _ in range(int(rng.integers(1, 5)) if lawn[1] > lawn[0] else 0):
            x, z = side * rng.uniform(*lawn), rng.uniform(7.0, 40.0)
            things.append(Thing(paint=furniture.paint_bush, x=x, z=z, radius=0.6, height=1.2))
    return things
