"""Losses, schedule and parameter groups of a step."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from contrasts import pixel_contrast
from pixelcontrast import Model, Optim, distributed
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import Output, build_model
from pixelcontrast.training.optim import build_optimizer, set_rate
from pixelcontrast.training.step import cross_entropy, train_step
from processes import run_ranks

WEIGHTS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)


def global_batch(void: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (3, 4, 4), generator=generator)
    labels[0, :3] = 255
    labels[{"some": slice(2, 3), "all": slice(0, 3)}[void]] = 255
    return logits, labels


CASES = list(itertools.product(("some", "all"), (False, True)))


def rank_losses(rank: int, world_size: int) -> list[tuple[Tensor, Tensor]]:
    """Per case the loss over all ranks, and DDP's gradient of this rank's logits."""
    results = []
    mine = slice(rank * 3 // world_size, (rank + 1) * 3 // world_size)
    for void, weighted in CASES:
        logits, labels = (tensor[mine] for tensor in global_batch(void))
        logits.requires_grad_()
        loss = cross_entropy(logits, labels, WEIGHTS if weighted else None)
        loss.backward()
        assert logits.grad is not None
        results.append((distributed.all_reduce(loss.detach()) / world_size, logits.grad / world_size))
    return results


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_cross_entropy_is_the_global_mean(world_size: int) -> None:
    ranks = [rank_losses(0, 1)] if world_size == 1 else run_ranks(world_size, rank_losses)
    for (void, weighted), outcomes in zip(CASES, zip(*ranks, strict=True), strict=True):
        logits, labels = global_batch(void)
        expected, gradient = torch.zeros((), dtype=torch.float64), torch.zeros_like(logits)
        if void == "some":
            logits.requires_grad_()
            expected = F.cross_entropy(logits, labels, WEIGHTS if weighted else None, ignore_index=255)
            (gradient,) = torch.autograd.grad(expected, logits)
        for loss, _ in outcomes:
            torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.cat([grad for _, grad in outcomes]), gradient, rtol=0, atol=1e-12)


class TwoHeads(nn.Module):
    """Logits and auxiliary logits, each a 1×1 convolution of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Output:
        return Output(self.main(images), None, self.auxiliary(images))


def two_heads() -> TwoHeads:
    torch.manual_seed(1)
    return TwoHeads().double()


def auxiliary_step(rank: int, world_size: int, weight: float) -> dict[str, Tensor]:
    """The losses' means over the ranks, and DDP's gradients, of one step on this rank's slice."""
    images, labels = (
        tensor[rank * 3 // world_size : (rank + 1) * 3 // world_size] for tensor in global_batch("some")
    )
    model = two_heads()
    network = model if world_size == 1 else DistributedDataParallel(model)
    batch = Batch(images, labels, torch.arange(len(images)), torch.arange(len(images)))
    optimizer = SGD(model.parameters(), lr=0.1)
    losses = train_step(
        network, None, optimizer, batch, contrast_weight=0.0, auxiliary_weight=weight, class_weights=WEIGHTS
    )
    assert losses.contrast is None
    assert losses.auxiliary is not None
    means = {"total": losses.total, "ce": losses.ce, "auxiliary": losses.auxiliary}
    results = {name: distributed.all_reduce(loss) / world_size for name, loss in means.items()}
    return results | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("weight", "world_size"), [(0.4, 1), (0.0, 1), (0.4, 2)])
