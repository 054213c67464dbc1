"""``PixelContrast`` from flat settings, as tables of scenarios have them; small ones, and what they take."""

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast import AnchorConfig, LossConfig, MemoryConfig, MiningConfig, PixelContrast

CLASSES, DIM = 3, 4
_PARTS = {"loss": LossConfig, "anchors": AnchorConfig, "memory": MemoryConfig, "mining": MiningConfig}


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


def small_contrast(**settings: Any) -> PixelContrast:
    """By default three classes, a queue of eight pixels each, and every example taken."""
    defaults: dict[str, Any] = {"num_classes": CLASSES, "embedding_dim": DIM, "pixel_queue_size": 8}
    defaults |= {"region_memory_size": 0, "positive_mining": "all", "negative_mining": "all"}
    return pixel_contrast(**defaults | settings)


def in_float64(contrast: PixelContrast) -> PixelContrast:
    """Let the memory store float64, which no setting does: ``double()`` leaves it as it is."""
    for bank in contrast.memory.banks.values():
        bank.rows = bank.rows.double()
    return contrast


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors [B, D, h, w]; a pixel's first component is not degenerate."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=1).requires_grad_()


def logits_for(predictions: Tensor, num_classes: int = CLASSES) -> Tensor:
    """Logits [B, C, H, W] whose largest are ``predictions`` [B, H, W]."""
    return F.one_hot(predictions, num_classes).permute(0, 3, 1, 2).float()
