"""On a GPU the term asks for few operations, waits for few of them, and gives what it gives on a CPU."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from contrasts import logits_for, pixel_contrast
from emulated_cuda import CudaTensor, EmulatedCuda
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.training.step import cross_entropy

MOST_WAITS = 3
DIM, IMAGES = 8, 2
"""Operations, and not their sizes, are counted."""
BOTH: dict[str, Any] = {"pixel_queue_size": 40, "region_memory_size": 4, "num_images": 4}
MODES: dict[str, tuple[int, dict[str, Any]]] = {
    "in-batch": (143, {}),
    "random": (336, {"pixel_queue_size": 40}),
    "joint, both memories": (428, BOTH | {"memory_term": "joint"}),
    "all": (326, {"pixel_queue_size": 40, "positive_mining": "all", "negative_mining": "all"}),
    "semi-hard-subset": (
        377,
        {
            "pixel_queue_size": 40,
            "positive_mining": "semi-hard-subset",
            "negative_mining": "semi-hard-subset",
            "num_positives": 5,
            "num_negatives": 9,
        },
    ),
    "rare": (203, {"rare_class_power": 0.5}),
}
"""The most operations of a forward pass, whatever the number of classes and rows: what was counted."""
MOST_BACKWARD = 30


def batch(num_classes: int, step: int) -> dict[str, torch.Tensor]:
    """Two images of 24×32 pixels, in which most classes occur, some pixels are void and half are wrong."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(num_classes, (IMAGES, 24, 32), generator=generator)
    predictions = torch.where(torch.rand(labels.shape, generator=generator) < 0.5, labels, 0)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    embeddings = F.normalize(torch.randn(IMAGES, DIM, 24, 32, generator=generator), dim=1)
    return {
        "embeddings": embeddings.requires_grad_(),
        "labels": labels,
        "logits": logits_for(predictions, num_classes),
        "positions": torch.arange(IMAGES) + IMAGES * step,
        "image_ids": torch.arange(IMAGES),
    }


def contrast_of(num_classes: int, **settings: Any) -> PixelContrast:
    return pixel_contrast(num_classes=num_classes, embedding_dim=DIM, **settings)


@pytest.mark.parametrize("num_classes", [2, 19, 171])
@pytest.mark.parametrize("mode", MODES)
def test_the_term_waits_seldom_for_a_gpu_and_equals_the_cpu_s(mode: str, num_classes: int) -> None:
    """In the third step, with rows of two in the memory."""
    most_operations, settings = MODES[mode]
    on_cpu, inputs = contrast_of(num_classes, **settings), batch(num_classes, 2)
    for step in range(2):
        on_cpu(**batch(num_classes, step))
    with EmulatedCuda() as device:
        on_gpu = device.move(copy.deepcopy(on_cpu))
        moved = {name: device.tensor(tensor) for name, tensor in inputs.items()}
        loss = on_cpu(**inputs)
        device.forget()
        torch.testing.assert_close(on_gpu(**moved).held, loss)
        for (name, buffer), want in zip(on_gpu.named_buffers(), on_cpu.buffers(), strict=True):
            assert isinstance(buffer, CudaTensor)
            torch.testing.assert_close(buffer.held, want, msg=name)
        assert device.waits.total() <= MOST_WAITS, device.waits.most_common()
        assert device.operations.total() <= most_operations, device.operations.most_common()
        device.forget()
        device.on_cpu = True
        loss.backward()
        assert device.waits.total() == 0, device.waits.most_common()
        assert device.operations.total() <= MOST_BACKWARD, device.operations.most_common()


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_waits_for_nothing(class_weights: list[float] | None) -> None:
    labels = torch.tensor([[[0, 1, 255], [2, 2, 0]]])
    logits = torch.randn(1, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    weights = None if class_weights is None else torch.tensor(class_weights)
    with EmulatedCuda() as device:
        moved = [None if value is None else device.tensor(value) for value in (logits, labels, weights)]
        loss = cross_entropy(*moved)  # type: ignore[arg-type]
        assert device.waits.total() == 0, device.waits.most_common()
        assert isinstance(loss, CudaTensor)
        torch.testing.assert_close(loss.held, cross_entropy(logits, labels, weights))
        want = F.cross_entropy(logits, labels, weights, ignore_index=255)
        torch.testing.assert_close(loss.held, want)


def test_a_wait_and_a_mixture_are_seen() -> None:
    """What is counted can be counted, and fails as on a GPU."""
    with EmulatedCuda() as device:
        numbers = device.tensor(torch.arange(4))
        assert int(numbers.sum()) == 6
        assert len(numbers[numbers > 1]) == 2
        assert device.waits.total() == 2
        with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU"):
            numbers.add(torch.ones(4))
