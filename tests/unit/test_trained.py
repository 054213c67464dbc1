"""A run's network, loaded again for use."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, Run, config, load_model
from pixelcontrast.runs import checkpoint
from pixelcontrast.runs.run_folder import open_storage
from pixelcontrast.training import checkpointing
from pixelcontrast.training.state import TrainState, build_state

STEPS = (2, 4, 6)
BEST = 4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Tensor]]:
    """A finished run with three checkpoints, and each one's logits; the backbone's weights are gone."""
    storage = tmp_path_factory.mktemp("runs")
    experiment = Experiment(
        data=Data(layout="camvid", root="/nowhere"),
        model=Model(backbone="hrnet_w18_small", decoder="ocr", embedding_dim=8, weights="/nowhere/w.pth"),
        contrast=Contrast(memory="both", pixel_queue_size=4),
        optim=Optim(steps=6, batch_size=2),
        run=Run(name="a", storage=str(storage)),
    )
    run, logits = open_storage(experiment), {}
    run.write("experiment.json", config.to_json(experiment).encode())
    for step in STEPS:
        state = trained(experiment, step)
        checkpointing.save(run, step, state.to_parts())
        with torch.inference_mode():
            logits[step] = state.model.eval()(images()).logits
    run.write("result.json", json.dumps({"best_checkpoint": checkpoint.folder_of(BEST)}).encode())
    return storage / "a", logits


def trained(experiment: Experiment, step: int) -> TrainState:
    """Other weights for each step, and running statistics that are not those of the start."""
    plain = config.replace(experiment, {"model.weights": "none", "run.seed": step})
    state = build_state(plain, num_classes=11, num_images=5, device=torch.device("cpu"))
    state.model(images())
    return state


def images() -> Tensor:
    return torch.randn(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))


def logits_of(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(images()).logits


def test_best_network_gives_the_same_logits_without_the_projection_head(written: Any) -> None:
    folder, logits = written
    generator = torch.get_rng_state()
    model = load_model(folder)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    assert model.projection is None
    assert not [name for name in model.state_dict() if name.startswith("projection")]
    assert torch.equal(logits_of(model), logits[BEST])
    output = model(images())
    assert output.features is None
    assert output.auxiliary is None
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_step_or_the_newest_of_an_unfinished_run(written: Any, tmp_path: Path) -> None:
    folder, logits = written
    assert torch.equal(logits_of(load_model(str(folder), step=2)), logits[2])
    shutil.copytree(folder, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    assert torch.equal(logits_of(load_model(tmp_path / "unfinished")), logits[6])


def test_what_is_missing_or_damaged_is_named(written: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no run here, as experiment\.json is missing"):
        load_model("/nowhere")
    folder = tmp_path / "a"
    shutil.copytree(written[0], folder)
    with pytest.raises(ValueError, match=r"no checkpoints/step-00000003; there are step-00000002, step-0"):
        load_model(folder, step=3)
    weights = folder / checkpoint.folder_of(BEST) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"/a: checkpoints/step-00000004/model\.safetensors was altered"):
        load_model(folder)
    load_model(folder, step=6)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match=r"/a: there is no checkpoint yet"):
        load_model(folder)
    (folder / "experiment.json").write_text("{}")
    with pytest.raises(ValueError, match=r"/a/experiment\.json cannot be read"):
        load_model(folder)
