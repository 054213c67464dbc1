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
        """Return when it answers; raises ``RuntimeError`` when it ends before, or does not in 90 s."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server of the {self._kind} has ended:\n{self._last_output()}")
            if answers(self.url):
                return
            time.sleep(0.1)
        raise RuntimeError(
            f"the server of the {self._kind} does not answer at {self.url} after {_START_TIMEOUT_S:g} s:\n"
            + self._last_output()
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

    def _last_output(self) -> str:
        self._output.seek(0)
        return "\n".join(self._output.read().decode(errors="replace").splitlines()[-20:])


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
