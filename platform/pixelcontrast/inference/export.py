"""Writing a trained network to one file."""

from typing import Literal

from pixelcontrast.inference.exported import to_safetensors, to_torch
from pixelcontrast.inference.metadata import Metadata
from pixelcontrast.inference.onnx_file import to_onnx
from pixelcontrast.inference.trained import TrainedModel
from pixelcontrast.models import is_plain_vit
from pixelcontrast.runs.storage import Storage

Format = Literal["safetensors", "torch", "onnx"]
_ENDING: dict[Format, str] = {"safetensors": ".safetensors", "torch": ".pt", "onnx": ".onnx"}


def export_model(model: TrainedModel, format: Format, *, argmax: bool = False, out: str | None = None) -> str:
    """Write a network without what only its training needed.

    Args:
        model: from ``load_model``.
        format: safetensors and torch hold parameters and metadata, for ``load_model``; onnx the whole graph.
        argmax: of an ONNX graph: give classes instead of logits.
        out: the file, or a URI; None: the run's name with the format's ending, in the working folder.

    Returns:
        Where it was written.

    Raises:
        ValueError: ``argmax`` without a graph, a graph of a plain Vision Transformer, a name with another
            ending, or a package that is missing.
        OSError: it cannot be written.
    """
    ending, backbone = _ENDING[format], model.metadata.model.backbone
    if format == "onnx" and is_plain_vit(backbone.partition(".")[0]):
        raise ValueError(
            f"--format onnx: {backbone} fits its position embeddings to the image's size, which a traced "
            "graph would fix; allowed are safetensors and torch"
        )
    if argmax and format != "onnx":
        raise ValueError(f"--argmax: {format} files hold no graph; allowed with --format onnx only")
    if out is not None and not out.partition("?")[0].endswith(ending):
        raise ValueError(f"--out {out}: the name of a {format} file ends with {ending}")
    file = Storage(out or f"{default_name(model.metadata)}{ending}")
    match format:
        case "safetensors":
            content = to_safetensors(model, model.metadata)
        case "torch":
            content = to_torch(model, model.metadata)
        case "onnx":
            content = to_onnx(model, model.metadata, argmax=argmax)
    file.parent.write(file.name, content)
    return file.location


def default_name(metadata: Metadata) -> str:
    """The name of the run that a network comes from."""
    return Storage(metadata.source.run).name
