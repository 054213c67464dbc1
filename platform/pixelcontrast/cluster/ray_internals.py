"""The private names of Ray that the platform needs, all of them here and nowhere else.

Each function says which public way it stands in for, and why that one does not do.
``tests/unit/test_ray_internals.py`` fails when a new version of Ray moves or changes a name. Ray is imported
when a function is called, not before: a local instance needs its environment set first.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

LOOPBACK_VARIABLES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""The environment in which Ray takes 127.0.0.1 for this node's address, so that all of it listens there only.

Stands in for an address to listen on, which ``ray.init`` does not take. Ray reads the variable when it is
first imported; ``loopback_address`` does the same later.
"""

_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_NAMESPACE = b"pixelcontrast"
_OUT_OF_MEMORY = "killed due to the node running low on memory"
_MEMORY_USED = re.compile(r"Memory on the node \(IP: (\S+), ID: \w+\) was ([\d.]+)GB used / ([\d.]+)GB limit")


# Connecting, and the local instance


def in_a_job() -> bool:
    """Whether this process is the command of a job, submitted with ``ray job submit``.

    Stands in for a public variable: Ray sets this one, whose name does end so, for a job's command and for
    nothing else, and the runtime context knows a job only once connected.
    """
    return _JOB_VARIABLE in os.environ


def forget_settings() -> None:
    """Let Ray read its settings and the token anew at the next connection.

    Public: nothing. Ray's core reads both once per process, and an earlier connection may have left others.
    """
    import ray._raylet as core

    compiled: Any = core
    compiled.Config.initialize("")
    compiled.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def loopback_address() -> Iterator[None]:
    """Let Ray keep 127.0.0.1 as an address inside, instead of replacing it by the machine's.

    Stands in for ``LOOPBACK_VARIABLES``, which have no effect in a process that has imported Ray already.
    """
    import ray._private.ray_constants as constants

    with _attribute(constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def any_agent_port() -> Iterator[None]:
    """Let ``ray.init`` inside choose a free port for the dashboard's agent.

    Stands in for an argument of ``ray.init``, which has one for the dashboard's port only. The agent's
    default port is taken if another Ray runs on this machine.
    """
    import ray._private.parameter as parameter

    with _attribute(parameter, "RayParams", partial(parameter.RayParams, dashboard_agent_listen_port=0)):
        yield


def init_in(folder: Path, **options: Any) -> Any:
    """``ray.init`` with all files of the new instance in a folder; returns Ray's context.

    Stands in for ``ray start --temp-dir``: ``ray.init`` has the argument under a private name only.
    """
    import ray

    return ray.init(_temp_dir=str(folder), **options)


@contextmanager
def daemons_in_own_sessions() -> Iterator[None]:
    """Let the daemons that ``ray.init`` starts inside be out of reach of signals to our process group.

    Stands in for an argument of ``ray.init``: a signal to the group (``timeout``, a supervisor) would end the
    daemons before the driver has asked for a checkpoint.
    """
    import ray._private.services as services

    started = partial(services.ConsolePopen, start_new_session=True)
    with _attribute(services, "ConsolePopen", started):
        yield


def daemon_pids() -> list[int]:
    """Process ids of the daemons that ``ray.init`` started in this process; empty if it started none.

    Public: nothing. ``ray.shutdown`` ends the daemons, but does not wait, and leaves those that do not react.
    """
    import ray._private.worker as worker

    node: Any = worker._global_node
    return [info.process.pid for infos in node.all_processes.values() for info in infos] if node else []


def daemon_lines_to(take: Callable[[Mapping[str, Any]], None]) -> AbstractContextManager[None]:
    """Hand what Ray's daemons have to say to ``take`` while inside, as ``pid`` and ``lines``.

    Stands in for ``log_to_driver=False``, which keeps the workers quiet, but not the daemons: Ray prints
    their lines to standard output.
    """
    import ray._private.worker as worker

    def log(batch: Mapping[str, Any], **options: Any) -> None:
        del options
        take(batch)

    return _attribute(worker, "print_to_stdstream", log)


def token_required() -> bool:
    """Whether the Ray of this process demands a token.

    Stands in for RAY_AUTH_MODE, which says what this process was told, not what Ray made of it.
    """
    import ray._raylet as core

    compiled: Any = core
    return compiled.get_authentication_mode() == compiled.AuthenticationMode.TOKEN


# Nodes


def draining_nodes() -> set[str]:
    """Ids of the nodes that will be taken away: preempted, or scaled down.

    Stands in for ``ray.nodes()``, which tells living nodes from dead ones only.
    """
    return set(_state().get_draining_nodes())


def free_resources_by_node() -> dict[str, dict[str, float]]:
    """What is free now on each living node, by its id.

    Stands in for ``ray.available_resources()``, which adds up all nodes; a worker must fit on one.
    """
    return _state().available_resources_per_node()


def _state() -> Any:
    from ray._private.state import state

    return state


# Words that processes of a cluster leave for each other


def put_value(key: str, value: str) -> None:
    """Write a value that every process of the cluster can read.

    Stands in for a named actor, which takes a process and some seconds to start, and may die.
    """
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key.encode(), value.encode(), namespace=_NAMESPACE)


