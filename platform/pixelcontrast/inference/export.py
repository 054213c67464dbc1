"""Writing a trained network to one file."""

from typing import Literal

from pixelcontrast.inference.earlier import REMEDY
from pixelcontrast.inference.exported import read_exported, to_safetensors, to_torch
from pixelcontrast.inference.found import is_weights_of_checkpoint
from pixelcontrast.inference.metadata import Source
from pixelcontrast.inference.onnx_file import onnx_metadata, to_onnx
from pixelcontrast.inference.trained import TrainedModel
from pixelcontrast.storage import Storage

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
        ValueError: ``argmax`` without a graph, a network that has none for images of any size, a name with
            another ending, a package that is missing, or a file lies there that is not of the same
            checkpoint.
        OSError: it cannot be written.
    """
    ending = _ENDING[format]
    if argmax and format != "onnx":
        raise ValueError(f"--argmax: {format} files hold no graph; allowed with --format onnx only")
    if out is not None and not out.partition("?")[0].endswith(ending):
        raise ValueError(f"--out {out}: allowed for --format {format} is a name that ends with {ending}")
    file = Storage(out or f"{model.metadata.source.name}{ending}", option="--out")
    _refuse_others(file, format, model.metadata.source)
    match format:
        case "safetensors":
            content = to_safetensors(model, model.metadata)
        case "torch":
            content = to_torch(model, model.metadata)
        case "onnx":
            content = to_onnx(model, model.metadata, argmax=argmax)
    file.parent.write(file.name, content)
    return file.location


def _refuse_others(file: Storage, format: Format, source: Source) -> None:
    """Raise ``ValueError`` where a file lies that is no earlier export of the same checkpoint."""
    if not file.parent.exists(file.name):
        return
    if is_weights_of_checkpoint(file):
        raise ValueError(
            f"--out {file.location}: these are the weights of a run's checkpoint; choose another --out"
        )
    try:
        earlier = (onnx_metadata(file) if format == "onnx" else read_exported(file)[0]).source
    except ValueError as error:
        raise ValueError(f"--out {file.location}: another file lies there; {REMEDY}") from error
    if earlier != source:
        raise ValueError(
            f"--out {file.location}: holds step {earlier.step} of {earlier.run} (commit {earlier.commit}), "
            f"and this is step {source.step} of {source.run} (commit {source.commit}); {REMEDY}"
        )
