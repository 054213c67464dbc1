"""PixelContrast in the hands of a user; each defect of the reference implementation has its test by name."""

import doctest
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrasts import pixel_contrast
from pixelcontrast.contrast import MemoryConfig, PixelContrast, loss

CLASSES, DIM = 3, 4


def make(**settings: Any) -> PixelContrast:
    defaults: dict[str, Any] = {"num_classes": CLASSES, "embedding_dim": DIM, "pixel_queue_size": 8}
    defaults |= {"region_memory_size": 0, "positive_mining": "all", "negative_mining": "all"}
    return pixel_contrast(**defaults | settings)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors [B, D, h, w]; a pixel's first component is not degenerate."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=1).requires_grad_()


def logits_for(predictions: Tensor, num_classes: int = CLASSES) -> Tensor:
    return F.one_hot(predictions, num_classes).permute(0, 3, 1, 2).float()


def test_docstring_example_runs() -> None:
    result = doctest.testmod(loss)
    assert result.attempted >= 10
    assert result.failed == 0


def test_defect_1_queue_holds_pixels_of_the_class_they_are_filed_under() -> None:
    """A pixel's embedding names its class here, so a wrong pixel in a ring is seen."""
    labels = torch.tensor([[[0, 1, 2, 1], [2, 2, 0, 1]]])
    codes = F.one_hot(labels, DIM).permute(0, 3, 1, 2).float()
    contrast = make(pixels_per_image=2)
    contrast(codes, labels, logits_for(labels))
    for c in range(CLASSES):
        assert contrast.memory.pixel is not None
        assert contrast.memory.pixel.filled[c] == 2
        assert (contrast.memory.pixel.rows[c, :2].argmax(1) == c).all()


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (7, 9), (64, 64)])
def test_defect_3_labels_are_read_at_the_embedding_s_size(size: tuple[int, int]) -> None:
    """Left half class 0, right half class 1, whatever the ratio of the two sizes."""
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, :, 16:] = 1
    contrast = make(pixels_per_image=10_000, pixel_queue_size=10_000)
    column = torch.arange(size[1]).expand(size) / size[1]
    codes = torch.stack([column, 1 - column, 0 * column, 0 * column])[None]
    contrast(codes, labels, logits_for(labels))
    assert contrast.memory.pixel is not None
    queue = contrast.memory.pixel
    left, right = (queue.rows[c, : queue.filled[c], :2] for c in (0, 1))
    left, right = (rows[:, 0] / rows.sum(dim=1) for rows in (left, right))
    assert len(left) + len(right) == size[0] * size[1]
    assert left.max() < 0.5 <= right.min()


def test_defect_4_class_0_is_an_ordinary_class() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[:, 2:] = 1
    contrast = make()
    assert contrast(embeddings(2, DIM, 4, 4), labels, logits_for(1 - labels)) > 0
    assert contrast.memory.pixel is not None
    assert contrast.memory.pixel.filled.tolist() == [8, 8, 0]
    torch.testing.assert_close(contrast.memory.pixel.rows[0].norm(dim=1), torch.ones(8))


def test_defect_5_empty_slots_are_not_samples() -> None:
    """A hardly filled queue gives the same loss as one of just that size."""
    labels = torch.tensor([[[0, 1], [1, 0]]])
    values = []
    for size in (2, 1000):
        contrast = make(pixel_queue_size=size, pixels_per_image=2)
        contrast(embeddings(1, DIM, 2, 2), labels, logits_for(labels))
        values.append(contrast(embeddings(1, DIM, 2, 2, seed=1), labels, logits_for(labels)))
    assert values[0] > 0
    torch.testing.assert_close(values[0], values[1])


