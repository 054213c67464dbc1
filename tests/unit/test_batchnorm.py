"""The CPU's synchronised BatchNorm equals torch's on the whole batch."""

import copy
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from pixelcontrast.models.batchnorm import CpuSyncBatchNorm2d, synchronize_batchnorm
from processes import run_ranks

SIZES = {2: [4, 1], 3: [2, 1, 2]}
CPU = torch.device("cpu")


def layer() -> nn.BatchNorm2d:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return 5 + 3 * torch.randn(5, 3, 4, 6, dtype=torch.float64), torch.randn(5, 3, 4, 6, dtype=torch.float64)


def run_layer(norm: nn.Module, images: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Two steps, so that the running statistics are a start that is not 0 and 1."""
    results: dict[str, Tensor] = {}
    for step in range(2):
        x = (images + step).requires_grad_()
        output = norm(x)
        norm.zero_grad()
        (output * weights).sum().backward()
        assert x.grad is not None
        results |= {f"output{step}": output.detach(), f"grad{step}": x.grad}
    results |= {f"{name}.grad": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return results | {name: buffer.clone() for name, buffer in norm.named_buffers()}


def run_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    norm = synchronize_batchnorm(nn.Sequential(layer()), CPU)[0]  # type: ignore[index]
    assert type(norm) is CpuSyncBatchNorm2d
    sizes = SIZES[world_size]
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return run_layer(norm, *(tensor[mine] for tensor in inputs()))


@pytest.mark.parametrize("world_size", [2, 3])
def test_equals_batchnorm_of_the_whole_batch(world_size: int) -> None:
    expected = run_layer(layer(), *inputs())
    ranks = run_ranks(world_size, run_rank)
    for name, value in expected.items():
        parts = [rank[name] for rank in ranks]
        if name.startswith(("output", "grad")):
            got = torch.cat(parts)
        elif name.endswith(".grad"):
            got = torch.stack(parts).sum(0)
        else:
            assert all(torch.equal(part, parts[0]) for part in parts), f"{name} differs between ranks"
            got = parts[0]
        torch.testing.assert_close(
            got, value, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def float32_with_a_large_mean(rank: int, _world_size: int) -> Tensor:
    torch.manual_seed(0)
    images = 1000 + torch.randn(4, 2, 16, 16)
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(1000)  # type: ignore[union-attr]
    norm = synchronize_batchnorm(nn.Sequential(norm), CPU)
    return norm(images[2 * rank : 2 * rank + 2]).detach()


KINDS = {
    "activation": (lambda: BatchNormAct2d(3, act_layer=nn.SiLU, inplace=False), (4, 3, 5, 6)),
    "rows": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "sequence": (lambda: nn.BatchNorm1d(3), (4, 3, 7)),
}
"""timm's BatchNorms beside the plain one, and what they take."""


def run_kinds(rank: int, world_size: int) -> dict[str, Tensor]:
    results = {}
    for kind, (make, shape) in KINDS.items():
        norm: Any = synchronize_batchnorm(nn.Sequential(make().double()), CPU)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        mine = x.chunk(world_size)[rank].requires_grad_()
        output = norm(mine)
        (output * torch.arange(output[0].numel()).view(output[0].shape)).sum().backward()
        statistics = norm[0].running_var.clone()
        evaluated = norm.eval()(mine)
        results |= {f"{kind} {i}": t for i, t in enumerate((output, mine.grad, evaluated, statistics))}
    return {name: value.detach() for name, value in results.items()}


def test_every_batchnorm_of_timm_is_synchronised_with_its_activation() -> None:
    first, second = run_ranks(2, run_kinds)
    for name, value in run_kinds(0, 1).items():
        got = first[name] if name.endswith("3") else torch.cat([first[name], second[name]])
        torch.testing.assert_close(
            got, value, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def strange(_rank: int, _world_size: int) -> str:
    try:
        synchronize_batchnorm(nn.Sequential(nn.BatchNorm3d(2)), CPU)
    except ValueError as error:
        return str(error)
    return ""


def test_a_batchnorm_that_cannot_be_synchronised_is_refused() -> None:
    said = run_ranks(2, strange)[0]
    assert "model.backbone: its BatchNorm3d cannot be synchronised among workers" in said


def test_variance_does_not_cancel_in_float32() -> None:
    output = torch.cat(run_ranks(2, float32_with_a_large_mean))
    assert output.std() == pytest.approx(1, abs=1e-2)


def test_one_process_keeps_torch_s_own_layer() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert type(synchronize_batchnorm(model, CPU)[0]) is nn.BatchNorm2d  # type: ignore[index]


def test_evaluation_and_state_are_those_of_batchnorm() -> None:
    norm = layer()
    twin = copy.deepcopy(norm)
    twin.__class__ = CpuSyncBatchNorm2d
    images, _ = inputs()
    assert torch.equal(norm.eval()(images), twin.eval()(images))
    assert list(norm.state_dict()) == list(twin.state_dict())
