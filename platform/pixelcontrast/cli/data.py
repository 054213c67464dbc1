"""The commands ``pixelcontrast data …``: describe a folder of images, look at every file of a data set."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from pixelcontrast.cli.progress import progress
from pixelcontrast.cli.terminal import failures_told
from pixelcontrast.config import ClassOrder, Data, Layout

_Root = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]


def data_command(arguments: Sequence[str]) -> None:
    """Run ``pixelcontrast data`` with these arguments."""
    tyro.extras.subcommand_cli_from_dict(
        {"check": check, "init": init},
        prog="pixelcontrast data",
        description="Your own images, and whether a data set is as a training needs it.",
        args=arguments,
    )


def init(
    root: _Root, images: str | None = None, masks: str | None = None, processes: int | None = None
) -> None:
    """Write ROOT/dataset.toml from the images and masks that are there; then edit it.

    It proposes a class for every id or colour in the masks, and lists of training and validation images where
    no folders or lists tell them apart.

    Args:
        root: the folder of images and masks.
        images: where the images are, below ROOT: a folder, or a pattern such as '{split}/*_rgb.jpg'.
        masks: likewise the masks, whose stars stand for the same as the images'.
        processes: that read masks at the same time; unset: one per core.
    """
    from pixelcontrast.datasets.parallel import default_processes
    from pixelcontrast.datasets.propose import init as write

    folder = Path(root).expanduser()
    with failures_told(resume="Nothing was written."), progress("masks") as tell:
        notes = write(
            folder,
            images=images,
            masks=masks,
            processes=processes or default_processes(),
            on_progress=tell,
        )
    for note in notes:
        print(note)
    print(
        f"{folder / 'dataset.toml'}: written. Name the classes in it, then: pixelcontrast data check {root}"
    )


def check(
    root: _Root,
    layout: Layout = "folder",
    class_order: ClassOrder | None = None,
    processes: int | None = None,
    limit: int = 20,
    histogram: str | None = None,
) -> None:
    """Decode every image and label: what is wrong, in which file, and what to do about it.

    Ends with status 1 if something has to be put right. Else it shows the classes' shares and the image
    sizes.

    Args:
        root: the data set's folder.
        layout: of the data set; folder: your own, described by ROOT/dataset.toml.
        class_order: of PASCAL-Context.
        processes: that decode at the same time; unset: one per core.
        limit: findings of a sort that are shown.
        histogram: a PNG file to draw the classes' shares to.
    """
    from pixelcontrast.cli.tables import show_contents, show_data_findings
    from pixelcontrast.datasets.check import check as look
    from pixelcontrast.datasets.histogram import histogram_picture
    from pixelcontrast.datasets.parallel import default_processes

    with failures_told(resume="Nothing was changed."), progress("pairs") as tell:
        report = look(
            Data(layout=layout, root=root, class_order=class_order),
            processes=processes or default_processes(),
            on_progress=tell,
        )
    show_data_findings(report.findings, limit=limit)
    if report.well:
        show_contents(report)
        if histogram is not None:
            Path(histogram).write_bytes(histogram_picture(report))
            print(f"histogram  {histogram}")
    sys.exit(not report.well)
