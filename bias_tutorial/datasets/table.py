"""A researcher's own images and CSV table, by named columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from csv import Error as CSVError
from csv import reader
from pathlib import Path

import numpy as np
import pandas as pd

from ..cohort import SPLITS, Cohort, Schema, split_by_patient
from ..files import ImageFiles

MISSING = ("", "na", "n/a", "nan", "null")
_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation",
                "valid": "validation", "dev": "validation", "test": "test", "testing": "test"}


def read(csv: str | Path, *, image: str, targets: Mapping[str, Sequence], patient: str | None,
         attributes: Mapping[str, Sequence] | None = None, bins: Mapping[str, Sequence[float]] | None = None,
         split: str | None = None, seed: int | None = None, shares: Sequence[float] = (0.5, 0.25, 0.25),
         image_id: str | None = None, root: str | Path | None = None, scale="type",
         shape: Sequence[int] | None = None, check: bool = False) -> Cohort:
    """Read a CSV table and the images it names.

    Parameters
    ----------
    csv : path
        Table with a header line; ``.tsv`` is read with tabs.
    image : str
        Column with the path of each image: NIfTI, PNG, JPEG, DICOM or ``.npy``, relative to ``root``.
    targets : dict of str to sequence
        Columns to be predicted, with their allowed values in order, e.g. ``{"pneumonia": (0, 1)}``. Empty cells, NA,
        N/A, NaN and null are missing and stay missing (NaN), unless they are among the values.
    patient : str or None
        Column with the patient. ``None`` states that every image is of another patient; if that is not true, images
        of one patient land in several splits and every result looks better than it is.
    attributes : dict of str to sequence, optional
        Columns such as sex or scanner, with their allowed values in order.
    bins : dict of str to sequence of float, optional
        Numeric columns to be cut at these edges, e.g. ``{"age": (0, 40, 60, 120)}`` gives the attribute ``age`` with
        values ``[0, 40)``, ``[40, 60)``, ``[60, 120]``. The numbers stay in the column ``age_value``.
    split : str, optional
        Column with train, validation (or val, valid, dev) and test. Without it the rows are split by patient.
    seed, shares
        For the split by patient, see :func:`bias_tutorial.cohort.split_by_patient`; ``seed`` is needed then.
    image_id : str, optional
        Column with a unique name of the image; the path as written when not given.
    root : path, optional
        Folder the paths start from; that of the table when not given.
    scale, shape
        How stored values become [0, 1], and the shape all images must have: see
        :class:`bias_tutorial.files.ImageFiles`.
    check : bool
        Read every image once now. Otherwise a broken file is found when its row is read; missing files always now.

    Returns
    -------
    Cohort
        Images read from their files when their rows are asked for.

    Raises
    ------
    ValueError
        For a missing column (lists the columns), a value outside its declared values or edges (column, line, value), a
        duplicate name, a patient in several splits, or a broken image.
    FileNotFoundError
        When the table or an image does not exist.
    """
    csv = Path(csv)
    rows = read_rows(csv)
    attributes, bins = dict(attributes or {}), dict(bins or {})
    needed = [image, *targets, *attributes, *bins, *(c for c in (patient, split, image_id) if c is not None)]
    for column in needed:
        if column not in rows:
            raise ValueError(f"'{csv}' has no column '{column}'; it has {', '.join(rows.columns)}")
    twice = {*targets, *attributes} & set(bins) | set(targets) & set(attributes)
    if twice:
        raise ValueError(f"column '{sorted(twice)[0]}' is declared twice among targets, attributes and bins")
    if not targets:
        raise ValueError("targets must name at least one column and its values")

    table = pd.DataFrame({"image_id": rows[image_id or image], "patient_id": rows[patient or image_id or image]})
    for column in ("image_id", "patient_id", *((image,) if image_id else ())):
        source = {"image_id": image_id or image, "patient_id": patient}.get(column, image)
        cells = table[column] if column in table else rows[image]
        empty = np.flatnonzero(cells == "")
        if len(empty):
            raise ValueError(f"'{csv}', line {empty[0] + 2}: column '{source}' is empty")
        if column != "patient_id" and cells.duplicated().any():
            value = cells[cells.duplicated()].iloc[0]
            lines = ", ".join(str(k + 2) for k in np.flatnonzero(cells == value)[:5])
            raise ValueError(f"'{csv}': column '{source}': '{value}' stands in lines {lines}, expected once")
    if split is not None:
        table["split"] = choose(rows[split], _SPLIT_NAMES, csv, expected=SPLITS)
    elif seed is None:
        raise ValueError("without a column for the split, pass seed=... to split by patient")
    else:
        table["split"] = split_by_patient(table, seed, shares)
    for column, values in {**targets, **attributes}.items():
        table[column] = choose(rows[column], {str(v): v for v in values}, csv)
    for column, edges in bins.items():
        numbers = numeric(rows[column], csv)
        table[column], attributes[column] = _cut(numbers, edges, csv)
        table[f"{column}_value"] = numbers

    folder = csv.parent if root is None else Path(root)
    paths = [folder / p for p in rows[image]]
    require_files(paths, csv)
    images = ImageFiles(paths, scale, shape)
    if check:
        images.check()
    schema = Schema({k: tuple(v) for k, v in targets.items()}, {k: tuple(v) for k, v in attributes.items()})
    return Cohort(images, table, schema, meta={"reader": "table", "table": csv.name,
                                               "scale": list(scale) if isinstance(scale, (tuple, list)) else scale})


def read_rows(csv: Path) -> pd.DataFrame:
    """All cells of a CSV (or, by its ending, TSV) file as text without outer spaces."""
    if not csv.is_file():
        raise FileNotFoundError(f"'{csv}': there is no such table")
    try:
        with open(csv, newline="", encoding="utf-8-sig") as handle:
            lines = list(reader(handle, delimiter="\t" if csv.suffix.lower() == ".tsv" else ",", strict=True))
    except (UnicodeDecodeError, CSVError) as error:
        raise ValueError(f"'{csv}' cannot be read as a table: {error}") from error
    while lines and not lines[-1]:  # empty lines at the end
        lines.pop()
    if len(lines) < 2:
        raise ValueError(f"'{csv}' has no rows below its header")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header):
        raise ValueError(f"'{csv}': the header names a column twice: {', '.join(header)}")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise ValueError(f"'{csv}', line {number}: {len(line)} cells, expected {len(header)} as in the header")
    return pd.DataFrame([[cell.strip() for cell in line] for line in lines[1:]], columns=header, dtype=object)


def choose(cells: pd.Series, values: Mapping[str, object], csv: Path, expected: Sequence | None = None) -> pd.Series:
    """Cells as the values they name, missing ones as NaN; numbers match by value, text by letter case or without it."""
    numbers = {float(v): v for v in values.values() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    lower = {k.lower(): v for k, v in values.items()}
    lower = lower if len(lower) == len(values) else {}
    out = []
    for place, cell in enumerate(cells):
        if cell in values:
            out.append(values[cell])
        elif cell.lower() in lower:
            out.append(lower[cell.lower()])
        elif cell.lower() in MISSING:
            out.append(np.nan)
        else:
            try:
                out.append(numbers[float(cell)])
            except (ValueError, KeyError):
                raise ValueError(f"'{csv}', line {place + 2}: column '{cells.name}' holds {cell!r}, "
                                 f"expected one of {list(expected or values.values())}") from None
    return pd.Series(out)


def numeric(cells: pd.Series, csv: Path) -> pd.Series:
    """Cells as numbers, missing ones as NaN."""
    out = []
    for place, cell in enumerate(cells):
        try:
            out.append(np.nan if cell.lower() in MISSING else float(cell))
            if np.isinf(out[-1]):
                raise ValueError
        except ValueError:
            raise ValueError(f"'{csv}', line {place + 2}: column '{cells.name}' holds {cell!r}, "
                             "expected a number") from None
    return pd.Series(out, name=cells.name, dtype=float)


def require_files(paths: Sequence[Path], csv: Path) -> None:
    """Raise ``FileNotFoundError`` that names the first missing file and how many are missing."""
    missing = [(k, p) for k, p in enumerate(paths) if not p.is_file()]
    if missing:
        place, path = missing[0]
        raise FileNotFoundError(f"'{csv}', line {place + 2}: there is no image '{path}' "
                                f"({len(missing)} of {len(paths)} images are missing)")


def _cut(numbers: pd.Series, edges: Sequence[float], csv: Path) -> tuple[pd.Series, tuple[str, ...]]:
    edges = [float(e) for e in edges]
    if len(edges) < 2 or any(a >= b for a, b in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"bins of column '{numbers.name}' need at least two increasing edges, got {edges}")
    outside = np.flatnonzero((numbers < edges[0]) | (numbers > edges[-1]))
    if len(outside):
        raise ValueError(f"'{csv}', line {outside[0] + 2}: column '{numbers.name}' holds {numbers.iloc[outside[0]]:g}, "
                         f"expected {edges[0]:g} to {edges[-1]:g}")
    labels = tuple(f"[{a:g}, {b:g}{']' if b == edges[-1] else ')'}" for a, b in zip(edges, edges[1:], strict=False))
    place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(labels) - 1)
    return pd.Series([np.nan if np.isnan(v) else labels[k] for v, k in zip(numbers, place, strict=True)]), labels
