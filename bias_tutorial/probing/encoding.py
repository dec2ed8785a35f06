"""The published measures of encoding: logistic regressions on principal components.

Stanley et al., eBioMedicine 2025 (github.com/estanley16/bias_encoding, ``layerwise_encoding_analysis.ipynb``) fit and
score them on the same images: with ``train`` and ``test`` the same rows, that is what these functions do. Fitted and
scored on one set of images they cannot fail where a block has as many components as there are images; see
:mod:`bias_tutorial.probing.probes` for measures that can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import gaussian_kde, rankdata
from sklearn.linear_model import LogisticRegression

from .pca import as_rows

__all__ = ["aggregate", "boundary", "densities", "disease_dominant", "individual"]


def aggregate(scores: np.ndarray, label: Sequence, train: np.ndarray, test: np.ndarray) -> pd.Series:
    """Aggregate encoding: how well one logistic regression on all components tells a label.

    Parameters
    ----------
    scores : numpy.ndarray, shape (n, k)
        Of the components, as :attr:`bias_tutorial.probing.GramPCA.scores`.
    label : sequence, shape (n,)
        Two values, for example 0 and 1; a pandas Series is called by its name in errors.
    train, test : array of int or bool
        Rows to fit on and rows to score on: positions, or masks over n. The same rows twice: the published form.

    Returns
    -------
    pandas.Series
        ``accuracy`` (share of right decisions) and ``auc``, both in [0, 1], over the rows of ``test``.

    Raises
    ------
    ValueError
        For a label that is constant in ``train`` or ``test`` (the message names it), has more than two values or is
        missing somewhere; for scores that are NaN, or rows that are not there.

    Notes
    -----
    As published: L2 penalty with C = 1 on the scores as they are, so that components that vary little count little;
    here solved to the optimum, where the published code may stop before it (100 iterations of L-BFGS).
    """
    scores, label, train, test = _checked(scores, label, train, test)
    # The same problem in other units, in which the solver meets no numbers that are too large.
    unit = scores[train].std(axis=0).max() or 1.0
    model = LogisticRegression(C=unit**2, solver="newton-cholesky", tol=1e-6, max_iter=1000)
    decision = model.fit(scores[train] / unit, label[train]).decision_function(scores[test] / unit)
    return _performance(decision[:, None], label[test]).iloc[0].rename(None)


def individual(scores: np.ndarray, label: Sequence, train: np.ndarray, test: np.ndarray) -> pd.DataFrame:
    """Individual encoding: how well a logistic regression on each component alone tells a label.

    Parameters
    ----------
    scores, label, train, test
        As for :func:`aggregate`.

    Returns
    -------
    pandas.DataFrame
        One row a component, counted from 0: ``accuracy`` and ``auc`` over the rows of ``test``.

    Raises
    ------
    ValueError
        As for :func:`aggregate`.
    """
    scores, label, train, test = _checked(scores, label, train, test)
    slope, intercept = _one_by_one(scores[train], label[train])
    return _performance(scores[test] * slope + intercept, label[test])


def disease_dominant(disease: pd.DataFrame, by: str = "accuracy") -> int:
    """The component that tells the disease best; the first of those that are equal.

    Parameters
    ----------
    disease : pandas.DataFrame
        From :func:`individual`, of the disease.
    by : {'accuracy', 'auc'}
        ``accuracy`` as published.
    """
    return int(disease[by].idxmax())


def boundary(scores: np.ndarray, label: Sequence, train: np.ndarray, component: int) -> float:
    """Score at which the logistic regression on one component changes its decision.

    Parameters
    ----------
    scores, label, train
        As for :func:`aggregate`.
    component : int
        Column of ``scores``.

    Returns
    -------
    float
        In units of the scores; it may lie beyond all of them, where one class is always decided.

    Raises
    ------
    ValueError
        As for :func:`aggregate`, and for a component that is constant.
    """
    scores, label, train, _ = _checked(scores, label, train, train)
    slope, intercept = _one_by_one(scores[train][:, [component]], label[train])
    if slope[0] == 0:
        raise ValueError(f"component {component} is constant in the rows of train: there is no boundary along it")
    return float(-intercept[0] / slope[0])


def densities(score: np.ndarray, disease: Sequence, bias: Sequence, points: int = 200,
              smoothing: float = 1.5) -> pd.DataFrame:
    """Densities of the groups by class and bias along a component.

    Parameters
    ----------
    score : numpy.ndarray, shape (n,)
        One column of the scores.
    disease, bias : sequence, shape (n,)
        Class and bias of each image.
    points : int
        Of the grid, from below the lowest score to above the highest.
    smoothing : float
        Width of the Gaussian kernels in units of Scott's rule, above 0; 1.5 as published.

    Returns
    -------
    pandas.DataFrame, shape (points, groups)
        Rows by score, columns by the values of ``disease`` and ``bias``. Each column has area 1, however large the
        group is.

    Raises
    ------
    ValueError
        For a group with fewer than two different scores (the message names it), missing values, or other lengths.
    """
    table = pd.DataFrame({"score": np.asarray(score, dtype=float), "disease": np.asarray(disease),
                          "bias": np.asarray(bias)})
    if (missing := table.isna().sum()).any():
        raise ValueError(f"'{missing.idxmax()}' has {missing.max()} missing values, expected none")
    kernels = {}
    for (d, b), group in table.groupby(["disease", "bias"])["score"]:
        if group.nunique() < 2:
            raise ValueError(f"group (disease = {d}, bias = {b}) has {group.nunique()} different score, "
                             "at least 2 are needed for a density")
        kernels[d, b] = gaussian_kde(group, lambda kde: smoothing * kde.scotts_factor())
    margin = 3 * max(np.sqrt(kernel.covariance[0, 0]) for kernel in kernels.values())
    grid = np.linspace(table["score"].min() - margin, table["score"].max() + margin, points)
    return pd.DataFrame({names: kernel(grid) for names, kernel in kernels.items()},
                        index=pd.Index(grid, name="score")).rename_axis(columns=["disease", "bias"])


def _checked(scores, label, train, test) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, the label as 0 and 1 in the order of its values, and rows; refuses what no probe can be fitted to."""
    name = getattr(label, "name", None) or "label"
    scores, label = np.asarray(scores, dtype=float), np.asarray(label)
    if scores.ndim != 2 or label.shape != scores.shape[:1]:
        raise ValueError(f"scores have shape {scores.shape} and '{name}' has shape {label.shape}, "
                         "expected (n, k) and (n,)")
    if not np.isfinite(scores).all():
        raise ValueError("the scores hold NaN or infinite values")
    if missing := pd.isna(label).sum():
        raise ValueError(f"'{name}' has {missing} missing values, expected none")
    values = np.unique(label)
    if len(values) > 2:
        raise ValueError(f"'{name}' has {len(values)} values, expected 2")
    train, test = as_rows(train, len(scores)), as_rows(test, len(scores))
    for where, rows in (("train", train), ("test", test)):
        if len(found := np.unique(label[rows])) < 2:
            raise ValueError(f"'{name}' is constant in the rows of {where}: " +
                             (f"all {len(rows)} are {found[0]}" if len(found) else "there are none"))
    return scores, (label == values[-1]).astype(int), train, test


