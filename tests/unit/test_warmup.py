"""The contrast's warm-up, and what is measured of its gradient, in the real training step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contrasts import in_float64, pixel_contrast
from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import SegmentationModel, build_model
from pixelcontrast.training.loop import ContrastSchedule, contrast_schedule
from pixelcontrast.training.optim import build_optimizer
from pixelcontrast.training.step import Losses, train_step

CLASSES, WEIGHT = 3, 0.7


def model_of(**settings: Any) -> SegmentationModel:
    torch.manual_seed(0)
    model = Model(backbone="hrnet_w18_small", embedding_dim=8, **settings)
    return build_model(model, num_classes=CLASSES, embedding=True).double()


def term() -> PixelContrast:
    contrast = pixel_contrast(num_classes=CLASSES, embedding_dim=8, pixel_queue_size=20, anchors_per_class=10)
    return in_float64(contrast)


def batch(size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (2, size // 4, size // 4), generator=generator)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return Batch(images, labels, torch.arange(2), torch.arange(2))


def step(model: SegmentationModel, contrast: PixelContrast | None, size: int = 32, **settings: Any) -> Losses:
    optimizer = build_optimizer(model, Optim(lr=0.01))
    return train_step(model, contrast, optimizer, batch(size), contrast_weight=WEIGHT, **settings)


def gradients(model: SegmentationModel, *, of_head: bool) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and name.startswith("projection.") == of_head
    }


@pytest.mark.parametrize("head", [{}, {"embedding_batchnorm": True}], ids=["1×1", "BatchNorm"])
def test_defect_13_warmup_trains_the_head_and_leaves_the_rest_to_cross_entropy(head: Any) -> None:
    plain, warming, trained = (model_of(**head) for _ in range(3))
    step(plain, None)
    losses = step(warming, term(), head_only=True, measure_gradients=True)
    step(trained, term())
    assert losses.contrast is not None
    assert losses.contrast > 0
    assert losses.feature_gradients is None, "nothing reaches the features"
    for kind in (gradients, moved):
        want, got = (kind(model, of_head=False) for model in (plain, warming))
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want)
        head_got, head_want = (kind(model, of_head=True) for model in (warming, trained))
        torch.testing.assert_close(head_got, head_want, msg="the head learns as it does later")
    weights = [name for name in gradients(warming, of_head=True) if name.endswith("weight")]
    assert len(weights) >= 2
    assert all(gradients(warming, of_head=True)[name].any() for name in weights)
    backbone = "backbone.conv1.weight"
    assert not torch.equal(
        gradients(trained, of_head=False)[backbone], gradients(plain, of_head=False)[backbone]
    )


def moved(model: SegmentationModel, *, of_head: bool) -> dict[str, Tensor]:
    """The weights after the step."""
    state = model.state_dict().items()
    return {name: value for name, value in state if name.startswith("projection.") == of_head}


def schedule(steps: int, **settings: Any) -> list[ContrastSchedule]:
    experiment = Experiment(
        data=Data(layout="camvid", root="camvid"),
        contrast=Contrast(**settings),
        optim=Optim(steps=steps),
        run=Run(name="a"),
    )
    return [contrast_schedule(experiment, step) for step in range(steps)]


@pytest.mark.parametrize(
    ("steps", "warmup", "first"), [(20, 0.1, 2), (10, 0.3, 3), (7, 0.1, 1), (1000, 0.029, 29)]
)
def test_the_memory_is_emptied_in_the_first_step_after_the_warmup_alone(
    steps: int, warmup: float, first: int
) -> None:
    rows = schedule(steps, warmup=warmup)
    assert [step for step, row in enumerate(rows) if row.starts] == [first]
    assert [step for step, row in enumerate(rows) if row.head_only] == list(range(first))


def test_without_a_warmup_nothing_is_emptied() -> None:
    assert not any(row.starts for row in schedule(5, warmup=0.0))


@pytest.mark.parametrize("size", [32, 40])
def test_feature_gradients_are_those_of_either_loss_alone(size: int) -> None:
    """Images of 40×40 are padded to 64×64: the contrast sees the part of the features that shows them."""
    model, given = model_of(), batch(size)
    features: list[Tensor] = []
    model.decoder.register_forward_hook(lambda _, __, decoded: features.append(decoded.features))
    output = model(given.images)
    assert output.features is not None
    assert output.features.shape[-2:] == (size // 4, size // 4)
    assert model.projection is not None
    ce = F.cross_entropy(output.logits, given.labels)
    labels = model.read_at_cells(given.labels, output, padding=255)
    logits = model.read_at_cells(output.logits, output, padding=0)
    contrast = term()(output.features, labels, logits, project=model.projection)
    parts = [torch.autograd.grad(loss, features[0], retain_graph=True)[0] for loss in (contrast, ce)]
    ours, others = WEIGHT * parts[0].flatten(), parts[1].flatten()
    want = torch.stack([ours @ ours, others @ others, ours @ others])
    assert want.abs().min() > 0
    losses = step(model_of(), term(), size, measure_gradients=True)
    assert losses.feature_gradients is not None
    torch.testing.assert_close(losses.feature_gradients, want, rtol=1e-9, atol=0)
    assert step(model_of(), term()).feature_gradients is None, "only where asked for"


class _Doubles(TorchDispatchMode):
    """Notes how many numbers the tensors in float64 have that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float64:
            self.sizes.add(made.numel())
        return made


def test_feature_gradients_are_compared_image_by_image() -> None:
    """In float64 a GPU's maps of HRNet-W48 would take gigabytes at once, at every row of metrics."""
    model, given = model_of().float(), batch()
    contrast = pixel_contrast(num_classes=CLASSES, embedding_dim=8, pixel_queue_size=20, anchors_per_class=10)
    features = model(given.images.float()).features
    assert features is not None
    of_one_image = features[0].numel()
    optimizer = build_optimizer(model, Optim(lr=0.01))
    given = given._replace(images=given.images.float())
    with _Doubles() as doubles:
        train_step(model, contrast, optimizer, given, contrast_weight=WEIGHT, measure_gradients=True)
    assert max(doubles.sizes) == of_one_image
