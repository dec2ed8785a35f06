"""Erasure leaves no line that tells the label, and moves as little as it can."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from bias_tutorial.mitigation.erasure import ERASERS, Eraser, inlp, leace, mean_projection

N = 400


def data(k=6, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, N)
    scores = rng.normal(size=(N, k)) @ rng.normal(size=(k, k))
    scores[:, 0] += 3 * label
    return scores, label


def covariance(scores, label):
    return (scores - scores.mean(0)).T @ (label - label.mean()) / len(label)


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("k", [1, 6, 395])
def test_no_line_tells_the_label_in_the_rows_it_is_fitted_on(k, shrinkage):
    scores, label = data(k)
    erased = leace(scores, label, np.arange(N), shrinkage)(scores)
    assert np.abs(covariance(scores, label)).max() > 0.1
    assert covariance(erased, label) == pytest.approx(np.zeros(k), abs=1e-9)
    assert erased.mean(0) == pytest.approx(scores.mean(0), abs=1e-9)


def test_it_is_the_least_change_that_does_so():
    scores, label = data()
    train = np.arange(N)
    erased = leace(scores, label, train, shrinkage=False)(scores)
    # theorem 4.3 by hand: take off the projection, in whitened scores, on the covariance with the label
    centred = scores - scores.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    whiten, back = vectors / np.sqrt(values) @ vectors.T, vectors * np.sqrt(values) @ vectors.T
    u = whiten @ covariance(scores, label)
    u /= np.linalg.norm(u)
    assert erased == pytest.approx(scores - centred @ whiten @ np.outer(u, u) @ back, abs=1e-9)
    direction = covariance(scores, label) / np.linalg.norm(covariance(scores, label))  # the plain projection moves more
    assert ((erased - scores) ** 2).sum() < 0.9 * ((centred @ direction) ** 2).sum()


def test_only_the_training_rows_count():
    scores, label = data()
    train = np.arange(N) < 200
    other, elsewhere = scores.copy(), label.copy()
    other[~train], elsewhere[~train] = 7.0, 1
    first, second = leace(scores, label, train), leace(other, elsewhere, np.flatnonzero(train))
    for part in ("mean", "read", "write"):
        assert np.array_equal(getattr(first, part), getattr(second, part))
    held_out = covariance(first(scores)[~train], label[~train])
    assert 1e-3 < np.abs(held_out).max() < 0.3 * np.abs(covariance(scores[~train], label[~train])).max()


def test_a_weak_label_is_erased_too_and_whatever_its_unit():
    scores, label = np.random.default_rng(0).normal(size=(N, 3)), np.arange(N) % 2
    scores[label == 1] += scores[label == 0].mean(0) - scores[label == 1].mean(0)
    scores[:, 0] += 0.006 * label  # correlation .003
    assert covariance(scores, label)[0] == pytest.approx(0.0015)
    for unit in (1e-8, 1, 1e8):
        erased = leace(scores, label * unit, np.arange(N), shrinkage=False)(scores)
        assert covariance(erased, label) == pytest.approx(np.zeros(3), abs=1e-12)


def test_labels_that_are_words_or_continuous():
    scores, label = data()
    as_numbers = leace(scores, label, np.arange(N))(scores)
    assert leace(scores, np.array(["A", "B"])[label], np.arange(N))(scores) == pytest.approx(as_numbers, abs=1e-9)
    three = np.array(["A", "B", "C"])[np.arange(N) % 3]
    eraser = leace(scores, three, np.arange(N))
    assert eraser.read.shape == eraser.write.shape == (2, 6)
    erased = eraser(scores)
    for value in "ABC":
        assert erased[three == value].mean(0) == pytest.approx(scores.mean(0), abs=1e-9)
    strength = scores[:, 1] ** 2
    assert covariance(leace(scores, strength, np.arange(N))(scores), strength) == pytest.approx(np.zeros(6), abs=1e-9)


def test_the_form_that_others_share():
    eraser = Eraser(np.array([1.0, 0, 0]), np.eye(3)[:1], np.eye(3)[:1])
    assert eraser(np.array([[3.0, 4, 5]])) == pytest.approx(np.array([[1.0, 4, 5]]))
    assert eraser.amounts(np.array([[3.0, 4, 5]])) == pytest.approx(np.array([[-2.0]]))
    nothing = Eraser(np.zeros(3), np.empty((0, 3)), np.empty((0, 3)))
    assert nothing(np.eye(3)) == pytest.approx(np.eye(3))


@pytest.mark.parametrize(("change", "message"), [
    ({"label": pd.Series(np.ones(N, int), name="stretch")}, "label 'stretch' is 1 in all 400 rows to fit on"),
    ({"label": np.where(np.arange(N) == 3, np.nan, 1.0)}, "label 'label': 1 values are missing"),
    ({"scores": np.full((N, 2), np.nan)}, "must be finite"),
    ({"label": np.ones(5)}, r"label 'label' \(5,\)"),
    ({"train": np.arange(1)}, "label 'label' is .* in all 1 rows"),
])
def test_bad_input(change, message):
    scores, label = data()
    with pytest.raises(ValueError, match=message):
        leace(**{"scores": scores, "label": label, "train": np.arange(N)} | change)


# ---------------------------------------------------------------------- the other methods, and within class
def ellipse(n=4000, seed=1):
    """Two columns with unit variance and covariance .6 in each value of a label; the first one's means differ by 2."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    noise = rng.normal(size=(n, 2))
    for value in (0, 1):  # exact moments, so that results are known in closed form
        part = noise[label == value] - noise[label == value].mean(0)
        noise[label == value] = part @ np.linalg.inv(np.linalg.cholesky(part.T @ part / len(part))).T
    scores = noise @ np.linalg.cholesky([[1, 0.6], [0.6, 1]]).T
    scores[:, 0] += 2 * label
    return scores, label


