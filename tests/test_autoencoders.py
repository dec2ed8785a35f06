"""What all autoencoders share: shapes, latents, directions, training by the one loop, saving."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import Interrupting, _one_thread  # noqa: F401

from bias_tutorial.autoencoders import KINDS, Autoencoder, DiffusionAutoencoder, VariationalAutoencoder, direction, load
from bias_tutorial.autoencoders.autoencoder import arc, halvings
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.training import Recipe

SHORT = Recipe(epochs=3, batch_size=16, learning_rate=2e-3, weight_decay=0.0, shift=0, precision="fp32")
BOTH = pytest.mark.parametrize("kind", KINDS)


def cohort(n=96, shape=(1, 16, 16), seed=0, constant=False):
    """A bright bar at a random height; on the right in every second image, which is the planted attribute."""
    rng = np.random.default_rng(seed)
    right, top = np.arange(n) % 2, rng.integers(0, shape[1] - 6, n)
    images = np.full((n, *shape), 0.3, np.float32)
    if not constant:
        images += 0.05 * rng.random(images.shape, dtype=np.float32)
        for image, side, start in zip(images, right, top, strict=True):
            left = shape[2] // 2 * side + 1
            image[:, start:start + 6, left:left + shape[2] // 2 - 2] += 0.6
    table = pd.DataFrame({"image_id": np.arange(n), "patient_id": np.arange(n), "right": right, "top": top,
                          "split": np.array(["train", "train", "validation", "test"])[np.arange(n) // 2 % 4]})
    return Cohort(images, table, Schema({}, {"right": (0, 1)}, ("top",)))


def small(kind, shape=(1, 16, 16), latent=4, **more):
    return KINDS[kind](shape, latent, **{"width": 8} | ({"steps": 4} if kind == "diffusion" else {}) | more)


def fit(model, data, recipe=SHORT, seed=0, **more):
    return model.fit(data, recipe, seed, "cpu", progress=False, **more)


def same_state(one, other):
    other = other.state_dict()
    return all(np.array_equal(value, other[name], equal_nan=True) for name, value in one.state_dict().items())


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    model = small(request.param)
    fit(model, cohort())
    return model


# ---------------------------------------------------------------------- shapes
@BOTH
@pytest.mark.parametrize(("shape", "latent", "levels"), [
    ((1, 8, 8), 1, 1), ((2, 24, 16), 3, 2), ((3, 16, 28), 5, 2), ((1, 32, 32), 2, 3)])
def test_images_become_latents_and_latents_images(kind, shape, latent, levels):
    model, images = small(kind, shape, latent), np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    assert model.levels == levels == halvings(shape)
    latents = model.encode(images)
    assert latents.shape == (3, latent) and latents.dtype == np.float32
    decoded = model.decode(latents)
    assert decoded.shape == images.shape and decoded.dtype == np.float32
    assert decoded.min() >= 0 and decoded.max() <= 1 and not model.training


def test_larger_images_are_halved_to_4_to_7():
    assert [halvings(shape) for shape in ((1, 64, 64), (1, 112, 96), (1, 256, 256), (1, 80, 128))] == [4, 4, 6, 4]


def test_the_encoders_of_both_kinds_are_the_same_up_to_the_last_layer():
    one, other = (small(kind).encoder for kind in KINDS)
    assert repr(one[:-1]) == repr(other[:-1]) and one[-1].in_features == other[-1].in_features
    assert (one[-1].out_features, other[-1].out_features) == (8, 4)  # mean and variance; latents alone


def test_a_cohort_is_encoded_like_its_images(trained):
    data = cohort()
    assert np.array_equal(trained.encode(data), trained.encode(data.images))
    rows = trained.encode(data.images[5:8])
    np.testing.assert_allclose(trained.encode(data)[5:8], rows, atol=1e-5)  # last bits depend on the batch


# ---------------------------------------------------------------------- what one does with latents
def test_a_decoded_image_depends_on_its_own_latents_and_the_seed(trained):
    latents = trained.encode(cohort().images[:4])
    images = trained.decode(latents)
    np.testing.assert_allclose(images[2:3], trained.decode(latents[2:3]), atol=1e-5)
    np.testing.assert_allclose(trained.decode(latents[[1, 1]])[0], trained.decode(latents[[1, 1]])[1], atol=1e-5)
    assert np.array_equal(images, trained.decode(latents))
    assert np.array_equal(images, trained.decode(latents, seed=1)) == isinstance(trained, VariationalAutoencoder)


def test_interpolation_and_moving_begin_at_the_reconstruction(trained):
    one, other = cohort().images[:2], cohort().images[2:4]
    along, latents = np.ones(4, np.float32), trained.encode(one)
    for exact in (False, True):
        between = trained.interpolate(one, other, 3, exact)
        assert between.shape == (3, *one.shape)
        for end, images in ((0, one), (2, other)):
            np.testing.assert_allclose(between[end], trained.reconstruct(images, exact), atol=1e-3)
        moved = trained.move(one, along, [0, 2], exact)
        np.testing.assert_allclose(moved[0], trained.reconstruct(one, exact), atol=1e-5)
        noise = trained.invert(one, latents) if exact else None
        np.testing.assert_allclose(moved[1], trained.decode(latents + 2 * along, noise), atol=1e-5)
        assert np.abs(moved[1] - moved[0]).max() > 1e-3


def test_samples_come_from_a_gaussian_with_the_latents_mean_and_covariance(trained):
    latents = trained.encode(cohort().split("train"))
    np.testing.assert_allclose(trained.latent_mean, latents.mean(0), atol=1e-5)
    factor = trained.latent_factor.numpy()
    np.testing.assert_allclose(factor @ factor.T, np.cov(latents.T), atol=1e-4)
    seen = []
    trained.decode = lambda given, noise=None, seed=0: seen.append((given, noise))  # only what it is asked to decode
    try:
        for seed in (0, 0, 1):
            trained.sample(20000, seed)
    finally:
        del trained.decode
    assert np.array_equal(seen[0][0], seen[1][0]) and not np.array_equal(seen[0][0], seen[2][0])
    spread = np.sqrt(np.diag(np.cov(latents.T)))
    np.testing.assert_allclose(seen[0][0].mean(0) / spread, latents.mean(0) / spread, atol=0.04)  # 5 standard errors
    np.testing.assert_allclose(np.corrcoef(seen[0][0].T), np.corrcoef(latents.T), atol=0.04)
    assert trained.sample(3).shape == (3, 1, 16, 16) and np.array_equal(trained.sample(3), trained.sample(3))


def test_noise_between_two_draws_stays_as_large():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 3, 1, 64, 64)).astype(np.float32)
    assert np.array_equal(arc(one, other, 0.0), one) and np.allclose(arc(one, other, 1.0), other, atol=1e-5)
    assert arc(one, other, 0.5).std() == pytest.approx(1, abs=0.02) and ((one + other) / 2).std() < 0.75
    flat = np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 3.0]], np.float32)
    assert arc(*flat, 1 / 3)[0] == pytest.approx([3 * np.cos(np.pi / 6), 3 * np.sin(np.pi / 6)], abs=1e-5)
    assert np.allclose(arc(one, one, 0.3), one, atol=1e-3)


def test_a_direction_is_the_difference_of_means():
    latents = np.array([[0.0, 1.0], [2.0, 1.0], [5.0, 0.0], [7.0, 4.0]], np.float32)
    assert direction(latents, np.array([0, 0, 1, 1])) == pytest.approx([5, 1])
    assert direction(latents, np.array([False, False, True, True])) == pytest.approx([5, 1])
    years = np.array([20.0, 40.0, 60.0, 80.0])
    assert direction(years[:, None] * [0.5, -1], years) == pytest.approx([0.5, -1])


def test_a_direction_may_leave_another_attribute_as_it_is():
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 500)
    age = 50 + 20 * sex + rng.normal(size=500)
    latents = np.column_stack([0.1 * age, 3.0 * sex, 0.1 * age + sex])
    assert direction(latents, age)[1] == pytest.approx(3 / 20, rel=0.05)
    assert direction(latents, age, given=sex) == pytest.approx([0.1, 0, 0.1], abs=1e-5)
    both = np.column_stack([sex, rng.normal(size=500)])
    assert direction(latents, age, given=both) == pytest.approx([0.1, 0, 0.1], abs=1e-5)


# ---------------------------------------------------------------------- training
@BOTH
def test_it_learns(kind):
    """The mean image has an error of .039; twice as good is asked for, and the planted side read held out."""
    data = cohort(320)
    model = small(kind, latent=8, width=16, **({"steps": 10} if kind == "diffusion" else {}))
    history = fit(model, data, replace(SHORT, epochs=14, batch_size=8, learning_rate=4e-3))
    test, train = data.split("test"), data.split("train")
    mean_error = np.square(test.images - train.images.mean(0)).mean()
    error = np.square(model.reconstruct(test) - test.images).mean()
    assert error < mean_error / 2 and mean_error == pytest.approx(0.039, abs=0.001)
    assert history["reconstruction_error"].iloc[-1] < history["reconstruction_error"].iloc[0] / 2
    latents = model.encode(train)
    along = direction(latents, train.table["right"].to_numpy())
    right = (model.encode(test) @ along > (latents @ along).mean()) == (test.table["right"] == 1)
    assert right.mean() > 0.7  # of 80; chance is above it once in 5,000 times
    lefts = test.images[test.table["right"] == 0][:8]
    moved = model.move(lefts, along, [0, 1])
    brighter = moved[..., 8:].mean((-1, -2, -3)) - moved[..., :8].mean((-1, -2, -3))
    assert (brighter[1] > brighter[0]).all() and brighter[1].mean() > brighter[0].mean() + 0.1  # gone to the right
    assert np.square(model.reconstruct(lefts, exact=True) - lefts).mean() <= 1.1 * error


@BOTH
def test_history_and_equal_seeds(kind):
    data, runs = cohort(), []
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    for seed in (0, 0, 1):
        model = small(kind)
        runs.append((model, fit(model, data, seed=seed)))
    assert torch.equal(torch.random.get_rng_state(), state)
    columns = ["epoch", "train_loss", "validation_loss", "best", "reconstruction_error"]
    assert [name for name in runs[0][1] if name not in ("error", "divergence")] == columns
    assert same_state(runs[0][0], runs[1][0]) and not same_state(runs[0][0], runs[2][0])
    pd.testing.assert_frame_equal(runs[0][1], runs[1][1], check_exact=True)
    assert same_state(small(kind), small(kind)) and not same_state(small(kind), small(kind, seed=1))


@BOTH
@pytest.mark.parametrize("at", [2, 6, 11])
def test_a_run_that_was_interrupted_ends_as_if_it_was_not(kind, at, tmp_path):
    data, path, whole = cohort(48), tmp_path / "run.pt", small(kind)
    history = fit(whole, data)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small(kind), replace(data, images=Interrupting(data.images, at, stop)), checkpoint=path)
    again = small(kind)
    pd.testing.assert_frame_equal(fit(again, data, checkpoint=path), history, check_exact=True)
    assert same_state(whole, again)
    with pytest.raises(ValueError, match="belongs to another seed"):
        fit(small(kind), data, seed=1, checkpoint=path)
    other = {"beta": 2.0} if kind == "variational" else {"steps": 5}  # the same weights, another loss or decoding
    with pytest.raises(ValueError, match="belongs to another step"):
        fit(small(kind, **other), data, checkpoint=path)


@BOTH
def test_in_bf16_too(kind):
    model, data = small(kind), cohort()
    history = fit(model, data, replace(SHORT, precision="bf16"))
    assert np.isfinite(history.drop(columns="best")).all(axis=None)
    assert model.encode(data).dtype == np.float32 and not history.equals(fit(small(kind), data))


@BOTH
def test_the_test_split_is_not_looked_at(kind):
    data = cohort()
    images = data.images.copy()
    images[data.table["split"] == "test"] = np.nan  # reading them would raise
    one, other = small(kind), small(kind)
    fit(one, data)
    fit(other, Cohort(images, data.table, data.schema))
    assert same_state(one, other)


@BOTH
def test_constant_images_are_no_trouble(kind):
    model, data = small(kind), cohort(constant=True)
    history = fit(model, data, replace(SHORT, epochs=12))
    assert np.isfinite(history.drop(columns="best")).all(axis=None)
    assert np.isfinite(model.sample(2)).all() and np.isfinite(model.encode(data)).all()
    assert history["reconstruction_error"].iloc[-1] < history["reconstruction_error"].iloc[0]


# ---------------------------------------------------------------------- files
def test_a_saved_model_comes_back_the_same(trained, tmp_path):
    trained.save(tmp_path / "made" / "model.pt")
    again = load(tmp_path / "made" / "model.pt")
    assert type(again) is type(trained) and again.settings == trained.settings and same_state(trained, again)
    images = cohort().images[:3]
    assert np.array_equal(again.reconstruct(images), trained.reconstruct(images))
    assert np.array_equal(again.sample(2), trained.sample(2))
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["model.pt"]


def test_files_that_are_no_model_are_refused(trained, tmp_path):
    path = tmp_path / "model.pt"
    trained.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="model.pt' cannot be read"):
        load(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match="model.pt' is no autoencoder saved by bias_tutorial"):
        load(path)
    torch.save({"kind": "Flow", "settings": {}, "weights": {}}, path)
    with pytest.raises(ValueError, match="holds a 'Flow', expected one of VariationalAutoencoder, Diff"):
        load(path)


# ---------------------------------------------------------------------- bad input
@BOTH
@pytest.mark.parametrize(("options", "message"), [
    ({"latent": 0}, "latent must be a whole number of at least 1, got 0"),
    ({"latent": 2.5}, "latent must be a whole number of at least 1, got 2.5"),
    ({"width": 12}, "width must be a multiple of 8, got 12"),
    ({"width": 0}, "width must be a whole number of at least 1, got 0"),
    ({"shape": (1, 30, 32)}, "images of 30 x 32 pixels .* multiples of 4; resize .* to 32 x 32"),
    ({"shape": (1, 100, 96)}, "images of 100 x 96 pixels .* multiples of 16; resize .* to 112 x 96"),
    ({"shape": (1, 4, 4)}, "at least 8 and multiples of 2; resize or pad them, for example to 8 x 8"),
    ({"shape": (32, 32)}, r"shape must be \(channels, height, width\), whole numbers of at least 1, got \(32, 32\)"),
    ({"shape": (1, 16, 16, 16)}, "shape must be")])
def test_bad_settings_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind](**options)


def test_bad_images_and_latents_are_refused(trained):
    data = cohort()
    for images, message in ((np.zeros((2, 1, 16, 8)), r"shape \(1, 16, 8\), expected \(1, 16, 16\)"),
                            (np.full((2, 1, 16, 16), 255.0), r"from 255 to 255, expected finite ones in \[0, 1\]"),
                            (np.full((2, 1, 16, 16), -0.5), "values from -0.5"),
                            (np.full((2, 1, 16, 16), np.nan), "values from nan")):
        with pytest.raises(ValueError, match=message):
            trained.encode(images)
    with pytest.raises(ValueError, match=r"shape \(1, 16, 16\), expected \(1, 8, 8\)"):
        fit(VariationalAutoencoder((1, 8, 8), 2, width=8), data)
    with pytest.raises(ValueError, match="values from .* to 255"):
        fit(small("variational"), replace(data, images=255 * data.images / data.images.max()))
    with pytest.raises(ValueError, match="split 'validation' has 0 images, expected at least 2"):
        fit(small("variational"), data.split("train"))
    for latents in (np.zeros((2, 3)), np.zeros(4)):
        with pytest.raises(ValueError, match=r"latents have the shape .*, expected \(n, 4\)"):
            trained.decode(latents)
    with pytest.raises(ValueError, match=r"belong together have \[2, 3\] rows"):
        DiffusionAutoencoder((1, 16, 16), 4, width=8).invert(data.images[:2], np.zeros((3, 4)))
    with pytest.raises(ValueError, match="no latents to sample from before fit"):
        small("variational").sample(2)


@pytest.mark.parametrize(("values", "given", "message"), [
    ([1.0, 1.0, 1.0, 1.0], None, "the attribute is constant, or decided by what is given"),
    ([0.0, 1.0, 0.0, 1.0], [3.0, 7.0, 3.0, 7.0], "the attribute is constant, or decided by what is given"),
    ([0.0, 1.0, np.nan, 1.0], None, "1 of 4 values are missing or not finite; leave these rows out"),
    ([0.0, 1.0, 1.0], None, r"values have the shape \(3,\) for 4 latents")])
def test_bad_directions_are_refused(values, given, message):
    with pytest.raises(ValueError, match=message):
        direction(np.arange(8.0).reshape(4, 2), np.array(values), None if given is None else np.array(given))


def test_the_form_is_documented_for_every_kind():
    for kind in KINDS.values():
        assert issubclass(kind, Autoencoder) and kind.recipe.epochs > 1
