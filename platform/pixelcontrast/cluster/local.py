"""A private Ray instance on this machine: own folder, ports and token, reachable from here only."""

import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pixelcontrast.cluster import ray_internals
from pixelcontrast.cluster.environment import environment
from pixelcontrast.cluster.errors import LaunchError
from pixelcontrast.cluster.signals import sigterm_interrupts

_PREFIX = "pixelcontrast-"
_OBJECT_STORE_BYTES = 128 * 2**20
_STOP_TIMEOUT_S = 10.0
_NICENESS = "RAY_worker_niceness"

logger = logging.getLogger(__name__)


@contextmanager
def local_instance(min_cpus: int, *, state_api: bool = True) -> Iterator[tuple[Path, str | None]]:
    """Start an instance and stop it at the end; yields its folder and its dashboard's URL.

    It listens on 127.0.0.1 only, and dies with this process, whatever ends it.

    Args:
        min_cpus: logical CPUs that it offers at least, even if there are fewer cores.
        state_api: with Ray's State API, which Ray Train needs. It is part of Ray's dashboard, whose ten
            processes take a third of a core as long as they run.

    Raises:
        LaunchError: it did not start.
    """
    with ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        folder = stack.enter_context(_own_folder())
        stack.enter_context(environment(_variables(folder)))
        stack.callback(_stop)
        try:
            url = _start(folder, max(min_cpus, os.cpu_count() or 1), dashboard=state_api)
        except Exception as error:  # a plain Exception when the machine is too busy
            raise _not_started(error) from error
        stack.enter_context(_watched(folder))
        # Train's detached cleaner finds its cluster by this variable; with a second Ray on the host and
        # without it the cleaner crashes, and placement groups leak.
        stack.enter_context(environment({"RAY_ADDRESS": _address()}))
        stack.enter_context(daemons_logged())
        # ray.init has put its own SIGTERM handler in place of ours.
        stack.enter_context(sigterm_interrupts())
        yield folder, url


def daemons_logged() -> AbstractContextManager[None]:
    """Log what Ray's daemons have to say while inside; Ray would print it to standard output."""

    def log(batch: Mapping[str, Any]) -> None:
        logger.debug("Ray's %s: %s", batch.get("pid"), " ".join(batch["lines"]))

    return ray_internals.daemon_lines_to(log)


def dashboard_of(context: Any) -> str | None:
    """URL of the dashboard, from the context that ``ray.init`` returned; None if the cluster has none."""
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _not_started(error: Exception) -> LaunchError:
    """One line of what Ray says, which of its dashboard may be the last twenty of a log."""
    logger.debug("Ray did not start: %s", error)
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if re.search(r"dashboard\.(log|err)", line):
        line = "its dashboard did not answer in time"
    return LaunchError(
        f"Ray did not start on this machine: {line.rstrip('.')}",
        "A machine that is too busy is the usual reason: run the command again when it has less to do.",
    )


def _address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def _variables(folder: Path) -> dict[str, str | None]:
    return {
        **ray_internals.LOOPBACK_VARIABLES,
        "RAY_ADDRESS": None,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": None,
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Nothing drains a local instance, so its watcher would only cost a process.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Workers before anyone asks for one: ours have an environment of their own, which these lack.
        "RAY_prestart_worker_first_driver": "0",
        # By default workers have 15, and beside any other program a thirtieth of a core's time.
        _NICENESS: os.environ.get(_NICENESS, "0"),
        # A busy machine takes longer than Ray's 60 seconds.
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
        # Silences a note of Ray's about a coming change of defaults.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def _start(folder: Path, num_cpus: int, *, dashboard: bool) -> str | None:
    ray_internals.forget_settings()
    with (
        ray_internals.loopback_address(),
        ray_internals.any_agent_port(),
        ray_internals.daemons_in_own_sessions(),
    ):
        context = ray_internals.init_in(
            folder / "r",  # Ray opens it to everybody (mode 0777); the folder around it stays closed
            address="local",
            num_cpus=num_cpus,
            num_gpus=usable_gpus(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=_free_port(),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return dashboard_of(context)


def usable_gpus() -> int:
    """How many GPUs torch can compute on. Ray would count those of a driver too old for torch as well."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _stop() -> None:
    """Stop the instance's processes, also those that outlive Ray's own shutdown, and wait for their end."""
    processes = _processes()
    import psutil
    import ray

    ray.shutdown()
    _, alive = psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)


def _processes() -> list[Any]:
    """The daemons that ``ray.init`` started in this process, and all that they started."""
    pids = ray_internals.daemon_pids()  # first: Ray brings psutil
    import psutil

    found: list[psutil.Process] = []
    for pid in pids:
        try:
            daemon = psutil.Process(pid)
            found += [daemon, *daemon.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass
    return found


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder of mode 0700 with the token, deleted at the end."""
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
    """If this process is killed, end Ray's daemons and delete the folder.

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
