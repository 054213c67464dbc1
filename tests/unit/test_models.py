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
from pixelcontrast.contrast import PixelContrast
from pixelcontrast.models import Output, SegmentationModel, build_model
from pixelcontrast.models.decoders.ocr import gather_objects


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


@pytest.mark.parametrize(
    ("backbone", "decoder", "of_backbone", "of_all"),
    [
        ("hrnet_w48", "ocr", 65_325_120, 74_522_182),
        ("resnet101s", "deeplabv3", 42_623_936, 89_570_278),
        # The pixels' 3×3, the auxiliary head 1024 → 512 → 19; object context, fusion and classifier as above.
        (
            "resnet101s",
            "ocr",
            42_623_936,
            42_623_936
            + (9 * 2048 * 512 + 3 * 512)
            + (9 * 1024 * 512 + 3 * 512 + 512 * 19 + 19)
            + (660_736 + 525_824 + 9_747),
        ),
    ],
)
def test_parameter_counts_with_the_auxiliary_head(backbone, decoder, of_backbone, of_all):
    for kernel in (1, 3):  # a setting of the hrnet decoder, without effect here
        model = on_meta(backbone, decoder=decoder, decoder_kernel=kernel)
        assert (count(model.backbone), count(model)) == (of_backbone, of_all)


@pytest.mark.parametrize(
    ("settings", "num_classes", "published", "biases"),
    [
        ({"backbone": "hrnet_w48", "decoder": "ocr", "operators": "hrnet"}, 19, 70_372_678, 9 * 256),
        ({"backbone": "resnet101", "decoder": "deeplabv3", "operators": "torchvision"}, 21, 60_996_202, 256),
    ],
)
def test_networks_of_other_sources_have_their_parameters_and_biases_before_batchnorm(
    settings, num_classes, published, biases
):
    assert count(on_meta(num_classes=num_classes, **settings)) == published + biases


@pytest.mark.parametrize(
    ("backbone", "decoder", "width"),
    [
        ("hrnet_w18_small", "hrnet", 240),
        ("hrnet_w18_small", "ocr", 240),
        ("resnet50", "deeplabv3", 2048),
        ("resnet50", "ocr", 2048),
    ],
)
def test_projection_head_is_all_that_contrast_adds(backbone, decoder, width):
    """Its width says where the embedding is taken: at the concatenated branches, or at the last stage."""
    plain = on_meta(backbone, decoder=decoder)
    contrastive = on_meta(backbone, decoder=decoder, embedding=True)
    assert count(contrastive) - count(plain) == width * width + width + width * 256 + 256
    with_batchnorm = on_meta(backbone, decoder=decoder, embedding=True, embedding_batchnorm=True)
    assert count(with_batchnorm) - count(contrastive) == 2 * width
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


@pytest.mark.parametrize(
    ("backbone", "decoder", "cells"),
    [
        ("hrnet_w18_small", "hrnet", ((16, 24), (17, 25), (1, 2))),
        ("hrnet_w18_small", "ocr", ((16, 24), (17, 25), (1, 2))),
        ("resnet50", "hrnet", ((17, 25), (17, 25), (1, 3))),  # its pooling rounds up
        ("resnet50", "ocr", ((9, 13), (9, 13), (1, 2))),
        ("resnet50", "deeplabv3", ((9, 13), (9, 13), (1, 2))),
    ],
)
def test_any_size_goes_in_and_comes_out(backbone, decoder, cells):
    model = on_meta(backbone, decoder=decoder, num_classes=5, embedding=True, embedding_dim=8)
    for size, of_size in zip(((64, 96), (65, 97), (1, 7)), cells, strict=True):
        output = model(torch.empty(2, 3, *size, device="meta"))
        assert output.logits.shape == (2, 5, *size)
        assert output.features is not None
        assert model.projection is not None
        embedding = model.projection(output.features)
        assert embedding.shape == (2, 8, *of_size)
        assert (output.auxiliary is None) == (decoder == "hrnet")
        if output.auxiliary is not None:
            assert output.auxiliary.shape == (2, 5, *size)
    assert model.eval()(torch.empty(2, 3, 1, 7, device="meta")).auxiliary is None


def test_padding_is_part_of_no_object():
    """OCR's regions are drawn over the image, not over the zeros that a HRNet's branches need beside it."""
    model: Any = small(decoder="ocr", embedding=False).eval().double()
    images = torch.randn(1, 3, 40, 72, dtype=torch.float64)
    levels = model.backbone(F.pad(images, (0, 24, 0, 24)))
    pixels = model.decoder.pixels(model.decoder(levels).features)
    scores = model.decoder.auxiliary(model.decoder(levels).features)
    objects = gather_objects(pixels[..., :10, :18], scores[..., :10, :18])
    hidden = model.decoder.fuse(torch.cat([model.decoder.context(pixels, objects), pixels], 1))
    logits = model.decoder.classifier(hidden)
    want = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=True)[..., :40, :72]
    torch.testing.assert_close(model(images).logits, want, rtol=0, atol=1e-12)


