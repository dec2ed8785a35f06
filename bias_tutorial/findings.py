"""Results for many findings by group: thresholds, ranking, error rates, calibration, underdiagnosis.

Labels, probabilities and groups of the same rows stand together in :class:`Predictions`; every function takes it and
gives a plain table. Rates count the labels that are known. A *group* is a value of one attribute, or a combination of
values of all (an intersection), named as by :func:`bias_tutorial.evaluation.group_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from .evaluation import SMALLEST_GROUP, _vector, group_rows, wilson

RATES = {"fnr": (1, 0), "fpr": (0, 1)}
"""Of each rate: the label of the rows that count, and the decision that is an error among them."""
NO_FINDING = "No Finding"
_BINS = 10


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows, what their labels say, and who they are.

    Parameters
    ----------
    labels : pandas.DataFrame, shape (n, findings)
        One column a finding: 0, 1, or NaN where it is not known.
    probability : numpy.ndarray, shape (n, findings)
        Of each finding, in [0, 1].
    groups : pandas.DataFrame, shape (n, attributes)
        Columns that define the groups.
    patients : sequence, shape (n,)
        Whose row each is; intervals resample patients.

    Raises
    ------
    ValueError
        For labels other than 0, 1 and NaN, probabilities that are missing or outside [0, 1], missing groups or
        patients, and for parts of different lengths.
    """

    labels: pd.DataFrame
    probability: np.ndarray
    groups: pd.DataFrame
    patients: Sequence

    def __post_init__(self):
        labels, n = self.labels.astype(float).reset_index(drop=True), len(self.labels)
        for name, column in labels.items():
            if len(wrong := column[~(column.isin([0, 1]) | column.isna())]):
                raise ValueError(f"finding '{name}': label {wrong.iloc[0]:g} in row {wrong.index[0]}, expected 0, 1 or "
                                 "NaN")
        probability = np.asarray(self.probability, dtype=float)
        if probability.shape != labels.shape:
            raise ValueError(f"probabilities have shape {probability.shape}, labels {labels.shape}")
        if not ((probability >= 0) & (probability <= 1)).all():
            row, k = np.argwhere(~((probability >= 0) & (probability <= 1)))[0]
            raise ValueError(f"finding '{labels.columns[k]}': probability {probability[row, k]:g} in row {row}, "
                             "expected [0, 1]")
        if len(self.groups) != n:
            raise ValueError(f"{len(self.groups)} rows of groups for {n} rows of labels")
        groups = self.groups.reset_index(drop=True)
        for name, column in groups.items():
            if missing := column.isna().sum():
                raise ValueError(f"column '{name}': {missing} values are missing, expected none")
        patients = np.unique(_vector("patients", self.patients, n), return_inverse=True)[1]
        for name, value in (("labels", labels), ("probability", probability), ("groups", groups),
                            ("patients", patients)):
            object.__setattr__(self, name, value)

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings, in order."""
        return tuple(self.labels.columns)

    def sets(self) -> dict[str, np.ndarray]:
        """Rows of ``all``, of every group and of every intersection that occurs; small ones too."""
        return {name: rows for name, rows in group_rows(self.groups, self.patients, smallest=0).items() if len(rows)}

    def too_small(self, sets: Mapping[str, np.ndarray], smallest: int = SMALLEST_GROUP) -> dict[str, str]:
        """Of every set with fewer patients than ``smallest``: why nothing is reported for it."""
        sizes = {name: len(np.unique(self.patients[rows])) for name, rows in sets.items()}
        return {name: f"{size} patients, at least {smallest} are needed" for name, size in sizes.items()
                if size < smallest}


def thresholds(validation: Predictions, how: str = "fixed", most_fpr: float = 0.1) -> pd.Series:
    """A threshold for every finding, chosen on the validation split over all groups; "present" is at or above it.

    Parameters
    ----------
    validation : Predictions
        Of rows that are not used for results.
    how : {'fixed', 'prevalence', 'youden', 'fpr'}
        ``fixed``: .5. ``prevalence``: as many rows are called present as are. ``youden``: the highest TPR - FPR.
        ``fpr``: the highest TPR whose FPR is at most ``most_fpr``.
    most_fpr : float
        For ``fpr`` alone, in [0, 1).

    Returns
    -------
    pandas.Series
        By finding.

    Raises
    ------
    ValueError
        For an unknown way, or a finding without a present or without an absent row.
    """
    if how not in ("fixed", "prevalence", "youden", "fpr"):
        raise ValueError(f"unknown way to choose thresholds '{how}', expected fixed, prevalence, youden or fpr")
    if not 0 <= most_fpr < 1:
        raise ValueError(f"most_fpr must be at least 0 and below 1, got {most_fpr}")
    chosen = {}
    for k, name in enumerate(validation.findings):
        known = validation.labels[name].notna().to_numpy()
        label, probability = validation.labels[name].to_numpy()[known], validation.probability[known, k]
        if how == "fixed":
            chosen[name] = 0.5
            continue
        if len(set(label)) < 2:
            raise ValueError(f"finding '{name}': known labels of the validation rows are {np.unique(label)}, "
                             "expected 0 and 1")
        if how == "prevalence":
            chosen[name] = np.sort(probability)[-int(label.sum())]
            continue
        fpr, tpr, cuts = roc_curve(label, probability, drop_intermediate=False)
        place = np.argmax(tpr - fpr) if how == "youden" else np.flatnonzero(fpr <= most_fpr)[-1]
        chosen[name] = min(cuts[place], np.nextafter(1, 2))  # "nobody" is infinity in roc_curve
    return pd.Series(chosen, name=how)


def metrics_by_group(predictions: Predictions, threshold: pd.Series, smallest: int = SMALLEST_GROUP, seed: int = 0,
                     draws: int = 1000) -> pd.DataFrame:
    """Ranking, error rates and calibration of every finding in every group and intersection.

    Parameters
    ----------
    predictions : Predictions
        Of the test split.
    threshold : pandas.Series
        From :func:`thresholds`.
    smallest : int
        Groups with fewer patients are listed with the reason and without values.
    seed, draws : int
        Of the bootstrap over patients.

    Returns
    -------
    pandas.DataFrame
        One row per finding and group: ``finding``, ``group``, ``n`` (known labels), ``patients``, ``present``; ``auc``,
        ``average_precision``; ``fnr``, ``fpr``, each with ``_low`` and ``_high`` of its 95% interval (Wilson's where
        every row is another patient, else percentiles over resampled patients); ``calibration_error`` (mean distance of
        probability and frequency over 10 bins of equally many rows; it grows in small groups by chance alone);
        ``calibration_in_the_large`` (mean probability less frequency); ``reason`` why values are missing, or "".
        A finding without a present row has no ``fnr``, without an absent one no ``fpr``, without either no ranking.
    """
    sets = predictions.sets()
    small = predictions.too_small(sets, smallest)
    independent = len(np.unique(predictions.patients)) == len(predictions.patients)
    rates = {rate: Counts(predictions, threshold, rate, sets) for rate in RATES}
    resampled = {} if independent else {rate: counts.resampled(seed, draws) for rate, counts in rates.items()}
    table = []
    for k, finding in enumerate(predictions.findings):
        known = predictions.labels[finding].notna().to_numpy()
        for g, (group, rows) in enumerate(sets.items()):
            rows = rows[known[rows]]
            label, probability = predictions.labels[finding].to_numpy()[rows], predictions.probability[rows, k]
            row = {"finding": finding, "group": group, "n": len(rows),
                   "patients": len(np.unique(predictions.patients[rows])), "present": int(label.sum())}
            table.append(row)
            if reason := small.get(group, "" if len(rows) else "no label is known"):
                row["reason"] = reason
                continue
            missing = [what for value, what in ((1, "present"), (0, "absent")) if not (label == value).any()]
            row["reason"] = f"no row is {missing[0]}" if missing else ""
            if not missing:
                row |= {"auc": roc_auc_score(label, probability),
                        "average_precision": average_precision_score(label, probability)}
            for rate, counts in rates.items():
                errors, trials = counts.errors[k, g], counts.trials[k, g]
                if trials:
                    low, high = wilson(errors, trials) if independent else \
                        np.nanquantile(resampled[rate][:, k, g], [0.025, 0.975])
                    row |= {rate: errors / trials, f"{rate}_low": low, f"{rate}_high": high}
            row |= {"calibration_error": calibration_error(label, probability),
                    "calibration_in_the_large": probability.mean() - label.mean()}
    columns = ["finding", "group", "n", "patients", "present", "auc", "average_precision", "fnr", "fnr_low", "fnr_high",
               "fpr", "fpr_low", "fpr_high", "calibration_error", "calibration_in_the_large", "reason"]
    return pd.DataFrame(table, columns=columns)


def calibration_error(label: np.ndarray, probability: np.ndarray, bins: int = _BINS) -> float:
    """Mean distance of probability and frequency over bins of equally many rows, weighted by their size.

    Parameters
    ----------
    label, probability : numpy.ndarray, shape (n,)
        Known labels, 0 or 1, and probabilities.
    bins : int
        Fewer rows than bins: one bin a row.
    """
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(np.sum(probability[part] - label[part])) for part in parts) / len(order))


def underdiagnosis(predictions: Predictions, threshold: pd.Series, smallest: int = SMALLEST_GROUP, seed: int = 0,
                   draws: int = 1000) -> pd.DataFrame:
    """Share of those with a finding whom the model calls healthy: the FPR of "No Finding", by group and intersection.

    Definition of Seyyed-Kalantari et al., Nature Medicine 2021. Parameters as for :func:`metrics_by_group`.

    Returns
    -------
    pandas.DataFrame
        One row a group: ``group``, ``n`` (rows with a finding), ``patients``, ``fpr``, ``fpr_low``, ``fpr_high``,
        ``reason``.

    Raises
    ------
    ValueError
        When "No Finding" is not among the findings.
    """
    if NO_FINDING not in predictions.findings:
        raise ValueError(f"underdiagnosis needs the finding '{NO_FINDING}', got {', '.join(predictions.findings)}")
    k = predictions.findings.index(NO_FINDING)
    only = Predictions(predictions.labels[[NO_FINDING]], predictions.probability[:, [k]], predictions.groups,
                       predictions.patients)
    table = metrics_by_group(only, threshold, smallest, seed, draws)
    table["n"] -= table["present"]
    return table[["group", "n", "patients", "fpr", "fpr_low", "fpr_high", "reason"]]


# ---------------------------------------------------------------------- counts by patient and group
class Counts:
    """Errors and trials of one rate, per finding and set of rows: what gaps and intervals are made of.

    Parameters
    ----------
    predictions : Predictions
        Of k findings.
    threshold : mapping of str to float
        By finding.
    rate : {'fnr', 'fpr'}
        Which errors, among which rows.
    sets : dict of str to numpy.ndarray
        Row numbers of g groups.

    Attributes
    ----------
    trials, errors : numpy.ndarray, shape (k, g)
        Rows that count, and how many of them are errors.
    """

    def __init__(self, predictions: Predictions, threshold: Mapping[str, float], rate: str,
                 sets: dict[str, np.ndarray]):
        if rate not in RATES:
            raise ValueError(f"unknown rate '{rate}', expected fnr or fpr")
        if missing := [f for f in predictions.findings if f not in threshold]:
            raise ValueError(f"there is no threshold for finding '{missing[0]}'")
        counted, wrong = RATES[rate]
        cuts = np.array([threshold[f] for f in predictions.findings])
        self.trial = predictions.labels.to_numpy() == counted  # NaN is neither
        self.error = self.trial & ((predictions.probability >= cuts) == wrong)
        self.sets, self.patients = list(sets.values()), predictions.patients
        self.trials, self.errors = (np.stack([part[rows].sum(axis=0) for rows in self.sets], axis=1)
                                    for part in (self.trial, self.error))

    @property
    def rates(self) -> np.ndarray:
        """Errors over trials, shape (k, g)."""
        with np.errstate(invalid="ignore"):  # nobody to err: NaN
            return self.errors / self.trials

    def resampled(self, seed: int, draws: int, chunk: int = 100) -> np.ndarray:
        """Rates of resampled patients, shape (draws, findings, sets); NaN where a draw has nobody."""
        people, (k, g) = self.patients.max() + 1, self.trials.shape
        member = sparse.csr_array((np.ones(sum(map(len, self.sets))), (
            np.concatenate(self.sets), np.repeat(np.arange(g), [len(rows) for rows in self.sets]))),
            shape=(len(self.patients), g))
        person = sparse.csr_array((np.ones(len(self.patients)), (self.patients, np.arange(len(self.patients)))),
                                  shape=(people, len(self.patients)))
        # Patients by (finding, set): few entries each, as a patient belongs to few sets.
        tables = [sparse.hstack([person @ member.multiply(part[:, [j]]) for j in range(k)], format="csr")
                  for part in (self.error, self.trial)]
        rng, rates = np.random.default_rng(seed), []
        for _ in range(0, draws, chunk):
            drawn = rng.integers(people, size=(chunk, people)) + people * np.arange(chunk)[:, None]
            times = np.bincount(drawn.ravel(), minlength=chunk * people).reshape(chunk, people).astype(float)
            errors, trials = (times @ table for table in tables)
            with np.errstate(invalid="ignore"):
                rates.append((errors / trials).reshape(chunk, k, g))
        return np.concatenate(rates)[:draws]
