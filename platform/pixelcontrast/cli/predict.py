"""The command ``pixelcontrast predict``: a trained network on images of your own."""

import sys
from typing import Annotated, Literal

import tyro

from pixelcontrast.cli.progress import progress
from pixelcontrast.cli.terminal import failures_told, refuse
from pixelcontrast.words import count

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
_Images = Annotated[
    list[str], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES_OR_FOLDER …", help_behavior_hint="")
]


def predict(
    run: _Run,
    images: _Images,
    out: str = "predictions",
    write: tuple[Literal["overlays", "masks", "confidence"], ...] = ("overlays", "masks", "confidence"),
    step: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Segment images: pictures with the classes over them, masks of class numbers, maps of confidence.

    Images are JPEG or PNG files of any size; of a folder with a dataset.toml they are the images that it
    names, without the masks. Those that cannot be read are left out and listed at the end, with status 1.

    Args:
        run: A run's or a checkpoint's folder, a file of pixelcontrast export (.safetensors, .pt), or a URI.
        images: Image files, and folders of them; or URIs.
        out: Folder or URI to write overlays/, masks/, confidence/, legend.png and predictions.json to. What
            lies there of another network or other images is not overwritten.
        write: Which of the pictures; masks alone take a fraction of the time.
        step: Take the checkpoint of this step; unset: the best of a finished run, else the newest.
        device: Where the network runs; auto takes a GPU where there is one.
    """
    from pixelcontrast.inference import load_model
    from pixelcontrast.inference.device import choose_device
    from pixelcontrast.inference.predict import find_pictures, predict_pictures

    if not write:
        refuse("--write: allowed are one or more of overlays, masks and confidence")
    with failures_told(resume="Run the command again to start over."):
        pictures = find_pictures(images, out=out)
        model = load_model(run, step).to(choose_device(device))
        try:
            with progress("images") as tell:
                failures = predict_pictures(model, pictures, out=out, kinds=write, on_progress=tell)
        except OSError as error:
            refuse(str(error))
    print(f"{len(pictures) - len(failures)} of {count(len(pictures), 'image')}: {out}")
    if failures:
        print("\n".join(["not predicted:", *failures]), file=sys.stderr)
    sys.exit(bool(failures))
