"""The answer key against its closed forms, quadrature and a million simulated subjects."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit, ndtr
from scipy.stats import norm

from bias_tutorial import answer_key
from bias_tutorial.answer_key import Sight, solve
from bias_tutorial.scenario import BiasAttribute, Effect, Scenario, preset

N, BOUND = 1_000_000, 4  # subjects per Monte Carlo test, and how many standard errors it may be off
PRINTED = 5.001e-4  # half a unit of the third digit


def attribute(name, no_disease, disease, mean=2.0, sd=1.0):
    return BiasAttribute(name, "gain", (no_disease, disease), effect=Effect(mean, sd))


# ---------------------------------------------------------------------- printed values
TABLE = [(.5, .841, .841, .841, 0, .841), (.6, .885, .787, .846, .098, .836), (.7, .923, .718, .861, .205, .820),
         (.8, .955, .621, .888, .334, .788), (.9, .982, .461, .930, .521, .721), (.95, .993, .318, .960, .675, .656)]


@pytest.mark.parametrize("p, aligned, conflicting, overall, gap, decorrelated", TABLE)
def test_one_bias_over_p(p, aligned, conflicting, overall, gap, decorrelated):
    row = answer_key.shortcut_curve(p).iloc[0]
    expected = [p, aligned, conflicting, overall, gap, gap, decorrelated, .841]
    assert row.to_numpy() == pytest.approx(expected, abs=PRINTED)
    assert row["aligned"] == pytest.approx(ndtr(1 + logit(p) / 2), abs=1e-12)
    assert row["conflicting"] == pytest.approx(ndtr(1 - logit(p) / 2), abs=1e-12)
    key = solve(preset("near", p))
    assert key.rewarded.same.groups["auc"].to_numpy() == pytest.approx(ndtr(np.sqrt(2)), abs=1e-12)
    assert key.rewarded.same.alignment.iloc[0].tolist() == pytest.approx([aligned, conflicting], abs=PRINTED)


def test_two_biases():
    key = solve(preset("both"))
    same, decorrelated = key.rewarded.same, key.rewarded.decorrelated
    assert same.agreement["accuracy"].tolist() == pytest.approx([.968, .841, .561], abs=PRINTED)
    assert same.agreement["share"].tolist() == pytest.approx([.49, .42, .09])
    assert (same.accuracy, decorrelated.accuracy) == pytest.approx((.878, .803), abs=PRINTED)
    assert same.gaps.to_numpy() == pytest.approx(np.full((2, 2), .173), abs=PRINTED)
    assert decorrelated.gaps.to_numpy() == pytest.approx(np.full((2, 2), .203), abs=PRINTED)
    assert same.dominance("intensity", "morphology").tolist() == pytest.approx([0, 0], abs=1e-12)


def test_what_we_want_is_the_same_in_every_group():
    for where in (line := solve(preset("both", .9)).wanted).same, line.decorrelated:
        assert where.accuracy == pytest.approx(ndtr(1), abs=1e-12)
        assert where.groups["tpr"].to_numpy() == pytest.approx(ndtr(1), abs=1e-12)
        assert where.groups["fpr"].to_numpy() == pytest.approx(ndtr(-1), abs=1e-12)
        assert where.gaps.to_numpy() == pytest.approx(0, abs=1e-12)


def test_probe_floors():
    key = solve(preset("near", .7))
    assert key.wanted.same.probe_floors.iloc[0].tolist() == pytest.approx([.637, .669], abs=PRINTED)
    assert key.rewarded.same.probe_floors.iloc[0].tolist() == pytest.approx([.731, .803], abs=PRINTED)
    # Pairs that differ in class are ranked as disease is, .49 of them in the bias's favour and .09 against it.
    within = ndtr(np.sqrt(2))
    exact = .49 * within + .09 * (1 - within) + .42 / 2
    assert key.wanted.same.probe_floors["auc"].iloc[0] == pytest.approx(exact, abs=1e-12)
    assert key.wanted.decorrelated.probe_floors.iloc[0].tolist() == pytest.approx([.5, .5], abs=1e-12)
    for p in (.2, .6, .95):
        floor = solve(preset("near", p)).wanted.same.probe_floors.loc["morphology", "accuracy"]
        assert floor == pytest.approx(ndtr(1) * p + ndtr(-1) * (1 - p), abs=1e-12)


@pytest.mark.parametrize("noise", [.5, 1.0, 2.0])
@pytest.mark.parametrize("p", [.6, .9])
def test_noise_on_severity_has_a_closed_form_and_raises_the_reward(noise, p):
    key, spread = solve(preset("near", p), Sight(severity_noise=noise)), np.hypot(1, noise)
    aligned, conflicting = key.rewarded.same.alignment.iloc[0]
    assert aligned == pytest.approx(ndtr(1 / spread + spread * logit(p) / 2), abs=1e-12)
    assert conflicting == pytest.approx(ndtr(1 / spread - spread * logit(p) / 2), abs=1e-12)
    assert key.wanted.same.accuracy == pytest.approx(ndtr(1 / spread), abs=1e-12)
    assert aligned - conflicting > solve(preset("near", p)).rewarded.same.alignment.iloc[0] @ [1, -1]


def by_quadrature(p, mean, sd, noise, extra=0.0):
    """Positive rates (class, attribute) of the best reader by the trapezoidal rule; shares no code with the package."""
    spread = np.hypot(sd, noise)
    o = np.arange(min(-10 * noise, mean - 10 * spread), max(10 * noise, mean + 10 * spread), noise / 100)
    absent, present = norm.logpdf(o, 0, noise), norm.logpdf(o, mean, spread)
    log_odds = (np.logaddexp(np.log(p) + present, np.log(1 - p) + absent)
                - np.logaddexp(np.log(1 - p) + present, np.log(p) + absent))
    return np.array([[np.exp(f) @ ndtr(sign + (log_odds + extra) / 2) * noise / 100 for f in (absent, present)]
                     for sign in (-1, 1)])


# Three digits, by adaptive quadrature to 1e-10 and by averaging Phi over 10^7 draws of the observation.
LIMITED = [(.1, (.189, .193), (.015, .012)), (.25, (.169, .177), (.035, .028)), (.5, (.137, .147), (.067, .059)),
           (1.0, (.085, .093), (.119, .113))]


@pytest.mark.parametrize("noise, gaps, dominance", LIMITED)
def test_limited_sight_of_a_bias_of_varying_strength(noise, gaps, dominance):
    sight = Sight(attribute_noise={"morphology": noise})
    one, both = solve(preset("near"), sight).rewarded.same, solve(preset("both"), sight).rewarded.same
    assert one.gaps.iloc[0].tolist() == pytest.approx(gaps, abs=PRINTED)
    assert both.dominance("intensity", "morphology").tolist() == pytest.approx(dominance, abs=PRINTED)
    assert one.positive_rate == pytest.approx(by_quadrature(.7, 2, 1, noise), abs=1e-8)
    seen, hidden = by_quadrature(.7, 2, 1, noise, logit(.7)), by_quadrature(.7, 2, 1, noise, -logit(.7))
    exact = (seen[:, 0] - hidden[:, 1])[::-1]
    assert both.dominance("intensity", "morphology").tolist() == pytest.approx(exact, abs=1e-8)
    assert both.dominance("morphology", "intensity").tolist() == pytest.approx(-exact, abs=1e-8)


@pytest.mark.parametrize("mean, sd, noise",
                         [(1.2, 0, .05), (1.2, 0, .6), (-2, 1, .5), (.5, 3, .02), (0, 1, .5), (2, .1, 2)])
def test_other_effects_by_quadrature(mean, sd, noise):
    key = solve(Scenario("one", (attribute("a", .3, .7, mean, sd),)), Sight(attribute_noise={"a": noise}))
    assert key.rewarded.same.positive_rate == pytest.approx(by_quadrature(.7, mean, sd, noise), abs=1e-8)


def test_auc_under_limited_sight_is_the_area_under_the_curve():
    exact = solve(preset("near"), Sight(attribute_noise={"morphology": .5})).rewarded.same
    rates = np.array([by_quadrature(.7, 2, 1, .5, shift) for shift in np.linspace(-24, 24, 1201)])  # (shift, class, b)
    no_disease, disease = rates[:, 0], rates[:, 1]
    assert exact.auc == pytest.approx(np.trapezoid(disease @ [.3, .7], no_disease @ [.7, .3]), abs=2e-5)
    for b in (0, 1):
        assert exact.groups["auc"][b] == pytest.approx(np.trapezoid(disease[:, b], no_disease[:, b]), abs=2e-5)


# ---------------------------------------------------------------------- Monte Carlo
TWO = (attribute("a", .3, .7), attribute("b", .3, .7, 1.2, 0))
JOINT = (((.5, .1), (.1, .3)), ((.1, .3), (.2, .4)))
DESIGNS = {
    "perfect sight": (Scenario("s", (attribute("a", .3, .7),)), Sight()),
    "unequal classes and p, noise on both": (
        Scenario("s", (attribute("a", .1, .6),), class_shares=(.8, .2)), Sight(.7, {"a": .5})),
    "another severity": (Scenario("s", (attribute("a", .4, .9),), severity_means=(-.5, 2), severity_sd=1.5), Sight(.5)),
    "two biases, unequal noise": (Scenario("s", TWO), Sight(.3, {"a": .25, "b": .8})),
    "joint table, one bias noisy": (
        Scenario("s", (attribute("a", .4, .6), attribute("b", .4, .7)), (.35, .65), joint=JOINT), Sight(0, {"b": 1.0})),
    "three biases, one invisible": (
        Scenario("s", (*TWO, attribute("c", .2, .5)), (.6, .4)), Sight(.2, {"a": .5, "b": np.inf, "c": .3})),
    "p of 1, seen with noise": (Scenario("s", (attribute("a", 0, 1),)), Sight(.5, {"a": 1.0})),
}


def simulate(scenario, rng):
    """Class, attributes, severity and strengths, drawn straight from the declared distributions."""
    combinations = np.array(list(product((0, 1), repeat=len(scenario.attributes))))
    y = rng.random(N) < scenario.class_shares[1]
    table = np.cumsum(scenario.joint_table().reshape(2, -1), axis=1)
    place = np.where(y, *(np.searchsorted(table[c] / table[c, -1], rng.random(N)) for c in (1, 0)))
    b = combinations[place] == 1
    severity = np.where(y, *scenario.severity_means[::-1]) + scenario.severity_sd * rng.standard_normal(N)
    strength = np.column_stack([b[:, k] * a.effect.draw(rng, N) for k, a in enumerate(scenario.attributes)])
    return y, b, severity, strength


def density(x, mean, sd):
    return np.exp(-(((x - mean) / sd) ** 2) / 2) / sd


def log_odds(scenario, sight, severity, strength, rng, blind=False):
    """Log-odds of disease by Bayes' rule, written out over every attribute combination."""
    spread = np.hypot(scenario.severity_sd, sight.severity_noise)
    seen = severity + sight.severity_noise * rng.standard_normal(N)
    (low, high), (share_low, share_high) = scenario.severity_means, scenario.class_shares
    likelihood = []
    for k, a in enumerate(scenario.attributes):
        s = sight.attribute_noise.get(a.name, 0.0)
        if blind or np.isinf(s):
            likelihood.append((1.0, 1.0))
        elif s == 0:
            likelihood.append((strength[:, k] == 0, strength[:, k] != 0))
        else:
            o = strength[:, k] + s * rng.standard_normal(N)
            likelihood.append((density(o, 0, s), density(o, a.effect.mean, np.hypot(a.effect.sd, s))))
    given = [np.zeros(N), np.zeros(N)]
    for b in product((0, 1), repeat=len(scenario.attributes)):
        together = np.ones(N)
        for factors, value in zip(likelihood, b, strict=True):
            together = together * factors[value]
        for y in (0, 1):
            given[y] += scenario.joint_table()[(y, *b)] * together
    severity_part = ((seen - low) ** 2 - (seen - high) ** 2) / (2 * spread**2)
    return severity_part + np.log(share_high * given[1]) - np.log(share_low * given[0])


