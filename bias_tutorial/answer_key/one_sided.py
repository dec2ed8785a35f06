"""The key for marks that only some classes carry: what clean images get after training on marked ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.linalg import helmert
from scipy.special import ndtr

from .limits import _check_positive, _probabilities

KINDS = ("meningioma", "glioma", "pituitary")  # in the order of labels 1, 2, 3 of Cheng et al., PLoS ONE 2015
_NODES = np.linspace(-9, 9, 721)  # the trapezoid rule on a normal density: exact to the last digits
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.sqrt(2 * np.pi) * (_NODES[1] - _NODES[0])


def class_means(n_kinds: int, separation: float = 2.0) -> np.ndarray:
    """Means of the severity vector: corners of a regular simplex around 0, every two of them ``separation`` apart.

    Parameters
    ----------
    n_kinds : int
        At least 2.
    separation : float
        In standard deviations within a kind.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_kinds, n_kinds - 1)``; for two kinds ``-separation / 2`` and ``+separation / 2``.
    """
    return -helmert(n_kinds).T * separation / np.sqrt(2)


def one_sided(rho: float | Sequence[float], gamma: float = 0.0, kinds: Sequence[str] = KINDS,
              separation: float = 2.0, shares: Sequence[float] | None = None) -> pd.DataFrame:
    """Best reader of training data in which gliomas carry a mark with probability rho, on clean images.

    Severity is N(mean of the kind, I), the means as in :func:`class_means`; marks are seen perfectly and each names
    its kind. So absence counts against it: log(1 - rho) is added to the log-odds of glioma, log(1 - gamma) to those
    of pituitary tumour (Bayes' rule).

    Parameters
    ----------
    rho : float or sequence of float
        P(mark | glioma) in training, in [0, 1].
    gamma : float
        P(mark | pituitary) in training, in [0, 1].
    kinds : sequence of str
        At least two kinds, all different; a mark needs its kind among them.
    separation : float
        Distance of any two class means of the severity, in its standard deviations. For a reader who sees each
        component of severity with noise of standard deviation ``t``, give ``separation / sqrt(1 + t**2)``.
    shares : sequence of float, optional
        Share of each kind in training, equal when left out.

    Returns
    -------
    pandas.DataFrame
        One row per rho: ``rho``; accuracy within each kind on clean images, a column each; ``mean`` of these, each
        kind counted alike; ``training``, accuracy on the marked training distribution itself.

    Raises
    ------
    ValueError
        For a probability outside [0, 1], kinds that are fewer than two or not different, a mark whose kind is missing,
        shares that are not above 0 or do not sum to 1, or marks on every image of every kind: then no clean image
        occurs in training, and nothing says how one should be read.

    Notes
    -----
    The reader is *the* optimum of the training distribution. It bounds no trained network: one that sees severity less
    well leans on the mark more, one whose use of the mark is held back (regularisation, early stopping) leans on it
    less and can do better on clean images. Several slices of one patient leave the key as it is for a reader of single
    slices; one who is given them together knows more.
    """
    _check_positive(separation)
    marked = {"glioma": _probabilities(rho, "rho"), "pituitary": _probabilities(gamma, "gamma")}
    kinds = tuple(kinds)
    if len(kinds) < 2 or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds must be at least two different ones, got {list(kinds)}")
    share = np.full(len(kinds), 1 / len(kinds)) if shares is None else np.asarray(shares, dtype=float)
    if share.shape != (len(kinds),) or not share.min() > 0 or abs(share.sum() - 1) > 1e-6:
        raise ValueError(f"shares needs a value above 0 for each of {list(kinds)} that sum to 1, got {shares}")
    for name, (kind, p) in zip(("rho", "gamma"), marked.items(), strict=True):
        if p.max() > 0 and kind not in kinds:
            raise ValueError(f"{name}={p.max():g}, but kinds has no '{kind}': {list(kinds)}")
    rows = []
    for r in marked["glioma"]:
        rate = np.array([{"glioma": r, "pituitary": marked["pituitary"][0]}.get(kind, 0.0) for kind in kinds])
        if rate.min() == 1:
            raise ValueError(f"every image of {', '.join(kinds)} is marked: no clean image occurs in training")
        clean = _accuracies(share * (1 - rate), separation)
        rows.append((r, *clean, clean.mean(), share @ (rate + (1 - rate) * clean)))
    return pd.DataFrame(rows, columns=["rho", *kinds, "mean", "training"])


def marks_on_one_class(rho: float | Sequence[float], separation: float = 2.0) -> pd.DataFrame:
    """The same for two classes, equally frequent, one of which carries the mark.

    Parameters
    ----------
    rho : float or sequence of float
        P(mark | marked class) in training, each in [0, 1].
    separation : float
        As for :func:`one_sided`.

    Returns
    -------
    pandas.DataFrame
        ``rho``; ``marked`` and ``unmarked``, accuracy within each class on clean images, in closed form
        ``Phi(separation / 2 +- log(1 - rho) / separation)``; ``mean`` of the two. Other designs: :func:`solve` with
        a clean ``test`` design.
    """
    key = one_sided(rho, kinds=("meningioma", "glioma"), separation=separation)
    return key[["rho", "glioma", "meningioma", "mean"]].rename(columns={"glioma": "marked", "meningioma": "unmarked"})


def _accuracies(weights: np.ndarray, separation: float) -> np.ndarray:
    """P(the most probable kind is the true one | true kind) for unnormalised prior weights, 0 for a weight of 0."""
    # Score k beats score j when (e_j - e_k) / sqrt(2) < separation / 2 + log(w_k / w_j) / separation, with a standard
    # normal e for each kind: given e_k these are independent, and one integral over it remains.
    accuracy = np.zeros(len(weights))
    possible = np.flatnonzero(weights)
    for k in possible:
        others = possible[possible != k]
        limit = separation / 2 + np.log(weights[k] / weights[others]) / separation
        accuracy[k] = ndtr(limit).prod() if len(others) < 2 else \
            _WEIGHTS @ ndtr(_NODES[:, None] + np.sqrt(2) * limit).prod(axis=1)
    return accuracy
