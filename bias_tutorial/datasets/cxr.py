"""What the readers of chest X-ray sets share: columns of large tables, labels by a stated policy, rows left out.

Two rules hold for all of them. A row that contradicts its own format (an age of 411, a label of 2, an image that cannot
be found) is left out, counted and listed with its reason. A demographic that is merely not known stays in, as NaN, and
is counted too.
"""

from __future__ import annotations

import csv as csv_module
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..cohort import SPLITS, Cohort, split_by_patient
from ..files import ImageFiles, write_text
from ..simulate.cxr_embeddings import ATTRIBUTES, FINDINGS
from .table import MISSING

AGE_GROUPS = ATTRIBUTES["age_group"]  # the same for simulated and real cohorts
YOUNGEST = (0, 20, 40, 60, 80)  # years at which each group starts
OLDEST = 120
SEXES = ("F", "M")
POLICIES = {"missing": np.nan, "negative": 0.0, "positive": 1.0}
_BAD = np.inf  # marks a cell that is neither a label nor empty
_SHOWN = 20  # values or rows named in a report


# ---------------------------------------------------------------------- tables
def read_columns(csv: Path, text: Sequence[str], repeated: Sequence[str]) -> pd.DataFrame:
    """The named columns of a CSV file; a million rows of 22 columns are read within 1 GB.

    Parameters
    ----------
    csv : path
        UTF-8, with a header line.
    text : sequence of str
        Columns of ids and paths, read as text without outer spaces.
    repeated : sequence of str
        Columns with few different values, read as categories of text, so that each value is stored and parsed once.

    Raises
    ------
    FileNotFoundError, ValueError
        For a missing file or column, a line with too few or too many cells, a file without rows; all name the file.
    """
    if not csv.is_file():
        raise FileNotFoundError(f"'{csv}': there is no such table; data/README.md says where the set is")
    try:
        with open(csv, newline="", encoding="utf-8-sig") as handle:
            lines = csv_module.reader(handle, strict=True)
            header = [name.strip() for name in next(lines, [])]
            empty = None
            for line in lines:  # pandas fills up a short line without a word
                if not line:
                    empty = empty or lines.line_num
                elif empty or len(line) != len(header):
                    raise ValueError(f"'{csv}', line {empty or lines.line_num}: {0 if empty else len(line)} cells, "
                                     f"expected {len(header)} as in the header")
    except (UnicodeDecodeError, csv_module.Error) as error:
        raise ValueError(f"'{csv}' cannot be read as a table: {error}") from error
    for column in (*text, *repeated):
        if header.count(column) != 1:
            raise ValueError(f"'{csv}' has {header.count(column) or 'no'} column{'s' * (column in header)} '{column}', "
                             f"expected one; it has {', '.join(header)}")
    places = {header.index(column): column for column in (*text, *repeated)}
    # All as text, of which the parser keeps each different one once; dtype="category" would turn some into numbers.
    rows = pd.read_csv(csv, usecols=list(places), header=0, names=range(len(header)), dtype=str, na_filter=False,
                       encoding="utf-8-sig").rename(columns=places)
    if rows.empty:
        raise ValueError(f"'{csv}' has no rows below its header")
    return pd.DataFrame({c: rows.pop(c).str.strip() if c in text else rows.pop(c).astype("category")
                         for c in list(rows.columns)})


def by_value(cells: pd.Series, function: Callable[[str], Any], dtype: type = object) -> np.ndarray:
    """``function`` of every cell of a category column, called once for each different value, outer spaces cut off."""
    values = np.array([function(value.strip()) for value in cells.cat.categories], dtype=dtype)
    return values[cells.cat.codes.to_numpy()]


