"""The answer key's single questions, its extremes and its errors."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit, ndtr
from scipy.stats import norm, rankdata
from test_answer_key import BOUND, PRINTED, N, agrees, attribute

from bias_tutorial import answer_key
from bias_tutorial.answer_key import Sight, solve
from bias_tutorial.scenario import Effect, Scenario, preset

# ---------------------------------------------------------------------- single questions
MARKS = [(0, .841), (.5, .827), (.7, .800), (.9, .712), (.95, .652), (1, .500)]


@pytest.mark.parametrize("rho, mean", MARKS)
def test_marks_on_one_class(rho, mean):
    row = answer_key.marks_on_one_class(rho).iloc[0]
    assert row["mean"] == pytest.approx(mean, abs=PRINTED)
    scenario = Scenario("marks", (attribute("mark", 0, rho),))
    clean = Scenario("clean", (attribute("mark", 0, 0),))
    test = solve(scenario, test=clean).rewarded.test
    assert test.rate(1) == pytest.approx(row["marked"], abs=1e-12)
    assert 1 - test.rate(0) == pytest.approx(row["unmarked"], abs=1e-12)
    assert test.accuracy == pytest.approx(row["mean"], abs=1e-12)


def test_prevalence_by_group():
    rates = answer_key.prevalence_by_group({"A": .05, "B": .10})
    assert rates["fnr"].tolist() == pytest.approx([.68, .54], abs=5e-3)
    # A group in which 5% are diseased is a design of its own.
    for group, pi in (("A", .05), ("B", .10)):
        alone = solve(Scenario(group, class_shares=(1 - pi, pi))).rewarded.same
        assert rates.loc[group, ["fnr", "fpr", "accuracy"]].tolist() == pytest.approx(
            [1 - alone.rate(1), alone.rate(0), alone.accuracy], abs=1e-12)
    uneven = answer_key.prevalence_by_group({"A": .05, "B": .10}, shares={"A": .9, "B": .1})
    assert uneven["fnr"].tolist() == pytest.approx(rates["fnr"].tolist())
    pooled = answer_key.prevalence_by_group({"A": .05, "B": .10}, visible=False)
    assert pooled["fnr"].tolist() == pytest.approx([ndtr(-logit(.075) / 2 - 1)] * 2)
    mostly_a = answer_key.prevalence_by_group({"A": .05, "B": .10}, visible=False, shares={"A": .9, "B": .1})
    assert mostly_a["fnr"].tolist() == pytest.approx([ndtr(-logit(.055) / 2 - 1)] * 2)
    assert answer_key.prevalence_by_group({"A": .1, "B": .1})["fnr"].nunique() == 1


def test_prevalence_by_group_at_another_threshold_and_separation():
    rng = np.random.default_rng(3)
    y = rng.random(N) < .2
    evidence = np.where(y, .75, -.75) + rng.standard_normal(N)
    posterior = .2 * norm.pdf(evidence, .75) / (.2 * norm.pdf(evidence, .75) + .8 * norm.pdf(evidence, -.75))
    row = answer_key.prevalence_by_group({"A": .2}, threshold=.3, separation=1.5).loc["A"]
    agrees(row["fnr"], posterior[y] <= .3)
    agrees(row["fpr"], posterior[~y] > .3)
    agrees(row["accuracy"], (posterior > .3) == y)


@pytest.mark.parametrize("p, gap, decorrelated", [(.7, -.249, .811), (.9, -.417, .761)])
def test_marginal_independence_reverses_the_gap(p, gap, decorrelated):
    row = answer_key.marginal_independence(p).iloc[0]
    assert row[["tpr_gap", "fpr_gap", "decorrelated"]].tolist() == pytest.approx([gap, gap, decorrelated], abs=PRINTED)
    # Zhao and Gordon's bound; by symmetry both groups err equally often.
    assert 2 * (1 - row["overall"]) >= 2 * p - 1
    # Quantiles within group from ranks of simulated severities.
    rng = np.random.default_rng(8)
    y = rng.random(N) < .5
    b = rng.random(N) < np.where(y, p, 1 - p)
    d, said = np.where(y, 1, -1) + rng.standard_normal(N), np.empty(N, bool)
    for group in (b, ~b):
        said[group] = d[group] > np.median(d[group])
    agrees(row["overall"], said == y)
    assert said[y & b].mean() - said[y & ~b].mean() == pytest.approx(gap, abs=.005)


def test_marginal_independence_of_an_unequal_design_picks_the_most_accurate_rate():
    scenario = Scenario("s", (attribute("a", .3, .7),), class_shares=(.7, .3))
    overall = answer_key.marginal_independence(.8, scenario)["overall"][0]
    rng = np.random.default_rng(9)
    y = rng.random(N) < .3
    b = rng.random(N) < np.where(y, .8, .2)
    d = np.where(y, 1, -1) + rng.standard_normal(N)
    quantile = np.empty(N)
    for group in (b, ~b):
        quantile[group] = rankdata(d[group]) / group.sum()
    by_rate = [((quantile > cut) == y).mean() for cut in np.linspace(.02, .98, 97)]
    assert max(by_rate) == pytest.approx(overall, abs=BOUND * .5 / np.sqrt(N))


# ---------------------------------------------------------------------- extremes and errors
def test_certain_bias():
    curve = answer_key.shortcut_curve([0, 1]).set_index("p")
    assert curve.loc[1, ["aligned", "conflicting", "overall", "tpr_gap", "decorrelated"]].tolist() == [1, 0, 1, 1, .5]
    assert curve.loc[0, ["aligned", "conflicting", "overall", "tpr_gap", "decorrelated"]].tolist() == [0, 1, 1, -1, .5]
    certain = solve(preset("near", 1)).rewarded
    assert (certain.same.auc, certain.same.probe_floors.loc["morphology", "auc"]) == pytest.approx((1, 1), abs=1e-12)
    assert certain.decorrelated.groups["auc"].tolist() == pytest.approx([ndtr(np.sqrt(2))] * 2, abs=1e-12)
    # Attribute first, severity within: half of the pairs differ in the attribute, and half of those are right.
    assert certain.decorrelated.auc == pytest.approx(.25 + .5 * ndtr(np.sqrt(2)), abs=1e-12)
    near = solve(preset("near", 1 - 1e-9), Sight(.3, {"morphology": .4}))
    limit = solve(preset("near", 1), Sight(.3, {"morphology": .4}))
    assert limit.rewarded.same.positive_rate == pytest.approx(near.rewarded.same.positive_rate, abs=1e-5)


def test_what_training_never_shows_is_undefined():
    key = solve(preset("both", 1))
    assert key.rewarded.same.accuracy == 1
    mixed = key.rewarded.decorrelated.groups.query("morphology != intensity")
    assert mixed[["tpr", "fpr", "auc"]].isna().all(axis=None)
    assert np.isnan(key.rewarded.decorrelated.accuracy) and np.isnan(key.rewarded.decorrelated.auc)
    assert key.wanted.decorrelated.accuracy == pytest.approx(ndtr(1))
    assert np.isnan(key.rewarded.same.rate(1, morphology=0))  # nobody with disease lacks it


THREE = Scenario("three", class_shares=(.4, .3, .3), severity_means=(-1, 0, 1))
NEAR = preset("near")
ERRORS = {
    "three classes": (lambda: solve(THREE), "defined for two classes, scenario 'three' has 3"),
    "severity upside down": (lambda: solve(Scenario("s", severity_means=(1, -1))), r"higher mean severity.*\(1, -1\)"),
    "negative severity noise": (lambda: Sight(-.1), "severity_noise must be at least 0 and finite, got -0.1"),
    "infinite severity noise": (lambda: Sight(np.inf), "severity_noise must be at least 0 and finite, got inf"),
    "NaN severity noise": (lambda: Sight(np.nan), "severity_noise must be at least 0 and finite, got nan"),
    "negative attribute noise": (lambda: Sight(0, {"a": -1}), r"attribute_noise\['a'\] must be at least 0, got -1"),
    "NaN attribute noise": (lambda: Sight(0, {"a": np.nan}), r"attribute_noise\['a'\] must be at least 0, got nan"),
    "unknown attribute in sight": (lambda: solve(NEAR, Sight(0, {"x": 1})), "unknown attribute 'x'.*has: morphology"),
    "unknown attribute in ceiling": (lambda: answer_key.read_out_ceiling(NEAR, Sight(0, {"x": 1})), "attribute 'x'"),
    "unknown attribute in rate": (lambda: solve(NEAR).rewarded.same.rate(1, x=1), "unknown attribute 'x'.*morphology"),
    "impossible value": (lambda: solve(NEAR).rewarded.same.rate(1, morphology=2), "'morphology' must be 0 or 1, got 2"),
    "dominance over itself": (lambda: solve(NEAR).rewarded.same.dominance("morphology", "morphology"), "two different"),
    "dominance over nothing": (lambda: solve(NEAR).rewarded.same.dominance("morphology", "x"), "unknown attribute 'x'"),
    "test of other attributes": (lambda: solve(NEAR, test=preset("intensity")), "must share attribute_names"),
    "test of other severity": (lambda: solve(NEAR, test=replace(NEAR, severity_sd=2)), "must share severity_sd"),
    "test of other effect": (
        lambda: solve(NEAR, test=replace(NEAR, attributes=(replace(NEAR.attributes[0], effect=Effect(3)),))),
        "same effect"),
    "curve beyond 1": (lambda: answer_key.shortcut_curve([.5, 1.2]), r"p must lie in \[0, 1\], got 1.2"),
    "curve without bias": (lambda: answer_key.shortcut_curve(.7, preset("no_bias")), "has no bias attribute"),
    "curve of unknown attribute": (lambda: answer_key.shortcut_curve(.7, attribute="x"), "unknown attribute 'x'"),
    "rho": (lambda: answer_key.marks_on_one_class(1.1), r"rho must lie in \[0, 1\], got 1.1"),
    "no separation": (lambda: answer_key.marks_on_one_class(.5, separation=0), "separation must be above 0"),
    "no group": (lambda: answer_key.prevalence_by_group({}), "at least one group"),
    "impossible prevalence": (lambda: answer_key.prevalence_by_group({"A": -.1}), r"prevalence must lie in \[0, 1\]"),
    "threshold": (lambda: answer_key.prevalence_by_group({"A": .1}, threshold=1), "threshold must lie between 0 and 1"),
    "shares of others": (lambda: answer_key.prevalence_by_group({"A": .1}, shares={"B": 1}), "must name the groups"),
    "shares off": (lambda: answer_key.prevalence_by_group({"A": .1}, shares={"A": .9}), "sum to 1, got 0.9"),
    "independence at p of 1": (lambda: answer_key.marginal_independence(1), "strictly between 0 and 1, got 1"),
    "independence of nothing": (lambda: answer_key.marginal_independence(.7, preset("no_bias")), "no bias attribute"),
    "R squared": (lambda: Sight.from_r_squared(NEAR, 0), "R squared of 'severity'"),
    "R squared of an attribute": (lambda: Sight.from_r_squared(NEAR, 1, {"morphology": 1.1}), "must be at most 1"),
    "R squared of nothing": (lambda: Sight.from_r_squared(NEAR, 1, {"x": .5}), "unknown attribute 'x'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_expected(case):
    action, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        action()


def test_fast_enough_for_an_explorer():
    sight, seconds = Sight(.3, {"morphology": .5, "intensity": .4}), []
    for _ in range(3):
        start = time.perf_counter()
        reference = solve(preset("both"), sight).rewarded
        assert reference.same.accuracy > reference.decorrelated.accuracy
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < .2


def test_auc_of_a_shift_by_drawing_and_at_its_ends():
    rng = np.random.default_rng(0)
    assert answer_key.shift_auc(0) == 0.5 and answer_key.shift_auc(40) == 1
    for dose in (1.5, 3.0):
        beaten = (rng.normal(dose, 1, 200_000) > rng.normal(0, 1, 200_000)).mean()
        assert answer_key.shift_auc(dose) == pytest.approx(beaten, abs=0.004)
    with pytest.raises(ValueError, match="dose must be at least 0, got -1"):
        answer_key.shift_auc(-1)
