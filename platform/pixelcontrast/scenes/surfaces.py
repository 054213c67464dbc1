"""The large surfaces of a generated street: sky, ground and façades."""

import math
from dataclasses import dataclass

import numpy as np

from pixelcontrast.scenes.canvas import Canvas, Patch, cover
from pixelcontrast.scenes.palette import BUILDING, ROAD, SIDEWALK, SKY, TERRAIN
from pixelcontrast.scenes.shapes import (
    Array,
    Colour,
    box,
    cloudy,
    grain,
    limit,
    mix,
    mottled,
    rgb,
    wrap,
)

FAR = 240.0  # metres; the ground ends there, far behind whatever closes the street
SHADE_STEP = 0.5  # metres per entry of the table of heights that building shadows are looked up in
SHADE_FROM = -60.0


@dataclass(frozen=True, kw_only=True)
class Street:
    """The cross-section of one street, metres from the camera's lane: positions grow to the right.

    `kerbs` bound the road, `fronts` the pavements (the building line), `middle` is the line marked between
    the directions, `lawns` the inner and outer distance from x = 0 of either side's grass (equal: none).
    `slab` is the side of a paving stone, `marks` the paint's strength (0–1), `crossing` the depth of a zebra.
    """

    kerbs: tuple[float, float]
    fronts: tuple[float, float]
    middle: float
    lawns: tuple[tuple[float, float], tuple[float, float]]
    asphalt: Colour
    paving: Colour
    slab: float
    cobbles: bool
    marks: float
    crossing: float | None
    phase: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Building:
    """One house in a row: `side` -1 left or 1 right, its front at x = `front`, from depth `near` to `far`."""

    side: int
    front: float
    near: float
    far: float
    height: float
    wall: Colour
    trim: Colour
    glass: Colour
    roof: Colour
    shop: Colour
    storey: float
    bay: float
    pane: tuple[float, float]
    ground_floor: float
    eaves: float
    bricks: float
    phase: float


def paint_sky(canvas: Canvas, drift: tuple[float, float]) -> None:
    """Fill all above the end of the ground: gradient, clouds in perspective, brighter towards the sun."""
    camera, light = canvas.camera, canvas.light
    bottom = min(int(camera.row(0.0, FAR)) + 2, camera.height)
    row = np.arange(bottom, dtype=np.float32)[:, None]
    col = np.arange(camera.width, dtype=np.float32)[None]
    height = limit((camera.horizon - row) / camera.focal, 0.0, 1.0)
    fade = limit(1.0 - height / 0.45, 0.0, 1.0) ** 2
    sky = light.zenith + (light.haze - light.zenith) * fade
    away = 60.0 / (height + 0.12)
    across = (col - camera.centre) / camera.focal
    shapes = cloudy(across * away + drift[0], away + drift[1]) + 0.35 * grain(
        across * away * 1.5, away * 2 + drift[0]
    )
    covered = limit((shapes + 2.0 * light.clouds - 1.0) * 1.4, 0.0, 1.0) * limit(height * 9.0, 0.0, 1.0)
    cloud = (0.93 + 0.09 * limit(shapes, -1.0, 1.0)) * light.tint
    sky = mix(sky, 0.35 * light.haze + 0.65 * cloud, 0.85 * covered)
    sun = limit(across * -math.copysign(1.0, light.shadow[0]) * 0.7 + 0.3, 0.0, 1.0) * light.sun * 0.16
    canvas.image[:, :bottom] = sky + sun * light.tint
    canvas.label[:bottom] = SKY


def paint_ground(canvas: Canvas, street: Street, buildings: list[Building]) -> None:
    """Pavements, lawns, road and marks from the camera to `FAR`, in the shade of the buildings."""
    wide = FAR * canvas.camera.width / canvas.camera.focal
    patch = canvas.ground((-wide, wide), (0.5, FAR))
    _paint_pavement(canvas, patch, street)
    _paint_road(canvas, patch, street)
    _paint_marks(canvas, patch, street)
    if canvas.light.sun > 0.05:
        shade = canvas.light.sun * _shaded(canvas, patch, buildings)
        canvas.lit[patch.rows] = 1.0 - shade
        canvas.image[:, patch.rows] *= canvas.lit[patch.rows]


def _paint_pavement(canvas: Canvas, patch: Patch, street: Street) -> None:
    x, z = patch.u, patch.v
    fine = limit(patch.scale / 25.0 - 0.15, 0.0, 1.0)  # what is finer than a pixel far off would only flicker
    joint_x, joint_z = np.abs(wrap(x, street.slab)), np.abs(wrap(z, street.slab))
    joint = limit(1.0 - np.minimum(joint_x, joint_z) * (patch.scale / 1.3), 0.0, 1.0) * fine
    slabs = grain(np.floor(x / street.slab) * 7, np.floor(z / street.slab) * 13)
    stain = mottled(x * 30.0 + street.phase[0], z * 18.0)
    texture = 1.0 + (0.05 * fine) * slabs + 0.10 * stain - 0.22 * joint
    canvas.blend(patch, np.ones_like(texture), texture * rgb(street.paving), SIDEWALK)
    for (inner, outer), side in zip(street.lawns, (-1.0, 1.0), strict=True):
        if outer > inner:
            _paint_lawn(canvas, patch, inner, outer, side)


