"""SGD or AdamW with the field's parameter groups, and the poly schedule."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from pixelcontrast.config import Optim
from pixelcontrast.models import SegmentationModel


def build_optimizer(model: SegmentationModel, optim: Optim) -> Optimizer:
    """Four groups of parameters: backbone and new layers, each with and without weight decay.

    The weights of convolutions and matrices are decayed, unless timm's network exempts them; normalisation
    parameters, biases, layer scales, tokens and position embeddings are not. The new layers (decoder and
    projection head) have ``new_layer_lr_factor`` times the backbone's rate. Each group keeps its first rate
    as ``"initial_lr"``.
    """
    exempt = model.no_weight_decay()
    decayed = {p for name, p in model.named_parameters() if _is_matrix(name, p) and name not in exempt}
    new = [module for name, module in model.named_children() if name != "backbone"]
    groups = []
    for modules, lr in (([model.backbone], optim.lr), (new, optim.lr * optim.new_layer_lr_factor)):
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        of_matrices = [p for p in parameters if p in decayed]
        others = [p for p in parameters if p not in decayed]
        groups += [
            {"params": of_matrices, "lr": lr, "initial_lr": lr, "weight_decay": optim.weight_decay},
            {"params": others, "lr": lr, "initial_lr": lr, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    match optim.optimizer:
        case "sgd":
            return SGD(groups, momentum=optim.momentum)
        case "adamw":
            return AdamW(groups, betas=(optim.momentum, 0.999))


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """A layer's weight; scales, tokens, and positions' embeddings and biases have other names in timm."""
    return parameter.ndim > 1 and name.endswith("weight")


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
