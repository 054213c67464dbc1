"""PixelContrast equals the written-out reference, in one process and split over gloo ranks."""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from contrast_reference import Reference
from torch import Tensor, nn

from contrasts import in_float64, pixel_contrast
from pixelcontrast import distributed
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.contrast.banks import Shard, reshard
from processes import run_ranks

CLASSES, DIM, IMAGES = 4, 6, 4
NUM_IMAGES = 5
"""In the training set: an image comes back in the next batch."""
IGNORE = 255
THREE = pytest.param(3, marks=pytest.mark.slow)
"""Ranks; half a minute for all scenarios."""


@dataclass(frozen=True)
class Scenario:
    settings: tuple[tuple[str, Any], ...]
    void: str
    steps: int

    @property
    def kwargs(self) -> dict[str, Any]:
        return dict(self.settings)


def scenario(void: str = "little", steps: int = 4, **settings: Any) -> Scenario:
    defaults = {"pixel_queue_size": 9, "pixels_per_image": 2, "region_memory_size": 0, "anchors_per_class": 3}
    defaults |= {"num_positives": 2, "num_negatives": 4, "semi_hard_share": 0.6, "memory_term": "joint"}
    defaults |= {"positive_mining": "semi-hard", "negative_mining": "semi-hard"}
    return Scenario(tuple((defaults | settings).items()), void, steps)


MINERS = ("all", "random", "hardest", "semi-hard")
MEMORIES: dict[str, dict[str, Any]] = {
    "none": {"pixel_queue_size": 0},
    "pixel": {},
    "region": {"pixel_queue_size": 0, "region_memory_size": NUM_IMAGES, "num_images": NUM_IMAGES},
    "newest regions": {"pixel_queue_size": 0, "region_memory_size": 3, "num_positives": 1},
    "both": {"region_memory_size": NUM_IMAGES, "num_images": NUM_IMAGES},
}
ANCHORS: dict[str, dict[str, Any]] = {
    "random": {"hard_share": 0.0},
    "segmentation-aware": {"hard_share": 0.5},
    "rare": {"hard_share": 0.3, "rare_class_power": 1.0},
}
GRID = {
    f"{memory} memory, {anchors} anchors": {
        f"{memory} {anchors} {positive} {negative}": scenario(
            steps=2,
            positive_mining=positive,
            negative_mining=negative,
            **MEMORIES[memory],
            **ANCHORS[anchors],
        )
        for positive in MINERS
        for negative in MINERS
    }
    for memory in MEMORIES
    for anchors in ANCHORS
}
"""Every miner × memory × anchor rule: memory and anchor rule → scenarios of every pair of miners."""
ALL: dict[str, Any] = {"positive_mining": "all", "negative_mining": "all"}
SPECIAL = {
    "queue that one batch overflows": scenario(pixel_queue_size=3, anchors_per_class=3, pixels_per_image=4),
    "an image twice in a batch": scenario(region_memory_size=2, num_images=2, pixel_queue_size=0, **ALL),
    "K and pools larger than there is": scenario(num_positives=99, num_negatives=99, semi_hard_share=1.0),
    "stored in bfloat16": scenario(memory_dtype="bfloat16", region_memory_size=3),
    "only hard, odd budget": scenario(anchors_per_class=3, hard_share=1.0, **ALL),
    "one anchor a class": scenario(pixel_queue_size=5, anchors_per_class=1, **ALL),
    "very unequal void": scenario("unequal", anchors_per_class=5),
    "last images all void": scenario("last", anchors_per_class=5, **MEMORIES["both"]),
    "last images all void, no queue": scenario("last", pixel_queue_size=0, anchors_per_class=5),
    "all void": scenario("all", **MEMORIES["both"]),
    "all void, no queue": scenario("all", pixel_queue_size=0),
    "one class only": scenario("one class", **MEMORIES["both"]),
}
RANDOM: dict[str, Any] = {"positive_mining": "random", "negative_mining": "random"}
YOUNG: dict[str, Any] = {"pixel_queue_size": 20, "memory_max_age": 2}
"""At most eight rows of a class enter in a step: the young ones go across the ring's end."""
YOUNG_REGIONS: dict[str, Any] = {"region_memory_size": 7, "num_images": NUM_IMAGES, "memory_max_age": 1}
"""Regions are a queue then, though there would be a slot for every image."""
REMEDY: dict[str, Any] = {"memory_term": "separate", "memory_weight": 0.7}
EVERY: dict[str, Any] = RANDOM | YOUNG | YOUNG_REGIONS | REMEDY | {"num_negatives": 8, "memory_max_age": 2}
REMEDIES = {
    "plain": scenario(**RANDOM),
    "separate terms": scenario(memory_term="separate", memory_weight=0.7, **RANDOM),
    "separate terms, mined": scenario(memory_term="separate", memory_weight=0.7, **MEMORIES["both"]),
    "separate terms, no memory": scenario(memory_term="separate", pixel_queue_size=0),
    "young rows": scenario(**YOUNG, **ALL),
    "young regions": scenario(pixel_queue_size=0, **YOUNG_REGIONS, **ALL),
    "young rows and regions, mined": scenario(**YOUNG_REGIONS),
    "young rows of a queue that one batch overflows": scenario(
        pixel_queue_size=3, pixels_per_image=4, memory_max_age=1, **ALL
    ),
    "every remedy": scenario(**EVERY),
    "every remedy, very unequal void": scenario("unequal", **EVERY),
    "every remedy, last images all void": scenario("last", **EVERY),
    "every remedy, one class only": scenario("one class", **EVERY),
    "every remedy, all void": scenario("all", **EVERY),
}
SHARDED = {
    f"sharded, {memory} memory": scenario(memory_sharded=True, **MEMORIES[memory], **ALL)
    for memory in ("pixel", "region", "newest regions", "both")
} | {
    "sharded, queue that one batch overflows": scenario(
        memory_sharded=True, pixel_queue_size=3, pixels_per_image=4, **ALL
    ),
    "sharded, last images all void": scenario("last", memory_sharded=True, **MEMORIES["both"], **ALL),
    "sharded, all void": scenario("all", memory_sharded=True, **MEMORIES["both"], **ALL),
    "sharded, bfloat16": scenario(memory_sharded=True, memory_dtype="bfloat16", **ALL),
    "sharded, young, separate": scenario(memory_sharded=True, **YOUNG, **REMEDY, **ALL),
    "sharded, young regions, separate, last images all void": scenario(
        "last", memory_sharded=True, **YOUNG_REGIONS, **REMEDY, **ALL
    ),
}
"""Where all examples are used, the parts of a memory are one memory."""
OF_GRID = {name: case for group in GRID.values() for name, case in group.items()}
SCENARIOS = {**SPECIAL, **REMEDIES, **SHARDED, **OF_GRID}
GROUPS = {
    "sharded": list(SHARDED),
    **{name: [name] for name in SPECIAL | REMEDIES},
    **{name: list(group) for name, group in GRID.items()},
}


