"""What a resampling returns: row numbers, and a report of what it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...cohort import Cohort
from .groups import Groups

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Images in, as many changed images out, both float32; for example whole-pixel moves by ``training.shifted``."""


@dataclass(frozen=True, eq=False)
class Report:
    """What changed.

    Attributes
    ----------
    groups : pandas.DataFrame
        Per group: rows ``before`` and ``after``, ``patients_before`` and ``patients_after``, ``duplicates`` (rows
        that only repeat another), ``augmented`` (changed copies), ``most_copies`` (how often one row stands at most).
    balance : pandas.DataFrame
        ``before`` and ``after``: ``rows``, and how even the group counts are: ``entropy`` over its largest value (1:
        all groups equal), ``gini_coefficient`` (0: all equal, up to 1 - 1/groups), ``gini_simpson`` (the chance that
        two rows drawn with replacement are of different groups, 1 - 1/groups at most: *high* is even). The last is
        often called Gini, so in the report of BiasCXR (Ahmadnejad Roudsari 2025); it and the coefficient run in
        opposite directions.
    findings : pandas.DataFrame
        P(finding | group), a row per group and finding: ``group, finding, before, after, change``; over rows where
        the finding is known, weighted where there are weights; NaN where it is known for none.
    excluded : dict of str to int
        Training rows that no procedure looked at, by reason.
    notes : tuple of str
        What could not be done, and what to know of the data.
    """

    groups: pd.DataFrame
    balance: pd.DataFrame
    findings: pd.DataFrame
    excluded: dict[str, int]
    notes: tuple[str, ...]

    @property
    def duplicates(self) -> int:
        """Rows that only repeat another."""
        return int(self.groups["duplicates"].sum())


@dataclass(frozen=True, eq=False)
class Resampled:
    """Which rows to train on.

    Attributes
    ----------
    rows : numpy.ndarray, shape (m,)
        Numbers into ``cohort.table``, ascending, all of the training split; a row may stand there several times.
    report : Report
        What changed.
    weights : numpy.ndarray, shape (m, findings), optional
        Of the loss of every label, 0 where it is missing: mask the label too, as 0 times NaN is NaN.
    augmented : numpy.ndarray of bool, shape (m,), optional
        Copies that :meth:`batch` changes when they are used; nothing is stored. They keep the labels of their row.
    partner, share : numpy.ndarray, shape (m,), optional
        The row of the same group that a copy is moved towards, and by how much of the way.
    augment : callable, optional
        What changes a copy instead, where there are images.
    """

    rows: np.ndarray
    report: Report
    weights: np.ndarray | None = None
    augmented: np.ndarray | None = None
    partner: np.ndarray | None = None
    share: np.ndarray | None = None
    augment: Augment | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, cohort: Cohort, places: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Images or features of some of the rows, copies changed, float32.

        Parameters
        ----------
        cohort : Cohort
            The one that was resampled.
        places : numpy.ndarray
            Places in ``rows``, 0 to m - 1.
        rng : numpy.random.Generator, optional
            Handed to ``augment``; needed where there is one.
        """
        images = cohort.batch(self.rows[places])
        if self.augmented is None or not (changed := self.augmented[places]).any():
            return images
        images = images.copy()  # what was read may belong to the cohort
        if self.augment is None:
            chosen = np.asarray(places)[changed]
            ends = cohort.batch(self.partner[chosen])
            images[changed] += self.share[chosen, None] * (ends - images[changed])
        else:
            if rng is None:
                raise ValueError("copies are changed at random here: batch(..., rng=numpy.random.default_rng(seed))")
            images[changed] = self.augment(images[changed], rng)
        return images


def report(groups: Groups, times: np.ndarray, extra: np.ndarray | None = None, weights: np.ndarray | None = None,
           notes: tuple[str, ...] = ()) -> Report:
    """Report on rows that stand ``times`` times as they are and ``extra`` times changed, each of shape (n,)."""
    whole, size = times if extra is None else times + extra, len(groups.names)
    after = _sums(groups.codes, whole, size)
    most = np.zeros(size, dtype=int)
    np.maximum.at(most, groups.codes, whole)
    table = pd.DataFrame({
        "before": groups.counts, "after": after.astype(int), "patients_before": groups.patients_by_group(),
        "patients_after": groups.patients_by_group(whole > 0),
        "duplicates": _sums(groups.codes, np.maximum(times - 1, 0), size).astype(int),
        "augmented": 0 if extra is None else _sums(groups.codes, extra, size).astype(int), "most_copies": most,
    }, index=pd.Index(groups.names, name="group"))
    balance = pd.DataFrame([evenness(groups.counts), evenness(after)], index=["before", "after"])
    before = rates(groups)
    now = rates(groups, whole if weights is None else weights * whole[:, None])
    findings = pd.DataFrame({"group": np.repeat(groups.names, len(groups.findings)),
                             "finding": np.tile(groups.findings, size), "before": before.ravel(),
                             "after": now.ravel(), "change": (now - before).ravel()})
    lost = int((after == 0).sum())
    gone = (f"{lost} groups have no row left",) if lost else ()
    return Report(table, balance, findings, dict(groups.excluded), (*groups.notes, *gone, *notes))


def rates(groups: Groups, weights: np.ndarray | None = None) -> np.ndarray:
    """P(finding | group) over known labels, shape (groups, findings), with weights (n,) or (n, findings)."""
    found = np.empty((len(groups.names), len(groups.findings)))
    for place, column in enumerate(groups.labels.T):
        known = ~np.isnan(column)
        each = np.ones(len(column)) if weights is None else weights if weights.ndim == 1 else weights[:, place]
        total = _sums(groups.codes[known], each[known], len(groups.names))
        positive = _sums(groups.codes[known], each[known] * column[known], len(groups.names))
        found[:, place] = np.divide(positive, total, out=np.full(len(total), np.nan), where=total > 0)
    return found


def _sums(codes: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(codes, weights=values, minlength=size)


def evenness(counts: np.ndarray) -> dict[str, float]:
    """How even the counts of groups are; the measures are those of :class:`Report`, ``balance``."""
    shares = counts / counts.sum()
    inhabited, size = shares[shares > 0], len(counts)
    ranks = 2 * np.arange(1, size + 1) - size - 1
    return {"rows": int(counts.sum()), "entropy": float(-(inhabited * np.log(inhabited)).sum() / np.log(size)),
            "gini_coefficient": max(0.0, float((ranks * np.sort(shares)).sum() / size)),
            "gini_simpson": float(1 - (shares**2).sum())}
