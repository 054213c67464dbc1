"""The network's operators, sizes and outputs."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pixelcontrast.config import Model
from pixelcontrast.models import Output, SegmentationModel, build_model, check_model
from pixelcontrast.models.backbone import build_backbone


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(*, seed: int = 0, num_classes: int = 5, embedding: bool = True, **changes) -> SegmentationModel:
    torch.manual_seed(seed)
    settings = {"backbone": "hrnet_w18_small", "embedding_dim": 16, **changes}
    return build_model(Model(**settings), num_classes=num_classes, embedding=embedding)


def on_meta(backbone: str, *, num_classes: int = 19, embedding: bool = False, **changes) -> SegmentationModel:
    with torch.device("meta"):
        return build_model(Model(backbone=backbone, **changes), num_classes=num_classes, embedding=embedding)


@pytest.mark.parametrize(
    ("backbone", "kernel", "of_backbone", "of_all"),
    [
        ("hrnet_w48", 1, 65_325_120, 65_859_379),  # the official code's head
        ("hrnet_w48", 3, 65_325_120, 70_006_560),  # the method's reference's head
        ("hrnet_w18_small", 1, 1_477_920, 1_540_819),
        ("resnet101s", 1, 42_623_936, 42_623_936 + 3840 * 3840 + 3840 + 2 * 3840 + 3840 * 19 + 19),
    ],
)
def test_parameter_counts_are_those_of_the_published_networks(backbone, kernel, of_backbone, of_all):
    model = on_meta(backbone, decoder_kernel=kernel)
    assert (count(model.backbone), count(model)) == (of_backbone, of_all)


def test_projection_head_is_all_that_contrast_adds():
    plain, contrastive = on_meta("hrnet_w18_small"), on_meta("hrnet_w18_small", embedding=True)
    assert count(contrastive) - count(plain) == 240 * 240 + 240 + 240 * 256 + 256
    with_batchnorm = on_meta("hrnet_w18_small", embedding=True, embedding_batchnorm=True)
    assert count(with_batchnorm) - count(contrastive) == 2 * 240
    extra = contrastive.state_dict().keys() - plain.state_dict().keys()
    assert extra == {key for key in contrastive.state_dict() if key.startswith("projection.")}


def test_hrnet_fuses_its_branches_by_bilinear_upsampling_with_aligned_corners():
    model: Any = small().eval()
    upsampled = 0
    for module in model.backbone.modules():
        for branch in (branch for layer in getattr(module, "fuse_layers", ()) for branch in layer):
            if isinstance(branch, nn.Sequential) and isinstance(branch[-1], nn.Upsample):
                convolution, normalisation, upsample = branch
                x = torch.randn(1, convolution.in_channels, 3, 4)  # type: ignore[arg-type]
                want = normalisation(convolution(x))
                factor = int(upsample.scale_factor)  # type: ignore[arg-type]
                want = F.interpolate(want, size=(3 * factor, 4 * factor), mode="bilinear", align_corners=True)
                torch.testing.assert_close(branch(x), want, rtol=0, atol=0)
                upsampled += 1
    assert upsampled == 1 + 3 + 6  # of one module in each of the stages 2, 3 and 4


def test_hrnet_decoder_sees_all_levels_at_the_finest_resolution():
    model = small(embedding=False).eval()
    levels = model.backbone(torch.randn(1, 3, 64, 96))
    sizes = [tuple(level.shape[1:]) for level in levels]
    assert sizes == [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    want = [F.interpolate(level, size=(16, 24), mode="bilinear", align_corners=True) for level in levels]
    torch.testing.assert_close(model.decoder(levels).features, torch.cat(want, dim=1), rtol=0, atol=0)


def dilations(stage: nn.Module) -> list[int]:
    layers = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    return [conv.dilation[0] for conv in layers if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize("name", ["resnet50", "resnet101s", "wide_resnet50_2"])
def test_resnet_is_dilated_to_stride_8_with_multi_grid(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        levels = backbone(torch.empty(1, 3, 64, 96))
    # One more than 64/4 × 96/4: the pooling rounds up, as the reference's does.
    sizes = [tuple(level.shape[1:]) for level in levels]
    assert sizes == [(256, 17, 25), (512, 9, 13), (1024, 9, 13), (2048, 9, 13)]
    assert dilations(backbone.layer4) == [2, 8, 16]
    assert set(dilations(backbone.layer3)[1:]) == {2}


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (1, 7)])
@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "resnet50"])
def test_any_size_goes_in_and_comes_out(backbone, size):
    model = on_meta(backbone, num_classes=5, embedding=True, embedding_dim=8)
    output = model(torch.empty(2, 3, *size, device="meta"))
    assert output.logits.shape == (2, 5, *size)
    assert output.embedding is not None
    assert output.embedding.shape == (2, 8, math.ceil(size[0] / 4), math.ceil(size[1] / 4))


def test_odd_sizes_equal_zero_padding_by_hand():
    model = small().eval().double()
    images = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    padded = model(F.pad(images, (0, 31, 0, 31)))
    output = model(images)
    torch.testing.assert_close(output.logits, padded.logits[..., :65, :97], rtol=0, atol=1e-12)
    torch.testing.assert_close(output.embedding, padded.embedding[..., :17, :25], rtol=0, atol=1e-12)


def test_embedding_batchnorm_does_not_see_the_padding():
    model: Any = small(embedding_batchnorm=True).double()
    model.eval()  # but for the head's normalisation, whose statistics are looked at
    model.projection.bn.train().momentum = 1.0
    images = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    model(images)
    levels = model.backbone(F.pad(images, (0, 24, 0, 24)))
    hidden = model.projection.conv1(model.decoder(levels).features[..., :10, :10])
    torch.testing.assert_close(model.projection.bn.running_mean, hidden.mean((0, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_have_unit_length_in_the_dtype_of_the_network(dtype):
    output = small().to(dtype)(torch.randn(2, 3, 64, 64, dtype=dtype))
    assert output.embedding.dtype == output.logits.dtype == dtype
    lengths = output.embedding.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_autocast_leaves_outputs_in_float32():
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64))
    assert output.embedding.dtype == output.logits.dtype == torch.float32
    lengths = output.embedding.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))  # bfloat16 would miss by 1e-3


def test_a_vanishing_vector_has_a_finite_gradient():
    model: Any = small()
    for parameter in model.projection.parameters():
        nn.init.zeros_(parameter)
    output = model(torch.randn(2, 3, 64, 64))
    output.embedding.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert not output.embedding.any()


def test_without_a_head_there_is_no_embedding_and_the_network_starts_alike():
    contrastive, plain = small(), small(embedding=False)
    images = torch.randn(2, 3, 64, 64)
    assert plain(images).embedding is None
    same = contrastive.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in small(embedding=False).state_dict().items())
    other = small(seed=1, embedding=False).decoder.classifier.weight
    assert not torch.equal(other, same["decoder.classifier.weight"])


def test_training_starts_at_a_uniform_guess_and_gets_better():
    model = small(num_classes=4)
    images = torch.randn(2, 3, 64, 64)
    labels = (images[:, 0] > 0).long() + 2 * (images[:, 1] > 0).long()
    labels = labels.unfold(1, 8, 8).unfold(2, 8, 8)[..., 0, 0].repeat_interleave(8, 1).repeat_interleave(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(4), rel=0.05)
    assert losses[-1] < 0.8 * losses[0]


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5, embedding=False)
    levels = model.backbone(torch.randn(2, 3, 64, 64))
    assert not torch.equal(model.decoder(levels).logits, model.decoder(levels).logits)
    model.eval()
    assert torch.equal(model.decoder(levels).logits, model.decoder(levels).logits)


def test_ddp_steps_use_every_parameter_and_give_the_named_outputs(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(small())
        for _ in range(2):  # a parameter without gradient fails the second step
            output = model(torch.randn(2, 3, 64, 64))
            assert isinstance(output, Output)
            assert output.embedding is not None
            (output.logits.sum() + output.embedding.sum()).backward()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hrnet_w84", "'hrnet_w84' is not a model of timm (did you mean hrnet_w64"),
        ("vit_base_patch16_224", "neither a HRNet nor a plain ResNet; there are hrnet_w18, "),
        ("resnet18", "three bottleneck blocks"),
        ("hrnet_w48.imagenet", "timm has no weights 'imagenet' of hrnet_w48; there are hrnet_w48.ms_in1k"),
    ],
)
def test_an_unusable_backbone_is_named_with_what_is_allowed(name, says):
    for refuse in (check_model, lambda model: build_model(model, num_classes=2, embedding=False)):
        with pytest.raises(ValueError) as error:
            refuse(Model(backbone=name))
        assert says in str(error.value)


def test_check_model_accepts_what_can_be_built():
    check_model(Model(backbone="hrnet_w18_small"))
    check_model(Model(backbone="hrnet_w18.ms_aug_in1k", weights="timm"))