def scenarios(world_size: int) -> dict[str, Scenario]:
    """What is compared on so many ranks.

    In one process all; of the grid, two and three ranks take turns, as on a chessboard of positive and
    negative miners: each miner meets two partners on two ranks, and the other two on three.
    """
    match world_size:
        case 1:
            return SCENARIOS
        case 4:
            return SHARDED
        case _:
            squares = ((place // len(MINERS) + place, name) for place, name in enumerate(OF_GRID))
            turn = {name: OF_GRID[name] for square, name in squares if square % 2 == world_size % 2}
            return SPECIAL | REMEDIES | SHARDED | turn


class Network(nn.Module):
    """Gives embeddings of any length and logits, with parameters to compare gradients of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, DIM, 3, padding=1)
        self.classify = nn.Conv2d(3, CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(images), self.classify(images)


def build() -> Network:
    torch.manual_seed(0)
    return Network().double()


def global_batch(step: int, void: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels at the map's size and positions of a step's global batch; class 3 is rare."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(IMAGES, 3, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (IMAGES, 6, 7), generator=generator)
    labels[(labels == 3) & (torch.rand(IMAGES, 6, 7, generator=generator) < 0.6)] = 1
    share = torch.rand(IMAGES, 6, 7, generator=generator)
    limit = {"unequal": torch.tensor([0.0, 0.97, 0.9, 1.0])}.get(void, torch.full((IMAGES,), 0.1))
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
    for name, case in scenarios(world_size).items():
        network = build()
        contrast = build_contrast(case)
        steps: list[Any] = []
        for step in range(case.steps):
            images, labels, positions = (tensor[mine] for tensor in global_batch(step, case.void))
            embeddings, logits = network(images)
            loss = contrast(
                embeddings, labels, logits, positions=positions, image_ids=image_ids(positions, case)
            )
            network.zero_grad()
            loss.backward()
            gradients = [p.grad for p in network.embed.parameters() if p.grad is not None]
            assert len(gradients) == 2, "the loss must reach the head on every rank"
            mean = [distributed.all_reduce(t.detach()) / world_size for t in (loss, *gradients)]
            steps.append((mean[0], torch.cat([g.flatten() for g in mean[1:]])))
        results[name] = [*steps, whole_state(contrast)]
    return results


def whole_state(contrast: PixelContrast) -> dict[str, Tensor]:
    state = contrast.state_dict()
    return state if contrast.shard.of == 1 else reshard(distributed.gather_objects(state), Shard())


def build_contrast(case: Scenario) -> PixelContrast:
    contrast = pixel_contrast(num_classes=CLASSES, embedding_dim=DIM, seed=3, **case.kwargs)
    return contrast if "memory_dtype" in case.kwargs else in_float64(contrast)


def image_ids(positions: Tensor, case: Scenario) -> Tensor:
    return positions % case.kwargs.get("num_images", NUM_IMAGES)


@cache
def expected() -> dict[str, list[tuple[Tensor, Tensor, int]]]:
    results = {}
    for name, case in SCENARIOS.items():
        network, steps = build(), []
        settings = {key: value for key, value in case.kwargs.items() if key != "memory_sharded"}
        reference = Reference(CLASSES, seed=3, **settings)
        for step in range(case.steps):
            images, labels, positions = global_batch(step, case.void)
            embeddings, logits = network(images)
            wrong, ids = logits.argmax(1) != labels, image_ids(positions, case)
            loss, valid = reference.step(embeddings, labels, wrong, positions, ids)
            network.zero_grad()
            loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in network.embed.parameters() if p.grad is not None])
            steps.append((loss.detach(), gradient, valid))
        results[name] = steps
    return results


@cache
def ours(world_size: int) -> list[dict[str, list[Any]]]:
    return [run_ours(0, 1)] if world_size == 1 else run_ranks(world_size, run_ours)


@pytest.mark.parametrize("world_size", [1, 2, THREE])
@pytest.mark.parametrize("group", GROUPS)
def test_defects_9_and_12_any_number_of_ranks_equals_the_reference(group: str, world_size: int) -> None:
    """Each miner × memory × anchor rule, also those that the published code lacks."""
    names = [name for name in GROUPS[group] if name in scenarios(world_size)]
    assert names
    for name, rank_results in itertools.product(names, ours(world_size)):
        for (loss, gradient), (want_loss, want_gradient, _) in zip(
            rank_results[name][:-1], expected()[name], strict=True
        ):
            difference = [(loss - want_loss).abs().item(), (gradient - want_gradient).abs().max().item()]
            assert max(difference) < 1e-10, name


def test_four_ranks_that_share_the_memory_equal_the_reference() -> None:
    test_defects_9_and_12_any_number_of_ranks_equals_the_reference("sharded", 4)


def test_the_reference_is_put_to_work() -> None:
    """The scenarios are what their names say: else the comparison above would compare zeros."""
    for name, steps in expected().items():
        if "all void" in name and "last" not in name:
            assert all(valid == 0 and loss == 0 for loss, _, valid in steps)
        elif "one class only" in name:
            assert all(valid > 0 and loss == 0 for loss, _, valid in steps)
        else:
            assert all(
                valid > 0 and loss > 0 and gradient.abs().max() > 1e-3 for loss, gradient, valid in steps[1:]
            )


@pytest.mark.parametrize("world_size", [2, THREE])
def test_defect_10_all_copies_of_the_queue_are_those_of_one_process(world_size: int) -> None:
    for name in scenarios(world_size):
        one = ours(1)[0][name][-1]
        for rank_results in ours(world_size):
            for key, tensor in rank_results[name][-1].items():
                torch.testing.assert_close(tensor, one[key], rtol=0, atol=1e-12)
        first = ours(world_size)[0][name][-1]
        for rank_results in ours(world_size)[1:]:
            assert all(torch.equal(tensor, first[key]) for key, tensor in rank_results[name][-1].items())


def test_defect_9_every_miner_makes_its_own_difference() -> None:
    """No two miners, memories or anchor rules give one loss: else the grid would compare the same thing."""
    last = {name: round(float(expected()[name][-1][0]), 12) for name in OF_GRID}
    with_memory = {name: loss for name, loss in last.items() if not name.startswith("none")}
    assert len(set(with_memory.values())) == len(with_memory) == 4 * 3 * 16
    assert len(set(last.values())) == len(with_memory) + len(ANCHORS)


def test_every_remedy_makes_its_own_difference() -> None:
    last = {name: float(expected()[name][-1][0]) for name in REMEDIES}
    assert last.pop("every remedy, one class only") == last.pop("every remedy, all void") == 0
    assert len({round(loss, 9) for loss in last.values()}) == len(last)
