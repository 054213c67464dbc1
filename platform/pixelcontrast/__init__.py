"""Semantic segmentation trained with cross-image pixel contrast, distributed and searched on Ray."""

from typing import TYPE_CHECKING, Any

from pixelcontrast.extras import import_platform

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pixelcontrast.cli import main, parse, run
    from pixelcontrast.config import PAPER, Contrast, Data, Experiment, Model, Optim, Run, Workers, replace
    from pixelcontrast.contrast import PixelContrast
    from pixelcontrast.inference import load_model
    from pixelcontrast.search import Search, choice, integers, loguniform, uniform

_HOMES = {
    **dict.fromkeys(("main", "parse", "run"), "cli"),
    **dict.fromkeys(
        ("PAPER", "Contrast", "Data", "Experiment", "Model", "Optim", "Run", "Workers", "replace"),
        "config",
    ),
    "PixelContrast": "contrast",
    **dict.fromkeys(("Search", "choice", "integers", "loguniform", "uniform"), "search"),
    "load_model": "inference",
}

__all__ = [
    "PAPER",
    "Contrast",
    "Data",
    "Experiment",
    "Model",
    "Optim",
    "PixelContrast",
    "Run",
    "Search",
    "Workers",
    "choice",
    "integers",
    "load_model",
    "loguniform",
    "main",
    "parse",
    "replace",
    "run",
    "uniform",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: a configuration must not cost the import of torch or Ray.

    ``PixelContrast`` needs torch, numpy and annotated-types; the other names need the extra ``platform``.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'pixelcontrast' has no attribute {name!r}")
    return getattr(import_platform(f"pixelcontrast.{_HOMES[name]}", what=f"pixelcontrast.{name}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
