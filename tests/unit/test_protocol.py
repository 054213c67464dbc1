"""Evaluation protocols: which views, and how they are averaged."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelcontrast.evaluation import Protocol, scores
from pixelcontrast.evaluation.protocol import window_starts

WEIGHT = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0))


def pointwise(images: Tensor) -> Tensor:
    """A network whose logits at a pixel depend on that pixel alone."""
    return F.conv2d(images, WEIGHT)


def images(height: int = 37, width: int = 53) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (1024, 769, 513, [0, 255]),
        (2048, 769, 513, [0, 513, 1026, 1279]),
        (390, 480, 320, [0]),
        (520, 480, 320, [0, 40]),
        (512, 512, 341, [0]),
        (683, 512, 341, [0, 171]),
        (720, 512, 341, [0, 208]),
        (960, 512, 341, [0, 341, 448]),
    ],
)
def test_windows_begin_where_mmsegmentation_s_do(
    length: int, window: int, stride: int, starts: list[int]
) -> None:
    assert window_starts(length, window, stride) == starts


def test_the_default_stride_is_two_thirds_of_the_window() -> None:
    assert Protocol(window=(769, 480)).strides == (513, 320)


def test_the_default_protocol_is_the_plain_network() -> None:
    assert torch.equal(scores(pointwise, images(), Protocol()), pointwise(images()))


@pytest.mark.parametrize("window", [(16, 16), (16, 60), (60, 20), (37, 53), (1, 2)])
def test_windows_change_nothing_for_a_pointwise_network(window: tuple[int, int]) -> None:
    found = scores(pointwise, images(), Protocol(window=window))
    torch.testing.assert_close(found, pointwise(images()))


def test_every_window_is_of_the_asked_size_and_an_image_that_is_smaller_goes_in_unpadded() -> None:
    seen = []

    def network(window: Tensor) -> Tensor:
        seen.append(tuple(window.shape[2:]))
        return pointwise(window)

    scores(network, images(), Protocol(window=(16, 60), stride=(16, 60)))
    assert seen == [(16, 53)] * 3


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_flip_changes_nothing_for_a_network_that_is_mirrored_with_its_image(average: str) -> None:
    protocol = Protocol(flip=True, average=average)  # type: ignore[arg-type]
    found, plain = scores(pointwise, images(), protocol), pointwise(images())
    torch.testing.assert_close(found, plain if average == "logits" else plain.softmax(1))


def test_scales_show_the_network_the_image_resized() -> None:
    seen = []

    def network(view: Tensor) -> Tensor:
        seen.append(tuple(view.shape[2:]))
        return pointwise(view)

    flat = torch.full((1, 3, 40, 60), 0.3)
    found = scores(network, flat, Protocol(scales=(0.5, 1.0, 1.75), flip=True, average="logits"))
    assert seen == [(20, 30), (20, 30), (40, 60), (40, 60), (70, 105), (70, 105)]
    torch.testing.assert_close(found, pointwise(flat))


VIEWS = torch.tensor([[0.5, 0.0, -4.0], [0.5, 1.5, 2.5]])


def one_of_two_views(image: Tensor) -> Tensor:
    """The first row of ``VIEWS`` at every pixel, and the second where the image is mirrored."""
    row = VIEWS[int(image[0, 0, 0, 0])]
    return row[None, :, None, None].expand(1, 3, *image.shape[2:]).clone()


@pytest.mark.parametrize(("average", "winner"), [("logits", 1), ("probabilities", 0)])
def test_what_is_averaged_decides_the_class(average: str, winner: int) -> None:
    image = torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)
    found = scores(one_of_two_views, image, Protocol(flip=True, average=average))  # type: ignore[arg-type]
    assert found.argmax(1).unique().tolist() == [winner]
    expected = VIEWS if average == "logits" else VIEWS.softmax(1)
    torch.testing.assert_close(found[0, :, 0, 0], expected.mean(0))


def test_a_protocol_says_what_it_does() -> None:
    text = str(Protocol(window=(769, 769), scales=(0.5, 1.0), flip=True, average="logits"))
    assert text == (
        "windows of 769×769, stride 513×513, logits averaged where they overlap; "
        "mean of logits over scales 0.5, 1 × flip"
    )
    assert str(Protocol()) == "whole image"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"window": (0, 8)}, "window 0×8: allowed are 1 pixel or more"),
        ({"stride": (8, 8)}, "stride: there is no window"),
        ({"window": (8, 8), "stride": (8, 9)}, "stride 8×9 leaves gaps between windows of 8×8"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales .*numbers above 0"),
    ],
)
def test_an_impossible_protocol_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Protocol(**settings)  # type: ignore[arg-type]


PEAK = """
import re
from pathlib import Path
import torch, torch.nn.functional as F
from pixelcontrast.evaluation import Protocol, scores

def memory(key):
    return int(re.search(rf"{key}:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
weight = torch.randn(19, 3, 1, 1)
network = lambda images: F.conv2d(images, weight)
protocol = Protocol(window=(256, 256), scales=(0.5, 0.75, 1.0, 1.25, 1.5), flip=True)
with torch.inference_mode():
    scores(network, torch.randn(1, 3, 64, 128), protocol)
    image = torch.randn(1, 3, 512, 1024)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    scores(network, image, protocol)
print(memory("VmHWM") - before)
"""


def test_ten_views_take_no_more_memory_than_the_maps_that_are_named() -> None:
    path = os.pathsep.join(filter(None, sys.path))
    # With its threshold left to adapt, malloc keeps freed maps, how many differs from run to run.
    environment = os.environ | {"PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(
        [sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, check=True
    )
    one_map = 19 * 512 * 1024 * 4 / 2**20
    assert float(done.stdout) < (3 + 1.5**2) * one_map
