"""The design of a study: who carries what, stratified so that nothing but the declared bias separates the groups."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bias_tutorial.cohort import SPLITS
from bias_tutorial.scenario import BiasAttribute, Effect, Scenario, balance, preset, streams

BOUND, N = 0.05, 2_000
PRESETS = ("no_bias", "near", "far", "intensity", "both")



def worst_smd(table, scenario):
    """The largest difference over classes, groups, splits and every latent but the biases' own strengths."""
    latents = ["severity", "subject_norm", *(f"subject_{k + 1}" for k in range(scenario.subject_modes))]
    worst = 0.0
    for _, part in table.groupby("disease"):
        sides = [(part[a] == 1, part[a] == 0) for a in scenario.attribute_names]
        sides += [(part["split"] == a, part["split"] == b) for a in SPLITS for b in SPLITS if a < b]
        for one, other in sides:
            assert one.any() and other.any()
            # over the standard deviation of the whole class, as the report does
            differences = (part.loc[one, latents].mean() - part.loc[other, latents].mean()) / part[latents].std()
            worst = max(worst, differences.abs().max())
    return worst


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_and_splits_are_balanced_from_2000_subjects(name, seed):
    scenario = preset(name)
    table = scenario.draw(N, seed)
    worst = worst_smd(table, scenario)
    assert worst < BOUND
    assert table.attrs["balance"] == pytest.approx(worst)


@pytest.mark.parametrize(("name", "p", "n"), [("both", 0.95, 2_000), ("far", 0.95, 4_000), ("both", 0.05, 3_000),
                                              ("both", 0.6, 2_001), ("near", 0.5, 2_000)])
def test_balance_holds_at_other_prevalences(name, p, n):
    scenario = preset(name, p)
    assert worst_smd(scenario.draw(n, 1), scenario) < BOUND


def test_balance_holds_for_unequal_classes_and_prevalences():
    scenario = Scenario("three", (BiasAttribute("a", "gain", (0.2, 0.5, 0.9), effect=Effect(1.1)),),
                        class_shares=(0.5, 0.3, 0.2), severity_means=(-1, 0, 1), split_shares=(0.6, 0.2, 0.2))
    table = scenario.draw(3_000, 0)
    assert worst_smd(table, scenario) < BOUND
    assert table["disease"].value_counts().sort_index().tolist() == [1_500, 900, 600]
    assert table.groupby("disease")["a"].sum().tolist() == [300, 450, 540]
    assert table["split"].value_counts()[list(SPLITS)].tolist() == [1_800, 600, 600]


def test_stratification_is_what_balances():
    scenario = preset("both")
    without = [worst_smd(scenario.draw(N, seed, stratify=False), scenario) for seed in range(5)]
    assert min(without) > BOUND
    assert np.mean(without) > 3 * np.mean([scenario.draw(N, seed).attrs["balance"] for seed in range(5)])


def test_small_cohorts_state_what_was_reached():
    scenario = preset("both")
    table = scenario.draw(120, 0)
    assert table.attrs["balance"] == pytest.approx(worst_smd(table, scenario))
    assert table.attrs["balance"] == pytest.approx(balance(table, scenario)["smd"].abs().max())


@pytest.mark.parametrize("n", [500, 2_000])
def test_published_counts_of_two_biases(n):
    table = preset("both").draw(n, 0)
    assert len(table) == n
    for disease, carried in ((1, 1), (0, 0)):  # mirrored: what agrees with the class is the majority
        part = table[table["disease"] == disease]
        counts = {(m, i): int(((part["morphology"] == m) & (part["intensity"] == i)).sum())
                  for m in (0, 1) for i in (0, 1)}
        other = 1 - carried
        expected = {(carried, carried): 245, (carried, other): 105, (other, carried): 105, (other, other): 45}
        if n == 500:  # 250 a class
            assert all(abs(counts[k] - v / 2) < 1 for k, v in expected.items())
        else:
            assert counts == {k: 2 * v for k, v in expected.items()}


def test_published_counts_of_one_bias_and_splits():
    table = preset("near").draw(N, 3)
    assert table.groupby("disease")["morphology"].sum().tolist() == [300, 700]
    counts = table.groupby(["disease", "split"]).size()
    assert all(counts[y, "train"] == 500 and counts[y, "validation"] == counts[y, "test"] == 250 for y in (0, 1))
    within = table.groupby(["disease", "split"])["morphology"].mean()
    for y, p in ((0, 0.3), (1, 0.7)):
        assert within[y].sub(p).abs().max() < 0.01


@pytest.mark.parametrize("n", [1, 2, 7, 19, 501])
def test_no_row_is_dropped(n):
    table = preset("no_bias").draw(n, 0) if n > 1 else Scenario("one", class_shares=(1.0,),
                                                               severity_means=(0.0,)).draw(1, 0)
    assert len(table) == n and table["image_id"].is_unique and not table.isna().any().any()


def test_bias_and_disease_are_spread_over_bins_of_severity():
    scenario = preset("far")
    table = scenario.draw(4_000, 0)
    for y, part in table.groupby("disease"):
        share = part.groupby(pd.qcut(part["severity"], 10))["morphology"].mean()
        assert (share - (0.7 if y else 0.3)).abs().max() < 0.02
        magnitude = part.groupby(pd.qcut(part["subject_norm"], 5))["morphology"].mean()
        assert (magnitude - (0.7 if y else 0.3)).abs().max() < 0.03


