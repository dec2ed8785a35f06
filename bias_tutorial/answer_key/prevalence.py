"""The key for groups that differ in prevalence, in label noise, or in how well a finding is shown; and for balancing.

One finding, several groups. The evidence is N(+-separation / 2, 1) given whether the finding is present; labels may be
wrong at rates of the group. The reader is the best one of the labelled training data: it says "present" when
P(label = 1 | evidence, and group if visible) exceeds a threshold. Errors are counted against the truth, and against
the labels of an equally noisy test set, which is what a study without better labels can measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

BALANCES = ("none", "counts", "reweighing", "group_by_finding")


@dataclass(frozen=True)
class Group:
    """One group of a study of one finding.

    Parameters
    ----------
    share : float
        Of everybody, at least 0.
    prevalence : float
        P(present), in [0, 1].
    missed, invented : float
        P(label 0 | present) and P(label 1 | absent), in [0, 1), together below 1.
    separation : float
        Distance of the two means of the evidence in its standard deviations, above 0. For severity N(+-1, 1) seen with
        noise of standard deviation ``t``: ``2 / sqrt(1 + t**2)``.
    """

    share: float
    prevalence: float
    missed: float = 0.0
    invented: float = 0.0
    separation: float = 2.0

    def __post_init__(self):
        for name, fits, expected in (("share", self.share >= 0, "at least 0"),
                                     ("prevalence", 0 <= self.prevalence <= 1, "in [0, 1]"),
                                     ("missed", 0 <= self.missed < 1, "in [0, 1)"),
                                     ("invented", 0 <= self.invented < 1, "in [0, 1)"),
                                     ("separation", 0 < self.separation < np.inf, "above 0 and finite")):
            if not fits:
                raise ValueError(f"{name} of a group must be {expected}, got {getattr(self, name)}")
        if not self.missed + self.invented < 1:
            raise ValueError("missed and invented must sum to less than 1, or labels tell the opposite, "
                             f"got {self.missed} and {self.invented}")


def finding_by_group(groups: Mapping[str, Group], threshold: float = 0.5, visible: bool = True,
                     balance: str = "none") -> pd.DataFrame:
    """Error rates of the best reader of the training data, by group.

    Parameters
    ----------
    groups : mapping of str to Group
        Shares must sum to 1.
    threshold : float
        On P(label = 1 | what the reader sees), in (0, 1).
    visible : bool
        Whether the reader can tell the groups apart. If not, all are read alike, and need one ``separation``.
    balance : {'none', 'counts', 'reweighing', 'group_by_finding'}
        What is done to the training data before. ``counts``: as many rows of every group; P(label | group) stays as it
        was, so a reader who sees the group does not change. ``reweighing``: shares stay, P(label | group) becomes the
        pooled one in all (Kamiran and Calders 2012). ``group_by_finding``: as many rows of every group with each label.

    Returns
    -------
    pandas.DataFrame
        Index ``group``. ``share``, ``prevalence``, ``labelled`` (P(label = 1 | group)); ``fnr`` and ``fpr`` against the
        truth, ``measured_fnr`` and ``measured_fpr`` against noisy labels; ``auc`` within the group, against the truth.
        All of the data as they were before any balancing. NaN where nobody could err.

    Raises
    ------
    ValueError
        For shares that do not sum to 1, a threshold outside (0, 1), an unknown balance, a label that some group never
        has while ``group_by_finding`` or ``reweighing`` needs it; for invisible groups whose separations differ, or
        whose labels taken together tell the opposite.

    Notes
    -----
    Write w(label, truth) for a group's weight in the training data and r for the density of the evidence given
    "present" over that given "absent". Bayes' rule: P(label = 1 | evidence) = (w11 r + w10) / ((w11 + w01) r + w10 +
    w00), which grows with r, so the reader has one cut on the evidence, in closed form. Without label noise and without
    balancing this is FNR = Phi((logit(threshold) - logit(prevalence)) / separation - separation / 2).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    if balance not in BALANCES:
        raise ValueError(f"unknown balance '{balance}', expected one of {', '.join(BALANCES)}")
    share, prevalence, missed, invented, separation = np.array(
        [(g.share, g.prevalence, g.missed, g.invented, g.separation) for g in groups.values()]).reshape(-1, 5).T
    if abs(share.sum() - 1) > 1e-6:
        raise ValueError(f"shares of the groups must sum to 1, got {share.sum():.6g}")
    if not visible and np.ptp(separation) > 0:
        raise ValueError(f"groups that cannot be told apart need one separation, got {sorted(set(separation))}")
    truth = np.stack([1 - prevalence, prevalence], axis=1)  # (group, truth)
    noise = np.stack([np.stack([1 - invented, missed], axis=1), np.stack([invented, 1 - missed], axis=1)], axis=1)
    cells = noise * truth[:, None, :]  # (group, label, truth): P(label, truth | group)
    labelled = cells.sum(axis=2)
    read = _balanced(cells * share[:, None, None], balance, list(groups))
    if not visible:
        read = np.broadcast_to(read.sum(axis=0), read.shape)
        if np.linalg.det(read[0]) < 0:
            raise ValueError("over all groups together a label of 1 is rarer where the finding is present: the labels "
                             "of groups that cannot be told apart tell the opposite")
    # P(label = 1 | evidence) > threshold where r * gain > cost.
    gain = read[:, 1, 1] - threshold * read[:, :, 1].sum(axis=1)
    cost = threshold * read[:, :, 0].sum(axis=1) - read[:, 1, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = np.where(cost < 0, -np.inf, np.where(gain <= 0, np.inf, np.log(cost / gain) / separation))
        says = np.stack([ndtr(-cut - separation / 2), ndtr(-cut + separation / 2)], axis=1)  # (group, truth)
        measured = np.einsum("glt,gt->gl", cells, says) / labelled
    fnr, fpr = (np.where(truth[:, t] > 0, rate, np.nan) for t, rate in ((1, 1 - says[:, 1]), (0, says[:, 0])))
    return pd.DataFrame({"share": share, "prevalence": prevalence, "labelled": labelled[:, 1], "fnr": fnr, "fpr": fpr,
                         "measured_fnr": 1 - measured[:, 1], "measured_fpr": measured[:, 0],
                         "auc": ndtr(separation / np.sqrt(2))}, index=pd.Index(groups, name="group"))


def _balanced(cells: np.ndarray, balance: str, names: list[str]) -> np.ndarray:
    """Weights (group, label, truth) of the training data after balancing on groups and labels."""
    totals = cells.sum(axis=2)
    if balance == "none":
        return cells
    if balance == "counts":
        if not totals.sum(axis=1).min() > 0:
            raise ValueError(f"group '{names[int(totals.sum(axis=1).argmin())]}' has nobody: no counts to balance")
        return cells / totals.sum(axis=1)[:, None, None]
    if not totals.min() > 0:
        group, label = np.argwhere(totals <= 0)[0]
        raise ValueError(f"group '{names[group]}' has nobody with label {label}: balance '{balance}' cannot make any")
    wanted = np.outer(totals.sum(axis=1), totals.sum(axis=0)) if balance == "reweighing" else np.ones(totals.shape)
    return cells * (wanted / totals)[:, :, None]
