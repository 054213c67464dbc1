"""Plain Vision Transformers as backbones: any image size, pyramid or linear head, frozen or not."""

import dataclasses
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from pixelcontrast import Contrast, Data, Experiment, Model, Optim, PixelContrast, Run, load_model, run
from pixelcontrast.inference import export_model
from pixelcontrast.models import SegmentationModel, build_model, check_model, check_model_weights, weights
from pixelcontrast.models.backbone import build_backbone, check_backbone, side_multiple
from pixelcontrast.models.decoders.pyramid import PyramidDecoder, SimpleFeaturePyramid
from pixelcontrast.training.check_experiment import check_inputs
from pixelcontrast.training.optim import build_optimizer
from trained_runs import images as run_images
from trained_runs import write_run

TINY, TINY_ROTARY = "test_vit", "vit_tiny_patch16_dinov3_qkvb"
"""Patches of 16 pixels with learned position embeddings as DINOv2's; with rotary ones as DINOv3's."""


def network(backbone: str = TINY, *, embedding: bool = False, **settings: Any) -> SegmentationModel:
    torch.manual_seed(0)
    model = Model(backbone=backbone, embedding_dim=8, **settings)
    check_model(model)
    return build_model(model, num_classes=3, embedding=embedding)


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_small_patch14_dinov2", 14),
        ("vit_base_patch14_reg4_dinov2", 14),
        ("vit_small_patch16_dinov3", 16),
    ],
)
def test_dino_can_be_used_with_both_heads_and_not_with_others(name: str, side: int) -> None:
    check_backbone(name)
    assert side_multiple(name) == side
    for decoder in ("deeplabv3", "ocr"):
        with pytest.raises(
            ValueError, match=rf"plain Vision Transformer, with one level of stride {side}.* hrnet"
        ):
            check_model(Model(backbone=name, decoder=decoder))


