"""Many runs of a measurement, one per setting and seed, kept in a file that survives a kill.

A *measure* is a named function ``module:function`` that takes ``(settings, seed)`` and returns a flat dictionary of
numbers. :func:`sweep` runs it for every setting and seed that the store does not hold yet, on this machine or on a
Dask cluster; :class:`Store` keeps one JSON line a run; :func:`read_recipe` reads all that a sweep needs from a file.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import itertools
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import yaml
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from . import __version__, cluster
from .scenario import whole

PILOT_SEEDS = 900  # seeds from here up fix effect sizes and margins, and are never used in a claim
_FIELDS = ("key", "measure", "settings", "seed", "results", "seconds", "version", "code", "made", "platform", "digest")


def run_key(measure: str, settings: Mapping[str, Any], seed: int) -> str:
    """Name of one run: the same measure, settings and seed always give the same 16 characters."""
    return _digest({"measure": measure, "settings": settings, "seed": int(seed)})


class Store:
    """A file with one JSON line a run.

    A line is written in one call and flushed to disk before the next run counts as done. A line that a kill tore
    apart can only be the last one and has no line end: it is dropped, and its run is done again. Every line carries a
    digest of itself, so that a value changed by hand is noticed.

    Parameters
    ----------
    path : path-like
        The ``.jsonl`` file; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def rows(self) -> list[dict[str, Any]]:
        """All whole runs, in the order they were written.

        Raises
        ------
        ValueError
            When a line is not a run, was changed after it was written, or stands twice; the message names the line.
        """
        if not self.path.exists():
            return []
        *lines, _torn = self.path.read_bytes().split(b"\n")
        rows: list[dict[str, Any]] = []
        seen: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            where = f"{self.path}, line {number}"
            try:
                row = json.loads(line)
                body = {k: v for k, v in row.items() if k != "digest"}
                lacking = set(_FIELDS) - {"code"} - set(row)  # the first stored runs have no digest of the code
                if lacking:
                    raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{where}: not a stored run ({error})") from None
            key = run_key(row["measure"], row["settings"], row["seed"])
            if row.get("digest") != _digest(body) or row["key"] != key:
                raise ValueError(f"{where}: this run of '{row['measure']}', seed {row['seed']}, was changed after it "
                                 "was written; delete the line and run it again")
            if row["key"] in seen:
                raise ValueError(f"{where}: the same run stands in line {seen[row['key']]} already")
            seen[row["key"]] = number
            rows.append(row)
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one run; it is on disk when this returns."""
        row = {k: row[k] for k in _FIELDS[:-1]}
        row["digest"] = _digest(row)
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with open(self.path, "ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError(f"{self.path}: only part of a run could be written; is the disk full?")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # never leave half a line behind in a living process
                raise

    def mend(self) -> bool:
        """Cut off a last line that has no line end. Returns whether there was one."""
        if not self.path.exists():
            return False
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        return whole < len(content)

    def lock(self) -> FileLock:
        """Lock that one sweep holds while it writes; the system frees it when the process dies."""
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))


def sweep(settings: Mapping[str, Any] | Sequence[Mapping[str, Any]], measure: str, store: str | os.PathLike | Store,
          seeds: Iterable[int], workers: int = 2, progress: bool = True, scheduler: str | None = None) -> pd.DataFrame:
    """Run a measure for every setting and seed that is not in the store yet.

    Parameters
    ----------
    settings : dict or list of dict
        JSON-able settings of the measure; one dictionary per variant.
    measure : str
        ``'module:function'``; the function takes ``(settings, seed)`` and returns a flat dictionary of finite numbers
        or lists of them.
    store : path-like or Store
        Where the runs are kept. Running again continues: nothing is lost, nothing is done twice.
    seeds : iterable of int
        Seeds from 0 up. Pilot seeds (900 and above) and counted seeds cannot be mixed.
    workers : int
        Processes on this machine, at least 1; they share its cores evenly, and one alone uses them all.
    progress : bool
        Print the estimate and show a progress bar.
    scheduler : str, optional
        Address of a Dask scheduler, ``'tcp://host:port'``: its workers do the runs instead. Start them with
        ``dask worker ADDRESS --nworkers N --nthreads 1``; they need this version of the package, and must see the
        folder of a measure of your own. A run whose worker dies is done again by another.

    Returns
    -------
    pandas.DataFrame
        One row per setting and seed asked for: ``seed``, one column per setting, one per result.

    Raises
    ------
    ValueError
        For mixed seeds, an unknown measure, a damaged store, or a cluster that cannot be used.
    RuntimeError
        When runs failed, after all others were finished and stored; the message names each. Also when another sweep
        writes to the store, or the cluster is lost.
    ModuleNotFoundError
        With ``scheduler``, when dask or distributed is not installed.
    """
    settings = [dict(settings)] if isinstance(settings, Mapping) else [dict(s) for s in settings]
    seeds, workers = check_seeds(seeds), whole(workers, "workers", 1)
    find_measure(measure)
    store = store if isinstance(store, Store) else Store(store)
    store.path.parent.mkdir(parents=True, exist_ok=True)
    wanted = {run_key(measure, s, seed): (s, seed) for s in settings for seed in seeds}
    try:
        lock = store.lock().acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"{store.path}: another sweep is writing to this store") from None
    with lock:
        store.mend()
        before = {row["key"]: row for row in store.rows()}
        todo = {key: job for key, job in wanted.items() if key not in before}
        failures = _run_all(measure, todo, store, workers, scheduler, [row["seconds"] for row in before.values()],
                            progress)
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(wanted)} runs failed; the others are stored. "
                           + "; ".join(failures))
    return runs_table(row for row in store.rows() if row["key"] in wanted)


def read_recipe(path: str | os.PathLike) -> dict[str, Any]:
    """Read the arguments of a sweep from a YAML file, for ``sweep(**read_recipe(path))``.

    The file holds four fields: ``measure`` (``module:function``; the module may lie beside the file, whose folder is
    put on Python's path), ``settings`` (a mapping, or a list of them; in each, ``grid`` may map names to lists of
    values, and stands for every combination), ``seeds`` (``"a:b"``), and ``store`` (a path, from the file's folder).

    Parameters
    ----------
    path : path-like
        The recipe.

    Returns
    -------
    dict
        ``measure``, ``settings`` (list of dict), ``seeds`` (tuple of int) and ``store`` (path).

    Raises
    ------
    ValueError
        When the file is not such a recipe; the message names file and field.
    OSError
        When it cannot be read.
    """
    path = Path(path).resolve()
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file ({error})") from None
    known = ("measure", "settings", "seeds", "store")
    if not isinstance(recipe, Mapping):
        raise ValueError(f"{path}: must hold the fields {', '.join(known)}")
    for name in (*recipe, *known):
        if (name in recipe) != (name in known):
            raise ValueError(f"{path}: field '{name}' is {'missing' if name in known else 'unknown'}; "
                             f"a recipe has {', '.join(known)}")
    for name in ("measure", "store"):
        if not isinstance(recipe[name], str) or not recipe[name].strip():
            raise ValueError(f"{path}: '{name}' must be a text that is not empty, got {recipe[name]!r}")
    variants = recipe["settings"] if isinstance(recipe["settings"], list) else [recipe["settings"]]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return {"measure": recipe["measure"], "seeds": seed_range(recipe["seeds"], f"{path}: 'seeds'"),
            "settings": [s for variant in variants or [[]] for s in _expand(variant, f"{path}: 'settings'")],
            "store": path.parent / recipe["store"]}


def seed_range(text: str, where: str = "seeds") -> tuple[int, ...]:
    """Seeds from ``"a:b"``, b not included, as in a Python range."""
    match = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"{where}: seeds must be written \"a:b\" with a < b, got {text!r}")
    return tuple(range(int(match[1]), int(match[2])))


def runs_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Put runs into a table: ``seed``, settings and results as columns, sorted by settings and seed."""
    flat = [{"seed": row["seed"], **row["settings"], **row["results"]} for row in
            sorted(rows, key=lambda row: (json.dumps(row["settings"], sort_keys=True), row["seed"]))]
    return pd.DataFrame(flat)


def run_once(measure: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run, as the row a store keeps (without its digest)."""
    start = time.perf_counter()
    results = find_measure(measure)(dict(settings), seed)
    seconds = round(time.perf_counter() - start, 3)
    if not isinstance(results, Mapping) or not results:
        raise ValueError(f"measure '{measure}' returned {type(results).__name__}, expected a dictionary with results")
    return {"key": run_key(measure, settings, seed), "measure": measure, "settings": dict(settings), "seed": int(seed),
            "results": {str(name): plain(value, f"{measure}: '{name}'") for name, value in results.items()},
            "seconds": seconds, "version": __version__, "code": code_digest(measure),
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"}


def find_measure(name: str):
    """Import the function behind ``'module:function'``."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"measure '{name}' cannot be found ({error}); expected 'module:function'") from None
    if not callable(found):
        raise ValueError(f"measure '{name}' is not a function")
    return found


@lru_cache(maxsize=32)
def code_digest(measure: str) -> str:
    """Digest of the measure's module and of every module of this package that it imports, directly or not.

    Two runs with the same key and the same digest were made by the same code of ours.
    """
    package = __name__.partition(".")[0]
    sources: dict[str, bytes] = {}
    todo = [measure.partition(":")[0]]
    while todo:
        name = todo.pop()
        spec = None if name in sources else importlib.util.find_spec(name)
        if spec is None or not spec.has_location:
            continue
        sources[name] = Path(spec.origin).read_bytes()
        for node in ast.walk(ast.parse(sources[name])):
            if isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), spec.parent)
                names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            todo += [n for n in names if n.partition(".")[0] == package and _is_module(n)]
    return _digest({name: hashlib.sha256(source).hexdigest() for name, source in sources.items()})


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """Seeds as a list without repeats; refuses negative ones, and counted seeds mixed with pilot seeds."""
    seeds = list(dict.fromkeys(int(seed) for seed in seeds))
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds must be whole numbers of at least 0, got {seeds}")
    if min(seeds) < PILOT_SEEDS <= max(seeds):
        raise ValueError(f"seeds {min(seeds)} and {max(seeds)} cannot be mixed: from {PILOT_SEEDS} up they are pilot "
                         "seeds, which set effect sizes and margins and are never counted")
    return seeds


