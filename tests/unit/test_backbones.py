"""Which of timm's networks are backbones, what they give, and what is said of the others."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from pixelcontrast.config import Model
from pixelcontrast.models import SegmentationModel, build_model, check_model
from pixelcontrast.models.backbone import build_backbone, side_multiple


def small(*, seed: int = 0, num_classes: int = 5, embedding: bool = True, **changes) -> SegmentationModel:
    torch.manual_seed(seed)
    settings = {"backbone": "hrnet_w18_small", "embedding_dim": 16, **changes}
    return build_model(Model(**settings), num_classes=num_classes, embedding=embedding)


def on_meta(backbone: str, *, num_classes: int = 19, embedding: bool = False, **changes) -> SegmentationModel:
    with torch.device("meta"):
        return build_model(Model(backbone=backbone, **changes), num_classes=num_classes, embedding=embedding)


FAMILIES = {
    "convnext_atto": 32,
    "efficientnet_b0": 1,
    "mobilenetv3_small_050": 1,
    "pvt_v2_b0": 32,
    "regnetx_002": 1,
    "resnet18": 1,
    "swin_tiny_patch4_window7_224": 4,
    "tf_efficientnet_lite0": 1,
    "twins_svt_small": 32,
}
"""One of timm's networks per kind of wrapper and of size limit, and its side multiple."""


@pytest.mark.parametrize("name", FAMILIES)
def test_any_pyramid_of_timm_trains_at_an_odd_size(name):
    model = small(backbone=name)
    assert model.multiple == FAMILIES[name]
    output = model(torch.randn(2, 3, 70, 100))
    assert output.logits.shape == (2, 5, 70, 100)
    assert output.features is not None
    assert model.projection is not None
    assert output.features.shape[2:] == (18, 26 if name == "resnet18" else 25)  # its pooling rounds up
    (output.logits.sum() + model.projection(output.features).sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "focalnet_tiny_srf",
        "nextvit_small",
        "swin_tiny_patch4_window7_224",
        "swinv2_cr_tiny_ns_224",
    ],
)
def test_no_backbone_draws_anything_in_training(name):
    """timm gives these stochastic depth or dropout by default; each worker would draw its own."""
    backbone = build_backbone(name).train()
    side = max(64, side_multiple(name))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    backbone(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_lite0", "vit_tiny_patch16_224"])
def test_stochastic_depth_is_timm_s_own_and_leaves_the_start_as_it_is(name):
    torch.manual_seed(0)
    without = build_backbone(name)
    torch.manual_seed(0)
    backbone = build_backbone(name, drop_path=0.3)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.3, abs=0.02)
    assert len(set(rates)) > 1, "grows with the depth"
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for level, same in zip(backbone.eval()(images), without.eval()(images), strict=True):
            assert torch.equal(level, same)
        torch.manual_seed(1)
        one = backbone.train()(images)[-1]
        assert not torch.equal(one, backbone(images)[-1]), "every pass draws its own"


def test_a_network_without_stochastic_depth_is_refused_where_it_is_asked_for():
    with pytest.raises(ValueError, match=r"model\.drop_path: timm's hrnet_w18_small has no stochastic depth"):
        check_model(Model(backbone="hrnet_w18_small", drop_path=0.1))


def test_a_swin_of_any_size_is_timm_s_own_at_its_size():
    name = "swin_tiny_patch4_window7_224"
    images = torch.randn(1, 3, 224, 224)
    ours = build_backbone(name).eval()
    timms: Any = timm.create_model(name, features_only=True).eval()
    timms.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        for level, same in zip(ours(images), timms(images), strict=True):
            torch.testing.assert_close(level, same.permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_atto", "resnet18"])
def test_what_timm_can_dilate_takes_the_decoders_of_dilated_networks(name):
    for decoder in ("deeplabv3", "ocr"):
        model = on_meta(name, decoder=decoder, num_classes=5)
        output = model(torch.empty(2, 3, 70, 100, device="meta"))
        assert model.stride == 8
        assert output.auxiliary is not None
        levels: Any = model.backbone(torch.empty(2, 3, 96, 160, device="meta"))
        assert levels[2].shape[2:] == levels[3].shape[2:]


def test_looking_at_a_network_draws_nothing():
    """Else a first network would start from other weights than a second of the same seed."""
    before = torch.get_rng_state()
    check_model(Model(backbone="mobilenetv3_small_075"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "mean"), [("tf_efficientnet_lite0", 0.5), ("hrnet_w18_small", 0.485), ("resnet50", 0.485)]
)
def test_a_model_says_how_its_images_are_normalised(name, mean):
    model = on_meta(name)
    assert model.mean[0] == mean
    assert len(model.mean) == len(model.std) == 3


def dilations(stage: nn.Module) -> list[int]:
    layers = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
    return [conv.dilation[0] for conv in layers if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize("name", ["resnet50", "resnet101s", "wide_resnet50_2"])
def test_resnet_is_dilated_to_stride_8_as_published(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        levels = backbone(torch.empty(1, 3, 64, 96))
    # One more than 64/4 × 96/4: the pooling rounds up, as the reference's does.
    sizes = [tuple(level.shape[1:]) for level in levels]
    assert sizes == [(256, 17, 25), (512, 9, 13), (1024, 9, 13), (2048, 9, 13)]
    assert dilations(backbone.layer4) == [2, 4, 4]
    assert set(dilations(backbone.layer3)[1:]) == {2}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hrnet_w84", "'hrnet_w84' is not a model of timm (did you mean hrnet_w64"),
        ("vit_relpos_small_patch16_224", "strides 16, 16, 16 (did you mean vit_small_patch16_224?)"),
        ("csatv2", "has levels of strides 8, 16, 32, 64; use a network with"),
        ("botnet26t_256", "does not take images of every size"),
        ("convnext_tinny", "'convnext_tinny' is not a model of timm (did you mean convnext_tiny"),
        ("hrnet_w48.imagenet", "timm has no weights 'imagenet' of hrnet_w48; there are hrnet_w48.ms_in1k"),
    ],
)
def test_an_unusable_backbone_is_named_with_what_is_allowed(name, says):
    for refuse in (check_model, lambda model: build_model(model, num_classes=2, embedding=False)):
        with pytest.raises(ValueError) as error:
            refuse(Model(backbone=name))
        assert says in str(error.value)


def test_deeplabv3_on_a_hrnet_is_refused_with_both_keys():
    for refuse in (check_model, lambda model: build_model(model, num_classes=2, embedding=False)):
        with pytest.raises(ValueError, match=r"model\.decoder: deeplabv3 .* model\.backbone is 'hrnet_w48'"):
            refuse(Model(backbone="hrnet_w48", decoder="deeplabv3"))


def test_a_decoder_for_stride_8_on_a_network_that_cannot_be_dilated_is_refused():
    with pytest.raises(ValueError) as error:
        check_model(Model(backbone="pvt_v2_b0", decoder="ocr"))
    said = str(error.value)
    assert said.startswith("model.backbone: 'pvt_v2_b0' cannot be")
    assert "set model.backbone to a network that timm can dilate (resnet50" in said
    assert "or model.decoder to hrnet" in said


def test_check_model_accepts_what_can_be_built():
    check_model(Model(backbone="hrnet_w18_small"))
    check_model(Model(backbone="resnet101s", weights="timm", decoder="deeplabv3"))
    check_model(Model(backbone="resnet50", decoder="ocr"))
    check_model(Model(backbone="hrnet_w18.ms_aug_in1k", weights="timm"))
