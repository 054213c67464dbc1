"""The contrastive term in others' training loops: the examples run, and leave the plain network behind."""

import copy
import pickle
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from pixelcontrast.contrast import AnchorConfig, FeatureHook, PixelContrast, ProjectionHead
from processes import run_ranks

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
    network = build().eval()  # as from_pretrained returns it
    plain = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    values = runpy.run_path(str(FOLDER / f"{name}.py"))["train"](network, batches(), lr=lr)
    assert len(values) == STEPS
    assert values[-1] < 0.9 * values[0]
    assert network.training
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


class Tiny(nn.Module):
    """A network whose classifier is called in several ways."""

    def __init__(self, *, by_name: bool = False, reentrant: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.classifier = nn.Conv2d(3, 6, 1), nn.Conv2d(6, CLASSES, 1)
        self.projection = ProjectionHead(6, 4)
        self.by_name, self.reentrant = by_name, reentrant

    def forward(self, images: Tensor) -> Tensor:
        if self.reentrant is None:
            return self._classify(self.body(images))
        return checkpoint(self._classify, self.body(images), use_reentrant=self.reentrant)

    def _classify(self, features: Tensor) -> Tensor:
        features = features * 1.0
        return self.classifier(input=features) if self.by_name else self.classifier(features)


@pytest.mark.parametrize("settings", [{"by_name": True}, {"reentrant": False}], ids=str)
def test_features_are_kept_however_the_layer_is_called(settings) -> None:
    network = Tiny(**settings)
    hook, images = FeatureHook(network.classifier), torch.rand(1, 3, 4, 4)
    logits, features = network(images), hook.take()
    assert torch.equal(features, network.body(images))
    (logits.sum() + features.sum()).backward()
    with pytest.raises(ValueError, match="has not been called"):
        hook.take()  # nor does the hook keep what a checkpoint computes again


@pytest.mark.parametrize("reentrant", [True, None], ids=["checkpoint", "no_grad"])
def test_features_without_gradient_are_refused(reentrant: bool | None) -> None:
    network = Tiny(reentrant=reentrant)
    hook, images = FeatureHook(network.classifier), torch.rand(1, 3, 4, 4)
    with torch.set_grad_enabled(reentrant is not None):
        network(images)
    with pytest.raises(
        ValueError, match=r"the hooked Conv2d was called without gradients.*use_reentrant=False"
    ):
        hook.take()
    with torch.no_grad():
        assert not hook.take().requires_grad


def test_a_hooked_network_is_copied_between_its_forward_pass_and_take() -> None:
    """As an average of the weights is begun."""
    network = Tiny()
    hook = FeatureHook(network.classifier)
    network(torch.rand(1, 3, 4, 4))
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        copied(torch.rand(1, 3, 4, 4))
    assert hook.take().requires_grad


def documented_step(rank: int, world_size: int, way: str) -> dict[str, Tensor]:
    """Gradients of the step that platform/README.md shows, on this rank's half of a batch of four."""
    network = Tiny().double()
    head = project = network.projection
    features, called = FeatureHook(network.classifier), network
    if world_size > 1 and way == "apart":
        del network.projection
        project = DistributedDataParallel(head)
        called = DistributedDataParallel(network, find_unused_parameters=True)
    elif world_size > 1:
        called = DistributedDataParallel(network, static_graph=way == "static graph")
    contrast = PixelContrast(num_classes=CLASSES, embedding_dim=4, anchors=AnchorConfig(anchors_per_class=99))
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(4, 3, 6, 6, generator=generator).double()
        labels = torch.randint(CLASSES, (4, 6, 6), generator=generator)
        images, labels = (whole.chunk(world_size)[rank] for whole in (images, labels))
        logits = called(images)
        term = contrast(features.take(), labels, logits, project=project)
        network.zero_grad()
        head.zero_grad()
        (F.cross_entropy(logits, labels) + term).backward()
    named = [*network.named_parameters(), *head.named_parameters(prefix="projection")]
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


@pytest.mark.parametrize("way", ["inside", "static graph", "apart"])
def test_the_documented_step_trains_on_two_ranks_what_it_does_on_one(way: str) -> None:
    alone = documented_step(0, 1, way)
    assert len(alone) == 8
    for gradients in run_ranks(2, documented_step, way):
        torch.testing.assert_close(gradients, alone)
