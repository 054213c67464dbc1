"""Connecting to Ray: to the cluster that RAY_ADDRESS names, or to a local instance nobody else can reach."""

import logging
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pixelcontrast.cluster.environment import attribute, environment
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.signals import sigterm_interrupts

_PREFIX = "pixelcontrast-"
_OBJECT_STORE_BYTES = 128 * 2**20
_STOP_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """A connection to Ray.

    Attributes:
        address: of the cluster's control store, as in RAY_ADDRESS.
        folder: the local instance's own folder, with token and logs, gone when it stops; None on a cluster.
        dashboard_url: of Ray's own dashboard; None where there is none, or the process was connected before.
    """

    address: str
    folder: Path | None = None
    dashboard_url: str | None = None


@contextmanager
def connect(*, min_cpus: int = 1) -> Iterator[Connection]:
    """Connect to the cluster in RAY_ADDRESS, or start a local instance and stop it at the end.

    A process that is connected already keeps its connection. Nothing of a cluster is ever stopped. The local
    instance has its own folder, ports and token, listens on 127.0.0.1 only, and dies with this process.
    SIGTERM raises ``KeyboardInterrupt`` inside.

    Args:
        min_cpus: logical CPUs that a local instance offers at least, even where there are fewer cores.

    Raises:
        LaunchError: no cluster answers at RAY_ADDRESS, or it refuses the token.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if _connected():
        yield Connection(address=_address())
    elif address not in ("", "local"):
        with _joined(address) as connection:
            yield connection
    else:
        with _started(min_cpus) as connection:
            yield connection


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
            f"RAY_ADDRESS is {address}: Ray's client cannot carry a training. Use HOST:PORT of the head node "
            "from a machine of the cluster, or hand the script over with `ray job submit`."
        )
    _warn_of_open_token()
    try:
        with _probed(address):
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise LaunchError(
            f"RAY_ADDRESS is {address}, but connecting failed: {error}. If a cluster runs there, give "
            "its token in RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token."
        ) from error
    try:
        with _quiet(), sigterm_interrupts():
            yield Connection(address=_address(), dashboard_url=_url(context))
    finally:
        ray.shutdown()


def _warn_of_open_token() -> None:
    """Who can read the token can run anything on the cluster."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN") or not path.is_file():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        logger.warning("the cluster's token can be read by others (mode %04o): chmod 600 %s", mode, path)


@contextmanager
def _probed(address: str) -> Iterator[None]:
    """Fail at once where nothing listens, as Ray would try for many minutes; and let Ray keep 127.0.0.1.

    Ray replaces a local address by that of the machine, where a cluster on loopback does not listen.
    """
    import ray._private.ray_constants as constants
    from ray.util import get_node_ip_address

    host, _, port = address.rpartition(":")
    if not port.isdecimal():  # such as "auto"
        yield
        return
    _knock(host, int(port))
    loopback = host in ("127.0.0.1", "localhost") and not _answers(get_node_ip_address(), int(port))
    with attribute(constants, "ENABLE_RAY_CLUSTER", constants.ENABLE_RAY_CLUSTER and not loopback):
        yield


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()


def _answers(host: str, port: int) -> bool:
    try:
        _knock(host, port)
    except OSError:
        return False
    return True


@contextmanager
def _started(min_cpus: int) -> Iterator[Connection]:
    with ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        folder = stack.enter_context(_own_folder())
        stack.enter_context(environment(_local_variables(folder)))
        stack.callback(_stop)
        try:
            url = _start(folder, max(min_cpus, os.cpu_count() or 1))
        except Exception as error:  # a plain Exception when the machine is too busy
            raise LaunchError(f"Ray did not start on this machine: {error}") from error
        stack.enter_context(_watched(folder))
        # Train's detached cleaner finds its cluster by this variable; with a second Ray on the host and
        # without it the cleaner crashes, and placement groups leak.
        stack.enter_context(environment({"RAY_ADDRESS": _address()}))
        stack.enter_context(_quiet())
        # ray.init has put its own SIGTERM handler in place of ours.
        stack.enter_context(sigterm_interrupts())
        yield Connection(address=_address(), folder=folder, dashboard_url=url)


def _local_variables(folder: Path) -> dict[str, str | None]:
    return {
        "RAY_ADDRESS": None,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": None,
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        # Off, Ray takes 127.0.0.1 for this node's address, and everything listens there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # Nothing drains a local instance, so its watcher would only cost a process.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Ray's own note about a coming change of defaults.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def _start(folder: Path, num_cpus: int) -> str | None:
    import ray
    import ray._private.parameter as parameter
    import ray._private.ray_constants as constants
    import ray._raylet as core

    # Ray reads both once per process: an earlier connection may have left other values.
    compiled: Any = core
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()
    # Set here too, for a process that had imported Ray before the variable was set.
    loopback = attribute(constants, "ENABLE_RAY_CLUSTER", False)
    # ray.init has no argument for the agent's port; the default would be taken from another Ray on the host.
    any_port = attribute(parameter, "RayParams", partial(parameter.RayParams, dashboard_agent_listen_port=0))
    with loopback, any_port:
        context = ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            # The State API, which Train's cleaner of placement groups asks, is part of the dashboard.
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=_free_port(),
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Ray opens its folder to everybody (mode 0777); the one around it stays closed.
            _temp_dir=str(folder / "r"),
        )
    return _url(context)


def _url(context: Any) -> str | None:
    """Of the dashboard, if the cluster has one."""
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _stop() -> None:
    """Stop the instance's processes, also those that outlive Ray's own shutdown, and wait for their end."""
    import psutil
    import ray

    processes = _processes()
    ray.shutdown()
    _, alive = psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)


def _processes() -> list[Any]:
    """The daemons that ray.init started in this process, and all that they started."""
    import ray._private.worker as worker  # first: it brings psutil
    import psutil  # isort: skip

    found: list[psutil.Process] = []
    node: Any = worker._global_node
    for info in [info for infos in node.all_processes.values() for info in infos] if node else []:
        try:
            daemon = psutil.Process(info.process.pid)
            found += [daemon, *daemon.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass
    return found


def _quiet() -> AbstractContextManager[None]:
    """Log what Ray's daemons have to say; Ray would print it to standard output in any case."""
    import ray._private.worker as worker

    def log(batch: Mapping[str, Any], **options: Any) -> None:
        del options
        logger.debug("Ray's %s: %s", batch.get("pid"), " ".join(batch["lines"]))

    return attribute(worker, "print_to_stdstream", log)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder of mode 0700 with the token, removed at the end."""
    # A UNIX socket's path has at most 103 to 107 characters, of which Ray needs about 65 and we 28.
    parent = Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent if len(str(parent)) <= 10 else "/tmp"))
    try:
        token = os.open(folder / "token", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(token, "w") as file:
            file.write(secrets.token_hex(32))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """If this process is killed, end Ray's daemons and remove the folder.

    Linux ends the daemons that Ray starts with the driver, but their agents stay for a minute, and Ray
    cleans up no files.
    """
    # Its standard input ends when this process does, whatever the reason.
    script = 'read -r _; kill -9 "$@"; sleep 3; rm -rf -- "$0"'
    command = ["sh", "-c", script, str(folder), *(str(process.pid) for process in _processes())]
    watch = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # not ended by Ctrl-C
    )
    try:
        yield
    finally:
        watch.kill()
        watch.wait()
        if watch.stdin:
            watch.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
