"""Who is in the training split: rows in groups, with what was found in them, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
import pandas as pd

from ...cohort import Cohort

OLDEST = 120
MISSING = "missing"


def guard(table: pd.DataFrame, rows: np.ndarray | None = None) -> None:
    """Refuse a split with a patient or an image on both sides, and rows outside the training split.

    Call it on a table that was resampled or put together by hand, before anything is fitted: copies that were made
    before the split stand on both sides of it, and what is measured there is partly memory.

    Parameters
    ----------
    table : pandas.DataFrame
        Needs ``image_id``, ``patient_id`` and ``split``.
    rows : numpy.ndarray, optional
        Row numbers (positions) that are to be trained on.

    Raises
    ------
    ValueError
        Naming the patient or image and its splits, or the row outside the training split.
    """
    for column in ("image_id", "patient_id", "split"):
        if column not in table:
            raise ValueError(f"column '{column}' is missing; the table has {', '.join(map(str, table.columns))}")
        if table[column].isna().any():
            raise ValueError(f"column '{column}' is empty in {table[column].isna().sum()} rows: nothing tells on which "
                             "side of the split they belong")
    for column, what in (("patient_id", "patient"), ("image_id", "image")):
        sides = table[[column, "split"]].drop_duplicates()
        if (both := sides[column].duplicated()).any():
            which = sides[column][both].iloc[0]
            found = sorted(sides["split"][sides[column] == which])
            raise ValueError(f"{what} '{which}' stands in several splits ({', '.join(found)}): split by patient first, "
                             "resample the training split after")
    if rows is not None:
        rows = np.asarray(rows)
        if rows.dtype.kind not in "iu" or rows.size and (rows.min() < 0 or rows.max() >= len(table)):
            raise ValueError(f"rows must be whole numbers from 0 to {len(table) - 1}, got {rows}")
        splits = table["split"].to_numpy()[rows]
        if (splits != "train").any():
            place = np.flatnonzero(splits != "train")[0]
            raise ValueError(f"row {rows[place]} is in split '{splits[place]}': training rows alone are resampled")


@dataclass(frozen=True, eq=False)
class Groups:
    """The training rows of a cohort in groups, with their findings; made by :meth:`of`.

    Attributes
    ----------
    cohort : Cohort
        Where they come from.
    rows : numpy.ndarray, shape (n,)
        Numbers of the rows in ``cohort.table``, ascending.
    codes : numpy.ndarray, shape (n,)
        Number of the group of each.
    patients : numpy.ndarray, shape (n,)
        Number of the patient of each.
    names : tuple of str
        Names of the groups; each has at least one row.
    findings : tuple of str
        Target columns.
    labels : numpy.ndarray, shape (n, findings)
        0, 1 or NaN, float32.
    excluded : dict of str to int
        Training rows left out, by reason.
    notes : tuple of str
        What a reader of the report should know of the data.
    """

    cohort: Cohort
    rows: np.ndarray
    codes: np.ndarray
    patients: np.ndarray
    names: tuple[str, ...]
    findings: tuple[str, ...]
    labels: np.ndarray
    excluded: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, cohort: Cohort, by: Sequence[str], ages: Mapping[str, Sequence[float] | None] | None = None,
           findings: Sequence[str] | None = None, rows: np.ndarray | None = None) -> Groups:
        """Group the training rows by columns of the table.

        A missing value of a column is a value of its own, ``missing``. An age outside 0 to 120 is nobody's: such rows
        are left out, counted in ``excluded``.

        Parameters
        ----------
        cohort : Cohort
            With a training split.
        by : sequence of str
            Columns whose combinations are the groups.
        ages : mapping, optional
            Which of them hold ages in years, and the lower edges of their bins, from 0 on, such as
            ``{"age": (0, 20, 40, 60, 80)}``; ``None`` in place of edges: single years.
        findings : sequence of str, optional
            Binary target columns; by default all targets of the schema.
        rows : numpy.ndarray, optional
            Some of the training rows; by default all of them.

        Raises
        ------
        ValueError
            For a column that is not there, ages that are text, edges out of order, labels other than 0, 1 or missing,
            no training rows, a single group, and all that :func:`guard` refuses.
        """
        table, ages = cohort.table, dict(ages or {})
        guard(table, rows)
        rows = np.flatnonzero(table["split"] == "train") if rows is None else np.unique(rows)
        if len(rows) == 0:
            raise ValueError("there is no row in split 'train' to resample")
        by, findings = tuple(by), tuple(cohort.schema.targets if findings is None else findings)
        for what, names in (("by", by), ("findings", findings)):
            if not names:
                raise ValueError(f"{what} names no column")
        for column in (*by, *ages, *findings):
            if column not in table:
                raise ValueError(f"column '{column}' is not in the table; it has {', '.join(map(str, table.columns))}")
        if stray := set(ages) - set(by):
            raise ValueError(f"ages names '{min(stray)}', which is not among the columns to group by: {', '.join(by)}")
        part = table[list(dict.fromkeys((*by, *findings)))].iloc[rows]
        excluded, inside = {}, np.ones(len(rows), dtype=bool)
        for column in ages:
            years = _years(part[column])
            wrong = (years < 0) | (years > OLDEST)
            if wrong.any():
                excluded[f"{column} outside 0 to {OLDEST}"] = int((wrong & inside).sum())
                inside &= ~wrong
        if not inside.any():
            raise ValueError(f"no training row is left: {excluded}")
        part, rows = part[inside], rows[inside]
        values = {column: _binned(column, _years(part[column]), ages[column]) if column in ages else
                  _values(part[column], cohort.schema.attributes.get(column)) for column in by}
        notes = [f"{column} is missing in {absent} rows, which are groups of their own"
                 for column, (codes, _) in values.items() if (absent := (codes < 0).sum())]
        labels = _labels(part, findings)
        notes += [f"'{name}' is missing in {absent} rows"
                  for name, absent in zip(findings, np.isnan(labels).sum(axis=0), strict=True) if absent]
        codes, names = _combined(values)
        if len(names) < 2:
            raise ValueError(f"all {len(rows)} training rows are in one group, {names[0]}: nothing to balance")
        patients = pd.factorize(table["patient_id"].iloc[rows])[0]
        made = cls(cohort, rows, codes, patients, names, findings, labels, excluded)
        alone = np.flatnonzero(made.patients_by_group() == 1)
        if len(alone):
            notes.append(f"{len(alone)} groups hold a single patient, whom copies only show again: "
                         + "; ".join(names[k] for k in alone[:5]) + ("; ..." if len(alone) > 5 else ""))
        return replace(made, notes=tuple(notes))

    @property
    def counts(self) -> np.ndarray:
        """Rows a group, shape (groups,)."""
        return np.bincount(self.codes, minlength=len(self.names))

    def patients_by_group(self, of: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Different patients a group among some of the rows, shape (groups,)."""
        size = self.patients.max() + 1
        return np.bincount(pd.unique(self.codes[of] * size + self.patients[of]) // size, minlength=len(self.names))


def _years(column: pd.Series) -> pd.Series:
    """Ages as numbers, NaN where missing; refuses text."""
    if not pd.api.types.is_numeric_dtype(column):
        present = column.dropna()
        text = present[[not isinstance(value, Real) for value in present]]
        if len(text):
            raise ValueError(f"column '{column.name}': {text.tolist()[0]!r} in row {text.index[0]} is text, "
                             "expected an age in years as a number")
    return column.astype(float)


def _binned(column: str, years: pd.Series, edges: Sequence[float] | None) -> tuple[np.ndarray, list[str]]:
    """Number of the bin of every age, -1 where it is missing, and the names of the bins."""
    edges = list(range(OLDEST + 1)) if edges is None else list(edges)
    if not edges or edges[0] != 0 or sorted(set(edges)) != edges or edges[-1] > OLDEST:
        raise ValueError(f"bins of '{column}' need lower edges that rise from 0 and stay within {OLDEST}, got {edges}")
    names = ([str(a) for a in edges] if len(edges) > OLDEST else
             [f"{a}-{b}" for a, b in zip(edges, edges[1:], strict=False)] + [f"{edges[-1]}+"])
    return np.where(years.isna(), -1, np.searchsorted(edges, years, side="right") - 1), names


def _values(column: pd.Series, declared: Sequence | None) -> tuple[np.ndarray, list[str]]:
    """Number of every value, -1 where it is missing, and their names, in the schema's order if it has one."""
    values = declared or sorted(column.dropna().unique(), key=lambda value: (str(type(value)), value))
    return pd.Categorical(column, categories=list(values)).codes.astype(int), [str(value) for value in values]


def _labels(table: pd.DataFrame, findings: Sequence[str]) -> np.ndarray:
    """Labels, shape (n, findings), float32."""
    labels = np.empty((len(table), len(findings)), dtype=np.float32, order="F")  # read by column
    for place, name in enumerate(findings):
        column = table[name]
        wrong = column[~(column.isin((0, 1)) | column.isna())]
        if len(wrong):
            raise ValueError(f"column '{name}': {wrong.tolist()[0]!r} in row {wrong.index[0]}, "
                             "expected 0, 1 or missing")
        labels[:, place] = column.astype(float)
    return labels


def _combined(values: Mapping[str, tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number of each row's combination, and names of those that occur, in the order of their values."""
    whole = np.zeros(len(next(iter(values.values()))[0]), dtype=np.int64)
    for codes, names in values.values():
        whole = whole * (len(names) + 1) + np.where(codes < 0, len(names), codes)
    found, first, codes = np.unique(whole, return_index=True, return_inverse=True)
    return codes, tuple(", ".join((*names, MISSING)[codes_of[row]] for codes_of, names in values.values())
                        for row in first)