def _paint_lawn(canvas: Canvas, patch: Patch, inner: float, outer: float, side: float) -> None:
    lawn = _only(patch, _columns_beside(canvas, side))
    blades = grain(lawn.u * 26.0, lawn.v * 11.0)
    patches = cloudy(lawn.u * 14.0, lawn.v * 8.0)
    green = (
        rgb((0.30, 0.36, 0.16)) * (1.0 + 0.22 * blades + 0.15 * patches) + rgb((0.06, 0.02, 0.0)) * patches
    )
    ragged = np.abs(lawn.u * side - (inner + outer) / 2) - (outer - inner) / 2 + 0.08 * blades
    canvas.paint(lawn, ragged, green, TERRAIN)


def _columns_beside(canvas: Canvas, side: float) -> slice:
    """The columns from the vanishing point to one side."""
    middle = int(min(max(canvas.camera.centre, 0), canvas.camera.width))
    return slice(0, middle + 1) if side < 0 else slice(middle, canvas.camera.width)


def _only(patch: Patch, cols: slice) -> Patch:
    """A ground patch that spans the image, narrowed to some columns."""
    return Patch(
        rows=patch.rows,
        cols=cols,
        u=patch.u[:, cols],
        v=patch.v,
        scale=patch.scale,
        gain=patch.gain,
        air=patch.air,
    )


def _paint_road(canvas: Canvas, patch: Patch, street: Street) -> None:
    x, z = patch.u, patch.v
    left, right = street.kerbs
    across = np.abs(x - (left + right) / 2) - (right - left) / 2
    canvas.paint(patch, np.abs(across - 0.09) - 0.09, (0.60, 0.59, 0.57), SIDEWALK)
    fine = limit(patch.scale / 25.0, 0.0, 1.0)
    stones = (0.10 * fine) * grain(x * 45.0 + street.phase[1], z * 30.0)
    if street.cobbles:
        stagger = wrap(np.floor(z / 0.22), 2.0) * 0.15
        stones = stones + (0.16 * fine) * grain(np.floor((x + stagger) / 0.3) * 5, np.floor(z / 0.22) * 3)
    worn = np.cos((x - street.middle) * 3.6)  # wheel tracks, about 1.75 m apart
    repair = cloudy(np.floor(x / 1.8) * 37.0 + street.phase[0], np.floor(z / 6.5) * 53.0 + street.phase[1])
    texture = 1.0 + stones + 0.10 * cloudy(x * 14.0, z * 5.0 + street.phase[0]) + 0.05 * worn
    texture -= limit(5.0 * repair - 2.5, 0.0, 0.12)
    texture -= 0.25 * limit(1.0 + across / 0.35, 0.0, 1.0)  # the gutter
    canvas.paint(patch, across, texture * rgb(street.asphalt), ROAD)


def _paint_marks(canvas: Canvas, patch: Patch, street: Street) -> None:
    x, z = patch.u, patch.v
    left, right = street.kerbs
    dashes = np.abs(wrap(z + street.phase[0], 9.0)) - 1.5
    lines = np.maximum(np.abs(x - street.middle) - 0.07, dashes)
    edges = np.minimum(np.abs(x - left - 0.5), np.abs(x - right + 0.5)) - 0.06
    distance = np.minimum(lines, edges) if street.marks > 0.6 else lines
    if street.crossing is not None:
        stripes = np.abs(wrap(x, 1.0)) - 0.25
        along = np.abs(z - street.crossing) - 1.6
        inside = np.abs(x - (left + right) / 2) - (right - left) / 2 + 0.5
        distance = np.minimum(
            np.maximum(distance, -along - 0.8), np.maximum(np.maximum(stripes, along), inside)
        )
    worn = limit(0.75 + 0.5 * grain(x * 30.0, z * 20.0), 0.0, 1.0) * street.marks
    canvas.blend(patch, cover(distance, patch) * worn, (0.83, 0.83, 0.80), ROAD)


