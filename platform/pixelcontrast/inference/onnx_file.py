"""A trained network as an ONNX graph for any batch, height and width."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelcontrast.inference.metadata import Metadata
from pixelcontrast.models import SegmentationModel
from pixelcontrast.storage import Storage

_OPSET = 18
_TOLERANCE = 1e-3
"""Share of the largest logit by which a graph's may differ; float32's rounding stays far below."""
_ALLOWED = "allowed are safetensors and torch"
_EXAMPLE = (2, 3, 75, 101)
"""Odd at every stage, so that no size in the traced network equals another by chance."""
_OTHERS = (1, 3, 33, 75), (1, 3, 150, 260)
"""A smaller and a larger image, by which a network shows that its graph fits the example's size alone."""


def to_onnx(model: SegmentationModel, metadata: Metadata, *, argmax: bool) -> bytes:
    """An ONNX file: its input is ``images``, float32 [batch, 3, height, width], normalised.

    Args:
        model: in evaluation mode, on the CPU.
        metadata: becomes the file's ``metadata_props``, as JSON texts.
        argmax: the output is ``classes``, uint8 [batch, height, width], and 4·K times smaller than
            ``logits``, float32 [batch, K, height, width].

    Raises:
        ValueError: the package onnx is not installed, or there is no graph of this network for any size.
    """
    onnx = _package()
    backbone = metadata.model.backbone
    _check_any_size(model, backbone)
    output = "classes" if argmax else "logits"
    axes = {0: "batch", 2: "height", 3: "width"}
    buffer = io.BytesIO()
    try:
        # Where the exporter fails, it prints the whole graph.
        with _without_warnings(), contextlib.redirect_stdout(None):
            torch.onnx.export(
                _Graph(model, argmax=argmax).eval(),
                (torch.zeros(_EXAMPLE),),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes a file too
                input_names=["images"],
                output_names=[output],
                dynamic_axes={
                    "images": axes,
                    output: {0: "batch", 1: "height", 2: "width"} if argmax else axes,
                },
                opset_version=_OPSET,
                dynamo=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--format onnx: torch cannot write {backbone} as a graph: {reason}; {_ALLOWED}"
        ) from error
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


def _check_any_size(model: SegmentationModel, backbone: str) -> None:
    """Raise ``ValueError`` where a traced graph is that of the example's size, as it is with a network that
    computes with sizes in Python (MobileViT's patches, MViTv2's positions)."""
    fits = True
    try:
        with torch.inference_mode(), _without_warnings():
            logits = _Graph(model, argmax=False).eval()
            graph: Any = torch.jit.trace(logits, torch.zeros(_EXAMPLE), check_trace=False)
            for size in _OTHERS:
                images = torch.randn(size, generator=torch.Generator().manual_seed(0))
                expected = model(images).logits
                most = _TOLERANCE * float(expected.abs().max())
                fits &= torch.allclose(graph(images), expected, rtol=0.0, atol=most, equal_nan=True)
    except RuntimeError:  # a shape that does not fit
        fits = False
    if not fits:
        raise ValueError(
            f"--format onnx: a graph of {backbone} would fit images of one size only, as the network "
            f"computes with their size in Python; {_ALLOWED}"
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """The tracer warns of every comparison of sizes, and of being the older of torch's two exporters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