def get_value(key: str) -> str | None:
    """Read a value of ``put_value``; None where there is none. Stands in for the same."""
    from ray.experimental import internal_kv

    found = internal_kv._internal_kv_get(key.encode(), namespace=_NAMESPACE)
    return None if found is None else found.decode()


def delete_value(key: str) -> None:
    """Delete a value of ``put_value``, if it is there. Stands in for the same."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(key.encode(), namespace=_NAMESPACE)


# Ray Train and Ray Tune


@cache
def loopback_backend() -> type:
    """Ray Train's torch backend, but for a process group that meets in a file, for workers on one machine.

    Stands in for ``TorchConfig(init_method=...)``, which knows "env" and "tcp" only: both open torch's TCP
    store, which listens on every address.
    """
    import ray
    from ray.train.torch import config

    class LoopbackBackend(config._TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            store = worker_group.execute_single(0, _store_path)
            worker_group.execute(config._set_torch_distributed_env_vars)
            joining = [
                worker_group.execute_single_async(
                    rank,
                    config._setup_torch_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{store}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
            ray.get(joining)

    return LoopbackBackend


def _store_path() -> str:
    """A file that is not there yet, in the folder of the instance; called on a worker."""
    from pixelcontrast.cluster.nodes import session_folder

    return str(session_folder() / f"store-{os.getpid()}-{os.urandom(4).hex()}")


def cause_of_death(error: Exception) -> str:
    """Ray's account of a worker's death in one line, without the actor's ids, addresses and advice.

    Stands in for fields of ``ray.exceptions.ActorDiedError`` and ``OutOfMemoryError``, which have the cause
    in their texts only.
    """
    from ray.exceptions import ObjectLostError

    if isinstance(error, ObjectLostError):
        return "what it returned was lost with its node"
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        found = _MEMORY_USED.search(text)
        used = (
            "" if found is None else " ({1} of {2} GB used, by all that runs on {0})".format(*found.groups())
        )
        return f"Ray killed its process because its node ran out of memory{used}"
    _, _, detail = text.partition("Worker exit detail: ")
    if "End of file" in detail:
        return "its process was killed (the kernel does so when memory runs out) or crashed"
    return (detail or text).partition(" Some common causes")[0][:400]


def is_out_of_memory(error: Exception) -> bool:
    """Whether Ray killed a process because its node's memory was nearly full.

    Stands in for ``isinstance(error, OutOfMemoryError)``: Ray Train hands on the text in an exception of its
    own.
    """
    return _OUT_OF_MEMORY in str(error)


def stop_waiting_trials(controller: Any, *, before: Callable[[str], None]) -> None:
    """End all trials that Tune has not started; ``before`` is called with the id of each.

    Stands in for ``ray.tune.Stopper``, which is asked about running trials only: a waiting one would start.

    Args:
        controller: as Tune hands it to a scheduler.
    """
    from ray.tune.experiment import Trial

    for trial in controller.get_trials():
        if trial.status == Trial.PENDING:
            before(trial.trial_id)
            controller.stop_trial(trial)


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute and put it back at the end."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
