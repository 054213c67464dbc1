"""How every command ends at the terminal, and how it shows messages."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.signals import Interrupted
from pixelcontrast.config import explain
from pixelcontrast.storage import one_line
from pixelcontrast.words import opening

_LESS_MEMORY = "Give --device cpu, or have pixelcontrast evaluate use a smaller --protocol.window"


def refuse(message: str) -> NoReturn:
    """Print the message and end with status 2: nothing has been started."""
    print(message, file=sys.stderr)
    sys.exit(2)


def check_least(option: str, value: int | None, *, least: int = 1) -> None:
    """Refuse the value of an option that is below ``least``; None, an option that is unset, is none."""
    if value is not None and value < least:
        refuse(f"{option} {value}: allowed are {least} and more")


def check_file(option: str, path: str) -> None:
    """Refuse a file to write, before the work that it is to hold, where its folder is missing or closed."""
    file = Path(path)
    if not file.parent.is_dir():
        refuse(f"{option} {path}: there is no folder {file.parent}; make it first")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        refuse(f"{option} {path}: cannot be written: {'a folder' if file.is_dir() else 'no permission'}")


@contextmanager
def failures_told(resume: str) -> Iterator[None]:
    """End the process with status 2 on a ``ValueError``, 1 where Ray, a file or a server failed or a GPU's
    memory is full, 130 on Ctrl-C, 143 on SIGTERM.

    Args:
        resume: printed when the command is stopped: how to resume.
    """
    try:
        yield
    except ValueError as error:
        refuse(explain(error))
    except LaunchError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(one_line(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which a command may not have loaded
            raise
        sys.exit(f"{opening(str(error), 3)}. {_LESS_MEMORY}")
    except KeyboardInterrupt as stop:
        where, number = (stop.message, stop.signal) if isinstance(stop, Interrupted) else ("", signal.SIGINT)
        print(f"Stopped{where}. {resume}", file=sys.stderr)
        sys.exit(128 + number)  # as a shell reports a process that a signal ended


@contextmanager
def messages_shown() -> Iterator[None]:
    """Print the messages of the platform's loggers, those of workers included, above the progress."""
    logger, handler = logging.getLogger("pixelcontrast"), logging.StreamHandler()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
