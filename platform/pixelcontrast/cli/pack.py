"""The command ``pixelcontrast data pack``."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pixelcontrast.cli.progress import progress
from pixelcontrast.cli.terminal import check_least, failures_told
from pixelcontrast.cluster.connect import connect, names_cluster
from pixelcontrast.config import ClassOrder, Data, Layout, absolute_path
from pixelcontrast.words import count

if TYPE_CHECKING:
    from pixelcontrast.datasets.packing.write import InParallel

_Root = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
_Dest = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]


def pack(
    root: _Root,
    dest: _Dest,
    layout: Layout = "folder",
    class_order: ClassOrder | None = None,
    encoding: Literal["raw", "source"] = "raw",
    processes: int | None = None,
) -> None:
    """Decode a data set once and store it so that training reads crops straight from disk.

    Train from it with --data.root DEST and the same --data.layout. Rerun the command to resume, however it
    ended; nothing reads an unfinished pack. Where RAY_ADDRESS names a cluster, all its nodes decode; they
    need to see ROOT and DEST under the same names.

    Args:
        root: the data set's folder, or a URI that pyarrow reads.
        dest: a new folder, or a URI that pyarrow writes.
        layout: layout of the data set; folder: your own images, described by ROOT/dataset.toml.
        class_order: order of PASCAL-Context's classes.
        encoding: raw: pixels, 8 MB for 2048×1024; source: the image files' own bytes, decoded at every
            reading.
        processes: processes that decode in parallel; unset: one per core, of the machine or the cluster.
    """
    from pixelcontrast.datasets.packing.staging import stage_files
    from pixelcontrast.datasets.packing.write import pack as write

    check_least("--processes", processes)
    with failures_told(resume="Rerun the command to resume."):
        if names_cluster() and "://" in root:
            raise ValueError(
                f"ROOT is {root}, which one machine copies and packs: unset RAY_ADDRESS, or give a folder "
                "that all nodes of the cluster see"
            )
        data = Data(layout=layout, root=absolute_path(stage_files(root)), class_order=class_order)
        with _parallel(processes) as mapped, progress("samples") as tell:
            manifest = write(data, absolute_path(dest), encoding=encoding, mapped=mapped, on_progress=tell)
    for split, shards in manifest.splits.items():
        samples, size = sum(len(shard.samples) for shard in shards), sum(shard.size for shard in shards)
        held = f"{count(samples, 'sample')} in {count(len(shards), 'shard')}"
        print(f"{split}: {held}, {size / 1e6:,.1f} MB")
    options = shlex.join(["--data.layout", layout, "--data.root", dest])
    print(f"{dest}: packed. Train from it with: {options}")


@contextmanager
def _parallel(processes: int | None) -> Iterator["InParallel"]:
    """Tasks of the cluster in RAY_ADDRESS, or processes of this machine where none is named."""
    if names_cluster():
        from pixelcontrast.cluster.tasks import in_tasks

        with connect():
            yield partial(in_tasks, at_once=processes)
    else:
        from pixelcontrast.datasets.parallel import default_processes, in_processes

        yield partial(in_processes, processes=processes or default_processes())