def _performance(decision: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """Accuracy and area under the curve of each column of decisions (n, k) on a label of 0 and 1."""
    sick = int(label.sum())
    ranks = rankdata(decision, axis=0)[label == 1].sum(axis=0)
    return pd.DataFrame({"accuracy": ((decision > 0) == label[:, None]).mean(axis=0),
                         "auc": (ranks / sick - (sick + 1) / 2) / (len(label) - sick)}).rename_axis("component")


def _one_by_one(scores: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of the logistic regression on each column alone (C = 1), all of them at once.

    Newton's method, each column's step halved until its loss falls; column by column scikit-learn takes far longer.
    """
    mean, spread = scores.mean(axis=0), scores.std(axis=0)
    constant = spread <= 1e-12 * np.abs(mean)
    spread = np.where(constant, 1, spread)
    z, wrong = np.where(constant, 0, scores - mean) / spread, 1 - 2 * label[:, None]  # constant: the slope stays 0
    slope, intercept = np.zeros(scores.shape[1]), np.full(scores.shape[1], logit(label.mean()))

    def loss(slope, intercept):
        margin = wrong * (slope * z + intercept)
        return (np.maximum(margin, 0) + np.log1p(np.exp(-np.abs(margin)))).sum(axis=0) + (slope / spread)**2 / 2

    lowest = loss(slope, intercept)
    for _ in range(100):
        p = expit(slope * z + intercept)
        off, weight = p - label[:, None], p * (1 - p)
        down = np.array([(z * off).sum(axis=0) + slope / spread**2, off.sum(axis=0)])
        a, b, c = (weight * z**2).sum(axis=0) + spread**-2, (weight * z).sum(axis=0), weight.sum(axis=0)
        step = np.array([c * down[0] - b * down[1], a * down[1] - b * down[0]]) / (a * c - b**2)
        if ((step * down).sum(axis=0) <= 1e-13 * lowest).all():  # what is still to be gained
            break
        for _ in range(20):
            found = loss(slope - step[0], intercept - step[1])
            worse = found > lowest * (1 + 1e-12)
            if not worse.any():
                break
            step[:, worse] /= 2
        slope, intercept, lowest = slope - step[0], intercept - step[1], found
    return slope / spread, intercept - slope * mean / spread