def agrees(exact, hits, among=None):
    """An exact probability against the share of hits, in all or among some."""
    count = len(hits) if among is None else np.count_nonzero(among)
    share = np.count_nonzero(hits if among is None else hits & among) / count
    assert count > 100
    assert abs(share - exact) < BOUND * np.sqrt(max(exact * (1 - exact), 1e-12) / count), (exact, share, count)


def agrees_auc(exact, positive):
    """An exact AUC against its estimate from labels in order of their scores.

    The variance of the estimate is at most A(1 - A) / (the smaller count of the two).
    """
    m, n = positive.sum(), (~positive).sum()
    estimate = (np.flatnonzero(positive).sum() - m * (m - 1) / 2) / (m * n)
    assert abs(estimate - exact) < BOUND * np.sqrt(max(exact * (1 - exact), 1e-12) / min(m, n)), (exact, estimate)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_million_subjects(design):
    scenario, sight = DESIGNS[design]
    key, rng = solve(scenario, sight), np.random.default_rng(20)
    for where, drawn in (("same", scenario), ("decorrelated", scenario.decorrelated())):
        y, b, severity, strength = simulate(drawn, rng)
        for line in ("rewarded", "wanted"):
            score = log_odds(scenario, sight, severity, strength, rng, blind=line == "wanted")
            order = np.argsort(score)
            compare(getattr(getattr(key, line), where), y[order], b[order], score[order] > 0)


