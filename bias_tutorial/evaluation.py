"""Results by group, each with its n and an interval; differences paired over patients; how visible a latent is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, false_positive_rate, true_positive_rate
from scipy.stats import binomtest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from .cohort import Cohort

SMALLEST_GROUP = 30
"""Patients a group needs before a rate is reported for it."""


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (through :func:`scipy.stats.binomtest`).

    Parameters
    ----------
    hits, n : int
        Successes and trials, n at least 1.
    level : float
        Confidence level in (0, 1).
    """
    interval = binomtest(int(hits), int(n)).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def _cells(groups: pd.DataFrame, patients: np.ndarray | None, smallest: int) -> Iterator[tuple[tuple, str, np.ndarray]]:
    """Values, name and rows of every combination of the columns' values; refuses what cannot be reported."""
    groups = groups.reset_index(drop=True).astype("category")
    for column in groups:
        if missing := groups[column].isna().sum():
            raise ValueError(f"column '{column}': {missing} values are missing, expected none")
    for values in product(*(groups[column].cat.categories for column in groups)):
        inside = np.ones(len(groups), dtype=bool)
        for column, value in zip(groups, values, strict=True):
            inside &= (groups[column] == value).to_numpy()
        rows = np.flatnonzero(inside)
        name = ", ".join(f"{column} = {value}" for column, value in zip(groups, values, strict=True)) or "all"
        size = len(rows if patients is None else np.unique(patients[rows]))
        if size < smallest:
            raise ValueError(f"group ({name}) has {size} patients, at least {smallest} are needed to report a rate")
        yield values, name, rows


def group_rows(groups: pd.DataFrame, patients: Sequence | None = None,
               smallest: int = SMALLEST_GROUP) -> dict[str, np.ndarray]:
    """Row numbers of all rows, of each value of each column, and of each combination of values of all columns.

    Parameters
    ----------
    groups : pandas.DataFrame, shape (n, k)
        Columns that define the groups. A categorical column declares its values.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient.
    smallest : int
        Groups with fewer patients are refused.

    Returns
    -------
    dict of str to numpy.ndarray
        Keys ``all``, ``sex = F``, ..., ``sex = F, site = A``, ...

    Raises
    ------
    ValueError
        For missing values in a column, and for a declared value or a combination with fewer than ``smallest`` patients
        (also with none); the message names column or group, and the number.
    """
    patients = None if patients is None else _vector("patients", patients, len(groups))
    sets = dict.fromkeys([(), *((column,) for column in groups), tuple(groups)])
    return {name: rows for columns in sets for _, name, rows in _cells(groups[list(columns)], patients, smallest)}


def accuracy_by_group(correct: Sequence[bool], groups: pd.DataFrame, smallest: int = SMALLEST_GROUP) -> pd.DataFrame:
    """Share of right decisions in every combination of the groups' values.

    Parameters
    ----------
    correct : sequence of bool, shape (n,)
        Whether each decision was right; one row a patient.
    groups, smallest
        As for :func:`group_rows`.

    Returns
    -------
    pandas.DataFrame
        One row per combination: its values, ``n``, ``accuracy``, ``low`` and ``high`` (95% Wilson interval).

    Raises
    ------
    ValueError
        As for :func:`group_rows`.
    """
    correct = _vector("correct", correct, len(groups)).astype(bool)
    rows = [(*values, len(rows), correct[rows].mean(), *wilson(correct[rows].sum(), len(rows)))
            for values, _, rows in _cells(groups, None, smallest)]
    return pd.DataFrame(rows, columns=[*groups, "n", "accuracy", "low", "high"])


