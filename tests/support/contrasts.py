"""``PixelContrast`` from flat settings, as tables of scenarios have them."""

from dataclasses import fields
from typing import Any

from pixelcontrast.contrast import AnchorSampling, InfoNCE, MemoryConfig, Mining, PixelContrast

_PARTS = {"loss": InfoNCE, "anchors": AnchorSampling, "memory": MemoryConfig, "mining": Mining}


def pixel_contrast(kind: type[PixelContrast] = PixelContrast, **settings: Any) -> PixelContrast:
    """Hand every setting to the part that has it; a size of 0, or none, stands for no such bank."""
    sizes = {name: settings.pop(f"{name}_size", 0) for name in ("pixel_queue", "region_memory")}
    settings |= {f"{name}_size": size for name, size in sizes.items() if size}
    settings["memory"] = {(0, 0): "none", (1, 0): "pixel", (0, 1): "region", (1, 1): "both"}[
        bool(sizes["pixel_queue"]), bool(sizes["region_memory"])
    ]
    parts = {}
    for name, part in _PARTS.items():
        own = {field.name for field in fields(part)} & settings.keys()
        parts[name] = part(**{field: settings.pop(field) for field in own})
    return kind(**parts, **settings)
