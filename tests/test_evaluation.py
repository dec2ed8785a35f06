"""Intervals and gaps by group."""

import numpy as np
import pandas as pd
import pytest

from bias_tutorial.evaluation import accuracy_by_group, patient_bootstrap, twin_gaps, wilson


def test_wilson_known_values():
    # Wilson 1927 by hand: 8 of 10 at 95%: centre (8 + z2/2) / (10 + z2), z = 1.95996
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    low, high = wilson(0, 20)
    assert low == 0 and high == pytest.approx(0.1611, abs=1e-4)


def test_accuracy_by_group_counts_and_rates():
    groups = pd.DataFrame({"sex": ["F"] * 40 + ["M"] * 60})
    result = accuracy_by_group([True] * 30 + [False] * 10 + [True] * 60, groups).set_index("sex")
    assert result.loc["F", "n"] == 40 and result.loc["F", "accuracy"] == 0.75
    assert result.loc["M", "accuracy"] == 1 and result.loc["M", "high"] == 1 and 0.9 < result.loc["M", "low"] < 1
    assert tuple(result.loc["F", ["low", "high"]]) == wilson(30, 40)


def test_small_group_is_refused_by_name_and_size():
    groups = pd.DataFrame({"sex": ["F"] * 29 + ["M"] * 60, "site": ["A"] * 89})
    with pytest.raises(ValueError, match=r"sex = F, site = A\) has 29 patients, at least 30"):
        accuracy_by_group(np.ones(89, bool), groups)


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(0).normal(2.0, 3.0, 900)
    low, high = patient_bootstrap(values, seed=1)
    half = 1.96 * values.std() / 30
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_of_equal_rows_is_the_plain_bootstrap():
    # The shortcut over equal rows against resampling of indices.
    values = np.random.default_rng(0).integers(0, 2, (300, 2)).astype(float)
    rng = np.random.default_rng(5)
    plain = np.quantile([values[rng.integers(0, 300, 300)].mean(0) for _ in range(4000)], [0.025, 0.975], axis=0)
    assert patient_bootstrap(values, seed=2, draws=4000) == pytest.approx(plain, abs=0.01)


def test_bootstrap_leaves_out_patients_who_do_not_count():
    values = np.array([1.0] * 50 + [np.nan] * 500)
    assert tuple(patient_bootstrap(values)) == (1.0, 1.0)


def test_twin_gaps_are_the_differences_of_rates():
    disease = np.array([1] * 100 + [0] * 50)
    on = np.array([1] * 80 + [0] * 20 + [1] * 10 + [0] * 40)
    off = np.array([1] * 60 + [0] * 40 + [1] * 10 + [0] * 40)
    gaps = twin_gaps(disease, on, off)
    assert gaps.loc["tpr_gap", "gap"] == pytest.approx(0.2) and gaps.loc["tpr_gap", "n"] == 100
    assert gaps.loc["tpr_gap", "low"] < 0.2 < gaps.loc["tpr_gap", "high"]
    assert tuple(gaps.loc["fpr_gap", ["gap", "low", "high"]]) == (0, 0, 0)


def test_twin_gaps_cover_the_truth():
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        change = rng.choice([0, 1], 200, p=[0.8, 0.2])
        row = twin_gaps(np.repeat([1, 0], 200), np.r_[change, np.zeros(200)], np.zeros(400), seed).loc["tpr_gap"]
        hits += row["low"] <= 0.2 <= row["high"]
    assert 0.88 <= hits / 200 <= 0.99  # nominal .95


def test_twin_gaps_refuse_a_small_class():
    with pytest.raises(ValueError, match="class 0 has 10 patients"):
        twin_gaps(np.array([1] * 50 + [0] * 10), np.zeros(60), np.zeros(60))
