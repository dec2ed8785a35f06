"""Intervals and gaps by group."""

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, false_positive_rate, true_positive_rate
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.evaluation import (
    accuracy_by_group,
    dominance,
    group_metrics,
    group_rows,
    paired_difference,
    patient_bootstrap,
    twin_gaps,
    visibility,
    wilson,
)

METRICS = ("accuracy", "tpr", "fpr", "auc")


def subjects(n, seed=0, steps=None):
    """Class, probability (rounded to so many steps, for ties) and two groups; class and group a belong together."""
    rng = np.random.default_rng(seed)
    disease = rng.integers(0, 2, n)
    groups = pd.DataFrame({"a": np.where(rng.random(n) < 0.7, disease, 1 - disease), "b": rng.choice(["x", "y"], n)})
    probability = 1 / (1 + np.exp(-(2 * disease - 1 + 0.5 * groups["a"] + rng.normal(size=n))))
    return disease, probability if steps is None else (probability * steps).round() / steps, groups


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


# ---------------------------------------------------------------------- metrics by group
def test_values_of_every_group_are_sklearns():
    disease, probability, groups = subjects(600, steps=7)  # many ties
    table = group_metrics(disease, probability, groups, threshold=0.4, draws=10)
    assert list(table.index) == ["all", "a = 0", "a = 1", "b = x", "b = y",
                                 "a = 0, b = x", "a = 0, b = y", "a = 1, b = x", "a = 1, b = y"]
    a, b = groups["a"] == 1, groups["b"] == "y"
    for name, rows in {"all": a | True, "a = 1": a, "b = y": b, "a = 1, b = y": a & b, "a = 0, b = y": ~a & b}.items():
        y, p, row = disease[rows], probability[rows], table.loc[name]
        assert (row["n"], row["patients"], row["sick"]) == (rows.sum(), rows.sum(), y.sum())
        expected = ((y == (p >= 0.4)).mean(), (p[y == 1] >= 0.4).mean(), (p[y == 0] >= 0.4).mean(), roc_auc_score(y, p))
        assert tuple(row[list(METRICS)]) == pytest.approx(expected, abs=1e-12)
        assert tuple(row[["tpr_low", "tpr_high"]]) == wilson((p[y == 1] >= 0.4).sum(), y.sum())


def test_bootstrap_is_metricframes_own():
    disease, probability, groups = subjects(240, steps=20)
    patients = np.arange(480) // 2  # everyone twice, so that the rates are bootstrapped too
    table = group_metrics(np.repeat(disease, 2), np.repeat(probability, 2), groups.loc[np.repeat(groups.index, 2)],
                          patients=patients, seed=1, draws=4000)

    def decided(rate):
        return lambda y, p: rate(y, (p >= 0.5).astype(int))

    frame = MetricFrame(metrics={"accuracy": decided(accuracy_score), "tpr": decided(true_positive_rate),
                                 "fpr": decided(false_positive_rate), "auc": roc_auc_score},
                        y_true=disease, y_pred=probability, sensitive_features=groups["b"],
                        n_boot=250, ci_quantiles=[0.025, 0.975], random_state=0)
    low, high = (pd.concat([overall.to_frame("all").T, by_group.set_axis(["b = x", "b = y"])])
                 for overall, by_group in zip(frame.overall_ci, frame.by_group_ci, strict=True))
    found_low, found_high = (table.loc[low.index, [f"{metric}_{end}" for metric in METRICS]].to_numpy()
                             for end in ("low", "high"))
    width = found_high - found_low
    outward = np.stack([(found_low - low) / width, (high - found_high) / width])
    # An end from 250 draws is uncertain by .045 of the width; intervals of level .9 would be off by .08 everywhere.
    assert abs(outward).max() < 0.14 and abs(outward.mean()) < 0.04
    assert table.loc["all", "patients"] == 240 and table.loc["all", "n"] == 480


def test_resampled_auc_is_sklearns_in_every_draw():
    disease, probability, groups = subjects(60, seed=2, steps=5)
    table = group_metrics(disease, probability, groups[[]], seed=9, draws=1)
    times = np.bincount(np.random.default_rng(9).integers(60, size=(100, 60))[0], minlength=60)
    expected = roc_auc_score(disease, probability, sample_weight=times)
    assert tuple(table.loc["all", ["auc_low", "auc_high"]]) == pytest.approx((expected, expected), abs=1e-12)


