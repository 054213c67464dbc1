"""Operators of DeepLabV3 and OCR, and that both are the same on any number of ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import distributed
from pixelcontrast.models.batchnorm import synchronize_batchnorm
from pixelcontrast.models.decoders import DeepLabV3Decoder, HRNetOCRDecoder, ResNetOCRDecoder
from pixelcontrast.models.decoders.deeplabv3 import ASPP
from pixelcontrast.training.step import cross_entropy
from processes import run_ranks

CHANNELS, CLASSES = (4, 6, 8, 10), 3
DECODERS: Any = {"deeplabv3": DeepLabV3Decoder, "hrnet-ocr": HRNetOCRDecoder, "resnet-ocr": ResNetOCRDecoder}


def build(name: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return DECODERS[name](CHANNELS, CLASSES, dropout=dropout)


def levels_of(batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Like a dilated ResNet's: the last three of one size."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(9, 13), (5, 7), (5, 7), (5, 7)]
    shapes = [(batch, channels, *size) for channels, size in zip(CHANNELS, sizes, strict=True)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def test_aspp_sees_the_image_at_the_rates_12_24_36():
    aspp = build("deeplabv3").aspp
    kernels = [branch[0] for branch in (aspp.pointwise, *aspp.dilated, aspp.pooled)]
    assert [conv.kernel_size for conv in kernels] == [(1, 1), (3, 3), (3, 3), (3, 3), (1, 1)]
    assert [conv.dilation[0] for conv in kernels] == [1, 12, 24, 36, 1]
    assert all(conv.padding == conv.dilation for conv in kernels[1:4])
    assert all(conv.bias is None and conv.out_channels == 512 for conv in kernels)


def test_aspp_written_out():
    aspp = build("deeplabv3").aspp.eval().double()
    x = levels_of(2, torch.float64)[3]

    def layer(block: nn.Sequential, x: Tensor) -> Tensor:
        convolution, normalisation = block[0], block[1]
        return F.relu(normalisation(convolution(x)))

    branches = [layer(aspp.pointwise, x), *(layer(branch, x) for branch in aspp.dilated)]
    pooled = layer(aspp.pooled, F.adaptive_avg_pool2d(x, 1))
    branches.append(F.interpolate(pooled, size=(5, 7), mode="bilinear", align_corners=True))
    torch.testing.assert_close(aspp(x), layer(aspp.fuse, torch.cat(branches, 1)), rtol=0, atol=1e-12)


def test_deeplabv3_takes_the_last_stage_and_its_auxiliary_head_the_one_before():
    decoder, levels = build("deeplabv3"), levels_of(2)
    decoded = decoder(levels)
    assert decoded.features is levels[3]
    torch.testing.assert_close(decoded.auxiliary, decoder.auxiliary(levels[2]))
    hidden = decoder.refine(decoder.aspp(levels[3]))
    assert (hidden < 0).any()  # the reference has no ReLU before this classifier
    torch.testing.assert_close(decoded.logits, decoder.classifier(hidden))


def test_ocr_takes_its_features_where_it_says():
    levels = levels_of(2)
    upsampled = [F.interpolate(level, size=(9, 13), mode="bilinear", align_corners=True) for level in levels]
    on_hrnet, on_resnet = build("hrnet-ocr")(levels), build("resnet-ocr")(levels)
    torch.testing.assert_close(on_hrnet.features, torch.cat(upsampled, 1))
    assert on_resnet.features is levels[3]
    torch.testing.assert_close(on_resnet.auxiliary, build("resnet-ocr").auxiliary(levels[2]))


@pytest.mark.parametrize("name", DECODERS)
def test_auxiliary_logits_are_given_in_training_only(name):
    decoder, levels = build(name), levels_of(2)
    assert decoder(levels).auxiliary is not None
    ran = []
    decoder.auxiliary.register_forward_hook(lambda *_: ran.append(True))
    assert decoder.eval()(levels).auxiliary is None
    assert bool(ran) == (name != "deeplabv3")  # OCR draws its regions from them


@pytest.mark.parametrize("name", DECODERS)
def test_training_starts_at_a_uniform_guess(name):
    decoded = build(name)(levels_of(2))
    for logits in (decoded.logits, decoded.auxiliary):
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean().item()
        assert entropy == pytest.approx(torch.tensor(CLASSES).log().item(), rel=0.05)


@pytest.mark.parametrize("name", DECODERS)
def test_dropout_is_before_the_classifier_and_in_training_only(name):
    decoder, levels = build(name, dropout=0.5), levels_of(2)
    assert not torch.equal(decoder(levels).logits, decoder(levels).logits)
    assert torch.equal(decoder(levels).auxiliary, decoder(levels).auxiliary)
    decoder.eval()
    assert torch.equal(decoder(levels).logits, decoder(levels).logits)


@pytest.mark.parametrize("name", ["hrnet-ocr", "resnet-ocr"])
def test_maps_of_one_pixel(name):
    levels = [level[..., :1, :1] for level in levels_of(1)]
    logits = build(name).eval()(levels).logits
    assert logits.shape == (1, CLASSES, 1, 1)
    assert logits.isfinite().all()


def build_narrow(name: str) -> Any:
    """DeepLabV3 with 16 channels instead of 512: in float64 the wide kernels take seconds."""
    decoder = build(name)
    if name == "deeplabv3":
        decoder.aspp, decoder.refine = ASPP(CHANNELS[3], 16), nn.BatchNorm2d(16)
        decoder.classifier = nn.Conv2d(16, CLASSES, 1)
    return decoder.double()


def outcome(rank: int, world_size: int) -> dict[str, Tensor]:
    """Losses over all ranks, the ranks' mean gradients and statistics after a step on a batch of 2 images."""
    results = {}
    for name in ("deeplabv3", "hrnet-ocr"):
        decoder: Any = synchronize_batchnorm(build_narrow(name), torch.device("cpu"))
        mine = slice(rank * 2 // world_size, (rank + 1) * 2 // world_size)
        decoded = decoder([level[mine] for level in levels_of(2, torch.float64)])
        labels = torch.randint(CLASSES, (2, *decoded.logits.shape[-2:]), generator=torch.Generator())
        labels[0, :3] = 255
        losses = [cross_entropy(logits, labels[mine]) for logits in (decoded.logits, decoded.auxiliary)]
        (losses[0] + 0.4 * losses[1]).backward()
        for kind, loss in zip(("ce", "auxiliary"), losses, strict=True):
            results[f"{name} {kind}"] = distributed.all_reduce(loss.detach()) / world_size
        for key, parameter in decoder.named_parameters():
            if parameter.numel() < 10_000:  # the wide kernels say no more
                results[f"{name} {key}"] = distributed.all_reduce(parameter.grad) / world_size
        results |= {f"{name} {key}": buffer for key, buffer in decoder.named_buffers() if buffer.ndim}
    return results


def test_two_ranks_of_one_image_are_one_process_of_two():
    """Losses, gradients, statistics; DeepLabV3's image pooling gives each rank one value to normalise."""
    expected = outcome(0, 1)
    for rank in run_ranks(2, outcome):
        for name, value in expected.items():
            torch.testing.assert_close(
                rank[name], value, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )
