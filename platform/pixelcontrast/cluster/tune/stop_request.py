"""How the driver of a search asks the processes of its trials to stop."""

_NAMESPACE = b"pixelcontrast"


class StopRequest:
    """A word in the cluster's own key-value store, which every process of the cluster can read.

    An actor would do as well, but takes a process and some seconds to start, and may die.

    Args:
        name: a new one for every search and driver.
    """

    def __init__(self, name: str):
        self.name = name
        self._key = f"stop-{name}".encode()

    def ask(self, signal: int) -> None:
        """Ask to stop, as the driver was asked by this signal."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(self._key, str(signal), namespace=_NAMESPACE)

    def signal(self) -> int | None:
        """The signal that the driver was asked by, or None so far."""
        from ray.experimental import internal_kv

        found = internal_kv._internal_kv_get(self._key, namespace=_NAMESPACE)
        return None if found is None else int(found)

    def withdraw(self) -> None:
        """Leave nothing in the cluster; also where nothing was asked."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(self._key, namespace=_NAMESPACE)