def test_projection_and_leace_in_two_columns_by_hand():
    scores, label = ellipse()
    every = np.arange(len(label))
    projected = mean_projection(scores, label, every)
    assert np.abs(projected.read[0]) == pytest.approx([1, 0], abs=1e-9)
    assert np.array_equal(projected.read, projected.write) and len(projected.read) == 1
    assert projected(scores)[:, 0] == pytest.approx(np.ones(len(scores)), abs=1e-9)  # the mean of the column
    assert projected(scores)[:, 1] == pytest.approx(scores[:, 1], abs=1e-9)
    # over both values the covariance is [[2, .6], [.6, 1]], the label's is (c, 0): LEACE writes along (1, 0) and reads
    # along [[2, .6], [.6, 1]]^-1 (1, 0), in proportion to (1, -.6): what column 1 tells of column 0 stays in it
    erased = leace(scores, label, every, shrinkage=False)(scores)
    centred = scores - scores.mean(0)
    assert erased[:, 0] == pytest.approx(1 + 0.6 * centred[:, 1], abs=1e-9)
    assert erased[:, 1] == pytest.approx(scores[:, 1], abs=1e-9)
    assert ((scores - erased) ** 2).sum() < 0.85 * ((scores - projected(scores)) ** 2).sum()  # 2 - .36 against 2


@pytest.mark.parametrize("name", ERASERS)
@pytest.mark.parametrize("values", [2, 3])
def test_no_line_reads_what_was_erased(name, values):
    rng = np.random.default_rng(5)
    label = np.array(["A", "B", "C"])[np.arange(900) % values]
    scores = rng.normal(size=(900, 8)) @ rng.normal(size=(8, 8))
    scores[:, 0] += 3 * (label == "B")
    scores[:, 1] -= 3 * (label == "C")
    eraser = ERASERS[name](scores, label, np.arange(900))
    columns = label[:, None] == np.unique(label)
    best = LogisticRegression(C=1e6, max_iter=5000).fit(eraser(scores), label)
    odds = best.decision_function(eraser(scores))
    odds = np.column_stack([-odds, odds]) if odds.ndim == 1 else odds
    aucs = [roc_auc_score(columns[:, k], odds[:, k]) for k in range(values)]
    if name == "inlp":
        assert max(aucs) < 0.62 and len(eraser.read) >= values - 1  # by its stop rule
    else:
        assert np.abs((eraser(scores) - eraser(scores).mean(0)).T @ (columns - columns.mean(0)) / 900).max() < 1e-6
        assert len(eraser.read) == values - 1
        # with no covariance the best linear reader is the constant: every AUC it could be given is that of ties
        assert best.coef_ == pytest.approx(np.zeros_like(best.coef_), abs=2e-3)


def test_inlp_stops_after_one_round_where_one_line_holds_the_label_and_needs_more_where_two_do():
    scores, label = ellipse()
    one = inlp(scores * [1, 0] + np.random.default_rng(2).normal(size=(4000, 2)) * [0, 1], label, np.arange(4000))
    assert len(one.read) == 1 and np.abs(one.read[0]) == pytest.approx([1, 0], abs=0.05)
    wide = np.random.default_rng(3).normal(size=(1200, 30))
    wide[:, :3] += np.array([1.0, 1, 1]) * (np.arange(1200) % 2)[:, None]
    fitted = [inlp(wide, np.arange(1200) % 2, np.arange(900), tolerance=t) for t in (0.0, 0.2)]
    assert len(fitted[0].read) >= len(fitted[1].read) >= 1
    assert fitted[0].read @ fitted[0].read.T == pytest.approx(np.eye(len(fitted[0].read)), abs=1e-9)
    noise = np.random.default_rng(4).normal(size=(1200, 5))
    assert len(inlp(noise, np.arange(1200) % 2, np.arange(1200), tolerance=0.1).read) == 0  # nothing to erase


def test_inlp_keeps_a_patient_on_one_side_of_its_stop_rule():
    rng = np.random.default_rng(6)
    person = np.repeat(np.arange(60), 10)
    scores = rng.normal(size=(60, 40))[person] + 0.01 * rng.normal(size=(600, 40))
    label = rng.integers(0, 2, 60)[person]  # nothing but the person tells it
    rounds = [len(inlp(scores, label, np.arange(600), patients=who, seed=1).read) for who in (person, None)]
    assert rounds[0] < rounds[1]


