"""Measures behind the chapters' claims, on observers whose behaviour is known by construction."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from bias_tutorial import simulate
from bias_tutorial.scenario import Scenario, preset
from bias_tutorial.studies import chapter_01
from bias_tutorial.studies.chapter_01 import READING, TEST, TRAINING, cohort_seed, fit_observer, judge


def built(severity: float, mark: float) -> LogisticRegression:
    """An observer with given coefficients, neutral at severity 0 and mark 1/2."""
    observer = LogisticRegression()
    observer.coef_, observer.classes_ = np.array([[severity, mark]]), np.array([0, 1])
    observer.intercept_ = np.array([-mark / 2])
    return observer


@pytest.fixture(scope="module")
def subjects():
    table = preset("far").decorrelated().draw(2000, 5)[["disease", "severity", "morphology"]]
    features = table[["severity", "morphology"]]
    return features, table["disease"].to_numpy(), {v: features.assign(morphology=v) for v in (0, 1)}


def test_an_observer_of_severity_alone_has_no_gap(subjects):
    out = judge(built(2, 0), *subjects)
    assert out["tpr_gap"] == out["fpr_gap"] == 0 and out["tpr_gap_interval"] == [0, 0]
    assert out["aligned"] == out["conflicting"] == out["decorrelated"] == pytest.approx(0.841, abs=0.02)


def test_an_observer_of_the_mark_alone_has_gap_one(subjects):
    out = judge(built(0, 4), *subjects)
    assert out["tpr_gap"] == out["fpr_gap"] == out["aligned"] == 1 and out["conflicting"] == 0
    assert out["decorrelated"] == pytest.approx(0.5, abs=0.01)


def test_the_best_observer_by_hand_meets_the_key(subjects):
    out = judge(built(2, 2 * np.log(7 / 3)), *subjects)
    assert out["tpr_gap"] == pytest.approx(0.205, abs=0.03) and out["conflicting"] == pytest.approx(0.718, abs=0.03)


def test_latent_observer_and_its_error():
    out = chapter_01.latent_observer({"p": 0.8, "n_train": 4000, "n_test": 4000}, 901)
    assert out["key_tpr_gap"] == pytest.approx(0.334, abs=5e-4)
    assert out["gap_error"] == pytest.approx(out["tpr_gap"] - out["key_tpr_gap"])
    low, high = out["gap_error_interval"]
    assert abs(out["gap_error"]) < 0.06 and low < out["gap_error"] < high


def test_image_observer_sees_and_uses_the_intensity():
    sizes = {"n_read": 300, "n_train": 300, "n_test": 300, "rows": 28, "columns": 24}
    out = chapter_01.image_observer({"preset": "intensity", "p": 0.7, **sizes}, 901)
    assert out["r2_attribute"] > 0.9 and 0 < out["r2_severity"] < 1
    assert out["tpr_gap_interval"][0] > 0
    assert out["key_at_sight_tpr_gap"] > out["key_tpr_gap"]  # the disease is seen badly, so the shortcut pays more
    assert out["shortfall"] == pytest.approx(out["key_tpr_gap"] - out["tpr_gap"])


def test_reader_recovers_the_latents_it_was_taught():
    cohort = simulate.brain(preset("intensity").decorrelated(), 400, 901, (28, 24))
    names = ["severity", "intensity_strength"]
    reader = chapter_01.fit_reader(cohort.subset(np.arange(300)), names)
    seen = chapter_01.measured_features(reader, cohort.subset(np.arange(300, 400)), names)
    truth = cohort.table.iloc[300:]
    assert np.corrcoef(seen["intensity_strength"], truth["intensity_strength"])[0, 1] > 0.9
    assert np.corrcoef(seen["severity"], truth["severity"])[0, 1] > 0.5


def test_stratification_is_better_than_chance():
    out = chapter_01.stratification({"preset": "both", "p": 0.7, "n": 2000}, 901)
    assert out["worst_smd_stratified"] < 0.05 < out["worst_smd_unstratified"]


def test_stratification_shrinks_a_gap_that_nothing_made():
    gaps = pd.DataFrame([chapter_01.gap_without_bias({"n": 2000}, 900 + k) for k in range(10)]).mean()
    assert gaps["absolute_gap_stratified"] < 0.7 * gaps["absolute_gap_unstratified"]


def test_dropping_sparse_bins_loses_the_ends():
    out = chapter_01.dropping_sparse_bins({"n": 2160}, 901)
    assert 0.8 < out["share_kept"] < 1 and 0.85 < out["severity_sd_ratio"] < 1
    more = chapter_01.dropping_sparse_bins({"n": 20_000}, 901)
    assert more["share_kept"] > out["share_kept"]  # fuller bins, fewer dropped


def test_roles_never_share_a_cohort():
    seeds = {cohort_seed(s, role) for s in range(1000) for role in (TRAINING, TEST, READING)}
    assert len(seeds) == 3000 and min(seeds) >= 1_000_000


def test_observer_recovers_the_keys_coefficients():
    table = Scenario("plain").draw(20_000, 901)
    assert fit_observer(table[["severity"]], table["disease"]).coef_[0, 0] == pytest.approx(2, abs=0.1)
