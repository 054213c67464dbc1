"""The features of a network whose output does not include them."""

from typing import Any

import torch
from torch import Tensor, nn


class FeatureHook:
    """Keeps what a layer of any network was given: hooked before its classifier, the pixels' features.

        >>> import torch
        >>> from torch import nn
        >>> from pixelcontrast.contrast import FeatureHook
        >>> network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 5, 1))
        >>> features = FeatureHook(network[1])
        >>> logits = network(torch.rand(2, 3, 8, 8))
        >>> features.take().shape
        torch.Size([2, 32, 8, 8])

    It works on a layer of a network that DDP wraps, too, and of a compiled one if it is hooked before the
    first call. DDP with ``find_unused_parameters=True`` needs the head in a DDP of its own: what only the
    features lead to is unused in its eyes.

    Args:
        layer: called with the features [B, C, h, w] as its first argument, once per forward pass.
    """

    def __init__(self, layer: nn.Module):
        self._name = type(layer).__name__
        self._features: Tensor | None = None
        self._with_gradient = False
        self._handle = layer.register_forward_pre_hook(self._keep, with_kwargs=True)

    def take(self) -> Tensor:
        """The features [B, C, h, w] of the last forward pass, with gradient; they can be taken once.

        Raises:
            ValueError: there was no forward pass since they were taken, or it was one without gradients,
                though gradients are enabled now.
        """
        if self._features is None:
            raise ValueError(
                f"the hooked {self._name} has not been called since its features were taken: run the network "
                "before every take(), and hook a layer that its forward pass calls; where torch.compile is "
                "used, before the network's first run"
            )
        if torch.is_grad_enabled() and not self._with_gradient:
            raise ValueError(
                f"the hooked {self._name} was called without gradients, so the contrast would not train the "
                "network: checkpoint with use_reentrant=False, or, where nothing is to be trained, take() "
                "under torch.no_grad(), too"
            )
        features, self._features = self._features, None  # else the hook would keep the step's graph alive
        return features

    def remove(self) -> None:
        """Leave the layer as it was."""
        self._handle.remove()
        self._features = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the features: a copy of a hooked network has its own, and a graph cannot be copied."""
        return vars(self) | {"_features": None}

    def _keep(self, _layer: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return  # a checkpoint runs the layer again, in backward
        self._features = next(iter((*arguments, *by_name.values())))
        self._with_gradient = torch.is_grad_enabled()
