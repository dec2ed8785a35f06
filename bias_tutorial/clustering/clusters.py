"""Density clusters in an embedding, found on some rows and explained on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import norm
from scipy.stats.contingency import association
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import NearestNeighbors

from ..cohort import Cohort
from ..evaluation import SMALLEST_GROUP
from ..probing.probes import checked_rows, patient_numbers
from ..probing.readout import class_rates, patient_weights
from .maps import checked

ENOUGH = 0.5
"""Share of a cluster's membership, as held-out R squared, from which on labels are said to explain it."""


@dataclass(frozen=True)
class Clusters:
    """Clusters of all rows.

    Attributes
    ----------
    labels : numpy.ndarray of int, shape (n,)
        Number of the cluster from 0, largest first; -1: none (noise).
    fit : numpy.ndarray of int
        Rows they were found on; all others were assigned.
    space : numpy.ndarray, shape (n, m)
        Principal components in which they were found.
    """

    labels: np.ndarray
    fit: np.ndarray
    space: np.ndarray

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max() + 1)


def clusters(embedding: np.ndarray, fit: np.ndarray, components: int = 10, smallest: int | None = None) -> Clusters:
    """Find clusters by HDBSCAN on some rows and assign all others.

    In the first principal components of the rows of ``fit``, centred and not rescaled, so that what the encoder hardly
    uses counts little. A row outside ``fit`` gets the cluster, or none, of its nearest row of ``fit``.

    Parameters
    ----------
    embedding : numpy.ndarray, shape (n, d)
        For what given labels do not explain, of :func:`~bias_tutorial.clustering.without`.
    fit : numpy.ndarray
        Row numbers, or a mask. For an explanation to be held out, other patients than those it is scored on.
    components : int
        At least 1; more than the embedding or the rows have means all.
    smallest : int, optional
        Rows a cluster needs, at least 2; left out, the larger of 20 and 5% of ``fit``.

    Raises
    ------
    ValueError
        For an embedding that is not finite, numbers out of range, fewer rows than a cluster needs.

    Notes
    -----
    HDBSCAN (Campello, Moulavi and Sander 2013) tests nothing. In normal noise (700 rows, two components) it found
    clusters in 20 of 20 draws with ``smallest=10`` and in 0 of 20 as it is set here. Whether a group is there is what
    :func:`~bias_tutorial.clustering.hidden_mode` decides.
    """
    x = checked(embedding)
    fit = checked_rows("fit", fit, len(x))
    smallest = max(20, len(fit) // 20) if smallest is None else smallest
    if components < 1 or not 2 <= smallest <= len(fit):
        raise ValueError(f"expected at least 1 component and a smallest cluster from 2 to {len(fit)} rows, "
                         f"got {components} and {smallest}")
    space = PCA(min(components, x.shape[1], len(fit)), svd_solver="full").fit(x[fit]).transform(x)
    found = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(space[fit])
    order = np.argsort(-np.bincount(found[found >= 0], minlength=1), kind="stable")
    place = np.append(np.argsort(order), -1)  # the last is that of -1
    nearest = NearestNeighbors(n_neighbors=1).fit(space[fit]).kneighbors(space, return_distance=False)[:, 0]
    labels = place[found][nearest]
    labels[fit] = place[found]
    return Clusters(labels, fit, space)


def explain(found: Clusters, attributes: pd.DataFrame, test: np.ndarray, patients: Sequence | None = None,
            bins: int = 8, seed: int = 0, draws: int = 1000) -> pd.DataFrame:
    """Which known attributes tell who is in a cluster: for each cluster and attribute, and for all attributes together.

    A cluster is compared with all other clusters; rows in none do not count, on either side.

    Parameters
    ----------
    found : Clusters
        Their ``fit`` rows teach how membership goes with an attribute.
    attributes : pandas.DataFrame, n rows
        Classes or numbers; a number with more than ``bins`` values is cut at its quantiles in ``fit``. A missing value
        is a value of its own.
    test : numpy.ndarray
        Row numbers, or a mask, to score on; no patient of ``fit``.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient.
    bins : int
        At least 2.
    seed, draws : int
        Of the forest and of the bootstrap over patients.

    Returns
    -------
    pandas.DataFrame
        One row per cluster and attribute, and ``all together``: ``cluster``, ``attribute``; ``share``, the part of
        membership that it explains (R squared of the membership rate by value, taught on ``fit``; of a random forest
        for all together), and ``auc``, of the same prediction, each with ``_low`` and ``_high`` of the 95% percentile
        interval over patients; ``p`` of an AUC of .5 (one-sided, normal, from the larger of the AUC's spread over
        resampled patients and that of random ranks) and ``p_holm``, corrected for all rows of the table;
        ``cramers_v``; ``value``, whose share differs most between cluster and rest, with its shares ``inside`` and
        ``outside``; ``n``, test rows in the cluster. Without clusters there is no row.

    Raises
    ------
    ValueError
        For a constant attribute (named), a row or patient in both ``fit`` and ``test``, fewer than 30 test patients.

    Notes
    -----
    An AUC near 1 does not make an attribute the explanation: if all of a cluster comes from one of two sites of equal
    size, and is half of it, site has AUC .83 and share 1/3.
    """
    n = len(found.labels)
    if len(attributes) != n:
        raise ValueError(f"attributes have {len(attributes)} rows, expected {n}")
    test, people = checked_rows("test", test, n), patient_numbers(patients, n)
    if (both := np.intersect1d(people[found.fit], people[test])).size:
        raise ValueError(f"{len(both)} patients are in both fit and test: an explanation must be held out")
    if (count := len(np.unique(people[test]))) < SMALLEST_GROUP:
        raise ValueError(f"{count} patients in test, at least {SMALLEST_GROUP} are needed")
    codes = {name: coded(attributes[name], found.fit, bins) for name in attributes}
    fit, test = (part[found.labels[part] >= 0] for part in (found.fit, test))
    rows = []
    for cluster in range(found.count):
        inside = found.labels == cluster
        if inside[test].all() or not inside[test].any():
            raise ValueError(f"cluster {cluster} holds {inside[test].sum()} of {len(test)} test rows that are "
                             "in clusters: there is nothing to compare")
        for name in [*codes, "all together"]:
            expected = taught(codes if name == "all together" else {name: codes[name]}, inside, fit, test, seed)
            share, auc = np.concatenate([_scores(inside[test], expected, weights)
                                         for weights in patient_weights(people[test], seed, draws)], axis=1)
            here = inside[test].sum()
            spread = max(np.nanstd(auc[1:]), np.sqrt((len(test) + 1) / (12 * here * (len(test) - here))))
            row = {"cluster": cluster, "attribute": name, "n": int(here)}
            for what, values in (("share", share), ("auc", auc)):
                low, high = np.nanquantile(values[1:], [0.025, 0.975])
                row |= {what: values[0], f"{what}_low": low, f"{what}_high": high}
            row["p"] = norm.sf((auc[0] - 0.5) / spread)
            if name in codes:
                row |= _contrast(codes[name].iloc[test], inside[test])
            rows.append(row)
    columns = ["cluster", "attribute", "share", "share_low", "share_high", "auc", "auc_low", "auc_high", "p", "p_holm",
               "cramers_v", "value", "inside", "outside", "n"]
    table = pd.DataFrame(rows, columns=columns)
    order = np.argsort(table["p"], kind="stable")  # Holm 1979
    raised = np.maximum.accumulate(np.arange(len(table), 0, -1) * table["p"].to_numpy(float)[order])
    table.loc[order, "p_holm"] = np.minimum(raised, 1.0)
    return table


def verdicts(table: pd.DataFrame, enough: float = ENOUGH, alpha: float = 0.05) -> pd.DataFrame:
    """Say of each cluster whether the given labels explain it.

    ``explained``: an attribute, or all together, has ``share_low`` of at least ``enough`` and ``p_holm`` below
    ``alpha``; ``by`` names the single attribute with the highest share that does, or all together. ``unexplained``: for
    no attribute, nor all together, does the interval of the share reach ``enough``. ``open``: neither is certain.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`explain`.
    enough, alpha : float
        In (0, 1).

    Returns
    -------
    pandas.DataFrame
        One row a cluster: ``cluster``, ``n``, ``verdict``, ``by`` (None unless explained), ``best``, the attribute
        with the highest share, and that ``share``.
    """
    rows = []
    for cluster, part in table.groupby("cluster"):
        fits = part[(part["share_low"] >= enough) & (part["p_holm"] < alpha)]
        single = fits[fits["attribute"] != "all together"]
        by = None if fits.empty else (fits if single.empty else single).sort_values("share")["attribute"].iloc[-1]
        verdict = "explained" if by else "unexplained" if (part["share_high"] < enough).all() else "open"
        best = part.loc[part["share"].idxmax()]
        rows.append((cluster, best["n"], verdict, by, best["attribute"], best["share"]))
    return pd.DataFrame(rows, columns=["cluster", "n", "verdict", "by", "best", "share"])


@dataclass(frozen=True)
class Portrait:
    """What a cluster looks like: mean image, that of all other rows, their difference, and its most central rows.

    Means have the shape of one image; ``medoids`` are row numbers, the most central first.
    """

    inside: np.ndarray
    outside: np.ndarray
    difference: np.ndarray
    medoids: np.ndarray


def portrait(found: Clusters, images: Cohort | np.ndarray, cluster: int, rows: np.ndarray | None = None,
             medoids: int = 3, batch_size: int = 256) -> Portrait:
    """Mean and difference image of a cluster, and the rows with the least mean distance to all others in it.

    Parameters
    ----------
    images : Cohort or array, shape (n, ...)
        Read in batches.
    cluster : int
        Its number; noise, -1, is none.
    rows : numpy.ndarray, optional
        Row numbers, or a mask, to look at; left out, all.
    medoids, batch_size : int
        At least 1.

    Raises
    ------
    ValueError
        For a cluster without rows there, or with all of them.
    """
    rows = np.arange(len(found.labels)) if rows is None else checked_rows("rows", rows, len(found.labels))
    inside = rows[found.labels[rows] == cluster]
    outside = rows[found.labels[rows] != cluster]
    if cluster < 0 or not len(inside) or not len(outside):
        raise ValueError(f"cluster {cluster} has {len(inside)} of {len(rows)} rows; there are {found.count} clusters")

    def mean(part: np.ndarray) -> np.ndarray:
        total = 0.0
        for start in range(0, len(part), batch_size):
            some = part[start:start + batch_size]
            total = total + np.asarray(images.batch(some) if isinstance(images, Cohort) else images[some],
                                       dtype=float).sum(axis=0)
        return total / len(part)

    means = mean(inside), mean(outside)
    distance = cdist(found.space[inside], found.space[inside]).mean(axis=1)
    return Portrait(*means, means[0] - means[1], inside[np.argsort(distance, kind="stable")[:medoids]])


# ---------------------------------------------------------------------- what explanations are made of
def coded(column: pd.Series, fit: np.ndarray, bins: int) -> pd.Series:
    """An attribute as a category of few values; refuses one that is constant in the rows to learn from."""
    column = column.reset_index(drop=True)
    if column.iloc[fit].nunique(dropna=False) < 2:
        raise ValueError(f"attribute '{column.name}' is {column.iloc[fit[0]]!r} in all {len(fit)} rows to learn from: "
                         "it explains nothing")
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column) and column.nunique() > bins:
        edges = np.unique(column.iloc[fit].quantile(np.linspace(0, 1, bins + 1)).to_numpy(float))
        edges[[0, -1]] = -np.inf, np.inf
        column = pd.cut(column, edges, duplicates="drop").astype(str).where(column.notna())
    return column.astype(object).where(column.notna(), "missing").astype(str).astype("category")


