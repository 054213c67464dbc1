"""SGD or AdamW with the field's parameter groups, and the poly schedule."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from pixelcontrast.config import Optim
from pixelcontrast.models import SegmentationModel


def build_optimizer(model: SegmentationModel, optim: Optim) -> Optimizer:
    """Four groups of parameters: backbone and new layers, each with and without weight decay.

    Normalisation parameters, biases, and a transformer's tokens and position embeddings are not decayed; the
    new layers (decoder and projection head) have ``new_layer_lr_factor`` times the backbone's rate. Each
    group keeps its first rate as ``"initial_lr"``.
    """
    spared = _spared(model)
    new = [module for name, module in model.named_children() if name != "backbone"]
    groups = []
    for modules, lr in (([model.backbone], optim.lr), (new, optim.lr * optim.new_layer_lr_factor)):
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        decayed = [p for p in parameters if p.ndim > 1 and p not in spared]
        others = [p for p in parameters if p.ndim <= 1 or p in spared]
        groups += [
            {"params": decayed, "lr": lr, "initial_lr": lr, "weight_decay": optim.weight_decay},
            {"params": others, "lr": lr, "initial_lr": lr, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    match optim.optimizer:
        case "sgd":
            return SGD(groups, momentum=optim.momentum)
        case "adamw":
            return AdamW(groups, betas=(optim.momentum, 0.999))


def _spared(model: nn.Module) -> set[nn.Parameter]:
    """What timm's networks name in ``no_weight_decay``, and Swin's tables: its pyramid does not name them."""
    spared = {p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")}
    for module in model.modules():
        names = getattr(module, "no_weight_decay", set)()
        spared |= {p for name, p in module.named_parameters() if name in names}
    return spared


def set_rate(optimizer: Optimizer, step: int, optim: Optim) -> float:
    """Set the rates for a step counted from 0, and return the backbone's.

    They follow lr · (1 − step/steps) ** power, in the first ``lr_warmup_steps`` times (step + 1) / that many.
    """
    factor = (1 - step / optim.steps) ** optim.power
    if step < optim.lr_warmup_steps:
        factor *= (step + 1) / optim.lr_warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return optim.lr * factor


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """All that the optimiser updates."""
    return [p for group in optimizer.param_groups for p in group["params"]]
