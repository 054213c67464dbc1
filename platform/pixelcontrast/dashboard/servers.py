"""The servers as processes: started with a free port, awaited, and gone when this process is."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

HOST = "127.0.0.1"
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 5.0
_CHILD = Path(__file__).with_name("child.py")


class ServerError(ConnectionError):
    """A server does not start; one line, with the last one that it has said."""


class Server:
    """A server in a process of its own, started and stopped as a context.

    Args:
        kind: what ``child.py`` shall serve, "study" or "curves".
        settings: what it needs for that.

    Attributes:
        url: without a slash at the end.
    """

    def __init__(self, kind: str, port: int, settings: dict[str, Any]):
        self._kind, self._settings = kind, {"kind": kind, "host": HOST, "port": port, **settings}
        self.url = f"http://{HOST}:{port}"

    def __enter__(self) -> Self:
        self._output = tempfile.TemporaryFile()
        # Run as a file: as a module it would import ours, torch among it, for seconds.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # not ended by Ctrl-C, but by us
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._settings).encode() + b"\n")
        self._process.stdin.flush()
        return self

    def wait(self) -> None:
        """Return when it answers; raises ``ServerError`` when it ends before, or does not in 90 s."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"the server of the {self._kind} has ended: {self._last_line()}")
            if answers(self.url):
                return
            time.sleep(0.1)
        raise ServerError(
            f"the server of the {self._kind} does not answer at {self.url} after {_START_TIMEOUT_S:g} s: "
            f"{self._last_line()}"
        )

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # what it waits for
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _last_line(self) -> str:
        """What it said last; of a traceback the exception, without what may stand below it."""
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        _, traceback, frames = output.rpartition("Traceback (most recent call last):\n")
        if traceback:
            return next((line for line in frames.split("\n") if line and not line.startswith(" ")), "")
        return output.strip().rpartition("\n")[2] or "it said nothing"


def choose_port(wanted: int | None) -> int:
    """A free port, or ``wanted``; raises ``ValueError`` if that is taken or no port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {wanted} of {HOST} cannot be used: {error}") from error
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    """Whether an HTTP server is there, also one that refuses us."""
    opener = build_opener(ProxyHandler({}))  # nobody's proxy knows our loopback
    try:
        opener.open(url, timeout=_ANSWER_TIMEOUT_S).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True
