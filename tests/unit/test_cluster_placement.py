import pickle

import pytest
from ray.exceptions import ObjectLostError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from pixelcontrast.cluster.errors import LaunchError, NoPlaceError, WorkerError, first_cause
from pixelcontrast.cluster.paths import reachable_paths
from pixelcontrast.cluster.placement import (
    check_memory_fits,
    check_placement,
    concurrency,
    takes_gpus,
    workers_to_ask_for,
)
from pixelcontrast.cluster.train.watch import Bounds, usual_bounds
from pixelcontrast.config import Data, Experiment, Model, Run, Workers


def run(workers: Workers, **values) -> Run:
    return Run(name="run", workers=workers, **values)


def test_workers_that_fit_are_accepted():
    check_placement(run(Workers(2)), [{"CPU": 2.0}])
    check_placement(run(Workers(2), cpus_per_worker=2), [{"CPU": 2.0}, {"CPU": 3.0}])
    check_placement(run(Workers(1, 8)), [{"CPU": 1.0}])
    check_placement(run(Workers(2), device="cuda"), [{"CPU": 4.0, "GPU": 2.0}])


def test_too_few_cpus_are_named_with_the_keys():
    with pytest.raises(NoPlaceError, match=r"run.workers is 4\).*1 node with 2 CPUs.*Lower run.workers"):
        check_placement(run(Workers(4)), [{"CPU": 2.0}])


def test_a_worker_does_not_span_nodes():
    with pytest.raises(LaunchError, match=r"2 CPUs \(run.cpus_per_worker\).*none would fit"):
        check_placement(run(Workers(1), cpus_per_worker=2), [{"CPU": 1.0}] * 4)


def test_missing_gpus_are_named_with_the_key():
    with pytest.raises(LaunchError, match=r"1 GPU .run.device is cuda. each.*set run.device to cpu"):
        check_placement(run(Workers(1), device="cuda"), [{"CPU": 8.0}])


def test_auto_takes_gpus_where_there_are_any():
    assert takes_gpus(run(Workers(1)), [{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}])
    assert not takes_gpus(run(Workers(1)), [{"CPU": 1.0}])
    assert not takes_gpus(run(Workers(1), device="cpu"), [{"CPU": 1.0, "GPU": 1.0}])


def test_an_autoscaled_cluster_may_grow_first():
    nodes = [{"CPU": 0.0}]
    with pytest.raises(LaunchError, match=r"4 workers.*set run\.node_timeout"):
        check_placement(run(Workers(4)), nodes)
    waits = run(Workers(4), device="cuda", node_timeout=3600)
    check_placement(waits, nodes)
    assert (concurrency(waits, nodes), concurrency(waits, nodes, 8)) == (1, 8)
    assert usual_bounds(waits).placement_s == 3600
    assert usual_bounds(run(Workers(4))).placement_s == Bounds().placement_s
    assert usual_bounds(run(Workers(4), device="cpu", node_timeout=1)).placement_s == Bounds().placement_s


def test_a_run_that_waits_for_nodes_must_say_its_device():
    with pytest.raises(ValueError, match=r"node_timeout is 3600 and device auto.*set device to cuda or cpu"):
        run(Workers(1), node_timeout=3600)


def test_as_many_trials_run_at_a_time_as_fit_whole():
    two = [{"CPU": 4.0}, {"CPU": 3.0}]
    assert concurrency(run(Workers(1)), two) == 7
    assert concurrency(run(Workers(2)), two) == 3
    assert concurrency(run(Workers(1), cpus_per_worker=2), two) == 3
    assert concurrency(run(Workers(1, 8)), two) == 1  # elastic: fewer workers than it may have
    assert (concurrency(run(Workers(2)), two, 2), concurrency(run(Workers(2)), two, 9)) == (2, 3)
    with pytest.raises(LaunchError, match="asks for 8 workers"):
        concurrency(run(Workers(8)), two)


def test_an_elastic_run_asks_for_what_is_free_and_at_least_for_its_fewest():
    elastic = run(Workers(2, 4))
    asked = [workers_to_ask_for(elastic, room) for room in (0, 2, 3, 9)]
    assert asked == [Workers(2), Workers(2), Workers(2, 3), Workers(2, 4)]
    assert workers_to_ask_for(run(Workers(4)), 1) == Workers(4)
    waits = run(Workers(2, 4), device="cuda", node_timeout=60)
    assert workers_to_ask_for(waits, 2) == Workers(2, 4)  # what it asks for makes the autoscaler start nodes


