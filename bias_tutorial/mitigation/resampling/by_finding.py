"""Balancing group by finding: P(finding | group) the same in all groups, by drawing or by weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..reweighing import weights as reweighing_weights
from .groups import Groups
from .report import Resampled, rates, report

SWEEPS, CLOSE, MET = 100, 1e-6, 1e-3  # at most so many; where sweeps end; what counts as reached
LEAST = 1e-12  # of a weight: where margins contradict each other, some fall without end


def rake(groups: Groups, findings: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Weights under which each finding is as frequent in every group as among all training rows.

    Balanced are the margins: P(finding | group), for each finding by itself. How findings go together within a group
    is moved as little as that allows (of all such weights these have the largest entropy), so it is *not* made equal
    across groups. The weight of a group as a whole stays as it is. A missing label leaves its row out of that
    finding's margin. Rows of one group with the same labels have the same weight.

    A finding that a group lacks, or has in every row, cannot be balanced there; nor can margins that contradict each
    other in a small group. Both are counted in the notes, and the rest is balanced as nearly as it can be.

    Parameters
    ----------
    groups : Groups
        The training rows.
    findings : sequence of str, optional
        Those to balance; by default all of ``groups.findings``.

    Returns
    -------
    weights : numpy.ndarray, shape (n,)
        Mean 1.
    notes : tuple of str
        What is left unbalanced.

    References
    ----------
    Iterative proportional fitting ("raking"): Deming and Stephan, Annals of Mathematical Statistics 1940; Deville,
    Särndal and Sautory, Generalized raking procedures in survey sampling, JASA 1993.
    """
    chosen = groups.findings if findings is None else tuple(findings)
    for name in chosen:
        if name not in groups.findings:
            raise ValueError(f"'{name}' is not among the findings: {', '.join(groups.findings)}")
    places, size = [groups.findings.index(name) for name in chosen], len(groups.names)
    cells, row_of, of_row = np.unique(patterns(groups), return_index=True, return_inverse=True)
    code, labels = groups.codes[row_of], groups.labels[row_of]
    weight = np.bincount(of_row, minlength=len(cells)).astype(float)
    many, goals, margins = weight.copy(), {}, []
    for place in places:
        yes, no = (np.flatnonzero(labels[:, place] == value) for value in (1, 0))
        goals[place] = goal = weight[yes].sum() / max(weight[yes].sum() + weight[no].sum(), 1)
        both = (np.bincount(code[yes], minlength=size) > 0) & (np.bincount(code[no], minlength=size) > 0)
        margins.append((*(part[both[code[part]]] for part in (yes, no)), goal, both))
    for _ in range(SWEEPS):
        off = 0.0
        for yes, no, goal, both in margins:
            positive, negative = (np.bincount(code[part], weight[part], minlength=size) for part in (yes, no))
            total = positive + negative
            off = max(off, np.abs(positive[both] / total[both] - goal).max(initial=0))
            for part, now, wanted in ((yes, positive, goal), (no, negative, 1 - goal)):
                weight[part] = np.maximum(weight[part] * (wanted * total / np.where(both, now, 1))[code[part]], LEAST)
        if off < CLOSE:
            break
    found = (weight / many)[of_row]
    reached = rates(groups, found)
    short = {groups.findings[place]: int((np.abs(reached[:, place] - goals[place]) > MET).sum()) for place in places}
    return found / found.mean(), _lacking(short)


def by_finding(groups: Groups, findings: Sequence[str] | None = None, size: int | None = None,
               equal_groups: bool = False, seed: int = 0) -> Resampled:
    """Draw rows by the weights of :func:`rake`, so that P(finding | group) is the same in every group.

    Each row comes as often as its weight says, rounded up or down at random: rows are lined up by group and labels
    and taken at equal steps, so rates differ from the weighted ones only by rounding (some .01 in a group of 250 rows
    with 14 findings). Heavy rows come several times.

    Parameters
    ----------
    groups, findings
        As for :func:`rake`.
    size : int, optional
        Rows to draw; by default as many as there are.
    equal_groups : bool
        Give every group the same count as well; otherwise groups keep their shares.
    seed : int
        Of the draws.
    """
    size = len(groups.rows) if size is None else size
    if size < 1:
        raise ValueError(f"size is {size}, expected at least 1")
    weights, notes = rake(groups, findings)
    if equal_groups:
        weights = weights / np.bincount(groups.codes, weights)[groups.codes]
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(weights)), patterns(groups)))
    steps = np.concatenate([[0.0], np.cumsum(weights[order])])
    steps *= size / steps[-1]
    times = np.zeros(len(weights), dtype=int)
    times[order] = np.diff(np.ceil(steps - rng.random())).astype(int)
    return Resampled(np.repeat(groups.rows, times), report(groups, times, notes=notes))


def reweighing(groups: Groups) -> Resampled:
    """Every training row once, with a weight for each of its labels under which finding and group are independent.

    The weights are :func:`bias_tutorial.mitigation.reweighing.weights`, for one finding at a time over the rows where
    it is known; a missing label has weight 0. A finding that a group lacks stays absent there, see the notes.
    """
    weights = np.zeros(groups.labels.shape)
    for place, column in enumerate(groups.labels.T):
        known = ~np.isnan(column)
        weights[known, place] = reweighing_weights(column[known], groups.codes[known])
    lacking = np.isin(rates(groups), (0, 1)).sum(axis=0)
    notes = _lacking(dict(zip(groups.findings, lacking, strict=True)))
    times = np.ones(len(groups.rows), dtype=int)
    return Resampled(groups.rows, report(groups, times, weights=weights, notes=notes), weights=weights)


def _lacking(groups_by_finding: dict[str, int]) -> tuple[str, ...]:
    found = ", ".join(f"'{name}' in {count} groups" for name, count in groups_by_finding.items() if count)
    return (f"not balanced for want of rows with or without it: {found}",) if found else ()


def patterns(groups: Groups) -> np.ndarray:
    """Number of each row's group and labels together: equal where all of them are, and ordered by group."""
    found = groups.codes.astype(np.int64)
    for column in np.nan_to_num(groups.labels, nan=2).astype(np.int64).T:
        found = np.unique(found * 3 + column, return_inverse=True)[1]  # numbered anew: many findings do not overflow
    return found
