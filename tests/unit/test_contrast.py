"""``PixelContrast`` in the hands of a user: its loss, and what it refuses."""

import doctest
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrasts import CLASSES, DIM, embeddings, in_float64, logits_for, small_contrast
from pixelcontrast.contrast import ProjectionHead, loss
from pixelcontrast.contrast.maps import unit
from processes import run_ranks


def test_docstring_example_runs() -> None:
    result = doctest.testmod(loss)
    assert result.attempted >= 10
    assert result.failed == 0


def test_without_positions_images_are_numbered_on() -> None:
    labels = torch.randint(CLASSES, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    counted, given = small_contrast(anchors_per_class=2), small_contrast(anchors_per_class=2)
    for step in range(3):
        inputs = embeddings(2, DIM, 8, 8, seed=step)
        positions = torch.arange(2) + 2 * step
        value = given(inputs, labels, logits_for(labels), positions=positions)
        assert counted(inputs, labels, logits_for(labels)) == value
    assert counted.state_dict()["next_position"] == 6


def contrast_twice(labels: Tensor, num_classes: int, **settings: Any) -> list[Tensor]:
    """The losses of two steps on ``labels``, through every kind of memory and mining; all must be finite."""
    contrast = small_contrast(
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
    value = small_contrast()(inputs, with_void, logits, positions=positions)
    assert value > 0
    assert value == small_contrast()(inputs[:2], labels, logits[:2], positions=positions[:2])


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_tiny_maps(size: tuple[int, int]) -> None:
    labels = torch.arange(2 * size[0] * size[1]).view(2, *size) % CLASSES
    values = contrast_twice(labels, CLASSES)
    assert values[1] > 0, "in the second step every anchor has a positive in the memory"


def test_no_images_at_all() -> None:
    inputs = torch.zeros(0, DIM, 4, 4, requires_grad=True)
    value = small_contrast()(inputs, torch.zeros(0, 4, 4).long(), torch.zeros(0, CLASSES, 4, 4))
    value.backward()
    assert value == 0
    assert inputs.grad is not None


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
        contrast = in_float64(small_contrast(region_memory_size=5))
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


def test_embeddings_without_a_direction_become_0_and_get_no_gradient() -> None:
    """The others are those of ``normalize``, to the bit."""
    inputs = 3 * embeddings(5, DIM).detach()
    inputs[0], inputs[1] = 0.0, 1e-7
    ours, plain = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    units = [unit(ours), F.normalize(plain, dim=1)]
    torch.autograd.backward(units, [torch.randn(5, DIM)] * 2)
    for found, expected in ((units[0], units[1]), (ours.grad, plain.grad)):
        assert found is not None
        assert expected is not None
        assert not found[:2].any()
        assert torch.equal(found[2:], expected[2:])


def test_one_pixel_without_features_does_not_decide_the_head_s_gradient() -> None:
    """All 0 after a ReLU, and the head's biases are 0 at first."""
    labels = torch.arange(2).view(1, 2, 1).expand(1, 2, 50)
    features = torch.rand(1, 8, 2, 50, generator=torch.Generator().manual_seed(0))
    norms = []
    for factor in (1.0, 0.0):
        torch.manual_seed(0)
        head = ProjectionHead(8, DIM)
        features[..., 7] *= factor
        loss = small_contrast(anchors_per_class=50)(head(features), labels, logits_for(labels))
        loss.backward()
        assert head.conv2.bias is not None
        assert head.conv2.bias.grad is not None
        norms.append(float(head.conv2.bias.grad.norm()))
    assert 0.5 < norms[1] / norms[0] < 2


def test_half_precision_inputs_are_contrasted_in_float32() -> None:
    labels = torch.tensor([[[0, 0], [1, 1]]])
    inputs = embeddings(1, DIM, 2, 2).detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = small_contrast()(inputs, labels, logits_for(labels).bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, small_contrast()(inputs.float(), labels, logits_for(labels)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.zeros(2, 5, 4, 4)}, r"embeddings are \[B, 4, h, w\], not \[2, 5, 4, 4\]"),
        ({"labels": torch.zeros(2, 1, 4, 4).long()}, r"labels are int64 \[B, H, W\]"),
        ({"labels": torch.zeros(2, 4, 4)}, "labels are int64"),
        ({"logits": torch.zeros(2, 7, 4, 4)}, r"logits are \[B, 3, \., \.\]"),
        ({"logits": torch.zeros(1, 3, 4, 4)}, "hold 2, 2 and 1 images"),
        (
            {"embeddings": torch.zeros(2, 4, 4, 4, device="meta")},
            r"embeddings are on meta and the PixelContrast on cpu; .* PixelContrast\(…\)\.to\(device\)",
        ),
        ({"labels": torch.zeros(2, 4, 4, device="meta").long()}, "labels are on meta"),
        ({"logits": torch.zeros(2, 3, 4, 4, device="meta")}, "logits are on meta and the PixelContrast on"),
        ({"positions": torch.arange(2, device="meta")}, "positions are on meta and the PixelContrast on cpu"),
        ({"positions": torch.arange(3)}, r"positions are int64 \[2\], not torch\.int64 \[3\]"),
        ({"positions": torch.arange(2).int()}, r"positions are int64 \[2\], not torch\.int32 \[2\]"),
        (
            {"project": nn.Linear(4, 5)},
            "project gives embeddings of 5 numbers, and embedding_dim is 4",
        ),
        (
            {"project": ProjectionHead(4, 4, batchnorm=True)},
            r"the projection head has batchnorm.* give the contrast head\(features\), without project",
        ),
        ({"labels": torch.full((2, 4, 4), 3)}, r"labels hold \[3\]; allowed are 0 to 2 and the ignored 255"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Any], message: str) -> None:
    inputs = {"embeddings": torch.zeros(2, 4, 4, 4), "labels": torch.zeros(2, 4, 4).long()}
    inputs |= {"logits": torch.zeros(2, 3, 4, 4)}
    with pytest.raises(ValueError, match=message):
        small_contrast()(**(inputs | change))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.arange(2, device="meta"), r"image_ids are on meta and the PixelContrast on cpu; move them"),
        (torch.arange(3), r"image_ids are int64 \[2\], not torch\.int64 \[3\]"),
        (None, "image_ids are needed: the region memory has a slot for every image"),
    ],
)
def test_wrong_image_ids_are_named_where_they_are_used(ids: Tensor | None, message: str) -> None:
    inputs = torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 4).long(), torch.zeros(2, 3, 4, 4)
    contrast = small_contrast(region_memory_size=4, num_images=4)
    with pytest.raises(ValueError, match=message):
        contrast(*inputs, image_ids=ids)
    contrast.eval()(*inputs, image_ids=ids)  # nothing enters the memory


