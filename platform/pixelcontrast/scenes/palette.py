"""Label ids and colours of generated streets.

The colours of different classes overlap on purpose: asphalt, paving, façades, cars and clothes share their
greys and browns, so that a network has to look at shape and place.
"""

from dataclasses import dataclass

import numpy as np

from pixelcontrast.scenes.shapes import Colour

# Raw Cityscapes ids (cityscapesscripts.helpers.labels); the first two are not scored.
EGO_VEHICLE, STATIC = 1, 4
ROAD, SIDEWALK, BUILDING, WALL, FENCE = 7, 8, 11, 12, 13
POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 17, 19, 20
VEGETATION, TERRAIN, SKY = 21, 22, 23
PERSON, RIDER, CAR, TRUCK, BUS, BICYCLE = 24, 25, 26, 27, 28, 33

PAINTS: tuple[Colour, ...] = (
    (0.10, 0.10, 0.11),
    (0.20, 0.21, 0.23),
    (0.42, 0.43, 0.44),
    (0.66, 0.67, 0.68),
    (0.88, 0.88, 0.86),
    (0.48, 0.09, 0.09),
    (0.12, 0.20, 0.42),
    (0.16, 0.30, 0.24),
    (0.55, 0.47, 0.36),
    (0.30, 0.42, 0.52),
)
CLOTHES: tuple[Colour, ...] = (
    (0.11, 0.11, 0.13),
    (0.18, 0.21, 0.32),
    (0.36, 0.36, 0.38),
    (0.62, 0.58, 0.52),
    (0.84, 0.83, 0.80),
    (0.58, 0.16, 0.15),
    (0.22, 0.34, 0.24),
    (0.45, 0.33, 0.22),
    (0.72, 0.56, 0.20),
    (0.30, 0.48, 0.62),
)
SKINS: tuple[Colour, ...] = ((0.82, 0.64, 0.53), (0.62, 0.44, 0.33), (0.38, 0.26, 0.20))
LEAVES: tuple[Colour, ...] = (
    (0.22, 0.32, 0.13),
    (0.16, 0.25, 0.12),
    (0.34, 0.40, 0.17),
    (0.25, 0.33, 0.21),
    (0.50, 0.38, 0.15),
    (0.42, 0.25, 0.14),
)
GLASS: Colour = (0.13, 0.15, 0.18)
TYRE: Colour = (0.06, 0.06, 0.065)
STEEL: Colour = (0.36, 0.37, 0.37)
RED: Colour = (0.66, 0.08, 0.09)
WHITE: Colour = (0.90, 0.90, 0.88)
BLUE: Colour = (0.08, 0.22, 0.55)
YELLOW: Colour = (0.86, 0.66, 0.12)
WALLS: tuple[Colour, ...] = (
    (0.66, 0.60, 0.50),
    (0.74, 0.70, 0.62),
    (0.52, 0.30, 0.23),
    (0.58, 0.56, 0.53),
    (0.42, 0.42, 0.43),
    (0.70, 0.55, 0.38),
    (0.50, 0.56, 0.58),
    (0.48, 0.53, 0.42),
    (0.80, 0.78, 0.75),
    (0.36, 0.30, 0.27),
)
TRIMS: tuple[Colour, ...] = ((0.82, 0.80, 0.75), (0.60, 0.58, 0.55), (0.32, 0.30, 0.29), (0.70, 0.62, 0.50))
GLASSES: tuple[Colour, ...] = ((0.20, 0.23, 0.27), (0.34, 0.40, 0.46), (0.13, 0.14, 0.15), (0.42, 0.46, 0.48))
ROOFS: tuple[Colour, ...] = ((0.26, 0.26, 0.28), (0.42, 0.23, 0.18), (0.36, 0.30, 0.26))
SHOPS: tuple[Colour, ...] = (
    (0.60, 0.14, 0.13),
    (0.14, 0.26, 0.48),
    (0.16, 0.36, 0.24),
    (0.78, 0.66, 0.30),
    (0.15, 0.15, 0.16),
    (0.82, 0.80, 0.76),
)
GROUNDS: tuple[Colour, ...] = (
    (0.32, 0.32, 0.33),
    (0.40, 0.40, 0.41),
    (0.47, 0.46, 0.45),
    (0.38, 0.36, 0.34),
    (0.54, 0.52, 0.50),
    (0.46, 0.40, 0.37),
)


@dataclass(frozen=True, kw_only=True)
class Sky:
    """One kind of weather and hour; the light of a scene lies between two of them. Meanings as in `Light`."""

    zenith: Colour
    haze: Colour
    tint: Colour
    sun: float
    visibility: float


SKIES = (
    Sky(
        zenith=(0.30, 0.48, 0.78),
        haze=(0.80, 0.87, 0.93),
        tint=(1.02, 1.00, 0.95),
        sun=0.50,
        visibility=400.0,
    ),
    Sky(
        zenith=(0.62, 0.66, 0.71),
        haze=(0.84, 0.85, 0.86),
        tint=(0.92, 0.94, 0.96),
        sun=0.05,
        visibility=250.0,
    ),
    Sky(
        zenith=(0.38, 0.44, 0.60),
        haze=(0.95, 0.78, 0.58),
        tint=(1.04, 0.90, 0.74),
        sun=0.45,
        visibility=220.0,
    ),
    Sky(
        zenith=(0.74, 0.76, 0.78), haze=(0.80, 0.81, 0.81), tint=(0.88, 0.89, 0.90), sun=0.10, visibility=90.0
    ),
    Sky(
        zenith=(0.30, 0.35, 0.46),
        haze=(0.56, 0.58, 0.64),
        tint=(0.64, 0.67, 0.76),
        sun=0.05,
        visibility=180.0,
    ),
)


def pick(rng: np.random.Generator, options: tuple[Colour, ...]) -> Colour:
    """One of the colours, each as likely, a little lighter or darker and a little off in hue."""
    red, green, blue = options[int(rng.integers(len(options)))]
    light, warm = rng.uniform(0.85, 1.15), rng.uniform(-0.02, 0.02)
    return (red * light + warm, green * light, blue * light - warm)
