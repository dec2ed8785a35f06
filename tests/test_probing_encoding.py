"""The published measures: planted truths are found, and the fault of scoring on the rows of the fit shows."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bias_tutorial.probing import GramPCA, aggregate, boundary, densities, disease_dominant, gram, individual

ALL, TRAIN, TEST = np.arange(400), np.arange(200), np.arange(200, 400)


@pytest.fixture(scope="module")
def planted():
    """Features with disease along one direction and bias along a weaker one, both without relation to each other."""
    rng = np.random.default_rng(0)
    disease, bias = np.arange(400) % 2, np.arange(400) // 2 % 2
    directions = np.linalg.qr(rng.standard_normal((3000, 2)))[0].T
    x = 0.05 * rng.standard_normal((400, 3000))
    x += np.outer(8 * (disease - 0.5) + 2.5 * rng.standard_normal(400), directions[0])
    x += np.outer(5 * (bias - 0.5) + rng.standard_normal(400), directions[1])
    return GramPCA.fit(gram(x), ALL, keep=0.9).scores, disease, bias


def test_the_planted_components_are_found(planted):
    scores, disease, bias = planted
    for test in (ALL, TEST):
        by_disease, by_bias = (individual(scores, label, TRAIN, test) for label in (disease, bias))
        assert disease_dominant(by_disease) == disease_dominant(by_disease, "auc") == 0
        assert by_bias["auc"].idxmax() == 1 and by_bias["auc"][1] > 0.98 and by_bias["auc"][0] < 0.7
        assert 0.9 < by_disease["accuracy"][0] < 1 and by_disease["auc"][2:].max() < 0.7
        assert aggregate(scores, bias, TRAIN, test)["accuracy"] > 0.95


def test_random_labels_are_told_in_sample_at_a_wide_layer_and_not_held_out():
    rng = np.random.default_rng(1)
    scores = GramPCA.fit(gram(rng.standard_normal((400, 20_000))), TRAIN, keep=0.999).scores
    random = rng.integers(2, size=400)
    assert scores.shape[1] > 190
    assert aggregate(scores, random, TRAIN, TRAIN)["accuracy"] == 1
    held_out = aggregate(scores, random, TRAIN, TEST)
    assert 0.38 < held_out["accuracy"] < 0.62 and 0.38 < held_out["auc"] < 0.62
    narrow = aggregate(scores[:, :5], random, TRAIN, TRAIN)["accuracy"]
    assert narrow < 0.7  # the fault grows with the number of components


@pytest.mark.parametrize("scale", [0.001, 1, 1000])
def test_equal_to_scikit_learn_component_by_component(planted, scale):
    scores, disease, _ = planted
    scores = scale * scores[:, :12] + 10 * scale
    scores[:, 11] = 3  # says nothing
    scores[:, 10] = scale * (disease * 50 + np.random.default_rng(0).standard_normal(400))  # says all
    found = individual(scores, disease, TRAIN, TEST)
    for k in range(12):
        column = scores[:, [k]] - scores[TRAIN, k].mean()
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit(column[TRAIN], disease[TRAIN])
        decision = model.decision_function(column[TEST])
        assert found["accuracy"][k] == pytest.approx(((decision > 0) == disease[TEST]).mean(), abs=0.006)
        assert found["auc"][k] == pytest.approx(roc_auc_score(disease[TEST], decision))
        if k < 10:
            assert boundary(scores, disease, TRAIN, k) == pytest.approx(
                scores[TRAIN, k].mean() - model.intercept_[0] / model.coef_[0, 0], rel=1e-3, abs=0.02 * scale)
    assert found["auc"][10] == found["accuracy"][10] == 1 and found["auc"][11] == 0.5


@pytest.mark.parametrize("scale", [0.001, 1, 300])
def test_the_aggregate_is_the_published_regression(planted, scale):
    scores, disease, _ = planted
    scores = scale * scores[:, :30]
    label = disease ^ (np.arange(400) % 7 == 0)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-8, max_iter=1000).fit(scores[TRAIN], label[TRAIN])
    found = aggregate(scores, label, TRAIN, TEST)
    assert list(found.index) == ["accuracy", "auc"]
    assert found["accuracy"] == pytest.approx(model.score(scores[TEST], label[TEST]), abs=0.006)
    assert found["auc"] == pytest.approx(roc_auc_score(label[TEST], model.decision_function(scores[TEST])), abs=1e-3)


def test_rows_as_a_mask_labels_as_words_and_the_order_of_values(planted):
    scores, disease, _ = planted
    mask = np.arange(400) < 200
    expected = individual(scores, disease, TRAIN, TEST)
    words = np.where(disease, "sick", "healthy")
    pd.testing.assert_frame_equal(individual(scores, words, mask, ~mask), expected)
    pd.testing.assert_frame_equal(individual(scores, disease.astype(bool), TRAIN, TEST), expected)


def test_the_boundary_lies_between_the_classes(planted):
    scores, disease, _ = planted
    means = sorted(scores[disease == value, 0].mean() for value in (0, 1))
    assert means[0] + 1 < boundary(scores, disease, ALL, 0) < means[1] - 1
    moved = scores + 100.0
    assert boundary(moved, disease, ALL, 0) == pytest.approx(boundary(scores, disease, ALL, 0) + 100, abs=1e-3)


def test_densities_have_area_one_and_peak_where_the_groups_are(planted):
    scores, disease, bias = planted
    found = densities(scores[:, 1], disease, bias)
    assert list(found) == [(0, 0), (0, 1), (1, 0), (1, 1)] and found.columns.names == ["disease", "bias"]
    np.testing.assert_allclose(np.trapezoid(found, found.index, axis=0), 1, atol=0.01)
    for (d, b), density in found.items():
        mean = scores[(disease == d) & (bias == b), 1].mean()
        assert density.idxmax() == pytest.approx(mean, abs=1) and (density >= 0).all()
    wide = densities(scores[:, 1], disease, bias, points=50, smoothing=6)
    assert len(wide) == 50 and wide.to_numpy().max() < 0.7 * found.to_numpy().max()


def test_five_hundred_components_of_two_thousand_images_are_quick():
    rng = np.random.default_rng(0)
    scores, label, rows = rng.standard_normal((2000, 500)), rng.integers(2, size=2000), np.arange(2000)
    begin = time.process_time()
    individual(scores, label, rows, rows)
    aggregate(scores, label, rows, rows)
    assert time.process_time() - begin < 5


# ---------------------------------------------------------------------- bad input
SCORES, LABEL = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
FIRST, LAST = np.arange(10), np.arange(10, 20)


@pytest.mark.parametrize("measure", [aggregate, individual])
@pytest.mark.parametrize(("scores", "label", "train", "test", "says"), [
    (SCORES, pd.Series(np.ones(20, int), name="scanner"), FIRST, LAST, "'scanner' is constant in the rows of train"),
    (SCORES, np.repeat([0, 1], 10), FIRST, LAST, "'label' is constant in the rows of train: all 10 are 0"),
    (SCORES, np.r_[LABEL[:10], np.ones(10, int)], FIRST, LAST, "constant in the rows of test: all 10 are 1"),
    (SCORES, LABEL, FIRST, LAST[:0], "rows of test: there are none"),
    (SCORES, np.arange(20) % 3, FIRST, LAST, "'label' has 3 values, expected 2"),
    (SCORES, pd.Series([np.nan, *LABEL[1:]], name="sex"), FIRST, LAST, "'sex' has 1 missing value"),
    (SCORES, LABEL[:5], FIRST, LAST, r"\(20, 3\) and 'label' has shape \(5,\)"),
    (np.full((20, 3), np.nan), LABEL, FIRST, LAST, "NaN"), (SCORES, LABEL, FIRST, LAST + 1, "from 11 to 20"),
])
def test_what_cannot_be_probed_is_refused(measure, scores, label, train, test, says):
    with pytest.raises(ValueError, match=says):
        measure(scores, label, train, test)


def test_a_boundary_along_nothing_and_a_density_of_nothing_are_refused():
    with pytest.raises(ValueError, match="component 1 is constant"):
        boundary(SCORES * [1, 0, 1], LABEL, FIRST, 1)
    with pytest.raises(ValueError, match=r"group \(disease = 1, bias = 0\) has 1 different score"):
        densities(np.where(LABEL, 2.0, SCORES[:, 0]), LABEL, np.arange(20) // 2 % 2)
    with pytest.raises(ValueError, match="'bias' has 1 missing"):
        densities(SCORES[:, 0], LABEL, np.array([np.nan, *LABEL[1:]]))
