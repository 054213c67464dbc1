"""Searching settings and comparing arms: proposals, their record in an Optuna study. Knows no Ray."""

from pixelcontrast.search.settings import Search, choice, integers, loguniform, uniform

__all__ = ["Search", "choice", "integers", "loguniform", "uniform"]
