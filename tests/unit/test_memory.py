"""The memory: what enters, who leaves, and in which order a step sees it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast.maps import region_means
from pixelcontrast.contrast.memory import Memory, Queue, Slots

DIM = 4


def numbered(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, DIM)


def test_defect_2_pointer_advances_by_what_was_written_and_the_oldest_leave() -> None:
    queue = Queue(2, 4, DIM)
    queue.enqueue(numbered(1, 2, 3), torch.tensor([1, 1, 1]), step=0)
    assert queue.pointer.tolist() == [0, 3]
    queue.enqueue(numbered(4, 5, 6), torch.tensor([1, 1, 1]), step=1)
    assert queue.pointer.tolist() == [0, 2]
    assert sorted(queue.rows[1, :, 0].tolist()) == [3, 4, 5, 6]
    queue.enqueue(numbered(*range(10, 19)), torch.tensor([1] * 9), step=2)
    assert sorted(queue.rows[1, :, 0].tolist()) == [15, 16, 17, 18]
    assert queue.filled.tolist() == [0, 4]


def test_age_counts_the_steps_since_a_row_was_written() -> None:
    queue = Queue(2, 2, DIM)
    queue.enqueue(numbered(1), torch.tensor([0]), step=3)
    queue.enqueue(numbered(2), torch.tensor([0]), step=7)
    age = queue.age(step=8)
    assert age[0] == (5 + 1) / 2
    assert age[1].isnan()
    queue.enqueue(numbered(3), torch.tensor([0]), step=8)
    assert queue.age(step=8)[0] == (1 + 0) / 2


def test_a_slot_keeps_the_newest_region_of_its_class_and_image() -> None:
    slots = Slots(2, 3, DIM)
    labels, images = torch.tensor([0, 1, 0, 0]), torch.tensor([2, 2, 0, 2])
    slots.store(numbered(1, 2, 3, 4), labels, images, step=0)
    assert slots.rows[..., 0].tolist() == [[3, 0, 4], [0, 0, 2]]
    slots.store(numbered(5), torch.tensor([1]), torch.tensor([2]), step=6)
    assert slots.rows[..., 0].tolist() == [[3, 0, 4], [0, 0, 5]]
    assert slots.written.tolist() == [[0, -1, 0], [-1, -1, 6]]
    assert slots.filled.tolist() == [2, 1]


def test_a_region_is_the_mean_of_the_class_s_pixels_in_one_image() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(3, DIM, 5, 6, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(4, (3, 5, 6), generator=generator)
    labels[1] = torch.where(labels[1] == 2, 255, labels[1])
    labels[2] = 255
    rows, classes, images = region_means(embeddings, labels, 4)
    assert list(zip(images.tolist(), classes.tolist(), strict=True)) == [
        (b, c) for b in (0, 1) for c in range(4) if (b, c) != (1, 2)
    ]
    for row, c, b in zip(rows, classes, images, strict=True):
        want = F.normalize(embeddings[b, :, labels[b] == c].mean(dim=1), dim=0)
        torch.testing.assert_close(row, want, rtol=0, atol=1e-14)


def filled_memory() -> Memory:
    """Row values name their class (hundreds) and number."""
    memory = Memory(Queue(3, 10, 1), Slots(3, 4, 1))
    assert isinstance(memory.pixel, Queue)
    assert isinstance(memory.region, Slots)
    for c, count in enumerate([10, 0, 7]):
        memory.pixel.enqueue(torch.arange(count)[:, None] + 100.0 * c, torch.full((count,), c), step=0)
    regions, images = torch.tensor([[50.0], [150.0], [151.0]]), torch.tensor([0, 1, 3])
    memory.region.store(regions, torch.tensor([0, 1, 1]), images, step=0)
    return memory


def test_a_step_sees_all_that_is_stored_by_class_and_in_a_random_order() -> None:
    memory = filled_memory()
    examples = memory.examples(seed=0, key=5)
    want = [[*range(10), 50], [150, 151], range(200, 207)]
    assert examples.labels.tolist() == [0] * 11 + [1] * 2 + [2] * 7
    assert sorted(examples.rows[:, 0].tolist()) == [float(number) for part in want for number in part]
    assert (examples.rows[:, 0] // 100).long().tolist() == examples.labels.tolist()
    assert sorted(examples.place.tolist()) == list(range(20))
    assert torch.equal(examples.place, memory.examples(seed=0, key=5).place)
    assert not torch.equal(examples.place, memory.examples(seed=0, key=6).place)


def test_every_place_in_the_order_is_equally_likely() -> None:
    memory, trials = filled_memory(), 3000
    times = torch.zeros(20, 20)
    for key in range(trials):
        times[torch.arange(20), memory.examples(seed=0, key=key).place] += 1
    p = 1 / 20
    assert (times / trials - p).abs().max() < 5 * (p * (1 - p) / trials) ** 0.5


def test_what_is_stored_later_does_not_reach_a_step_s_examples() -> None:
    memory = filled_memory()
    assert isinstance(memory.pixel, Queue)
    before = memory.examples(seed=0, key=0)
    kept = before.rows.clone()
    memory.pixel.enqueue(torch.full((30, 1), -1.0), torch.zeros(30, dtype=torch.int64), step=1)
    assert torch.equal(before.rows, kept)


def test_state_of_classes() -> None:
    state = filled_memory().state_of_classes(step=4)
    assert state["pixel_fill"] == [1.0, 0.0, pytest.approx(0.7)]
    assert state["region_fill"] == [0.25, 0.5, 0.0]
    assert state["region_age"][:2] == state["pixel_age"][::2] == [4.0, 4.0]
    assert state["pixel_age"][1] != state["pixel_age"][1]


def test_bfloat16_takes_half_the_bytes_and_rounds() -> None:
    queue = Queue(1, 2, DIM, torch.bfloat16)
    row = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    queue.enqueue(row, torch.tensor([0]), step=0)
    assert queue.rows.dtype == torch.bfloat16
    assert torch.equal(queue.rows[0, 0], row[0].bfloat16())
