"""A cohort as a folder of image files: written row by row by several processes, and resumed after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from .cohort import REQUIRED, Schema
from .files import read_image, to_json, write_nifti, write_text

RECORD = ".cohort.json"
TEXT = pd.Series(["text"]).dtype  # str from pandas 3 on, object before
MNI_NOTICE = """\
The images are deformed copies of the MNI152 template; this notice has to stay with them:

Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and
McGill University make no representations about the suitability of this software for any purpose. It is provided
"as is" without express or implied warranty. The authors are not responsible for any data loss, equipment damage,
property loss, or injury to subjects or patients resulting from the use or misuse of this software package.
"""
_KEPT = ("bool", "int", "uint", "float", "str", "object")
_TASK_PIXELS = 1_000_000  # images a process does at a time: small enough that a kill loses little


class Layout(Protocol):
    """How a folder is laid out; the modules ``bids`` and ``datasets.simba`` are the two."""

    NAME: str

    def image_paths(self, table: pd.DataFrame, schema: Schema) -> list[str]:
        """Path of every row's image inside the folder."""

    def write_tables(self, folder: Path, table: pd.DataFrame, record: Mapping[str, Any]) -> None:
        """Write everything but the images."""


# ---------------------------------------------------------------------- tables as text
def to_text(table: pd.DataFrame, missing: str) -> pd.DataFrame:
    """A table as text in full precision: :func:`from_text` gives back the same values and types.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns of numbers, booleans or text.
    missing : str
        What stands for a missing value, such as ``n/a``.

    Raises
    ------
    ValueError
        When a text holds a tab, a line break or the word for missing, or a cell is neither text nor number.
    """
    cells = {name: [to_cell(v, name, missing) for v in column] for name, column in table.items()}
    return pd.DataFrame(cells, dtype=object)


def to_cell(value: Any, column: str, missing: str) -> str:
    """Write one value as text; see :func:`to_text`."""
    if isinstance(value, str):
        if value == missing or value != value.strip() or any(c in value for c in "\t\r\n"):
            raise ValueError(f"column '{column}': the text {value!r} cannot be written to a text table (it is empty, "
                             f"stands for a missing value, or holds a tab, a line break or outer spaces)")
        return value
    if value is None or pd.isna(value):
        return missing
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    raise ValueError(f"column '{column}': {value!r} is of type {type(value).__name__}, expected a number or text")


def from_text(table: pd.DataFrame, dtypes: Mapping[str, str], missing: str) -> pd.DataFrame:
    """Inverse of :func:`to_text`; ``dtypes`` names the type of each column as pandas does."""
    columns = {}
    for name, dtype in dtypes.items():
        absent = (table[name] == missing).to_numpy()
        cells = table[name].tolist()
        kind = dtype.lower()
        if kind.startswith("bool"):
            values = [None if a else c == "true" for a, c in zip(absent, cells, strict=True)]
        elif kind.startswith(("int", "uint")):
            values = [None if a else int(c) for a, c in zip(absent, cells, strict=True)]
        elif kind.startswith("float"):
            nothing = None if dtype[0] == "F" else np.nan
            values = [nothing if a else float(c) for a, c in zip(absent, cells, strict=True)]
        else:
            values = [np.nan if a else c for a, c in zip(absent, cells, strict=True)]
        columns[name] = pd.Series(values, dtype=TEXT if kind == "str" else dtype)
    return pd.DataFrame(columns)


def make_record(layout: str, table: pd.DataFrame, schema: Schema, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder keeps about its cohort: layout, schema, column types, ``meta``, and a digest of the table."""
    kept = [*REQUIRED, *(c for c in table.columns if c not in REQUIRED)]
    for column in kept:
        kind = str(table[column].dtype).lower()
        texts = table[column].map(lambda v: isinstance(v, str) or v is None or v is pd.NA or v != v)
        if not kind.startswith(_KEPT) or (kind == "object" and not texts.all()):
            raise ValueError(f"column '{column}' of type {table[column].dtype} cannot be kept in a text table; "
                             "turn it into numbers, booleans or text")
    text = to_text(table[kept], "n/a").to_csv(sep="\t", index=False)
    record = {"layout": layout, "meta": dict(meta), "schema": schema.to_dict(),
              "dtypes": {c: str(table[c].dtype) for c in kept}, "rows": len(table),
              "table": hashlib.sha256(text.encode()).hexdigest()}
    return json.loads(to_json(record))  # as it will be read back: tuples are lists


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder we wrote, or None."""
    try:
        return json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"'{Path(folder) / RECORD}' cannot be read as JSON ({error}); was it edited?") from error