def test_defect_6_an_anchor_is_masked_from_itself_only() -> None:
    """One anchor a class and its twin in the queue: the twin is a positive, the anchor itself is not."""
    labels = torch.tensor([[[0, 1]]])
    vectors = F.normalize(torch.tensor([[1.0, 0.3, 0, 0], [0.2, 1.0, 0, 0]]), dim=1)
    codes = vectors.T[None, :, None, :].clone()
    contrast = make(temperature=0.5, memory_term="joint")
    assert contrast(codes, labels, logits_for(labels)) == 0, "no anchor has a positive yet"
    value = contrast(codes, labels, logits_for(labels))
    cross = vectors[0] @ vectors[1] / 0.5
    own = torch.tensor(1 / 0.5)
    expected = -torch.log(
        own.exp() / (own.exp() + 2 * cross.exp())
    )  # the other class: in the batch and the queue
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("label", [0, 255])
@pytest.mark.parametrize("pixel_queue_size", [0, 8])
def test_defect_7_nothing_to_contrast_is_a_zero_that_reaches_the_network(
    label: int, pixel_queue_size: int
) -> None:
    """Void only, and one pixel only: neither crashes, neither is NaN."""
    inputs = embeddings(1, DIM, 3, 3)
    labels = torch.full((1, 3, 3), 255)
    labels[0, 1, 1] = label
    value = make(pixel_queue_size=pixel_queue_size)(inputs, labels, torch.zeros(1, CLASSES, 3, 3))
    value.backward()
    assert value == 0
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, torch.zeros_like(inputs))


def test_defect_7_loss_is_finite_where_similarities_are_extreme() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    codes = torch.zeros(1, DIM, 1, 4)
    codes[0, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    codes.requires_grad_()
    value = make(temperature=1e-3, pixel_queue_size=0)(codes, labels, logits_for(labels))
    value.backward()
    assert torch.isfinite(value)
    assert codes.grad is not None
    assert torch.isfinite(codes.grad).all()


def test_defect_11_one_process_without_a_group_contrasts() -> None:
    assert not torch.distributed.is_initialized()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2)
    make()(inputs, labels, logits_for(labels)).backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


def test_evaluation_mode_leaves_the_memory_alone() -> None:
    contrast = make().eval()
    labels = torch.tensor([[[0, 0], [1, 1]]])
    assert contrast(embeddings(1, DIM, 2, 2), labels, logits_for(labels)) > 0
    assert contrast.memory.pixel is not None
    assert contrast.memory.pixel.filled.sum() == 0
    assert contrast.next_position == 0


def test_without_positions_images_are_numbered_on() -> None:
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    counted, given = make(anchors_per_class=2), make(anchors_per_class=2)
    for step in range(3):
        inputs = embeddings(2, DIM, 8, 8, seed=step)
        positions = torch.arange(2) + 2 * step
        value = given(inputs, labels, logits_for(labels), positions=positions)
        assert counted(inputs, labels, logits_for(labels)) == value
    assert counted.state_dict()["next_position"] == 6


def test_state_dict_restores_everything() -> None:
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    settings = dict.fromkeys(("positive_mining", "negative_mining"), "semi-hard")
    settings |= {"num_positives": 2, "num_negatives": 3, "semi_hard_share": 0.3, "rare_class_power": 0.5}
    settings |= {"region_memory_size": 4, "num_images": 4}
    first, second = make(**settings), make(**settings)
    ids = torch.tensor([3, 0])
    for step in range(3):
        first(embeddings(2, DIM, 8, 8, seed=step), labels, logits_for(labels), image_ids=ids)
    second.load_state_dict(first.state_dict())
    inputs = embeddings(2, DIM, 8, 8, seed=9), labels, logits_for(labels)
    assert first(*inputs, image_ids=ids) == second(*inputs, image_ids=ids)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def contrast_twice(labels: Tensor, num_classes: int, **settings: Any) -> list[Tensor]:
    """The losses of two steps on ``labels``, through every kind of memory and mining; all must be finite."""
    contrast = make(
        num_classes=num_classes,
        region_memory_size=5,
        positive_mining="semi-hard",
        negative_mining="semi-hard",
        **settings,
    )
    values = []
    for step in range(2):
        inputs = embeddings(len(labels), DIM, *labels.shape[1:], seed=step)
        logits = torch.zeros(len(labels), num_classes, *labels.shape[1:])
        values.append(contrast(inputs, labels, logits))
        values[-1].backward()
        assert inputs.grad is not None
        assert inputs.grad.isfinite().all()
        assert bool(inputs.grad.any()) == bool(values[-1] > 0)
    assert all(value.isfinite() for value in values)
    return values


