"""The command ``pixelcontrast inspect``: pictures of what trained networks make of pixels and images."""

from typing import Annotated, Literal

import tyro

from pixelcontrast.cli.progress import progress
from pixelcontrast.cli.terminal import failures_told

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_Others = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]", help_behavior_hint="")
]


def inspect(
    run: _Run,
    others: _Others = (),
    root: str | None = None,
    split: Literal["train", "val", "test"] = "val",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Draw a run's embedding, class similarities, confused pixels and worst images; of several side by side.

    The network of each run, the best checkpoint of a finished one, sees up to 100 images of the split. The
    pictures are PNG files in RUN/pictures, of several runs in report-<first>-<second>-…-pictures beside the
    first one's folder, and a part of the report, which is written anew.

    Args:
        run: A run's folder, or a URI that pyarrow reads.
        others: Runs to show beside it, such as the cross-entropy baseline; of the same classes.
        root: The data set's folder or pack; unset: where the first run was trained.
        split: Which images of the data set.
        device: Where the networks run; auto takes a GPU where there is one.
    """
    from pixelcontrast.inference.inspection.inspect import inspect as look
    from pixelcontrast.reports import pictures_folder, write_comparison, write_report

    locations = [run, *others]
    with failures_told(resume="Run the command again to start over."):
        folder = pictures_folder(locations)
        with progress("images") as tell:
            pictures = look(locations, out=folder, root=root, split=split, device=device, on_progress=tell)
        report = write_comparison(locations) if others else write_report(run)
    for picture in pictures:
        print((folder / picture.file).location)
    print(report)