class LeftOut:
    """Rows that cannot be used, each with the first reason that was found.

    Parameters
    ----------
    csv : path
        The table, for messages.
    ids : pandas.Series
        Name of every row.
    lines : array of int, optional
        Its line in the table; the header is line 1. By default they follow each other.
    """

    def __init__(self, csv: Path, ids: pd.Series, lines: np.ndarray | None = None):
        self.csv, self.ids = csv, ids
        self.lines = np.arange(len(ids)) + 2 if lines is None else lines
        self.reason, self.detail = np.full((2, len(ids)), "", dtype=object)

    def add(self, wrong: np.ndarray, reason: str, cells: pd.Series | None = None) -> None:
        """Leave out the rows of a boolean mask; the cells that show why are quoted in the list."""
        rows = np.flatnonzero(np.asarray(wrong) & (self.reason == ""))
        self.reason[rows] = reason
        if cells is not None:
            self.detail[rows] = [f"{cells.name}: {value!r}" for value in cells.iloc[rows]]

    def add_each(self, faults: Mapping[int, tuple[str, str]]) -> None:
        """Leave out rows by position, each with its own reason and detail."""
        for row, (reason, detail) in faults.items():
            if self.reason[row] == "":
                self.reason[row], self.detail[row] = reason, detail

    def keep(self) -> np.ndarray:
        """Positions of the rows that are left.

        Raises
        ------
        ValueError
            When there is none.
        """
        kept = np.flatnonzero(self.reason == "")
        if len(kept) == 0:
            reasons = ", ".join(f"{reason} ({n})" for reason, n in self.report()["reasons"].items())
            raise ValueError(f"'{self.csv}': none of {len(self.ids)} rows can be used: {reasons}; "
                             f"the first: {self.list().iloc[0].to_dict()}")
        return kept

    def list(self) -> pd.DataFrame:
        """All of them: ``line``, ``id``, ``reason`` and ``detail``."""
        rows = np.flatnonzero(self.reason != "")
        return pd.DataFrame({"line": self.lines[rows], "id": self.ids.iloc[rows].to_numpy(),
                             "reason": self.reason[rows], "detail": self.detail[rows]})

    def report(self) -> dict[str, Any]:
        """For ``Cohort.meta``: rows read and kept, rows by reason, and the first rows of each reason."""
        rows = self.list()
        first = {reason: part.drop(columns="reason").head(_SHOWN).astype({"line": int}).to_dict("records")
                 for reason, part in rows.groupby("reason")}
        return {"rows": len(self.ids), "kept": len(self.ids) - len(rows),
                "reasons": {str(k): int(n) for k, n in rows["reason"].value_counts().items()}, "first": first}

    def write(self, path: str | Path | None) -> None:
        """Write the whole list as CSV, unless the path is None."""
        if path is not None:
            write_text(path, self.list().to_csv(index=False, lineterminator="\n"))


# ---------------------------------------------------------------------- labels
def read_labels(rows: pd.DataFrame, out: LeftOut) -> pd.DataFrame:
    """The 14 findings as stored, float32: 1 named, 0 ruled out, -1 uncertain, NaN not mentioned."""
    stored = {}
    for finding in FINDINGS:
        stored[finding] = by_value(rows[finding], _label, np.float32)
        out.add(np.isinf(stored[finding]), "label other than 1, 0, -1 and blank", rows[finding])
    return pd.DataFrame(stored)


