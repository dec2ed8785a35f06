"""Jobs on a Dask cluster, one at a time in each worker process. Needs the extra ``cluster``.

Not through joblib's Dask backend (1.6): that does all jobs here when the cluster has one worker, and waits for ever
for a job that killed its workers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit


def connect(scheduler: str):
    """Give a client of a Dask scheduler, after a look whether it can be worked with; close it, or use ``with``.

    Parameters
    ----------
    scheduler : str
        ``'tcp://host:port'``.

    Raises
    ------
    ModuleNotFoundError
        When dask or distributed is not installed.
    ValueError
        When nothing answers there, or a worker does several jobs at once in one process.
    TimeoutError
        When no worker came within a minute.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a sweep on a scheduler needs dask and distributed; install them with: "
                                  'pip install "bias-tutorial[cluster]"') from None
    address = urlsplit(scheduler)
    try:  # a client that gets no answer leaves tracebacks of its own behind
        socket.create_connection((address.hostname, address.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"scheduler '{scheduler}' does not answer ({error}); expected tcp://host:port of a running "
                         "Dask scheduler") from None
    client = Client(scheduler, set_as_default=False)
    try:
        client.wait_for_workers(1, timeout=60)
        many = [worker for worker, threads in client.nthreads().items() if threads > 1]
        if many:  # torch has one random state a process: jobs beside each other would take each other's numbers
            raise ValueError(f"scheduler '{scheduler}': worker {many[0]} does several jobs at once in one process; "
                             f"start the workers with: dask worker {scheduler} --nworkers N --nthreads 1")
    except BaseException:
        client.close()
        raise
    return client


def completed(client, function: Callable, jobs: Iterable[tuple]) -> Iterator[tuple[tuple, Any, Exception | None]]:
    """Run ``function(*job)`` for every job; give ``(job, result, None)`` or ``(job, None, error)`` as they come in.

    A job whose worker dies is done again by another; one that was given to four that died is an error, as Dask cannot
    tell whether it killed them.

    Raises
    ------
    RuntimeError
        When the scheduler is gone.
    """
    from distributed import CancelledError, as_completed

    futures = {client.submit(function, *job, pure=False): job for job in jobs}
    for future in as_completed(futures, loop=client.loop):
        result = failure = None
        try:
            result = future.result()
        except CancelledError:
            raise RuntimeError("the cluster was lost; what came in is kept, and the same call continues") from None
        except Exception as error:  # noqa: BLE001 - whatever the job or its worker died of
            failure = error
        yield futures[future], result, failure
