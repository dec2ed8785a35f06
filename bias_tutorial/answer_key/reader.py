"""An ideal reader: what it sees, how it decides, and its exact results on a distribution of subjects.

Equal-variance signal detection (Green and Swets, "Signal Detection Theory and Psychophysics", 1966) with Bayes' rule.
Severity as seen is normal in each class, the means ``delta`` standard deviations apart, so the log-odds are linear in
it and the best reader says "disease" when ``delta * u + L > 0``: ``u`` is standardised severity about the midpoint of
the classes, ``L`` the log-odds of class shares and of what was seen of the attributes. Hence
P("disease" | class, seen) = Phi(+-delta / 2 + L / delta).

What is seen of an attribute is a *channel*: a matrix of P(observation | value), shape ``(observations, 2)``, columns
summing to 1. Perfect sight is the 2 x 2 identity and gives closed forms, invisibility is one row of ones, and noise a
row per node of a quadrature rule. All results are sums over channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import norm

from ..scenario import Effect, Scenario

_BINS = 512  # most distinct scores when an AUC is summed over pairs
_NEVER = 1e-9  # probability below which an observation counts as one that does not occur
_NEGLIGIBLE = 1e-13  # weight of a node that is left out of a sum


@dataclass(frozen=True)
class Sight:
    """How well the reader sees: noise added to the truth before it is read. The default is perfect sight.

    Parameters
    ----------
    severity_noise : float
        Standard deviation of the noise on severity, in units of severity, at least 0 and finite.
    attribute_noise : mapping of str to float
        Standard deviation of the noise on an attribute's strength (column ``<attribute>_strength`` of the table,
        exactly 0 for those who do not carry it), in units of the strength, at least 0. Infinite means invisible.
        Attributes that are not named are seen perfectly: every strength other than 0 gives its carrier away.
    """

    severity_noise: float = 0.0
    attribute_noise: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.severity_noise < np.inf:
            raise ValueError(f"severity_noise must be at least 0 and finite, got {self.severity_noise}")
        for name, noise in self.attribute_noise.items():
            if not noise >= 0:
                raise ValueError(f"attribute_noise['{name}'] must be at least 0, got {noise}")

    @classmethod
    def from_r_squared(cls, scenario: Scenario, severity: float = 1.0,
                       attributes: Mapping[str, float] | None = None) -> Sight:
        """Measured visibility: the noise at which the best linear read-out has the given held-out R squared.

        Parameters
        ----------
        scenario : Scenario
            The design; its *decorrelated* version is where R squared has to be measured.
        severity : float
            R squared of severity, in (0, 1].
        attributes : mapping of str to float, optional
            R squared of each attribute's strength, at most 1; 0 or less means invisible.

        Returns
        -------
        Sight
            Noise from ``R2 = V / (V + noise**2)``, with V the variance of the truth over decorrelated subjects.

        Raises
        ------
        ValueError
            For an R squared outside its range or an attribute that the scenario does not have.
        """
        attributes = dict(attributes or {})
        check_names(attributes, scenario)
        for name, value in {"severity": severity, **attributes}.items():
            if not value <= 1 or (name == "severity" and value <= 0):
                raise ValueError(f"R squared of '{name}' must be at most 1 (and above 0 for severity), got {value}")
        shares, means = np.asarray(scenario.class_shares), np.asarray(scenario.severity_means)
        variance = scenario.severity_sd**2 + shares @ (means - shares @ means) ** 2
        noise = {}
        for a in scenario.attributes:
            r2 = attributes.get(a.name, 1.0)
            # Half of the subjects carry it: a mixture of exactly 0 and N(mean, sd).
            spread = a.effect.sd**2 / 2 + a.effect.mean**2 / 4
            noise[a.name] = float(np.sqrt(spread * (1 / r2 - 1))) if r2 > 0 else np.inf
        return cls(float(np.sqrt(variance * (1 / severity - 1))), noise)


@dataclass(frozen=True)
class Evaluation:
    """Exact results of one reader on one distribution of subjects. Made by :func:`bias_tutorial.answer_key.solve`.

    Every result is a number in [0, 1] or a difference of two. It is NaN where it is not defined: a condition that
    nobody meets, or something seen that never occurs in training, so that training rewards no answer to it.

    Attributes
    ----------
    names : tuple of str
        The attributes, K of them.
    shares : numpy.ndarray
        P(class, attribute combination), shape ``(2, 2, ..., 2)`` with 1 + K axes.
    channels : tuple of numpy.ndarray
        P(observation | value) per attribute, each of shape ``(observations, 2)``.
    offset : numpy.ndarray
        What the observations add to the reader's score, shape ``(observations, ...)`` with K axes. The score is
        normal with standard deviation 1 and mean ``offset +- delta / 2``; above 0 the reader says "disease".
    delta : float
        Distance of the class means of severity as seen, in its standard deviations.
    """

    names: tuple[str, ...]
    shares: np.ndarray
    channels: tuple[np.ndarray, ...] = field(repr=False)
    offset: np.ndarray = field(repr=False)
    delta: float

    # ------------------------------------------------------------------ decisions
    @cached_property
    def positive_rate(self) -> np.ndarray:
        """P("disease" | class, attribute combination), shape as ``shares``."""
        back = [c.T for c in self.channels]
        unknown = np.isnan(self._scores(self.offset))
        rate = along(np.where(unknown, 0, ndtr(self._scores(self.offset))), back)
        return np.where(along(unknown.astype(float), back) > _NEVER, np.nan, np.clip(rate, 0, 1))

    @property
    def accuracy(self) -> float:
        """Share of right decisions over everybody."""
        return self._mean(self._correct, np.ones(self.shares.shape, bool))

    def rate(self, disease: int, **attributes: int) -> float:
        """P("disease" | class, attributes): the TPR of a group for ``disease=1``, its FPR for ``disease=0``.

        Parameters
        ----------
        disease : {0, 1}
            The true class.
        **attributes : {0, 1}
            Attribute values, by name; attributes that are not named are averaged as they occur on this distribution.

        Raises
        ------
        ValueError
            For an unknown attribute or a value other than 0 and 1.
        """
        axes, mask = ("disease", *self.names), np.ones(self.shares.shape, bool)
        for name, value in {"disease": disease, **attributes}.items():
            if name not in axes:
                raise ValueError(f"unknown attribute '{name}', expected one of: {', '.join(self.names) or 'none'}")
            if value not in (0, 1):
                raise ValueError(f"'{name}' must be 0 or 1, got {value!r}")
            mask &= self._values[axes.index(name)] == value
        return self._mean(self.positive_rate, mask)

    @property
    def gaps(self) -> pd.DataFrame:
        """``tpr_gap`` and ``fpr_gap`` per attribute: rate of carriers less rate of the others, each in [-1, 1]."""
        rows = {a: [self.rate(y, **{a: 1}) - self.rate(y, **{a: 0}) for y in (1, 0)] for a in self.names}
        return _frame(rows, ["tpr_gap", "fpr_gap"], "attribute")

    def dominance(self, first: str, second: str) -> pd.Series:
        """By how much the first attribute alone raises ``tpr`` and ``fpr`` above the second alone, each in [-1, 1].

        Other attributes are averaged as they occur on this distribution. Without a preference it is 0 only if both
        attributes are seen equally well and are equally informative.
        """
        if first == second:
            raise ValueError(f"dominance compares two different attributes, got '{first}' twice")
        rates = {label: self.rate(y, **{first: 1, second: 0}) - self.rate(y, **{first: 0, second: 1})
                 for label, y in (("tpr", 1), ("fpr", 0))}
        return pd.Series(rates, name=f"{first} over {second}")

    @property
    def alignment(self) -> pd.DataFrame:
        """Accuracy per attribute where its value equals the class (``aligned``) and where not (``conflicting``)."""
        y, *values = self._values
        rows = {a: [self._mean(self._correct, b == y), self._mean(self._correct, b != y)]
                for a, b in zip(self.names, values, strict=True)}
        return _frame(rows, ["aligned", "conflicting"], "attribute")

    @property
    def agreement(self) -> pd.DataFrame:
        """``share`` and ``accuracy`` by how many attributes equal the class: from K (all) to 0 (all conflict)."""
        agree = (self._values[1:] == self._values[0]).sum(axis=0)
        rows = {k: [float(self.shares[agree == k].sum()), self._mean(self._correct, agree == k)]
                for k in range(len(self.names), -1, -1)}
        return _frame(rows, ["share", "accuracy"], "agreeing")

    # ------------------------------------------------------------------ scores
    @cached_property
    def auc(self) -> float:
        """Area under the ROC curve of the score, over everybody. Where the log-odds are infinite, severity decides."""
        y = self._values[0]
        return self._auc(self.shares * y, self.shares * (1 - y))

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row per attribute combination: ``share``, ``prevalence``, ``accuracy``, ``tpr``, ``fpr`` and ``auc``.

        Prevalence is P(disease | group). Accuracy within disease is ``tpr``, within no disease ``1 - fpr``. The rates
        and the AUC do not depend on prevalence, so they are given also where one class is empty.
        """
        rows = []
        for b in np.ndindex(self.shares.shape[1:]):
            here = np.zeros(self.shares.shape)
            here[(slice(None), *b)] = 1
            share = self.shares[(slice(None), *b)]
            fpr, tpr = self.positive_rate[(slice(None), *b)]
            rows.append((*b, share.sum(), share[1] / share.sum() if share.any() else np.nan,
                         self._mean(self._correct, here == 1), tpr, fpr,
                         self._auc(here * self._values[0], here * (1 - self._values[0]))))
        return pd.DataFrame(rows, columns=[*self.names, "share", "prevalence", "accuracy", "tpr", "fpr", "auc"])

    @cached_property
    def probe_floors(self) -> pd.DataFrame:
        """How well the disease prediction "predicts" each attribute: ``accuracy`` (decision) and ``auc`` (score).

        A probe of an attribute that does no better on the same subjects has shown nothing beyond disease.
        """
        rows = {}
        for name, b in zip(self.names, self._values[1:], strict=True):
            hit = np.where(b == 1, self.positive_rate, 1 - self.positive_rate)
            rows[name] = [self._mean(hit, b >= 0), self._auc(self.shares * b, self.shares * (1 - b))]
        return _frame(rows, ["accuracy", "auc"], "attribute")

    # ------------------------------------------------------------------ inside
    @property
    def _values(self) -> np.ndarray:
        return np.indices(self.shares.shape)

    @property
    def _correct(self) -> np.ndarray:
        return np.stack([1 - self.positive_rate[0], self.positive_rate[1]])

    def _mean(self, values: np.ndarray, mask: np.ndarray) -> float:
        # Cells that nobody is in must not count, even where their own value is not defined.
        mask = mask & (self.shares > 0)
        return float(np.average(values[mask], weights=self.shares[mask])) if mask.any() else float("nan")

    def _scores(self, offset: np.ndarray) -> np.ndarray:
        """Mean score per class and observation, shape ``(2, observations, ...)``."""
        return np.stack([offset - self.delta / 2, offset + self.delta / 2])

    def _auc(self, positive: np.ndarray, negative: np.ndarray) -> float:
        """P(score of a positive > score of a negative), each side given as weights over (class, combination)."""
        offset, finite = self.offset, np.isfinite(self.offset)
        # 20 standard deviations beyond the rest the ranking is certain; equally infinite log-odds stay tied.
        low, high = (offset[finite].min(), offset[finite].max()) if finite.any() else (0.0, 0.0)
        scores = self._scores(np.nan_to_num(offset, nan=0.0, neginf=low - 20, posinf=high + 20))
        unknown = np.broadcast_to(np.isnan(offset), scores.shape)
        sides = []
        for weights in (positive, negative):
            weights = along(weights, self.channels)
            if not weights.sum() > 0 or weights[unknown].sum() > _NEVER * weights.sum():
                return float("nan")
            used = (weights > _NEGLIGIBLE * weights.sum()) & ~unknown
            sides.append(_summarised(scores[used], weights[used] / weights[used].sum()))
        (one, share_one), (other, share_other) = sides
        return float(share_one @ ndtr((one[:, None] - other) / np.sqrt(2)) @ share_other)