def notice(meta: Mapping[str, Any]) -> str:
    """Copyright notice that must stay with images made from the MNI template; empty for other images."""
    return MNI_NOTICE if str(meta.get("template", {}).get("name", "")).startswith("MNI152") else ""


# ---------------------------------------------------------------------- writing
def write_folder(folder: str | Path, layout: Layout, table: pd.DataFrame, schema: Schema, meta: Mapping[str, Any],
                 images: Callable[[list[int]], np.ndarray], *, shape: tuple[int, ...], workers: int = 1,
                 resume: bool = False, progress: bool = True) -> dict[str, int]:
    """Write a cohort into a folder, each file atomically.

    Parameters
    ----------
    folder : path
        New, empty, or holding the same cohort in the same layout, perhaps unfinished.
    layout : module
        ``bids`` or ``datasets.simba``.
    table, schema, meta
        Of the cohort.
    images : callable
        Gives the images of a list of rows; must be picklable for more than one worker.
    shape : tuple of int
        Shape of one image, channels first.
    workers : int
        Processes.
    resume : bool
        Keep images that are there already and whole. For images that depend on ``meta`` and the row alone.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict
        ``written`` and ``kept``: numbers of images.

    Raises
    ------
    ValueError
        When the folder holds other files, another cohort, or another process is writing there.
    OSError
        When the disk is full or the folder refuses writes.
    """
    folder = Path(folder)
    record = make_record(layout.NAME, table, schema, meta)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file, expected a folder")
    paths = [folder / p for p in layout.image_paths(table, schema)]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".cohort.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is writing to '{folder}'; wait for it, or choose another folder") from None
    try:
        _claim(folder, record)
        # Several tasks a worker, so that none waits long for the last one.
        size = max(1, min(_TASK_PIXELS // int(np.prod(shape)), len(table) // (4 * workers)))
        rows = list(range(len(table)))
        tasks = [rows[k:k + size] for k in range(0, len(rows), size)]
        workers = min(workers, len(tasks))
        calls = (joblib.delayed(_write_images)(images, task, [paths[r] for r in task], tuple(shape), meta.get("affine"),
                                              resume, workers > 1) for task in tasks)
        written = 0
        with tqdm(total=len(rows), desc=f"writing {folder.name}", unit="image", disable=not progress) as bar:
            parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
            for done, fresh in parallel(calls):
                bar.update(done)
                written += fresh
        layout.write_tables(folder, table, record)
    finally:
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()
    return {"written": written, "kept": len(table) - written}


def _claim(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else; take over one that holds the same cohort, whole or not."""
    found = read_record(folder)
    if found is None:
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".cohort."))
        others = [o for o in others if not (o.startswith(".") and o.endswith(".part"))]
        if others:
            raise ValueError(f"'{folder}' holds other files ({', '.join(others[:3])}"
                             f"{', ...' if len(others) > 3 else ''}); choose a new or empty folder")
        write_text(folder / RECORD, to_json(record))
    elif found != record:
        raise ValueError(f"'{folder}' holds another cohort: {_difference(found, record)}; choose another folder")
    for leftover in folder.rglob(".*.part"):  # of a process that was killed: nobody else may write here now
        leftover.unlink(missing_ok=True)


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first place where two designs differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(k for k in found if k not in wanted)]:
            if found.get(key) != wanted.get(key):
                return _difference(found.get(key), wanted.get(key), f"{where}.{key}".strip("."))
    return f"its {where} is {str(found)[:80]}, this one's is {str(wanted)[:80]}"


def _write_images(images, rows, paths, shape, affine, resume, alone) -> tuple[int, int]:
    """Write the images of some rows; returns how many rows are done and how many of them were written now."""
    if alone:  # one thread each, since every core has its own process
        import torch

        torch.set_num_threads(1)
    todo = [(r, p) for r, p in zip(rows, paths, strict=True) if not (resume and _whole(p, shape))]
    if todo:
        for image, (_, path) in zip(images([r for r, _ in todo]), todo, strict=True):
            write_nifti(path, image, affine)
    return len(rows), len(todo)


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the image is there, reads to its last byte with the right checksum, and has the right shape."""
    try:
        return read_image(path)[0].shape == shape
    except (FileNotFoundError, ValueError):
        return False


def unfinished(folder: Path, what: str) -> str:
    """Message for a folder whose tables are not there yet."""
    if (Path(folder) / RECORD).is_file():
        return f"'{folder}' is unfinished: '{what}' is not there yet; run the command that writes it again to continue"
    return f"'{folder}' holds no '{what}'"
