"""Coloured digits: who gets which colour, twins that differ in colour alone, labels for a bias predictor, MNIST."""

import gzip
import struct

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from bias_tutorial import storage
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.simulate.digits import IGNORED, MEAN_COLOURS, VARIANCES, colour_bins, digits, recolour

CHANNELS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def cohort():
    return digits(0.02, seed=3)


def hand_made(values):
    """An image (1, 3, 2, 2) from the colours of its four pixels."""
    return np.array(values, dtype=np.float32).reshape(2, 2, 3).transpose(2, 0, 1)[None]


# ---------------------------------------------------------------------- colours
def test_colour_is_the_digit_in_training_and_says_nothing_in_the_test(cohort):
    assert isinstance(cohort, Cohort) and cohort.images.shape == (1797, 3, 28, 28)
    assert cohort.images.dtype == np.float32 and cohort.images.min() == 0 and cohort.images.max() == 1
    np.testing.assert_array_equal(cohort.table["digit"], load_digits().target)
    assert cohort.table["split"].value_counts().to_dict() == {"train": 898, "validation": 450, "test": 449}
    for split in ("train", "validation"):
        table = cohort.split(split).table
        assert (table["colour"] == table["digit"]).all()
    test = cohort.split("test").table
    assert 0.05 < (test["colour"] == test["digit"]).mean() < 0.15
    assert test["colour"].value_counts().reindex(range(10)).min() > 20
    # chi-square of a table of independent digit and colour: 81 degrees of freedom, .999 quantile 125
    counts = pd.crosstab(test["digit"], test["colour"]).to_numpy()
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 125


def test_an_image_is_its_stroke_in_its_colour(cohort):
    rgb = cohort.table[CHANNELS].to_numpy()
    brightest = cohort.images.max(axis=(2, 3))
    strokes = cohort.images.max(axis=1) / rgb.max(axis=1)[:, None, None]
    assert strokes.max(axis=(1, 2)) == pytest.approx(1, abs=1e-6)  # every digit has a full stroke
    np.testing.assert_allclose(brightest, rgb, rtol=1e-6)
    np.testing.assert_allclose(cohort.images, strokes[:, None] * rgb[:, :, None, None], atol=1e-6)
    assert (strokes == 0).mean() > 0.4


@pytest.mark.parametrize("variance", [VARIANCES[0], VARIANCES[-1]])
def test_colours_scatter_around_their_mean_by_the_variance(variance):
    table = digits(variance, seed=1).table
    deviation = table[CHANNELS].to_numpy() - MEAN_COLOURS[table["colour"]]
    inside = (np.abs(MEAN_COLOURS - 0.5) < 0.1)[table["colour"]]  # too far from 0 and 1 to be clipped often
    assert inside.sum() > 400
    assert deviation[inside].var() == pytest.approx(variance, rel=0.12)
    assert abs(deviation[inside].mean()) < 0.02


def test_without_variance_there_are_ten_colours():
    table = digits(0, seed=0, shape=(8, 8)).table
    np.testing.assert_allclose(table[CHANNELS], MEAN_COLOURS[table["colour"]], rtol=1e-6)
    distance = np.linalg.norm(MEAN_COLOURS[:, None] - MEAN_COLOURS[None], axis=-1) + 9 * np.eye(10)
    assert distance.min() > 0.44 and MEAN_COLOURS.max(axis=1).min() >= 0.5


def test_more_variance_makes_colour_alone_a_poorer_guess():
    found = []
    for variance in (VARIANCES[0], VARIANCES[3], VARIANCES[-1]):
        train = digits(variance, seed=2).split("train").table
        nearest = ((train[CHANNELS].to_numpy()[:, None] - MEAN_COLOURS) ** 2).sum(-1).argmin(1)
        found.append((nearest == train["digit"]).mean())
    assert found[0] > 0.9 and found[0] > found[1] + 0.03 and found[1] > found[2] + 0.03


def test_one_seed_gives_one_cohort_and_another_seed_another(cohort):
    again, other = digits(0.02, seed=3), digits(0.02, seed=4)
    np.testing.assert_array_equal(again.images, cohort.images)
    pd.testing.assert_frame_equal(again.table, cohort.table)
    assert (other.table["split"] != cohort.table["split"]).mean() > 0.3
    assert np.abs(other.table["red"] - cohort.table["red"]).mean() > 0.05
    # more variance moves colours further along the same way, and changes nobody's split
    wide = digits(0.05, seed=3).table
    assert (wide["split"] == cohort.table["split"]).all() and (wide["colour"] == cohort.table["colour"]).all()


# ---------------------------------------------------------------------- twins
def test_twins_differ_in_the_mean_colour_alone(cohort, tmp_path):
    test = cohort.split("test")
    twin = recolour(test, seed=8)
    assert twin.table[["image_id", "split", "digit"]].equals(test.table[["image_id", "split", "digit"]])
    same = (twin.table["colour"] == test.table["colour"]).to_numpy()
    assert 0 < same.mean() < 0.2
    np.testing.assert_array_equal(twin.images[same], test.images[same])
    assert (np.abs(twin.images[~same] - test.images[~same]).max(axis=(1, 2, 3)) > 0.05).all()
    assert ((twin.images > 0).any(axis=1) == (test.images > 0).any(axis=1)).mean() > 0.999
    # deviations from the mean stay: where nothing is clipped, the change is the change of means
    rgb, before = twin.table[CHANNELS].to_numpy(), test.table[CHANNELS].to_numpy()
    free = ((rgb > 0) & (rgb < 1) & (before > 0) & (before < 1)).all(axis=1) & ~same
    change = MEAN_COLOURS[twin.table["colour"]] - MEAN_COLOURS[test.table["colour"]]
    assert free.sum() > 20
    np.testing.assert_allclose((rgb - before)[free], change[free], atol=1e-6)
    # the same for a part of them, after saving and loading, and for the whole cohort
    loaded = storage.load(storage.save(test.subset([5, 1]), tmp_path / "part.npz"))
    np.testing.assert_array_equal(recolour(loaded, seed=8).images, twin.images[[5, 1]])
    rows = np.flatnonzero(cohort.table["split"] == "test")
    np.testing.assert_array_equal(recolour(cohort, seed=8).images[rows], twin.images)
    assert (recolour(test, seed=9).table["colour"] != twin.table["colour"]).mean() > 0.8


