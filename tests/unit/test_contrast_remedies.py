"""What keeps the contrast from collapsing: separate terms, young and right rows."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrasts import CLASSES, DIM, logits_for, small_contrast
from pixelcontrast.contrast import PixelContrast, ProjectionHead
from pixelcontrast.contrast.maps import pixel_rows
from processes import run_ranks


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Embeddings [B, D, h, w] of any length, which have a mean in common."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def class_maps(*shape: int) -> Tensor:
    return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(0))


def queued(contrast: PixelContrast, label: int) -> Tensor:
    """The rows of a class in the pixel queue."""
    queue = contrast.memory.pixel
    assert queue is not None
    return queue.rows[label, : queue.filled[label]]


def region_rows(contrast: PixelContrast, label: int) -> Tensor:
    regions = contrast.memory.region
    assert regions is not None
    return regions.rows[label, : regions.filled[label]]


def losses_of(contrast: PixelContrast, labels: Tensor, *steps: Tensor) -> Tensor:
    """The loss of every step, each with the same labels, all predicted as class 0."""
    logits = logits_for(torch.zeros_like(labels))
    return torch.stack([contrast(embeddings, labels, logits) for embeddings in steps])


def test_rows_of_any_length_give_the_loss_and_the_memory_of_unit_rows() -> None:
    labels, steps = class_maps(2, 6, 6), [maps(2, DIM, 6, 6, seed=seed) for seed in range(2)]
    raw, normalised = (small_contrast(region_memory_size=4) for _ in range(2))
    losses = losses_of(raw, labels, *(embeddings * 7 for embeddings in steps))
    assert losses.min() > 0
    torch.testing.assert_close(losses, losses_of(normalised, labels, *(F.normalize(e, dim=1) for e in steps)))
    torch.testing.assert_close(raw.memory.state_dict(), normalised.memory.state_dict())


def test_separate_terms_are_the_batch_s_loss_plus_the_weighted_memory_s() -> None:
    labels, steps = class_maps(2, 6, 6), [maps(2, DIM, 6, 6, seed=seed) for seed in range(2)]
    batch_only = losses_of(small_contrast(pixel_queue_size=0), labels, *steps)
    weights = (0.0, 1.0, 2.5)
    without, once, more = (
        losses_of(small_contrast(memory_weight=weight), labels, *steps) for weight in weights
    )
    torch.testing.assert_close(without, batch_only)
    assert once[0] == batch_only[0], "the memory is empty in the first step"
    assert once[1] > batch_only[1]
    torch.testing.assert_close(more[1] - batch_only[1], 2.5 * (once[1] - batch_only[1]))


def test_rows_of_the_step_before_are_the_oldest_at_max_age_1() -> None:
    labels, steps = class_maps(2, 6, 6), [maps(2, DIM, 6, 6, seed=seed) for seed in range(3)]
    size: dict[str, Any] = {"pixel_queue_size": 100, "memory_term": "joint"}
    without_the_first = losses_of(small_contrast(**size), labels, *steps[1:])[1]
    last = {}
    for max_age in (1, None):
        contrast = small_contrast(memory_max_age=max_age, **size)
        for step, embeddings in zip((0, 0, 1), steps, strict=True):
            positions = torch.arange(2) + 2 * step
            logits = logits_for(torch.zeros_like(labels))
            last[max_age] = contrast(embeddings, labels, logits, positions=positions)
    torch.testing.assert_close(last[1], without_the_first)
    assert last[None] > last[1] + 0.01, "the more rows, the more negatives"


@pytest.mark.parametrize("max_age", [None, 1])
def test_a_queue_smaller_than_what_a_batch_brings_holds_the_last_of_it(max_age: int | None) -> None:
    labels = torch.zeros(2, 2, 3, dtype=torch.int64)
    contrast = small_contrast(pixel_queue_size=4, memory_max_age=max_age, pixels_per_image=6)
    for seed in range(3):
        embeddings = maps(2, DIM, 2, 3, seed=seed)
        loss = losses_of(contrast, labels, embeddings)
        last_image = F.normalize(embeddings[1].flatten(1).T, dim=1)
        assert loss.isfinite()
        for row in queued(contrast, 0):
            assert (row - last_image).abs().amax(dim=1).min() < 1e-6
    assert contrast.memory.pixel is not None
    assert contrast.memory.pixel.usable(3).tolist() == [4, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_maps_of_any_dtype_are_read_pixel_by_pixel(dtype: torch.dtype) -> None:
    labels, results, embeddings = class_maps(2, 5, 7), [], torch.zeros(())
    for layout in (torch.contiguous_format, torch.channels_last):
        contrast, loss = small_contrast(region_memory_size=3), torch.zeros(())
        for seed in range(2):
            embeddings = maps(2, DIM, 5, 7, seed=seed).to(dtype).to(memory_format=layout).requires_grad_()
            loss = losses_of(contrast, labels, embeddings)[0]
            loss.backward()
        assert embeddings.grad is not None
        results.append([loss.detach(), embeddings.grad.float(), *contrast.memory.state_dict().values()])
    assert results[0][0].dtype == torch.float32
    assert results[0][0] > 0
    torch.testing.assert_close(results[0], results[1])
    pixels = torch.tensor([0, 34, 35, 69, 50])
    want = embeddings.detach().permute(0, 2, 3, 1).flatten(0, 2)[pixels]
    assert torch.equal(pixel_rows(embeddings.detach(), pixels), want)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_of_a_map_give_their_gradient_in_its_layout(layout: torch.memory_format) -> None:
    values, indices = torch.randn(3, 5, 4, 6), torch.tensor([71, 0, 24, 23, 50])
    maps = values.to(memory_format=layout).requires_grad_()
    rows = pixel_rows(maps, indices)
    assert torch.equal(rows, values.permute(0, 2, 3, 1).reshape(-1, 5)[indices])
    weights = torch.randn(5, 5)
    (gradient,) = torch.autograd.grad((rows * weights).sum(), maps)
    want = torch.zeros(72, 5).index_copy(0, indices, weights).view(3, 4, 6, 5).permute(0, 3, 1, 2)
    assert torch.equal(gradient, want)
    assert gradient.is_contiguous(memory_format=layout)


EDGES = ("no anchor", "one anchor", "one anchor a class", "one class", "all")


def labels_of_edge(name: str) -> Tensor:
    """Labels of four images; only the first is labelled, but in the last two cases."""
    labels = torch.full((4, 4, 4), 255)
    match name:
        case "one anchor":
            labels[0, 1, 2] = 1
        case "one anchor a class":
            labels[0, 1, :3] = torch.arange(3)
        case "one class":
            labels[:] = 2
        case "all":
            labels = class_maps(4, 4, 4)
    return labels


def edge_steps(rank: int, world_size: int, dtype: torch.dtype) -> dict[str, list[Tensor]]:
    """Two steps fill the memory, then comes the edge; the last rank has no images."""
    del world_size
    mine, results = [slice(0, 2), slice(2, 4), slice(4, 4)][rank], {}
    loss = embeddings = torch.zeros(())
    for name in EDGES:
        contrast = small_contrast(memory_max_age=2, region_memory_size=3, anchors_per_class=5)
        for step, labels in enumerate([class_maps(4, 4, 4)] * 2 + [labels_of_edge(name)]):
            embeddings = maps(4, DIM, 4, 4, seed=step)[mine].to(dtype).requires_grad_()
            logits = torch.zeros(4, CLASSES, 4, 4)[mine]
            loss = contrast(embeddings, labels[mine], logits, positions=torch.arange(4)[mine] + 4 * step)
            loss.backward()
        assert embeddings.grad is not None, "not connected: DDP would wait for this rank"
        memory, queue = contrast.memory.state_dict(), contrast.memory.pixel
        assert queue is not None
        lengths = queue.rows[queue.written >= 0].norm(dim=1)
        results[name] = [loss.detach(), embeddings.grad.float(), lengths, *memory.values()]
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hardly_any_anchor_on_any_rank_gives_finite_losses_that_reach_every_rank(dtype: torch.dtype) -> None:
    """Three ranks, of which one has no image."""
    ranks = run_ranks(3, edge_steps, dtype)
    for name in EDGES:
        losses, gradients, lengths = zip(*(rank[name][:3] for rank in ranks), strict=True)
        gradient = torch.cat(gradients)
        assert len(gradient) == 4
        assert gradient.isfinite().all()
        assert torch.stack(losses).isfinite().all()
        torch.testing.assert_close(lengths[0], torch.ones_like(lengths[0]), msg=f"{name}: a row is no row")
        for rank in ranks[1:]:
            assert all(torch.equal(*pair) for pair in zip(rank[name][3:], ranks[0][name][3:], strict=True))
        if name == "no anchor":
            assert not torch.stack(losses).any()
            assert not gradient.any()
        else:
            assert gradient[0].any()


EVERYTHING: dict[str, dict[str, Any]] = {
    "boundaries": {"boundary_share": 0.5},
    "rare classes": {"boundary_share": 0.5, "rare_class_power": 0.5},
    "a slot per image": {"region_memory_size": 4, "num_images": 4},
    "shared": {"memory_sharded": True, "region_memory_size": 3},
    "semi-hard": {"positive_mining": "semi-hard", "negative_mining": "semi-hard", "num_negatives": 2},
    "joint": {"memory_term": "joint", "memory_dtype": "bfloat16"},
    "hardest": {"positive_mining": "hardest", "negative_mining": "hardest", "memory_max_age": 1},
}


def steps_of_everything(rank: int, world_size: int) -> dict[str, list[Tensor]]:
    """Two steps of every setting, with a head on maps or on pixels; the last rank has no images."""
    del world_size
    mine, results = [slice(0, 4), slice(4, 4)][rank], {}
    for name, settings in EVERYTHING.items():
        for by_pixel in (False, True):
            torch.manual_seed(0)
            head, contrast, loss = ProjectionHead(5, DIM), small_contrast(**settings), torch.zeros(())
            for step in range(2):
                features = maps(4, 5, 4, 4, seed=step)[mine].requires_grad_()
                logits, ids = torch.zeros(4, CLASSES, 2, 3)[mine], torch.arange(4)[mine]
                given = features if by_pixel else head(features)
                project = head if by_pixel else None
                labels = class_maps(4, 8, 8)[mine]
                loss = contrast(given, labels, logits, image_ids=ids, project=project)
                loss.backward()
            grad = head.conv1.weight.grad
            assert grad is not None, "not connected: DDP would wait for this rank"
            results[f"{name}, {by_pixel}"] = [loss.detach(), grad, contrast.next_position]
    return results


def test_a_rank_without_images_takes_part_in_everything() -> None:
    """Loss and head's gradient are those of one process; images are counted on all ranks."""
    alone, ranks = steps_of_everything(0, 1), run_ranks(2, steps_of_everything)
    for name, (loss, gradient, position) in alone.items():
        assert loss > 0
        (first, first_grad, first_position), (second, second_grad, second_position) = (
            rank[name] for rank in ranks
        )
        assert second == 0
        assert not second_grad.any()
        if not name.startswith("shared"):  # mined in parts: a draw of another kind
            torch.testing.assert_close(first / 2, loss, msg=name)
            torch.testing.assert_close(first_grad / 2, gradient, msg=name)
        assert first_position == second_position == position == 8


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("memory_max_age", 0, "memory_max_age is 0; it must be at least 1"),
        ("memory_weight", -1.0, "memory_weight is -1.0; it must be at least 0"),
        ("memory_term", "both", "memory_term is 'both'; there are separate, joint"),
    ],
)
def test_wrong_remedies_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_contrast(**{name: value})
