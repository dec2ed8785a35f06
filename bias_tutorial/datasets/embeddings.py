"""Embeddings on disk: one ``.npy`` file of all rows, or many small files gathered once into a memory-mapped store.

An embedding that is missing, damaged, of another width, all zeros or not finite is reported, never filled in.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG

import numpy as np
from tqdm.auto import tqdm

from ..files import atomic, to_json, write_text
from . import tfrecord

ENDINGS = (".npy", ".tfrecord", ".tfrecord.gz")
NOT_FOUND, UNREADABLE = "embedding file not found", "embedding cannot be read"
OTHER_WIDTH, NOT_FINITE = "embedding of another width", "embedding holds NaN or infinite values"
ZEROS = "embedding is all zeros, as a failed read may leave it"
_BROKEN = (ValueError, EOFError, OverflowError)  # what numpy says to damaged files
_FORMAT = 1  # of the store
_PART = 8192  # rows gathered at a time: a kill loses some seconds of work
_HEADER = 128  # bytes before the numbers of a .npy file of this shape

Faults = dict[int, tuple[str, str]]
"""Place in a list, then reason and detail."""


class Embeddings:
    """Rows of ``.npy`` files, read when they are asked for, so that memory holds one batch and not the cohort.

    Parameters
    ----------
    parts : sequence of path
        Files of shape ``(n, F)``, all but the last with the same number of rows.
    rows : array of int
        Rows counted over all parts.
    """

    def __init__(self, parts: Sequence[Path], rows: np.ndarray):
        self.parts, self.rows = tuple(parts), np.asarray(rows)
        self._maps = [np.lib.format.open_memmap(part, mode="r") for part in self.parts]
        self.shape = (len(self.rows), self._maps[0].shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self):  # another process opens the files itself, instead of being sent their content
        return Embeddings, (self.parts, self.rows)

    def __getitem__(self, rows) -> np.ndarray:
        """One row, a slice, an array of rows or a boolean mask, as float32."""
        chosen = self.rows[rows]
        part, place = np.divmod(np.atleast_1d(chosen), len(self._maps[0]))
        values = np.empty((len(place), self.shape[1]), dtype=np.float32)
        for k in np.unique(part):
            values[part == k] = self._maps[k][place[part == k]]
        return values if np.ndim(chosen) else values[0]

    def subset(self, rows) -> Embeddings:
        """The same for fewer rows, still unread."""
        return Embeddings(self.parts, self.rows[rows])


def in_one_file(path: Path, rows: int, width: int, progress: bool) -> tuple[list[Path], Faults]:
    """Check a ``.npy`` file that holds one embedding for every row of the table, in its order.

    Raises
    ------
    ValueError
        When it is no such file, or of another shape; the message names it.
    """
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except _BROKEN as error:
        raise ValueError(f"'{path}' cannot be read as .npy ({error}); the file may be truncated") from error
    if stored.shape != (rows, width) or stored.dtype.kind != "f":
        raise ValueError(f"'{path}' holds {stored.dtype} of shape {stored.shape}, expected real numbers of shape "
                         f"({rows}, {width}): a row for every line of the table, in its order")
    faults = {}
    for start in tqdm(range(0, rows, _PART), "checking embeddings", disable=not progress):
        block = np.asarray(stored[start:start + _PART])
        finite, zero = np.isfinite(block).all(axis=1), ~block.any(axis=1)
        faults |= {start + int(k): (NOT_FINITE if not finite[k] else ZEROS, f"row {start + k} of {path.name}")
                   for k in np.flatnonzero(~finite | zero)}
    return [path], faults


def gather(paths: Sequence[Path | None], store: Path, width: int,
           progress: bool) -> tuple[list[Path], np.ndarray, Faults]:
    """Read many small files once into ``store``; the next call finds them there, and a stopped one goes on.

    The store holds parts of 8,192 embeddings, each written whole or not at all, under a name that is made from the
    paths, sizes and times of its files. So a changed file makes its part new, and parts that nothing names any more
    are deleted. Beside each part stands what it was made from, and which files could not be used.

    Parameters
    ----------
    paths : sequence of path or None
        One for each row of the table (``.npy``, ``.tfrecord``, ``.tfrecord.gz``), repeated where rows share a file.
    store : path
        Folder.
    width : int
        Numbers an embedding must have.

    Returns
    -------
    parts : list of path
    place : array of int
        For every row, its embedding's number in the store; -1 without one.
    faults : dict
        For every row without one, the reason and the detail.

    Raises
    ------
    OSError
        When a file that exists cannot be opened, or the store cannot be written.
    """
    known = {path: _stat(path) for path in dict.fromkeys(paths) if path is not None}
    files = [path for path, found in known.items() if found is not None]
    number = {path: k for k, path in enumerate(files)}
    parts, unusable = [], {}
    with tqdm(total=len(files), desc="reading embeddings", unit="file", disable=not progress) as bar:
        for start in range(0, len(files), _PART):
            chunk = files[start:start + _PART]
            made_from = [(str(path), *known[path]) for path in chunk]
            key = hashlib.sha256(repr((_FORMAT, width, made_from)).encode()).hexdigest()[:32]
            part, record = store / f"{key}.npy", store / f"{key}.txt"
            whole = _HEADER + 4 * len(chunk) * width
            if not (record.is_file() and part.is_file() and part.stat().st_size == whole):
                _write(part, record, chunk, width, bar)
            else:
                bar.update(len(chunk))
            parts.append(part)
            lines = record.read_text(encoding="utf-8").splitlines()[1:]
            unusable |= {start + int(k): (reason, detail) for k, reason, detail in (line.split("\t") for line in lines)}
    if parts:  # nothing is deleted where nothing was found: a wrong folder must not cost the work
        wanted = {p.stem for p in parts}
        for old in store.iterdir():
            if re.fullmatch(r"[0-9a-f]{32}\.(npy|txt)", old.name) and old.stem not in wanted:
                old.unlink()
    place, faults = np.full(len(paths), -1), {}
    for row, path in enumerate(paths):
        k = number.get(path, -1)
        if k < 0:
            faults[row] = (NOT_FOUND, "no file of that name" if path is None else str(path))
        elif k in unusable:
            faults[row] = unusable[k]
        else:
            place[row] = k
    return parts, place, faults


def read_one(path: Path, width: int) -> np.ndarray:
    """One embedding from its own file.

    Raises
    ------
    ValueError
        With two arguments, reason and detail, when it cannot be used.
    """
    try:
        if path.name.endswith(".npy"):
            values = np.squeeze(np.lib.format.open_memmap(path, mode="r"))  # never .npz, never pickled objects
            if values.dtype.kind != "f":
                raise ValueError(f"'{path}': holds values of type {values.dtype}, expected real numbers")
        elif path.name.endswith(ENDINGS):
            examples = list(tfrecord.records(path))
            if len(examples) != 1:
                raise ValueError(f"'{path}': holds {len(examples)} records, expected one")
            values = tfrecord.floats(examples[0], "embedding")
        else:
            raise ValueError(f"'{path}': expected a file ending in {', '.join(ENDINGS)}")
    except _BROKEN as error:
        raise ValueError(UNREADABLE, str(error) if str(path) in str(error) else f"'{path}': {error}") from error
    fault = (OTHER_WIDTH if values.shape != (width,) else NOT_FINITE if not np.isfinite(values).all() else
             ZEROS if not values.any() else None)
    if fault:
        raise ValueError(fault, f"'{path}': shape {values.shape}, expected ({width},)" if fault == OTHER_WIDTH
                         else f"'{path}'")
    return values.astype(np.float32)


def _write(part: Path, record: Path, files: Sequence[Path], width: int, bar: tqdm) -> None:
    values = np.full((len(files), width), np.nan, dtype=np.float32)  # what could not be read is never a number
    lines = [to_json({"files": len(files), "first": str(files[0]), "last": str(files[-1])}).replace("\n", " ")]
    for k, path in enumerate(files):
        try:
            values[k] = read_one(path, width)
        except ValueError as error:
            reason, detail = error.args
            lines.append("\t".join((str(k), reason, " ".join(detail.split()))))
        bar.update()
    with atomic(part) as handle:
        np.save(handle, values)
    write_text(record, "\n".join(lines) + "\n")  # last: a part counts once it stands


def _stat(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else None