@pytest.mark.parametrize("label", [0, 2])
def test_one_class_has_no_negatives_and_no_loss(label: int) -> None:
    assert contrast_twice(torch.full((2, 4, 4), label), CLASSES) == [0, 0]


def test_two_classes_and_171() -> None:
    generator = torch.Generator().manual_seed(0)
    for num_classes in (2, 171):
        labels = torch.randint(num_classes, (2, 16, 16), generator=generator)
        assert min(contrast_twice(labels, num_classes)) > 0


def test_void_images_beside_others_change_nothing() -> None:
    labels = torch.randint(CLASSES, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    with_void = torch.cat([labels, torch.full((1, 6, 6), 255)])
    inputs = embeddings(3, DIM, 6, 6)
    logits = torch.zeros(3, CLASSES, 6, 6)
    positions = torch.arange(3)
    value = make()(inputs, with_void, logits, positions=positions)
    assert value > 0
    assert value == make()(inputs[:2], labels, logits[:2], positions=positions[:2])


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_tiny_maps(size: tuple[int, int]) -> None:
    labels = torch.arange(2 * size[0] * size[1]).view(2, *size) % CLASSES
    values = contrast_twice(labels, CLASSES)
    assert values[1] > 0, "in the second step every anchor has a positive in the memory"


def test_no_images_at_all() -> None:
    inputs = torch.zeros(0, DIM, 4, 4, requires_grad=True)
    value = make()(inputs, torch.zeros(0, 4, 4).long(), torch.zeros(0, CLASSES, 4, 4))
    value.backward()
    assert value == 0
    assert inputs.grad is not None


def test_region_memory_is_a_slot_per_image_where_it_fits_and_a_queue_where_not() -> None:
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2), labels, logits_for(labels)
    slots = make(region_memory_size=3, num_images=3, pixel_queue_size=0)
    queue = make(region_memory_size=2, num_images=3, pixel_queue_size=0)
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
    contrast = make(region_memory_size=3, num_images=3)
    labels = torch.zeros(2, 4, 4).long()
    with pytest.raises(ValueError, match=message):
        contrast(embeddings(2, DIM, 4, 4), labels, logits_for(labels), image_ids=image_ids)


def test_diagnostics_average_what_the_batch_s_anchors_were_compared_with() -> None:
    """Three anchors of class 0, one of class 1, which has no positive; two of the four are misclassified."""
    labels = torch.tensor([[[0, 0], [0, 1]]])
    vectors = F.normalize(torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), dim=1)
    vectors[3, :2] = torch.tensor([0.6, 0.0])
    vectors[3, 2] = 0.8
    codes = vectors.T.reshape(1, DIM, 2, 2).clone()
    contrast = make(pixel_queue_size=0)
    contrast(codes, labels, logits_for(torch.tensor([[[0, 1], [0, 2]]])))
    root = 0.5**0.5
    read = contrast.diagnostics.read()
    assert read["hard_anchors"] == 2 / 4
    assert read["batch_positive_similarity"] == pytest.approx((root + 0 + root) / 3)  # each pair twice
    assert read["batch_negative_similarity"] == pytest.approx(2 * (0.6 + 0.6 * root + 0) / 6)
    assert read["gap"] == pytest.approx(root * 2 / 3 - (0.6 + 0.6 * root) / 3)
    assert read["class_gap"] == [pytest.approx(root * 2 / 3 - (0.6 + 0.6 * root) / 3), None, None]
    mean = torch.tensor([1 + root + 0.6, root + 1, 0.8]) / 4
    assert read["mean_embedding_norm"] == pytest.approx(float(mean.norm()))
    assert read["memory_positive_similarity"] is read["memory_negative_similarity"] is None
    again = contrast.diagnostics.read()
    assert again.pop("class_gap") == [None] * CLASSES
    assert again.pop("refused_rows") == 0
    assert set(again.values()) == {None}, "it begins anew"


