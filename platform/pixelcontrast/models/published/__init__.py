"""Published networks' files: recognised by their keys, and mapped whole or refused.

A module per source holds tables (``layout.Layout``): which keys tell a file, what settings build its
operators, and how its names become ours. ``mapping`` applies them. The platform's own networks (``own``) are
mapped likewise.
"""

from pixelcontrast.models.published.layout import Target
from pixelcontrast.models.published.mapping import Start, map_published, recognise
from pixelcontrast.models.published.own import is_own, own_layout

__all__ = ["Start", "Target", "is_own", "map_published", "own_layout", "recognise"]
