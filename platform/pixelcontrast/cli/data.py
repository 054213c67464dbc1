"""The commands ``pixelcontrast data …``: what is done with a data set before training."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from pixelcontrast.cli.pack import pack
from pixelcontrast.cli.progress import progress
from pixelcontrast.cli.show import show
from pixelcontrast.cli.terminal import check_file, check_least, failures_told
from pixelcontrast.config import ClassOrder, Data, Layout

_Root = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]


def data_command(arguments: Sequence[str]) -> None:
    """Run ``pixelcontrast data`` with these arguments."""
    tyro.extras.subcommand_cli_from_dict(
        {"init": init, "check": check, "show": show, "pack": pack},
        prog="pixelcontrast data",
        description="Prepare your own images for training; check a data set, look at it, and pack it.",
        args=arguments,
    )


def init(
    root: _Root, images: str | None = None, masks: str | None = None, processes: int | None = None
) -> None:
    """Describe a folder of images and masks in ROOT/dataset.toml, for you to edit.

    It proposes a class for every id or colour in the masks. Where no folders or lists tell training and
    validation images apart, it writes such lists; images in folders called test are in neither.

    Args:
        root: the folder of images and masks.
        images: where the images are, below ROOT: a folder, or a pattern such as '{split}/*_rgb.jpg'.
        masks: where the masks are, likewise; a star stands for the same text as in the images' pattern.
        processes: processes that read masks in parallel; unset: one per core.
    """
    from pixelcontrast.datasets.parallel import default_processes
    from pixelcontrast.datasets.propose import init as write

    check_least("--processes", processes)
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
    then = shlex.join(["pixelcontrast", "data", "check", root])
    print(f"{folder / 'dataset.toml'}: written. Name the classes in it, then: {then}")


def check(
    root: _Root,
    layout: Layout | None = None,
    class_order: ClassOrder | None = None,
    processes: int | None = None,
    limit: int = 20,
    histogram: str | None = None,
) -> None:
    """Decode every image and mask, and list what is wrong, in which file, and what to do about it.

    The status is 1 if anything is wrong. If every file could be decoded, it shows the share of each class,
    the image sizes, and weights for the classes in the cross-entropy.

    Args:
        root: the data set's folder, or a pack: a folder, or a URI that pyarrow reads.
        layout: layout of the data set; unset: the pack's, or folder: your own images, described by
            ROOT/dataset.toml.
        class_order: order of PASCAL-Context's classes.
        processes: processes that decode in parallel; unset: one per core.
        limit: how many findings of one kind are shown.
        histogram: PNG file for a chart of the classes' shares.
    """
    from pixelcontrast.cli.tables import show_data_findings, show_data_summary
    from pixelcontrast.datasets.check_files import check_files
    from pixelcontrast.datasets.histogram import histogram_picture
    from pixelcontrast.datasets.packing.manifest import layout_of
    from pixelcontrast.datasets.parallel import default_processes

    check_least("--processes", processes)
    check_least("--limit", limit, least=0)
    if histogram is not None:
        check_file("--histogram", histogram)
    with failures_told(resume="Nothing was changed."), progress("pairs") as tell:
        report = check_files(
            Data(layout=layout or layout_of(root), root=root, class_order=class_order),
            processes=processes or default_processes(),
            on_progress=tell,
        )
    show_data_findings(report.findings, limit=limit)
    if report.complete:
        show_data_summary(report)
        if histogram is not None:
            Path(histogram).write_bytes(histogram_picture(report))
            print(f"histogram  {histogram}")
    else:
        parts = "shares of the classes, sizes and weights" + (", and the histogram," if histogram else "")
        print(f"{parts} are left out: not every file could be listed and decoded")
    sys.exit(not report.well)