def by_policy(stored: pd.DataFrame, policy: str, blank: str) -> pd.DataFrame:
    """Targets (1, 0 or NaN) from stored labels.

    Parameters
    ----------
    stored : pandas.DataFrame
        See :func:`read_labels`.
    policy : {'missing', 'negative', 'positive'}
        What an uncertain label (-1) becomes: NaN, 0 or 1; U-Ignore, U-Zeros and U-Ones of Irvin et al. 2019, section
        "Uncertainty approaches".
    blank : {'missing', 'negative'}
        What a finding becomes that the report does not mention. ``'negative'`` is the usual reading: radiologists
        write down what they see. With ``'missing'`` some findings keep hardly a negative ("No Finding" none at all:
        it is 1 or blank), and prevalences are far too high.
    """
    for name, value, allowed in (("policy", policy, tuple(POLICIES)), ("blank", blank, ("missing", "negative"))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    filled = stored.fillna(0.0) if blank == "negative" else stored
    return filled.mask(stored == -1, POLICIES[policy])


def count_labels(stored: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How often each finding is 1, 0, -1 and blank, so that a policy can be judged."""
    return {finding: {**{str(v): int((cells == v).sum()) for v in (1, 0, -1)}, "blank": int(cells.isna().sum())}
            for finding, cells in stored.items()}


def _label(cell: str) -> float:
    if cell.lower() in MISSING:
        return np.nan
    value = _number(cell)
    return value if value in (1, 0, -1) else _BAD


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


# ---------------------------------------------------------------------- people
def read_ages(cells: pd.Series, out: LeftOut, years: Callable[[str], float] = _number) -> tuple[np.ndarray, np.ndarray]:
    """Ages in years and their groups (``AGE_GROUPS``); an empty cell is NaN in both.

    Parameters
    ----------
    cells : pandas.Series
        Category column.
    out : LeftOut
        Takes the rows whose age is no number or outside 0 to 120.
    years : callable
        From a cell to years; NaN where it is no age.
    """
    empty = by_value(cells, lambda c: c.lower() in MISSING, bool)
    values = by_value(cells, years, float)
    out.add(np.isnan(values) & ~empty, "age is not a number", cells)
    out.add((values < 0) | (values > OLDEST), f"age outside 0 to {OLDEST}", cells)
    groups = np.array([*AGE_GROUPS, np.nan], dtype=object)
    place = np.maximum(np.searchsorted(YOUNGEST, values, side="right") - 1, 0)
    return values, groups[np.where(np.isnan(values), len(AGE_GROUPS), place)]


def read_group(cells: pd.Series, groups: Mapping[str, str]) -> np.ndarray:
    """Group of every cell by its text, in any letter case, or by what stands before " - " in it; NaN for other text."""
    groups = {key.upper(): value for key, value in groups.items()}

    def group(cell: str):
        return groups.get(cell.upper(), groups.get(cell.upper().partition(" - ")[0], np.nan))
    return by_value(cells, group)


def count_unknown(cells: Mapping[str, pd.Series], table: pd.DataFrame, kept: np.ndarray) -> dict[str, dict[str, int]]:
    """For each attribute, what stands in the kept rows whose value is NaN: ``{"race": {"UNKNOWN": 12, ...}}``."""
    counts = {}
    for name, column in cells.items():
        values = column.iloc[kept[table[name].isna().to_numpy()]].astype(object).value_counts()
        counts[name] = {str(value) or "(empty)": int(n) for value, n in values.head(_SHOWN).items() if n}
        if (rest := int(values.iloc[_SHOWN:].sum())):
            counts[name]["(other values)"] = rest
    return counts


def official_split(table: pd.DataFrame, test: np.ndarray, seed: int, shares: Sequence[float]) -> pd.Series:
    """The test rows as given; the others divided by patient in the proportion of the first two shares."""
    if sum(shares[:2]) <= 0:
        raise ValueError(f"shares needs patients for train or validation, got {tuple(shares)}")
    split = pd.Series(SPLITS[2], index=table.index, dtype=object)
    rest = table[~test]
    split[~test] = split_by_patient(rest, seed, (shares[0] / sum(shares[:2]), shares[1] / sum(shares[:2]), 0))
    return split


# ---------------------------------------------------------------------- images
class Radiographs(ImageFiles):
    """Radiographs read from files when their rows are asked for: grey, in [0, 1], the middle square, resampled.

    Stored values are divided by the range of their type (255, or 65535 for 16 bits), so that brightness stays
    comparable between images. A square is cut from the middle of the longer side, so that nothing is stretched.

    Parameters
    ----------
    paths : sequence of path
        One file a row, PNG or JPEG.
    size : int
        Rows and columns of an image.
    """

    def __init__(self, paths: Sequence[str | Path], size: int):
        if size != int(size) or size < 1:
            raise ValueError(f"size must be a whole number of at least 1, got {size!r}")
        super().__init__(paths, "type", (1, int(size), int(size)))

    def subset(self, rows) -> Radiographs:
        """The same files for fewer rows, still unread."""
        return Radiographs(self.paths[rows], self.shape[2])

    def _scaled(self, path: str) -> np.ndarray:
        grey = super()._scaled(path).mean(axis=0)  # grey images are sometimes stored as RGB
        side, size = min(grey.shape), self.shape[2]
        top, left = ((n - side) // 2 for n in grey.shape)
        square = Image.fromarray(np.ascontiguousarray(grey[top:top + side, left:left + side]))
        return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))[None]


def summary(cohort: Cohort) -> str:
    """What was read, left out and not known, in a few lines of text."""
    left = cohort.meta["excluded"]
    lines = [f"{left['rows']:,} rows read, {left['kept']:,} kept, {left['rows'] - left['kept']:,} left out"]
    lines += [f"  {n:,} {reason}" for reason, n in left["reasons"].items()]
    for name, values in cohort.meta["unknown"].items():
        if values:
            said = ", ".join(f"{value} {n:,}" for value, n in values.items())
            lines.append(f"{name} not known for {sum(values.values()):,}: {said}")
    return "\n".join(lines)
