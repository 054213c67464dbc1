"""SIGINT and SIGTERM: raised as ``Interrupted``, or noted for a loop that ends by itself."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """This process was asked to stop by a signal: SIGINT, which is Ctrl-C, or SIGTERM."""

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.signal, self.message = number, message


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise ``Interrupted`` on SIGTERM while inside; outside the main thread do nothing."""
    with _handling({signal.SIGTERM: _interrupt}):
        yield


class Noted:
    """The signal that asked this process to stop, or None so far."""

    signal: int | None = None


@contextmanager
def signals_noted() -> Iterator[Noted]:
    """Note the first SIGINT or SIGTERM; the next one raises ``Interrupted``."""
    noted = Noted()

    def note(number: int, frame: Any) -> None:
        if noted.signal is not None:
            _interrupt(number, frame)
        noted.signal = number

    with _handling({signal.SIGINT: note, signal.SIGTERM: note}):
        yield noted


@contextmanager
def _handling(handlers: Mapping[int, Callable[[int, Any], None]]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    del frame
    raise Interrupted(number)
