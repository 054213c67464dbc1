"""Where things lie: a folder or file on this machine, or a URI."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field


def expand_home(path: str) -> str:
    """``~/runs`` → ``/home/ada/runs``; anything else as it is.

    Raises:
        ValueError: there is no such user, or the user has no home folder.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(
            f"there is no home folder for {path.partition('/')[0]}; write the whole path, or ./{path} for a "
            "name that begins with ~"
        ) from error


def absolute_path(path: str) -> str:
    """The absolute path of a folder or file, ``~`` expanded; a URI is unchanged."""
    return path if "://" in path else str(Path(expand_home(path)).absolute())


Location = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]
"""A setting that names a place: never empty, and ``~`` expanded when the setting is made."""