def test_matched_twins_are_what_training_shows(cohort):
    twin = recolour(cohort, seed=0, matched=True)
    assert (twin.table["colour"] == twin.table["digit"]).all()
    train = (cohort.table["split"] == "train").to_numpy()
    np.testing.assert_array_equal(twin.images[train], cohort.images[train])
    assert twin.meta["recoloured"] == "matched" and cohort.meta.get("recoloured") is None


# ---------------------------------------------------------------------- labels for a bias predictor
def test_colour_bins_by_hand():
    image = hand_made([[0, 0, 0], [1, 0, 0.5], [0.124, 0.126, 0.99], [0.25, 0.874, 0.876]])
    bins = colour_bins(image, (2, 2))
    assert bins.dtype == np.int64
    assert bins[0, :, 0, 0].tolist() == [IGNORED] * 3  # black: no colour
    assert bins[0, :, 0, 1].tolist() == [7, 0, 4]  # a channel at 0 on a stroke is a colour
    assert bins[0, :, 1, 0].tolist() == [0, 1, 7]
    assert bins[0, :, 1, 1].tolist() == [2, 6, 7]


def test_colour_bins_take_the_nearest_pixel(cohort):
    images = cohort.images[:5]
    bins = colour_bins(images)
    assert bins.shape == (5, 3, 14, 14)
    np.testing.assert_array_equal(bins, colour_bins(images[:, :, 1::2, 1::2]))  # of two pixels the second is taken
    assert colour_bins(images, (28, 28))[..., ::7, ::7].shape == (5, 3, 4, 4)


# ---------------------------------------------------------------------- MNIST
def write_mnist(root, n_train=40, n_test=20):
    """MNIST's four files in its own format, with few digits."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in (("train", n_train), ("t10k", n_test)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 28, 28) + pixels.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + labels.tobytes())


def test_mnist_keeps_its_own_test_split(tmp_path):
    write_mnist(tmp_path)
    cohort = digits(0.03, seed=0, source="mnist", root=tmp_path)
    assert cohort.images.shape == (60, 3, 28, 28)
    assert (cohort.table["split"] == "test").to_numpy().tolist() == [False] * 40 + [True] * 20
    assert cohort.table["split"].value_counts()["train"] == 27  # two thirds of 40
    assert cohort.table["digit"].tolist() == [k % 10 for k in range(40)] + [k % 10 for k in range(20)]
    twin = recolour(cohort.subset([41, 7]), seed=1, matched=True)
    assert twin.table["colour"].tolist() == [1, 7]
    np.testing.assert_array_equal(twin.images[1], cohort.images[7])


def test_mnist_that_cannot_be_had_is_told(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "nothing").as_uri() + "/"])  # no network is asked
    with pytest.raises(FileNotFoundError, match=r"MNIST is not in '.*' and could not be downloaded.*source='sklearn'"):
        digits(0.02, seed=0, source="mnist", root=tmp_path / "mnist")
    raw = tmp_path / "broken" / "MNIST" / "raw"
    write_mnist(tmp_path / "broken")
    (raw / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ValueError, match=r"MNIST in '.*broken' cannot be read"):
        digits(0.02, seed=0, source="mnist", root=tmp_path / "broken")


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(("change", "said"), [
    ({"variance": -0.1}, "variance must be at least 0 and finite, got -0.1"),
    ({"variance": float("nan")}, "variance must be at least 0"),
    ({"source": "svhn"}, "unknown source 'svhn', expected one of sklearn, mnist"),
    ({"shape": (28,)}, "shape needs rows and columns"),
    ({"shape": (28, 0)}, "shape needs rows and columns"),
    ({"shares": (0.5, 0.6, 0.1)}, "shares needs 3 values"),
    ({"seed": -1}, "seed must be a whole number"),
])
def test_bad_input_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        digits(**{"variance": 0.02, "seed": 0, **change})


def test_only_coloured_digits_can_be_recoloured(cohort):
    table = pd.DataFrame({"image_id": ["a"], "patient_id": ["a"], "split": ["test"]})
    for meta in ({}, {**cohort.meta, "simulator": "brain"}):
        with pytest.raises(ValueError, match="only coloured digits can be recoloured: this cohort was not made by"):
            recolour(Cohort(np.zeros((1, 3, 4, 4)), table, Schema(), meta=meta), seed=0)


@pytest.mark.parametrize("shape", [(3, 28, 28), (2, 1, 28, 28)])
def test_colour_bins_need_colour(shape):
    with pytest.raises(ValueError, match="colour bins need images of shape"):
        colour_bins(np.zeros(shape))