def test_a_label_coded_by_two_columns_together_survives_linear_erasure():
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(1200, 2))
    label = (scores[:, 0] * scores[:, 1] > 0).astype(int)
    train, test = np.arange(600), np.arange(600, 1200)
    for fit in (mean_projection, leace):
        erased = fit(np.hstack([scores, 3 * label[:, None] + rng.normal(size=(1200, 1))]), label, train)(
            np.hstack([scores, 0 * label[:, None]]))
        found = SVC().fit(erased[train], label[train]).decision_function(erased[test])
        assert roc_auc_score(label[test], found) > 0.95


def correlated(share, n=20000, seed=8):
    """Attribute a on column 0 and disease d on column 1, each N(+-1, 1), with P(a = d) = share; other columns noise."""
    rng = np.random.default_rng(seed)
    disease = np.arange(n) % 2
    attribute = np.where(rng.random(n) < share, disease, 1 - disease)
    scores = rng.normal(size=(n, 4))
    scores[:, 0] += 2 * attribute - 1
    scores[:, 1] += 2 * disease - 1
    return scores, attribute, disease


def test_pooled_erasure_takes_disease_with_it_by_the_amount_computed_and_within_class_does_not():
    # the attribute's values differ by 2 (1, c) with c = 2 share - 1 (equal halves); after projecting that out one
    # direction is left in the plane, (c, -1) / sqrt(1 + c**2). Along it, in data where attribute and disease are not
    # related, disease differs by 2 / sqrt(1 + c**2), with variance 1 + c**2 / (1 + c**2) within class.
    def reading(scores, disease):
        design = np.column_stack([scores, np.ones(len(scores))])
        return roc_auc_score(disease, design @ np.linalg.lstsq(design, disease.astype(float), rcond=None)[0])

    other, _, sick = correlated(0.5, seed=9)
    before = reading(other, sick)
    assert before == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.01)
    for share in (0.5, 0.7, 0.9):
        scores, attribute, disease = correlated(share)
        every, c = np.arange(len(scores)), 2 * share - 1
        pooled = reading(mean_projection(scores, attribute, every)(other), sick)
        separation = 2 / np.sqrt(1 + c**2) / np.sqrt(1 + c**2 / (1 + c**2))
        assert pooled == pytest.approx(norm.cdf(separation / np.sqrt(2)), abs=0.01)
        for fit in (mean_projection, leace):
            within = fit(scores, attribute, every, target=disease)
            assert np.abs(within.read[0]) / np.linalg.norm(within.read) == pytest.approx([1, 0, 0, 0], abs=0.05)
            assert reading(within(other), sick) == pytest.approx(before, abs=0.01)
            left = within(scores)
            by_class = [covariance(left[disease == d], attribute[disease == d]) for d in (0, 1)]
            assert np.mean(by_class, axis=0) == pytest.approx(np.zeros(4), abs=1e-6)
    assert pooled < before - 0.05 and inlp_line(scores, attribute, disease) == pytest.approx([1, 0, 0, 0], abs=0.1)


def inlp_line(scores, attribute, disease):
    """First direction that INLP takes out within class."""
    return np.abs(inlp(scores, attribute, np.arange(4000), target=disease).read[0])


@pytest.mark.parametrize("name", ERASERS)
@pytest.mark.parametrize("target", [False, True])
def test_every_method_looks_at_training_rows_alone(name, target):
    scores, label = data()
    disease = np.arange(N) // 7 % 2
    train = np.arange(N) < 200
    changed, elsewhere, other = scores.copy(), label.copy(), disease.copy()
    changed[~train], elsewhere[~train], other[~train] = 7.0, 1, 0
    first, second = (ERASERS[name](x, a, train, target=d if target else None)
                     for x, a, d in ((scores, label, disease), (changed, elsewhere, other)))
    for part in ("mean", "read", "write"):
        assert np.array_equal(getattr(first, part), getattr(second, part))
    assert len(first.read) >= 1 and first.mean == pytest.approx(scores[train].mean(0), abs=1e-12)


@pytest.mark.parametrize(("change", "message"), [
    ({"target": np.where(np.arange(N) == 2, None, "A")}, "target has shape .* without missing values"),
    ({"target": np.zeros(3)}, r"target has shape \(3,\), expected \(400,\)"),
    ({"label": pd.Series(np.arange(N) % 2, name="sex"), "target": np.arange(N) % 2}, "label 'sex' is constant within"),
    ({"label": np.array(["A", "B"])[np.arange(N) % 2], "target": np.arange(N) % 2}, "value 'B' of label 'label' is"),
])
def test_bad_targets(change, message):
    scores, label = data()
    for fit in (mean_projection, leace):
        with pytest.raises(ValueError, match=message):
            fit(**{"scores": scores, "label": label, "train": np.arange(N)} | change)


def test_inlp_refuses_a_number():
    scores, _ = data()
    with pytest.raises(ValueError, match="label 'age': INLP needs its value .* it takes a label with few values"):
        inlp(scores, pd.Series(scores[:, 0], name="age"), np.arange(N))
