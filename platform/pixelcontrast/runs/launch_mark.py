"""A file that each launch leaves in the run's folder.

Workers that see it see the folder that their driver sees, and train for the one driver that has the run.

A path such as ``/home/me/runs`` leads to a folder on every node, but perhaps to each node's own disk: what is
trained there is lost for all others. So the driver leaves a file with a name of its own, and every worker
looks for it before it trains.

The next launch deletes it. So workers whose driver was taken for dead, as it was suspended or out of reach,
find it gone before they write anything among what the next driver's workers write.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pixelcontrast.runs.run_folder import EXPERIMENT
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
        boot: its kernel's id, as machines and containers may have one host name.
        since: when it was left, by the driver's clock, as of ``datetime.isoformat`` in UTC.
    """

    name: str
    host: str
    boot: str = ""
    since: str = ""


@contextmanager
def marked(run: Storage) -> Iterator[Mark]:
    """Keep a new mark in the run's folder while inside, and only that one; call it with the folder held.

    Raises:
        ValueError: the folder cannot be written.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    mark = Mark(f"{_PREFIX}{secrets.token_hex(8)}", socket.gethostname(), _boot(), since)
    try:
        for name in run.names():
            if name.startswith((_PREFIX, f".{_PREFIX}")):  # of a driver that was killed, perhaps in writing
                run.delete(name)
        run.write(mark.name, f"{mark.host}, process {os.getpid()}, since {since}".encode())
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
        ValueError: it is not there within a minute: this machine has another folder of that name, or none; or
            the run is no longer this driver's, as of ``why_lost``.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while not run.exists(mark.name):
        if time.monotonic() > give_up:
            if (mark.host, mark.boot) == (socket.gethostname(), _boot()) or _later(run, mark):
                raise ValueError(_why_gone(run, mark))
            raise ValueError(
                f"run.storage is {run.parent.location}, which host {socket.gethostname()} does not share "
                f"with the driver's host {mark.host}: {run.location} has no {mark.name} here. Allowed are a "
                "folder that all nodes share, and a URI such as s3://bucket/runs"
            )
        time.sleep(_POLL_S)


def why_lost(run: Storage, mark: Mark) -> str | None:
    """Look for a mark that was seen before, in one request to the storage; writes nothing.

    Returns:
        None while it is there. Else why not: another driver has taken the run over, or somebody has deleted
        the folder.
    """
    return None if run.exists(mark.name) else _why_gone(run, mark)


def check_ours(run: Storage, mark: Mark) -> None:
    """Raise ``ValueError`` with the reason of ``why_lost`` where there is one."""
    if lost := why_lost(run, mark):
        raise ValueError(lost)


def unchecked() -> None:
    """In place of ``check_ours`` where the run has no driver that another one could take it from."""


def _why_gone(run: Storage, mark: Mark) -> str:
    ended = "This training has ended without another checkpoint"
    for driver in _later(run, mark):
        return f"another driver has taken the run over: {driver}. {ended}"
    if run.exists(EXPERIMENT):
        return (
            f"{run.location} has no {mark.name} any more, which this run's driver left there: another driver "
            f"has taken the run over, and ended; or the folder was replaced while the run trained. {ended}"
        )
    return f"{run.location} was deleted or replaced while the run trained. {ended}"


def _later(run: Storage, mark: Mark) -> list[str]:
    """What later launches say of themselves: a folder that is not shared may have an earlier one's mark."""
    found = []
    for name in run.names():
        if name.startswith(_PREFIX) and name != mark.name:
            with suppress(FileNotFoundError):  # its driver has just ended
                found.append(run.read(name).decode())
    return [driver for driver in found if driver.rpartition("since ")[2] >= mark.since]


def _boot() -> str:
    """The running kernel's id; empty where there is none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