def test_latents_have_the_declared_distributions():
    scenario = replace(preset("near"), severity_means=(-1.5, 0.5), severity_sd=0.8, subject_bound=1.2)
    table = scenario.draw(8_000, 4)
    for y, mean in enumerate(scenario.severity_means):
        d = table.loc[table["disease"] == y, "severity"]
        assert d.mean() == pytest.approx(mean, abs=0.05) and d.std() == pytest.approx(0.8, abs=0.03)
    modes = table[[f"subject_{k}" for k in range(1, 11)]]
    assert 1.1 < modes.abs().max().max() <= 1.2
    assert np.allclose(table["subject_norm"], np.sqrt((modes**2).sum(axis=1)))
    assert np.abs(modes.corr().to_numpy() - np.eye(10)).max() < 0.06
    strength = table["morphology_strength"]
    assert (strength[table["morphology"] == 0] == 0).all()
    carriers = strength[table["morphology"] == 1]
    assert carriers.mean() == pytest.approx(2, abs=0.07) and carriers.std() == pytest.approx(1, abs=0.05)
    assert (preset("intensity").draw(100, 0).query("intensity == 1")["intensity_strength"] == 1.2).all()


def test_an_added_attribute_changes_no_subject_split_or_strength():
    one = preset("far")
    extra = BiasAttribute("coil", "receive_field", (0.4, 0.6), effect=Effect(0.2, 0.05))
    before = one.draw(600, 5)
    for more in (replace(one, attributes=(*one.attributes, extra)), replace(one, attributes=(extra, *one.attributes))):
        after = more.draw(600, 5)
        columns = ["image_id", "split", "disease", *one.balanced_latents]
        pd.testing.assert_frame_equal(after[columns], before[columns])
    appended = replace(one, attributes=(*one.attributes, extra))  # streams of strengths go by order
    np.testing.assert_array_equal(appended.potential_strengths(600, 5)["morphology"],
                                  one.potential_strengths(600, 5)["morphology"])
    pd.testing.assert_frame_equal(preset("no_bias").draw(600, 5)[columns], before[columns])


def test_the_same_seed_gives_the_same_table_and_another_seed_another():
    pd.testing.assert_frame_equal(preset("both").draw(300, 8), preset("both").draw(300, 8))
    assert not preset("both").draw(300, 8)["severity"].equals(preset("both").draw(300, 9)["severity"])


def test_streams_are_independent_of_each_other():
    stream = streams(3)
    alone = streams(3)("noise", 7).standard_normal(4)
    stream("subject").standard_normal(100)
    np.testing.assert_array_equal(stream("noise", 7).standard_normal(4), alone)
    others = [stream("noise", 8), stream("noise"), stream("nois", 7), stream("trace", 7), streams(4)("noise", 7)]
    assert all(not np.array_equal(o.standard_normal(4), alone) for o in others)


def test_joint_table_is_followed_when_biases_go_together():
    joint = [[[0.6, 0.1], [0.1, 0.2]], [[0.2, 0.1], [0.1, 0.6]]]
    scenario = replace(preset("both"), joint=joint)
    table = scenario.draw(N, 0)
    for y in (0, 1):
        part = table[table["disease"] == y]
        for m in (0, 1):
            for i in (0, 1):
                count = ((part["morphology"] == m) & (part["intensity"] == i)).sum()
                assert count == round(1_000 * joint[y][m][i])
    assert worst_smd(table, scenario) < BOUND
    independent = preset("both").joint_table()
    np.testing.assert_allclose(independent[1], [[0.09, 0.21], [0.21, 0.49]])


def test_at_and_decorrelated():
    scenario = replace(preset("both"), joint=[[[0.6, 0.1], [0.1, 0.2]], [[0.2, 0.1], [0.1, 0.6]]])
    assert all(a.prevalence == pytest.approx((0.1, 0.9)) for a in scenario.at(0.9).attributes)
    assert scenario.at(0.9).joint is None
    honest = scenario.decorrelated()
    assert all(a.prevalence == (0.5, 0.5) for a in honest.attributes) and honest.joint is None
    counts = honest.draw(800, 0).groupby(["disease", "morphology", "intensity"]).size()
    assert (counts == 100).all()


@pytest.mark.parametrize("scenario", [*(preset(name, 0.8) for name in PRESETS),
                                      replace(preset("both"), joint=[[[0.6, 0.1], [0.1, 0.2]],
                                                                     [[0.2, 0.1], [0.1, 0.6]]])])
def test_a_scenario_survives_json(scenario):
    again = Scenario.from_dict(json.loads(json.dumps(scenario.to_dict())))
    assert again.to_dict() == scenario.to_dict()
    pd.testing.assert_frame_equal(again.draw(60, 1), scenario.draw(60, 1))


def test_presets_differ_as_published():
    from bias_tutorial.simulate.anatomy import region

    def distance(name):
        scenario = preset(name)
        return np.linalg.norm(np.subtract(region(scenario.disease_region).centre,
                                          region(scenario.attributes[0].region).centre))

    assert distance("near") < 25 and distance("far") > 80
    assert preset("intensity").attributes[0].kind == "contrast_stretch"
    assert [a.kind for a in preset("both").attributes] == ["morphology", "contrast_stretch"]
    assert preset("no_bias").attributes == ()


def test_strengths_of_two_biases_are_independent():
    two = (BiasAttribute("one", "morphology", (0.5, 0.5), region="left_insula"),
           BiasAttribute("other", "morphology", (0.5, 0.5), region="right_occipital"))
    strengths = Scenario("two", two).potential_strengths(4000, 3)
    assert abs(np.corrcoef(strengths["one"], strengths["other"])[0, 1]) < 0.06
    assert (Scenario("first", two[:1]).potential_strengths(4000, 3)["one"] == strengths["one"]).all()
