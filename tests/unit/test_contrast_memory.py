"""What enters the memory of ``PixelContrast``, and when; how large it is, and how it is saved."""

import copy
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrasts import CLASSES, DIM, embeddings, logits_for, small_contrast
from pixelcontrast import distributed
from pixelcontrast.contrast import MemoryConfig, PixelContrast, reshard
from pixelcontrast.contrast.banks import WHOLE
from processes import run_ranks


def test_evaluation_mode_leaves_the_memory_alone() -> None:
    contrast = small_contrast().eval()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    assert contrast(embeddings(1, DIM, 2, 2), labels, logits_for(labels)) > 0
    assert contrast.memory.pixel is not None
    assert contrast.memory.pixel.filled.sum() == 0
    assert contrast.next_position == 0
    assert contrast.diagnostics.read(contrast.memory, 0)["gap"] is None


def test_a_memory_whose_weight_is_0_costs_nothing() -> None:
    """It is neither stored nor looked at, and needs no image ids; jointly with the batch it has no weight."""
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2), labels, logits_for(labels)
    settings: dict[str, Any] = {"region_memory_size": 3, "num_images": 3, "memory_weight": 0.0}
    unused, none = small_contrast(**settings), small_contrast(pixel_queue_size=0)
    assert unused.memory.nbytes == 0
    assert unused.state_dict().keys() == none.state_dict().keys()
    assert [unused(*inputs) for _ in range(2)] == [none(*inputs) for _ in range(2)]
    assert small_contrast(**settings, memory_term="joint").memory.nbytes > 0


def test_region_memory_is_a_slot_per_image_where_it_fits_and_a_queue_where_not() -> None:
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2), labels, logits_for(labels)
    slots = small_contrast(region_memory_size=3, num_images=3, pixel_queue_size=0)
    queue = small_contrast(region_memory_size=2, num_images=3, pixel_queue_size=0)
    for _ in range(3):
        slots(*inputs, image_ids=torch.tensor([2]))
        queue(*inputs)
    assert slots.memory.region is not None
    assert slots.memory.region.written.tolist() == [[2, -1, -1], [2, -1, -1], [-1, -1, -1]]
    assert queue.memory.region is not None
    assert queue.memory.region.written.tolist() == [[2, 1], [2, 1], [-1, -1]]


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [
        (None, "image_ids are needed: the region memory has a slot for every image"),
        (torch.tensor([0, 3]), r"image_ids hold \[0, 3\]; allowed are 0 to 2"),
        (torch.tensor([0]), r"image_ids are int64 \[2\], not torch.int64 \[1\]"),
    ],
)
def test_wrong_image_ids_are_named(image_ids: Tensor | None, message: str) -> None:
    contrast = small_contrast(region_memory_size=3, num_images=3)
    labels = torch.zeros(2, 4, 4).long()
    with pytest.raises(ValueError, match=message):
        contrast(embeddings(2, DIM, 4, 4), labels, logits_for(labels), image_ids=image_ids)


def test_boundary_share_of_the_queue_s_entries_lie_at_boundaries() -> None:
    """Left half class 0, right half class 1; a pixel's embedding names its column."""
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[:, :, 10:] = 1
    codes = F.one_hot(torch.arange(20), 20).float().expand(1, 20, 20, 20).movedim(3, 1)
    contrast = small_contrast(embedding_dim=20, pixel_queue_size=300, pixels_per_image=10, boundary_share=0.6)
    for _ in range(30):
        contrast(codes, labels, torch.zeros(1, CLASSES, 20, 20))
    assert contrast.memory.pixel is not None
    columns = contrast.memory.pixel.rows[:2].argmax(dim=2)
    per_step = torch.stack([columns[0] == 9, columns[1] == 10]).view(2, 30, 10).sum(dim=2)
    assert per_step.min() == 6
    assert 6 < per_step.float().mean() < 7, "of the other four, drawn among all others, a few by chance"


def test_a_region_embedded_pixel_by_pixel_is_the_mean_of_128_of_its_pixels() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    features, seen = torch.randn(1, DIM, 20, 20), []

    def project(rows: Tensor) -> Tensor:
        seen.append(rows)
        return F.normalize(rows, dim=1)

    contrast = small_contrast(region_memory_size=5, pixel_queue_size=10)
    contrast(features, labels, torch.zeros(1, CLASSES, 20, 20), project=project)
    anchors, entries, sample = seen
    assert (len(anchors), len(entries), len(sample)) == (50, 10, 128)
    assert contrast.memory.pixel is not None
    assert contrast.memory.region is not None
    entered = contrast.memory.pixel.rows[0]
    torch.testing.assert_close(entered, F.normalize(entries, dim=1))
    mean = F.normalize(F.normalize(sample, dim=1).mean(dim=0), dim=0)
    torch.testing.assert_close(contrast.memory.region.rows[0, 0], mean)


