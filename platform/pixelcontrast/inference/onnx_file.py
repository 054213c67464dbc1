"""A trained network as an ONNX graph for any batch, height and width."""

import io
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast.inference.metadata import Metadata
from pixelcontrast.models import SegmentationModel
from pixelcontrast.storage import Storage

_OPSET = 18
_EXAMPLE = (2, 3, 75, 101)
"""Odd at every stage, so that no size in the traced network equals another by chance."""


def to_onnx(model: SegmentationModel, metadata: Metadata, *, argmax: bool) -> bytes:
    """An ONNX file: its input is ``images``, float32 [batch, 3, height, width], normalised.

    Args:
        model: in evaluation mode, on the CPU.
        metadata: becomes the file's ``metadata_props``, as JSON texts.
        argmax: the output is ``classes``, uint8 [batch, height, width], and 4·K times smaller than
            ``logits``, float32 [batch, K, height, width].

    Raises:
        ValueError: the package onnx is not installed.
    """
    onnx = _package()
    output = "classes" if argmax else "logits"
    axes = {0: "batch", 2: "height", 3: "width"}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The tracer warns of every comparison of sizes, and of being the older of torch's two exporters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(model, argmax=argmax).eval(),
            (torch.zeros(_EXAMPLE),),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes a file too
            input_names=["images"],
            output_names=[output],
            dynamic_axes={"images": axes, output: {0: "batch", 1: "height", 2: "width"} if argmax else axes},
            opset_version=_OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(graph, metadata.to_strings())
    return graph.SerializeToString()


def onnx_metadata(file: Storage) -> Metadata:
    """What a file of ``to_onnx`` carries.

    Raises:
        ValueError: it is another file, or the package onnx is not installed.
    """
    onnx = _package()
    try:
        graph = onnx.load_from_string(file.parent.read(file.name))
    except Exception as error:  # protobuf's own
        raise ValueError(f"{file.location}: no ONNX file") from error
    return Metadata.from_strings({prop.key: prop.value for prop in graph.metadata_props}, file=file.location)


def _package() -> Any:
    try:
        import onnx  # type: ignore[import-not-found]  # of an extra
    except ImportError as error:
        raise ValueError(
            '--format onnx needs the package onnx: pip install "pixelcontrast[export]"'
        ) from error
    return onnx


class _Graph(nn.Module):
    """``SegmentationModel.forward`` without its branches on the image's size, which a trace would fix."""

    def __init__(self, model: SegmentationModel, *, argmax: bool):
        super().__init__()
        self.model = model
        self.argmax = argmax

    def forward(self, images: Tensor) -> Tensor:
        model, (height, width) = self.model, images.shape[-2:]
        multiple, (stride, per) = model.multiple, float(model.stride).as_integer_ratio()
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple)) if multiple > 1 else images
        # Rounded up with positive numbers only: ONNX rounds a quotient towards zero.
        cells = (height * per + stride - 1) // stride, (width * per + stride - 1) // stride
        valid = cells if multiple > 1 else None
        logits = model.decoder(model.backbone(padded), valid).logits
        size, align_corners = padded.shape[-2:], model.align_corners
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
        logits = logits[..., :height, :width]
        return logits.argmax(dim=1).to(torch.uint8) if self.argmax else logits
