"""Work on many files in many processes, in bounded memory."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PRELOADED = ("torch", "scipy.io", "PIL.Image", "pixelcontrast.datasets.check_files")


def default_processes() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], *, processes: int
) -> Iterator[Result]:
    """Yield the results of ``work`` on every item, in the order of the items.

    Args:
        work: a function of a module's top level, or a ``partial`` of one.
        items: taken as they are needed: at most three per process are under way.
        processes: 1 works in this process.

    Raises:
        ValueError: a process was ended from outside.
    """
    if processes == 1:
        yield from map(work, items)
        return
    # As for the loaders: a server without threads forks the processes, which inherit no lock.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    todo, pool = iter(items), ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    try:
        running: deque[Future[Result]] = deque(
            pool.submit(work, item) for item in islice(todo, 3 * processes)
        )
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(work, item) for item in islice(todo, 1))
            yield result
    except BrokenProcessPool as error:
        raise ValueError(
            f"processes: one of {processes} that read files was ended, perhaps for lack of memory; allowed "
            "are fewer, such as --processes 1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """End this process when the one that started it dies, even by SIGKILL.

    Processes of a fork server notice nothing by themselves: their parent is the server, which lives as long
    as any process that it forked.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _begin() -> None:
    # Ctrl-C is left to the process that waits for the results, which ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
