"""``PixelContrast`` within a network that is cast to another dtype, or moved to another device."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrasts import CLASSES, DIM, logits_for, small_contrast
from pixelcontrast.contrast import PixelContrast

Cast = Callable[[nn.Module], nn.Module]
CASTS: dict[str, Cast] = {
    "half": lambda network: network.half(),
    "to": lambda network: network.to(torch.float16),
    "bfloat16": lambda network: network.bfloat16(),
    "double": lambda network: network.double(),
    "type": lambda network: network.type(torch.float16),
}


def contrast_of(**settings: str) -> PixelContrast:
    return small_contrast(region_memory_size=8, anchors_per_class=150, rare_class_power=0.5, **settings)


def dtypes(contrast: PixelContrast) -> dict[str, torch.dtype]:
    return {name: buffer.dtype for name, buffer in contrast.named_buffers()}


def losses_and_health(contrast: PixelContrast) -> tuple[list[Tensor], dict[str, object]]:
    """Two steps of nearly equal embeddings, whose gap float16 and bfloat16 would lose."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(200).reshape(1, 20, 20)
    losses = []
    for _ in range(2):
        maps = torch.ones(1, DIM, 20, 20) + 0.01 * torch.randn(1, DIM, 20, 20, generator=generator)
        losses.append(contrast(F.normalize(maps, dim=1), labels, logits_for(labels)))
    return losses, dict(contrast.diagnostics.read(contrast.memory, int(contrast.steps)))


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_a_cast_of_the_network_leaves_the_contrast_s_numbers_as_they_are(cast: Cast, stored: str) -> None:
    network = nn.ModuleDict({"layer": nn.Linear(2, 2), "contrast": contrast_of(memory_dtype=stored)})
    contrast, plain = network["contrast"], contrast_of(memory_dtype=stored)
    assert isinstance(contrast, PixelContrast)
    cast(network)
    assert next(network["layer"].parameters()).dtype != torch.float32
    assert dtypes(contrast) == dtypes(plain)
    assert losses_and_health(contrast) == losses_and_health(plain)
    written = {name: tensor.clone() for name, tensor in contrast.state_dict().items()}
    cast(contrast.memory)
    cast(contrast.diagnostics)
    for name, tensor in contrast.state_dict().items():
        assert tensor.dtype == written[name].dtype
        assert torch.equal(tensor, written[name])


def test_the_contrast_moves_to_a_device_in_its_dtypes() -> None:
    contrast, expected = contrast_of(), dtypes(contrast_of())
    for moved in (contrast_of().to("meta"), contrast_of().to("meta", torch.float16)):
        assert dtypes(moved) == expected
        assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}
        back = moved.to_empty(device="cpu")
        back.load_state_dict(contrast.state_dict())
        assert dtypes(back) == expected
        assert {buffer.device.type for buffer in back.buffers()} == {"cpu"}
    assert len(contrast.class_pixels) == CLASSES
