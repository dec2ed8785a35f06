"""Erasure leaves no line that tells the label, and moves as little as it can."""

import numpy as np
import pandas as pd
import pytest

from bias_tutorial.mitigation.erasure import Eraser, leace

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
