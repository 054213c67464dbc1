"""What lower precisions cost: time on a CPU that emulates bfloat16, and how products and gradients err."""

import copy
import logging
import platform
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast import Data, Experiment, Model, Run
from pixelcontrast.models import build_model
from pixelcontrast.models.grouped import keep_grouped_in_float32
from pixelcontrast.training.loop import warn_of_emulated_precision

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads /proc/cpuinfo")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_warns_where_the_cpu_emulates_it(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    experiment = Experiment(
        data=Data(layout="camvid", root="camvid"),
        run=Run(name="r", precision=precision),  # type: ignore[arg-type]
    )
    with caplog.at_level(logging.WARNING):
        warn_of_emulated_precision(experiment, torch.device("cpu"))
    is_emulated = precision == "bfloat16" and "avx512f" not in CPUINFO.read_text()
    assert ("--run.precision float32" in caplog.text) == is_emulated


@pytest.mark.parametrize(("significant_bits", "most"), [(11, 0.001), (8, 0.008)], ids=["TF32", "bfloat16"])
def test_cosines_of_rounded_embeddings_err_no_more_than_matmul_precision_says(
    significant_bits: int, most: float
) -> None:
    rows = F.normalize(torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    fraction, exponent = torch.frexp(rows)
    rounded = torch.ldexp((fraction * 2**significant_bits).round() / 2**significant_bits, exponent)
    if significant_bits == 8:
        assert torch.equal(rounded, rows.float().bfloat16().double())
    error = (rounded @ rounded.T - rows @ rows.T).abs().max()
    assert most / 4 < error <= most


@pytest.mark.parametrize(
    ("channels", "groups", "dilation"), [(64, 64, 1), (64, 64, 2), (480, 480, 4), (128, 32, 2)]
)
def test_weights_of_grouped_convolutions_have_float64_s_gradients(
    channels: int, groups: int, dilation: int
) -> None:
    """oneDNN returns what lay in memory for a dilated grouped convolution in bfloat16, channels last."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"groups": groups, "dilation": dilation, "padding": dilation, "bias": False}
    network = nn.Sequential(nn.Conv2d(channels, channels, 3, **shape))
    exact = copy.deepcopy(network).double()
    keep_grouped_in_float32(network)
    images = torch.randn(8, channels, 24, 32).bfloat16().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images.to(memory_format=torch.channels_last))
    assert output.dtype == torch.bfloat16
    gradient = torch.randn(output.shape).bfloat16()
    output.backward(gradient.to(memory_format=torch.channels_last))
    exact(images.double()).backward(gradient.double())
    found, wanted = network[0].weight.grad, exact[0].weight.grad
    assert isinstance(found, Tensor)
    assert isinstance(wanted, Tensor)
    assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [("tf_efficientnet_lite0", "deeplabv3"), ("resnext50_32x4d", "ocr"), ("convnext_atto", "hrnet")],
)
def test_every_network_keeps_its_grouped_convolutions_in_float32(backbone: str, decoder: str) -> None:
    model = Model(backbone=backbone, decoder=decoder)  # type: ignore[arg-type]
    with torch.device("meta"):
        network = build_model(model, num_classes=2, embedding=False)
    kept = [module for module in network.modules() if type(module).__name__.endswith("InFloat32")]
    wanted = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
        if module.groups == module.in_channels or module.dilation[0] > 1
    ]
    assert kept == wanted
    assert kept


@pytest.mark.parametrize("autocast", [False, True])
def test_grouped_convolutions_keep_their_values_copies_and_names(autocast: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0").eval()
    network = copy.deepcopy(plain)
    keep_grouped_in_float32(network)
    torch.save(network, tmp_path / "network.pt")
    copies = [copy.deepcopy(network), torch.load(tmp_path / "network.pt", weights_only=False)]
    assert [type(module) for module in copies[1].modules()] == [type(module) for module in network.modules()]
    assert network.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = [each(images) for each in (plain, network, *copies)]
    assert outputs[1].dtype == outputs[0].dtype
    assert torch.equal(outputs[1], outputs[2])
    assert torch.equal(outputs[1], outputs[3])
    torch.testing.assert_close(
        outputs[1], outputs[0], rtol=0.05 if autocast else 0, atol=0.05 if autocast else 0
    )
