"""Clusters that were planted are found and explained, those that were not are not, and maps say how stable they are."""

import numpy as np
import pandas as pd
import pytest
from sklearn.manifold import trustworthiness

from bias_tutorial.clustering import Clusters, clusters, explain, hidden_mode, maps, portrait, verdicts, without
from bias_tutorial.clustering.hidden import _count, _valley
from bias_tutorial.clustering.maps import _overlap

N = 600


def planted(gap=6.0, share=0.3, n=N, seed=0, d=12):
    """Normal columns, a hidden shift along one direction in a share of rows, and a view that moves another."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(n) < share
    given = pd.DataFrame({"view": rng.choice(["AP", "PA"], n), "sex": rng.choice(["F", "M"], n),
                          "age": rng.uniform(20, 90, n)})
    x = rng.normal(size=(n, d)) * np.geomspace(1, 0.3, d)
    x[:, 0] += gap * hidden
    x[:, 1] += 6 * (given["view"] == "AP")
    x[:, 2] += (given["age"] - 55) / 20
    return x, given, hidden


# ---------------------------------------------------------------------- maps
def test_maps_of_groups_keep_neighbours_and_those_of_noise_are_at_chance():
    x, _, hidden = planted(n=150)
    found = maps(x, perplexities=(5, 30), seeds=(0, 1), neighbours=8)
    assert set(found.points) == {(5, 0), (5, 1), (30, 0), (30, 1)} and found.points[5, 0].shape == (150, 2)
    table = found.table
    assert (table["kept"] > 4 * table["chance"]).all() and (table["trustworthiness"] > 0.8).all()
    assert (table["same"] > 4 * table["chance"]).all() and (table["other"] > 4 * table["chance"]).all()
    assert not np.allclose(found.points[30, 0], found.points[30, 1])  # seeds do change the map
    assert table["chance"].iloc[0] == pytest.approx(8 / 149)
    drawn = [trustworthiness(x, np.random.default_rng(s).normal(size=(150, 2)), n_neighbors=8) for s in range(20)]
    assert np.mean(drawn) == pytest.approx(table["chance_trustworthiness"].iloc[0], abs=0.01)


def test_one_map_has_nothing_to_be_compared_with():
    table = maps(planted(n=60)[0], perplexities=(10,), seeds=(3,)).table
    assert table[["same", "other"]].isna().all(axis=None)
    assert _overlap(np.array([[1, 2], [0, 2]]), np.array([[2, 3], [0, 2]])) == 0.75


@pytest.mark.parametrize(("change", "message"), [
    ({"perplexities": (30, 60)}, "perplexity 60 must be above 1 and below the number of rows, 60"),
    ({"perplexities": (1,)}, "perplexity 1 must be above 1"),
    ({"neighbours": 30}, "neighbours must be from 1 to below half of 60 rows, got 30"),
    ({"embedding": np.full((60, 2), np.inf)}, "row 0 of the embedding is NaN or infinite"),
    ({"embedding": np.zeros(60)}, r"shape \(60,\), expected \(n, d\)"),
])
def test_bad_maps(change, message):
    with pytest.raises(ValueError, match=message):
        maps(**{"embedding": planted(n=60)[0], "perplexities": (10,)} | change)


# ---------------------------------------------------------------------- clusters and what explains them
@pytest.fixture(scope="module")
def four():
    x, given, hidden = planted(gap=8)
    return clusters(x, np.arange(300), components=3), given, hidden


def test_planted_clusters_are_found_on_some_rows_and_others_assigned(four):
    found, given, hidden = four
    truth = pd.Series(hidden.astype(int) + 2 * (given["view"] == "AP").to_numpy())
    assert found.count == 4 and found.space.shape == (N, 3)
    held_out = found.labels[300:]
    table = pd.crosstab(truth[300:], held_out)[range(4)]
    assert (table.max() / table.sum() > 0.97).all() and (held_out >= 0).mean() > 0.8
    sizes = np.bincount(found.labels[found.fit][found.labels[found.fit] >= 0])
    assert (np.diff(sizes) <= 0).all()


def test_an_assigned_row_has_the_cluster_of_its_nearest_row_or_none():
    x = np.concatenate([np.random.default_rng(s).normal(size=(60, 2)) + 20 * s for s in (0, 1)])
    far = np.array([[20.0, 20.0], [0.0, 0.0]])
    found = clusters(np.concatenate([x, far]), np.arange(120))
    assert found.count == 2 and found.labels[120] != found.labels[121]
    for k in (120, 121):
        nearest = np.argmin(((x - far[k - 120]) ** 2).sum(1))
        assert found.labels[k] == found.labels[nearest]


def test_what_explains_a_cluster_is_named_and_what_no_label_explains_is_said_so():
    x, given, hidden = planted(gap=8)
    test = np.arange(300, N)
    by_view = clusters(x[:, 1:], np.arange(300), components=3)
    assert by_view.count == 2
    table = explain(by_view, given, test, draws=300)
    assert len(table) == 2 * 4 and (table["p_holm"] >= table["p"]).all()
    view = table[table["attribute"] == "view"].iloc[0]
    assert view["share_low"] > 0.5 and view["auc"] > 0.95 and view["cramers_v"] > 0.8 and view["p_holm"] < 0.01
    assert abs(view["inside"] - view["outside"]) > 0.8
    said = verdicts(table)
    assert (said["verdict"] == "explained").all() and (said["by"] == "view").all()
    assert (table.loc[table["attribute"].isin(["sex", "age"]), "share_high"] < 0.2).all()
    none = verdicts(explain(clusters(without(x, given, np.arange(300)), np.arange(300), 3), given, test, draws=300))
    assert len(none) == 2 and (none["verdict"] == "unexplained").all() and none["by"].isna().all()
    both = explain(by_view, given.drop(columns="view").assign(hidden=hidden), test, draws=300)
    assert (verdicts(both)["verdict"] == "unexplained").all()


def test_a_cluster_that_two_labels_make_together_is_explained_by_all_together_alone():
    rng = np.random.default_rng(1)
    given = pd.DataFrame({"a": rng.integers(0, 2, 1200), "b": rng.integers(0, 2, 1200), "c": rng.normal(size=1200)})
    inside = given["a"] != given["b"]
    found = Clusters(inside.to_numpy().astype(int), np.arange(600), np.zeros((1200, 1)))
    table = explain(found, given, np.arange(600, 1200), draws=200)
    assert (table.loc[table["attribute"] != "all together", "share_high"] < 0.1).all()
    assert (verdicts(table)["by"] == "all together").all()


def test_an_auc_is_not_an_explanation_and_the_numbers_of_the_docstring_hold():
    rng = np.random.default_rng(2)
    site = rng.integers(0, 2, 20000)
    inside = (site == 1) & (rng.random(20000) < 0.5)
    found = Clusters(np.where(inside, 0, 1), np.arange(10000), np.zeros((20000, 1)))
    row = explain(found, pd.DataFrame({"site": site}), np.arange(10000, 20000), draws=20).iloc[0]
    assert row["auc"] == pytest.approx(5 / 6, abs=0.01) and row["share"] == pytest.approx(1 / 3, abs=0.02)
    assert row["inside"] == (row["value"] == "1") and row["outside"] == pytest.approx(1 / 3 + (row["value"] == "0") / 3,
                                                                                      abs=0.02)


def test_holm_by_hand():
    found = Clusters(np.tile([0, 0, 0, 1, -1, -1], 200), np.arange(600), np.zeros((1200, 1)))
    rng = np.random.default_rng(3)
    given = pd.DataFrame({name: rng.integers(0, 2, 1200) for name in "abc"})
    table = explain(found, given, np.arange(600, 1200), draws=100)
    assert len(table) == 2 * 4 and set(table["n"]) == {300, 100}  # 600 rows, a third of them in no cluster
    p = table["p"].to_numpy()
    order, high = np.argsort(p), 0.0
    for k, place in enumerate(order):
        high = max(high, min(1, (len(p) - k) * p[place]))
        assert table["p_holm"].iloc[place] == pytest.approx(high)
    assert (table["share_high"] < 0.5).all() and verdicts(table)["verdict"].tolist() == ["unexplained"] * 2


def test_the_portrait_of_a_cluster():
    space = np.array([[0.0], [1], [2], [10], [11]])
    found = Clusters(np.array([0, 0, 0, -1, -1]), np.arange(5), space)
    images = np.arange(5)[:, None, None, None] * np.ones((5, 1, 2, 3))
    shown = portrait(found, images, 0, medoids=2, batch_size=2)
    assert shown.inside == pytest.approx(np.ones((1, 2, 3))) and shown.outside == pytest.approx(np.full((1, 2, 3), 3.5))
    assert shown.difference == pytest.approx(np.full((1, 2, 3), -2.5)) and shown.medoids.tolist() == [1, 0]
    with pytest.raises(ValueError, match="cluster 1 has 0 of 5 rows; there are 1 clusters"):
        portrait(found, images, 1)


@pytest.mark.parametrize(("change", "message"), [
    ({"attributes": pd.DataFrame({"sex": ["F"] * N})}, "attribute 'sex' is 'F' in all 300 rows to learn from"),
    ({"attributes": pd.DataFrame({"sex": ["F"]})}, "attributes have 1 rows, expected 600"),
    ({"test": np.arange(290, N)}, "10 patients are in both fit and test"),
    ({"patients": np.arange(N) % 300}, "300 patients are in both fit and test"),
    ({"test": np.arange(300, 320)}, "20 patients in test, at least 30"),
])
def test_bad_explanations(four, change, message):
    found, given, _ = four
    with pytest.raises(ValueError, match=message):
        explain(**{"found": found, "attributes": given, "test": np.arange(300, N)} | change)


def test_small_clusters_are_found_in_noise_and_the_default_does_not():
    for seed in (900, 901, 902):
        x = np.random.default_rng(seed).normal(size=(700, 2))
        assert clusters(x, np.arange(700)).count == 0 and clusters(x, np.arange(700), smallest=10).count > 1


def test_bad_clusters():
    with pytest.raises(ValueError, match="smallest cluster from 2 to 10 rows, got 10 and 20"):
        clusters(planted()[0], np.arange(10))


# ---------------------------------------------------------------------- the decision without labels
def test_a_hidden_mode_is_found_and_given_labels_are_not():
    x, given, hidden = planted(gap=5)
    found = hidden_mode(x, given)
    assert found.decision == "unexplained" and found.p < 1e-3 and found.share < 0.1
    assert (found.inside == hidden).mean() > 0.97 and found.scores[hidden].mean() > found.scores[~hidden].mean()
    told = hidden_mode(x, given.assign(scanner=np.where(hidden, "B", "A")))
    assert told.decision == "none" and np.isnan(told.share)  # view moves as far, and is known
    alone = hidden_mode(x)
    assert alone.decision == "unexplained" and np.isnan(alone.share)


def test_a_mode_that_labels_tell_in_another_way_than_by_sums_and_pairs_is_explained():
    x, given, _ = planted(gap=0, n=900)
    rng = np.random.default_rng(5)
    given = pd.DataFrame({name: rng.integers(0, 2, 900) for name in "abc"})
    x[:, 0] += 6 * (given.sum(axis=1) % 2)
    assert hidden_mode(x, given).decision == "explained"


@pytest.mark.parametrize("shape", ["normal", "uniform", "exponential"])
def test_false_alarms_are_no_more_than_allowed(shape):
    alarms = 0
    for seed in range(900, 916):
        rng = np.random.default_rng(seed)
        alarms += hidden_mode(getattr(rng, shape)(size=(300, 12)), starts=4, seed=seed).decision != "none"
    assert alarms <= 3  # .8 expected at most; 4 or more of 16 has probability .007


def test_images_of_a_patient_do_not_make_a_mode():
    rng = np.random.default_rng(6)
    person = np.repeat(np.arange(120), 8)
    x = rng.normal(size=(120, 6))[person] + 0.05 * rng.normal(size=(960, 6))
    assert hidden_mode(x, patients=person, components=4).p > 0.05
    assert hidden_mode(x, components=4).p < hidden_mode(x, patients=person, components=4).p


def test_the_clearest_valley_and_its_counts_by_hand():
    scores = np.concatenate([np.linspace(0, 1, 100, endpoint=False), np.linspace(2, 3, 50, endpoint=False)])
    clear, (left, valley, right, width) = _valley(scores)
    assert 0 <= left <= 1 - width + 0.06 and 0.94 <= valley and valley + width <= 2.06 and right >= 1.94
    high, low, other = _count(scores, (left, valley, right, width))
    assert low <= 6 and high == pytest.approx(100 * width, abs=3) and other == pytest.approx(50 * width, abs=3)
    assert clear == pytest.approx((other - low) / np.sqrt(other + low + 1))
    assert _valley(np.linspace(0, 1, 200))[0] < 0.6


def test_given_labels_are_taken_off_by_what_the_fit_rows_teach():
    x, given, _ = planted()
    fit = np.arange(300)
    left = without(x, given, fit)
    for value in ("AP", "PA"):
        assert left[fit][(given["view"] == value)[fit]].mean(0) == pytest.approx(np.zeros(12), abs=1e-9)
    assert np.corrcoef(left[fit, 2], given["age"][fit])[0, 1] == pytest.approx(0, abs=1e-9)
    other = x.copy()
    other[300:] = 0
    assert without(other, given, fit)[fit] == pytest.approx(left[fit])
    held_out = left[300:][(given["view"] == "AP")[300:]].mean(0)
    assert 1e-3 < np.abs(held_out).max() < 1


@pytest.mark.parametrize(("change", "message"), [
    ({"patients": np.arange(N) % 99}, "99 patients, at least 100"),
    ({"given": pd.DataFrame({"sex": ["F"] * N})}, "given label 'sex' is 'F' in all 480 rows"),
    ({"given": pd.DataFrame({"sex": ["F", None] * (N // 2)})}, "given label 'sex': 300 values are missing"),
    ({"given": pd.DataFrame({"site": (np.arange(N) % 200).astype(str)})}, "make 200 columns for 480 rows"),
    ({"given": pd.DataFrame({"sex": ["F"]})}, "given labels have 1 rows, expected 600"),
    ({"components": 1}, "at least 2 components"),
    ({"alpha": 0}, r"alpha in \(0, 1\)"),
])
def test_bad_decisions(change, message):
    with pytest.raises(ValueError, match=message):
        hidden_mode(**{"embedding": planted()[0]} | change)
