"""The memory: what enters, who leaves, and in which order a step sees it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.contrast.banks import Queue, Shard, Slots, reshard
from pixelcontrast.contrast.maps import boundaries, region_means, run_means
from pixelcontrast.contrast.memory import Memory

DIM = 4


def numbered(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, DIM)


def test_defect_2_pointer_advances_by_what_was_written_and_the_oldest_leave() -> None:
    queue = Queue(2, 4, DIM)
    queue.write(numbered(1, 2, 3), torch.tensor([1, 1, 1]), step=0)
    assert queue.pointer.tolist() == [0, 3]
    queue.write(numbered(4, 5, 6), torch.tensor([1, 1, 1]), step=1)
    assert queue.pointer.tolist() == [0, 2]
    assert sorted(queue.rows[1, :, 0].tolist()) == [3, 4, 5, 6]
    queue.write(numbered(*range(10, 19)), torch.tensor([1] * 9), step=2)
    assert sorted(queue.rows[1, :, 0].tolist()) == [15, 16, 17, 18]
    assert queue.filled.tolist() == [0, 4]


def test_age_counts_the_steps_since_a_row_was_written() -> None:
    queue = Queue(2, 2, DIM)
    queue.write(numbered(1), torch.tensor([0]), step=3)
    queue.write(numbered(2), torch.tensor([0]), step=7)
    age = queue.age(step=8)
    assert age[0] == (5 + 1) / 2
    assert age[1].isnan()
    queue.write(numbered(3), torch.tensor([0]), step=8)
    assert queue.age(step=8)[0] == (1 + 0) / 2


def test_a_slot_keeps_the_newest_region_of_its_class_and_image() -> None:
    slots = Slots(2, 3, DIM)
    labels, images = torch.tensor([0, 1, 0, 0]), torch.tensor([2, 2, 0, 2])
    slots.write(numbered(1, 2, 3, 4), labels, images, step=0)
    assert slots.rows[..., 0].tolist() == [[3, 4, 0], [2, 0, 0]]
    assert slots.slot.tolist() == [[0, -1, 1], [-1, -1, 0]]
    slots.write(numbered(5), torch.tensor([1]), torch.tensor([2]), step=6)
    assert slots.rows[..., 0].tolist() == [[3, 4, 0], [5, 0, 0]]
    assert slots.written.tolist() == [[0, 0, -1], [6, -1, -1]]
    assert slots.names[0, :2].tolist() == [0, 2]
    assert slots.names[1, 0] == 2
    assert slots.filled.tolist() == [2, 1]


def test_a_region_is_the_mean_of_the_class_s_pixels_in_one_image() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(3, DIM, 5, 6, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(4, (3, 5, 6), generator=generator)
    labels[1] = torch.where(labels[1] == 2, 255, labels[1])
    labels[2] = 255
    means = region_means(embeddings, labels, 4).unflatten(0, (3, 4))
    for b, c in itertools.product((0, 1), range(4)):
        want = F.normalize(embeddings[b, :, labels[b] == c].mean(dim=1), dim=0)
        torch.testing.assert_close(means[b, c], want.nan_to_num(), rtol=0, atol=1e-14)
    assert not means[1, 2].any()
    assert not means[2].any()


def test_runs_of_rows_are_averaged_also_empty_ones() -> None:
    rows = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
    means = run_means(rows, torch.tensor([2, 0, 3]))
    for mean, part in zip(means, (rows[:2], rows[:0], rows[2:]), strict=True):
        torch.testing.assert_close(mean, F.normalize(part.sum(dim=0), dim=0))


def test_boundaries_are_where_classes_meet_not_where_void_begins() -> None:
    labels = torch.tensor([[[0, 0, 0, 255, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 255], [2, 0, 0, 0, 255]]])
    want = torch.tensor([[[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [1, 1, 0, 1, 0], [1, 1, 0, 0, 0]]])
    assert torch.equal(boundaries(labels, 255), want.bool())


def filled_memory() -> Memory:
    """Row values name their class (hundreds) and number."""
    memory = Memory(Queue(3, 10, 1), Slots(3, 4, 1))
    assert isinstance(memory.pixel, Queue)
    assert isinstance(memory.region, Slots)
    for c, count in enumerate([10, 0, 7]):
        memory.pixel.write(torch.arange(count)[:, None] + 100.0 * c, torch.full((count,), c), step=0)
    regions, images = torch.tensor([[50.0], [150.0], [151.0]]), torch.tensor([0, 1, 3])
    memory.region.write(regions, torch.tensor([0, 1, 1]), images, step=0)
    return memory


def test_a_step_sees_all_that_is_stored_and_in_a_random_order() -> None:
    memory = filled_memory()
    examples = memory.examples(seed=0, key=5, step=0)
    want = [*range(10), *range(200, 207), 50, 150, 151]
    for most in (1, 3, 100):
        pieces = list(examples.pieces(most))
        assert torch.cat([piece.rows for piece in pieces]).flatten().tolist() == want
        assert all(want[piece.begin] == piece.rows[0, 0] for piece in pieces)
        assert max(len(piece.rows) for piece in pieces) <= most
    assert examples.labels.tolist() == [0] * 10 + [2] * 7 + [0, 1, 1]
    assert examples.of_class == [11, 2, 7]
    chosen = torch.tensor([19, 3, 12, 17])
    assert examples.rows(chosen).flatten().tolist() == [151, 3, 202, 50]
    assert sorted(examples.order.tolist()) == list(range(20))
    assert torch.equal(examples.order, memory.examples(seed=0, key=5, step=0).order)
    assert not torch.equal(examples.order, memory.examples(seed=0, key=6, step=0).order)


def test_the_first_of_a_class_are_those_first_in_the_order() -> None:
    examples = filled_memory().examples(seed=0, key=5, step=0)
    order = examples.order.tolist()
    for num in (0, 3, 100):
        assert examples.front(num).tolist() == order[:num]
        table = examples.first_of_classes(num)
        for label, (rows, taken) in enumerate(zip(*table, strict=True)):
            assert rows[taken].tolist() == [n for n in order if examples.labels[n] == label][:num]


def test_every_place_in_the_order_is_equally_likely() -> None:
    memory, trials = filled_memory(), 3000
    times = torch.zeros(20, 20)
    for key in range(trials):
        times[torch.arange(20), memory.examples(seed=0, key=key, step=0).order] += 1
    p = 1 / 20
    assert (times / trials - p).abs().max() < 5 * (p * (1 - p) / trials) ** 0.5


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_shards_hold_every_row_once_and_go_to_any_number_of_ranks(ranks: int) -> None:
    """Whatever entered, also across the ring's end: rows, order and draws are those of one memory."""
    whole = Memory(Queue(2, 7, 1), Slots(2, 4, 1))
    parts = [
        Memory(Queue(2, 7, 1, shard=Shard(r, ranks)), Slots(2, 4, 1, shard=Shard(r, ranks)))
        for r in range(ranks)
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        labels = torch.randint(2, (6,), generator=generator)
        rows = torch.rand(6, 1, generator=generator)
        for memory in (whole, *parts):
            assert isinstance(memory.pixel, Queue)
            assert isinstance(memory.region, Slots)
            memory.pixel.write(rows, labels, step=step)
            memory.region.write(rows[:2], labels[:2], torch.tensor([step % 4, 3]), step=step)
        everything = whole.examples(seed=0, key=step, step=step)
        stored = [memory.examples(seed=0, key=step, step=step) for memory in parts]
        assert sum(len(part) for part in stored) == len(everything)
        keyed = [
            sorted(
                zip(
                    part._keys.tolist(),
                    part.labels.tolist(),
                    part.rows(torch.arange(len(part)))[:, 0].tolist(),
                    strict=True,
                )
            )
            for part in (everything, *stored)
        ]
        assert sorted(row for part in keyed[1:] for row in part) == keyed[0]
    states = [memory.state_dict() for memory in parts]
    assert states[0]["pixel.rows"].shape[1] == -(-7 // ranks)
    for name, tensor in reshard(states, Shard()).items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    for r, memory in enumerate(parts):
        again = reshard([whole.state_dict()], Shard(r, ranks))
        assert all(torch.equal(again[name], tensor) for name, tensor in memory.state_dict().items())


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("max_age", [1, 2, 100, None])
def test_a_step_sees_the_rows_that_are_young_enough_across_the_ring_s_end(
    max_age: int | None, ranks: int
) -> None:
    """A ring of five, into which now nothing comes and now more than it holds; rows name their step."""
    queues = [Queue(2, 5, 1, max_age=max_age, shard=Shard(rank, ranks)) for rank in range(ranks)]
    entered: list[tuple[int, float]] = []
    wraps = 0
    for step, count in enumerate([2, 1, 0, 3, 2, 7, 0, 0, 0, 1, 4, 2]):
        want = [row for then, row in entered[-5:] if max_age is None or step - then <= max_age]
        stored = [Memory(queue, None).examples(seed=0, key=0, step=step) for queue in queues]
        seen = [part.rows(torch.arange(len(part))).flatten() for part in stored]
        assert sorted(torch.cat(seen).tolist()) == sorted(want)
        assert all(torch.cat([part.labels for part in stored]) == 1)
        keys = torch.cat([part._keys for part in stored])
        assert len(keys.unique()) == len(keys), "no slot is drawn as another"
        for queue in queues:
            assert queue.usable(step).tolist() == [0, len(want)]
            assert queue.filled.tolist() == [0, min(len(entered), 5)]
        usable = queues[0].is_usable(step)[1]
        wraps += ranks == 1 and bool(usable[0] & usable[-1] & ~usable.all())
        new = [step + number / 10 for number in range(count)]
        for queue in queues:
            queue.write(torch.tensor(new)[:, None], torch.ones(count).long(), step=step)
        entered += [(step, float(torch.tensor(row))) for row in new]
    assert wraps > 0 or ranks > 1 or max_age in (100, None)


def test_a_cleared_memory_is_as_new() -> None:
    used = filled_memory()
    used.clear()
    assert len(used.examples(seed=0, key=0, step=9)) == 0
    assert used.mean_age(9) is None
    assert used.state_of_classes(9)["pixel_fill"] == [0, 0, 0]
    new = Memory(Queue(3, 10, 1), Slots(3, 4, 1))
    for memory in (used, new):
        assert memory.pixel is not None
        assert isinstance(memory.region, Slots)
        memory.pixel.write(torch.tensor([[7.0], [8.0]]), torch.tensor([2, 2]), step=9)
        memory.region.write(torch.tensor([[9.0]]), torch.tensor([1]), torch.tensor([3]), step=9)
    for name in ("pixel.written", "pixel.pointer", "region.written", "region.slot"):
        assert torch.equal(used.state_dict()[name], new.state_dict()[name]), name
    rows = [memory.examples(seed=0, key=0, step=10).rows(torch.arange(3)).tolist() for memory in (used, new)]
    assert rows[0] == rows[1] == [[7.0], [8.0], [9.0]]


def test_mean_age_is_over_the_rows_that_are_used() -> None:
    memory = Memory(Queue(2, 4, DIM, max_age=3), Queue(2, 4, DIM))
    assert isinstance(memory.pixel, Queue)
    assert isinstance(memory.region, Queue)
    assert memory.mean_age(0) is None
    memory.pixel.write(numbered(1, 2), torch.tensor([0, 0]), step=1)
    memory.region.write(numbered(3), torch.tensor([1]), step=3)
    assert memory.mean_age(4) == (3 + 3 + 1) / 3
    memory.pixel.write(numbered(4), torch.tensor([0]), step=4)
    assert memory.mean_age(5) == (1 + 2) / 2, "the first two rows are too old"
    assert Memory(None, None).mean_age(5) is None


def test_state_of_classes() -> None:
    state = filled_memory().state_of_classes(step=4)
    assert state["pixel_fill"] == [1.0, 0.0, pytest.approx(0.7)]
    assert state["region_fill"] == [0.25, 0.5, 0.0]
    assert state["region_age"][:2] == state["pixel_age"][::2] == [4.0, 4.0]
    assert state["pixel_age"][1] != state["pixel_age"][1]


def test_rows_in_bfloat16_are_summed_in_float32() -> None:
    """257 is none of bfloat16's numbers."""
    queue = Queue(1, 300, 1, torch.bfloat16)
    queue.write(torch.ones(257, 1), torch.zeros(257).long(), step=0)
    sums, counts = Memory(queue, None).class_sums(0)
    assert (float(sums), float(counts)) == (257, 257)


def test_bfloat16_takes_half_the_bytes_and_rounds() -> None:
    queue = Queue(1, 2, DIM, torch.bfloat16)
    row = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    queue.write(row, torch.tensor([0]), step=0)
    assert queue.rows.dtype == torch.bfloat16
    assert torch.equal(queue.rows[0, 0], row[0].bfloat16())