# ---------------------------------------------------------------------- building readers
def evaluate(scenario: Scenario, channels: Sequence[np.ndarray], offset: np.ndarray, delta: float) -> Evaluation:
    """Evaluate a reader on a design."""
    return Evaluation(scenario.attribute_names, class_and_attribute_shares(scenario), tuple(channels), offset, delta)


def best_offset(scenario: Scenario, channels: Sequence[np.ndarray], delta: float) -> np.ndarray:
    """Bayes-optimal offset after training on a design: log-odds of what is seen, over ``delta``.

    NaN where an observation never occurs in training. Shape ``(observations, ...)`` with one axis per attribute.
    """
    # A common factor per observation leaves the odds as they are and keeps products of tiny densities above 0.
    likelihood = along(class_and_attribute_shares(scenario), [c / c.max(axis=1, keepdims=True) for c in channels])
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(likelihood)
        return (log[1] - log[0]) / delta


def class_and_attribute_shares(scenario: Scenario) -> np.ndarray:
    """P(class, attribute combination), shape ``(2, 2, ..., 2)``."""
    joint = scenario.joint_table()
    return joint * np.reshape(scenario.class_shares, (2,) + (1,) * (joint.ndim - 1))


def separation(scenario: Scenario, severity_noise: float) -> float:
    """Distance of the class means of severity as seen, in its standard deviations; checks that the key is defined."""
    if len(scenario.class_shares) != 2:
        raise ValueError(f"the answer key is defined for two classes, scenario '{scenario.name}' has "
                         f"{len(scenario.class_shares)}")
    low, high = scenario.severity_means
    if not high > low:
        raise ValueError(f"the answer key needs a higher mean severity in class 1 than in class 0, got {(low, high)}")
    return float((high - low) / np.hypot(scenario.severity_sd, severity_noise))