def group_metrics(disease: Sequence[int], probability: Sequence[float], groups: pd.DataFrame, threshold: float = 0.5,
                  patients: Sequence | None = None, seed: int = 0, draws: int = 2000,
                  smallest: int = SMALLEST_GROUP, level: float = 0.95) -> pd.DataFrame:
    """Accuracy, true and false positive rate and AUC of all rows, every group and every intersection.

    Parameters
    ----------
    disease : sequence of int, shape (n,)
        True class, 0 or 1.
    probability : sequence of float, shape (n,)
        Of disease, in [0, 1].
    groups, patients, smallest
        As for :func:`group_rows`.
    threshold : float
        "Disease" is decided where the probability is at least this.
    seed, draws : int
        Of the bootstrap over patients.
    level : float
        Of the intervals, in (0, 1).

    Returns
    -------
    pandas.DataFrame
        One row a group, named as by :func:`group_rows`. Columns ``n`` (rows), ``patients``, ``sick`` (rows), and
        ``accuracy``, ``tpr``, ``fpr``, ``auc``, each followed by the ends ``_low`` and ``_high`` of its interval.

    Raises
    ------
    ValueError
        As for :func:`group_rows`; for missing or impossible values of disease or probability; for a group without
        sick or without healthy rows.

    Notes
    -----
    Values come from :class:`fairlearn.metrics.MetricFrame`. Intervals of the rates are Wilson's where every row is
    another patient. Those of AUC, and of the rates where patients have several rows, are percentiles over resampled
    patients. Draws without sick or without healthy rows of a group do not count in it, as in fairlearn; an interval
    that rests on a handful of sick patients is too narrow, so look at ``sick``.
    """
    disease, probability = (_vector(name, values, len(groups)).astype(float)
                            for name, values in (("disease", disease), ("probability", probability)))
    cells = group_rows(groups, patients, smallest)
    if wrong := set(disease) - {0, 1}:
        raise ValueError(f"column 'disease': value {wrong.pop():g}, expected 0 or 1")
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(f"column 'probability': values from {probability.min():g} to {probability.max():g}, "
                         "expected [0, 1]")
    patient = np.arange(len(groups)) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    for name, rows in cells.items():
        for value, who in ((1, "sick"), (0, "healthy")):
            if not (disease[rows] == value).any():
                raise ValueError(f"group ({name}) has no {who} row, so it has no rate and no AUC")
    decision = (probability >= threshold).astype(int)
    every = np.concatenate(list(cells.values()))
    frame = MetricFrame(  # a row stands in it once for every group that it belongs to
        metrics={name: _on_decisions(rate, threshold) for name, rate in _RATES.items()} | {"auc": roc_auc_score},
        y_true=disease[every].astype(int), y_pred=probability[every],
        sensitive_features=np.repeat(list(cells), [len(rows) for rows in cells.values()]))
    points = frame.by_group.loc[list(cells)]
    ends = _bootstrap(disease, decision, probability, cells, patient, seed, draws, level)
    independent = len(np.unique(patient)) == len(patient)
    table = {}
    for (name, rows), low_high in zip(cells.items(), ends, strict=True):
        y, d = disease[rows], decision[rows]
        if independent:
            counted = (y == d, d[y == 1], d[y == 0])
            low_high[:, :3] = np.transpose([wilson(part.sum(), len(part), level) for part in counted])
        table[name] = {"n": len(rows), "patients": len(np.unique(patient[rows])), "sick": int(y.sum())}
        for metric, low, high in zip(points, *low_high, strict=True):
            table[name] |= {metric: points.loc[name, metric], f"{metric}_low": low, f"{metric}_high": high}
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("group")


_RATES = {"accuracy": accuracy_score, "tpr": true_positive_rate, "fpr": false_positive_rate}


def _on_decisions(rate, threshold):
    return lambda disease, probability: rate(disease, (probability >= threshold).astype(int))


def _vector(name: str, values: Sequence, n: int) -> np.ndarray:
    """Values as an array of n known values, or an error that names them."""
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"'{name}' has shape {values.shape}, expected ({n},)")
    if missing := pd.isna(values).sum():
        raise ValueError(f"column '{name}': {missing} values are missing, expected none")
    return values


