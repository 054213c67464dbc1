"""What needs more than torch and numpy, which come with the package: the extra ``platform``."""

import importlib
from types import ModuleType


def import_platform(module: str, *, what: str) -> ModuleType:
    """Import a module of the platform.

    Args:
        module: its full name.
        what: the name that the user asked for.

    Raises:
        ImportError: a package of the extra is not installed; one line with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "pixelcontrast":
            raise
        raise ImportError(
            f'{what} needs {error.name}, which is not installed: pip install "pixelcontrast[platform]"'
        ) from error
