"""Results by group, each with its n and an interval, and gaps paired over counterfactual twins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

SMALLEST_GROUP = 30
"""Patients a group needs before a rate is reported for it."""


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (through :func:`scipy.stats.binomtest`).

    Parameters
    ----------
    hits, n : int
        Successes and trials, n at least 1.
    level : float
        Confidence level in (0, 1).
    """
    interval = binomtest(int(hits), int(n)).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_by_group(correct: Sequence[bool], groups: pd.DataFrame, smallest: int = SMALLEST_GROUP) -> pd.DataFrame:
    """Share of right decisions in every group.

    Parameters
    ----------
    correct : sequence of bool, shape (n,)
        Whether each decision was right; one row a patient.
    groups : pandas.DataFrame, shape (n, k)
        Columns that define the groups.
    smallest : int
        Groups with fewer rows are refused.

    Returns
    -------
    pandas.DataFrame
        One row per group: its values, ``n``, ``accuracy``, ``low`` and ``high`` (95% Wilson interval).

    Raises
    ------
    ValueError
        When a group has fewer than ``smallest`` rows; the message names it and its size.
    """
    rows = []
    names = list(groups.columns)
    for values, part in pd.Series(np.asarray(correct, dtype=bool)).groupby([groups[c].to_numpy() for c in names]):
        if len(part) < smallest:
            who = ", ".join(f"{c} = {v}" for c, v in zip(names, np.atleast_1d(values), strict=True))
            raise ValueError(f"group ({who}) has {len(part)} patients, at least {smallest} are needed to report a rate")
        rows.append((*np.atleast_1d(values), len(part), part.mean(), *wilson(part.sum(), len(part))))
    return pd.DataFrame(rows, columns=[*names, "n", "accuracy", "low", "high"])


def patient_bootstrap(values: np.ndarray, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """95% interval of a mean over patients by the percentile bootstrap.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,) or (n, k)
        One row a patient; NaN where a patient does not count towards a column.
    seed : int
        Of the resampling.
    draws : int
        Bootstrap samples.

    Returns
    -------
    numpy.ndarray, shape (2,) or (2, k)
        Lower and upper end.
    """
    values = np.asarray(values, dtype=float)
    columns = values.reshape(len(values), -1)
    rows = np.column_stack([np.nan_to_num(columns), np.isfinite(columns)])
    # Patients with equal rows are drawn as one: how often is multinomial, and decisions have few different rows.
    different, times = np.unique(rows, axis=0, return_counts=True)
    totals, counts = np.hsplit(different, 2)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(0, draws, 200):
        weights = rng.multinomial(len(rows), times / len(rows), size=200).astype(float)
        means.append((weights @ totals) / (weights @ counts))
    ends = np.quantile(np.concatenate(means)[:draws], [0.025, 0.975], axis=0)
    return ends[:, 0] if values.ndim == 1 else ends


def twin_gaps(disease: np.ndarray, on: np.ndarray, off: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """By how much an attribute raises the rate of "disease" decisions, paired over counterfactual twins.

    Parameters
    ----------
    disease : numpy.ndarray, shape (n,)
        True class, 0 or 1; one row a patient.
    on, off : numpy.ndarray, shape (n,)
        Decisions (0 or 1) for the same patients with the attribute and without.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Rows ``tpr_gap`` and ``fpr_gap``; columns ``n``, ``gap`` and its 95% patient-bootstrap interval ``low, high``.

    Raises
    ------
    ValueError
        When a class has fewer than 30 patients.
    """
    disease = np.asarray(disease)
    change = np.asarray(on, dtype=float) - np.asarray(off, dtype=float)
    rows = {}
    for name, y in (("tpr_gap", 1), ("fpr_gap", 0)):
        part = change[disease == y]
        if len(part) < SMALLEST_GROUP:
            raise ValueError(f"class {y} has {len(part)} patients, at least {SMALLEST_GROUP} are needed for a gap")
        rows[name] = (len(part), part.mean(), *patient_bootstrap(part, seed))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "gap", "low", "high"])
