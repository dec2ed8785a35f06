"""Error rates and AUCs as one number a patient.

The mean of the numbers is the rate; resampling them gives its interval, and differences and averages of rates are plain
arithmetic. Each is the rate plus the patient's influence on it: ratios of means and AUCs, linearised.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from ..findings import Predictions
from ..simulate.cxr_embeddings import FINDINGS


class Exam(NamedTuple):
    """Predictions for a test cohort as arrays; see :func:`rate` and :func:`auc`."""

    label: np.ndarray
    probability: np.ndarray
    patient: np.ndarray
    groups: dict[str, np.ndarray]


def exam(predictions: Predictions) -> Exam:
    """Predictions with the rows of every group."""
    return Exam(predictions.labels.to_numpy() == 1, predictions.probability, predictions.patients, predictions.sets())


def _by_patient(estimate: float, influence: np.ndarray, patient: np.ndarray) -> np.ndarray:
    people = patient.max() + 1
    return estimate + np.bincount(patient, influence, minlength=people) * people / len(patient)


def rate(found: Exam, finding: str, cut: float, group: str, what: str = "fnr") -> np.ndarray:
    """FNR or FPR of a group, one number a patient: their mean is the rate, and resampling them gives its interval.

    The rate plus each patient's influence on it (a ratio of means, linearised), so that differences and averages of
    rates are plain arithmetic. Shape (patients,).
    """
    k, inside = FINDINGS.index(finding), np.zeros(len(found.patient), dtype=bool)
    inside[found.groups[group]] = True
    trial = inside & (found.label[:, k] == (what == "fnr"))
    error = trial & ((found.probability[:, k] >= cut) == (what == "fpr"))
    if not trial.any():
        raise ValueError(f"group '{group}': no row that counts towards the {what} of '{finding}'; more test rows are "
                         "needed")
    value = error.sum() / trial.sum()
    return _by_patient(value, (error - value * trial) / trial.mean(), found.patient)


def auc(found: Exam, finding: str, weight: np.ndarray) -> np.ndarray:
    """AUC of a finding over weighted rows, one number a patient as :func:`rate` gives them.

    A patient's influence follows from the share of the other class that each row ranks rightly against (DeLong et
    al., Biometrics 1988; summed over a patient's rows as in Obuchowski, Biometrics 1997).
    """
    k = FINDINGS.index(finding)
    place = rankdata(found.probability[:, k], method="dense") - 1
    sides = [found.label[:, k] * weight, ~found.label[:, k] * weight]
    (above, total), (below, other) = ((np.bincount(place, side), side.sum()) for side in sides)
    if not total * other > 0:
        raise ValueError(f"'{finding}': rows with and without it are needed for an AUC; more rows are needed")
    beaten = (np.cumsum(below) - below / 2)[place] / other
    missed = (total - np.cumsum(above) + above / 2)[place] / total
    value = float((sides[0] * beaten).sum() / total)
    n = len(place)
    return _by_patient(value, n * (sides[0] * (beaten - value) / total + sides[1] * (missed - value) / other),
                       found.patient)