def compare(exact, y, b, said):
    """Every result of an evaluation against subjects in order of their scores."""
    right, b = said == y, np.asfortranarray(b)
    agrees(exact.accuracy, right)
    agrees_auc(exact.auc, y)
    for row in exact.groups.to_dict("records"):
        group = np.all([b[:, k] == row[a] for k, a in enumerate(exact.names)], axis=0)
        agrees(row["share"], group)
        agrees(row["accuracy"], right, group)
        agrees(row["prevalence"], y, group)
        for rate, c in (("tpr", 1), ("fpr", 0)):
            if (cell := group & (y == c)).any():
                agrees(row[rate], said, cell)
        if 0 < row["prevalence"] < 1:
            agrees_auc(row["auc"], y[group])
    for k, a in enumerate(exact.names):
        agrees(exact.probe_floors.loc[a, "accuracy"], said == b[:, k])
        agrees_auc(exact.probe_floors.loc[a, "auc"], b[:, k])
        for c, v in product((0, 1), (0, 1)):
            if (cell := (y == c) & (b[:, k] == v)).any():
                agrees(exact.rate(c, **{a: v}), said, cell)
        for column, cell in (("aligned", b[:, k] == y), ("conflicting", b[:, k] != y)):
            if cell.any():
                agrees(exact.alignment.loc[a, column], right, cell)
    agreeing = (b == y[:, None]).sum(axis=1)
    for k, row in exact.agreement.iterrows():
        if (agreeing == k).any():
            agrees(row["share"], agreeing == k)
            agrees(row["accuracy"], right, agreeing == k)


