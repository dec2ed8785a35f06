"""Does an embedding hold a mode that no given label explains: a decision with a known rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom

from ..probing.probes import checked_rows, patient_numbers
from .clusters import ENOUGH, coded, taught
from .maps import checked

FEWEST = 100
"""Patients that a decision needs."""


@dataclass(frozen=True)
class HiddenMode:
    """What was decided.

    Attributes
    ----------
    decision : {'none', 'explained', 'unexplained'}
        ``none``: all directions looked at are compatible with one mode each; ``explained``: there is a second mode, and
        given labels together explain at least half of who is in it; ``unexplained``: there is one, and they do not.
    p : float
        Of one mode along the directions that were found, given labels regressed out.
    counts : tuple of int
        Held-out patients in the windows: in the higher peak, in the valley, in the lower peak.
    share : float
        Held-out part of membership that given labels explain (R squared); NaN without labels, and for ``none``.
    scores : numpy.ndarray, shape (n,)
        All rows along the direction that is found on all patients, the smaller mode at the upper end.
    inside : numpy.ndarray of bool, shape (n,)
        Whether a row is on the smaller mode's side of the valley. To be read when ``decision`` is not ``none``.
    """

    decision: str
    p: float
    counts: tuple[int, int, int]
    share: float
    scores: np.ndarray
    inside: np.ndarray


def hidden_mode(embedding: np.ndarray, given: pd.DataFrame | None = None, patients: Sequence | None = None,
                components: int = 10, starts: int = 10, folds: int = 5, alpha: float = 0.05, pairs: bool = True,
                seed: int = 0) -> HiddenMode:
    """Look for a second mode that no given label explains, with no label of what is looked for.

    On all patients but a fold: regress given labels out (:func:`without`), take whitened principal components, search
    directions along which the rows fall in two (the components, and local extremes of skewness and of kurtosis:
    projection pursuit), and keep the direction and three windows of equal width, *peak, valley, peak*, of the clearest
    valley. Then count the fold's patients in these windows.

    A density with one mode is nowhere lower than on both sides of the place: of the three windows the one between holds
    at least as much as one of the others. Counts are summed over folds, the higher peak apart from the lower; p is the
    larger of two one-sided binomial tests, valley against either peak. No shape is assumed, neither normal nor
    symmetric.

    Parameters
    ----------
    embedding : numpy.ndarray, shape (n, d)
        As the encoder gives it.
    given : pandas.DataFrame, n rows, optional
        What is known: classes, and numbers. A known two-valued property that is left out here may rightly be found.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient. Each patient counts with one row, drawn at random.
    components : int
        At least 2. A mode outside the first components is not found.
    starts : int
        Of the search, for each of skewness and kurtosis.
    folds : int
        At least 2.
    alpha : float
        Rate of false alarms that is allowed, in (0, 1).
    pairs : bool
        Regress out products of given labels too.
    seed : int
        Of folds and search.

    Raises
    ------
    ValueError
        For fewer than 100 patients, an embedding that is not finite, given labels with missing values, that are
        constant, or that make too many columns, and numbers out of range.

    Notes
    -----
    Within a fold the test is exact; over folds it is not quite, as every row also takes part in the search for others.
    Regressing takes away means, not what given labels do to spread or shape: two modes within one group are found, and
    are then *unexplained* unless the labels tell them apart. Modes that are there for another reason than the one
    looked for (an unlabelled device) are no false alarms of this test.
    """
    x, people = checked(embedding), patient_numbers(patients, len(embedding))
    if given is not None and len(given) != len(x):
        raise ValueError(f"given labels have {len(given)} rows, expected {len(x)}")
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(len(x))
    one = np.sort(mixed[np.unique(people[mixed], return_index=True)[1]])  # one row a patient
    if len(one) < FEWEST:
        raise ValueError(f"{len(one)} patients, at least {FEWEST} are needed to look for a mode")
    if components < 2 or starts < 0 or folds < 2 or not 0 < alpha < 1:
        raise ValueError("expected at least 2 components, 0 starts and 2 folds, and alpha in (0, 1), "
                         f"got {components}, {starts}, {folds} and {alpha}")
    fold, counts = rng.permutation(len(one)) % folds, np.zeros(3, dtype=int)
    for k in range(folds):
        scores, windows = _search(x, given, one[fold != k], components, starts, pairs, rng)
        counts += _count(scores[one[fold == k]], windows)
    p = float(max(binom.cdf(counts[1], counts[1] + counts[k], 0.5) for k in (0, 2)))
    scores, (_, valley, _, width) = _search(x, given, one, components, starts, pairs, rng)
    inside = scores > valley + width / 2
    share = np.nan if given is None or p > alpha else _explained(given, inside, one, fold, seed)
    decision = "none" if p > alpha else "explained" if share >= ENOUGH else "unexplained"
    return HiddenMode(decision, p, tuple(counts.tolist()), share, scores, inside)


def without(embedding: np.ndarray, given: pd.DataFrame, fit: np.ndarray, pairs: bool = True) -> np.ndarray:
    """An embedding less what given labels explain of it linearly, learned on some rows.

    Least squares on one column for each value of a class but the first, and each number with its square; with
    ``pairs`` their products too. Only means are taken off.

    Parameters
    ----------
    embedding : numpy.ndarray, shape (n, d)
    given : pandas.DataFrame, n rows
        Columns of numbers with more than two values are numbers, all others classes.
    fit : numpy.ndarray
        Row numbers, or a mask, to learn from.
    pairs : bool
        Products of two labels.

    Raises
    ------
    ValueError
        For missing values, a constant label (named), and more columns than a fifth of the rows of ``fit``.
    """
    x, fit = checked(embedding), checked_rows("fit", fit, len(embedding))
    blocks = []
    for name in given:
        column = given[name].reset_index(drop=True)
        if column.isna().any():
            raise ValueError(f"given label '{name}': {column.isna().sum()} values are missing")
        if column.iloc[fit].nunique() < 2:
            raise ValueError(f"given label '{name}' is {column.iloc[fit[0]]!r} in all {len(fit)} rows to fit on")
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > 2:
            z = column.to_numpy(float)
            z = (z - z[fit].mean()) / z[fit].std()
            blocks.append(np.column_stack([z, z**2]))
        else:
            blocks.append(pd.get_dummies(column, drop_first=True).to_numpy(float))
    columns = [np.ones((len(x), 1)), *blocks]
    if pairs:
        columns += [(a[:, :, None] * b[:, None, :]).reshape(len(x), -1)
                    for k, a in enumerate(blocks) for b in blocks[k + 1:]]
    design = np.hstack(columns)
    if design.shape[1] > len(fit) / 5:
        raise ValueError(f"given labels make {design.shape[1]} columns for {len(fit)} rows, expected at most a fifth: "
                         "give fewer" + (", or pairs=False" if pairs else ""))
    return x - design @ np.linalg.lstsq(design[fit], x[fit], rcond=None)[0]


# ---------------------------------------------------------------------- what the decision is made of
def _search(x, given, rows, components, starts, pairs, rng) -> tuple[np.ndarray, tuple[float, ...]]:
    """All rows along the direction with the clearest valley among some, lower peak upwards, and the windows' starts.

    Windows: of the higher peak, the valley and the lower peak, and their width.
    """
    x = x if given is None else without(x, given, rows, pairs)
    centre = x[rows].mean(axis=0)
    _, size, axes = np.linalg.svd(x[rows] - centre, full_matrices=False)
    keep = size[:components] > 1e-9 * size[0]
    white = (x - centre) @ (axes[:components][keep].T / size[:components][keep]) * np.sqrt(len(rows))
    ways = np.vstack([np.eye(white.shape[1]), _pursued(white[rows], starts, rng)])
    found = [_valley(scores) for scores in (white[rows] @ ways.T).T]
    best = int(np.argmax([clear for clear, _ in found]))
    scores, windows = white @ ways[best], found[best][1]
    higher, _, lower = _count(scores[rows], windows)
    if lower > higher:
        *places, width = windows
        scores, windows = -scores, (*(-place - width for place in places[::-1]), width)
    return scores, windows


def _pursued(white: np.ndarray, starts: int, rng: np.random.Generator, steps: int = 30) -> np.ndarray:
    """Directions of extreme skewness and kurtosis, by fixed-point steps (Hyvarinen 1999) from random starts."""
    ways = []
    for power in (2, 3):
        way = _unit(rng.normal(size=(starts, white.shape[1])))
        for _ in range(steps):
            along = white @ way.T
            shaped = along * along if power == 2 else along * along * along  # much faster than ** 3
            way = _unit(shaped.T @ white / len(white) - (3 * way if power == 3 else 0))
        ways.append(way)
    return np.concatenate(ways)


def _unit(ways: np.ndarray) -> np.ndarray:
    return ways / np.linalg.norm(ways, axis=1, keepdims=True)


def _valley(scores: np.ndarray, bins: int = 60, widths: Sequence[int] = (3, 4, 6, 8, 10)) -> tuple[float, tuple]:
    """How clear the clearest valley is, in standard errors, and the starts of peak, valley and peak with their width.

    Over windows of some bins: for each place of the valley the fullest window on either side; the emptier one counts.
    """
    edges = np.linspace(*np.quantile(scores, [0.005, 0.995]), bins + 1)
    total = np.concatenate([[0], np.cumsum(np.histogram(scores, edges)[0])])
    best = (-np.inf, ())
    for width in widths:
        inside = total[width:] - total[:-width]  # by first bin
        left = np.maximum.accumulate(inside)[:-2 * width]
        right = np.maximum.accumulate(inside[::-1])[::-1][2 * width:]
        peak, valley = np.minimum(left, right), inside[width:-width]
        clear = (peak - valley) / np.sqrt(peak + valley + 1)
        at = int(np.argmax(clear))
        if clear[at] > best[0]:
            after = at + 2 * width
            places = [int(np.argmax(inside[:at + 1])), at + width, after + int(np.argmax(inside[after:]))]
            best = clear[at], (*edges[places], width * (edges[1] - edges[0]))
    return best


def _count(scores: np.ndarray, windows: tuple[float, ...]) -> np.ndarray:
    """Scores in each of three windows."""
    *places, width = windows
    return np.array([((scores >= place) & (scores < place + width)).sum() for place in places])


def _explained(given: pd.DataFrame, inside: np.ndarray, one: np.ndarray, fold: np.ndarray, seed: int) -> float:
    """Held-out R squared of membership from all given labels together."""
    codes = {name: coded(given[name], one, bins=8) for name in given}
    expected = np.empty(len(one))
    for k in np.unique(fold):
        expected[fold == k] = taught(codes, inside, one[fold != k], one[fold == k], seed)
    return float(1 - np.mean((inside[one] - expected) ** 2) / np.var(inside[one]))
