"""Runs as a training leaves them, without the training: other weights for each checkpoint."""

import json
from pathlib import Path

import torch
from torch import Tensor

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training import checkpointing
from pixelcontrast.training.state import TrainState, build_state

STEPS = (2, 4, 6)
BEST = 4


def write_run(
    storage: Path | str,
    *,
    data: Data | None = None,
    model: Model | None = None,
    contrast: Contrast | None = None,
    name: str = "a",
    num_classes: int = 11,
    steps: tuple[int, ...] = STEPS,
) -> tuple[str, dict[int, Tensor]]:
    """A finished run with a checkpoint for each step, the best at step 4 if it has one; the weights that its
    backbone began with are gone.

    Returns:
        The run's folder, and each checkpoint's logits of ``images()`` in evaluation.
    """
    experiment = Experiment(
        data=data or Data(layout="camvid", root="/nowhere"),
        model=model
        or Model(backbone="hrnet_w18_small", decoder="ocr", embedding_dim=8, weights="/nowhere/w.pth"),
        contrast=contrast or Contrast(memory="both", pixel_queue_size=4),
        optim=Optim(steps=6, batch_size=2),
        run=Run(name=name, storage=str(storage)),
    )
    run, logits = open_storage(experiment), {}
    written = config.to_json(experiment).encode()
    run.write("experiment.json", written)
    for step in steps:
        state = trained(experiment, step, num_classes)
        provenance = json.dumps({"git": "0123abc"}).encode()
        parts = state.to_parts() | {"experiment.json": written, "provenance.json": provenance}
        checkpointing.save(run, step, parts)
        with torch.inference_mode():
            logits[step] = state.model.eval()(images()).logits
    best = BEST if BEST in steps else steps[-1]
    last = {"step": steps[-1], "miou": 0.5, "checkpoint": checkpoint.folder_of(steps[-1])}
    result = last | {"best_checkpoint": checkpoint.folder_of(best), "attempts": 1, "provenance": {}}
    run.write("result.json", json.dumps(result).encode())
    return run.location, logits


def trained(experiment: Experiment, step: int, num_classes: int) -> TrainState:
    """Other weights for each step, and running statistics that are not those of the start."""
    plain = config.replace(experiment, {"model.weights": "none", "run.seed": step})
    state = build_state(plain, num_classes=num_classes, num_images=5, device=torch.device("cpu"))
    state.model(images())
    return state


def images() -> Tensor:
    """Two normalised images of 40×64 pixels."""
    return torch.randn(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