def test_auc_interval_covers_the_truth():
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        disease = np.repeat([0, 1], 100)
        probability = 1 / (1 + np.exp(-(2 * disease - 1 + rng.normal(size=200))))
        row = group_metrics(disease, probability, pd.DataFrame(index=range(200)), draws=200).loc["all"]
        hits += row["auc_low"] <= 0.9214 <= row["auc_high"]  # Phi(sqrt 2)
    assert 52 <= hits <= 59  # nominal .95


def test_more_rows_of_a_patient_do_not_narrow_an_interval():
    disease, probability, groups = subjects(200)
    once = group_metrics(disease, probability, groups[["b"]])
    many = group_metrics(np.tile(disease, 9), np.tile(probability, 9), pd.concat([groups[["b"]]] * 9),
                         patients=np.tile(np.arange(200), 9))
    for metric in METRICS:
        widths = [t[f"{metric}_high"] - t[f"{metric}_low"] for t in (once, many)]
        assert widths[1].to_numpy() == pytest.approx(widths[0].to_numpy(), rel=0.2), metric


def test_level_and_seed():
    disease, probability, groups = subjects(300)
    same = [group_metrics(disease, probability, groups, seed=4) for _ in range(2)]
    pd.testing.assert_frame_equal(*same)
    narrow = group_metrics(disease, probability, groups, seed=4, level=0.5)
    for metric in METRICS:
        assert (narrow[f"{metric}_low"] > same[0][f"{metric}_low"]).all(), metric
        assert (narrow[f"{metric}_high"] < same[0][f"{metric}_high"]).all(), metric


def bad(**changes):
    disease, probability, groups = subjects(200)
    given = {"disease": disease.astype(float), "probability": probability, "groups": groups, "draws": 10}
    for name, change in changes.items():
        given[name] = change(given[name].copy()) if name in given else change
    return lambda: group_metrics(**given)


def put(value, rows, column=None):
    def change(values):
        if column is None:
            values[rows] = value
        else:
            values.loc[values.index[rows], column] = value
        return values
    return change


@pytest.mark.parametrize(("call", "message"), [
    (bad(groups=lambda g: g.assign(b=["x"] * 12 + ["y"] * 188)), r"group \(b = x\) has 12 patients, at least 30"),
    (bad(groups=lambda g: g.assign(b=np.where(g["a"] == 1, "x", "y"))), r"group \(a = 0, b = x\) has 0 patients"),
    (bad(groups=lambda g: g.assign(b=pd.Categorical(g["b"], ["x", "y", "z"]))), r"group \(b = z\) has 0 patients"),
    (bad(groups=put(np.nan, slice(0, 3), "b")), "column 'b': 3 values are missing"),
    (bad(disease=put(np.nan, slice(0, 2))), "column 'disease': 2 values are missing"),
    (bad(probability=put(np.nan, slice(0, 4))), "column 'probability': 4 values are missing"),
    (bad(disease=put(2, 5)), "column 'disease': value 2, expected 0 or 1"),
    (bad(probability=put(1.5, 5)), r"column 'probability': values from .* to 1.5, expected \[0, 1\]"),
    (bad(probability=lambda p: np.column_stack([1 - p, p])), r"'probability' has shape \(200, 2\), expected \(200,\)"),
    (bad(groups=lambda g: g.assign(a=np.arange(200) % 2), disease=lambda d: np.arange(200) % 2),
     r"group \(a = 0\) has no sick row"),
    (bad(groups=lambda g: g.assign(a=np.arange(200) % 2), disease=lambda d: 1 - np.arange(200) % 2),
     r"group \(a = 0\) has no healthy row"),
    (bad(patients=np.arange(200) // 10), r"group \(all\) has 20 patients"),  # 200 rows of 20 patients
])
def test_what_cannot_be_reported_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_group_rows_name_the_rows():
    groups = pd.DataFrame({"sex": ["F", "M"] * 30, "site": [1] * 60}, index=range(100, 160))
    rows = group_rows(groups)
    assert list(rows) == ["all", "sex = F", "sex = M", "site = 1", "sex = F, site = 1", "sex = M, site = 1"]
    assert rows["sex = M, site = 1"].tolist() == list(range(1, 60, 2))


# ---------------------------------------------------------------------- paired differences
def test_dominance_is_the_second_less_the_first():
    disease = np.repeat([1, 0], [100, 50])
    second = np.r_[np.ones(80), np.zeros(20), np.ones(20), np.zeros(30)]
    first = np.r_[np.ones(50), np.zeros(50), np.ones(30), np.zeros(20)]
    table = dominance(disease, second, first)
    assert table["difference"].to_dict() == pytest.approx({"tpr": 0.3, "fpr": -0.2})
    assert table["n"].to_dict() == {"tpr": 100, "fpr": 50}
    half = 1.96 * np.sqrt(0.3 * 0.7 / 100)
    assert tuple(table.loc["tpr", ["low", "high"]]) == pytest.approx((0.3 - half, 0.3 + half), abs=0.02)
    with pytest.raises(ValueError, match="column 'on': 1 values are missing"):
        dominance(disease, np.where(np.arange(150) == 3, np.nan, second), first)


def test_paired_difference_uses_the_pairs():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 10, 400)  # differs between patients, not between networks
    a, b = common + rng.normal(1, 1, 400), common
    row = paired_difference(a, b)
    assert row["n"] == 400 and row["difference"] == pytest.approx((a - b).mean())
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * (a - b).std() / 20, rel=0.1)


