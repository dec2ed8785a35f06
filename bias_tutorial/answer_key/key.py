"""The key of a design: the rewarded and the wanted reader, solved and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..scenario import Scenario, preset
from .reader import Evaluation, Sight, best_offset, channel, check_names, evaluate, separation

_NODES = 1_000_000  # most points of the joint grid over all attributes seen with noise


@dataclass(frozen=True)
class Reference:
    """One reference line: the same reader on the training distribution, decorrelated, and on a given test design."""

    same: Evaluation
    decorrelated: Evaluation
    test: Evaluation | None = None


@dataclass(frozen=True)
class AnswerKey:
    """Both reference lines of a scenario at a given sight. Made by :func:`solve`."""

    scenario: Scenario
    sight: Sight
    rewarded: Reference
    wanted: Reference

    @property
    def summary(self) -> pd.DataFrame:
        """Rows ``rewarded`` and ``wanted``: accuracy and AUC, on the same distribution and decorrelated."""
        rows = {name: {f"{what}_{where}": getattr(getattr(line, where), what)
                       for what in ("accuracy", "auc") for where in ("same", "decorrelated")}
                for name, line in (("rewarded", self.rewarded), ("wanted", self.wanted))}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("reference")


def solve(scenario: Scenario, sight: Sight | None = None, test: Scenario | None = None) -> AnswerKey:
    """Answer key of a design: exact results of the rewarded and of the wanted reader.

    Parameters
    ----------
    scenario : Scenario
        The training design, with two classes and severity higher in the second; any class shares, prevalences and
        attributes, independent given the class or with a joint table.
    sight : Sight, optional
        How well severity and attributes are seen; perfectly when left out. Both readers see equally well.
    test : Scenario, optional
        A further design to evaluate on, for instance one without any bias. It may differ in class shares, prevalences
        and joint table only: the readers keep what training taught them.

    Returns
    -------
    AnswerKey
        ``.rewarded`` and ``.wanted``, each with the evaluations ``.same``, ``.decorrelated`` and ``.test``.

    Raises
    ------
    ValueError
        Not two classes, severity not higher in the second, unknown attribute in ``sight``, or unlike test design.

    Notes
    -----
    For one perfectly visible attribute with agreement p, equal classes and severity N(-1, 1) and N(1, 1): accuracy is
    Phi(1 + logit(p) / 2) where attribute and class agree and Phi(1 - logit(p) / 2) where they conflict. A prevalence of
    exactly 0 or 1 makes the log-odds infinite, which is allowed. Attributes seen with noise are integrated numerically:
    up to two of them to 1e-6 or better. With more the grid grows coarser: at p = .95 accuracy is then within 1e-4 and
    gaps within 1e-3 for up to five.
    """
    sight = Sight() if sight is None else sight
    delta = separation(scenario, sight.severity_noise)
    check_names(sight.attribute_noise, scenario)
    designs = {"same": scenario, "decorrelated": scenario.decorrelated()}
    if test is not None:
        _check_test(scenario, test)
        designs["test"] = test
    noise = {a.name: sight.attribute_noise.get(a.name, 0.0) for a in scenario.attributes}
    noisy = sum(0 < s < np.inf for s in noise.values())
    size = max(2, int(_NODES ** (1 / max(noisy, 1)) + 1e-9))
    seen = [channel(a.effect, noise[a.name], size) for a in scenario.attributes]
    blind = [np.ones((1, 2))] * len(seen)
    lines = []
    for channels in (seen, blind):
        offset = best_offset(scenario, channels, delta)
        lines.append(Reference(**{k: evaluate(design, channels, offset, delta) for k, design in designs.items()}))
    return AnswerKey(scenario, sight, *lines)


def shortcut_curve(p_values: float | Sequence[float], scenario: Scenario | None = None, sight: Sight | None = None,
                   attribute: str | None = None) -> pd.DataFrame:
    """The rewarded reader over p, the agreement between attributes and class, beside the wanted line.

    Parameters
    ----------
    p_values : float or sequence of float
        P(attribute | disease), with P(attribute | no disease) = 1 - p, for every attribute; each in [0, 1].
    scenario : Scenario, optional
        The design whose p is moved; one morphology bias when left out.
    sight : Sight, optional
        Perfect when left out.
    attribute : str, optional
        Whose gaps to report; the first when left out.

    Returns
    -------
    pandas.DataFrame
        One row per p: ``p``; ``aligned`` and ``conflicting``, accuracy where all attributes agree with the class and
        where all conflict; ``overall``, accuracy on the same distribution; ``tpr_gap``, ``fpr_gap``, ``decorrelated``;
        ``wanted``, accuracy of the wanted reader on the same distribution. ``aligned``, ``conflicting`` and the gaps
        are taken on the decorrelated design, where no group is empty.

    Raises
    ------
    ValueError
        For p outside [0, 1], an unknown attribute, or a scenario without any.
    """
    scenario = preset("near") if scenario is None else scenario
    if not scenario.attributes:
        raise ValueError(f"scenario '{scenario.name}' has no bias attribute, so there is no curve over p")
    attribute = scenario.attribute_names[0] if attribute is None else attribute
    check_names([attribute], scenario)
    rows = []
    for p in np.atleast_1d(p_values):
        key = solve(scenario.at(float(p)), sight)
        same, level = key.rewarded.same, key.rewarded.decorrelated
        agreement = level.agreement["accuracy"]
        rows.append((float(p), agreement.iloc[0], agreement.iloc[-1], same.accuracy, *level.gaps.loc[attribute],
                     level.accuracy, key.wanted.same.accuracy))
    return pd.DataFrame(rows, columns=["p", "aligned", "conflicting", "overall", "tpr_gap", "fpr_gap", "decorrelated",
                                       "wanted"])


def read_out_ceiling(scenario: Scenario, sight: Sight) -> pd.DataFrame:
    """Best possible read-out of each attribute from its own strength as seen, on decorrelated data.

    Parameters
    ----------
    scenario : Scenario
        The design; only its effects matter.
    sight : Sight
        Noise on the attributes' strengths.

    Returns
    -------
    pandas.DataFrame
        Index ``attribute``; ``accuracy`` and ``auc``, each in [.5, 1] (Neyman and Pearson: no read-out does better).
    """
    check_names(sight.attribute_noise, scenario)
    rows = {}
    for a in scenario.attributes:
        seen = channel(a.effect, sight.attribute_noise.get(a.name, 0.0), _NODES, panels=1200)
        seen = seen[np.argsort(np.arctan2(seen[:, 1], seen[:, 0]))]
        rows[a.name] = [seen.max(axis=1).sum() / 2, seen[:, 1] @ (np.cumsum(seen[:, 0]) - seen[:, 0] / 2)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["accuracy", "auc"]).rename_axis("attribute")


def _check_test(scenario: Scenario, test: Scenario) -> None:
    """A reader can be tested only where severity and effects look as they did in training."""
    separation(test, 0.0)
    for what in ("severity_means", "severity_sd", "attribute_names"):
        if getattr(test, what) != getattr(scenario, what):
            raise ValueError(f"the test design must share {what} with the training design, got {getattr(test, what)} "
                             f"for {getattr(scenario, what)}")
    for a, b in zip(scenario.attributes, test.attributes, strict=True):
        if a.effect != b.effect:
            raise ValueError(f"attribute '{a.name}' must have the same effect in the test design, got {b.effect} "
                             f"for {a.effect}")