def plain(value: Any, what: str) -> Any:
    """Turn a number, text, list or dictionary into JSON types; refuse NaN, infinity and anything else."""
    if isinstance(value, Mapping):
        return {str(k): plain(v, what) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v, what) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"{what} is {value!r}, expected a finite number, a text, or a list or dictionary of them")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package: an imported function
        return False


def _expand(variant: Any, where: str) -> list[dict[str, Any]]:
    """Settings with their ``grid`` replaced by every combination of its values."""
    if not isinstance(variant, Mapping):
        raise ValueError(f"{where} must be a mapping, or a list of mappings, got {variant!r}")
    grid = variant.get("grid", {})
    if not isinstance(grid, Mapping) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ValueError(f"{where}: 'grid' must map names to lists of values that are not empty, got {grid!r}")
    fixed = plain({name: value for name, value in variant.items() if name != "grid"}, where)
    grid = plain(grid, where)
    if set(grid) & set(fixed):
        raise ValueError(f"{where}: '{min(set(grid) & set(fixed))}' stands beside and inside 'grid'")
    return [fixed | dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _run_all(measure, todo, store, workers, scheduler, known_seconds, progress) -> list[str]:
    """Run the jobs, store each as it comes, return a sentence per failure."""
    if not todo:
        return []
    paths = [os.path.abspath(path) for path in sys.path]
    jobs = [(measure, s, seed, code_digest(measure), paths) for s, seed in todo.values()]
    failures = []
    with ExitStack() as stack:
        if scheduler:
            client = stack.enter_context(cluster.connect(scheduler))
            workers = len(client.nthreads())
            finished = (result or (None, _failure(*job[1:3], error))
                        for job, result, error in cluster.completed(client, _attempt, jobs))
        else:
            pool = joblib.Parallel(n_jobs=workers, batch_size=1, return_as="generator_unordered")  # stored at once
            finished = pool(joblib.delayed(_attempt)(*job) for job in jobs)
        if known_seconds and progress:
            _print_estimate(float(np.median(known_seconds)), len(todo), workers)
        bar = tqdm(finished, total=len(todo), desc=measure.partition(":")[2], disable=not progress)
        for done, (row, failure) in enumerate(bar, start=1):
            if failure:
                failures.append(failure)
                continue
            store.append(row)
            if progress and done == 1 and not known_seconds and len(todo) > 1:
                _print_estimate(row["seconds"], len(todo) - 1, workers)
    return failures


def _attempt(measure, settings, seed, code, paths):
    """One run in a worker: ``(row, None)``, or ``(None, sentence)`` so that one failure does not stop the others."""
    sys.path += [path for path in paths if path not in sys.path]  # a worker that lives on knows older paths only
    try:
        if code_digest(measure) != code:  # such a run would be kept as one of another version
            raise RuntimeError("the worker has other code of this measure than here; restart it with the same version")
        return run_once(measure, settings, seed), None
    except Exception as error:  # noqa: BLE001 - a measure may fail in any way; the sentence names the run
        return None, _failure(settings, seed, error)


def _failure(settings, seed, error) -> str:
    return f"settings {json.dumps(settings)}, seed {seed}: {type(error).__name__}: {error}"


def _print_estimate(seconds: float, runs: int, workers: int) -> None:
    """Say how long the rest will take, before it does."""
    minutes = max(seconds * math.ceil(runs / max(workers, 1)) / 60, 0.1)
    print(f"{runs} runs of about {seconds:.1f} s on {workers} workers: about {minutes:.1f} minutes", flush=True)


def _digest(value: Any) -> str:
    """First 16 characters of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
