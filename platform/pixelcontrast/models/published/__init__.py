"""Published networks' files: recognised by their keys, and mapped whole or refused.

A module per source holds tables (``layout.Layout``): which keys tell a file, what settings build its
operators, and how its names become ours. ``mapping`` applies them.
"""

from pixelcontrast.models.published.layout import Target
from pixelcontrast.models.published.mapping import Start, map_published, recognise

__all__ = ["Start", "Target", "map_published", "recognise"]
