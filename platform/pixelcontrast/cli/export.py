"""The command ``pixelcontrast export``: a trained network as one file."""

from typing import Annotated, Literal

import tyro

from pixelcontrast.cli.terminal import failures_told, refuse

Network = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]


def export(
    run: Network,
    format: Literal["safetensors", "torch", "onnx"] = "safetensors",
    argmax: bool = False,
    out: str | None = None,
    step: int | None = None,
) -> None:
    """Write a trained network to one file, without the projection head that only training needs.

    load_model, evaluate and predict read safetensors and torch files. onnx is the whole graph, for batches
    and images of any size, and needs pip install "pixelcontrast[export]". Every file carries the classes'
    names and colours, the mean and standard deviation of its input, and the run it comes from.

    Args:
        run: A run's or a checkpoint's folder, another exported file (.safetensors, .pt), or a URI.
        format: Which kind of file.
        argmax: With onnx, put the argmax into the graph: it returns classes (uint8) instead of logits.
        out: File or URI to write; unset: the run's name, in this folder.
        step: Take the checkpoint of this step; unset: the best of a finished run, else the newest.
    """
    from pixelcontrast.inference import export_model, load_model

    with failures_told(resume="Run the command again to start over."):
        model = load_model(run, step=step)
        try:
            written = export_model(model, format, argmax=argmax, out=out)
        except OSError as error:
            refuse(str(error))
    source = model.metadata.source
    print(f"{written}: {len(model.classes)} classes, step {source.step} of {source.run}")
