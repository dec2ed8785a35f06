"""The key for prevalence, label noise and feature quality by group: known values, Monte Carlo, what balancing does."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import norm

from bias_tutorial.answer_key import Group, finding_by_group, prevalence_by_group
from bias_tutorial.answer_key.prevalence import BALANCES

RARE = {"A": Group(0.5, 0.05), "B": Group(0.5, 0.10)}
NOISY = {"A": Group(0.7, 0.30, missed=0.1, invented=0.02), "B": Group(0.3, 0.20, missed=0.4, invented=0.05)}
ERRORS = ["fnr", "fpr"]


def test_known_values_of_rare_findings():
    key = finding_by_group(RARE)
    np.testing.assert_allclose(key["fnr"], [0.682, 0.539], atol=5e-4)  # Phi(logit(.95)/2 - 1), Phi(logit(.9)/2 - 1)
    np.testing.assert_allclose(key["fpr"], ndtr([-np.log(19) / 2 - 1, -np.log(9) / 2 - 1]))
    np.testing.assert_allclose(key["auc"], 0.921, atol=5e-4)
    assert (key["labelled"] == key["prevalence"]).all()
    np.testing.assert_allclose(key[["measured_fnr", "measured_fpr"]], key[ERRORS])


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize(("threshold", "separation"), [(0.5, 2.0), (0.1, 1.3), (0.9, 3.0)])
def test_without_noise_it_is_the_closed_form(visible, threshold, separation):
    groups = {"A": Group(0.9, 0.02, separation=separation), "B": Group(0.1, 0.4, separation=separation)}
    closed = prevalence_by_group({"A": 0.02, "B": 0.4}, threshold, visible, {"A": 0.9, "B": 0.1}, separation)
    np.testing.assert_allclose(finding_by_group(groups, threshold, visible)[ERRORS], closed[ERRORS], rtol=1e-10)


def simulated(groups, threshold, visible, balance, n=300_000):
    """Rows drawn, weighted as the balance says, and read by Bayes' rule from the weights and the normal densities."""
    rng = np.random.default_rng(1)
    table = np.array([(g.share, g.prevalence, g.missed, g.invented, g.separation) for g in groups.values()])
    group = rng.choice(len(groups), n, p=table[:, 0])
    _, prevalence, missed, invented, separation = table[group].T
    present = rng.random(n) < prevalence
    evidence = np.where(present, separation, -separation) / 2 + rng.standard_normal(n)
    label = np.where(present, rng.random(n) >= missed, rng.random(n) < invented)
    count = np.bincount(2 * group + label, minlength=2 * len(groups)).reshape(-1, 2).astype(float)
    weight = {"none": np.ones_like(count), "counts": 1 / count.sum(1, keepdims=True) * np.ones(2),
              "reweighing": np.outer(count.sum(1), count.sum(0)) / count, "group_by_finding": 1 / count}[balance]
    cell = 4 * group * visible + 2 * label + present
    weighed = np.bincount(cell, weight[group, label.astype(int)], minlength=4 * len(groups)).reshape(-1, 4)
    density = np.stack([norm.pdf(evidence, -separation / 2), norm.pdf(evidence, separation / 2)] * 2)
    joint = weighed[group * visible].T * density  # label and truth 00, 01, 10, 11
    says = joint[2:].sum(axis=0) > threshold * joint.sum(axis=0)
    rows = []
    for g in range(len(groups)):
        here = group == g
        rows.append([(~says)[here & present].mean(), says[here & ~present].mean(),
                     (~says)[here & label].mean(), says[here & ~label].mean()])
    return np.array(rows)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("visible", [True, False])
def test_agrees_with_monte_carlo(visible, balance):
    key = finding_by_group(NOISY, 0.4, visible, balance)
    np.testing.assert_allclose(key[["fnr", "fpr", "measured_fnr", "measured_fpr"]],
                               simulated(NOISY, 0.4, visible, balance), atol=0.008)


def test_feature_quality_agrees_with_monte_carlo():
    groups = {"A": Group(0.6, 0.2), "B": Group(0.4, 0.2, separation=2 / np.sqrt(2))}  # noise of sd 1 on N(+-1, 1)
    key = finding_by_group(groups)
    np.testing.assert_allclose(key[ERRORS], simulated(groups, 0.5, True, "none")[:, :2], atol=0.008)
    assert key.loc["B", "fnr"] > key.loc["A", "fnr"] + 0.1
    np.testing.assert_allclose(key["auc"], ndtr([np.sqrt(2), 1]))