def test_paired_difference_leaves_out_who_does_not_count():
    a = np.r_[np.ones(60), np.full(40, np.nan)]
    assert paired_difference(a, 0.841).to_dict() == pytest.approx(
        {"n": 60, "difference": 0.159, "low": 0.159, "high": 0.159})
    with pytest.raises(ValueError, match="same patients.*40 and 0 values missing"):
        paired_difference(a, np.ones(100))
    with pytest.raises(ValueError, match=r"shapes \(100,\) and \(99,\)"):
        paired_difference(a, a[:99])
    with pytest.raises(ValueError, match="10 patients count, at least 30"):
        paired_difference(np.ones(10), 0.5)


# ---------------------------------------------------------------------- visibility
def noisy_images(n, seed, **changes):
    """Severity is written in one pixel with noise of sd 1, strength in another without, the third latent nowhere."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"image_id": np.arange(n), "patient_id": np.arange(n), "split": "test",
                          "severity": rng.normal(0, 2, n), "coil_strength": rng.normal(0, 1, n),
                          "hidden": rng.normal(0, 1, n)}).assign(**changes)
    images = rng.normal(0, 1, (n, 1, 4, 4)).astype(np.float32)
    images[:, 0, 0, 0] += table["severity"]
    images[:, 0, 1, 1] = table["coil_strength"]
    return Cohort(images, table, Schema(latents=("severity", "coil_strength", "hidden")))


def test_visibility_is_the_share_of_variance_that_can_be_read():
    teach, test = noisy_images(1500, 0), noisy_images(1500, 1)
    seen = visibility(teach, test, ["severity", "coil_strength", "hidden"])
    assert seen["severity"] == pytest.approx(4 / 5, abs=0.03)  # V / (V + noise**2)
    assert seen["coil_strength"] > 0.999 and abs(seen["hidden"]) < 0.03
    plain = LinearRegression().fit(teach.images.reshape(1500, -1), teach.table["severity"])
    expected = r2_score(test.table["severity"], plain.predict(test.images.reshape(1500, -1)))
    assert seen["severity"] == pytest.approx(expected, abs=0.003)
    assert visibility(teach, test, ["severity"])["severity"] == pytest.approx(seen["severity"], abs=1e-6)


def test_visibility_is_held_out():
    teach, test = noisy_images(20, 0), noisy_images(500, 1)  # 16 pixels fit 20 rows nearly perfectly
    assert visibility(teach, test, ["hidden"])["hidden"] < 0.1


def test_visibility_refuses_what_it_cannot_read():
    good = noisy_images(50, 0)
    with pytest.raises(ValueError, match="no latent 'age', expected one of severity, coil_strength, hidden"):
        visibility(good, good, ["age"])
    with pytest.raises(ValueError, match="latent 'hidden' does not vary: it is 3.0"):
        visibility(good, noisy_images(50, 1, hidden=3.0), ["hidden"])
    with pytest.raises(ValueError, match="column 'hidden': 50 values are missing"):
        visibility(good, noisy_images(50, 1, hidden=np.nan), ["hidden"])
