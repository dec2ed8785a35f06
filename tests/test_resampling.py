"""Resampling: what every procedure keeps, what it changes, and what the report says of it."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest

from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.mitigation import resampling
from bias_tutorial.mitigation.resampling import Groups
from bias_tutorial.mitigation.reweighing import weights

PROCEDURES = {"as_released": resampling.as_released, "balanced_counts": resampling.balanced_counts,
              "balanced_min": partial(resampling.balanced_counts, target="min"),
              "by_finding": resampling.by_finding, "as_described": resampling.as_described,
              "random_subset": partial(resampling.random_subset, size=100)}


def cohort_of(groups, splits="train", images=None, **findings):
    """One row a letter of ``groups``, each of a patient of its own."""
    n = len(groups)
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient_id": [f"p{k}" for k in range(n)],
                          "split": splits, "race": list(groups), **findings})
    images = np.arange(n, dtype=np.float32)[:, None] if images is None else images
    return Cohort(images, table, Schema({name: (0, 1) for name in findings}, {"race": tuple(sorted(set(groups)))}))


def drawn(n=3000, seed=0, missing=0.0):
    """Three findings whose rates differ by race, ages that are years, two studies a patient, all three splits."""
    rng = np.random.default_rng(seed)
    race = rng.choice(list("ABCD"), n, p=(0.6, 0.25, 0.1, 0.05))
    rates = np.array([0.3, 0.1, 0.5]) + np.select([race == "B", race == "C"], [0.2, -0.08])[:, None]
    labels = (rng.random((n, 3)) < rates).astype(float)
    labels[rng.random((n, 3)) < missing] = np.nan
    patient = np.arange(n) // 2
    table = pd.DataFrame({"image_id": np.arange(n), "patient_id": patient, "race": race,
                          "sex": rng.choice(["F", "M"], n),
                          "split": np.array(["train", "train", "test", "validation"])[patient % 4],
                          "age": rng.integers(30, 70, n), "x": labels[:, 0], "y": labels[:, 1], "z": labels[:, 2]})
    features = rng.standard_normal((n, 12), dtype=np.float32)
    return Cohort(features, table, Schema(dict.fromkeys("xyz", (0, 1)), {"race": tuple("ABCD"), "sex": ("F", "M")}))


def times_of(groups, done):
    return np.bincount(done.rows, minlength=len(groups.cohort))


# ---------------------------------------------------------------------- groups, and what they refuse
def test_groups_are_combinations_in_order_with_ages_in_bins():
    table = cohort_of("BAABA", x=[1, 0, 0, 1, np.nan]).table.assign(age=[19, 20, np.nan, 85.5, 20])
    cohort = Cohort(np.zeros((5, 1)), table, Schema({"x": (0, 1)}, {"race": ("B", "A")}))
    groups = Groups.of(cohort, ("race", "age"), ages={"age": (0, 20, 40)})
    assert groups.names == ("B, 0-20", "B, 40+", "A, 20-40", "A, missing")
    assert groups.codes.tolist() == [0, 2, 3, 1, 2]
    assert groups.counts.tolist() == [1, 1, 2, 1]
    assert groups.labels.ravel() == pytest.approx([1, 0, 0, 1, np.nan], nan_ok=True)
    assert groups.notes[0] == "age is missing in 1 rows, which are groups of their own"
    assert groups.notes[1] == "'x' is missing in 1 rows"
    assert "3 groups hold a single patient" in groups.notes[2]
    single = Groups.of(cohort, ("age",), ages={"age": None})
    assert single.names == ("19", "20", "85", "missing")


@pytest.mark.parametrize("age", [-1.0, 121.0, 999.0, math.inf])
def test_rows_of_impossible_age_are_left_out_and_counted(age):
    table = cohort_of("AABB", x=[0, 1, 0, 1]).table.assign(age=[40.0, age, 50.0, 120.0])
    groups = Groups.of(Cohort(np.zeros((4, 1)), table, Schema({"x": (0, 1)})), ("race", "age"), ages={"age": (0, 60)})
    assert groups.rows.tolist() == [0, 2, 3]
    report = resampling.balanced_counts(groups).report
    assert report.excluded == {"age outside 0 to 120": 1}


def test_a_group_of_one_patient_is_named():
    cohort = cohort_of("AAAB", x=[0, 1, 0, 1])
    notes = resampling.balanced_counts(Groups.of(cohort, ["race"])).report.notes
    assert notes == ("1 groups hold a single patient, whom copies only show again: B",)


BAD = {
    "column": (dict(by=["colour"]), {}, "column 'colour' is not in the table; it has image_id"),
    "none": (dict(by=[]), {}, "by names no column"),
    "no finding": (dict(by=["race"], findings=[]), {}, "findings names no column"),
    "finding": (dict(by=["race"], findings=["Edema"]), {}, "column 'Edema' is not in the table"),
    "age not grouped by": (dict(by=["race"], ages={"age": None}), {}, "ages names 'age', which is not among"),
    "one group": (dict(by=["race"]), {"race": "A"}, "all 4 training rows are in one group, A"),
    "text": (dict(by=["age"], ages={"age": None}), {"age": [40, "old", 50, 60]},
             "column 'age': 'old' in row 1 is text, expected an age in years"),
    "all excluded": (dict(by=["age"], ages={"age": None}), {"age": 200}, "no training row is left"),
    "edges": (dict(by=["age"], ages={"age": (0, 40, 20)}), {}, "lower edges that rise from 0"),
    "edge": (dict(by=["age"], ages={"age": (20, 40)}), {}, "lower edges that rise from 0"),
    "label": (dict(by=["race"]), {"x": [0, 1, -1, 1]}, "column 'x': -1 in row 2, expected 0, 1 or missing"),
    "text label": (dict(by=["race"]), {"x": [0, 1, "yes", 1]}, "column 'x': 'yes' in row 2, expected 0, 1 or missing"),
    "no training row": (dict(by=["race"]), {"split": "test"}, "there is no row in split 'train'"),
    "row of the test split": (dict(by=["race"], rows=np.array([0, 3])), {"split": ["train", "train", "train", "test"]},
                              "row 3 is in split 'test': training rows alone"),
    "row outside": (dict(by=["race"], rows=np.array([0, 4])), {}, "rows must be whole numbers from 0 to 3"),
    "no patient": (dict(by=["race"]), {"patient_id": ["p", None, "q", "r"]}, "column 'patient_id' is empty in 1 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    given, columns, message = BAD[case]
    table = cohort_of("AABB", x=[0, 1, 0, 1]).table.assign(age=[30, 40, 50, 60]).assign(**columns)
    values = (0, 1, -1, "yes")  # as a schema may declare them
    with pytest.raises(ValueError, match=message):
        Groups.of(Cohort(np.zeros((4, 1)), table, Schema({"x": values})), **given)


def test_guard_refuses_copies_on_both_sides():
    cohort = cohort_of("AABB", splits=["train", "train", "train", "test"], x=[0, 1, 0, 1])
    resampling.guard(cohort.table)
    resampling.guard(cohort.table, np.array([2, 0, 0]))
    copied = cohort.table.iloc[[0, 0, 1, 3]].assign(split=["train", "test", "train", "test"])
    with pytest.raises(ValueError, match=r"patient 'p0' stands in several splits \(test, train\): split by"):
        resampling.guard(copied)
    with pytest.raises(ValueError, match="image 'i0' stands in several splits"):
        resampling.guard(copied.assign(patient_id=list("abcd")))
    with pytest.raises(ValueError, match="row 3 is in split 'test'"):
        resampling.guard(cohort.table, np.array([1, 3]))
    with pytest.raises(ValueError, match="column 'split' is missing"):
        resampling.guard(cohort.table.drop(columns="split"))


# ---------------------------------------------------------------------- what holds for all
@pytest.mark.parametrize("name", PROCEDURES)
def test_training_rows_alone_by_the_seed_and_nothing_is_changed(name):
    cohort = drawn()
    before = cohort.table.copy()
    groups = Groups.of(cohort, ("race", "sex"))
    one, same, other = (PROCEDURES[name](groups, seed=seed) for seed in (0, 0, 1))
    assert (cohort.table["split"].to_numpy()[one.rows] == "train").all()
    assert (np.diff(one.rows) >= 0).all()
    assert np.array_equal(one.rows, same.rows)
    assert not np.array_equal(one.rows, other.rows)
    pd.testing.assert_frame_equal(cohort.table, before)
    report = one.report
    assert report.groups["after"].sum() == report.balance.loc["after", "rows"] == len(one)
    changed = 0 if one.augmented is None else one.augmented.sum()
    assert report.groups["augmented"].sum() == changed
    kept = one.rows if one.augmented is None else one.rows[~one.augmented]
    assert report.duplicates == len(kept) - len(np.unique(kept))


def test_the_report_by_hand():
    cohort = cohort_of("AAAAABBC", x=[1, 1, 0, np.nan, 0, 1, 0, 1])
    cohort.table["patient_id"] = ["p", "p", "q", "r", "r", "s", "t", "u"]
    groups = Groups.of(cohort, ["race"])
    report = resampling.balanced_counts(groups, seed=0).report
    assert report.groups["before"].tolist() == [5, 2, 1]
    assert report.groups["after"].tolist() == [2, 2, 2]
    assert report.groups["patients_before"].tolist() == [3, 2, 1]
    assert report.groups["duplicates"].tolist() == [0, 0, 1]
    assert report.groups["most_copies"].tolist() == [1, 1, 2]
    entropy = -sum(p * math.log(p) for p in (5 / 8, 2 / 8, 1 / 8)) / math.log(3)
    # half the mean absolute difference of all pairs, over the mean: (4 + 3 + 1) * 2 / 9 / 2 / (8 / 3)
    assert report.balance.loc["before"].tolist() == pytest.approx([8, entropy, 1 / 3, 1 - (25 + 4 + 1) / 64])
    assert report.balance.loc["after"].tolist() == pytest.approx([6, 1, 0, 2 / 3])
    assert report.findings["before"].tolist() == [0.5, 0.5, 1]
    after = report.findings.set_index("group")["after"]
    assert after[["B", "C"]].tolist() == [0.5, 1]
    kept = times_of(groups, resampling.balanced_counts(groups, seed=0))[:5]
    values = cohort.table["x"].to_numpy()[:5][kept > 0]
    assert after["A"] == pytest.approx(np.nanmean(values))


def test_a_group_that_is_lost_is_told():
    cohort = cohort_of("A" * 200 + "B", x=[0, 1] * 100 + [1])
    for seed in range(3):
        report = resampling.random_subset(Groups.of(cohort, ["race"]), 2, seed).report
        if report.groups["after"]["B"] == 0:
            break
    assert "1 groups have no row left" in report.notes
    assert np.isnan(report.findings.set_index("group")["after"]["B"])


# ---------------------------------------------------------------------- counts
def test_as_released_by_hand():
    # rate 7/15; scores .533 of positives, .467 of negatives; A .533 and C .158 away from the rate; median 5
    groups = Groups.of(cohort_of("AABBBBBCCCCCCCC", x=[1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1]), ["race"])
    for seed in range(5):
        times = times_of(groups, resampling.as_released(groups, seed))
        assert times[0] >= 2 and times[1] >= 1 and times[:2].sum() == 5  # int(.7 * 2) = 1: the first is copied first
        assert times[2:7].tolist() == [1] * 5
        assert times[7:].tolist() == [1, 1, 0, 0, 1, 1, 1, 0]  # the negatives, then the first positives


def plain(groups, seed):
    """The released steps by lists, a row at a time; the same draws."""
    rng = np.random.default_rng(seed)
    keys = [rng.random() for _ in groups.rows]
    labels = [[0.0 if math.isnan(value) else float(value) for value in row] for row in groups.labels]
    rates = [sum(column) / len(labels) for column in zip(*labels, strict=True)]
    score = []
    for row in labels:
        total = 0
        for value, rate in zip(row, rates, strict=True):
            total += abs(value - rate)
        score.append(total)
    members = [[k for k, code in enumerate(groups.codes) if code == group] for group in range(len(groups.names))]
    target, chosen, scored = int(np.median([len(m) for m in members])), [], 0
    for rows in members:
        away = [abs(sum(labels[k][f] for k in rows) / len(rows) - rate) for f, rate in enumerate(rates)]
        biased = sum(away) / len(away) > 0.1
        scored += biased
        if len(rows) > target:
            chosen += sorted(rows, key=lambda k, by=score if biased else keys: by[k])[:target]
            continue
        first = sorted(rows, key=lambda k: -score[k])[:int(0.7 * len(rows))] if biased else []
        first = first[:target - len(rows)]
        chosen += rows + first
        chosen += [rows[int(rng.random() * len(rows))] for _ in range(target - len(rows) - len(first))]
    return np.sort(groups.rows[chosen]), scored


@pytest.mark.parametrize("seed", range(3))
def test_as_released_is_the_same_row_for_row_as_a_plain_loop(seed):
    groups = Groups.of(drawn(2400, seed, missing=0.05 * seed), ("sex", "race", "age"), ages={"age": None})
    expected, scored = plain(groups, seed)
    assert 20 < scored < len(groups.names) - 20  # both branches are walked
    done = resampling.as_released(groups, seed)
    assert np.array_equal(done.rows, expected)
    absent = np.isnan(groups.labels).sum()
    assert (f"{absent} missing labels counted as 0, as released" in done.report.notes) == (seed > 0)


def test_keeping_the_lowest_scores_strips_a_large_group_of_a_rare_finding():
    groups = Groups.of(drawn(6000, 4), ["race"])
    findings = resampling.as_released(groups).report.findings.set_index(["group", "finding"])
    assert findings.loc[("B", "y"), "before"] == pytest.approx(0.3, abs=0.05)
    assert findings.loc[("B", "y"), "after"] == 0
    random = resampling.balanced_counts(groups).report.findings.set_index(["group", "finding"])
    assert abs(random.loc[("B", "y"), "change"]) < 0.05


@pytest.mark.parametrize(("target", "level"), [("median", 300), ("min", 40)])
def test_balanced_counts_leave_the_findings_of_a_group(target, level):
    n = {"A": 4000, "B": 300, "C": 40}
    rng = np.random.default_rng(0)
    letters = "".join(letter * count for letter, count in n.items())
    groups = Groups.of(cohort_of(letters, x=(rng.random(4340) < np.repeat([0.2, 0.5, 0.5], list(n.values()))) * 1.0),
                       ["race"])
    runs = [resampling.balanced_counts(groups, target, seed) for seed in range(40)]
    assert all((run.report.groups["after"] == level).all() for run in runs)
    assert target == "median" or all(run.report.duplicates == 0 for run in runs)
    change = np.mean([run.report.findings["change"] for run in runs], axis=0)
    assert np.abs(change).max() < 4 * 0.5 / math.sqrt(40 * 40)  # 4 standard errors of the smallest sample, 40 runs


def test_random_draws_are_uniform():
    groups = Groups.of(cohort_of("AAAAAABBBBC", x=[0, 1] * 5 + [0]), ["race"])
    times = np.mean([times_of(groups, resampling.balanced_counts(groups, seed=seed)) for seed in range(3000)], axis=0)
    assert times == pytest.approx([4 / 6] * 6 + [1] * 4 + [4], abs=4 * 0.5 / math.sqrt(3000))


def test_balanced_counts_know_two_targets():
    with pytest.raises(ValueError, match="target must be median or min, got 'mean'"):
        resampling.balanced_counts(Groups.of(drawn(), ["race"]), "mean")


def test_a_random_subset_has_the_size_and_no_copies():
    groups = Groups.of(drawn(), ["race"])
    done = resampling.random_subset(groups, 200)
    assert len(done) == len(np.unique(done.rows)) == 200
    for size in (0, len(groups.rows) + 1):
        with pytest.raises(ValueError, match=f"size is {size}, expected 1 to {len(groups.rows)}"):
            resampling.random_subset(groups, size)


# ---------------------------------------------------------------------- by finding
def test_raking_one_finding_is_reweighing():
    groups = Groups.of(drawn(), ["race"], findings=["x"])
    found, notes = resampling.rake(groups)
    assert found == pytest.approx(weights(groups.labels[:, 0], groups.codes), abs=1e-5)
    assert notes == ()


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_raking_makes_every_rate_equal_and_leaves_groups_and_odds_ratios(missing):
    groups = Groups.of(drawn(8000, 1, missing), ["race"])
    found, notes = resampling.rake(groups)
    assert notes == ()
    for place in range(3):
        known = ~np.isnan(groups.labels[:, place])
        column, code, weight = groups.labels[known, place], groups.codes[known], found[known]
        rates = np.bincount(code, weight * column) / np.bincount(code, weight)
        assert rates == pytest.approx(np.full(4, column.mean()), abs=1e-4)
        assert np.ptp(np.bincount(code, column) / np.bincount(code)) > 0.1
    assert np.bincount(groups.codes, found) == pytest.approx(groups.counts)
    if not missing:  # margins move, the odds ratio of two findings within a group does not, if z is held fixed
        def log_odds(weight):
            part = [[weight[(groups.codes == 0) & (groups.labels == (i, j, 1)).all(axis=1)].sum() for j in (0, 1)]
                    for i in (0, 1)]
            return math.log(part[0][0] * part[1][1] / (part[0][1] * part[1][0]))
        assert log_odds(found) == pytest.approx(log_odds(np.ones(len(found))), abs=1e-9)


def test_rows_drawn_by_finding_have_equal_rates_and_the_groups_their_shares():
    groups = Groups.of(drawn(16000, 2), ["race"])
    done = resampling.by_finding(groups)
    spread = done.report.findings.groupby("finding")[["before", "after"]].agg(np.ptp)
    assert (spread["before"] > 0.2).all()
    assert (spread["after"] < 0.02).all()  # the smallest group has about 400 rows, and 8 combinations of labels
    assert done.report.groups["after"].to_numpy() == pytest.approx(groups.counts, abs=1)
    even = resampling.by_finding(groups, size=2000, equal_groups=True)
    assert even.report.groups["after"].to_numpy() == pytest.approx([500] * 4, abs=1)
    assert (even.report.findings.groupby("finding")["after"].agg(np.ptp) < 0.02).all()


def test_a_row_comes_as_often_as_its_weight_says():
    groups = Groups.of(drawn(400), ["race"], findings=["x"])
    expected, _ = resampling.rake(groups)
    runs = [times_of(groups, resampling.by_finding(groups, seed=seed))[groups.rows] for seed in range(2000)]
    assert np.mean(runs, axis=0) == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(2000))
    assert all(np.abs(times - expected).max() < 1 for times in runs)


def test_one_finding_of_several_can_be_balanced():
    groups = Groups.of(drawn(8000), ["race"])
    spread = resampling.by_finding(groups, ["z"]).report.findings.groupby("finding")["after"].agg(np.ptp)
    assert spread["z"] < 0.02 and spread["x"] > 0.1
    with pytest.raises(ValueError, match="'w' is not among the findings: x, y, z"):
        resampling.rake(groups, ["w"])
    with pytest.raises(ValueError, match="size is 0, expected at least 1"):
        resampling.by_finding(groups, size=0)


def test_what_cannot_be_balanced_is_told_and_the_rest_is_balanced():
    cohort = cohort_of("AAAABBBB", x=[1, 0, 1, 0, 0, 0, 0, 0], y=[1, 1, 0, 0, 1, 0, 0, 0])
    found, notes = resampling.rake(Groups.of(cohort, ["race"]))
    assert notes == ("not balanced for want of rows with or without it: 'x' in 1 groups",)
    assert found[4:] == pytest.approx([1.5, 2.5 / 3, 2.5 / 3, 2.5 / 3])  # y at 3/8
    assert np.isfinite(found).all()
    # x and y always together in B, and never in A: rates of 3/8 and 1/8 contradict each other in B
    cohort = cohort_of("AAAABBBB", x=[1, 1, 0, 0, 1, 0, 0, 0], y=[0, 0, 0, 0, 1, 0, 0, 0])
    found, notes = resampling.rake(Groups.of(cohort, ["race"]))
    assert notes[0].endswith("'x' in 1 groups, 'y' in 1 groups") and np.isfinite(found).all()


def test_reweighing_is_that_of_chapter_4_for_each_finding():
    groups = Groups.of(drawn(4000, 3, missing=0.1), ["race"])
    done = resampling.reweighing(groups)
    assert np.array_equal(done.rows, groups.rows)
    for place, column in enumerate(groups.labels.T):
        known = ~np.isnan(column)
        assert done.weights[known, place] == pytest.approx(weights(column[known], groups.codes[known]))
        assert (done.weights[~known, place] == 0).all()
    assert done.report.findings.groupby("finding")["after"].agg(np.ptp).max() < 1e-12
    assert done.report.duplicates == 0
    lacking = resampling.reweighing(Groups.of(cohort_of("AABB", x=[0, 1, 0, 0]), ["race"]))
    assert lacking.report.notes[-1].endswith("'x' in 1 groups")
