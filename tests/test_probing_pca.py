"""Exact components by the Gram matrix: equal to scikit-learn's, in memory that does not grow with the features."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from bias_tutorial.networks import build
from bias_tutorial.probing import Activations, GramPCA, gram


def features(n, d, seed=0, mean=5.0, decay=0.7):
    """Decaying variances, so that components are distinct, about a mean that is not 0."""
    rng = np.random.default_rng(seed)
    k = min(n, d, 60)
    parts = rng.standard_normal((n, k)) * decay**np.arange(k) @ rng.standard_normal((k, d))
    return (parts + 1e-3 * rng.standard_normal((n, d)) + mean * rng.standard_normal(d)).astype(np.float32)


def same_scores(ours, theirs, tolerance=1e-4):
    """Columns equal up to sign, relative to each column's own size."""
    signs = np.sign((ours * theirs).sum(axis=0))
    assert (np.linalg.norm(ours - signs * theirs, axis=0) < tolerance * np.linalg.norm(theirs, axis=0)).all()


@pytest.mark.parametrize("keep", [0.5, 0.99, 0.9999])
@pytest.mark.parametrize(("n", "d"), [(60, 20), (50, 50), (40, 9000)])  # tall, square, wide
def test_equal_to_scikit_learn(n, d, keep):
    x = features(n, d)
    train, held_out = np.arange(0, n, 2), np.arange(1, n, 2)
    ours = GramPCA.fit(gram(x), train, keep)
    theirs = PCA(keep, svd_solver="full").fit(x[train].astype(float))
    assert ours.n_components == theirs.n_components_ == ours.scores.shape[1] > 0
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=1e-7)
    np.testing.assert_allclose(ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-7)
    same_scores(ours.scores[train], theirs.transform(x[train].astype(float)), 1e-6)
    same_scores(ours.scores[held_out], theirs.transform(x[held_out].astype(float)), 1e-6)


def test_equal_to_scikit_learn_on_a_block_read_in_slices():
    network = build("resnet18", channels=3, seed=1).eval()
    images = torch.rand(30, 3, 40, 32, generator=torch.Generator().manual_seed(1))
    x = np.concatenate(list(Activations(network, images, "layer1").slices()), axis=1)
    activations = Activations(network, images, "layer1", memory=30 * 4 * 1000)
    assert activations.passes > 1
    ours, theirs = GramPCA.fit(gram(activations), np.arange(20), 0.9), PCA(0.9, svd_solver="full").fit(x[:20])
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=1e-4)
    same_scores(ours.scores, theirs.transform(x), 1e-3)  # on noise, components lie close and float32 turns them


def test_every_split_comes_from_one_gram_and_images_of_no_split_do_not_matter():
    x = features(40, 300)
    rows = np.random.default_rng(0).permutation(40)[:25]
    whole, part = GramPCA.fit(gram(x), rows), GramPCA.fit(gram(x[rows]), np.arange(25))
    np.testing.assert_allclose(whole.explained_variance, part.explained_variance, rtol=1e-8)
    same_scores(whole.scores[rows], part.scores, 1e-6)
    mask = np.isin(np.arange(40), rows)
    np.testing.assert_allclose(GramPCA.fit(gram(x), mask).explained_variance, whole.explained_variance, rtol=1e-8)


def test_the_gram_does_not_depend_on_slices_or_their_source():
    x = features(20, 10_000)
    whole = gram(x)
    centred = x.astype(float) - x.mean(axis=0, dtype=float)
    np.testing.assert_allclose(whole, centred @ centred.T, rtol=1e-10, atol=1e-10 * whole.max())
    slices = np.split(x, [1, 700, 9000], axis=1)
    for source in (slices, iter(slices), lambda: iter(slices)):
        np.testing.assert_allclose(gram(source), whole, rtol=1e-10, atol=1e-10 * whole.max())


def test_small_differences_do_not_drown_in_a_large_mean():
    x = features(30, 2000, mean=0.0)
    shifted = x.astype(float) + 1e6
    expected, found = (GramPCA.fit(gram(part), np.arange(30), 0.9) for part in (x, shifted))
    np.testing.assert_allclose(found.explained_variance, expected.explained_variance, rtol=1e-6)


