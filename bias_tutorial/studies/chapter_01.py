"""Measures behind chapter 1: balance of the draw, and observers held against the answer key.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is a new cohort for every role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score

from .. import answer_key, simulate
from ..cohort import Cohort
from ..evaluation import patient_bootstrap, twin_gaps
from ..scenario import BiasAttribute, Scenario, preset

TRAINING, TEST, READING = 1, 2, 3  # roles of a seed's cohorts


def cohort_seed(seed: int, role: int) -> int:
    """A seed for one role, so that training, test and reading cohorts of a run share no subject."""
    return 1_000_000 * role + seed


# ---------------------------------------------------------------------- (a) balance
def stratification(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Largest standardised mean difference of a draw, with and without stratification.

    Settings: ``preset``, ``p``, ``n``.
    """
    scenario = preset(settings["preset"], settings["p"])
    draws = {name: scenario.draw(settings["n"], seed, stratify=way) for name, way in
             (("stratified", True), ("unstratified", False))}
    return {f"worst_smd_{name}": table.attrs["balance"] for name, table in draws.items()}


def gap_without_bias(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """TPR gap between two groups that differ in nothing, for a reader who uses severity alone.

    The group is a label without any effect, given to half of each class. The gap is taken on the test split; no
    training is involved, so whatever gap appears comes from how the subjects were dealt out. Settings: ``n``.
    """
    scenario = Scenario("label_only", (BiasAttribute("label", "gain", (0.5, 0.5)),))
    out = {}
    for name, stratify in (("stratified", True), ("unstratified", False)):
        table = scenario.draw(settings["n"], seed, stratify=stratify)
        sick = table[(table["split"] == "test") & (table["disease"] == 1)]
        rate = (sick["severity"] > 0).groupby(sick["label"]).mean()
        out[f"absolute_gap_{name}"] = float(abs(rate[1] - rate[0]))
    return out


def dropping_sparse_bins(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What is lost when subjects in sparse bins are dropped, as SimBA does before it stratifies.

    Severity and one subject scalar are cut into ten bins of equal width each; a class's cells with at most two
    subjects are dropped, then, once half of every cell carries the bias, cells of class and bias with at most two
    (github.com/estanley16/SimBA, ``generate_data/define_stratified_distributions.py``; own code). Settings: ``n``.
    """
    table = Scenario("plain").draw(settings["n"], seed)
    bins = pd.DataFrame({"subject": pd.cut(table["subject_1"], 10, labels=False), "class": table["disease"]})
    bins["severity"] = table.groupby("disease")["severity"].transform(lambda d: pd.cut(d, 10, labels=False))
    cells = ["class", "severity", "subject"]
    kept = bins[bins.groupby(cells)["class"].transform("size") > 2]
    bias = kept.groupby(cells).cumcount() % 2
    kept = kept[kept.assign(bias=bias).groupby([*cells, "bias"])["class"].transform("size") > 2]
    left = table.loc[kept.index]
    spread = left.groupby("disease")["severity"].std().mean() / table.groupby("disease")["severity"].std().mean()
    return {"share_kept": len(left) / len(table), "severity_sd_ratio": float(spread)}


# ---------------------------------------------------------------------- (b) an observer who is told the truth
def fit_observer(features: pd.DataFrame, disease: pd.Series) -> LogisticRegression:
    """Logistic regression of disease, practically without regularisation."""
    return LogisticRegression(C=1e6, max_iter=1000).fit(features.to_numpy(), disease.to_numpy())


def judge(observer: LogisticRegression, features: pd.DataFrame, disease: np.ndarray,
          twins: Mapping[int, pd.DataFrame], seed: int = 0) -> dict[str, Any]:
    """Results of an observer on decorrelated subjects and on their twins, with intervals over patients.

    Parameters
    ----------
    observer : sklearn estimator
        Fitted.
    features : pandas.DataFrame
        Of the decorrelated subjects as they are.
    disease : numpy.ndarray
        Their class.
    twins : dict of int to pandas.DataFrame
        The same subjects' features with the attribute off (0) and on (1).
    seed : int
        Of the bootstrap.
    """
    decisions = {value: observer.predict(f.to_numpy()) for value, f in twins.items()}
    right = {value: (d == disease).astype(float) for value, d in decisions.items()}
    aligned = np.where(disease == 1, right[1], right[0])
    conflicting = np.where(disease == 1, right[0], right[1])
    gaps = twin_gaps(disease, decisions[1], decisions[0], seed)
    means = np.column_stack([aligned, conflicting, observer.predict(features.to_numpy()) == disease])
    intervals = patient_bootstrap(means, seed).T
    out: dict[str, Any] = {}
    for name, value, interval in zip(("aligned", "conflicting", "decorrelated"), means.mean(0), intervals, strict=True):
        out[name], out[f"{name}_interval"] = float(value), interval.tolist()
    for name, row in gaps.iterrows():
        out[name], out[f"{name}_interval"] = float(row["gap"]), [float(row["low"]), float(row["high"])]
    return out


def latent_observer(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A logistic observer of the true severity and attribute, trained at p, held against the key.

    Settings: ``p``, ``n_train``, ``n_test``. ``gap_error`` is its TPR gap less the key's.
    """
    scenario = preset("far", settings["p"])
    name = scenario.attribute_names[0]
    columns = ["severity", name]
    train = scenario.draw(settings["n_train"], cohort_seed(seed, TRAINING))
    test = scenario.decorrelated().draw(settings["n_test"], cohort_seed(seed, TEST))
    twins = {value: test[columns].assign(**{name: value}) for value in (0, 1)}
    out = judge(fit_observer(train[columns], train["disease"]), test[columns], test["disease"].to_numpy(), twins, seed)
    key = float(answer_key.shortcut_curve(settings["p"])["tpr_gap"].iloc[0])
    out |= {"key_tpr_gap": key, "gap_error": out["tpr_gap"] - key,
            "gap_error_interval": [end - key for end in out["tpr_gap_interval"]]}
    return out


# ---------------------------------------------------------------------- (c) an observer who measures the images
def measured_features(reader: RidgeCV, cohort: Cohort, names: list[str]) -> pd.DataFrame:
    """Severity and strengths as the reader measures them in the images."""
    return pd.DataFrame(reader.predict(cohort.images.reshape(len(cohort), -1)), columns=names)


def fit_reader(cohort: Cohort, names: list[str]) -> RidgeCV:
    """A linear reader of the latents: ridge regression on pixels, strength chosen by leave-one-out."""
    pixels = cohort.images.reshape(len(cohort), -1)
    return RidgeCV(alphas=np.logspace(-2, 5, 15)).fit(pixels, cohort.table[names].to_numpy())


def image_observer(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A logistic observer of severity and bias strength *as measured in the images*, held against the key.

    A linear reader learns to measure both in decorrelated images whose latents it is told; the observer is then
    trained on what the reader measures in a biased cohort, and judged on twins of further, decorrelated subjects.
    Settings: ``preset`` (one bias attribute), ``p``, ``n_read``, ``n_train``, ``n_test``, ``rows``, ``columns``.
    """
    scenario = preset(settings["preset"], settings["p"])
    attribute = scenario.attribute_names[0]
    names, shape = ["severity", f"{attribute}_strength"], (settings["rows"], settings["columns"])
    level = scenario.decorrelated()
    reader = fit_reader(simulate.brain(level, settings["n_read"], cohort_seed(seed, READING), shape), names)
    train = simulate.brain(scenario, settings["n_train"], cohort_seed(seed, TRAINING), shape)
    observer = fit_observer(measured_features(reader, train, names), train.table["disease"])
    test = simulate.brain(level, settings["n_test"], cohort_seed(seed, TEST), shape)
    seen = measured_features(reader, test, names)
    twins = {v: measured_features(reader, simulate.counterfactual(test, **{attribute: v}), names) for v in (0, 1)}
    out = judge(observer, seen, test.table["disease"].to_numpy(), twins, seed)
    visible = {n: float(r2_score(test.table[n], seen[n])) for n in names}
    sight = answer_key.Sight.from_r_squared(scenario, visible["severity"], {attribute: visible[names[1]]})
    keys = {"key": None, "key_at_sight": sight}
    for name, how in keys.items():
        curve = answer_key.shortcut_curve(settings["p"], scenario, how).iloc[0]
        out |= {f"{name}_{c}": float(curve[c]) for c in ("tpr_gap", "fpr_gap", "aligned", "conflicting")}
    out |= {"r2_severity": visible["severity"], "r2_attribute": visible[names[1]],
            "shortfall": out["key_tpr_gap"] - out["tpr_gap"],
            "shortfall_at_sight": out["key_at_sight_tpr_gap"] - out["tpr_gap"]}
    return out