def test_auxiliary_loss_is_a_weighted_global_mean(weight: float, world_size: int) -> None:
    images, labels = global_batch("some")
    model = two_heads()
    ce, auxiliary = (
        F.cross_entropy(head(images), labels, WEIGHTS, ignore_index=255)
        for head in (model.main, model.auxiliary)
    )
    total = ce + weight * auxiliary
    total.backward()
    expected = {"total": total.detach(), "ce": ce.detach(), "auxiliary": auxiliary.detach()}
    expected |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ranks = (
        [auxiliary_step(0, 1, weight)] if world_size == 1 else run_ranks(world_size, auxiliary_step, weight)
    )
    for got in ranks:
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("skip", [False, True])
def test_a_gradient_that_overflows_under_a_finite_loss_is_seen(skip: bool) -> None:
    """Weights of 0 give a loss of log 3 whatever the image; the gradient is 2/3 of it."""
    model = two_heads().float()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    images, labels = torch.full((2, 3, 8, 8), 3e38), torch.zeros(2, 8, 8, dtype=torch.int64)
    batch = Batch(images, labels, torch.arange(2), torch.arange(2))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = train_step(
        model, None, optimizer, batch, contrast_weight=0.0, auxiliary_weight=10.0, skip_non_finite=skip
    )
    assert losses.total.isfinite()
    assert not losses.gradient_norm.isfinite()
    assert losses.kept is not skip
    assert all(p.isfinite().all() for p in model.parameters()) is skip
    assert bool(optimizer.state) is not skip


@pytest.mark.parametrize(
    "settings",
    [
        Model(backbone="hrnet_w18_small", embedding_dim=16),
        Model(backbone="hrnet_w18_small", embedding_dim=16, embedding_batchnorm=True),
        Model(backbone="hrnet_w18_small", embedding_dim=16, decoder="ocr"),
        Model(backbone="resnet18", embedding_dim=16, decoder="deeplabv3"),
    ],
    ids=["linear", "batchnorm", "ocr", "deeplabv3"],
)
def test_gradients_have_the_strides_of_their_parameters(settings: Model) -> None:
    """DDP warns of others, and copies them in every step."""
    model = build_model(settings, num_classes=3, embedding=True)
    labels = torch.randint(3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.randn(2, 3, 64, 64), labels, torch.arange(2), torch.arange(2))
    contrast = pixel_contrast(num_classes=3, embedding_dim=16)
    train_step(model, contrast, SGD(model.parameters(), lr=0.1), batch, contrast_weight=1.0)
    strides = {
        name: (p.stride(), p.grad.stride()) for name, p in model.named_parameters() if p.grad is not None
    }
    assert any(name.startswith("projection") for name in strides)
    assert [name for name, (own, of_gradient) in strides.items() if own != of_gradient] == []


@pytest.mark.parametrize("decoder", ["hrnet", "ocr"])
def test_every_parameter_is_in_one_group_with_its_rate_and_decay(decoder: Any) -> None:
    model = build_model(Model(backbone="hrnet_w18_small", decoder=decoder), num_classes=3, embedding=True)
    optim = Optim(lr=0.1, new_layer_lr_factor=10.0, weight_decay=1e-3)
    optimizer = build_optimizer(model, optim)
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(settings) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        lr = 0.1 if name.startswith("backbone.") else 1.0
        assert settings.pop(id(parameter)) == (lr, 1e-3 if parameter.ndim == 4 else 0.0), name
    assert not settings


def test_poly_schedule() -> None:
    model = build_model(Model(backbone="hrnet_w18_small"), num_classes=3, embedding=False)
    optim = Optim(steps=10, lr=0.1, power=0.9, new_layer_lr_factor=2.0)
    optimizer = build_optimizer(model, optim)
    for step in (0, 5, 9):
        rate = set_rate(optimizer, step, optim)
        assert rate == pytest.approx(0.1 * (1 - step / 10) ** 0.9)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [rate, rate, 2 * rate, 2 * rate]
        )


def test_the_rate_rises_to_the_schedule_s_over_the_warmup_steps() -> None:
    optim = Optim(steps=10, lr=0.1, power=0.9, lr_warmup_steps=4)
    optimizer = SGD([{"params": [nn.Parameter(torch.zeros(1))], "initial_lr": 0.1}], lr=0.1)
    poly = [0.1 * (1 - step / 10) ** 0.9 for step in range(10)]
    want = [poly[0] / 4, poly[1] / 2, poly[2] * 3 / 4, *poly[3:]]
    assert [set_rate(optimizer, step, optim) for step in range(10)] == pytest.approx(want)
    set_rate(optimizer, 1, optim)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(poly[1] / 2)