def test_memory_does_not_grow_with_the_features():
    width = 40_960

    def slices(count):
        rng = np.random.default_rng(0)
        return (rng.standard_normal((64, width), dtype=np.float32) for _ in range(count))

    peaks = []
    for count in (2, 8):
        tracemalloc.start()
        found = gram(slices(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert np.trace(found) / (63 * width * 8) == pytest.approx(1, rel=0.01)  # all of them were read
    assert peaks[1] < 1.05 * peaks[0] and peaks[1] < 1.6 * 64 * width * 4  # one slice at a time


def test_components_without_variance_are_dropped():
    x = features(12, 500)
    doubled = np.concatenate([x, x, x[:3]])  # 12 different images, 11 dimensions about their mean
    ours = GramPCA.fit(gram(doubled), np.arange(27), keep=1)
    theirs = PCA(svd_solver="full").fit(doubled.astype(float))
    assert ours.n_components == 11
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_[:11], rtol=1e-7)
    same_scores(ours.scores, theirs.transform(doubled.astype(float))[:, :11])
    assert GramPCA.fit(gram(x), np.arange(8), keep=1).n_components == 7
    flat = features(30, 3)  # fewer features than images
    assert GramPCA.fit(gram(flat), np.arange(30), keep=1).n_components == 3


def test_signs_are_fixed_and_scores_are_centred_on_the_rows_of_the_fit():
    x = features(30, 400)
    a, b = (GramPCA.fit(gram(x[:, order]), np.arange(20)) for order in (np.arange(400), np.arange(400)[::-1]))
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6, atol=1e-8)
    largest = np.abs(a.scores[:20]).argmax(axis=0)
    assert (a.scores[largest, np.arange(a.n_components)] > 0).all()
    np.testing.assert_allclose(a.scores[:20].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(a.scores[:20].var(axis=0, ddof=1), a.explained_variance, rtol=1e-9)


def test_feature_weights_carry_a_change_of_scores_to_the_features_and_back():
    x = features(30, 400).astype(float)
    rows = np.arange(5, 25)
    pca = GramPCA.fit(gram(x), rows, keep=0.999)
    delta = np.random.default_rng(1).standard_normal((4, pca.n_components))
    weights = pca.feature_weights(delta)
    assert weights.shape == (4, 20)
    np.testing.assert_allclose(weights.sum(axis=1), 0, atol=1e-9)
    theirs = PCA(pca.n_components, svd_solver="full").fit(x[rows])
    changed = x[:4] + weights @ x[rows]
    signs = np.sign((theirs.transform(x[rows]) * pca.scores[rows]).sum(axis=0))
    np.testing.assert_allclose((theirs.transform(changed) - theirs.transform(x[:4])) * signs, delta, atol=1e-7)
    # What the components do not hold is left as it was.
    np.testing.assert_allclose(weights @ x[rows], (delta * signs) @ theirs.components_, atol=1e-7)


@pytest.mark.parametrize(("slices", "says"), [
    ([], "no slice"), ([np.zeros(5)], r"shape \(5,\)"),
    ([np.zeros((4, 2)), np.zeros((5, 2))], r"\(5, 2\), expected \(4"),
    ([np.full((4, 2), np.nan)], "NaN or infinite")])
def test_bad_slices_are_refused(slices, says):
    with pytest.raises(ValueError, match=says):
        gram(slices)


GRAM = gram(features(12, 40))


@pytest.mark.parametrize(("matrix", "rows", "keep", "says"), [
    (GRAM[:5], np.arange(4), 0.9, r"square.*\(5, 12\)"), (np.full((4, 4), np.nan), np.arange(4), 0.9, "NaN"),
    (GRAM, np.arange(13), 0.9, "from 0 to 12"), (GRAM, np.array([0, -1]), 0.9, "from -1 to 0"),
    (GRAM, np.ones(11, bool), 0.9, "mask of 12, got bool"), (GRAM, np.array([0.5, 2]), 0.9, "float64"),
    (GRAM, np.array([3]), 0.9, "at least 2 images, got 1"), (GRAM, np.arange(4), 0.0, r"\(0, 1\], got 0"),
    (GRAM, np.arange(4), 5, "got 5"), (gram(np.ones((6, 9))), np.arange(6), 0.9, "6 images do not differ")])
def test_bad_fits_are_refused(matrix, rows, keep, says):
    with pytest.raises(ValueError, match=says):
        GramPCA.fit(matrix, rows, keep)


def test_equal_images_among_others_that_differ_are_refused():
    x = features(12, 40)
    x[:5] = x[0]
    with pytest.raises(ValueError, match="5 images do not differ"):
        GramPCA.fit(gram(x), np.arange(5))


def test_another_number_of_components_is_refused():
    pca = GramPCA.fit(GRAM, np.arange(12))
    with pytest.raises(ValueError, match=rf"\(3, 99\), expected \(m, {pca.n_components}\)"):
        pca.feature_weights(np.zeros((3, 99)))
