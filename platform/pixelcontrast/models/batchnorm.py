"""BatchNorm whose statistics are those of the global batch, on every device."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from pixelcontrast import distributed


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all ranks, which may differ in size: one small sum each way."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        output, mean, variance, count = _SyncBatchNorm.apply(
            input, self.weight, self.bias, self.running_mean, self.eps
        )  # type: ignore[misc]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return output


class CpuSyncBatchNorm1d(CpuSyncBatchNorm2d):
    """The same for [B, C] and [B, C, L]."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim in (2, 3)


class CpuSyncBatchNormAct2d(CpuSyncBatchNorm2d):
    """The same for timm's BatchNorm2d with an activation behind it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


_ON_CPU = {
    nn.BatchNorm1d: CpuSyncBatchNorm1d,
    nn.BatchNorm2d: CpuSyncBatchNorm2d,
    BatchNormAct2d: CpuSyncBatchNormAct2d,
}


def synchronize_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm so that training on W workers normalises as training on one would.

    With one worker nothing is replaced; parameters, buffers and their names stay. On CUDA this is
    ``torch.nn.SyncBatchNorm``, whose forward pass has the host wait three times in every layer (torch's
    issue 78549), and which does not run on the CPU; there it is ``CpuSyncBatchNorm2d``.

    Raises:
        ValueError: the backbone has a BatchNorm of another kind than torch's and timm's usual ones.
    """
    if distributed.world_size() == 1:
        return model
    kinds = {type(module) for module in model.modules() if isinstance(module, _BatchNorm)}
    if unknown := kinds - _ON_CPU.keys():
        names = ", ".join(kind.__name__ for kind in unknown)
        raise ValueError(
            f"model.backbone: its {names} cannot be synchronised among workers; train with --run.workers 1, "
            "or choose another backbone"
        )
    if device.type == "cuda":
        return convert_sync_batchnorm(model)  # torch's own conversion would lose timm's activations
    for module in model.modules():
        if type(module) in _ON_CPU:
            module.__class__ = _ON_CPU[type(module)]
    return model


def lacking_values(model: nn.Module, size: Sequence[int]) -> str:
    """The name of a BatchNorm that would have one value per channel to normalise, of a single image; or "".

    Args:
        model: a network on the meta device, as it would be trained: what its BatchNorms see is not computed.
        size: the image's height and width.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    found: list[str] = []

    def look(module: Any, inputs: tuple[Tensor]) -> None:
        if module.training and inputs[0].numel() == inputs[0].shape[1]:
            found.append(names[module])

    handles = [module.register_forward_pre_hook(look) for module in names]
    try:
        with torch.no_grad():
            model(torch.empty(1, 3, *size, device="meta"))
    except ValueError:  # torch's own, which does not say where
        if not found:
            raise
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


class _SyncBatchNorm(torch.autograd.Function):
    """torch's own kernels per rank, their per-channel sums added over the ranks."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        channels = input.shape[1]
        scratch = torch.zeros(2, channels, dtype=shift.dtype)
        mean, variance = torch.batch_norm_update_stats(input, scratch[0], scratch[1], 0.0)
        count = input.numel() // channels
        # Moments about the running mean, equal on all ranks: about zero they would cancel in float32.
        offset = mean - shift
        sums = torch.stack([offset, variance + offset.square(), torch.ones_like(offset)]) * count
        sums = distributed.sum_small(sums)
        total = sums[2, 0]
        offset, square = sums[0] / total, sums[1] / total
        mean, variance = shift + offset, (square - offset.square()).clamp(min=0)

        output = torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(input, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return output, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        input, weight, mean, variance, total = ctx.saved_tensors
        # With the statistics as constants; then what they add: the means over all ranks of the gradient and
        # of its product with the normalised input.
        grad_input, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, input, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = distributed.sum_small(torch.stack([grad_weight, grad_bias]))
        inverse_std = torch.rsqrt(variance + ctx.eps)
        slope = weight * inverse_std.square() * sums[0] / total
        constant = weight * inverse_std * sums[1] / total - slope * mean
        shape = (-1, *[1] * (input.ndim - 2))
        grad_input.sub_(constant.view(shape)).addcmul_(input, slope.view(shape), value=-1)
        return grad_input, grad_weight, grad_bias, None, None
