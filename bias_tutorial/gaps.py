"""Gaps between groups for many findings, read against chance, and who pays when a gap shrinks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .evaluation import SMALLEST_GROUP, group_rows
from .findings import Counts, Predictions


def gaps(predictions: Predictions, threshold: pd.Series, rate: str = "fnr", smallest: int = SMALLEST_GROUP,
         least: int = 10, seed: int = 0, draws: int = 1000) -> pd.DataFrame:
    """Largest difference of a rate between groups, its interval, and what chance alone would give.

    Parameters
    ----------
    predictions, threshold
        As for :func:`bias_tutorial.findings.metrics_by_group`.
    rate : {'fnr', 'fpr'}
        Whose gap.
    smallest, least : int
        A group enters with at least so many patients, and so many who have a row that counts (FNR: with the finding).
    seed, draws : int
        Of the bootstrap over patients, and of the permutations.

    Returns
    -------
    pandas.DataFrame
        One row per finding and attribute (and the ``intersection`` of all): ``finding``, ``attribute``, ``groups`` (how
        many enter), ``left_out`` (how many were too small), ``smallest_n`` (rows that count in the smallest group),
        ``gap`` (highest less lowest rate), ``low``, ``high``; ``worst``, ``mean`` (of the groups' rates, each alike),
        ``worst_group``; ``floor`` and ``floor_95``, mean and 95th percentile of the gap when groups are dealt out at
        random; ``p``, how often that gives a gap as large. NaN with fewer than two groups.

    Notes
    -----
    A gap between the highest and the lowest of many small groups is large by chance: with 60 rows each in 74 groups and
    an equal FNR of .34 it is expected at .29, and a resampled gap is larger still, so plain bootstrap percentiles never
    reach down to a true gap of 0. The interval here rests on this: observed and true gap differ by no more than the
    spread (highest less lowest) of the groups' errors. The 95th percentile of that spread over resampled patients is
    taken off and added. It covers at least 95%, more with many groups, whose interval is wide: **read the gap against
    the floor**. The permutation keeps in every group the number of patients who have rows that count, and moves all of
    a patient's such rows together.
    """
    sets = predictions.sets()
    counts = Counts(predictions, threshold, rate, sets)
    resampled = counts.resampled(seed, draws)
    table = []
    for attribute, names in _families(predictions, sets).items():
        for k, finding in enumerate(predictions.findings):
            rng = np.random.default_rng([seed, k, len(table)])
            inside = _inside(counts, k, sets, names, smallest, least)
            row = {"finding": finding, "attribute": attribute, "groups": len(inside),
                   "left_out": len(names) - len(inside)}
            table.append(row)
            if len(inside) < 2:
                continue
            here = counts.rates[k, inside]
            gap = np.ptp(here)
            reach = np.nanquantile(_spread(resampled[:, k, inside] - here), 0.95)
            floor = _permuted(counts, k, inside, rng, draws)
            row |= {"smallest_n": int(counts.trials[k, inside].min()), "gap": gap, "low": max(gap - reach, 0.0),
                    "high": min(gap + reach, 1.0), "worst": here.max(), "mean": here.mean(),
                    "worst_group": list(sets)[inside[int(here.argmax())]], "floor": floor.mean(),
                    "floor_95": np.quantile(floor, 0.95), "p": (1 + (floor >= gap - 1e-12).sum()) / (1 + draws)}
    columns = ["finding", "attribute", "groups", "left_out", "smallest_n", "gap", "low", "high", "worst", "mean",
               "worst_group", "floor", "floor_95", "p"]
    return pd.DataFrame(table, columns=columns)


def levelling_down(before: Predictions, after: Predictions, threshold_before: pd.Series, threshold_after: pd.Series,
                   rate: str = "fnr", smallest: int = SMALLEST_GROUP, least: int = 10, seed: int = 0,
                   draws: int = 1000) -> pd.DataFrame:
    """Whether a smaller gap came from helping the worst group or from harming the others.

    Parameters
    ----------
    before, after : Predictions
        Of two models for the same rows.
    threshold_before, threshold_after : pandas.Series
        Each model's own.
    rate, smallest, least, seed, draws
        As for :func:`gaps`.

    Returns
    -------
    pandas.DataFrame
        One row per finding and attribute (and the ``intersection`` of all): ``finding``, ``attribute``, ``groups``;
        ``gap``, ``worst`` and ``mean`` of the groups' rates as *change*, after less before, each with ``_low`` and
        ``_high`` of its 95% percentile interval over patients, resampled for both models alike; ``levelled_down``: the
        gap fell while neither the worst nor the mean rate did. NaN with fewer than two groups.

    Raises
    ------
    ValueError
        For predictions of different rows, labels, findings, groups or patients.
    """
    for what in ("labels", "groups", "patients"):
        a, b = getattr(before, what), getattr(after, what)
        if not (a.equals(b) if hasattr(a, "equals") else np.array_equal(a, b)):
            raise ValueError(f"before and after differ in '{what}': both must be predictions for the same rows")
    sets = before.sets()
    both = [Counts(p, t, rate, sets) for p, t in ((before, threshold_before), (after, threshold_after))]
    point = both[1].rates, both[0].rates
    resampled = both[1].resampled(seed, draws), both[0].resampled(seed, draws)
    summaries = {"gap": _spread, "worst": lambda r: np.fmax.reduce(r, axis=-1), "mean": _mean}
    table = []
    for attribute, names in _families(before, sets).items():
        for k, finding in enumerate(before.findings):
            inside = _inside(both[0], k, sets, names, smallest, least)
            row = {"finding": finding, "attribute": attribute, "groups": len(inside)}
            table.append(row)
            if len(inside) < 2:
                continue
            for name, summary in summaries.items():
                change = np.subtract(*(summary(r[k, inside]) for r in point))
                low, high = np.nanquantile(np.subtract(*(summary(r[:, k, inside]) for r in resampled)), [0.025, 0.975])
                row |= {name: change, f"{name}_low": low, f"{name}_high": high}
            row["levelled_down"] = row["gap"] < 0 <= min(row["worst"], row["mean"])
    columns = [f"{name}{end}" for name in summaries for end in ("", "_low", "_high")]
    return pd.DataFrame(table, columns=["finding", "attribute", "groups", *columns, "levelled_down"])


# ---------------------------------------------------------------------- what both are made of
def _families(predictions: Predictions, sets: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Names of the groups that are compared with each other: those of each attribute, and the intersections."""
    families = {column: [name for name in group_rows(predictions.groups[[column]], smallest=0) if name != "all"]
                for column in predictions.groups}
    single = {"all"}.union(*families.values())
    if rest := [name for name in sets if name not in single]:
        families["intersection"] = rest
    return families


def _inside(counts: Counts, k: int, sets: dict[str, np.ndarray], names: list[str], smallest: int,
            least: int) -> list[int]:
    """Numbers of the named sets with enough patients, and enough who count for finding ``k``."""
    def patients(rows: np.ndarray) -> int:
        return len(np.unique(counts.patients[rows]))

    return [g for g, (name, rows) in enumerate(sets.items()) if name in names and patients(rows) >= smallest
            and patients(rows[counts.trial[rows, k]]) >= max(least, 1)]


def _permuted(counts: Counts, k: int, inside: list[int], rng: np.random.Generator, draws: int,
              chunk: int = 100) -> np.ndarray:
    """Gap of finding ``k`` over the sets ``inside`` when they are dealt out to patients at random, (draws,)."""
    errors, trials, sizes = [], [], []
    for rows in (counts.sets[g][counts.trial[counts.sets[g], k]] for g in inside):
        person = np.unique(counts.patients[rows], return_inverse=True)[1]
        trials.append(np.bincount(person))
        errors.append(np.bincount(person, counts.error[rows, k]))
        sizes.append(len(trials[-1]))
    units = np.stack([np.concatenate(errors), np.concatenate(trials)]).astype(float)
    starts, found = np.cumsum([0, *sizes[:-1]]), []
    for _ in range(0, draws, chunk):
        order = rng.permuted(np.tile(np.arange(sum(sizes)), (chunk, 1)), axis=1)
        wrong, counted = (np.add.reduceat(part[order], starts, axis=1) for part in units)
        found.append(_spread(wrong / counted))
    return np.concatenate(found)[:draws]


def _spread(rates: np.ndarray) -> np.ndarray:
    """Highest less lowest of the last axis, over groups that have a value."""
    return np.fmax.reduce(rates, axis=-1) - np.fmin.reduce(rates, axis=-1)


def _mean(rates: np.ndarray) -> np.ndarray:
    """Mean of the last axis over groups that have a value."""
    known = ~np.isnan(rates)
    return np.sum(rates, axis=-1, where=known) / np.maximum(known.sum(axis=-1), 1)