def _bootstrap(disease, decision, probability, cells, patient, seed, draws, level, chunk=100) -> list[np.ndarray]:
    """Ends of the intervals over resampled patients: for every group, shape (2, metrics)."""
    order = np.argsort(probability, kind="stable")
    disease, decision, probability, patient = (a[order] for a in (disease, decision, probability, patient))
    place = np.argsort(order)
    cells = [np.sort(place[rows]) for rows in cells.values()]
    rng, count = np.random.default_rng(seed), patient.max() + 1
    results = [[] for _ in cells]
    for _ in range(0, draws, chunk):
        drawn = rng.integers(count, size=(chunk, count)) + count * np.arange(chunk)[:, None]
        times = np.bincount(drawn.ravel(), minlength=chunk * count).reshape(chunk, count).astype(float)
        for rows, result in zip(cells, results, strict=True):
            result.append(_weighted_metrics(times[:, patient[rows]], disease[rows], decision[rows], probability[rows]))
    ends = [(1 - level) / 2, (1 + level) / 2]
    return [np.nanquantile(np.concatenate(result)[:draws], ends, axis=0) for result in results]


def _weighted_metrics(weights, disease, decision, probability) -> np.ndarray:
    """Accuracy, TPR, FPR and AUC, shape (draws, 4), for weights (draws, rows); rows in order of their probability."""
    sick, healthy = weights * disease, weights * (1 - disease)
    totals = sick.sum(1), healthy.sum(1)
    right, called_sick, called_healthy = (weights @ part for part in
                                          (disease == decision, disease * decision, (1 - disease) * decision))
    ties = np.flatnonzero(np.diff(probability, prepend=-1.0))  # equal probabilities are one step of the curve
    if len(ties) < len(probability):
        sick, healthy = (np.add.reduceat(part, ties, axis=1) for part in (sick, healthy))
    below = np.cumsum(healthy, axis=1) - healthy / 2
    with np.errstate(invalid="ignore"):  # a draw without sick or healthy rows is NaN
        return np.column_stack([right / weights.sum(1), called_sick / totals[0], called_healthy / totals[1],
                                np.einsum("ij,ij->i", sick, below) / (totals[0] * totals[1])])


def patient_bootstrap(values: np.ndarray, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """95% interval of a mean over patients by the percentile bootstrap.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,) or (n, k)
        One row a patient; NaN where a patient does not count towards a column.
    seed : int
        Of the resampling.
    draws : int
        Bootstrap samples.

    Returns
    -------
    numpy.ndarray, shape (2,) or (2, k)
        Lower and upper end.
    """
    values = np.asarray(values, dtype=float)
    columns = values.reshape(len(values), -1)
    rows = np.column_stack([np.nan_to_num(columns), np.isfinite(columns)])
    # Patients with equal rows are drawn as one: how often is multinomial, and decisions have few different rows.
    different, times = np.unique(rows, axis=0, return_counts=True)
    totals, counts = np.hsplit(different, 2)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(0, draws, 200):
        weights = rng.multinomial(len(rows), times / len(rows), size=200).astype(float)
        means.append((weights @ totals) / (weights @ counts))
    ends = np.quantile(np.concatenate(means)[:draws], [0.025, 0.975], axis=0)
    return ends[:, 0] if values.ndim == 1 else ends


def twin_gaps(disease: np.ndarray, on: np.ndarray, off: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """By how much an attribute raises the rate of "disease" decisions, paired over counterfactual twins.

    Parameters
    ----------
    disease : numpy.ndarray, shape (n,)
        True class, 0 or 1; one row a patient.
    on, off : numpy.ndarray, shape (n,)
        Decisions (0 or 1) for the same patients with the attribute and without.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Rows ``tpr_gap`` and ``fpr_gap``; columns ``n``, ``gap`` and its 95% patient-bootstrap interval ``low, high``.

    Raises
    ------
    ValueError
        When a class has fewer than 30 patients, or a value is missing.
    """
    disease = np.asarray(disease)
    on, off = (_vector(name, values, len(disease)).astype(float) for name, values in (("on", on), ("off", off)))
    change = on - off
    rows = {}
    for name, y in (("tpr_gap", 1), ("fpr_gap", 0)):
        part = change[disease == y]
        if len(part) < SMALLEST_GROUP:
            raise ValueError(f"class {y} has {len(part)} patients, at least {SMALLEST_GROUP} are needed for a gap")
        rows[name] = (len(part), part.mean(), *patient_bootstrap(part, seed))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "gap", "low", "high"])