def test_autocast_does_not_round_what_is_stored() -> None:
    labels = torch.randint(CLASSES, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    stored = []
    for enabled in (True, False):
        contrast = small_contrast(region_memory_size=4)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            contrast(embeddings(2, DIM, 6, 6), labels, torch.zeros(2, CLASSES, 6, 6))
        stored.append(contrast.memory.state_dict())
    torch.testing.assert_close(stored[0], stored[1], rtol=0, atol=1e-7)


def test_a_memory_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="pixel_queue_size is not set, and stands for 10 per training image"):
        PixelContrast(num_classes=CLASSES, embedding_dim=DIM, memory=MemoryConfig(memory="pixel"))


def test_a_memory_whose_size_is_not_set_is_bounded_and_shows_its_size() -> None:
    """150 classes × 256, more images than fit: at most 200,000 rows in each bank."""
    settings = MemoryConfig(memory="both")
    with torch.device("meta"):
        contrast = PixelContrast(num_classes=150, embedding_dim=256, memory=settings, num_images=20_000)
    assert 2 * 199_000 * 4 * 256 < contrast.memory.nbytes < 2 * 200_000 * (4 * 256 + 8)
    assert "(pixel): Queue(150 classes × 1333 rows × 256 float32, 206.35 MB)" in repr(contrast)
    assert repr(small_contrast(pixel_queue_size=0).memory) == "Memory(no banks)"


def test_a_deferred_batch_that_is_not_kept_leaves_no_trace() -> None:
    """Two batches with one between that is not kept, against the two alone."""
    settings = {"region_memory_size": 4, "rare_class_power": 0.5, "pixel_queue_size": 8}
    deferred, plain = small_contrast(**settings, deferred=True), small_contrast(**settings)
    labels = torch.arange(3).repeat(2, 4, 1)
    for seed, kept in enumerate((True, False, True)):
        batch = embeddings(2, DIM, 4, 3, seed=seed), labels, torch.zeros(2, CLASSES, 4, 3)
        before = {name: buffer.clone() for name, buffer in deferred.named_buffers()}
        loss = deferred(*batch)
        for name, buffer in deferred.named_buffers():
            assert torch.equal(buffer, before[name]), f"{name} did not wait"
        if kept:
            deferred.keep()
            assert torch.equal(loss, plain(*batch))
    for (name, ours), theirs in zip(deferred.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    assert int(deferred.steps) == 2


@pytest.mark.parametrize("deferred", [False, True])
def test_rows_that_are_not_finite_do_not_enter_the_memory(deferred: bool) -> None:
    """One pixel of class 0 is NaN and one of class 1 infinite; the step after has a finite loss."""
    labels, ids = torch.tensor([[[0, 0, 1, 1, 2]]]), torch.tensor([1])
    codes = embeddings(1, DIM, 1, 5).detach()
    broken = codes.clone()
    broken[0, 1, 0, 0], broken[0, 2, 0, 3] = torch.nan, torch.inf
    contrast = small_contrast(region_memory_size=3, num_images=3, deferred=deferred)

    def step(maps: Tensor) -> Tensor:
        value = contrast(maps, labels, logits_for(labels), image_ids=ids)
        contrast.keep()
        return value

    step(broken)
    queue, regions = contrast.memory.pixel, contrast.memory.region
    assert queue is not None
    assert regions is not None
    assert queue.filled.tolist() == queue.pointer.tolist() == [1, 1, 1]
    torch.testing.assert_close(queue.rows[:2, 0], codes[0, :, 0, 1:3].T)
    assert regions.filled.tolist() == [0, 0, 0], "a broken pixel spoils its image's regions"
    assert contrast.diagnostics.read(contrast.memory, int(contrast.steps))["refused_rows"] == 2 + 3
    step(broken)
    assert contrast.diagnostics.read(contrast.memory, int(contrast.steps))["refused_rows"] == 2 + 3
    value = step(codes)
    assert value > 0
    assert value.isfinite()
    assert queue.filled.tolist() == [4, 4, 3]
    assert regions.filled.tolist() == [1, 1, 1]
    assert contrast.diagnostics.read(contrast.memory, int(contrast.steps))["refused_rows"] == 0


def memory_of_broken_batches(rank: int, world_size: int) -> tuple[dict[str, Tensor], float]:
    """Four steps of four images, in some of which a class is NaN, on ranks that share the memory."""
    contrast = small_contrast(
        memory_sharded=True, pixel_queue_size=7, pixels_per_image=2, region_memory_size=4, num_images=4
    )
    mine = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(CLASSES, (4, 6, 6), generator=generator)
        maps = embeddings(4, DIM, 6, 6, seed=step).detach()
        broken = (labels == step % CLASSES) & (torch.arange(4) % 3 == step % 3)[:, None, None]
        maps = maps.masked_fill(broken[:, None], torch.nan)
        positions, images = torch.arange(4) + 4 * step, torch.arange(4).roll(step)
        parts = [part[mine] for part in (maps, labels, logits_for(labels))]
        contrast(*parts, positions=positions[mine], image_ids=images[mine])
    return contrast.memory.state_dict(), contrast.diagnostics.read(contrast.memory, 4)["refused_rows"]  # type: ignore[return-value]


def load_the_first_ranks_state(rank: int, _world_size: int) -> list[str]:
    """What is said where rank 0's state alone is saved; every rank's, resharded, are loaded."""
    contrast = small_contrast(memory_sharded=True)
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(rank))
    contrast(embeddings(2, DIM, 8, 8, seed=rank), labels, logits_for(labels))
    states, own = distributed.gather_objects(contrast.state_dict()), copy.deepcopy(contrast.state_dict())
    said = []
    for load in (
        lambda: contrast.load_state_dict(states[0]),
        lambda: small_contrast().load_state_dict(states[0]),
        lambda: contrast.load_state_dict(small_contrast().state_dict()),
        lambda: reshard(states[:1], contrast.shard),
    ):
        try:
            load()
            said.append("loaded")
        except ValueError as error:
            said.append(str(error))
    contrast.load_state_dict(reshard(states, contrast.shard))
    assert all(torch.equal(tensor, own[name]) for name, tensor in contrast.state_dict().items())
    small_contrast().load_state_dict(reshard(states, WHOLE))
    for state in states:
        del state["memory.pixel.part"]  # as versions wrote it that did not name the part
    contrast.load_state_dict(reshard(states, contrast.shard))
    assert all(torch.equal(tensor, own[name]) for name, tensor in contrast.state_dict().items())
    return said