@pytest.mark.parametrize("decoder", ["linear", "hrnet"])
@pytest.mark.parametrize("size", [(40, 56), (16, 17), (1, 1)])
def test_sizes_that_do_not_divide_are_padded_and_cropped(decoder: str, size: tuple[int, int]) -> None:
    model = network(decoder=decoder, embedding=True).eval()
    stride = {"linear": 16, "hrnet": 4}[decoder]
    assert model.stride == stride
    output = model(images(*size))
    assert output.logits.shape == (2, 3, *size)
    assert output.features is not None
    assert output.features.shape[2:] == tuple(-(-side // stride) for side in size)
    padded = torch.nn.functional.pad(images(*size), (0, -size[1] % 16, 0, -size[0] % 16))
    whole = model(padded).logits[..., : size[0], : size[1]]
    assert torch.allclose(output.logits, whole, atol=1e-5)


def test_patches_of_14_pixels_give_features_at_stride_three_and_a_half() -> None:
    with torch.device("meta"):
        model = network("vit_small_patch14_dinov2", decoder="hrnet", embedding=True).eval()
        output = model(torch.empty(1, 3, 100, 30))
    assert model.stride == 3.5
    assert output.features is not None
    assert output.features.shape[2:] == (29, 9)  # ⌈100 / 3.5⌉, ⌈30 / 3.5⌉
    assert output.logits.shape == (1, 3, 100, 30)


@pytest.mark.parametrize("name", [TINY, TINY_ROTARY])
def test_the_backbone_gives_timms_patch_tokens_at_any_size(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    plain: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    plain.load_state_dict(backbone.model.state_dict())
    pictures = images(48, 80)
    (level,) = backbone(pictures)
    tokens = plain.forward_features(pictures)[:, plain.num_prefix_tokens :]
    assert level.shape[2:] == (3, 5)
    assert torch.allclose(level.flatten(2).transpose(1, 2), tokens, atol=1e-5)


def test_pyramid_has_four_levels() -> None:
    levels = SimpleFeaturePyramid(16)(torch.randn(1, 16, 3, 5))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (256, 12, 20),
        (256, 6, 10),
        (256, 3, 5),
        (256, 2, 3),
    ]


@pytest.mark.parametrize("decoder", ["linear", "hrnet"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_is_not_trained(decoder: str, frozen: bool) -> None:
    model = network(decoder=decoder, freeze_backbone=frozen).train()
    optimizer = build_optimizer(model, Optim(lr=0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(images(32, 48)).logits.square().mean().backward()
    optimizer.step()
    changed = {
        name.partition(".")[0]
        for name, tensor in model.state_dict().items()
        if (tensor != before[name]).any()
    }
    assert changed == ({"decoder"} if frozen else {"backbone", "decoder"})
    assert model.backbone.training is not frozen


def test_the_contrast_trains_the_pyramid_on_a_frozen_backbone() -> None:
    model = network(decoder="hrnet", freeze_backbone=True, embedding=True).train()
    output = model(images(32, 48))
    labels = torch.arange(48).div(16, rounding_mode="floor").expand(2, 32, 48)
    assert output.features is not None
    assert model.projection is not None
    contrast = PixelContrast(num_classes=3, embedding_dim=8)
    contrast(output.features, labels, output.logits, project=model.projection).backward()
    assert isinstance(model.decoder, PyramidDecoder)
    assert all(p.grad is not None and p.grad.any() for p in model.decoder.pyramid.scales.parameters())
    assert all(p.grad is None for p in model.backbone.parameters())


def test_a_frozen_backbone_keeps_its_batchnorm_statistics() -> None:
    model = network("resnet18", decoder="linear", freeze_backbone=True).train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model(images(32, 48))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        (Model(backbone=TINY, decoder="linear", freeze_backbone=True), True),
        (Model(backbone="resnet18", decoder="hrnet", freeze_backbone=True), True),
        (Model(backbone=TINY, decoder="hrnet", freeze_backbone=True), False),
        (Model(backbone=TINY, decoder="linear"), False),
    ],
)
def test_a_contrast_that_would_train_its_head_alone_is_refused(
    model: Model, refused: bool, scenes: Path, tmp_path: Path
) -> None:
    torch.save(timm.create_model(model.backbone).state_dict(), tmp_path / "own.pth")
    model = dataclasses.replace(model, weights=str(tmp_path / "own.pth"))
    data = Data(layout="cityscapes", root=str(scenes), crop_size=(32, 64))
    experiment = Experiment(data=data, model=model, contrast=Contrast(weight=1.0), run=Run(name="a"))
    message = r"freeze_backbone: with model.decoder .* Set contrast.weight to 0"
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        check_inputs(experiment)


def test_a_trained_vit_is_loaded_and_exported(tmp_path: Path) -> None:
    model = Model(backbone=TINY, embedding_dim=8, freeze_backbone=True)
    folder, logits = write_run(tmp_path, model=model, steps=(4,))
    trained = load_model(folder)
    assert torch.allclose(trained(run_images()).logits, logits[4], atol=1e-6)
    file = export_model(trained, "safetensors", out=str(tmp_path / "a.safetensors"))
    assert torch.equal(load_model(file)(run_images()).logits, trained(run_images()).logits)


def test_a_graph_of_rotary_positions_fits_any_size(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, _ = write_run(tmp_path, model=Model(backbone=TINY_ROTARY, embedding_dim=8), steps=(4,))
    trained = load_model(folder)
    session = onnxruntime.InferenceSession(export_model(trained, "onnx", out=str(tmp_path / "a.onnx")))
    for height, width in ((40, 64), (97, 150)):
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        (found,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = trained(images).logits
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_learnt_positions_have_no_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    folder, _ = write_run(tmp_path, model=Model(backbone=TINY, embedding_dim=8), steps=(4,))
    message = r"--format onnx: torch cannot write test_vit as a graph: .*bicubic.*; allowed are safetensors"
    with pytest.raises(ValueError, match=message):
        export_model(load_model(folder), "onnx", out=str(tmp_path / "a.onnx"))
    assert capsys.readouterr() == ("", ""), "torch prints the graph"


def test_timms_files_load_and_others_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model(TINY, num_classes=10)
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "vit.safetensors")
    model = Model(backbone=TINY, weights=str(tmp_path / "vit.safetensors"))
    backbone: Any = build_model(model, num_classes=3, embedding=False).backbone
    assert all(
        torch.equal(tensor, whole.state_dict()[name]) for name, tensor in backbone.model.state_dict().items()
    )
    with pytest.raises(ValueError, match=r"vit\.safetensors: not weights of vit_tiny_patch16_224"):
        check_model_weights(
            dataclasses.replace(model, backbone="vit_tiny_patch16_224"), num_classes=3, embedding=False
        )


def cache_timm_file(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Fill the hub's cache with a file as timm publishes: the whole classification network's state."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    state = {key: torch.randn(value.shape, generator=generator) / 16 for key, value in whole.items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: str(folder / "model.safetensors"))
    return state


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_timm_s_file_gives_the_tokens_of_timm_s_features(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where timm's network has no norm but after its pooling: fc_norm, as EVA-02."""
    state = cache_timm_file(name, tmp_path, monkeypatch)
    model = Model(backbone=name, weights="timm", decoder="linear")
    check_model_weights(model, num_classes=3, embedding=False)
    network = build_model(model, num_classes=3, embedding=False).eval()
    timms: Any = timm.create_model(name, dynamic_img_size=True).eval()
    timms.load_state_dict(state)
    pictures = images(network.multiple * 2, network.multiple * 3)
    with torch.inference_mode():
        (level,) = network.backbone(pictures)
        (want,) = timms.forward_intermediates(pictures, indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(level, want)
    network.train()(pictures).logits.sum().backward()  # DDP wants a gradient of every parameter
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "deit3_small_patch16_224",
        "eva02_base_patch16_clip_224",
        "eva_giant_patch14_224",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_gap_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_small_patch16_dinov3",
    ],
)
def test_a_plain_vit_has_the_norms_of_timm_s_files(name: str) -> None:
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
        backbone = build_backbone(name)
    assert backbone.model.state_dict().keys() == {
        key for key in whole if not key.startswith(("head", "fc_norm", "attn_pool"))
    }


def test_timm_s_file_is_compared_with_the_network_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = cache_timm_file(TINY, tmp_path, monkeypatch)
    cut = {key: value for key, value in state.items() if key != "norm.weight"}
    safetensors.torch.save_file(cut, tmp_path / "model.safetensors")
    message = r"timm/test_vit\.r160_in1k cannot be taken: .*: not weights of test_vit: model\.norm\.weight "
    with pytest.raises(ValueError, match=message):
        check_model_weights(Model(backbone=TINY, weights="timm"), num_classes=3, embedding=False)


@pytest.mark.parametrize(
    ("name", "licence"),
    [("vit_small_patch16_dinov3", "dinov3-license"), ("vit_small_patch14_dinov2", "apache-2.0")],
)
def test_the_licence_that_timm_names_is_told(
    name: str,
    licence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache_timm_file(name, tmp_path, monkeypatch)
    with caplog.at_level(logging.INFO, "pixelcontrast"):
        check_model_weights(Model(backbone=name, weights="timm"), num_classes=3, embedding=False)
    assert f"licence of timm/{name}" in caplog.text
    assert f": {licence};" in caplog.text


def test_a_start_shows_the_licence(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_timm_file("vit_small_patch16_dinov3", tmp_path, monkeypatch)
    experiment = Experiment(
        data=Data(layout="cityscapes", root=str(scenes)),
        optim=Optim(class_weights=(1.0,)),  # refused after the weights were looked at
        model=Model(backbone="vit_small_patch16_dinov3", weights="timm"),
        run=Run(name="a", storage=str(tmp_path)),
    )
    with pytest.raises(SystemExit):
        run(experiment)
    assert "licence of timm/vit_small_patch16_dinov3.lvd1689m: dinov3-license" in capsys.readouterr().err