def dominance(disease: np.ndarray, second_only: np.ndarray, first_only: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """By how much the second of two attributes raises the rate of "disease" decisions more than the first does.

    The rate on twins that carry only the second (intensity) less the rate on twins that carry only the first
    (morphology), paired over patients. The answer key's value at the same visibility is its null, not 0: 0 is expected
    only where both are seen equally well (see ``Evaluation.dominance`` in :mod:`bias_tutorial.answer_key`).

    Parameters
    ----------
    disease : numpy.ndarray, shape (n,)
        True class, 0 or 1; one row a patient.
    second_only, first_only : numpy.ndarray, shape (n,)
        Decisions (0 or 1) for the same patients as twins that carry only one attribute.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Rows ``tpr`` and ``fpr``; columns ``n``, ``difference`` and its 95% patient-bootstrap interval ``low, high``.

    Raises
    ------
    ValueError
        As for :func:`twin_gaps`.
    """
    gaps = twin_gaps(disease, second_only, first_only, seed)
    return gaps.rename(index={"tpr_gap": "tpr", "fpr_gap": "fpr"}, columns={"gap": "difference"})


def paired_difference(a: Sequence[float], b: Sequence[float] | float, seed: int = 0) -> pd.Series:
    """Mean difference between two networks over the same patients, or between one and a reference line.

    Parameters
    ----------
    a : sequence of float, shape (n,)
        One value a patient, for example whether the decision was right; NaN where a patient does not count.
    b : sequence of float, shape (n,), or float
        The other network's values for the same patients; or one number, such as a line of the answer key.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.Series
        ``n`` (patients that count), ``difference`` (a less b), and its 95% patient-bootstrap interval ``low, high``.

    Raises
    ------
    ValueError
        When a patient counts on one side only, or fewer than 30 count.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if b.ndim and (a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any()):
        raise ValueError(f"a and b must count the same patients: shapes {a.shape} and {b.shape}, "
                         f"{np.isnan(a).sum()} and {np.isnan(b).sum()} values missing")
    change = (a - b)[~np.isnan(a)]
    if len(change) < SMALLEST_GROUP:
        raise ValueError(f"{len(change)} patients count, at least {SMALLEST_GROUP} are needed for a difference")
    return pd.Series([len(change), change.mean(), *patient_bootstrap(change, seed)], ["n", "difference", "low", "high"])


def visibility(teach: Cohort, test: Cohort, names: Sequence[str]) -> dict[str, float]:
    """How much of each latent a linear reader sees in the images: its held-out R squared.

    A ridge regression on all pixels, its strength chosen by leave-one-out for each latent, is taught on one cohort and
    scored on another. With both cohorts *decorrelated*, these are the numbers that
    :meth:`bias_tutorial.answer_key.Sight.from_r_squared` turns into read-out noise, ``R2 = V / (V + noise**2)``; in a
    confounded cohort the reader would use the class to guess the attribute. A network may see more than a line does,
    so this is a lower bound of what is visible.

    Parameters
    ----------
    teach, test : Cohort
        With truth; no subject in both; images of the same shape. Every row is used.
    names : sequence of str
        Latents, for example ``severity`` and ``<attribute>_strength``.

    Returns
    -------
    dict of str to float
        R squared in ``test``, at most 1; 0 or less: not visible.

    Raises
    ------
    ValueError
        For a name that is no latent of both cohorts, or one that is missing somewhere or does not vary.
    """
    for cohort in (teach, test):
        for name in names:
            if name not in cohort.schema.latents:
                raise ValueError(f"the cohort has no latent '{name}', "
                                 f"expected one of {', '.join(cohort.schema.latents) or 'none: it holds no truth'}")
            if np.ptp(_vector(name, cohort.table[name], len(cohort))) == 0:
                raise ValueError(f"latent '{name}' does not vary: it is {cohort.table[name].iloc[0]} in every row")
    pixels = [cohort.batch(np.arange(len(cohort))).reshape(len(cohort), -1) for cohort in (teach, test)]
    reader = RidgeCV(alphas=np.logspace(-2, 5, 15), alpha_per_target=True)
    seen = reader.fit(pixels[0], teach.table[list(names)].to_numpy()).predict(pixels[1]).reshape(len(test), -1)
    return {name: float(r2_score(test.table[name], seen[:, k])) for k, name in enumerate(names)}