def taught(codes: dict[str, pd.Series], inside: np.ndarray, fit: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Expected membership of the test rows: by one attribute its rate among the fit rows, by several a forest's."""
    if len(codes) == 1:
        code = next(iter(codes.values()))
        rate = pd.Series(inside[fit], dtype=float).groupby(code.iloc[fit].to_numpy(), observed=True).mean()
        return code.iloc[test].astype(object).map(rate).fillna(inside[fit].mean()).to_numpy(float)
    x = pd.get_dummies(pd.DataFrame(codes)).to_numpy(float)
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=seed).fit(x[fit], inside[fit])
    return forest.predict_proba(x[test])[:, list(forest.classes_).index(True)]


def _scores(inside: np.ndarray, expected: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R squared and AUC of expected membership, shape (2, draws)."""
    rate = (weights @ inside / weights.sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without the cluster counts in neither
        share = 1 - weights @ (inside - expected) ** 2 / (weights.sum(axis=1) * rate * (1 - rate))
    auc = class_rates(inside, expected >= 0.5, expected, weights)[:, 3]
    return np.where(np.isfinite(share) & np.isfinite(auc), [share, auc], np.nan)


def _contrast(code: pd.Series, inside: np.ndarray) -> dict[str, object]:
    """Cramer's V, and the value whose share differs most between the cluster and the rest."""
    counts = pd.crosstab(code.astype(object).to_numpy(), inside)
    shares = counts / counts.sum()
    value = (shares[True] - shares[False]).abs().idxmax()
    return {"cramers_v": float(association(counts.to_numpy(), method="cramer")) if len(counts) > 1 else 0.0,
            "value": value, "inside": shares.loc[value, True], "outside": shares.loc[value, False]}