def wrong_on_one_rank(rank: int, _world_size: int, change: str) -> str:
    contrast = small_contrast(region_memory_size=4, num_images=4)
    labels, ids = torch.zeros(2, 4, 4).long(), torch.arange(2)
    if rank == 1:
        labels, ids = (labels + 9, ids) if change == "labels" else (labels, ids + 3)
    with pytest.raises(ValueError) as caught:
        contrast(torch.zeros(2, 4, 4, 4), labels, torch.zeros(2, 3, 4, 4), image_ids=ids)
    return str(caught.value)


@pytest.mark.parametrize("change", ["labels", "image_ids"])
def test_what_one_rank_has_wrong_is_an_error_on_all(change: str) -> None:
    """They would wait for its embeddings until the group's timeout."""
    right, wrong = run_ranks(2, wrong_on_one_rank, change)
    assert right == f"{change} of rank 1 are out of range, as its own error says"
    assert wrong.startswith(f"{change} hold [")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("hard_share", 1.5),
        ("semi_hard_share", 0.0),
        ("rare_class_power", -1.0),
        ("rare_class_power", 400.0),
        ("temperature", math.inf),
        ("temperature", "'0.1'"),
        ("anchors_per_class", 50.0),
        ("anchors_per_class", True),
        ("memory_sharded", "'no'"),
        ("num_images", 0),
        ("region_memory_size", -1),
        ("pixels_per_image", 0),
        ("anchors_per_class", 0),
        ("num_negatives", 0),
        ("ignore_index", 2),
    ],
)
def test_wrong_settings_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        small_contrast(**{name: value.strip("'") if isinstance(value, str) else value})


@pytest.mark.parametrize(
    "unused", [{"pixel_queue_size": 0}, {"memory_term": "separate", "memory_weight": 0.0}], ids=["none", "0"]
)
def test_one_anchor_per_class_needs_a_memory(unused: dict[str, Any]) -> None:
    small_contrast(anchors_per_class=1)
    with pytest.raises(ValueError, match=r"anchors_per_class is 1 and no memory is used.* allowed are"):
        small_contrast(anchors_per_class=1, **unused)


def test_unknown_mining_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="negative_mining is 'semihard'; there are all, random, hardest, "):
        small_contrast(negative_mining="semihard")
    with pytest.raises(ValueError, match="positive_mining is 'semihard'; there are all, random, hardest, "):
        small_contrast(positive_mining="semihard")
