"""What the contrast saw in a training on CamVid, replayed through the engine and through its obvious form."""

import os
from functools import partial
from typing import Any

import pytest
import torch
from dense_contrast import DenseContrast
from torch import Tensor

from contrasts import pixel_contrast
from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.contrast.hyperparameters import ExampleMining, Term
from pixelcontrast.contrast.maps import read_at
from pixelcontrast.datasets.loading import train_loader
from pixelcontrast.datasets.segmentation import build_dataset
from pixelcontrast.training.state import build_state
from pixelcontrast.training.step import train_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "CAMVID_ROOT" not in os.environ, reason="CAMVID_ROOT does not name a folder with CamVid"
    ),
]

BEFORE, RECORDED = 30, 20
"""Steps that fill the memory, and steps that are recorded after them."""
EXPERIMENT = Experiment(
    data=Data(layout="camvid", root=os.environ.get("CAMVID_ROOT", "camvid"), crop_size=(192, 256)),
    model=Model(backbone="hrnet_w18_small"),
    contrast=Contrast(memory="both"),
    optim=Optim(steps=BEFORE + RECORDED, batch_size=8, lr=0.02),
    run=Run(name="replayed"),
)


@pytest.fixture(scope="module")
def recorded() -> tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, Any]]:
    """The memory before the first recorded step, every step's inputs, and the settings of the term."""
    train_set = build_dataset(EXPERIMENT.data, "train")
    state = build_state(EXPERIMENT, num_classes=11, num_images=len(train_set), device=torch.device("cpu"))
    assert state.contrast is not None
    memory: dict[str, Tensor] = {}
    steps: list[dict[str, Tensor]] = []
    contrast: Any = state.contrast
    original = contrast.forward

    def forward(features: Tensor, labels: Tensor, logits: Tensor, **kept: Any) -> Tensor:
        labels = without_lone_pixels(read_at(labels, features.shape[-2:], align_corners=True))
        assert state.model.projection is not None
        if int(contrast.steps) == BEFORE:
            memory.update({name: tensor.clone() for name, tensor in contrast.state_dict().items()})
        if int(contrast.steps) >= BEFORE:
            seen = {"embeddings": state.model.projection(features), "labels": labels, "logits": logits}
            seen |= {name: kept[name] for name in ("positions", "image_ids")}
            steps.append({name: tensor.detach().clone() for name, tensor in seen.items()})
        return original(features, labels, logits, **kept)

    contrast.forward = forward
    optim = EXPERIMENT.optim
    loader = partial(train_loader, train_set, EXPERIMENT.data, seed=0, batch_size=optim.batch_size)
    for batch in loader(start_step=0, steps=optim.steps, rank=0, world_size=1):
        train_step(state.model, state.contrast, state.optimizer, batch, contrast_weight=1.0)
    settings = {"num_classes": 11, "embedding_dim": 256, "num_images": len(train_set)}
    settings |= {"pixel_queue_size": 10 * len(train_set), "region_memory_size": len(train_set)}
    return memory, steps, settings


def without_lone_pixels(labels: Tensor) -> Tensor:
    """Ignore a class that has one pixel in an image: its region would be that row again, and which of two
    equally hard rows is taken is nobody's business.
    """
    count = torch.stack([torch.bincount(image.flatten(), minlength=256) for image in labels])
    lone = count.gather(1, labels.flatten(1)).view_as(labels) == 1
    return labels.masked_fill(lone, 255)


def replay(
    form: type[PixelContrast],
    recorded: tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, Any]],
    mining: ExampleMining,
    term: Term,
    dtype: torch.dtype,
    steps: int,
) -> list[tuple[Tensor, Tensor]]:
    """Loss and its gradient in the embeddings, step by step."""
    memory, inputs, settings = recorded
    settings = settings | {"positive_mining": mining, "negative_mining": mining, "memory_term": term}
    contrast = pixel_contrast(form, **settings)
    contrast.load_state_dict(memory)
    contrast.to(dtype)
    results = []
    for step in inputs[:steps]:
        embeddings = step["embeddings"].to(dtype).requires_grad_()
        rest = {name: step[name] for name in ("positions", "image_ids")}
        loss = contrast(embeddings, step["labels"], step["logits"], **rest)
        loss.backward()
        assert embeddings.grad is not None
        results.append((loss.detach(), embeddings.grad))
    return results


@pytest.mark.parametrize(
    ("mining", "term", "steps"),
    [
        ("random", "separate", RECORDED),
        ("semi-hard", "joint", RECORDED),
        ("all", "joint", 2),
        ("random", "joint", 2),
        ("hardest", "joint", 2),
        ("semi-hard-subset", "joint", 2),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_recorded_steps_agree_with_the_obvious_form(
    mining: ExampleMining, term: Term, steps: int, dtype: torch.dtype, tolerance: float, recorded: Any
) -> None:
    assert (recorded[0]["memory.pixel.written"] >= 0).sum() > 10_000
    ours, want = (
        replay(form, recorded, mining, term, dtype, steps) for form in (PixelContrast, DenseContrast)
    )
    for (loss, gradient), (want_loss, want_gradient) in zip(ours, want, strict=True):
        assert want_loss > 0.1
        assert abs(loss - want_loss) <= tolerance * want_loss
        assert (gradient - want_gradient).norm() <= tolerance * want_gradient.norm()