def test_trials_share_a_gpu_by_parts():
    node = [{"CPU": 16.0, "GPU": 1.0}]
    assert concurrency(run(Workers(1)), node) == 1
    assert concurrency(run(Workers(1), gpus_per_worker=0.25), node) == 4
    assert concurrency(run(Workers(1), gpus_per_worker=0.1), node) == 10
    with pytest.raises(LaunchError, match=r"0\.5 GPUs .run.device is cuda"):
        concurrency(run(Workers(1), gpus_per_worker=0.5, device="cuda"), [{"CPU": 1.0}])
    with pytest.raises(ValueError, match=r"run.gpus_per_worker is 0\.5 and run.workers 2"):
        Experiment(data=Data(layout="camvid", root="data"), run=run(Workers(2), gpus_per_worker=0.5))
    on_cpus = run(Workers(2), gpus_per_worker=0.5, device="cpu")
    Experiment(data=Data(layout="camvid", root="data"), run=on_cpus)


def test_embeddings_must_fit_into_a_quarter_of_a_worker_s_part_of_its_node():
    nodes = [{"CPU": 4.0, "memory": 16e9}, {"CPU": 1.0, "memory": 8e9}, {"CPU": 0.0, "memory": 1e9}]
    check_memory_fits(1_000_000_000, run(Workers(4)), nodes, gpu=False)
    with pytest.raises(ValueError, match=r"1\.01 GB .* 25% of .* takes 4 workers, 4 GB.*pixel_queue_size"):
        check_memory_fits(1_010_000_000, run(Workers(4)), nodes, gpu=False)
    check_memory_fits(1_010_000_000, run(Workers(1)), nodes, gpu=False)
    check_memory_fits(10**12, run(Workers(4)), nodes, gpu=True)  # on the GPU, which the worker looks at


def test_paths_become_absolute_and_uris_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = Experiment(
        data=Data(layout="camvid", root="data"), run=run(Workers(1)), model=Model(weights="hrnet.safetensors")
    )
    moved = reachable_paths(local)
    assert moved.data.root == str(tmp_path / "data")
    assert moved.run.storage == str(tmp_path / "runs")
    assert moved.model.weights == str(tmp_path / "hrnet.safetensors")
    remote = Experiment(
        data=Data(layout="camvid", root="s3://bucket/data"), run=run(Workers(1), storage="s3://bucket/runs")
    )
    assert reachable_paths(remote) == remote


def test_first_cause_is_a_death_before_what_follows_from_it():
    closed = WorkerError(0, "RuntimeError: Connection closed by peer", "trace", at=1.0, final=False)
    died = RuntimeError("The actor died.\nWorker exit detail: node lost. Some common causes include: many")
    assert str(first_cause({0: closed, 1: died})) == "worker 1 died: node lost."


OUT_OF_MEMORY = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: "
    "641ad1) was 9.37GB used / 23.54GB limit (0.397911)\n"
    "OOM kill reason: Memory usage 9972580352B exceeded threshold of 252765104B (1.0% of 25276510208B limit)"
)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "by Ray Train"])
def test_a_worker_that_ray_kills_for_memory_is_told_with_what_takes_less(wrapped: bool):
    death: Exception = OutOfMemoryError(OUT_OF_MEMORY)
    if wrapped:
        death = WorkerHealthCheckFailedError("A worker health check failed.\nWorker info: Worker(...)", death)
    cause = first_cause({1: death})
    assert cause.finding == (
        "worker 1 died: Ray killed its process because its node ran out of memory (9.37 of 23.54 GB used, "
        "by all that runs on 10.0.0.7)"
    )
    assert cause.remedy.startswith("Lower data.loader_processes, ")
    assert not cause.final


def test_a_node_that_takes_what_a_worker_returned_with_it_is_told_in_a_few_words():
    lost = ObjectLostError("f00d" * 14, b"", "")
    assert str(first_cause({0: lost})) == "worker 0 died: what it returned was lost with its node"


def test_first_cause_is_the_earliest_exception_with_its_traceback():
    late = WorkerError(0, "RuntimeError: Connection closed by peer", "late", at=2.0, final=False)
    early = WorkerError(1, "KeyError: 'label'", "early", at=1.0, final=False)
    cause = first_cause({0: late, 1: early})
    assert str(cause) == "worker 1 failed: KeyError: 'label'"
    assert cause.worker_traceback == "early"
    assert cause.__notes__ == ["early"]


def test_an_error_keeps_finding_and_remedy_apart_also_between_processes():
    error = LaunchError("no place. It is full", "Add nodes.", worker_traceback="trace", final=True)
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert (found.finding, found.remedy) == ("no place. It is full", "Add nodes.")
        assert str(found) == "no place. It is full. Add nodes."
        assert (found.worker_traceback, found.final, found.__notes__) == ("trace", True, ["trace"])
    assert str(LaunchError("a worker died")) == "a worker died"
