"""Settings of this process that hold for a while: signals' handlers, environment variables, attributes."""

import os
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
    """Raise ``Interrupted`` on SIGTERM while inside; in other threads than the main one do nothing."""
    with _handling({signal.SIGTERM: _interrupt}):
        yield


class Noted:
    """The signal that asked this process to stop, or None so far."""

    signal: int | None = None


@contextmanager
def signals_noted() -> Iterator[Noted]:
    """The first SIGINT or SIGTERM is only noted, the next one raises ``Interrupted``."""
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


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, or unset those given as None, and put them back at the end."""
    before = {name: os.environ.get(name) for name in values}
    _export(values)
    try:
        yield
    finally:
        _export(before)


def _export(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute and put it back at the end."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
