"""The complete configuration of a run: frozen, typed, checked when it is made.

Every value is checked on construction, so an ``Experiment`` that exists is one that can be run; a wrong
value raises ``pydantic.ValidationError`` (a ``ValueError``), and ``explain`` turns that into one line per
mistake. Keys are written with dots (``"contrast.temperature"``), on the command line as in ``replace``.
"""

from pixelcontrast.config.arguments import arguments
from pixelcontrast.config.experiment import (
    COMMIT_VARIABLE,
    PAPER,
    PLACEMENT,
    Experiment,
    absolute_paths,
    check_memory,
    differences,
    explain,
    fingerprint,
    flatten,
    from_json,
    from_tree,
    recorded_fingerprint,
    refuse_changes,
    replace,
    to_json,
)
from pixelcontrast.config.paths import absolute_path, expand_home
from pixelcontrast.config.sections import (
    ClassOrder,
    Contrast,
    Count,
    Data,
    Layout,
    Model,
    Operators,
    Optim,
    Run,
    Share,
    Workers,
)

__all__ = [
    "COMMIT_VARIABLE",
    "PAPER",
    "PLACEMENT",
    "ClassOrder",
    "Contrast",
    "Count",
    "Data",
    "Experiment",
    "Layout",
    "Model",
    "Operators",
    "Optim",
    "Run",
    "Share",
    "Workers",
    "absolute_path",
    "absolute_paths",
    "arguments",
    "check_memory",
    "differences",
    "expand_home",
    "explain",
    "fingerprint",
    "flatten",
    "from_json",
    "from_tree",
    "recorded_fingerprint",
    "refuse_changes",
    "replace",
    "to_json",
]
