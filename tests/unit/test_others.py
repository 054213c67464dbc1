"""The contrastive term in others' training loops: the examples run, and leave the plain network behind."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from pixelcontrast.contrast import FeatureHook

FOLDER = Path(__file__).parents[2] / "experiments" / "others"
CLASSES, STEPS = 3, 12


def unet() -> nn.Module:
    return smp.Unet(
        "mobilenet_v2", encoder_weights=None, classes=CLASSES, decoder_channels=(32, 24, 16, 16, 16)
    )


def segformer() -> nn.Module:
    sizes = SegformerConfig(
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
    )
    sizes.num_labels = CLASSES
    return SegformerForSemanticSegmentation(sizes)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """The same two images, each class a column of its own colour, with an ignored row."""
    torch.manual_seed(0)
    labels = torch.arange(64).div(22, rounding_mode="floor").expand(2, 64, 64).clone()
    labels[:, :4] = 255
    images = 0.3 * torch.randn(2, 3, 64, 64)
    images[:, 0] += labels.clamp(max=CLASSES)
    for _ in range(STEPS):
        yield images, labels


EXAMPLES = [("smp_unet", unet, 0.01), ("segformer", segformer, 1e-3)]


@pytest.mark.parametrize(("name", "build", "lr"), EXAMPLES, ids=[name for name, *_ in EXAMPLES])
def test_the_term_falls_and_the_plain_network_is_left(
    name: str, build: Callable[[], nn.Module], lr: float
) -> None:
    torch.manual_seed(0)
    network = build().train()
    plain = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    values = runpy.run_path(str(FOLDER / f"{name}.py"))["train"](network, batches(), lr=lr)
    assert len(values) == STEPS
    assert values[-1] < 0.9 * values[0]
    assert network.state_dict().keys() == plain.keys()
    assert not any(module._forward_pre_hooks for module in network.modules())
    network.load_state_dict(plain)  # as a checkpoint of the plain network is


@pytest.mark.parametrize(("name", "build", "lr"), EXAMPLES, ids=[name for name, *_ in EXAMPLES])
def test_the_term_and_its_head_go_to_the_network_s_device(
    name: str, build: Callable[[], nn.Module], lr: float
) -> None:
    """On the meta device the first step ends at the term's first look at a value, of which there is none."""
    network = build().to("meta")

    def moved() -> Iterator[tuple[Tensor, Tensor]]:
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
        for images, labels in batches():
            yield images.to("meta"), labels.to("meta")

    train = runpy.run_path(str(FOLDER / f"{name}.py"))["train"]
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        train(network, moved(), lr=lr)


@pytest.mark.parametrize("name", [name for name, *_ in EXAMPLES])
def test_an_example_has_under_forty_lines(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 40


def test_features_are_taken_once_per_forward_pass_and_carry_gradient() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    hook = FeatureHook(network[1])
    with pytest.raises(ValueError, match=r"the hooked Conv2d has not been called since .* run the network"):
        hook.take()
    images = torch.rand(1, 3, 8, 8)
    network(images)
    features = hook.take()
    assert torch.equal(features, network[0](images))
    features.sum().backward()
    assert network[0].weight.grad is not None
    network(images)
    hook.remove()
    with pytest.raises(ValueError, match="has not been called"):
        hook.take()