def test_balancing_counts_changes_nothing_and_group_by_finding_closes_the_gap_of_prevalence():
    groups = {"A": Group(0.9, 0.10), "B": Group(0.1, 0.05)}
    plain, counts, by_finding, reweighed = (finding_by_group(groups, balance=b)[ERRORS] for b in
                                            ("none", "counts", "group_by_finding", "reweighing"))
    np.testing.assert_allclose(counts, plain, rtol=1e-12)
    assert np.ptp(plain["fnr"]) > 0.14
    np.testing.assert_allclose(by_finding, ndtr(-1))  # equal classes: .159 in every group
    assert np.ptp(reweighed["fnr"]) < 1e-12
    pooled = prevalence_by_group({"all": 0.095}).loc["all", "fnr"]
    np.testing.assert_allclose(reweighed["fnr"], pooled)
    hidden = [finding_by_group(groups, visible=False, balance=b)["fnr"] for b in ("none", "counts")]
    assert np.ptp(hidden[0]) < 1e-12 and hidden[1].iloc[0] > hidden[0].iloc[0]  # the pooled prevalence fell to .075


def test_balancing_does_not_mend_labels_and_noisy_tests_do_not_show_it():
    groups = {"A": Group(0.5, 0.3), "B": Group(0.5, 0.3, missed=0.4)}
    by_finding = finding_by_group(groups, balance="group_by_finding")
    assert by_finding.loc["B", "labelled"] == pytest.approx(0.18)
    plain = finding_by_group(groups)
    assert plain.loc["B", "fnr"] - plain.loc["A", "fnr"] > 0.1
    assert plain.loc["B", "measured_fnr"] == pytest.approx(plain.loc["B", "fnr"])  # missed at random: labelled ones
    assert plain.loc["B", "measured_fpr"] > plain.loc["B", "fpr"]  # right answers counted as false alarms


def test_extremes():
    key = finding_by_group({"A": Group(0.5, 0.0), "B": Group(0.5, 1.0)})
    assert np.isnan(key.loc["A", "fnr"]) and key.loc["A", "fpr"] == 0
    assert np.isnan(key.loc["B", "fpr"]) and key.loc["B", "fnr"] == 0
    never = finding_by_group({"A": Group(1, 0.3, missed=0.6)})  # no evidence makes a label likelier than .4
    assert never.loc["A", "fnr"] == 1 and never.loc["A", "fpr"] == 0
    always = finding_by_group({"A": Group(1, 0.3, invented=0.6)})
    assert always.loc["A", "fnr"] == 0 and always.loc["A", "fpr"] == 1


@pytest.mark.parametrize(("groups", "options", "message"), [
    ({"A": Group(0.5, 0.1)}, {}, "shares of the groups must sum to 1, got 0.5"),
    ({}, {}, "shares of the groups must sum to 1, got 0"),
    (RARE, {"threshold": 1}, "threshold must lie between 0 and 1, got 1"),
    (RARE, {"balance": "count"}, "unknown balance 'count', expected one of none, counts"),
    (RARE | {"B": Group(0.5, 0.1, separation=1)}, {"visible": False}, "need one separation"),
    (RARE | {"B": Group(0.5, 0.0)}, {"balance": "reweighing"}, "group 'B' has nobody with label 1"),
    ({"A": Group(1, 0.1), "B": Group(0, 0.1)}, {"balance": "counts"}, "group 'B' has nobody"),
    ({"A": Group(0.5, 0.9, 0.6, 0.3), "B": Group(0.5, 0.1, 0.1, 0.8)}, {"visible": False}, "tell the opposite")])
def test_bad_input_is_refused(groups, options, message):
    with pytest.raises(ValueError, match=message):
        finding_by_group(groups, **options)


@pytest.mark.parametrize(("values", "message"), [
    ((-0.1, 0.1), "share of a group must be at least 0"), ((1, 1.1), "prevalence of a group must be in"),
    ((1, 0.1, 1), "missed of a group"), ((1, 0.1, 0, -1), "invented of a group"),
    ((1, 0.1, 0.5, 0.5), "sum to less than 1"), ((1, 0.1, 0, 0, 0), "separation of a group must be above 0"),
    ((1, np.nan), "prevalence of a group must be in")])
def test_an_impossible_group_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Group(*values)
