"""Grouped convolutions on CPUs, in float32 where autocast asks for bfloat16."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class _Float32OnCpu(nn.Module):
    """Before a convolution's class: under a CPU's autocast it computes in float32, and returns bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            output = super().forward(input.float())
        return output.to(torch.get_autocast_dtype("cpu"))

    def __reduce__(self) -> tuple[Any, ...]:
        # A class made at run time has no name that pickle and torch.save could import.
        return _new_in_float32, (type(self).__bases__[1],), self.__dict__


def keep_grouped_in_float32(network: nn.Module) -> None:
    """Let depthwise and dilated grouped convolutions compute in float32 on CPUs, whatever autocast says.

    oneDNN (3.12, with torch 2.14) has no bfloat16 kernel for the weights' gradient of a dilated grouped
    convolution in channels-last layout: what it returns is what lay in memory, often infinite. Depthwise
    ones without dilation have one, which is right but slower than float32's (experiments/benchmarks). GPUs,
    parameters and their names are left as they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module, _Float32OnCpu) and _is_concerned(module):
            module.__class__ = _in_float32(type(module))


def _is_concerned(convolution: nn.Conv2d) -> bool:
    depthwise = convolution.groups == convolution.in_channels
    dilated = max(convolution.dilation) > 1
    return convolution.groups > 1 and (depthwise or dilated)


@cache
def _in_float32(convolution: type[nn.Conv2d]) -> type[nn.Conv2d]:
    # timm has several classes of convolutions with forwards of their own, so none is written out here.
    return type(f"{convolution.__name__}InFloat32", (_Float32OnCpu, convolution), {})


def _new_in_float32(convolution: type[nn.Conv2d]) -> nn.Conv2d:
    kind = _in_float32(convolution)
    return kind.__new__(kind)
