"""Rank, world size and collectives: for one process as for any ``torch.distributed`` group.

Without an initialised process group every function acts as a group of one, so callers have one path.
"""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

Group = dist.ProcessGroup | None
"""A process group; None is the default group, or the single process where none is initialised."""

_VOTE_TIMEOUT = timedelta(days=1)
"""A rank may vote long after the others: it may have files to write that they have not."""


def rank(group: Group = None) -> int:
    """This process's rank in the group."""
    return dist.get_rank(group) if dist.is_initialized() else 0


def world_size(group: Group = None) -> int:
    """Number of processes in the group."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def barrier(group: Group = None) -> None:
    """Wait until every process of the group is here."""
    if world_size(group) > 1:
        dist.barrier(group)


def broadcast_object(value: Any, group: Group = None) -> Any:
    """Rank 0's ``value``, a small picklable object, on every rank."""
    if world_size(group) == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, group=group, group_src=0)
    return box[0]


def gather_objects(value: Any, group: Group = None) -> list[Any]:
    """Every rank's ``value``, a small picklable object, in rank order, on every rank."""
    if world_size(group) == 1:
        return [value]
    values: list[Any] = [None] * world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def all_reduce(tensor: Tensor, group: Group = None) -> Tensor:
    """Sum over the ranks, without gradient.

    Args:
        tensor: the same shape and dtype on every rank.

    Returns:
        A new tensor of that shape, equal on every rank.
    """
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if world_size(group) > 1:
        dist.all_reduce(total, group=group)
    return total


def sum_small(tensor: Tensor, group: Group = None) -> Tensor:
    """Sum over the ranks of a small tensor, without gradient, in a single round of messages.

    Every rank sends its tensor to every other one and adds up what it gets, in rank order. Where latency is
    all that counts, steps are faster with it than with gloo's all-reduce (experiments/benchmarks/README.md).

    Args:
        tensor: the same shape and dtype on every rank.

    Returns:
        A new tensor of that shape, equal to the bit on every rank.
    """
    if world_size(group) == 1:
        return tensor.clone()
    copies = tensor.expand(world_size(group), *tensor.shape).contiguous()
    received = torch.empty_like(copies)
    dist.all_to_all_single(received, copies, group=group)
    return received.sum(0)


def all_gather_equal(tensor: Tensor, group: Group = None) -> Tensor:
    """Every rank's tensor of one shape and dtype, in rank order, without gradient: [world size, ...]."""
    if world_size(group) == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size(group))]
    dist.all_gather(parts, tensor, group=group)
    return torch.stack(parts)


def all_gather_rows(rows: Tensor, group: Group = None, *, counts: list[int]) -> Tensor:
    """Concatenate every rank's rows in rank order, with gradient; the numbers of rows may differ.

    Backward gives each rank the sum over all ranks of the gradients of its own rows.

    Args:
        rows: [n, ...], n free and possibly 0 on some ranks; other sizes and the dtype are the same on all.
        counts: every rank's n.

    Returns:
        [sum of n, ...], equal on every rank.
    """
    if world_size(group) == 1:
        return rows
    return _AllGatherRows.apply(rows, counts, group)  # type: ignore[return-value]


def all_gather_tables(tensors: Sequence[Tensor], group: Group = None, *, counts: list[int]) -> list[Tensor]:
    """``all_gather_rows`` of tensors with as many rows each, in one collective, without gradient."""
    if world_size(group) == 1:
        return list(tensors)
    columns = [
        tensor.contiguous().view(len(tensor), math.prod(tensor.shape[1:])).view(torch.uint8)
        for tensor in tensors
    ]
    gathered = all_gather_rows(torch.cat(columns, dim=1), group, counts=counts)
    parts = gathered.split([column.shape[1] for column in columns], dim=1)
    return [
        part.clone(memory_format=torch.contiguous_format).view(tensor.dtype).reshape(-1, *tensor.shape[1:])
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def exchange_rows(rows: Tensor, sent: list[int], received: list[int], group: Group = None) -> Tensor:
    """Send each rank its rows, and get those of all ranks, in rank order, without gradient.

    Args:
        rows: [n, ...], those for rank 0 first.
        sent: how many of them are each rank's; they sum to n.
        received: how many come from each rank.
    """
    if world_size(group) == 1:
        return rows
    result = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(result, rows.contiguous(), received, sent, group=group)
    return result


def on_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU. On a GPU this waits for all that was asked of it, collectives included.

    Loops read values here, so that a worker that waits for another one's part of a collective is seen to
    wait, and is not taken for the one that hangs (``cluster/train/heartbeat``).
    """
    return tensor.cpu()


class Vote:
    """Whether any rank wishes something: agreed by all ranks, and known one call later so that none waits.

    Goes through a gloo group of its own, beside what a GPU does.
    """

    def __init__(self) -> None:
        self._group: Any = None
        if world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=_VOTE_TIMEOUT)
        self._wish = torch.zeros(())
        self._pending: Any = None

    def cast(self, wish: bool) -> bool:
        """Called equally often on every rank; True if any rank's wish in the call before was."""
        if self._pending is not None:
            self._pending.wait()
        agreed = bool(self._wish)
        self._wish = torch.tensor(float(wish))
        if self._group is not None:
            self._pending = dist.all_reduce(
                self._wish, op=dist.ReduceOp.MAX, group=self._group, async_op=True
            )
        return agreed


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: Group) -> Tensor:
        ctx.counts, ctx.group = counts, group
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total.split(ctx.counts)[rank(ctx.group)], None, None
