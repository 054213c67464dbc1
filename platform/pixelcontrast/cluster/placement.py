"""Check that the cluster can hold the workers, before anything starts."""

from collections.abc import Mapping, Sequence

from pixelcontrast.cluster.errors import NoPlaceError
from pixelcontrast.config import Run, Workers, check_memory

Resources = Mapping[str, float]


def takes_gpus(run: Run, nodes: Sequence[Resources]) -> bool:
    """Whether each worker gets a GPU: as ``run.device`` says, or with ``auto`` if the cluster has any.

    Args:
        nodes: the resources of every living node.
    """
    if run.device != "auto":
        return run.device == "cuda"
    return any(resources.get("GPU", 0) > 0 for resources in nodes)


def check_placement(run: Run, nodes: Sequence[Resources]) -> None:
    """Check that the fewest workers of ``run.workers`` fit, each whole on one node.

    With ``run.node_timeout`` nothing is refused: Ray does not tell what an autoscaler may start.

    Args:
        nodes: the resources of every living node.

    Raises:
        NoPlaceError: they never fit on these nodes; the text names what is asked, what there is, and the
            key to change.
    """
    asked = worker_resources(run, gpu=takes_gpus(run, nodes))
    fitting = sum(workers_in(node, asked) for node in nodes)
    if fitting < run.workers.min and not run.node_timeout:
        raise NoPlaceError(
            f"{describe_request(run, asked)}, but the cluster has {_describe_nodes(nodes, asked)}, where "
            f"{fitting or 'none'} would fit",
            _remedy(asked),
        )


def concurrency(run: Run, nodes: Sequence[Resources], most: int | None = None) -> int:
    """How many such runs fit on the cluster at a time, each with all its workers; 1 where only fewer fit.

    Args:
        most: an upper bound; with ``run.node_timeout`` the answer, as nodes start for what waits.

    Raises:
        NoPlaceError: as ``check_placement``.
    """
    check_placement(run, nodes)
    asked = worker_resources(run, gpu=takes_gpus(run, nodes))
    fitting = max(sum(workers_in(node, asked) for node in nodes) // run.workers.max, 1)
    if most is None:
        return fitting
    return most if run.node_timeout else min(most, fitting)


def check_memory_fits(size: int, run: Run, nodes: Sequence[Resources], *, gpu: bool) -> None:
    """Check that ``size`` bytes of embeddings fit into every worker's part of its node's memory.

    With a GPU the embeddings lie in its memory: each worker checks that before the first step.

    Raises:
        ValueError: the memory is too large; the text names both sizes and the keys to change.
    """
    asked = worker_resources(run, gpu=gpu)
    for node in nodes:
        workers = min(workers_in(node, asked), run.workers.max)
        if workers and not gpu:
            where = f"a worker's part of the memory of a node that takes {_count(workers, 'worker')}"
            check_memory(size, node.get("memory", 0) / workers, where)


def worker_resources(run: Run, *, gpu: bool) -> dict[str, float]:
    """The resources that one worker reserves, by Ray's names."""
    return {"CPU": run.cpus_per_worker} | ({"GPU": run.gpus_per_worker} if gpu else {})


def describe_request(run: Run, asked: Resources) -> str:
    """The run's request in words, with the keys that set it."""
    gpu = f" and {_count(asked['GPU'], 'GPU')} (run.device is {run.device})" if "GPU" in asked else ""
    least = "at least " if run.workers.max > run.workers.min else ""
    return (
        f"the run asks for {least}{_count(run.workers.min, 'worker')} (run.workers is {run.workers}) with "
        f"{_count(run.cpus_per_worker, 'CPU')} (run.cpus_per_worker){gpu} each"
    )


def workers_in(resources: Resources, asked: Resources) -> int:
    """How many workers, each asking for ``asked``, fit into a node's resources."""
    return int(min((resources.get(name, 0) + 1e-9) // amount for name, amount in asked.items()))


def workers_to_ask_for(run: Run, room: int) -> Workers:
    """How many workers to ask Ray for at a start: no more than have a place now, but for the fewest.

    Ray chooses from a range by what its nodes have, not by what is free there: beside others it would wait
    for more than there is. With ``run.node_timeout`` it is asked for all, so that nodes start.

    Args:
        room: workers that fit into what is free now.
    """
    if run.node_timeout:
        return run.workers
    return Workers(run.workers.min, max(run.workers.min, min(run.workers.max, room)))


def _describe_nodes(nodes: Sequence[Resources], asked: Resources) -> str:
    # By size: Ray lists nodes in any order, and the same cluster shall read the same.
    numbers = sorted([node.get(name, 0) for name in asked] for node in nodes)
    each = [" and ".join(map(_count, of_node, asked)) for of_node in numbers]
    return f"{_count(len(nodes), 'node')} with {'; '.join(each)}" if nodes else "no living node"


def _remedy(asked: Resources) -> str:
    keys = "run.workers or run.cpus_per_worker"
    other = "set run.device to cpu" if "GPU" in asked else "add nodes"
    return f"Lower {keys}, or {other}; if an autoscaler is to start nodes, set run.node_timeout."


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
