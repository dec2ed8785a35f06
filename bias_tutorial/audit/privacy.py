"""What may be shown of patients: counts in tens, nothing under ten, no rate that rests on fewer than ten.

A small cell is not safe because it is left out: all patients less those of the other cells give it back. So *every*
count is rounded down to tens, each by itself: then margins less shown cells leave nearly all of 0 to 9 possible for a
hidden one (a test looks for the narrowest case in tables with two margins; only where a whole row of hidden cells has
a sum near nine times their number is less left). Shares and evenness are computed from the tens, by their middles.
Rates of a model are shown for groups with ten patients who have the finding and ten who do not, with two digits, or
three where at least a hundred patients of each kind stand behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..evaluation import SMALLEST_GROUP

LEAST = 10
HIDDEN = f"<{LEAST}"
WITHHELD = "not shown"
"""Stands for a count of studies where it is the patients who are fewer than ten."""
_MIDDLE = (LEAST - 1) / 2  # 120 stands for 120 to 129, and what is hidden for 0 to 9
TOO_FEW = f"fewer than {SMALLEST_GROUP} patients"
ONE_SIDED = f"fewer than {LEAST} patients with the finding, or without it"


def shown(counts: Sequence[int], patients: Sequence[int] | None = None) -> list:
    """Counts as they may be shown: rounded down to tens, or ``"<10"``.

    Parameters
    ----------
    counts : sequence of int
        Each at least 0.
    patients : sequence of int, optional
        Whose the counted rows are; a count of fewer than ten patients is withheld however many rows they have.
    """
    people = counts if patients is None else patients
    return [HIDDEN if n < LEAST else WITHHELD if m < LEAST else int(n) // LEAST * LEAST
            for n, m in zip(counts, people, strict=True)]


def numeric(cells: Sequence) -> np.ndarray:
    """Shown counts as numbers to compute with: the middle of their ten, 4.5 for what is hidden."""
    return np.array([0 if isinstance(cell, str) else cell for cell in cells], dtype=float) + _MIDDLE


def share(parts: Sequence, wholes: Sequence) -> np.ndarray:
    """Shares of shown counts, two digits; NaN where either is hidden."""
    known = np.array([not isinstance(p, str) and not isinstance(w, str) for p, w in zip(parts, wholes, strict=True)])
    return np.where(known, np.minimum(np.round(numeric(parts) / numeric(wholes), 2), 1), np.nan)


def support(labels: np.ndarray, sets: Sequence[np.ndarray], patients: np.ndarray) -> np.ndarray:
    """Different patients with and without each finding in each set of rows, shape (2, findings, sets)."""
    people = np.unique(patients, return_inverse=True)[1]
    return np.array([[[len(np.unique(people[rows[labels[rows, k] == value]])) for rows in sets]
                      for k in range(labels.shape[1])] for value in (1, 0)])


def masked(table: pd.DataFrame, rates: Sequence[str], with_it: Sequence[int], without: Sequence[int],
           patients: Sequence[int]) -> pd.DataFrame:
    """A table of rates by finding and group as it may be shown.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``reason``, which is replaced: it may name a small count.
    rates : sequence of str
        Columns that are emptied where too few patients stand behind them, and rounded elsewhere.
    with_it, without, patients : sequence of int
        Patients who have the finding, who do not, and of the group, row by row.
    """
    with_it, without, patients = (np.asarray(part) for part in (with_it, without, patients))
    table, fewest = table.reset_index(drop=True).copy(), np.minimum(with_it, without)
    hidden = (patients < SMALLEST_GROUP) | (fewest < LEAST)
    values = table[list(rates)].astype(float).to_numpy()
    digits = np.where(fewest[:, None] < 100, np.round(values, 2), np.round(values, 3))
    table[list(rates)] = np.where(hidden[:, None], np.nan, digits)
    table["reason"] = np.where(patients < SMALLEST_GROUP, TOO_FEW, np.where(hidden, ONE_SIDED, ""))
    return table
