"""How bias lies to disease in a block: along one line, between two, and in the last layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from .probes import checked_rows, log_loss, patient_numbers, standardised, two_values


def margin_ratio(values: np.ndarray, disease: Sequence, bias: Sequence, patients: Sequence | None = None, seed: int = 0,
                 draws: int = 2000) -> pd.Series:
    """How far from the boundary the conflicting groups lie, as a share of how far the aligned ones do.

    The signed margin is the distance from the decision boundary towards the true class, averaged over the two classes.
    Aligned: disease with bias, and neither; conflicting: one without the other. The place of the boundary cancels in
    the average, so none is asked for. 1: bias does not act along this line; below 1: it pushes towards disease; below
    0: it outweighs disease.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,)
        Scores along a component, or a network's log odds; either direction, it is turned so that disease is high.
    disease, bias : sequence, shape (n,)
        Two values each; the second in order is disease, and bias present.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient.
    seed, draws : int
        Of the bootstrap over patients.

    Returns
    -------
    pandas.Series
        ``n``, ``ratio``, its 95% percentile interval ``low, high``, and both mean margins, ``aligned`` and
        ``conflicting``.

    Raises
    ------
    ValueError
        For values that are not finite, a label without two values, an empty group, and an aligned margin of 0.
    """
    values, n = np.asarray(values, dtype=float), len(values)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise ValueError(f"values have shape {values.shape}, expected (n,) and finite")
    group = 2 * two_values(disease, "disease") + two_values(bias, "bias")
    counts = np.bincount(group, minlength=4)
    if not counts.all():
        raise ValueError(f"{counts[0]}, {counts[1]}, {counts[2]} and {counts[3]} rows with neither, only bias, only "
                         "disease, and both: each needs at least one")
    patient = patient_numbers(patients, n)
    sums = np.zeros((patient.max() + 1, 8))
    np.add.at(sums, (patient, group), values)
    np.add.at(sums, (patient, 4 + group), 1.0)

    def margins(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore"):  # a draw without a group is NaN
            neither, only_bias, only_disease, both = (totals[..., k] / totals[..., 4 + k] for k in range(4))
        return (both - neither) / 2, (only_disease - only_bias) / 2

    aligned, conflicting = margins(sums.sum(axis=0))
    if aligned == 0:
        raise ValueError("the aligned groups have margin 0: the values do not tell them apart")
    sign = np.sign(aligned + conflicting) or 1.0  # up is where disease is, other things equal
    rng = np.random.default_rng(seed)
    times = (np.bincount(rng.integers(len(sums), size=len(sums)), minlength=len(sums)) for _ in range(draws))
    resampled = margins(np.array([drawn.astype(float) @ sums for drawn in times]))
    low, high = np.nanquantile(resampled[1] / resampled[0], [0.025, 0.975])
    return pd.Series({"n": n, "ratio": conflicting / aligned, "low": low, "high": high, "aligned": sign * aligned,
                      "conflicting": sign * conflicting})


def bias_on_disease(scores: np.ndarray, disease: Sequence, bias: Sequence, train: np.ndarray) -> float:
    """Cosine between the direction of bias and that of disease in the whitened scores of some rows.

    A direction is the change of the mean that goes with a label while the other is held (least squares on both), in
    scores whose covariance over ``train``, what both labels explain taken off, is the identity: there it is also that
    of the best linear reader, units play no part, and labels that are related are not mistaken for directions that
    are. 1: who reads disease reads bias along the same line; 0: at right angles; the sign says whether bias looks like
    disease.

    Parameters
    ----------
    scores : numpy.ndarray, shape (n, k)
        Fewer components than training rows, or both labels can be read off the noise.
    disease, bias : sequence, shape (n,)
        Two values each.
    train : numpy.ndarray
        Row numbers, or a mask.

    Raises
    ------
    ValueError
        For scores that are not finite, labels without two values or that are the same, too many components.

    Notes
    -----
    With k components and n rows, noise alone gives a cosine of about ``1 / sqrt(k)`` either way, and draws a true one
    towards 0. It is a geometry of encoding: what the network does with it, ``erase`` and ``swap`` in :mod:`.use` show.
    """
    train = checked_rows("train", train, len(scores))
    x = np.asarray(scores, dtype=float)[train]
    d, b = (two_values(np.asarray(label)[train], name, "training")
            for label, name in ((disease, "disease"), (bias, "bias")))
    if x.ndim != 2 or not np.isfinite(x).all() or x.shape[1] + 2 >= len(x):
        raise ValueError(f"scores have shape {x.shape} in train, expected finite values and fewer components than rows")
    design = np.column_stack([np.ones(len(x)), d, b])
    if np.linalg.matrix_rank(design) < 3:
        raise ValueError("disease and bias are the same in train: their directions cannot be told apart")
    explained = np.linalg.lstsq(design, x, rcond=None)[0]
    values, vectors = np.linalg.eigh(np.cov((x - design @ explained).T).reshape(x.shape[1], -1))
    real = values > 1e-12 * values[-1]
    u, v = (direction @ vectors[:, real] / np.sqrt(values[real]) for direction in explained[1:])
    return float(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)))


def con_score(features: np.ndarray, label: Sequence, weights: np.ndarray, train: np.ndarray | None = None,
              test: np.ndarray | None = None) -> pd.Series:
    """Con-score of DeepRepViz: is a label readable before the last layer, along the line that the layer decides by.

    The published score is R2 times the absolute cosine between the weights of an unpenalised logistic regression of
    the label on the features and the weights of the network's last layer, fitted and scored on the same rows; R2 is
    McKelvey and Zavoina's, ``V / (V + pi**2 / 3)`` with V the variance of the fitted log odds.

    Parameters
    ----------
    features : numpy.ndarray, shape (n, k)
        What the last layer is given, such as ``pool``; not its components.
    label : sequence, shape (n,)
        Two values.
    weights : numpy.ndarray, shape (k,) or (2, k)
        Of the last layer; of two rows the difference, which decides.
    train, test : numpy.ndarray, optional
        Rows to fit and to score on, no row in both; left out, both are all rows: the published form.

    Returns
    -------
    pandas.Series
        ``con_score``, its factors ``r2`` and ``cosine`` (with sign: positive if the label looks like the second
        class), and an honest variant, ``con_score_d2`` with ``d2``, McFadden's share of explained deviance in
        ``test``, no less than 0 in the product: McKelvey and Zavoina's R2 never looks at the labels that it scores.

    Raises
    ------
    ValueError
        For shapes that do not fit, a label without two values, a row on both sides.

    References
    ----------
    Rane et al., DeepRepViz: identifying potential confounders in deep learning model predictions, MICCAI 2024, arXiv
    2309.15551; formula from its released code, github.com/RoshanRane/DeepRepViz, commit e0ab17b, ``con_score`` in
    deeprepviz/backend.py. That code appends the intercepts to both weights before the cosine; ours does not, since an
    intercept depends on where the origin is. Correlational: it says nothing of what an intervention would do.
    """
    x, weights = np.asarray(features, dtype=float), np.asarray(weights, dtype=float)
    direction = weights[1] - weights[0] if weights.shape == (2, x.shape[-1]) else weights
    if x.ndim != 2 or direction.shape != (x.shape[1],) or not np.isfinite(x).all() or not direction.any():
        raise ValueError(f"features {x.shape} must be finite and of shape (n, k), weights {weights.shape} of shape "
                         "(k,) or (2, k) and not all 0")
    published = train is None and test is None
    if not published and (train is None or test is None):
        raise ValueError("give train and test, or neither for the published form")
    every = np.arange(len(x))
    train, test = (every, every) if published else (checked_rows("train", train, len(x)),
                                                    checked_rows("test", test, len(x)))
    if not published and len(both := np.intersect1d(train, test)):
        raise ValueError(f"{len(both)} rows are in train and in test, the first is row {both[0]}")
    name, label = getattr(label, "name", None) or "label", np.asarray(label)
    y, truth = two_values(label[train], name, "training"), two_values(label[test], name, "test")
    scaled, others = standardised(x[train], x[test])
    model = LogisticRegression(C=np.inf, max_iter=10_000).fit(scaled, y)
    log_odds = model.decision_function(others)
    scale = x[train].std(axis=0)
    own = np.divide(model.coef_[0], scale, out=np.zeros_like(scale), where=scale > 0)
    cosine = own @ direction / max(np.linalg.norm(own) * np.linalg.norm(direction), np.finfo(float).tiny)
    r2 = log_odds.var() / (log_odds.var() + np.pi**2 / 3)
    share = np.mean(y)
    d2 = 1 - log_loss(log_odds, truth).sum() / log_loss(np.full(len(truth), np.log(share / (1 - share))), truth).sum()
    return pd.Series({"con_score": r2 * abs(cosine), "r2": r2, "cosine": cosine,
                      "con_score_d2": max(d2, 0) * abs(cosine), "d2": d2})