def test_gaps_and_dominance_are_differences_of_the_rates_just_tested():
    scenario, sight = DESIGNS["three biases, one invisible"]
    e = solve(scenario, sight).rewarded.same
    assert e.gaps.loc["a", "tpr_gap"] == pytest.approx(e.rate(1, a=1) - e.rate(1, a=0), abs=1e-15)
    assert e.gaps.loc["a", "fpr_gap"] == pytest.approx(e.rate(0, a=1) - e.rate(0, a=0), abs=1e-15)
    assert e.dominance("c", "a")["fpr"] == pytest.approx(e.rate(0, c=1, a=0) - e.rate(0, c=0, a=1), abs=1e-15)
    weights = e.groups.assign(w=lambda g: g["share"] * g["prevalence"]).query("a == 1")
    assert e.rate(1, a=1) == pytest.approx(np.average(weights["tpr"], weights=weights["w"]), abs=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
def test_no_other_use_of_the_shortcut_is_more_accurate(design):
    scenario, sight = DESIGNS[design]
    best = solve(scenario, sight).rewarded.same
    others = [best.offset * f for f in (.8, 1.2)] + [best.offset + d for d in (-.1, .1)]
    for offset in others:
        assert replace(best, offset=offset).accuracy < best.accuracy
    assert best.accuracy > solve(scenario, sight).wanted.same.accuracy


def test_five_noisy_biases_stay_near_simulation():
    names = "abcde"
    scenario = Scenario("five", tuple(attribute(a, .3, .7) for a in names))
    sight = Sight(attribute_noise=dict.fromkeys(names, .5))
    exact, rng = solve(scenario, sight).rewarded.same, np.random.default_rng(5)
    y, _, severity, strength = simulate(scenario, rng)
    right = (log_odds(scenario, sight, severity, strength, rng) > 0) == y
    assert exact.accuracy == pytest.approx(right.mean(), abs=2e-4 + BOUND * right.std() / np.sqrt(N))


# ---------------------------------------------------------------------- how well things are seen
def test_sight_from_r_squared_gives_back_the_r_squared():
    scenario = Scenario("s", TWO, class_shares=(.8, .2)).decorrelated()
    sight, rng = Sight.from_r_squared(scenario, .8, {"a": .6, "b": 0}), np.random.default_rng(4)
    _, _, severity, strength = simulate(scenario, rng)
    for truth, noise, r2 in ((severity, sight.severity_noise, .8), (strength[:, 0], sight.attribute_noise["a"], .6)):
        assert np.corrcoef(truth, truth + noise * rng.standard_normal(N))[0, 1] ** 2 == pytest.approx(r2, abs=.003)
    assert sight.attribute_noise["b"] == np.inf
    assert Sight.from_r_squared(scenario, 1, {"a": 1}) == Sight(0, {"a": 0, "b": 0})


def test_read_out_ceiling():
    scenario = Scenario("s", TWO)
    ceiling = answer_key.read_out_ceiling(scenario, Sight(attribute_noise={"a": .7, "b": .9}))
    assert ceiling.loc["b"].tolist() == pytest.approx([ndtr(1.2 / .9 / 2), ndtr(1.2 / .9 / np.sqrt(2))], abs=1e-5)
    rng = np.random.default_rng(6)
    b = rng.random(N) < .5
    seen = b * (2 + rng.standard_normal(N)) + .7 * rng.standard_normal(N)
    ratio = norm.logpdf(seen, 2, np.hypot(1, .7)) - norm.logpdf(seen, 0, .7)
    agrees(ceiling.loc["a", "accuracy"], (ratio > 0) == b)
    agrees_auc(ceiling.loc["a", "auc"], b[np.argsort(ratio)])
    extremes = answer_key.read_out_ceiling(scenario, Sight(attribute_noise={"b": np.inf}))
    assert extremes.to_numpy().tolist() == [[1, 1], [.5, .5]]


def test_invisible_biases_leave_what_we_want():
    scenario = Scenario("s", (*TWO, attribute("nothing", .1, .9, 0, 0)), class_shares=(.7, .3))
    key = solve(scenario, Sight(.4, {"a": np.inf, "b": np.inf}))
    assert key.rewarded.same.positive_rate == pytest.approx(key.wanted.same.positive_rate, abs=1e-12)
    faint = solve(Scenario("s", TWO), Sight(attribute_noise={"a": 1e4, "b": 1e4})).rewarded.same
    assert faint.gaps.to_numpy() == pytest.approx(0, abs=1e-3)


def test_without_bias_both_lines_are_one():
    key = solve(preset("no_bias"))
    assert key.summary.loc["rewarded"].tolist() == pytest.approx([ndtr(1)] * 2 + [ndtr(np.sqrt(2))] * 2)
    pd.testing.assert_series_equal(key.summary.loc["rewarded"], key.summary.loc["wanted"], check_names=False)
    assert len(key.rewarded.same.groups) == 1 and key.rewarded.same.gaps.empty