def channel(effect: Effect, noise: float, size: int, panels: int = 12) -> np.ndarray:
    """P(observation | value) of one attribute, shape ``(observations, 2)``, with at most ``size`` rows if noisy.

    ``panels`` cover nine standard deviations to either side of each mean; sums of functions with a kink need more.
    """
    if np.isinf(noise) or (effect.mean == 0 and effect.sd == 0):
        return np.ones((1, 2))
    if noise == 0:
        return np.eye(2)
    # On panels of one or two standard deviations both densities and their ratio are smooth.
    total, grid = np.hypot(effect.sd, noise), np.linspace(-9, 9, panels + 1)
    edges = np.unique(np.concatenate([noise * grid, effect.mean + total * grid]))
    node, weight = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges)[:, None] / 2
    seen, weight = (edges[:-1, None] + half * (1 + node)).ravel(), (half * weight).ravel()
    table = np.column_stack([norm.pdf(seen, 0, noise), norm.pdf(seen, effect.mean, total)]) * weight[:, None]
    table = table[table.max(axis=1) > _NEGLIGIBLE]
    if len(table) > size:
        # Observations that tell nearly the same become one; the angle resolves rare and common ones alike.
        angle = np.arctan2(*np.sqrt(table.T[::-1])) / (np.pi / 2)
        place = np.minimum((angle * size).astype(int), size - 1)
        table = np.column_stack([np.bincount(place, column, minlength=size) for column in table.T])
        table = table[table.max(axis=1) > 0]
    return table / table.sum(axis=0)


def along(array: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Apply one matrix to each axis of an array after the first."""
    for axis, matrix in enumerate(matrices, start=1):
        array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    return array


def check_names(names, scenario: Scenario) -> None:
    """Refuse attributes that the scenario does not have."""
    for name in names:
        if name not in scenario.attribute_names:
            raise ValueError(f"unknown attribute '{name}', scenario '{scenario.name}' has: "
                             f"{', '.join(scenario.attribute_names) or 'none'}")


def _summarised(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most ``_BINS`` distinct scores with their weights: neighbours merge, narrow and light bins keep the AUC."""
    order = np.argsort(scores)
    scores, weights = scores[order], weights[order]
    if len(scores) <= _BINS:
        return scores, weights
    width = max(scores[-1] - scores[0], np.finfo(float).tiny)
    half = _BINS // 2 - 1
    place = ((scores - scores[0]) / width * half).astype(int) + (np.cumsum(weights) * half).astype(int)
    total = np.bincount(place, weights)
    used = total > 0
    return (np.bincount(place, weights * scores)[used] / total[used]), total[used]


def _frame(rows: Mapping, columns: list[str], index: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis(index)
