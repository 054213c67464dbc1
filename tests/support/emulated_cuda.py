"""A CUDA device emulated on the CPU, which counts what a real one would be asked to do.

Its tensors say that they lie on cuda:0 and hold their data in a CPU tensor. They refuse to be mixed with CPU
tensors, as on a GPU, and each operation is counted: those that launch work on the device, and those for which
the host waits until the device is done.

    with EmulatedCuda() as device:
        loss = device.move(contrast)(device.tensor(embeddings), ...)
    device.waits, device.operations  # counted by line of the package

What an operation of torch does inside is not seen: one sort counts as one operation. Autograd's engine wants
a real device, so a backward pass is counted while it runs on the CPU (``on_cpu``).
"""

import sys
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten
_CUDA, _CPU = torch.device("cuda", 0), torch.device("cpu")
_WAITING = {
    aten._local_scalar_dense.default: "read of a scalar",
    aten.nonzero.default: "nonzero",
    aten.unique_consecutive.default: "unique_consecutive",
    aten._unique2.default: "unique",
    aten.bincount.default: "bincount",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "truth value",
}
"""Operations whose result's size or value is needed on the host."""
_FREE = (
    *("alias", "as_strided", "detach", "diagonal", "empty", "expand", "lift_fresh", "new_empty", "permute"),
    *("select.", "slice.", "split", "squeeze", "t.", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
    *("_unsafe_view", "_reshape_alias", "resize_"),
)
"""Beginnings of the names of operations that launch nothing: views, and memory without values."""


class CudaTensor(Tensor):
    """Says that it lies on cuda:0."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> "CudaTensor":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=_CUDA,
        )

    def __init__(self, values: Tensor):
        self.held = values

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of EmulatedCuda")


class EmulatedCuda(TorchDispatchMode):
    """While it is entered, tensors made for a CUDA device are emulated, and operations counted."""

    def __init__(self) -> None:
        super().__init__()
        torch._C._ensureCUDADeviceGuardSet()
        self.waits: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.on_cpu = False
        """Whether operations on the CPU are counted as if they were the device's."""

    def __enter__(self) -> "EmulatedCuda":
        # torch.tensor([...], device="cuda") copies from the CPU: let the copy be seen.
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self._lazy_init, torch.cuda._lazy_init = torch.cuda._lazy_init, lambda: None
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        torch.cuda._lazy_init = self._lazy_init
        torch._C._set_only_lift_cpu_tensors(self._lifts)

    def forget(self) -> None:
        """Count from 0 again."""
        self.waits.clear()
        self.operations.clear()

    def tensor(self, values: Tensor) -> CudaTensor:
        """A copy on the device; requires a gradient if ``values`` does."""
        return CudaTensor(values.detach().clone()).requires_grad_(values.requires_grad)  # type: ignore[return-value]

    def move(self, module: nn.Module) -> nn.Module:
        """The module itself, with its parameters and buffers on the device."""
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = self.tensor(buffer)
            for name, parameter in part.named_parameters(recurse=False):
                part._parameters[name] = nn.Parameter(CudaTensor(parameter.detach().clone()))
        return module

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, spec = pytree.tree_flatten((args, kwargs or {}))
        ours = [value for value in flat if isinstance(value, CudaTensor)]
        others = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, CudaTensor)]
        to_device = self._goes_to_device(func, args, kwargs or {}, ours, others)
        if ours or self.on_cpu:
            self._count_wait(func, args, kwargs or {})
        if (to_device or self.on_cpu) and not func.__name__.startswith(_FREE):
            self.operations[_place()] += 1
        plain = [value.held if isinstance(value, CudaTensor) else value for value in flat]
        plain = [_CPU if value == _CUDA or value == torch.device("cuda") else value for value in plain]
        plain_args, plain_kwargs = pytree.tree_unflatten(plain, spec)
        out = func(*plain_args, **plain_kwargs)
        if not to_device:
            return out
        if func is aten._to_copy.default and not ours:
            out = out.clone()  # the device's memory is another
        out = pytree.tree_map_only(Tensor, lambda value: CudaTensor(value), out)
        if ours:
            with suppress(RuntimeError, AssertionError):  # no alias to correct
                return return_and_correct_aliasing(func, args, kwargs or {}, out)
        return out

    def _goes_to_device(
        self, func: Any, args: Any, kwargs: Any, ours: list[CudaTensor], others: list[Tensor]
    ) -> bool:
        """Whether the result lies on the device; raises where CPU tensors are mixed in."""
        device = kwargs.get("device")
        if func is aten._to_copy.default:
            to_device = bool(ours) if device is None else torch.device(device).type == "cuda"
            if to_device != bool(ours):
                self.waits[f"{_place()} copy between host and device"] += 1
            return to_device
        if func is aten.copy_.default and ours and others:
            self.waits[f"{_place()} copy between host and device"] += 1
            return isinstance(args[0], CudaTensor)
        if ours and any(other.ndim for other in others):
            raise RuntimeError(f"{_place()}: {func} of tensors on cuda:0 and on the CPU")
        return bool(ours) if device is None else torch.device(device).type == "cuda"

    def _count_wait(self, func: Any, args: Any, kwargs: Any) -> None:
        if func in _WAITING:
            self.waits[f"{_place()} {_WAITING[func]}"] += 1
        if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            self.waits[f"{_place()} repeat_interleave of an unknown size"] += 1
        if func.__name__.startswith(("index.", "index_put")):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.waits[f"{_place()} boolean mask"] += 1


def _place() -> str:
    """Where in the package an operation was called."""
    frame = sys._getframe()
    while frame is not None:
        _, found, file = frame.f_code.co_filename.rpartition("/pixelcontrast/")
        if found:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of the package"
