"""How well two workers share a sweep: T(1 worker, 1 thread) / (2 T(2 workers, 1 thread each)) over the same jobs.

``python -m benchmarks.sweep`` takes jobs that train a network, and writes ``sweep.json``; see :func:`efficiency`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
TARGET = 0.9
TRAINING = {"preset": "far", "p_values": [0.7], "n_train": 800, "n_test": 200, "shape": [84, 72],
            "recipe": {"epochs": 10, "precision": "fp32"}}
# Both sides compute with one thread: joblib leaves what is set here to its workers.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def stand_in(settings, seed):
    """A measure that computes as long as asked for, out of the memory that a core has for itself."""
    matrix = np.random.default_rng(seed).standard_normal((96, 96)) / 10
    product = np.eye(96)
    for _ in range(settings["products"]):
        product = np.tanh(product @ matrix)
    return {"mean": float(product.mean())}


def efficiency(measure="benchmarks.sweep:stand_in", settings=None, jobs=16, repeats=3):
    """Share of two cores that a sweep with two workers puts to use; 1 is perfect.

    Each sweep has a process of its own, which has imported the measure when the clock starts. The start of the pool,
    where each worker imports it again, counts. One worker and two take turns.

    Parameters
    ----------
    measure : str
        ``'module:function'``, as for ``bias_tutorial.experiments.sweep``; one run should take several seconds.
    settings : dict, optional
        Settings of the measure.
    jobs : int
        Runs of one sweep, with seeds from 900 up.
    repeats : int
        Sweeps on each side; medians count.

    Returns
    -------
    dict
        ``efficiency``, ``one_worker`` and ``two_workers`` (seconds of each sweep), ``same_results`` (whether all
        sweeps gave the same), ``measure``, ``settings``, ``jobs``, ``cores``, ``target`` and ``met``.
    """
    settings = {"products": 40_000} if settings is None else settings
    took, results = {1: [], 2: []}, []
    for turn in range(repeats):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            done = subprocess.run([sys.executable, "-m", "benchmarks.sweep", measure, json.dumps(settings), str(jobs),
                                   str(workers)], cwd=ROOT, env=os.environ | ONE_THREAD, check=True, text=True,
                                  stdout=subprocess.PIPE)
            seconds, found = json.loads(done.stdout)
            took[workers].append(seconds)
            results.append(found)
            print(f"  sweep of {jobs}, {workers} worker(s): {seconds:.1f} s", flush=True)
    share = statistics.median(took[1]) / (2 * statistics.median(took[2]))
    return {"measure": measure, "settings": settings, "jobs": jobs, "cores": os.cpu_count(), "one_worker": took[1],
            "two_workers": took[2], "efficiency": share, "target": TARGET, "met": share >= TARGET,
            "same_results": all(found == results[0] for found in results)}


def one_sweep(measure, settings, jobs, workers):
    """Seconds of one sweep in this process, and its results in the order of seeds."""
    from bias_tutorial.experiments import PILOT_SEEDS, find_measure, sweep

    find_measure(measure)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        table = sweep(settings, measure, Path(folder) / "runs.jsonl", range(PILOT_SEEDS, PILOT_SEEDS + jobs), workers,
                      progress=False)
        return time.perf_counter() - begin, table.to_dict("list")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asked, given, number, processes = sys.argv[1:]
        print(json.dumps(one_sweep(asked, json.loads(given), int(number), int(processes))))
    else:
        from bias_tutorial.files import write_text

        found = efficiency("bias_tutorial.studies.chapter_02:curve", TRAINING)
        text = json.dumps(found | {"load": os.getloadavg()[0]}, indent=2)
        write_text(Path(__file__).with_name("sweep.json"), text + "\n")
        print(text)
        if not found["met"]:
            sys.exit("missed: efficiency of two workers")
