"""Connect to Ray: to the cluster that RAY_ADDRESS names, or to a local instance that is private."""

import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pixelcontrast.cluster import ray_internals
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.local import daemons_logged, dashboard_of, local_instance
from pixelcontrast.cluster.signals import sigterm_interrupts

_CONNECT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """A connection to Ray.

    Attributes:
        address: of the cluster's control store, as in RAY_ADDRESS.
        folder: the local instance's own, with token and logs, deleted when it stops; None on a cluster.
        dashboard_url: of Ray's own dashboard; None if there is none, or the process was connected before.
    """

    address: str
    folder: Path | None = None
    dashboard_url: str | None = None


def names_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster, which commands then use instead of this machine."""
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


@contextmanager
def connect(*, min_cpus: int = 1, state_api: bool = True) -> Iterator[Connection]:
    """Connect to the cluster in RAY_ADDRESS, or start a local instance and stop it at the end.

    A process that is connected already keeps its connection. Nothing of a cluster is ever stopped. The local
    instance has its own folder, ports and token, listens on 127.0.0.1 only, and dies with this process.
    SIGTERM raises ``KeyboardInterrupt`` inside.

    Args:
        min_cpus: logical CPUs that a local instance offers at least, even if there are fewer cores.
        state_api: a local instance has Ray's State API and dashboard (``local_instance``).

    Raises:
        LaunchError: no cluster answers at RAY_ADDRESS, or it refuses the token.
    """
    if _connected():
        yield Connection(address=_address())
    elif names_cluster():
        with _joined(os.environ["RAY_ADDRESS"]) as connection:
            yield connection
    else:
        with local_instance(min_cpus, state_api=state_api) as (folder, dashboard_url):
            yield Connection(address=_address(), folder=folder, dashboard_url=dashboard_url)


def _connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


@contextmanager
def _joined(address: str) -> Iterator[Connection]:
    import ray
    import ray.exceptions

    if "://" in address:
        raise LaunchError(
            f"RAY_ADDRESS is {address}: Ray's client cannot carry a training",
            "Use HOST:PORT of the head node from a machine of the cluster, or submit the script with "
            "`ray job submit`.",
        )
    _warn_of_open_token()
    try:
        with _probed(address):
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise LaunchError(
            f"RAY_ADDRESS is {address}, but connecting failed: {error}",
            "If a cluster runs there, give its token in RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token.",
        ) from error
    try:
        with daemons_logged(), sigterm_interrupts():
            yield Connection(address=_address(), dashboard_url=dashboard_of(context))
    finally:
        ray.shutdown()


def _warn_of_open_token() -> None:
    """Warn if others can read the token: whoever can may run anything on the cluster."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN") or not path.is_file():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        logger.warning("the cluster's token can be read by others (mode %04o): chmod 600 %s", mode, path)


@contextmanager
def _probed(address: str) -> Iterator[None]:
    """Fail at once if nothing listens there, as Ray would retry for many minutes; and let Ray keep 127.0.0.1.

    Ray replaces a local address by the machine's, where a cluster on loopback does not listen.
    """
    from ray.util import get_node_ip_address

    host, _, port = address.rpartition(":")
    if not port.isdecimal():  # such as "auto"
        yield
        return
    _knock(host, int(port))
    loopback = host in ("127.0.0.1", "localhost") and not _answers(get_node_ip_address(), int(port))
    with ray_internals.loopback_address() if loopback else nullcontext():
        yield


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()


def _answers(host: str, port: int) -> bool:
    try:
        _knock(host, port)
    except OSError:
        return False
    return True
