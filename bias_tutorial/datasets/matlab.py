"""Structs of MATLAB v7.3 files, loose or inside a zip archive, without unpacking anything to the disk.

A v7.3 file is HDF5 behind a text header of 512 bytes. MATLAB stores arrays by column, so HDF5 shows them transposed;
here they are turned back. A text is an array of the codes of its letters.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where a file lies: ``file`` itself, or the entry ``name`` of the zip archive ``file``."""

    file: Path
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.name}" if self.name else str(self.file)


def entries(archive: Path) -> list[str]:
    """Names of the ``.mat`` files of a zip archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return [name for name in opened.namelist() if name.lower().endswith(".mat")]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"'{archive}' cannot be read as a zip archive ({error}): get it again") from error


def read_struct(place: Place, struct: str, values: Sequence[str] = (), texts: Sequence[str] = (),
                shapes: Sequence[str] = ()) -> dict:
    """Fields of a struct, as MATLAB shows them.

    Parameters
    ----------
    place : Place
        The file.
    struct : str
        Name of the variable.
    values, texts, shapes : sequence of str
        Fields wanted as an array, as a string (see :func:`text`), and of which only the shape is wanted.

    Raises
    ------
    ValueError
        Naming the file: not MATLAB v7.3, truncated, a broken archive, or without the struct or a field.
    FileNotFoundError
        When there is no such file.
    ModuleNotFoundError
        Without h5py.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading MATLAB v7.3 needs h5py: pip install 'bias-tutorial[readers]'") from None
    if not place.file.is_file():
        raise FileNotFoundError(f"'{place}': there is no such file")
    start, found = b"", {}
    try:
        with _opened(place) as handle:
            start = handle.read(19)
            with h5py.File(handle, "r") as file:
                there = file.get(struct, {})
                known = list(there)
                found |= {name: there[name][()].T for name in values if name in there}
                found |= {name: text(file, there[name]) for name in texts if name in there}
                found |= {name: there[name].shape[::-1] for name in shapes if name in there}
    except MemoryError:
        raise
    except Exception as error:  # each library has its own errors for a broken file
        why = ("is of an older MATLAB format, expected v7.3: in MATLAB, save it again with save(..., '-v7.3')"
               if start.startswith(b"MATLAB 5") else
               f"cannot be read as MATLAB v7.3 ({type(error).__name__}: {error}); it may be truncated")
        raise ValueError(f"'{place}' {why}") from error
    for name in (*values, *texts, *shapes):
        if name not in found:
            raise ValueError(f"'{place}': '{struct}' has no field '{name}'; it has {', '.join(known) or 'none'}")
    return found


def text(file, item) -> str:
    """A text as MATLAB may store it: codes of letters, a cell that points to them, a number; or HDF5's own text."""
    import h5py

    value = np.asarray(item[()])
    if "MATLAB_empty" in item.attrs:  # what is stored then is the size of nothing
        return ""
    first = value.flat[0]
    if isinstance(first, h5py.Reference):
        return text(file, file[first])
    if isinstance(first, (bytes, str)):
        return (first.decode() if isinstance(first, bytes) else first).strip(" \0")
    if value.size > 1 or item.attrs.get("MATLAB_class") in (b"char", "char"):
        return "".join(chr(int(code)) for code in value.flat).strip(" \0")
    return f"{float(first):.15g}"


def _opened(place: Place):
    if not place.name:
        return open(place.file, "rb")
    with zipfile.ZipFile(place.file) as archive:
        return BytesIO(archive.read(place.name))
