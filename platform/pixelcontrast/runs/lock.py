"""One driver at a time in the folder of a run or a search.

On a file system a lock, which the system releases when its process dies. An object store has no locks: there
each driver writes a claim and renews it, and one that nobody renews is a dead driver's. Clocks are not
compared: whoever wants the folder watches whether the other's claim changes.
"""

import errno
import fcntl
import json
import logging
import os
import random
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pixelcontrast.storage import Storage, one_line

LOCK, CLAIMS = ".lock", ".claims"
_PATIENCE_S = 5.0
"""How long a lock is waited for: a driver that was just killed may take some seconds to be gone."""
_HOST_PATIENCE_S = 120.0
"""Likewise where another host has it: after a crash an NFS server keeps its locks for up to 90 seconds."""
_RENEW_S, _LEASE_S = 10.0, 45.0
_POLL_S = 0.5
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What file systems without locks answer, such as Lustre as it is often mounted."""

Holder = Mapping[str, Any]
"""``host``, ``process`` and ``since``; empty where a driver was cut off before it had written them."""

logger = logging.getLogger(__name__)


class AlreadyRunning(ValueError):  # noqa: N818
    """Another driver has the folder; or its node crashed, and the file server does not know that yet."""


class Hold:
    """A folder that this process holds.

    Attributes:
        lost: who has taken it over, in a sentence without a full stop, where this process was taken for dead;
            None as long as it holds the folder.
    """

    lost: str | None = None


@contextmanager
def held(folder: Storage, *, what: str) -> Iterator[Hold]:
    """Keep other drivers out of the folder while inside.

    What a dead driver left is taken over: on a file system at once, or when the server lets the lock of a
    crashed node go; on an object store after 45 seconds. A process that was suspended for longer is taken for
    dead there: it sends itself SIGTERM, and ``lost`` says why.

    Args:
        what: lies in the folder, for messages: ``run a``.

    Raises:
        AlreadyRunning: another driver has the folder; the text names it by host and process. One on another
            host is waited for first.
        ValueError: the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            hold = _enter(stack, folder, what)
        except OSError as error:
            raise ValueError(
                f"run.storage: {folder.location} cannot be written: {one_line(error)}"
            ) from error
        yield hold


def _enter(stack: ExitStack, folder: Storage, what: str) -> Hold:
    if folder.is_local:
        try:
            stack.enter_context(_locked(folder, what))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        else:
            return Hold()
    return stack.enter_context(_claimed(folder, what))


@contextmanager
def _locked(folder: Storage, what: str) -> Iterator[None]:
    path = Path(folder.path(LOCK))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _lock(file, _PATIENCE_S):
            holder = _parse(path.read_bytes())
            if not (_is_elsewhere(holder) and _lock_of_other_host(file, what, holder)):
                raise _refusal(what, folder, _parse(path.read_bytes()))
        before = _parse(path.read_bytes())
        if before:
            _tell_taken_over(what, before)
        _rewrite(file, json.dumps(_this_process()))
        try:
            yield
        finally:
            _rewrite(file, "")  # the file stays: another driver may be about to lock it


def _lock_of_other_host(file: IO[str], what: str, holder: Holder) -> bool:
    logger.warning(
        "%s is running on %s, or was when that crashed: waiting up to %g seconds for its lock",
        what,
        holder["host"],
        _HOST_PATIENCE_S,
    )
    return _lock(file, _HOST_PATIENCE_S)


