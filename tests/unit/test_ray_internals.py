"""The private names of Ray that the platform uses are where it looks for them, and take what it gives.

Without a cluster: what needs one is used by every test that starts a training. A failure here means that Ray
has moved a name: read what the function in ``cluster/ray_internals.py`` stands in for first.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train.torch import TorchConfig, TorchTrainer

from pixelcontrast.cluster import ray_internals


def takes(function: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
    """Whether a call with these arguments fits the function's signature."""
    try:
        inspect.signature(function).bind(*arguments, **options)
    except TypeError:
        return False
    return True


def test_the_variable_of_a_job_is_the_one_that_ray_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert not ray_internals.in_a_job()
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert ray_internals.in_a_job()


def test_the_loopback_variable_turns_off_the_address_of_the_machine() -> None:
    code = "import ray._private.ray_constants as constants; print(constants.ENABLE_RAY_CLUSTER)"
    environment = os.environ | ray_internals.LOOPBACK_VARIABLES
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_ray_still_reads_its_own_address_from_what_is_patched() -> None:
    import ray._private.ray_constants as constants
    import ray._private.services as services

    before = constants.ENABLE_RAY_CLUSTER
    with ray_internals.loopback_address():
        assert constants.ENABLE_RAY_CLUSTER is False
        assert services.get_node_ip_address() == "127.0.0.1"
    assert constants.ENABLE_RAY_CLUSTER is before


def test_settings_and_token_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    ray_internals.forget_settings()
    assert ray_internals.token_required() is False
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert ray_internals.token_required() is False, "nothing to forget: Ray reads the variable at once"
    ray_internals.forget_settings()
    assert ray_internals.token_required() is True
    monkeypatch.undo()
    ray_internals.forget_settings()


def test_ray_init_builds_its_parameters_with_the_port_that_is_given() -> None:
    import ray._private.parameter as parameter

    with ray_internals.any_agent_port():
        given = parameter.RayParams(num_cpus=1)
    assert given.dashboard_agent_listen_port == 0
    assert parameter.RayParams(num_cpus=1).dashboard_agent_listen_port != 0
    assert "ray._private.parameter.RayParams(" in inspect.getsource(ray.init), (
        "not looked up when it is called"
    )


def test_ray_init_has_an_argument_for_its_folder(tmp_path: Path) -> None:
    source = inspect.getsource(ray.init)
    assert '"_temp_dir"' in source or "_temp_dir:" in source
    with pytest.raises(RuntimeError, match="Unknown keyword argument"):
        ray_internals.init_in(tmp_path, no_such_option=1)


def test_daemons_are_found_where_ray_keeps_its_node() -> None:
    import ray._private.worker as worker
    from ray._private.node import Node
    from ray._private.services import ProcessInfo

    assert worker._global_node is None
    assert ray_internals.daemon_pids() == []
    source = inspect.getsource(Node)
    assert "self.all_processes: dict" in source
    assert "self.all_processes[ray_constants.PROCESS_TYPE_RAYLET] = [" in source
    assert "process" in ProcessInfo._fields


def test_daemons_are_started_in_sessions_of_their_own() -> None:
    import ray._private.services as services

    source = inspect.getsource(services.start_ray_process)
    assert "ConsolePopen(" in source
    assert "start_new_session" not in source
    with ray_internals.daemons_in_own_sessions():
        child = services.ConsolePopen(["sleep", "60"])
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        child.kill()
        child.wait()


def test_what_daemons_say_is_handed_over() -> None:
    import ray._private.worker as worker

    heard: list[Any] = []
    assert takes(worker.print_to_stdstream, {"pid": 1, "lines": ["x"]}, ignore_prefix=False)
    with ray_internals.daemon_lines_to(heard.append):
        worker.print_to_stdstream({"pid": "raylet", "lines": ["a line"]}, ignore_prefix=True)
    assert heard == [{"pid": "raylet", "lines": ["a line"]}]


def test_the_state_of_nodes_has_its_methods() -> None:
    from ray._private.state import GlobalState, state

    assert isinstance(state, GlobalState)
    for method in (state.get_draining_nodes, state.available_resources_per_node):
        assert takes(method)


def test_the_key_value_store_takes_a_namespace() -> None:
    from ray.experimental import internal_kv

    assert takes(internal_kv._internal_kv_put, b"key", b"value", namespace=b"space")
    assert takes(internal_kv._internal_kv_get, b"key", namespace=b"space")
    assert takes(internal_kv._internal_kv_del, b"key", namespace=b"space")


def test_the_backend_is_ray_s_but_for_the_start() -> None:
    from ray.train.torch import config

    backend = ray_internals.loopback_backend()
    assert backend is ray_internals.loopback_backend()
    assert issubclass(backend, TorchConfig().backend_cls)
    assert list(vars(config._TorchBackend)["on_start"].__code__.co_varnames[:3]) == [
        "self",
        "worker_group",
        "backend_config",
    ]
    assert takes(config._set_torch_distributed_env_vars)
    assert takes(
        config._setup_torch_process_group,
        backend="gloo",
        world_rank=0,
        world_size=1,
        init_method="file:///x",
        timeout_s=1,
    )
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

    assert takes(WorkerGroup.execute_single, None, 0, print)
    assert takes(WorkerGroup.execute_single_async, None, 0, print, backend="gloo")
    assert takes(WorkerGroup.execute, None, print)
    assert TorchTrainer


def test_ray_s_account_of_a_death_is_still_worded_so() -> None:
    """The raylet makes the text; a field would be better, and there is none."""
    raylet = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    said = (b"Worker exit detail: ", b" Some common causes", b"End of file")
    out_of_memory = (
        b"killed due to the node running low on memory",
        b"Memory on the node (IP: %s, ID: %s) was ",
    )
    for words in (*said, *out_of_memory, b"%sGB used / %sGB limit"):
        assert words in raylet, words
    killed = RuntimeError("The actor died.\nWorker exit detail: Worker unexpectedly exits. End of file. Some")
    assert ray_internals.cause_of_death(killed).startswith("its process was killed")
    lost = RuntimeError("The actor died.\nWorker exit detail: node lost. Some common causes include: many")
    assert ray_internals.cause_of_death(lost) == "node lost."


def test_tune_s_controller_lists_and_stops_trials() -> None:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    assert takes(TuneController.get_trials, None)
    assert takes(TuneController.stop_trial, None, "trial")
    assert Trial.PENDING == "PENDING"
    assert takes(Trial, "function")