def test_a_resnet_sees_no_padding():
    """Its maps are interpolated to any size, and image pooling would average the zeros."""
    model: Any = small(backbone="resnet50", decoder="deeplabv3", embedding=False).eval()
    images = torch.randn(1, 3, 40, 56)
    levels = model.backbone(images)
    assert levels[3].shape[-2:] == (6, 8)
    want = F.interpolate(model.decoder(levels).logits, size=(40, 56), mode="bilinear", align_corners=True)
    torch.testing.assert_close(model(images).logits, want)


def test_odd_sizes_equal_zero_padding_by_hand():
    model: Any = small().eval().double()
    images = torch.randn(2, 3, 65, 97, dtype=torch.float64)
    padded = model(F.pad(images, (0, 31, 0, 31)))
    output = model(images)
    torch.testing.assert_close(output.logits, padded.logits[..., :65, :97], rtol=0, atol=1e-12)
    torch.testing.assert_close(output.features, padded.features[..., :17, :25], rtol=0, atol=1e-12)


def test_embedding_batchnorm_does_not_see_the_padding():
    model: Any = small(embedding_batchnorm=True).double()
    model.eval()  # but for the head's normalisation, whose statistics are looked at
    model.projection.bn.train().momentum = 1.0
    images = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    model.projection(model(images).features)
    levels = model.backbone(F.pad(images, (0, 24, 0, 24)))
    hidden = model.projection.conv1(model.decoder(levels).features[..., :10, :10])
    torch.testing.assert_close(model.projection.bn.running_mean, hidden.mean((0, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_are_raw_and_in_the_dtype_of_the_network(dtype):
    """Their length is the contrast's to take."""
    model: Any = small().to(dtype)
    output = model(torch.randn(2, 3, 64, 64, dtype=dtype))
    embedding = model.projection(output.features)
    assert embedding.dtype == output.logits.dtype == dtype
    head, rows = model.projection, output.features.movedim(1, 3)
    hidden = (rows @ head.conv1.weight.flatten(1).T + head.conv1.bias).relu()
    want = hidden @ head.conv2.weight.flatten(1).T + head.conv2.bias
    torch.testing.assert_close(embedding.movedim(1, 3), want)
    assert embedding.norm(dim=1).std() > 0.01


@pytest.mark.parametrize("decoder", ["hrnet", "ocr"])
def test_autocast_leaves_logits_in_float32_and_embeddings_in_the_convolutions_dtype(decoder):
    model: Any = small(decoder=decoder)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64))
        embedding = model.projection(output.features)
    assert output.logits.dtype == torch.float32
    assert embedding.dtype == torch.bfloat16
    assert output.auxiliary is None or output.auxiliary.dtype == torch.float32


def test_a_vanishing_vector_has_a_finite_gradient():
    model: Any = small()
    for parameter in model.projection.parameters():
        nn.init.zeros_(parameter)
    embedding = model.projection(model(torch.randn(2, 3, 64, 64)).features)
    labels = torch.arange(2).repeat(2, 16, 8)
    loss = PixelContrast(num_classes=2, embedding_dim=16)(embedding, labels, torch.zeros(2, 2, 16, 16))
    loss.backward()
    assert loss > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert not embedding.any()


def test_a_head_embeds_single_pixels_as_it_embeds_the_map():
    model: Any = small().double()
    features = model(torch.randn(2, 3, 64, 64, dtype=torch.float64)).features
    rows = features.permute(0, 2, 3, 1).flatten(0, 2)
    embedded = model.projection(features).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(model.projection(rows), embedded, rtol=0, atol=1e-12)
    nothing = model.projection(rows[:0])
    nothing.sum().backward()
    assert nothing.shape == (0, 16)
    assert all(not p.grad.any() for p in model.projection.parameters()), "none at all would fail DDP"


@pytest.mark.parametrize("decoder", ["hrnet", "ocr"])
def test_without_a_head_there_is_no_embedding_and_the_network_starts_alike(decoder):
    contrastive, plain = small(decoder=decoder), small(decoder=decoder, embedding=False)
    images = torch.randn(2, 3, 64, 64)
    assert plain(images).features is None
    same, again = contrastive.state_dict(), small(decoder=decoder, embedding=False).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in again.items())
    other = small(seed=1, decoder=decoder, embedding=False).decoder.classifier.weight
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


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [
        ("hrnet_w18_small", "hrnet"),
        ("hrnet_w18_small", "ocr"),
        pytest.param("resnet50", "deeplabv3", marks=pytest.mark.slow),
        pytest.param("resnet50", "ocr", marks=pytest.mark.slow),
    ],
)
def test_ddp_steps_use_every_parameter_and_give_the_named_outputs(backbone, decoder, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model: Any = DistributedDataParallel(small(backbone=backbone, decoder=decoder))
        for _ in range(2):  # a parameter without gradient fails the second step
            output = model(torch.randn(2, 3, 32, 32))
            assert isinstance(output, Output)
            loss = output.logits.sum() + model.module.projection(output.features).sum()
            if output.auxiliary is not None:
                loss = loss + 0 * output.auxiliary.sum()  # as with --optim.auxiliary-weight 0
            loss.backward()
    finally:
        dist.destroy_process_group()