def _shaded(canvas: Canvas, patch: Patch, buildings: list[Building]) -> Array:
    """1 where a building stands between the ground and the sun, else 0, soft at the edge; float32 [h, w]."""
    step_x, step_z = canvas.light.shadow
    side = -1 if step_x > 0 else 1
    heights = np.zeros(int((FAR - SHADE_FROM) / SHADE_STEP), np.float32)
    row = [house for house in buildings if house.side == side]
    for house in row:
        first, last = (int((depth - SHADE_FROM) / SHADE_STEP) for depth in (house.near, house.far))
        heights[first:last] = house.height
    line = np.mean([house.front for house in row]) if row else 0.0
    needed = (patch.u - np.float32(line)) / np.float32(step_x)
    origin = limit((patch.v - needed * step_z - SHADE_FROM) / SHADE_STEP, 0, len(heights) - 1).astype(
        np.int32
    )
    height = heights.take(origin)
    return limit((height - needed) * 1.5 + 0.5, 0.0, 1.0) * (height > 0.0)


def paint_flank(canvas: Canvas, building: Building) -> None:
    """The façade along the street."""
    patch = canvas.lateral(building.front, building.near, building.far, building.height)
    if patch.empty:
        return
    limits = box(patch.u, patch.v, (0.0, building.far - building.near), (-1.0, building.height))
    canvas.paint(patch, limits, _facade(patch, building, building.phase), BUILDING)


def paint_end(canvas: Canvas, building: Building, width: float) -> None:
    """The wall that faces the camera, `width` metres of it outwards from the street."""
    middle = building.front + building.side * width / 2
    patch = canvas.frontal(middle, building.near, width / 2, building.height)
    if patch.empty:
        return
    limits = box(patch.u, patch.v, (-width / 2, width / 2), (-1.0, building.height))
    canvas.paint(patch, limits, _facade(patch, building, building.phase + 3.0), BUILDING)


def _facade(patch: Patch, building: Building, phase: float) -> Array:
    """Colours [3, h, w] of a wall with windows, ground floor, cornice and grime."""
    u, v = patch.u + phase, patch.v
    weather = 1.0 + 0.09 * mottled(u * 14.0, v * 18.0)
    weather -= 0.18 * limit(1.0 - v / 1.2, 0.0, 1.0)
    if building.bricks > 0.0:
        course = limit(np.abs(wrap(v, 0.3)) * 20.0 - 2.2, 0.0, 1.0)
        weather -= building.bricks * course * limit(patch.scale / 30.0 - 0.2, 0.0, 1.0)
    above, band = v - building.ground_floor, v - building.height + building.eaves
    colour = mix(weather * rgb(building.wall), building.roof, cover(-band, patch))
    lines = cover(np.minimum(np.abs(above) - 0.14, np.abs(band) - 0.18), patch)
    colour = _with_windows(colour, patch, building, u, above, lines)
    return _with_shops(colour, patch, building, u)


def _with_windows(
    colour: Array, patch: Patch, building: Building, u: Array, above: Array, lines: Array
) -> Array:
    """Windows on the upper floors; `lines` is the coverage of whatever else has the trim's colour."""
    column, storey = np.floor(u * (1.0 / building.bay)), np.floor(above * (1.0 / building.storey))
    across = np.abs(u - (column + 0.5) * building.bay)
    up = above - (storey + 0.5) * building.storey
    width, height = building.pane[0] * building.bay, building.pane[1] * building.storey
    sash = np.maximum(across - width / 2, np.abs(up) - height / 2)
    floors = (building.height - building.eaves - building.ground_floor - 2.0) / building.storey
    upstairs = (storey >= 0.0) & (storey < floors)
    frame = np.maximum(cover(sash - 0.10, patch) * upstairs, lines)
    pane = cover(np.maximum(sash, 0.05 - across), patch) * upstairs
    room = grain(column * 11.0 + 3.0, storey * 29.0 + building.phase)
    shine = 0.75 + 0.35 * room + (0.5 / building.storey) * up + 0.12 * cloudy(u * 20.0, above * 25.0)
    blinds = (room > 0.45) & (up > 0.1)  # half down
    glass = np.where(blinds, 2.3, limit(shine, 0.2, 1.8)) * rgb(building.glass)
    return mix(mix(colour, building.trim, frame), glass, pane)


def _with_shops(colour: Array, patch: Patch, building: Building, u: Array) -> Array:
    v, bay = patch.v, 1.7 * building.bay
    unit = np.floor(u / bay)
    across = np.abs(u / bay - unit - 0.5) * bay
    top = building.ground_floor - 0.75
    window = np.maximum(across - 0.42 * bay, np.abs(v - top / 2 - 0.15) - top / 2 + 0.2)
    inside = 0.35 + 0.25 * grain(u * 9.0, v * 9.0) + 0.35 * grain(unit * 17.0, unit + building.phase)
    glass = limit(inside, 0.1, 1.2) * rgb((0.55, 0.50, 0.42))
    colour = mix(colour, glass, cover(window, patch))
    sign = np.maximum(across - 0.45 * bay, np.abs(v - top - 0.2) - 0.28)
    shown = (grain(unit * 23.0, unit + 2.0 * building.phase) > -0.2).astype(np.float32)
    return mix(colour, building.shop, cover(sign, patch) * shown)
