"""PixelContrast equals the written-out reference, in one process and split over gloo ranks."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contrast_reference import Reference
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.contrast import PixelContrast, info_nce
from processes import run_ranks

CLASSES, DIM, IMAGES, STEPS = 4, 6, 5, 4
IGNORE = 255


@dataclass(frozen=True)
class Scenario:
    settings: tuple[tuple[str, Any], ...]
    void: str = "little"

    @property
    def kwargs(self) -> dict[str, Any]:
        return dict(self.settings)


def scenario(void: str = "little", **settings: Any) -> Scenario:
    return Scenario(tuple(settings.items()), void)


SCENARIOS = {
    "in-batch only": scenario(queue_size=0, anchors_per_class=5),
    "all of the queue": scenario(queue_size=9, anchors_per_class=5, pixels_per_image=2, examples="all"),
    "random of the queue": scenario(queue_size=9, anchors_per_class=4, num_positives=3, num_negatives=7),
    "queue that one batch overflows": scenario(queue_size=3, anchors_per_class=3, pixels_per_image=4),
    "only hard, odd budget": scenario(queue_size=6, anchors_per_class=3, hard_share=0.5, examples="all"),
    "no hard": scenario(queue_size=6, anchors_per_class=4, hard_share=0.0, examples="all"),
    "one anchor a class": scenario(queue_size=5, anchors_per_class=1, examples="all"),
    "very unequal void": scenario(
        "unequal", queue_size=9, anchors_per_class=5, num_positives=3, num_negatives=7
    ),
    "last images all void": scenario("last", queue_size=9, anchors_per_class=5, examples="all"),
    "last images all void, no queue": scenario("last", queue_size=0, anchors_per_class=5),
    "all void": scenario("all", queue_size=9, anchors_per_class=5, examples="all"),
    "all void, no queue": scenario("all", queue_size=0, anchors_per_class=5),
    "one class only": scenario("one class", queue_size=9, anchors_per_class=5, examples="all"),
}


class Network(nn.Module):
    """Gives embeddings and logits of one map's size, with parameters to compare gradients of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, DIM, 3, padding=1)
        self.classify = nn.Conv2d(3, CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.embed(images), dim=1), self.classify(images)


def build() -> Network:
    torch.manual_seed(0)
    return Network().double()


def global_batch(step: int, void: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels at the map's size and positions of a step's global batch."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(IMAGES, 3, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (IMAGES, 6, 7), generator=generator)
    share = torch.rand(IMAGES, 6, 7, generator=generator)
    limit = {"unequal": torch.tensor([0.0, 0.97, 0.5, 0.9, 1.0])}.get(void, torch.full((IMAGES,), 0.1))
    labels[share < limit[:, None, None]] = IGNORE
    if void == "last":
        labels[1:] = IGNORE
    if void == "all":
        labels[:] = IGNORE
    if void == "one class":
        labels[labels != IGNORE] = 2
    return images, labels, torch.arange(IMAGES) + step * IMAGES


def run_ours(rank: int, world_size: int) -> dict[str, list[Any]]:
    """Per scenario and step: the loss over all ranks and DDP's gradients; last, the queue."""
    results = {}
    mine = slice(rank * IMAGES // world_size, (rank + 1) * IMAGES // world_size)
    for name, case in SCENARIOS.items():
        network = build()
        contrast = PixelContrast(num_classes=CLASSES, embedding_dim=DIM, seed=3, **case.kwargs).double()
        steps: list[Any] = []
        for step in range(STEPS):
            images, labels, positions = (tensor[mine] for tensor in global_batch(step, case.void))
            embeddings, logits = network(images)
            loss = contrast(embeddings, labels, logits, positions=positions)
            network.zero_grad()
            loss.backward()
            gradients = [p.grad for p in network.embed.parameters() if p.grad is not None]
            assert len(gradients) == 2, "the loss must reach the head on every rank"
            mean = [distributed.all_reduce(t.detach()) / world_size for t in (loss, *gradients)]
            steps.append((mean[0], torch.cat([g.flatten() for g in mean[1:]])))
        results[name] = [*steps, contrast.state_dict()]
    return results


@cache
def expected() -> dict[str, list[tuple[Tensor, Tensor, int]]]:
    results = {}
    for name, case in SCENARIOS.items():
        network, steps = build(), []
        settings: dict[str, Any] = {"examples": "random"} | case.kwargs
        reference = Reference(CLASSES, seed=3, **settings)
        for step in range(STEPS):
            images, labels, positions = global_batch(step, case.void)
            embeddings, logits = network(images)
            loss, valid = reference.step(embeddings, labels, logits.argmax(1) != labels, positions)
            network.zero_grad()
            loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in network.embed.parameters() if p.grad is not None])
            steps.append((loss.detach(), gradient, valid))
        results[name] = steps
    return results


@cache
def ours(world_size: int) -> list[dict[str, list[Any]]]:
    return [run_ours(0, 1)] if world_size == 1 else run_ranks(world_size, run_ours)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SCENARIOS)
def test_defect_12_any_number_of_ranks_equals_the_reference(name: str, world_size: int) -> None:
    for rank_results in ours(world_size):
        for (loss, gradient), (want_loss, want_gradient, _) in zip(
            rank_results[name][:-1], expected()[name], strict=True
        ):
            torch.testing.assert_close(loss, want_loss, rtol=0, atol=1e-10)
            torch.testing.assert_close(gradient, want_gradient, rtol=0, atol=1e-10)


def test_the_reference_is_put_to_work() -> None:
    """The scenarios are what their names say: else the comparison above would compare zeros."""
    for name, steps in expected().items():
        if "all void" in name and "last" not in name:
            assert all(valid == 0 and loss == 0 for loss, _, valid in steps)
        elif name == "one class only":
            assert all(valid > 0 and loss == 0 for loss, _, valid in steps)
        else:
            assert all(
                valid > 0 and loss > 0 and gradient.abs().max() > 1e-3 for loss, gradient, valid in steps[1:]
            )


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_defect_10_all_copies_of_the_queue_are_those_of_one_process(world_size: int) -> None:
    for name in SCENARIOS:
        one = ours(1)[0][name][-1]
        for rank_results in ours(world_size):
            for key, tensor in rank_results[name][-1].items():
                torch.testing.assert_close(tensor, one[key], rtol=0, atol=1e-12)
        first = ours(world_size)[0][name][-1]
        for rank_results in ours(world_size)[1:]:
            assert all(torch.equal(tensor, first[key]) for key, tensor in rank_results[name][-1].items())


def test_info_nce_gradient() -> None:
    torch.manual_seed(0)
    anchors = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]], dtype=torch.bool)
    negative = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda a, k: info_nce(a, k, positive, negative, 0.5), (anchors, keys))
    losses = info_nce(anchors, keys, positive, negative, 0.5)
    assert losses[0] > 0
    assert losses[1] == losses[2] == 0