@pytest.mark.parametrize("term", ["separate", "joint"])
def test_diagnostics_tell_the_memory_s_similarities_from_the_batch_s(term: Any) -> None:
    """Two steps of two classes, whose anchors turn by 60° between them."""
    labels = torch.tensor([[[0, 0, 1, 1]]])
    root = 0.75**0.5
    before = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    now = torch.tensor([[0.5, 0, root, 0], [0.5, 0, root, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    contrast = make(memory_term=term)
    contrast(before.T[None, :, None], labels, logits_for(labels))
    first = contrast.diagnostics.read()
    assert (first["gap"], first["class_gap"]) == (1, [1, 1, None])
    contrast(now.T[None, :, None], labels, logits_for(labels))
    read = contrast.diagnostics.read()
    assert read["batch_positive_similarity"] == pytest.approx(1)
    assert read["batch_negative_similarity"] == pytest.approx(0)
    assert read["memory_positive_similarity"] == pytest.approx((0.5 + 1) / 2)
    assert read["memory_negative_similarity"] == pytest.approx(0)
    assert read["mean_embedding_norm"] == pytest.approx((0.25**2 + 0.5**2 + (root / 2) ** 2) ** 0.5)


class Head(nn.Module):
    """Embeds pixels, or a map of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, DIM)

    def forward(self, rows: Tensor) -> Tensor:
        return F.normalize(self.linear(rows), dim=1)

    def map(self, features: Tensor) -> Tensor:
        return F.normalize(self.linear(features.movedim(1, 3)).movedim(3, 1), dim=1)


def test_a_head_that_runs_on_the_pixels_drawn_gives_the_same_as_on_the_map() -> None:
    """Loss, gradients of head and features, and the memory; regions of fewer pixels than are sampled."""
    labels = torch.randint(CLASSES, (2, 8, 9), generator=torch.Generator().manual_seed(0))
    head, results = Head().double(), []
    loss = features = torch.zeros(())
    for sampled in (True, False):
        contrast = make(region_memory_size=5).double()
        for step in range(2):
            features = torch.randn(2, 6, 8, 9, generator=torch.Generator().manual_seed(step)).double()
            features.requires_grad_()
            head.zero_grad()
            logits = torch.zeros(2, CLASSES, 8, 9)
            if sampled:
                loss = contrast(features, labels, logits, project=head)
            else:
                loss = contrast(head.map(features), labels, logits)
            loss.backward()
        gradients = [features.grad, head.linear.weight.grad]
        results.append([loss.detach(), *gradients, *contrast.state_dict().values()])
    assert results[0][0] > 0
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_boundary_share_of_the_queue_s_entries_lie_at_boundaries() -> None:
    """Left half class 0, right half class 1; a pixel's embedding names its column."""
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[:, :, 10:] = 1
    codes = F.one_hot(torch.arange(20), 20).float().expand(1, 20, 20, 20).movedim(3, 1)
    contrast = make(embedding_dim=20, pixel_queue_size=300, pixels_per_image=10, boundary_share=0.6)
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

    contrast = make(region_memory_size=5, pixel_queue_size=10)
    contrast(features, labels, torch.zeros(1, CLASSES, 20, 20), project=project)
    anchors, entries, sample = seen
    assert (len(anchors), len(entries), len(sample)) == (50, 10, 128)
    assert contrast.memory.pixel is not None
    assert contrast.memory.region is not None
    entered = contrast.memory.pixel.rows[0]
    torch.testing.assert_close(entered, F.normalize(entries, dim=1))
    mean = F.normalize(F.normalize(sample, dim=1).mean(dim=0), dim=0)
    torch.testing.assert_close(contrast.memory.region.rows[0, 0], mean)


def test_half_precision_inputs_are_contrasted_in_float32() -> None:
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2).detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = make()(inputs, labels, logits_for(labels).bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, make()(inputs.float(), labels, logits_for(labels)))


def test_autocast_does_not_round_what_is_stored() -> None:
    labels = torch.randint(CLASSES, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    stored = []
    for enabled in (True, False):
        contrast = make(region_memory_size=4)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            contrast(embeddings(2, DIM, 6, 6), labels, torch.zeros(2, CLASSES, 6, 6))
        stored.append(contrast.memory.state_dict())
    torch.testing.assert_close(stored[0], stored[1], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.zeros(2, 5, 4, 4)}, r"embeddings are \[B, 4, h, w\], not \[2, 5, 4, 4\]"),
        ({"labels": torch.zeros(2, 1, 4, 4).long()}, r"labels are int64 \[B, H, W\]"),
        ({"labels": torch.zeros(2, 4, 4)}, "labels are int64"),
        ({"logits": torch.zeros(2, 7, 4, 4)}, r"logits are \[B, 3, \., \.\]"),
        ({"logits": torch.zeros(1, 3, 4, 4)}, "hold 2, 2 and 1 images"),
        ({"labels": torch.full((2, 4, 4), 3)}, r"labels hold \[3\]; allowed are 0 to 2 and the ignored 255"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], message: str) -> None:
    inputs = {"embeddings": torch.zeros(2, 4, 4, 4), "labels": torch.zeros(2, 4, 4).long()}
    inputs |= {"logits": torch.zeros(2, 3, 4, 4)}
    with pytest.raises(ValueError, match=message):
        make()(*(inputs | change).values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("hard_share", 1.5),
        ("semi_hard_share", 0.0),
        ("rare_class_power", -1.0),
        ("region_memory_size", -1),
        ("pixels_per_image", 0),
        ("anchors_per_class", 0),
        ("num_negatives", 0),
        ("ignore_index", 2),
    ],
)
def test_wrong_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        make(**{name: value})


