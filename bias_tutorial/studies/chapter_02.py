"""Measures behind chapter 2: networks trained on biased cohorts, judged on counterfactual twins.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is new subjects in every cohort, new
weights and a new order. All networks of a seed are judged on the same decorrelated test subjects, each of them seen as
every one of its twins: so every accuracy "on the same distribution" is the expected one, twins weighted by how often
the design has them, and every difference between networks is paired over patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from torch import nn

from .. import answer_key, networks, simulate
from ..cohort import Cohort
from ..evaluation import dominance, patient_bootstrap, twin_gaps, visibility
from ..scenario import Effect, Scenario, preset
from ..training import Recipe, fit, predict
from .chapter_01 import READING, TEST, TRAINING, cohort_seed

Twin = tuple[int, ...]
"""Values of a scenario's attributes, in order: which effects are on."""


# ---------------------------------------------------------------------- training and looking
def training_cohort(scenario: Scenario, n_train: int, seed: int, shape: tuple[int, ...]) -> Cohort:
    """``n_train`` images to learn from and half as many to validate on (the published 50/25, Stanley et al. 2025)."""
    scenario = replace(scenario, split_shares=(2 / 3, 1 / 3, 0.0))
    return simulate.brain(scenario, n_train * 3 // 2, cohort_seed(seed, TRAINING), shape)


def train(scenario: Scenario, settings: Mapping[str, Any], seed: int, progress: bool = False) -> nn.Module:
    """Draw a cohort of a scenario and train a network on it.

    Settings: ``n_train``; ``shape``; ``recipe``, fields of :class:`Recipe` that are not the default; ``architecture``.
    """
    shape = tuple(settings["shape"])
    network = networks.build(settings.get("architecture", "modern"), len(shape), seed=seed)
    fit(network, training_cohort(scenario, settings["n_train"], seed, shape),
        recipe=Recipe(**settings.get("recipe", {})), seed=seed, progress=progress)
    return network


def scores_on_twins(trained: Mapping[str, nn.Module], scenario: Scenario, settings: Mapping[str, Any],
                    seed: int) -> tuple[Cohort, dict[str, dict[Twin, np.ndarray]]]:
    """P(disease) that each network gives each twin of the seed's test subjects.

    Returns
    -------
    Cohort
        The decorrelated test subjects as they are.
    dict
        For every network, for every combination of the scenario's attributes, an array of shape ``(n_test,)``.
    """
    names = scenario.attribute_names
    test = simulate.brain(scenario.decorrelated(), settings["n_test"], cohort_seed(seed, TEST),
                          tuple(settings["shape"]))
    scores: dict[str, dict[Twin, np.ndarray]] = {name: {} for name in trained}
    for twin in product((0, 1), repeat=len(names)):
        seen = simulate.counterfactual(test, **dict(zip(names, twin, strict=True)))
        for name, network in trained.items():
            scores[name][twin] = predict(network, seen, precision=Recipe(**settings.get("recipe", {})).precision)[:, 1]
    return test, scores


# ---------------------------------------------------------------------- what the scores say
def judge(disease: np.ndarray, off: np.ndarray, on: np.ndarray, p: float, no_bias: np.ndarray | None = None,
          seed: int = 0) -> dict[str, Any]:
    """Results of a network on twins with one attribute off and on, with intervals over patients.

    Parameters
    ----------
    disease : numpy.ndarray, shape (n,)
        True class.
    off, on : numpy.ndarray, shape (n,)
        P(disease) given to each subject without the attribute, and with it.
    p : float
        Agreement of attribute and class on the training distribution.
    no_bias : numpy.ndarray, shape (n,), optional
        Decisions of the network trained without bias for the same subjects without the attribute.
    seed : int
        Of the bootstrap.
    """
    right = {value: ((score > 0.5) == disease).astype(float) for value, score in ((0, off), (1, on))}
    aligned = np.where(disease == 1, right[1], right[0])
    conflicting = np.where(disease == 1, right[0], right[1])
    values = {"aligned": aligned, "conflicting": conflicting, "same": p * aligned + (1 - p) * conflicting,
              "decorrelated": (aligned + conflicting) / 2}
    if no_bias is not None:
        plain = (no_bias == disease).astype(float)
        values |= {f"{name}_change": value - plain for name, value in values.items()}
    out = with_intervals(values, seed)
    out |= _rows(twin_gaps(disease, on > 0.5, off > 0.5, seed))
    for name, score in (("auc_without", off), ("auc_with", on)):
        out[name] = float(roc_auc_score(disease, score))
    return out


def with_intervals(values: Mapping[str, np.ndarray], seed: int, draws: int = 2000) -> dict[str, Any]:
    """Means of values with one number a patient, each with its 95% interval under ``<name>_interval``."""
    columns = np.column_stack(list(values.values()))
    ends = patient_bootstrap(columns, seed, draws)
    out: dict[str, Any] = {}
    for name, mean, interval in zip(values, columns.mean(0), ends.T, strict=True):
        out |= {name: float(mean), f"{name}_interval": interval.tolist()}
    return out


def _rows(table, start: str = "", end: str = "", less: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Rows of a table of ``evaluation`` as flat results, less a reference that is known without error."""
    out: dict[str, Any] = {}
    for name, row in table.iterrows():
        known = 0.0 if less is None else float(less[name])
        value = "gap" if "gap" in row else "difference"
        out |= {f"{start}{name}{end}": float(row[value]) - known,
                f"{start}{name}{end}_interval": [float(row[side]) - known for side in ("low", "high")]}
    return out


# ---------------------------------------------------------------------- (a), (b), (e)
def shortcuts(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Networks trained on no bias, shape, shape near the disease, intensity and both, held against the key.

    Settings: ``p``, ``n_train``, ``n_test``, ``n_read``, ``shape``, ``recipe``, and ``matched``, the stretch factor at
    which intensity alone was about as strong as shape alone on pilot seeds. Results are called
    ``<network>_<quantity>``, and ``matched_<network>_<quantity>`` at the matched factor.
    """
    p, both = settings["p"], preset("both", settings["p"])
    morphology, intensity = both.attributes
    weak = replace(both, attributes=(morphology, replace(intensity, effect=Effect(settings["matched"]))))
    families = {"": (both, {"no_bias": (), "far": (0,), "intensity": (1,), "both": (0, 1)}),
                "_near": (preset("near", p), {"near": (0,)}),
                "_matched": (weak, {"matched_intensity": (1,), "matched_both": (0, 1)})}
    out: dict[str, Any] = {}
    decided: dict[str, dict[Twin, np.ndarray]] = {}
    for family, (scenario, carried) in families.items():
        designs = {name: replace(scenario, attributes=tuple(scenario.attributes[k] for k in which))
                   for name, which in carried.items()}
        trained = {name: train(design, settings, seed) for name, design in designs.items()}
        test, scores = scores_on_twins(trained, scenario, settings, seed)
        decided |= {name: {twin: score > 0.5 for twin, score in by.items()} for name, by in scores.items()}
        y, off = test.table["disease"].to_numpy(), (0,) * len(scenario.attributes)
        r2 = None if family else _visible(scenario, test, settings, seed)
        out |= {f"r2_{name}": value for name, value in (r2 or {}).items()}
        for name, which in carried.items():
            if not which:
                result = _no_bias(test, decided[name], r2["severity"], seed)
            elif len(which) == 1:
                on = tuple(int(k in which) for k in range(len(off)))
                result = judge(y, scores[name][off], scores[name][on], p, decided["no_bias"][0, 0], seed)
                result |= _beside_key(result["tpr_gap"], designs[name], r2)
            else:
                alone = decided["far"], decided[name.replace("both", "intensity")]
                result = judge_both(y, decided[name], alone, designs[name], r2, seed)
            out |= {f"{name}_{k}": v for k, v in result.items()}
    return out


def _visible(scenario: Scenario, test: Cohort, settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Measured visibility of severity and of each attribute, by name."""
    teach = simulate.brain(scenario.decorrelated(), settings["n_read"], cohort_seed(seed, READING),
                           tuple(settings["shape"]))
    names = ["severity", *(f"{a}_strength" for a in scenario.attribute_names)]
    some = test.subset(range(min(len(test), settings["n_read"])))
    return {name.removesuffix("_strength"): value for name, value in visibility(teach, some, names).items()}


def _sights(design: Scenario, r2: Mapping[str, float] | None) -> dict[str, answer_key.Sight | None]:
    """Perfect sight, and the sight at measured visibility where it was measured."""
    if r2 is None:
        return {"": None}
    seen = {name: r2[name] for name in design.attribute_names}
    return {"": None, "_at_sight": answer_key.Sight.from_r_squared(design, r2["severity"], seen)}


def _beside_key(tpr_gap: float, design: Scenario, r2: Mapping[str, float] | None) -> dict[str, float]:
    """The key's gaps at perfect and at measured sight, and how far the network stays below them."""
    out: dict[str, float] = {}
    for name, sight in _sights(design, r2).items():
        gaps = answer_key.solve(design, sight).rewarded.decorrelated.gaps.iloc[0]
        out |= {f"key{name}_tpr_gap": float(gaps["tpr_gap"]), f"key{name}_fpr_gap": float(gaps["fpr_gap"]),
                f"shortfall{name}": float(gaps["tpr_gap"]) - tpr_gap}
    return out


def _no_bias(test: Cohort, decided: Mapping[Twin, np.ndarray], r2_severity: float, seed: int) -> dict[str, Any]:
    """The network that saw no bias: accuracy, gaps between groups that differ in nothing, and what effects do to it."""
    y, plain = test.table["disease"].to_numpy(), decided[0, 0]
    out = with_intervals({"accuracy": (plain == y).astype(float)}, seed)
    key = answer_key.solve(preset("no_bias"), answer_key.Sight.from_r_squared(preset("no_bias"), r2_severity))
    out |= {"shortfall": answer_key.solve(preset("no_bias")).wanted.same.accuracy - out["accuracy"],
            "shortfall_at_sight": key.wanted.same.accuracy - out["accuracy"]}
    label, rng = test.table["morphology"].to_numpy(), np.random.default_rng(seed)  # who would carry it; nobody does
    for name, value in (("label_tpr_gap", 1), ("label_fpr_gap", 0)):
        counts = [(int((y == value)[label == side].sum()), plain[(y == value) & (label == side)].mean())
                  for side in (1, 0)]
        again = np.subtract(*(rng.binomial(n, rate, 2000) / n for n, rate in counts))
        out |= {name: counts[0][1] - counts[1][1], f"{name}_interval": np.quantile(again, [0.025, 0.975]).tolist()}
    for name, twin in (("morphology", (1, 0)), ("intensity", (0, 1))):
        out |= _rows(twin_gaps(y, decided[twin], plain, seed), f"{name}_")
    return out


def judge_both(y: np.ndarray, decided: Mapping[Twin, np.ndarray], alone: tuple[Mapping[Twin, np.ndarray], ...],
               design: Scenario, r2: Mapping[str, float] | None, seed: int) -> dict[str, Any]:
    """Two biases at once: accuracy by how many agree with the class, gaps of each, and which one dominates.

    ``alone`` are the decisions of the networks that knew one bias each. ``dominance_..._beyond_alone`` is the dominance
    less what these two show: 0 if either bias weighs beside the other what it weighs alone.
    """
    right = {twin: (decision == y).astype(float) for twin, decision in decided.items()}
    values = {"aligned": np.where(y == 1, right[1, 1], right[0, 0]), "one_agrees": (right[0, 1] + right[1, 0]) / 2,
              "conflicting": np.where(y == 1, right[0, 0], right[1, 1]), "decorrelated": sum(right.values()) / 4}
    out = with_intervals(values, seed)
    for k, name in enumerate(design.attribute_names):
        sides = [np.mean([d for twin, d in decided.items() if twin[k] == value], axis=0) for value in (1, 0)]
        out |= _rows(twin_gaps(y, *sides, seed), f"{name}_")
    found = dominance(y, decided[0, 1], decided[1, 0], seed)
    out |= _rows(found, "dominance_")
    for name, sight in _sights(design, r2).items():
        key = answer_key.solve(design, sight).rewarded.decorrelated.dominance("intensity", "morphology")
        out |= {f"key{name}_dominance_{rate}": float(value) for rate, value in key.items()}
        out |= _rows(found, "dominance_", f"_less_key{name}", key)
    morphology, intensity = ({twin: d.astype(float) for twin, d in one.items()} for one in alone)
    preferred = decided[0, 1].astype(float) - decided[1, 0]
    raised = (intensity[0, 1] - intensity[0, 0]) - (morphology[1, 0] - morphology[0, 0])
    return out | _rows(dominance(y, preferred, raised, seed), "dominance_", "_beyond_alone")


# ---------------------------------------------------------------------- (f)
def curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One bias at several agreements: a network for each, all judged on the same twins.

    Settings: ``preset`` (one attribute), ``p_values``, ``n_train``, ``n_test``, ``shape``, ``recipe``. Results are
    called ``p<100 p>_<quantity>``; ``growth`` is the TPR gap at the largest p less that at the smallest above .5.
    """
    trained = {p: train(preset(settings["preset"], p), settings, seed) for p in settings["p_values"]}
    test, scores = scores_on_twins(trained, preset(settings["preset"]), settings, seed)
    y = test.table["disease"].to_numpy()
    out: dict[str, Any] = {}
    for p, score in scores.items():
        out |= {f"p{round(100 * p)}_{k}": v for k, v in judge(y, score[0,], score[1,], p, seed=seed).items()}
    raised = {p: (score[1,] > 0.5).astype(float) - (score[0,] > 0.5) for p, score in scores.items()}
    low, high = min(p for p in raised if p > 0.5), max(raised)
    return out | with_intervals({"growth": (raised[high] - raised[low])[y == 1]}, seed)
