"""Several processes that grade side by side; what one of them does wrong, or its end, costs one submission at most."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

from . import confine

TRIES = 2  # a task whose process ended is given to another one


def spread(make: Callable[..., Callable[[Any], Any]], settings: tuple, tasks: Sequence[Any],
           workers: int) -> Iterator[tuple[Any, Any]]:
    """Do tasks in processes of their own; yields each task with its result as it is done.

    Parameters
    ----------
    make : callable
        Called once in each process with ``settings``; what it returns is called with each task.
    settings : tuple
        Can be pickled, as tasks and results.
    tasks : sequence
        Each done by one process.
    workers : int
        At most so many processes.

    Yields
    ------
    tuple
        The task, and its result: the exception that it raised, or a ``RuntimeError`` when its process ended each time.
    """
    context = multiprocessing.get_context("spawn")
    waiting, tries, busy = deque(range(len(tasks))), [0] * len(tasks), {}

    def start():
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, make, settings, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        give(ours, process)

    def give(ours, process):
        if not waiting:
            ours.close()
            return
        k = waiting.popleft()
        tries[k] += 1
        busy[ours] = (process, k)
        try:
            ours.send(tasks[k])
        except OSError:
            pass  # it has ended; reading tells the same

    try:
        for _ in range(min(workers, len(tasks))):
            start()
        while busy:
            for ours in connection.wait(list(busy)):
                process, k = busy.pop(ours)
                try:
                    result = ours.recv()
                except (EOFError, OSError):
                    process.join()
                    ours.close()
                    if tries[k] < TRIES:
                        waiting.append(k)
                    else:
                        yield tasks[k], RuntimeError(f"the grading process ended (exit code {process.exitcode})")
                    if waiting:
                        start()
                    continue
                give(ours, process)
                yield tasks[k], result
    finally:
        for ours, (process, _) in busy.items():
            process.kill()
            ours.close()


def _work(pipe, make, settings, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process answers for all
    confine.die_with_parent()
    if os.name == "posix" and os.getppid() != parent:
        return
    do = None
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            do = do or make(*settings)
            result = do(task)
        except Exception as error:
            result = RuntimeError(f"{type(error).__name__}: {error}")
        pipe.send(result)
    close = getattr(do, "close", None)
    if close:
        close()
