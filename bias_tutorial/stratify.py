"""Stratified assignment: groups and splits that do not differ in anything but what the scenario declares.

Within bins of severity and subject magnitude every group gets its share (as in SimBA, ``generate_data/
define_stratified_distributions.py``, but no row is dropped); then pairs from the same bin are swapped while that
brings the groups' means nearer to each other, a relative of rerandomisation (Morgan and Rubin 2012). From 2,000
subjects on, every group of at least 50 a class ends within .05 standard deviations of the others; rarer groups come as
near as the search gets, and the table says how near that is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .cohort import SPLITS

_TOLERANCE = 1e-9
_MOST_BINS = 10  # of severity, and of subject magnitude within each of them
_ENOUGH = 0.025  # half the bound promised from 2,000 subjects on


def balance(table: pd.DataFrame, scenario) -> pd.DataFrame:
    """Standardised mean differences between groups and between splits, within class.

    Parameters
    ----------
    table : pandas.DataFrame
        As drawn by :meth:`Scenario.draw`.
    scenario : Scenario
        Names the attributes and latents.

    Returns
    -------
    pandas.DataFrame
        One row per class, latent and comparison: ``disease, comparison, latent, smd``. ``smd`` is the difference of
        the two means over the standard deviation of the latent in that class. Comparisons with an empty side are
        left out.
    """
    rows = []
    for y, part in table.groupby("disease"):
        values = part[list(scenario.balanced_latents)].to_numpy()
        sd = values.std(axis=0, ddof=1) if len(part) > 1 else np.full(values.shape[1], np.nan)
        sides = {f"{name}: 1 - 0": (part[name] == 1, part[name] == 0) for name in scenario.attribute_names}
        sides |= {f"split: {a} - {b}": (part["split"] == a, part["split"] == b)
                  for i, a in enumerate(SPLITS) for b in SPLITS[i + 1:]}
        for comparison, (one, other) in sides.items():
            if one.any() and other.any():
                smd = (values[one.to_numpy()].mean(0) - values[other.to_numpy()].mean(0)) / sd
                rows += [(y, comparison, latent, s) for latent, s in zip(scenario.balanced_latents, smd, strict=True)]
    return pd.DataFrame(rows, columns=["disease", "comparison", "latent", "smd"])


def assign(latents, blocks, shares, sides, rng, stratify) -> np.ndarray:
    """Assign each row to a cell with the given shares, balanced on the latents inside every block.

    ``sides`` holds the comparisons that count in the end: pairs of boolean arrays over the cells, one side each.
    """
    shares = np.asarray(shares, dtype=float)
    if not stratify:
        return rng.permutation(np.repeat(np.arange(len(shares)), quotas(shares, len(latents))))
    cell, strata = np.zeros(len(latents), dtype=int), np.zeros(len(latents), dtype=int)
    seen, given = 0, np.zeros(len(shares), dtype=int)
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        # Quotas of the blocks so far, less what earlier blocks got: totals over the blocks stay exact.
        counts = quotas(shares, seen + len(rows)) - given
        if counts.min() < 0:
            counts = quotas(shares, len(rows))
        seen, given = seen + len(rows), given + counts
        order, strata_in_order = _strata(latents[rows], rng)
        cell[rows[order]] = _spread(counts, rng)
        strata[rows[order]] = block * 1_000 + strata_in_order
        cell[rows] = _swap(latents[rows], strata[rows], cell[rows], len(shares), rng)
    if len(np.unique(blocks)) > 1:  # once more over all blocks together, so that their small rests cancel
        cell = _swap(latents, strata, cell, len(shares), rng)
    # A rare group has less than one member in a stratum: it needs partners from the whole severity bin, or from all.
    for partners in (np.asarray(blocks) * 1_000 + strata % 1_000 // _MOST_BINS, blocks):
        cell = _even_out(latents, partners, cell, sides, rng)
    return cell


def _strata(latents, rng) -> tuple[np.ndarray, np.ndarray]:
    """Order rows by bins of severity (first column) and, inside, of subject magnitude (last); random within a bin."""
    n = len(latents)
    # Severity first, as decisions depend on it: with few subjects the bins of magnitude become fewer, not these.
    severity_bins = int(np.clip(n // 10, 1, _MOST_BINS))
    bins = int(np.clip(n // (10 * severity_bins), 1, _MOST_BINS))
    severity_bin = np.argsort(np.argsort(latents[:, 0])) * severity_bins // n
    norm_bin = np.zeros(n, dtype=int)
    for b in range(severity_bins):
        rows = np.flatnonzero(severity_bin == b)
        norm_bin[rows] = np.argsort(np.argsort(latents[rows, -1])) * bins // max(len(rows), 1)
    stratum = severity_bin * _MOST_BINS + norm_bin
    order = np.lexsort((rng.random(n), stratum))
    return order, stratum[order]


def _spread(counts, rng) -> np.ndarray:
    """A sequence of cells, exact in total and as even as possible in every run of consecutive places."""
    places = np.concatenate([(np.arange(c) + rng.random()) / c for c in counts if c])
    cells = np.repeat(np.arange(len(counts)), counts)
    return cells[np.argsort(places, kind="stable")]


def _swap(latents, strata, cell, n_cells, rng, rounds: int = 400, proposals: int = 256) -> np.ndarray:
    """Swap pairs from the same stratum while that brings the cells' means nearer to each other.

    The seeded choice among many assignments: each accepted swap keeps every count in every stratum.
    """
    n = len(latents)
    sd = latents.std(axis=0)
    z = (latents - latents.mean(axis=0)) / np.where(sd > 0, sd, 1)
    cell = cell.copy()
    counts = np.bincount(cell, minlength=n_cells)
    if n < 4 or (counts > 0).sum() < 2:
        return cell
    sums = np.zeros((n_cells, z.shape[1]))
    np.add.at(sums, cell, z)
    weight = counts / n
    by_stratum = np.argsort(strata, kind="stable")
    sorted_strata = strata[by_stratum]
    first = np.searchsorted(sorted_strata, sorted_strata, "left")
    size = np.searchsorted(sorted_strata, sorted_strata, "right") - first
    safe = np.maximum(counts, 1)[:, None]
    # Few subjects: by then every pair was surely proposed, and the search may end before its rounds are over.
    idle, patience = 0, 20 * size.sum() / proposals if n < 250 else rounds
    for _ in range(rounds):
        means = sums / safe
        if (weight[:, None] * means**2).max() < 1e-6 or idle > patience:
            break
        place = rng.integers(0, n, proposals)
        other = first[place] + (rng.random(proposals) * size[place]).astype(int)
        i, j = by_stratum[place], by_stratum[other]
        a, b = cell[i], cell[j]
        delta = z[j] - z[i]
        change = (weight[a, None] * ((means[a] + delta / safe[a]) ** 2 - means[a] ** 2)
                  + weight[b, None] * ((means[b] - delta / safe[b]) ** 2 - means[b] ** 2)).sum(axis=1)
        change[a == b] = 0
        best = int(np.argmin(change))
        if change[best] < 0:
            sums[a[best]] += delta[best]
            sums[b[best]] -= delta[best]
            cell[i[best]], cell[j[best]] = b[best], a[best]
        idle = 0 if change[best] < 0 else idle + 1
    return cell


def _even_out(latents, labels, cell, sides, rng, rounds: int = 2_000, proposals: int = 256,
              patience: int = 50) -> np.ndarray:
    """Swap pairs with the same label until no comparison differs by more than ``_ENOUGH`` on any latent."""
    sd = latents.std(axis=0)
    z = (latents - latents.mean(axis=0)) / np.where(sd > 0, sd, 1)
    counts = np.bincount(cell, minlength=len(sides[0][0]) if sides else 1)
    sides = [(one, other) for one, other in sides if counts[one].sum() and counts[other].sum()]
    if not sides:
        return cell
    # Row k turns the sums over cells into the difference of means of comparison k.
    weights = np.array([one / counts[one].sum() - other / counts[other].sum() for one, other in sides])
    cell = cell.copy()
    difference = weights[:, cell] @ z
    members = np.argsort(labels, kind="stable")
    in_order = np.asarray(labels)[members]
    first = np.searchsorted(in_order, in_order, "left")
    size = np.searchsorted(in_order, in_order, "right") - first
    idle = 0
    for _ in range(rounds):
        if np.abs(difference).max() < _ENOUGH or idle == patience:
            break
        place = rng.integers(0, len(z), proposals)
        i, j = members[place], members[first[place] + (rng.random(proposals) * size[place]).astype(int)]
        step = z[j] - z[i]
        gain = (weights[:, cell[i]] - weights[:, cell[j]]).T  # what a unit of the step adds to each comparison
        change = (2 * gain * (step @ difference.T) + gain**2 * (step**2).sum(1, keepdims=True)).sum(axis=1)
        best = int(np.argmin(change))
        if change[best] < 0:
            difference += np.outer(gain[best], step[best])
            cell[i[best]], cell[j[best]] = cell[j[best]], cell[i[best]]
        idle = 0 if change[best] < 0 else idle + 1
    return cell


def quotas(shares, n: int) -> np.ndarray:
    """Whole numbers that sum to ``n`` and lie nearest to ``shares * n`` (largest remainder)."""
    exact = np.asarray(shares, dtype=float) * n
    whole = np.floor(exact + _TOLERANCE).astype(int)
    rest = n - whole.sum()
    whole[np.argsort(-(exact - whole), kind="stable")[:rest]] += 1
    return whole
