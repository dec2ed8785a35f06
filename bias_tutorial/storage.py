"""Cohorts on disk: one compact file, BIDS, or SimBA's layout; and long simulations that survive a kill."""

from __future__ import annotations

import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import yaml

from . import bids
from .bids import from_bids, to_bids
from .cohort import Cohort, Schema
from .files import atomic, to_json
from .folders import TEXT, write_folder
from .scenario import Scenario, preset

__all__ = ["from_bids", "load", "read_scenario", "save", "to_bids", "write_simulation"]
FORMAT = 1
_LEVELS = 65535
_BATCH_VALUES = 4_000_000


# ---------------------------------------------------------------------- one file
def save(cohort: Cohort, path: str | Path, precision: str = "float32") -> Path:
    """Save a cohort as one compressed file; :func:`load` gives it back.

    Parameters
    ----------
    cohort : Cohort
        Its images are read in batches, so they need not fit into memory.
    path : path
        Usually ends in ``.npz``. An existing file is replaced, once the new one is whole.
    precision : {'float32', 'uint16'}
        ``'float32'`` keeps every bit. ``'uint16'`` rounds images in [0, 1] to 65,536 levels, an error of at most
        7.7e-6, in about half the space.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        For images outside [0, 1] with ``'uint16'``, NaN images, or a table column that cannot be stored.
    OSError
        When the file cannot be written; the old one, if any, is untouched.
    """
    if precision not in ("float32", "uint16"):
        raise ValueError(f"precision must be 'float32' or 'uint16', got {precision!r}")
    path = Path(path)
    columns, arrays = {}, {}
    for k, name in enumerate(cohort.table.columns):
        columns[name], arrays[f"column_{k}"] = _pack(cohort.table[name])
    header = to_json({"format": FORMAT, "schema": cohort.schema.to_dict(), "meta": cohort.meta, "columns": columns,
                      "attrs": cohort.table.attrs})
    n, rest = len(cohort), tuple(int(s) for s in cohort.images.shape[1:])
    size = max(1, _BATCH_VALUES // max(1, int(np.prod(rest))))
    batches = [np.arange(k, min(n, k + size)) for k in range(0, n, size)]

    # Entries carry a fixed date, so the same cohort gives the same bytes.
    with atomic(path) as handle, zipfile.ZipFile(handle, "w") as archive:
        _add(archive, "header.npy", np.frombuffer(header.encode(), dtype=np.uint8))
        for name, array in arrays.items():
            if array is not None:
                _add(archive, f"{name}.npy", array)
        _add_rows(archive, "images.npy", (n, *rest), (_as_stored(cohort.batch(rows), precision) for rows in batches))
        if cohort.masks is not None:
            masks = (np.asarray(cohort.masks[rows]) for rows in batches)
            _add_rows(archive, "masks.npy", tuple(int(s) for s in cohort.masks.shape), masks)
    return path


def load(path: str | Path) -> Cohort:
    """Load a cohort that :func:`save` wrote.

    Returns
    -------
    Cohort
        Images as a float32 array in memory; table with the same values, types and order; schema, masks and meta, so
        that counterfactual twins can be made of it.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is truncated, damaged, or not a saved cohort; the message names it. Nothing in a file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"'{path}': there is no such file")
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as stored:
            entries = {name: stored[name] for name in stored.files}
        header = json.loads(entries["header"].tobytes().decode())
        version = header["format"]
        columns = {name: _unpack(how, entries.get(f"column_{k}"))
                   for k, (name, how) in enumerate(header["columns"].items())}
    except MemoryError:
        raise
    except Exception as error:  # zip, zlib, numpy and json each have their own errors for damaged bytes
        raise ValueError(f"'{path}' is not a whole cohort file: truncated, damaged or something else "
                         f"({type(error).__name__}: {error})") from error
    if version != FORMAT:
        raise ValueError(f"'{path}' has format {version}, this version reads format {FORMAT}")
    images = entries["images"]
    if images.dtype == np.uint16:
        images = (images / np.float32(_LEVELS)).astype(np.float32)
    table = pd.DataFrame(columns)
    table.attrs.update(header["attrs"])
    return Cohort(images, table, Schema.from_dict(header["schema"]), entries.get("masks"), header["meta"])


def _as_stored(images: np.ndarray, precision: str) -> np.ndarray:
    if precision == "float32":
        return images
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"precision 'uint16' takes images in [0, 1], found {images.min():g} to {images.max():g}")
    return np.round(images.astype(np.float64) * _LEVELS).astype(np.uint16)


def _pack(column: pd.Series) -> tuple[dict[str, Any], np.ndarray | None]:
    """A column as an array where numpy knows its type, else as a list that JSON can hold."""
    how: dict[str, Any] = {"dtype": str(column.dtype)}
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufmM":
        return how, column.to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype):
        how |= {"categories": column.cat.categories.tolist(), "ordered": bool(column.cat.ordered)}
        return how, column.cat.codes.to_numpy()
    if column.dtype == object:  # None and NaN stay what they are
        values = column.tolist()
    else:
        values = [None if pd.isna(v) else v for v in column]
    wrong = [v for v in values if not isinstance(v, (str, bool, int, float, np.number, np.bool_, type(None)))]
    if wrong:
        raise ValueError(f"column '{column.name}': {wrong[0]!r} of type {type(wrong[0]).__name__} cannot be saved, "
                         "expected numbers or text")
    return how | {"values": values}, None


def _unpack(how: dict[str, Any], array: np.ndarray | None) -> pd.Series:
    if "categories" in how:
        return pd.Series(pd.Categorical.from_codes(array, how["categories"], how["ordered"]))
    return pd.Series(how["values"] if array is None else array, dtype=TEXT if how["dtype"] == "str" else how["dtype"])


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    _add_rows(archive, name, array.shape, [array])


def _add_rows(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], parts) -> None:
    """Add an array of the given shape, handed over in parts along its first axis."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry._compresslevel = 1
    with archive.open(entry, "w", force_zip64=True) as handle:
        for k, part in enumerate(parts):
            if k == 0:
                kind = np.lib.format.dtype_to_descr(part.dtype)
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(handle, header)
            handle.write(np.ascontiguousarray(part).tobytes())


# ---------------------------------------------------------------------- long simulations
def read_scenario(source: str | Path | Scenario, p: float | None = None) -> Scenario:
    """A scenario by preset name or from a file.

    Parameters
    ----------
    source : str or path or Scenario
        Name of a preset, or a JSON or YAML file that holds :meth:`Scenario.to_dict`.
    p : float, optional
        P(attribute | disease), and 1 - p for P(attribute | no disease); as declared when not given.

    Raises
    ------
    ValueError
        For a name that is neither, a file that does not hold a scenario, or p outside [0, 1].
    """
    if isinstance(source, Scenario):
        scenario = source
    elif Path(source).suffix.lower() in (".json", ".yaml", ".yml"):
        if not Path(source).is_file():
            raise FileNotFoundError(f"'{source}': there is no such scenario file")
        try:  # YAML also reads JSON; the safe loader builds plain values only
            scenario = Scenario.from_dict(yaml.safe_load(Path(source).read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"'{source}' does not hold a scenario ({type(error).__name__}: {error})") from error
    else:
        try:
            scenario = preset(str(source))
        except ValueError as error:
            raise ValueError(f"{error}; or give a .json or .yaml file") from None
    return scenario if p is None else scenario.at(p)


def write_simulation(scenario: str | Path | Scenario, n: int, seed: int, folder: str | Path,
                     shape: tuple[int, ...] = (112, 96), layout: str = "bids", workers: int | None = None,
                     p: float | None = None, progress: bool = True, **options: Any) -> dict[str, int]:
    """Simulate brains straight into a folder; stopped at any moment, the same call continues.

    The table is drawn as a whole first. Then each image is rendered in one of several processes and written whole or
    not at all, and the tables come last: a folder without them is unfinished.

    Parameters
    ----------
    scenario, p
        See :func:`read_scenario`.
    n, seed, shape
        See :func:`bias_tutorial.simulate.brain`.
    folder : path
        New, empty, or holding this very simulation, perhaps unfinished.
    layout : {'bids', 'simba'}
        Brain Imaging Data Structure, or the CSV and NIfTI files of SimBA.
    workers : int, optional
        Processes; one per core when not given. The files do not depend on it.
    progress : bool
        Show a progress bar.
    **options
        Further arguments of :func:`bias_tutorial.simulate.brain`: ``noise``, ``noise_order``, ``stratify``.

    Returns
    -------
    dict
        ``written`` and ``kept``: images made now, and images found whole.

    Raises
    ------
    ValueError
        For an impossible design, or a folder that holds something else (the message says what differs).
    OSError
        When the disk is full or the folder refuses writes; what was written before stays and is used next time.
    """
    from . import simulate
    from .datasets import simba

    layouts = {"bids": bids, "simba": simba}
    if layout not in layouts:
        raise ValueError(f"unknown layout '{layout}', expected one of {', '.join(layouts)}")
    workers = joblib.cpu_count() if workers is None else workers
    if workers != int(workers) or workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers}")
    scenario = read_scenario(scenario, p)
    meta = simulate.design(scenario, n, seed, shape, **options)
    return write_folder(folder, layouts[layout], simulate.drawn_table(meta), simulate.schema(scenario), meta,
                        partial(simulate.render, meta),
                        shape=(1, *meta["shape"]), workers=int(workers), resume=True, progress=progress)
