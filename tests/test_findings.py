"""Many findings by group: against scikit-learn and fairlearn, against hand-made counts, and against chance."""

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, false_negative_rate, false_positive_rate
from sklearn.metrics import average_precision_score, roc_auc_score

from bias_tutorial.evaluation import group_metrics, wilson
from bias_tutorial.findings import Predictions, calibration_error, metrics_by_group, thresholds, underdiagnosis
from bias_tutorial.gaps import gaps, levelling_down

CUT = pd.Series({"X": 0.5})
HALF = pd.Series({"Edema": 0.5, "No Finding": 0.5})


def predictions(n=1200, studies=1, seed=0, missing=0.1, pull=0.0):
    """Two findings, two attributes; ``pull`` lowers the probabilities of sex F."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < [0.3, 0.5]).astype(float)
    patient = np.arange(n) // studies
    groups = pd.DataFrame({"sex": np.array(["F", "M"])[rng.integers(0, 2, n)[patient]],
                           "race": np.array(list("ABC"))[rng.integers(0, 3, n)[patient]]})
    score = 2 * labels - 1 + rng.normal(size=(n, 2)) - pull * (groups["sex"] == "F").to_numpy()[:, None]
    labels[rng.random((n, 2)) < missing] = np.nan
    return Predictions(pd.DataFrame(labels, columns=list(HALF.index)), 1 / (1 + np.exp(-score)), groups, patient)


def errors(counts, wrong, groups, rate_of=1, studies=1):
    """One finding for so many rows a group, the first ``wrong`` of each decided wrongly."""
    label = np.full(sum(counts), float(rate_of))
    error = np.concatenate([np.arange(n) < k for n, k in zip(counts, wrong, strict=True)])
    said = np.where(error, 1 - label, label)
    group = pd.DataFrame({"group": np.repeat(groups, counts)})
    return Predictions(pd.DataFrame({"X": label}), said[:, None], group, np.arange(len(label)) // studies)


# ---------------------------------------------------------------------- values
def test_values_are_those_of_scikit_learn_and_fairlearn():
    p = predictions()
    table = metrics_by_group(p, pd.Series({"Edema": 0.4, "No Finding": 0.6})).set_index(["finding", "group"])
    assert len(table) == 2 * (1 + 2 + 3 + 6) and (table["reason"] == "").all()
    for k, (finding, cut) in enumerate((("Edema", 0.4), ("No Finding", 0.6))):
        known = p.labels[finding].notna().to_numpy()
        label, probability = p.labels[finding][known].astype(int), p.probability[known, k]
        frame = MetricFrame(metrics={"fnr": false_negative_rate, "fpr": false_positive_rate}, y_true=label,
                            y_pred=probability >= cut, sensitive_features=p.groups[known])
        for (sex, race), expected in frame.by_group.iterrows():
            row = table.loc[(finding, f"sex = {sex}, race = {race}")]
            assert tuple(row[["fnr", "fpr"]]) == pytest.approx(tuple(expected), abs=1e-12)
            here = ((p.groups["sex"] == sex) & (p.groups["race"] == race)).to_numpy()[known]
            assert row["auc"] == pytest.approx(roc_auc_score(label[here], probability[here]))
            assert row["average_precision"] == pytest.approx(average_precision_score(label[here], probability[here]))
            assert row["calibration_in_the_large"] == pytest.approx(probability[here].mean() - label[here].mean())
            assert (row["n"], row["present"]) == (here.sum(), label[here].sum())
            missed = (probability[here] < cut)[label[here] == 1]
            assert tuple(row[["fnr_low", "fnr_high"]]) == wilson(missed.sum(), len(missed))


def test_bootstrap_over_patients_is_that_of_group_metrics():
    p = predictions(n=1500, studies=3, missing=0)
    ours = metrics_by_group(p, HALF, draws=3000).set_index(["finding", "group"]).loc["Edema"]
    other = group_metrics(p.labels["Edema"].astype(int), p.probability[:, 0], p.groups, 0.5, p.patients, draws=3000)
    assert list(ours.index) == list(other.index)
    np.testing.assert_allclose(ours["fpr"], other["fpr"])
    np.testing.assert_allclose(ours["fnr"], 1 - other["tpr"])
    np.testing.assert_allclose(ours[["fpr_low", "fpr_high"]], other[["fpr_low", "fpr_high"]], atol=0.015)
    np.testing.assert_allclose(ours[["fnr_low", "fnr_high"]], 1 - other[["tpr_high", "tpr_low"]], atol=0.02)


def test_calibration_error_by_hand():
    # two bins: mean probability .2 against 1/2, .9 against 1/2, equally many rows
    label, probability = np.array([0, 1, 0, 1]), np.array([0.1, 0.3, 0.8, 1.0])
    assert calibration_error(label, probability, bins=2) == pytest.approx((0.3 + 0.4) / 2)
    assert calibration_error(label, probability) == pytest.approx((0.1 + 0.7 + 0.8 + 0.0) / 4)  # one bin a row
    rng = np.random.default_rng(0)
    probability = rng.random(50_000)
    assert calibration_error(rng.random(50_000) < probability, probability) < 0.01
    assert calibration_error(rng.random(50_000) < probability / 2, probability) == pytest.approx(0.25, abs=0.01)


def test_groups_that_are_too_small_are_listed_with_the_reason():
    p = errors([29, 30, 100], [3, 3, 10], ["A", "B", "C"])
    table = metrics_by_group(p, CUT).set_index("group")
    assert table.loc["group = A", "reason"] == "29 patients, at least 30 are needed"
    assert table.loc["group = A", ["auc", "fnr", "fpr", "calibration_error"]].isna().all()
    assert table.loc["group = B", "reason"] == "no row is absent" and table.loc["group = B", "fnr"] == 0.1
    assert np.isnan(table.loc["group = B", "fpr"]) and np.isnan(table.loc["group = B", "auc"])
    found = gaps(p, CUT, draws=50).iloc[0]
    assert (found["groups"], found["left_out"], found["gap"]) == (2, 1, 0.0)
    assert gaps(p, CUT, least=31, draws=50)["gap"].isna().all()


def test_labels_that_nobody_knows():
    p = predictions(n=400)
    p.labels.loc[p.groups["race"] == "B", "Edema"] = np.nan
    row = metrics_by_group(p, HALF).set_index(["finding", "group"]).loc[("Edema", "race = B")]
    assert row["reason"] == "no label is known" and row["n"] == 0 and np.isnan(row["fnr"])


def test_underdiagnosis_is_the_rate_of_false_no_finding():
    p = predictions(studies=2)
    table = underdiagnosis(p, HALF).set_index("group")
    sick = (p.labels["No Finding"] == 0).to_numpy()
    both = sick & (p.groups["sex"] == "F") & (p.groups["race"] == "B")
    for group, here in (("all", sick), ("sex = F, race = B", both.to_numpy())):
        assert table.loc[group, "fpr"] == pytest.approx((p.probability[here, 1] >= 0.5).mean())
        assert table.loc[group, "n"] == here.sum()
        assert table.loc[group, "fpr_low"] < table.loc[group, "fpr"] < table.loc[group, "fpr_high"]
    only = Predictions(p.labels[["Edema"]], p.probability[:, :1], p.groups, p.patients)
    with pytest.raises(ValueError, match="underdiagnosis needs the finding 'No Finding', got Edema"):
        underdiagnosis(only, HALF)


# ---------------------------------------------------------------------- thresholds
def test_thresholds_do_what_they_say():
    p = predictions(n=4000)
    assert (thresholds(p) == 0.5).all()
    for k, finding in enumerate(p.findings):
        known = p.labels[finding].notna().to_numpy()
        label, probability = p.labels[finding][known] == 1, p.probability[known, k]
        assert (probability >= thresholds(p, "prevalence")[finding]).sum() == label.sum()
        cut = thresholds(p, "fpr", 0.05)[finding]
        below = probability[probability < cut].max()
        assert (probability[~label] >= cut).mean() <= 0.05
        assert (probability[~label] >= below).mean() > 0.05 or label[probability == below].sum() == 0
        cut = thresholds(p, "youden")[finding]
        best = max((probability[label] >= c).mean() - (probability[~label] >= c).mean() for c in probability)
        assert (probability[label] >= cut).mean() - (probability[~label] >= cut).mean() == pytest.approx(best)


def test_a_rare_finding_is_never_called_at_one_half_and_its_gap_hides():
    """Calibrated reader, prevalence 1% against 3%: FNR near 1 in both at .5, a gap at a chosen threshold."""
    rng = np.random.default_rng(0)
    n = 40_000
    group = rng.integers(0, 2, n)
    prevalence = np.where(group == 1, 0.03, 0.01)
    label = (rng.random(n) < prevalence).astype(float)
    logit = 1.2 * (0.6 * (2 * label - 1) + rng.normal(size=n)) + np.log(prevalence / (1 - prevalence))
    p = Predictions(pd.DataFrame({"X": label}), 1 / (1 + np.exp(-logit))[:, None], pd.DataFrame({"g": group}),
                    np.arange(n))
    fixed, chosen = (gaps(p, thresholds(p, how), draws=200).iloc[0] for how in ("fixed", "youden"))
    assert fixed["mean"] > 0.98 and fixed["gap"] < 0.02
    assert chosen["gap"] > 0.15 and chosen["p"] < 0.01


# ---------------------------------------------------------------------- gaps against chance
def test_gap_by_hand():
    found = gaps(errors([100, 50, 200], [10, 20, 40], ["A", "B", "C"]), CUT).iloc[0]
    assert found["gap"] == pytest.approx(0.3) and found["worst"] == pytest.approx(0.4)
    assert found["mean"] == pytest.approx((0.1 + 0.4 + 0.2) / 3)
    assert (found["worst_group"], found["smallest_n"], found["groups"]) == ("group = B", 50, 3)
    assert found["low"] < 0.3 and 0.1 < found["low"] and found["high"] < 0.5 and found["p"] < 0.01
    fpr = gaps(errors([100, 50], [10, 20], ["A", "B"], rate_of=0), CUT, "fpr").iloc[0]
    assert fpr["gap"] == pytest.approx(0.3)
    assert gaps(errors([100, 50], [10, 20], ["A", "B"], rate_of=0), CUT)["groups"].iloc[0] == 0


def test_the_floor_of_many_small_groups_is_the_known_one():
    """Equal FNR .34 and 60 positives in each of 74 groups: an expected gap of .29 by chance (science, section 5)."""
    rng = np.random.default_rng(0)
    drawn = rng.binomial(60, 0.34, (2000, 74)) / 60
    assert np.ptp(drawn, axis=1).mean() == pytest.approx(0.29, abs=0.01)
    p = errors([60] * 74, rng.binomial(60, 0.34, 74), [f"{age:02d}" for age in range(74)])
    found = gaps(p, CUT, draws=500).iloc[0]
    assert found["floor"] == pytest.approx(0.29, abs=0.02) and found["floor_95"] > found["floor"]
    assert found["gap"] > 0.2 and found["p"] > 0.02


def test_p_is_uniform_without_a_gap_and_studies_of_a_patient_stay_together():
    rng, values, naive = np.random.default_rng(1), [], []
    for seed in range(60):
        # patients of 4 studies that fail or succeed together: 40 patients a group, not 160 independent studies
        wrong = np.repeat(rng.random(160) < 0.4, 4)
        p = Predictions(pd.DataFrame({"X": np.ones(640)}), (~wrong)[:, None].astype(float),
                        pd.DataFrame({"g": np.repeat(list("ABCD"), 160)}), np.arange(640) // 4)
        values.append(gaps(p, CUT, seed=seed, draws=100)["p"].iloc[0])
        apart = Predictions(p.labels, p.probability, p.groups, np.arange(640))
        naive.append(gaps(apart, CUT, seed=seed, draws=100)["p"].iloc[0])
    assert np.mean(values) == pytest.approx(0.5, abs=0.13) and np.mean(np.array(values) < 0.05) < 0.15
    assert np.mean(np.array(naive) < 0.05) > 0.3  # pretending that studies are independent finds gaps in noise


@pytest.mark.parametrize("rates", [[0.2, 0.3, 0.3, 0.45], [0.3] * 4])
def test_the_interval_covers_a_true_gap_also_of_zero(rates):
    rng, hits = np.random.default_rng(2), 0
    for seed in range(60):
        row = gaps(errors([150] * 4, rng.binomial(150, rates), list("ABCD")), CUT, seed=seed, draws=200).iloc[0]
        hits += row["low"] <= np.ptp(rates) + 1e-12 and np.ptp(rates) <= row["high"]
    assert hits / 60 >= 0.88  # nominal .95 or more: .88 is 2.4 standard errors below


def test_the_interval_of_two_groups_is_that_of_a_difference():
    row = gaps(errors([400, 300], [100, 120], list("AB")), CUT, draws=4000).iloc[0]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400 + 0.4 * 0.6 / 300)
    assert (row["low"], row["high"]) == pytest.approx((0.15 - half, 0.15 + half), abs=0.004)


def test_intersections_are_compared_with_each_other():
    found = gaps(predictions(n=3000, pull=1.5), HALF, draws=100).set_index(["finding", "attribute"])
    assert list(found.index.get_level_values(1)) == ["sex"] * 2 + ["race"] * 2 + ["intersection"] * 2
    assert found["groups"].tolist() == [2, 2, 3, 3, 6, 6]
    assert found.loc[("Edema", "sex"), "gap"] > 0.3 and found.loc[("Edema", "sex"), "p"] < 0.02
    assert found.loc[("Edema", "race"), "gap"] < 0.15 and found.loc[("Edema", "race"), "p"] > 0.02
    assert found.loc[("Edema", "intersection"), "worst_group"].startswith("sex = F, race = ")


# ---------------------------------------------------------------------- who pays
def test_levelling_down_is_named():
    n = [400, 400]
    before = errors(n, [80, 160], ["A", "B"])
    worse_for_a = levelling_down(before, errors(n, [160, 164], ["A", "B"]), CUT, CUT).iloc[0]
    assert worse_for_a["gap"] == pytest.approx(0.01 - 0.2) and worse_for_a["worst"] == pytest.approx(0.01)
    assert worse_for_a["mean"] == pytest.approx(0.405 - 0.3) and worse_for_a["levelled_down"]
    assert worse_for_a["gap_low"] < worse_for_a["gap"] < worse_for_a["gap_high"] < 0 < worse_for_a["mean_low"]
    better_for_b = levelling_down(before, errors(n, [80, 84], ["A", "B"]), CUT, CUT).iloc[0]
    assert not better_for_b["levelled_down"] and better_for_b["worst_high"] < 0
    same = levelling_down(before, before, CUT, CUT).iloc[0]
    assert same[["gap", "gap_low", "gap_high", "worst", "mean"]].tolist() == [0] * 5 and not same["levelled_down"]
    with pytest.raises(ValueError, match="before and after differ in 'labels'"):
        levelling_down(before, errors(n, [80, 160], ["A", "B"], rate_of=0), CUT, CUT)
    with pytest.raises(ValueError, match="before and after differ in 'groups'"):
        levelling_down(before, errors(n, [80, 160], ["A", "C"]), CUT, CUT)


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(("change", "message"), [
    ({"labels": pd.DataFrame({"X": [0, 2.0]})}, "finding 'X': label 2 in row 1, expected 0, 1 or NaN"),
    ({"labels": pd.DataFrame({"X": [0, 1, 1]})}, r"probabilities have shape \(2, 1\), labels \(3, 1\)"),
    ({"probability": np.array([[0.5], [1.2]])}, r"finding 'X': probability 1.2 in row 1, expected \[0, 1\]"),
    ({"probability": np.array([[np.nan], [0.2]])}, "finding 'X': probability nan in row 0"),
    ({"groups": pd.DataFrame({"g": ["a"]})}, "1 rows of groups for 2 rows of labels"),
    ({"groups": pd.DataFrame({"g": ["a", None]})}, "column 'g': 1 values are missing"),
    ({"patients": [1]}, r"'patients' has shape \(1,\), expected \(2,\)"),
    ({"patients": ["a", None]}, "column 'patients': 1 values are missing")])
def test_impossible_predictions_are_refused(change, message):
    good = {"labels": pd.DataFrame({"X": [0, 1.0]}), "probability": np.array([[0.1], [0.2]]),
            "groups": pd.DataFrame({"g": ["a", "b"]}), "patients": ["a", "b"]}
    Predictions(**good)
    with pytest.raises(ValueError, match=message):
        Predictions(**good | change)


def test_bad_calls_are_refused():
    p = predictions(n=300)
    with pytest.raises(ValueError, match="unknown way to choose thresholds 'best'"):
        thresholds(p, "best")
    with pytest.raises(ValueError, match="most_fpr must be at least 0 and below 1, got 1"):
        thresholds(p, "fpr", 1)
    with pytest.raises(ValueError, match=r"finding 'X': known labels of the validation rows are \[1.\], expected"):
        thresholds(errors([5], [1], ["A"]), "youden")
    with pytest.raises(ValueError, match="unknown rate 'tpr', expected fnr or fpr"):
        gaps(p, HALF, "tpr")
    with pytest.raises(ValueError, match="there is no threshold for finding 'No Finding'"):
        gaps(p, pd.Series({"Edema": 0.5}))
