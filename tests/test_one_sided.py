"""The key for one-sided marks: closed form for two kinds, Monte Carlo for three, and what cannot be known."""

import numpy as np
import pytest
from scipy.special import ndtr

from bias_tutorial.answer_key import class_means, marks_on_one_class, one_sided

RHO = [0, 0.5, 0.7, 0.9, 0.95, 1]


def test_two_kinds_in_closed_form():
    key = one_sided(RHO, kinds=("meningioma", "glioma"))
    np.testing.assert_allclose(key["mean"], [0.841, 0.827, 0.800, 0.712, 0.652, 0.500], atol=5e-4)
    with np.errstate(divide="ignore"):
        shift = np.log1p(-np.array(RHO)) / 2
    np.testing.assert_allclose(key["glioma"], ndtr(1 + shift), atol=1e-12)
    np.testing.assert_allclose(key["meningioma"], ndtr(1 - shift), atol=1e-12)
    table = marks_on_one_class(RHO)
    assert list(table) == ["rho", "marked", "unmarked", "mean"] and table["rho"].tolist() == RHO
    assert table["marked"].equals(key["glioma"]) and table["unmarked"].equals(key["meningioma"])
    both = one_sided(0.8, 0.8, kinds=("pituitary", "glioma"))  # marked alike: the absence tells nothing
    np.testing.assert_allclose(both[["pituitary", "glioma"]], ndtr(1), atol=1e-12)
    np.testing.assert_allclose(both["training"], 0.8 + 0.2 * ndtr(1))


@pytest.mark.parametrize("separation", [0.5, 2.0, 3.3])
@pytest.mark.parametrize("n_kinds", [2, 3, 4])
def test_class_means_are_equally_far_apart(n_kinds, separation):
    means = class_means(n_kinds, separation)
    assert means.shape == (n_kinds, n_kinds - 1)
    np.testing.assert_allclose(means.sum(axis=0), 0, atol=1e-12)
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    np.testing.assert_allclose(distances[~np.eye(n_kinds, dtype=bool)], separation)
    np.testing.assert_allclose(class_means(2), [[-1], [1]])


def simulated(rho, gamma, kinds, separation, shares, n=400_000):
    """Clean images read by Bayes' rule from the densities of marked training data, by drawing them."""
    rng = np.random.default_rng(0)
    rate = np.array([{"glioma": rho, "pituitary": gamma}.get(kind, 0) for kind in kinds])
    means = class_means(len(kinds), separation)
    accuracy, on_training = [], 0.0
    for k, mean in enumerate(means):
        d = mean + rng.standard_normal((n, len(kinds) - 1))
        density = np.exp(-((d[:, None] - means) ** 2).sum(axis=-1) / 2)
        said = (shares * (1 - rate) * density).argmax(axis=1)  # P(kind, no mark | d)
        accuracy.append((said == k).mean())
        carried = rng.uniform(size=n) < rate[k]
        on_training += shares[k] * (carried | (said == k)).mean()
    return np.array(accuracy), on_training


@pytest.mark.parametrize(("rho", "gamma", "kinds", "separation", "shares"), [
    (0.0, 0.0, ("meningioma", "glioma", "pituitary"), 2.0, (1 / 3, 1 / 3, 1 / 3)),
    (0.9, 0.0, ("meningioma", "glioma", "pituitary"), 2.0, (1 / 3, 1 / 3, 1 / 3)),
    (0.95, 0.5, ("meningioma", "glioma", "pituitary"), 3.0, (0.2, 0.5, 0.3)),
    (1.0, 0.7, ("meningioma", "glioma", "pituitary"), 2.0, (0.3, 0.4, 0.3)),
    (0.6, 0.9, ("glioma", "pituitary"), 1.5, (0.7, 0.3))])
def test_agrees_with_monte_carlo(rho, gamma, kinds, separation, shares):
    key = one_sided(rho, gamma, kinds, separation, shares).iloc[0]
    accuracy, on_training = simulated(rho, gamma, kinds, separation, np.array(shares))
    np.testing.assert_allclose(key[list(kinds)].to_numpy(dtype=float), accuracy, atol=0.003)
    assert key["mean"] == pytest.approx(accuracy.mean(), abs=0.002)
    assert key["training"] == pytest.approx(on_training, abs=0.002)


def test_three_kinds_over_rho():
    key = one_sided(RHO)
    assert key["mean"].is_monotonic_decreasing and key["training"].is_monotonic_increasing
    assert key["glioma"].iloc[-1] == 0  # never named on a clean image
    np.testing.assert_allclose(key.loc[5, ["meningioma", "pituitary"]].to_numpy(dtype=float), ndtr(1))
    assert key["training"].iloc[-1] == pytest.approx((1 + 2 * ndtr(1)) / 3)
    both = one_sided(1.0, 1.0).iloc[0]
    assert (both["meningioma"], both["glioma"], both["pituitary"], both["training"]) == (1, 0, 0, 1)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rho": 1.1}, r"rho must lie in \[0, 1\], got 1.1"),
    ({"rho": 0.5, "gamma": -1}, r"gamma must lie in \[0, 1\], got -1"),
    ({"rho": 0.5, "separation": 0}, "separation must be above 0"),
    ({"rho": 0.5, "kinds": ("meningioma", "pituitary")}, r"rho=0.5, but kinds has no 'glioma'"),
    ({"rho": 0.5, "kinds": ("glioma",)}, "at least two different ones"),
    ({"rho": 0.5, "shares": (0.5, 0.5)}, "shares needs a value above 0 for each"),
    ({"rho": 0.5, "shares": (0.5, 0.5, 0)}, "shares needs a value above 0 for each"),
    ({"rho": 1, "gamma": 1, "kinds": ("glioma", "pituitary")}, "no clean image occurs in training")])
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        one_sided(**arguments)
