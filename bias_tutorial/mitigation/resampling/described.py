"""Balancing group counts as BiasCXR describes it: representatives of clusters, and changed copies."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from .counts import ranks
from .groups import Groups
from .report import Augment, Resampled, report

SAMPLE, BATCH = 5_000, 4_096  # rows the components are fitted on; rows held in memory at a time


def as_described(groups: Groups, features: np.ndarray | None = None, clusters: int = 8, components: int = 32,
                 neighbours: int = 5, most_copies: int = 4, augment: Augment | None = None, seed: int = 0) -> Resampled:
    """Bring groups to the median count: large ones by clusters, small ones by changed copies.

    **Large groups.** k-means in the leading principal components, a few clusters a group; every cluster keeps its
    share of the target count: the rows nearest its centre. Rows far from all centres go, so what is kept is more alike
    than the group was. **Small groups.** Every row is copied about equally often, at most ``most_copies`` times; a
    group may stay below the target, as the report shows. A copy of features lies on the way to a random one of the
    nearest rows of *another* patient of its group, at most half of it, and keeps its row's labels; where none of the
    neighbours is another patient, it is a plain copy and counted as a duplicate. With ``augment``, copies are images
    that this function changes. Copies are changed in :meth:`Resampled.batch`, when they are used: ``rows`` holds them
    by their row's number.

    The source names the two steps and releases neither, so clusters, components, shares and copies are ours.

    Parameters
    ----------
    groups : Groups
        The training rows.
    features : array-like, shape (rows of the cohort, k), optional
        To cluster by; by default the images of a cohort of features.
    clusters : int
        A group, at most.
    components : int
        Principal components, at most, of up to 5,000 of the training rows.
    neighbours : int
        Among which the partner of a copy is drawn.
    most_copies : int
        Of one row, besides itself.
    augment : callable, optional
        Changes copies of images, see ``report.Augment``; required where the cohort holds images.
    seed : int
        Of clusters and draws.

    References
    ----------
    Described: Ahmadnejad Roudsari 2025, README of github.com/aahmadnejad/BiasCXR, "Key Features". Clusters with
    proportional shares: Yen and Lee, Expert Systems with Applications 2009. Copies between neighbours: Chawla et al.,
    SMOTE, Journal of Artificial Intelligence Research 2002.
    """
    for name, value in (("clusters", clusters), ("components", components), ("neighbours", neighbours)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if most_copies < 0:
        raise ValueError(f"most_copies is {most_copies}, expected at least 0")
    cohort, flat = groups.cohort, len(groups.cohort.images.shape) == 2
    if not flat and augment is None:
        raise ValueError("the cohort holds images, and a mixture of two is none: give augment=, a function that "
                         "changes copies")
    if features is None and not flat:
        raise ValueError("the cohort holds images: give features=, one row an image, to cluster by")
    if features is not None and (np.ndim(features) != 2 or len(features) != len(cohort)):
        raise ValueError(f"features of shape {np.shape(features)}, expected ({len(cohort)}, k)")
    rng, target = np.random.default_rng(seed), int(np.median(groups.counts))
    reduced = _reduced(groups, features, components, rng)
    times = np.ones(len(groups.rows), dtype=int)
    copied, partners = [], []
    for group, members in enumerate(np.split(np.argsort(groups.codes, kind="stable"), np.cumsum(groups.counts)[:-1])):
        count = groups.counts[group]
        if count > target:
            times[members] = _representatives(reduced[members], target, min(clusters, target), rng)
        elif short := min(target - count, most_copies * count):
            copies = np.concatenate([np.repeat(members, short // count),
                                     rng.choice(members, short % count, replace=False)])
            copied.append(copies)
            partners.append(copies if augment else
                            _partners(members, copies, reduced, groups.patients, neighbours, rng))
    copied, partners = (np.concatenate([np.empty(0, dtype=int), *parts]) for parts in (copied, partners))
    changed = np.ones(len(copied), dtype=bool) if augment else copied != partners
    extra = np.bincount(copied[changed], minlength=len(times))
    times += np.bincount(copied[~changed], minlength=len(times))
    plain = (f"{(~changed).sum()} copies are unchanged: no neighbour of another patient in their group",)
    found = report(groups, times, extra, notes=plain if (~changed).any() else ())
    rows = np.concatenate([np.repeat(np.arange(len(times)), times), copied[changed]])
    order, kept = np.argsort(rows, kind="stable"), times.sum()
    augmented, partner, share = np.arange(len(rows)) >= kept, rows.copy(), np.zeros(len(rows), dtype=np.float32)
    if augment is None:
        partner[kept:] = partners[changed]
        share[kept:] = rng.uniform(0, 0.5, int(changed.sum()))
    return Resampled(groups.rows[rows[order]], found, augmented=augmented[order], partner=groups.rows[partner[order]],
                     share=share[order], augment=augment)


def _reduced(groups: Groups, features, components: int, rng: np.random.Generator) -> np.ndarray:
    """Leading principal components of the training rows, shape (n, components), float32; never all features at once."""
    def read(places):
        rows = groups.rows[places]
        values = groups.cohort.batch(rows) if features is None else np.asarray(features[rows], dtype=np.float32)
        if not np.isfinite(values).all():
            row = rows[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
            raise ValueError(f"features of row {row} hold NaN or infinite values")
        return values

    count = len(groups.rows)
    sample = read(np.sort(rng.choice(count, min(SAMPLE, count), replace=False)))
    model = PCA(min(components, *sample.shape), svd_solver="randomized", random_state=int(rng.integers(2**31)))
    model.fit(sample)
    return np.concatenate([model.transform(read(np.arange(start, min(start + BATCH, count))))
                           for start in range(0, count, BATCH)])


def _representatives(points: np.ndarray, target: int, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """1 for ``target`` of the points, those nearest the centres of their clusters, each cluster its share; else 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters: some stay empty
        model = KMeans(clusters, n_init=1, random_state=int(rng.integers(2**31))).fit(points)
    away = np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1)
    exact = np.bincount(model.labels_, minlength=clusters) * target / len(points)
    share = np.floor(exact).astype(int)
    share[np.argsort(share - exact, kind="stable")[:target - share.sum()]] += 1
    return (ranks(model.labels_, away) < share[model.labels_]).astype(int)


def _partners(members: np.ndarray, copies: np.ndarray, reduced: np.ndarray, patients: np.ndarray, neighbours: int,
              rng: np.random.Generator) -> np.ndarray:
    """For each copy one of the nearest members of another patient, at random; itself where there is none."""
    near = NearestNeighbors(n_neighbors=min(neighbours + 1, len(members))).fit(reduced[members])
    sources, where = np.unique(copies, return_inverse=True)
    found = members[near.kneighbors(reduced[sources], return_distance=False)]
    other = patients[found] != patients[sources, None]
    pick = np.where(other[where], rng.random((len(copies), found.shape[1])), -1).argmax(axis=1)
    return np.where(other.any(axis=1)[where], found[where, pick], copies)
