"""Do the workers see the folder that their driver sees? A file that each launch leaves in the run's folder.

A path such as ``/home/me/runs`` leads to a folder on every node, but perhaps to each node's own disk: what is
trained there is lost for all others. So the driver leaves a file with a name of its own, and every worker
looks for it before it trains.
"""

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pixelcontrast.storage import Storage, one_line

_PREFIX = ".launch-"
_PATIENCE_S = 60.0
"""How long a mark is waited for: NFS clients may believe for that long what they knew of a folder."""
_POLL_S = 1.0


@dataclass(frozen=True)
class Mark:
    """The file that one launch has left.

    Attributes:
        name: in the run's folder; no other launch has the same.
        host: the driver's machine.
    """

    name: str
    host: str


@contextmanager
def marked(run: Storage) -> Iterator[Mark]:
    """Keep a new mark in the run's folder while inside, and only that one; call it with the folder held.

    Raises:
        ValueError: the folder cannot be written.
    """
    mark = Mark(f"{_PREFIX}{secrets.token_hex(8)}", socket.gethostname())
    try:
        for name in run.names():
            if name.startswith((_PREFIX, f".{_PREFIX}")):  # of a driver that was killed, perhaps in writing
                run.delete(name)
        run.write(mark.name, f"A driver on {mark.host} is training here.\n".encode())
    except OSError as error:
        raise ValueError(f"run.storage: {run.location} cannot be written: {one_line(error)}") from error
    try:
        yield mark
    finally:
        with suppress(OSError):  # what stays is deleted by the next launch
            run.delete(mark.name)


def check_shared(run: Storage, mark: Mark) -> None:
    """Look for the mark in the run's folder as this process sees it; writes nothing.

    Raises:
        ValueError: it is not there within a minute: this machine has another folder of that name, or none.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while not run.exists(mark.name):
        if time.monotonic() > give_up:
            raise ValueError(
                f"run.storage is {run.parent.location}, which host {socket.gethostname()} does not share "
                f"with the driver's host {mark.host}: {run.location} has no {mark.name} here. Allowed are a "
                "folder that all nodes share, and a URI such as s3://bucket/runs"
            )
        time.sleep(_POLL_S)
