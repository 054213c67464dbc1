"""How the driver of a search asks the processes of its trials to stop."""

from pixelcontrast.cluster.ray_internals import delete_value, get_value, put_value


class StopRequest:
    """A value in the cluster's key-value store, which every process of the cluster can read.

    Args:
        name: a new one for every search and driver.
    """

    def __init__(self, name: str):
        self.name = name
        self._key = f"stop-{name}"

    def ask(self, signal: int) -> None:
        """Ask to stop, as the driver was asked by this signal."""
        put_value(self._key, str(signal))

    def signal(self) -> int | None:
        """The signal that the driver was asked by, or None so far."""
        found = get_value(self._key)
        return None if found is None else int(found)

    def withdraw(self) -> None:
        """Delete the request from the cluster, if there is one."""
        delete_value(self._key)
