"""The features of a network whose output does not include them."""

from typing import Any

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

    It works on a layer of a network that DDP wraps, too.

    Args:
        layer: called with the features [B, C, h, w] as its first argument, once per forward pass.
    """

    def __init__(self, layer: nn.Module):
        self._name = type(layer).__name__
        self._features: Tensor | None = None
        self._handle = layer.register_forward_pre_hook(self._keep)

    def take(self) -> Tensor:
        """The features [B, C, h, w] of the last forward pass, with gradient; they can be taken once.

        Raises:
            ValueError: there was no forward pass since they were taken.
        """
        if self._features is None:
            raise ValueError(
                f"the hooked {self._name} has not been called since its features were taken: run the network "
                "before every take(), and hook a layer that its forward pass calls"
            )
        features, self._features = self._features, None  # else the hook would keep the step's graph alive
        return features

    def remove(self) -> None:
        """Leave the layer as it was."""
        self._handle.remove()
        self._features = None

    def _keep(self, _layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._features = arguments[0]