def _lock(file: IO[str], patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def _rewrite(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


@contextmanager
def _claimed(folder: Storage, what: str) -> Iterator[Hold]:
    claim, hold = _Claim(folder, what), Hold()
    while True:
        claim.write()
        others = claim.others()
        # Whatever is written is seen by who lists after it: of two drivers one at least sees the other.
        if not others:
            break
        claim.withdraw()
        _wait_for_end(folder, what, others)
        time.sleep(random.uniform(0, 2 * _POLL_S))  # two that start together do not meet again
    over = threading.Event()
    thread = threading.Thread(target=claim.keep, args=(over, hold), daemon=True)
    thread.start()
    try:
        yield hold
    finally:
        over.set()
        thread.join(_RENEW_S)
        with suppress(OSError):  # what stays is taken for a dead driver's
            claim.withdraw()


class _Claim:
    """A file of this process's own in the folder's ``.claims``; another content each time it is written."""

    def __init__(self, folder: Storage, what: str):
        self._folder, self._what = folder, what
        self._name = f"{secrets.token_hex(8)}.json"
        self._holder, self._written = _this_process(), 0

    def write(self) -> None:
        self._written += 1
        content = json.dumps({**self._holder, "written": self._written})
        self._folder.write(f"{CLAIMS}/{self._name}", content.encode())

    def withdraw(self) -> None:
        _delete(self._folder, self._name)

    def others(self) -> dict[str, bytes]:
        """The other drivers' claims: name → content."""
        return {name: content for name, content in _read_claims(self._folder).items() if name != self._name}

    def keep(self, over: threading.Event, hold: Hold) -> None:
        """Renew until the end; asks this process to stop if another driver has taken the folder over."""
        while not over.wait(_RENEW_S):
            try:
                if not self._folder.exists(f"{CLAIMS}/{self._name}"):
                    hold.lost = self._taken_over()
                    logger.error("%s", hold.lost)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self.write()
            except OSError as error:
                logger.warning("%s: the claim to its folder was not renewed: %s", self._what, error)

    def _taken_over(self) -> str:
        holder = next(map(_parse, self.others().values()), {})
        who = f", on {holder['host']}, process {holder['process']}," if holder else ""
        return (
            f"{self._what}: another driver{who} took this one for dead, as its claim was not renewed for "
            f"{_LEASE_S:g} seconds, and took over"
        )


def _wait_for_end(folder: Storage, what: str, claims: Mapping[str, bytes]) -> None:
    """Return when none of the claims is left; raises ``ValueError`` when one is renewed."""
    end = time.monotonic() + _LEASE_S
    while time.monotonic() < end and not all(_is_dead(_parse(content)) for content in claims.values()):
        time.sleep(_POLL_S)
        now = _read_claims(folder)
        for name, content in claims.items():
            if now.get(name, content) != content:
                raise _refusal(what, folder, _parse(content))
        claims = {name: content for name, content in claims.items() if name in now}
    for name, content in claims.items():
        _tell_taken_over(what, _parse(content))
        _delete(folder, name)


def _read_claims(folder: Storage) -> dict[str, bytes]:
    found = {}
    for name in folder.names(CLAIMS):
        if name.endswith(".json") and not name.startswith("."):
            try:
                found[name] = folder.read(f"{CLAIMS}/{name}")
            except OSError:
                if folder.exists(f"{CLAIMS}/{name}"):
                    raise
                # It was withdrawn since it was listed.
    return found


def _delete(folder: Storage, name: str) -> None:
    with suppress(FileNotFoundError):
        folder.delete(f"{CLAIMS}/{name}")


def _this_process() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": since}


def _is_dead(holder: Holder) -> bool:
    """Whether the process was on this machine and is gone; of other machines nothing is known."""
    if not holder or _is_elsewhere(holder):
        return False
    return not Path(f"/proc/{holder['process']}").exists() and Path("/proc/self").exists()


def _is_elsewhere(holder: Holder) -> bool:
    return bool(holder) and holder["host"] != socket.gethostname()


def _parse(content: bytes) -> Holder:
    try:
        return json.loads(content)
    except ValueError:
        return {}


def _refusal(what: str, folder: Storage, holder: Holder) -> AlreadyRunning:
    who = (
        f"on {holder['host']}, process {holder['process']}, since {holder['since']}"
        if holder
        else "elsewhere"
    )
    return AlreadyRunning(
        f"{what} is running already, {who}, in {folder.location}. Wait for its end, stop that process, or "
        "choose another name"
    )


def _tell_taken_over(what: str, holder: Holder) -> None:
    who = f" on {holder['host']}, process {holder['process']}," if holder else ""
    logger.warning("%s: its last driver%s died; this one takes over", what, who)
