"""Work on many items as Ray tasks, on all nodes of a cluster."""

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pixelcontrast.cluster.errors import RERUN, LaunchError
from pixelcontrast.cluster.ray_internals import cause_of_death

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_tasks(
    work: Callable[[Item], Result], items: Iterable[Item], *, at_once: int | None = None
) -> Iterator[Result]:
    """Yield the results of ``work`` on every item, in the order of the items, from the connected cluster.

    A task takes one CPU. That of a node that dies starts again on another one: twice is as good as once.

    Args:
        work: a function of a module's top level, or a ``partial`` of one.
        items: taken as they are needed.
        at_once: items under way at the same time; None: two per CPU of the cluster.

    Raises:
        ValueError: what ``work`` raised as such or as an ``OSError``, with the name of its machine.
        LaunchError: Ray could not do a task.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    remote: Any = ray.remote(num_cpus=1)(_on_this_node)
    todo = iter(items)
    at_once = at_once or 2 * max(int(ray.cluster_resources().get("CPU", 0)), 1)
    running = deque(remote.remote(work, item) for item in islice(todo, at_once))
    while running:
        try:
            result: Any = ray.get(running.popleft())
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(str(error.cause)) from error
            raise
        except RayError as error:
            raise LaunchError(f"a task of Ray's ended: {cause_of_death(error)}", RERUN) from error
        running.extend(remote.remote(work, item) for item in islice(todo, 1))
        yield result


def _on_this_node(work: Callable[[Item], Result], item: Item) -> Result:
    try:
        return work(item)
    except (OSError, ValueError) as error:
        raise ValueError(f"{socket.gethostname()}: {error}") from error