def test_unknown_mining_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="negative_mining is 'semihard'; there are all, random, filtered, "):
        make(negative_mining="semihard")
    with pytest.raises(ValueError, match="positive_mining is 'filtered'; there are all, random, hardest, "):
        make(positive_mining="filtered")


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
    assert repr(make(pixel_queue_size=0).memory) == "Memory(no banks)"


def test_a_deferred_batch_that_is_not_kept_leaves_no_trace() -> None:
    """Two batches with one between that is not kept, against the two alone."""
    settings = {"region_memory_size": 4, "rare_class_power": 0.5, "pixel_queue_size": 8}
    deferred, plain = make(**settings, deferred=True), make(**settings)
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
def test_rows_that_are_not_finite_do_not_enter_the_memory(
    deferred: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One pixel of class 0 is NaN and one of class 1 infinite; the step after has a finite loss."""
    labels, ids = torch.tensor([[[0, 0, 1, 1, 2]]]), torch.tensor([1])
    codes = embeddings(1, DIM, 1, 5).detach()
    broken = codes.clone()
    broken[0, 1, 0, 0], broken[0, 2, 0, 3] = torch.nan, torch.inf
    contrast = make(region_memory_size=3, num_images=3, deferred=deferred)

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
    assert contrast.diagnostics.read()["refused_rows"] == 2 + 3
    step(broken)
    assert contrast.diagnostics.read()["refused_rows"] == 2 + 3
    said = [record.getMessage().partition(" rows")[0] for record in caplog.records]
    assert said == [f"embeddings hold NaN or infinity: {rows}" for rows in ("2 of 5", "3 of 3")], "once each"
    value = step(codes)
    assert value > 0
    assert value.isfinite()
    assert queue.filled.tolist() == [4, 4, 3]
    assert regions.filled.tolist() == [1, 1, 1]
    assert contrast.diagnostics.read()["refused_rows"] == 0
