"""Balancing the counts of groups, as BiasCXR's code does it and plainly; and a control of the same size."""

from __future__ import annotations

import numpy as np

from .groups import Groups
from .report import Resampled, report

DEVIATES = 0.1  # mean distance of a group's finding rates from all rows' above which rows are chosen by score
FIRST = 0.7  # of the rows of such a group, those that deviate most, are copied before others


def as_released(groups: Groups, seed: int = 0) -> Resampled:
    """Bring every group to the median count as the code of BiasCXR does.

    A row's score is the sum over findings of its distance from the rate among all training rows. In groups whose rates
    are on average more than .1 away from those rates, down-sampling keeps the rows with the *lowest* scores and
    up-sampling copies, once each, the 70% with the *highest*, then random ones; in other groups both are random. Ties
    keep the order of the table. There, groups are gender x race x age in single years:
    ``Groups.of(cohort, ("gender", "race", "anchor_age"), ages={"anchor_age": None})``. A missing finding counts as 0,
    as there, and the report says so. For a finding rarer than one half, rows without it have the lower score.

    Only the draws differ: there they come from one global generator that several threads share, so no seed repeats
    them; here the row numbers follow from the seed. They come back in ascending order, there group by group. Rates are
    float64 here and float32 there, which can matter at a tie or at the bound alone.

    References
    ----------
    Ahmadnejad Roudsari 2025, github.com/aahmadnejad/BiasCXR, commit 014923f, ``processor.py``, function
    ``create_debiased_dataframe``: target lines 78-79, distance of a group 83-106, copies 113-158 (score 127-134, the
    70% 138, random copies 150-157), down-sampling 177-211 (lowest scores 199-204, random 207-210), threads 169 and
    225; missing findings 38. Lines 66-67 take as a finding every numeric column with at most two values, so one with
    an uncertain label (-1) left in is silently none; here that is an error. Ages stay in single years because line 17
    bins a column ``age`` and the data's is called ``anchor_age``.
    """
    labels = np.nan_to_num(groups.labels).astype(float)
    size, score, distance = groups.counts, np.zeros(len(labels)), np.zeros(len(groups.names))
    for column in labels.T:  # added up in the order of the findings: the last bit decides between ties
        rate = column.mean()
        score += np.abs(column - rate)
        distance += np.abs(np.bincount(groups.codes, column, minlength=len(size)) / size - rate)
    by_score = distance / len(groups.findings) > DEVIATES
    absent = int(np.isnan(groups.labels).sum())
    notes = (f"{absent} missing labels counted as 0, as released",) if absent else ()
    return _levelled(groups, int(np.median(size)), seed, by_score, score, notes)


def balanced_counts(groups: Groups, target: str = "median", seed: int = 0) -> Resampled:
    """Bring every group to the same count at random: rows are drawn without, copies with replacement.

    Parameters
    ----------
    groups : Groups
        The training rows.
    target : {'median', 'min'}
        To the median count of the groups (its whole part), or to that of the smallest: no copies then.
    seed : int
        Of the draws.
    """
    levels = {"median": np.median, "min": np.min}
    if target not in levels:
        raise ValueError(f"target must be median or min, got {target!r}")
    return _levelled(groups, int(levels[target](groups.counts)), seed)


def random_subset(groups: Groups, size: int, seed: int = 0) -> Resampled:
    """As many training rows as another procedure leaves, drawn without looking at groups: what loss of size alone does.

    Raises
    ------
    ValueError
        When ``size`` is not between 1 and the number of training rows.
    """
    if not 1 <= size <= len(groups.rows):
        raise ValueError(f"size is {size}, expected 1 to {len(groups.rows)}, the training rows: a subset has no copies")
    times = np.zeros(len(groups.rows), dtype=int)
    times[np.random.default_rng(seed).choice(len(times), size, replace=False)] = 1
    return Resampled(np.repeat(groups.rows, times), report(groups, times))


def _levelled(groups: Groups, target: int, seed: int, by_score: np.ndarray | None = None,
              score: np.ndarray | None = None, notes: tuple[str, ...] = ()) -> Resampled:
    """Every group at ``target`` rows: at random, or by score in the groups where ``by_score`` is true."""
    rng, codes, size = np.random.default_rng(seed), groups.codes, groups.counts
    value, first = rng.random(len(codes)), np.zeros(len(size), dtype=int)
    times = np.zeros(len(codes), dtype=int)
    need = np.maximum(target - size, 0)
    if by_score is not None:
        value = np.where(by_score[codes], score, value)
        first = np.where(by_score, np.minimum((FIRST * size).astype(int), need), 0)
        times += ranks(codes, -score) < first[codes]
    times += ranks(codes, value) < target
    owner = np.repeat(np.arange(len(size)), need - first)
    members, start = np.argsort(codes, kind="stable"), np.cumsum(size) - size
    copied = members[start[owner] + (rng.random(len(owner)) * size[owner]).astype(int)]
    times += np.bincount(copied, minlength=len(codes))
    return Resampled(np.repeat(groups.rows, times), report(groups, times, notes=notes))


def ranks(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place of each row in its group by rising value, from 0; ties keep their order."""
    order = np.lexsort((values, codes))
    size = np.bincount(codes)
    found = np.empty(len(codes), dtype=int)
    found[order] = np.arange(len(codes)) - np.repeat(np.cumsum(size) - size, size)
    return found
