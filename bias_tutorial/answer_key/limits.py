"""Keys in closed form for single questions, and the limit of a target that is often mistaken for the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtr

from ..scenario import Scenario, preset
from .reader import class_and_attribute_shares, evaluate
from .reader import separation as severity_separation


def prevalence_by_group(prevalences: Mapping[str, float], threshold: float = 0.5, visible: bool = True,
                        shares: Mapping[str, float] | None = None, separation: float = 2.0) -> pd.DataFrame:
    """Error rates by group when groups differ in nothing but how common the disease is.

    The closed form of :func:`bias_tutorial.answer_key.finding_by_group` for right labels seen equally well; a test
    holds the two together.

    Parameters
    ----------
    prevalences : mapping of str to float
        P(disease | group) in the training data, each in [0, 1].
    threshold : float
        The reader says "disease" when P(disease | seen) exceeds this, in (0, 1).
    visible : bool
        Whether the reader can tell the groups apart; if not, the pooled prevalence acts in all of them.
    shares : mapping of str to float, optional
        Share of each group, equal when left out. Changing the shares (balancing counts) leaves the results of a reader
        that sees the group as they are; giving all groups one prevalence (balancing group by finding) makes them equal.
    separation : float
        Distance of the two class means of the evidence, in its standard deviations, above 0.

    Returns
    -------
    pandas.DataFrame
        Index ``group``; ``share``, ``prevalence``, ``fnr``, ``fpr`` and ``accuracy`` at the group's own prevalence.
        Closed form: FNR = Phi((logit(threshold) - logit(prevalence)) / separation - separation / 2).
    """
    if not prevalences:
        raise ValueError("prevalences must name at least one group")
    shares = dict.fromkeys(prevalences, 1 / len(prevalences)) if shares is None else shares
    if set(shares) != set(prevalences):
        raise ValueError(f"shares must name the groups {sorted(prevalences)}, got {sorted(shares)}")
    pi = _probabilities(list(prevalences.values()), "prevalence")
    share = _probabilities([shares[g] for g in prevalences], "share")
    if abs(share.sum() - 1) > 1e-6:
        raise ValueError(f"shares must sum to 1, got {share.sum():.6g}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    _check_positive(separation)
    cut = (logit(threshold) - logit(pi if visible else np.full(len(pi), share @ pi))) / separation
    fnr, fpr = ndtr(cut - separation / 2), ndtr(-cut - separation / 2)
    return pd.DataFrame({"share": share, "prevalence": pi, "fnr": fnr, "fpr": fpr,
                         "accuracy": pi * (1 - fnr) + (1 - pi) * (1 - fpr)}, index=pd.Index(prevalences, name="group"))


def shift_auc(dose: float) -> float:
    """AUC of the best reader of a place that is normal in everybody and shifted in some.

    Parameters
    ----------
    dose : float
        Distance of the two means in standard deviations, at least 0. At 0 the AUC is .5.

    Raises
    ------
    ValueError
        For a dose below 0.

    Notes
    -----
    Phi(dose / sqrt 2), whatever the share of the shifted (Green and Swets, Signal detection theory and psychophysics,
    1966: d' and the area under the curve).
    """
    if not dose >= 0:
        raise ValueError(f"dose must be at least 0, got {dose}")
    return float(ndtr(dose / np.sqrt(2)))


def margin_ratio(p: float | Sequence[float], separation: float = 2.0) -> pd.DataFrame:
    """Mean distance from the boundary towards the true class: conflicting groups against aligned ones.

    For a perfect reader who uses the attribute as the training data reward it: its boundary in severity lies
    ``logit(p) / separation`` lower where the attribute is present, and as much higher where it is not.

    Parameters
    ----------
    p : float or sequence of float
        Agreement as in :func:`shortcut_curve`, each strictly between 0 and 1.
    separation : float
        Distance of the two class means of the severity, in its standard deviations, above 0.

    Returns
    -------
    pandas.DataFrame
        ``p``; ``aligned`` and ``conflicting``, the mean margins in standard deviations; ``ratio``, the second over the
        first: 1 at p = .5, 0 where the attribute outweighs the mean severity.
    """
    p = _probabilities(p, "p")
    _check_positive(separation)
    if ((p == 0) | (p == 1)).any():
        raise ValueError("p must lie strictly between 0 and 1: there the attribute alone decides")
    shift = logit(p) / separation
    aligned, conflicting = separation / 2 + shift, separation / 2 - shift
    return pd.DataFrame({"p": p, "aligned": aligned, "conflicting": conflicting, "ratio": conflicting / aligned})


def marginal_independence(p_values: float | Sequence[float], scenario: Scenario | None = None) -> pd.DataFrame:
    """The wrong target: the best reader whose answer is independent of the attributes over the *confounded* data.

    In each attribute group severity is replaced by its quantile within that group, and one cut on the quantile, the
    most accurate, serves all groups. Where attribute and class are related, this reverses the gap.

    Parameters
    ----------
    p_values : float or sequence of float
        Agreement p as in :func:`shortcut_curve`, each strictly between 0 and 1. At 0 and 1 attribute and class are
        the same thing, and every cut is as accurate as any other.
    scenario : Scenario, optional
        The design whose p is moved; one morphology bias when left out. Seen perfectly.

    Returns
    -------
    pandas.DataFrame
        One row per p: ``p``; ``overall``, accuracy on the confounded distribution; ``tpr_gap`` and ``fpr_gap`` of the
        first attribute and accuracy, ``decorrelated``, on the decorrelated design.

    Raises
    ------
    ValueError
        For p outside (0, 1) or a scenario without an attribute.

    Notes
    -----
    Zhao and Gordon, "Inherent tradeoffs in learning fair representations" (NeurIPS 2019): where groups differ in how
    common the class is, the errors of such a reader in two groups sum to at least that difference, here |2 p - 1|.
    The aim is independence *given the class*, which the wanted reader has.
    """
    scenario = preset("near") if scenario is None else scenario
    if not scenario.attributes:
        raise ValueError(f"scenario '{scenario.name}' has no bias attribute to be independent of")
    rows = []
    for p in _probabilities(p_values, "p"):
        if p in (0, 1):
            raise ValueError(f"p must lie strictly between 0 and 1, got {p:g}: there every cut is equally accurate")
        confounded = scenario.at(float(p))
        delta = severity_separation(confounded, 0.0)
        cuts = _independent_cuts(class_and_attribute_shares(confounded), delta)
        seen = [np.eye(2)] * len(scenario.attributes)
        same, level = (evaluate(design, seen, -cuts, delta) for design in (confounded, confounded.decorrelated()))
        rows.append((p, same.accuracy, *level.gaps.iloc[0], level.accuracy))
    return pd.DataFrame(rows, columns=["p", "overall", "tpr_gap", "fpr_gap", "decorrelated"])


def _independent_cuts(shares: np.ndarray, delta: float) -> np.ndarray:
    """Cut on standardised severity per attribute combination: the same, most accurate positive rate in all."""
    group = shares.sum(axis=0).ravel()
    prevalence = shares[1].ravel() / group

    def cuts(rate: float) -> np.ndarray:
        def excess(cut: float, pi: float) -> float:
            return pi * ndtr(delta / 2 - cut) + (1 - pi) * ndtr(-delta / 2 - cut) - rate
        return np.array([brentq(excess, -delta - 40, delta + 40, args=(pi,), xtol=1e-13) for pi in prevalence])

    # One more positive in each group gains P(disease | cut) - P(no disease | cut): from 1 down to -1 as the rate grows.
    best = brentq(lambda rate: group @ (2 * expit(logit(prevalence) + delta * cuts(rate)) - 1), 1e-12, 1 - 1e-12)
    return cuts(best).reshape(shares.shape[1:])


def _probabilities(values, what: str) -> np.ndarray:
    values = np.atleast_1d(np.asarray(values, dtype=float))
    bad = values[~((values >= 0) & (values <= 1))]
    if bad.size:
        raise ValueError(f"{what} must lie in [0, 1], got {bad[0]:g}")
    return values


def _check_positive(separation: float) -> None:
    if not 0 < separation < np.inf:
        raise ValueError(f"separation must be above 0 and finite, got {separation}")
