"""The optimisers: what they update, and that a restored one continues to the bit."""

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch.optim import SGD, AdamW

from pixelcontrast.config import Contrast, Data, Experiment, Model, Optim, Run
from pixelcontrast.datasets.loading import Batch
from pixelcontrast.models import build_model
from pixelcontrast.models.backbone import wrapped_names
from pixelcontrast.training.optim import build_optimizer, set_rate
from pixelcontrast.training.state import TrainState, build_state
from pixelcontrast.training.step import train_step


def experiment(optimizer: Any) -> Experiment:
    return Experiment(
        data=Data(layout="camvid", root="camvid"),
        model=Model(backbone="hrnet_w18_small", embedding_dim=8),
        contrast=Contrast(memory="pixel", pixel_queue_size=20),
        optim=Optim(optimizer=optimizer, steps=8, batch_size=2, lr=0.01),
        run=Run(name="a"),
    )


def fresh(settings: Experiment) -> TrainState:
    return build_state(settings, num_classes=3, num_images=4, device=torch.device("cpu"))


def train(state: TrainState, settings: Experiment, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(2, 3, 32, 64, generator=generator)
        labels = torch.randint(3, (2, 32, 64), generator=generator)
        batch = Batch(images, labels, torch.arange(2) + 2 * step, torch.arange(2))
        set_rate(state.optimizer, step, settings.optim)
        train_step(state.model, state.contrast, state.optimizer, batch, contrast_weight=1.0)


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adamw", AdamW)])
def test_restored_optimizer_continues_to_the_bit(name: str, kind: type) -> None:
    settings = experiment(name)
    whole, before, after = fresh(settings), fresh(settings), fresh(settings)
    assert type(whole.optimizer) is kind
    train(whole, settings, range(4))
    train(before, settings, range(2))
    after.restore(before.to_parts())
    train(after, settings, range(2, 4))
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[key]), key


def test_a_gpu_s_optimizer_is_restored_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment("sgd")
    before, after = fresh(settings), fresh(settings)
    train(before, settings, range(1))
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:1")
        parts = before.to_parts()
    assert b"cuda:1" in parts["optimizer.pt"]
    after.restore(parts)
    momenta = [
        [state["momentum_buffer"] for state in each.optimizer.state.values()] for each in (before, after)
    ]
    for ours, theirs in zip(*momenta, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_only_weights_of_a_transformer_are_decayed(backbone: str) -> None:
    """Not its position embeddings, class token and tables, though these have more than one dimension."""
    with torch.device("meta"):
        model = build_model(Model(backbone=backbone, decoder="linear"), num_classes=3, embedding=False)
    optimizer = build_optimizer(model, Optim())
    decayed = {p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    of_layers = {
        module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert decayed == of_layers
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "backbone",
    [
        "edgenext_xx_small",
        "eva02_tiny_patch14_224",
        "halonet26t",
        "maxvit_tiny_rw_224",
        "swinv2_tiny_window8_256",
        "tiny_vit_5m_224",
        "twins_svt_small",
    ],
)
def test_what_timm_does_not_decay_is_not_decayed(backbone: str) -> None:
    """Whichever way timm wraps the network: ``features_only`` can hide its ``no_weight_decay``."""
    with torch.device("meta"):
        whole: Any = timm.create_model(backbone)
        model = build_model(Model(backbone=backbone, decoder="linear"), num_classes=3, embedding=False)
    exempt = getattr(whole, "no_weight_decay", set)()
    spared, _ = param_groups_weight_decay(whole, weight_decay=0.1, no_weight_decay_list=exempt)
    by_timm = set(map(id, spared["params"]))
    names = {name for name, p in whole.named_parameters() if id(p) in by_timm}
    optimizer = build_optimizer(model, Optim())
    decayed = {p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    of_layers = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    ours = {f"backbone.{wrapped}" for name in names for wrapped in (name, *wrapped_names(name))}
    assert {name for name, p in model.named_parameters() if p in decayed} == of_layers - ours


def test_adamw_decays_convolutions_only_and_takes_momentum_as_first_beta() -> None:
    settings = Optim(optimizer="adamw", weight_decay=0.05, momentum=0.8)
    optimizer = build_optimizer(fresh(experiment("adamw")).model, settings)
    for group in optimizer.param_groups:
        assert group["betas"] == (0.8, 0.999)
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.05}