def test_one_rank_s_part_of_a_memory_is_not_taken_for_another_s() -> None:
    first, second = run_ranks(2, load_the_first_ranks_state)
    part, how = "memory.pixel.rows are part 0 of 2 of a memory", "load reshard(states, contrast.shard)"
    assert first[0] == "loaded"
    assert second[0].startswith(f"{part}, and this rank stores part 1 of 2 of a memory: save every rank's")
    for said in (first, second):
        assert said[1].startswith(f"{part}, and this rank stores all of a memory")
        assert said[2].startswith("memory.pixel.rows are all of a memory, and this rank stores part")
        assert said[3] == f"{part}; needed is every rank's state_dict, in rank order"
        assert how in said[1]


def build_before_the_group_is_there(rank: int, _world_size: int) -> str:
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        replicated, sharded = small_contrast(), small_contrast(memory_sharded=True)
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(rank))
    inputs = embeddings(2, DIM, 8, 8, seed=rank), labels, logits_for(labels)
    replicated(*inputs)
    with pytest.raises(ValueError) as caught:
        sharded(*inputs)
    return str(caught.value)


def test_a_memory_to_be_shared_is_not_silently_replicated() -> None:
    """Where the contrast is built before ``init_process_group``."""
    labels = torch.tensor([[[0, 0], [1, 1]]])
    alone = small_contrast(memory_sharded=True)
    assert alone(embeddings(1, DIM, 2, 2), labels, logits_for(labels)) > 0
    for said in run_ranks(2, build_before_the_group_is_there):
        assert said.startswith("memory_sharded: the PixelContrast was built for 1 ranks, and the group has 2")
        assert "after torch.distributed.init_process_group" in said


def test_ranks_that_share_a_memory_refuse_what_one_process_does() -> None:
    want, refused = memory_of_broken_batches(0, 1)
    assert refused == 6 * (2 + CLASSES), "of six images two pixels each and, as they are sums, all regions"
    for world_size in (2, 3):
        parts = run_ranks(world_size, memory_of_broken_batches)
        assert [count for _, count in parts] == [refused] * world_size
        whole = reshard([state for state, _ in parts], WHOLE)
        for name, tensor in want.items():
            torch.testing.assert_close(whole[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_state_dict_restores_everything() -> None:
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    settings = dict.fromkeys(("positive_mining", "negative_mining"), "semi-hard")
    settings |= {"num_positives": 2, "num_negatives": 3, "semi_hard_share": 0.3, "rare_class_power": 0.5}
    settings |= {"region_memory_size": 4, "num_images": 4}
    first, second = small_contrast(**settings), small_contrast(**settings)
    ids = torch.tensor([3, 0])
    for step in range(3):
        first(embeddings(2, DIM, 8, 8, seed=step), labels, logits_for(labels), image_ids=ids)
    second.load_state_dict(first.state_dict())
    inputs = embeddings(2, DIM, 8, 8, seed=9), labels, logits_for(labels)
    assert first(*inputs, image_ids=ids) == second(*inputs, image_ids=ids)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
