"""Simulated brains: one warp for two, effects by hand, twins, and the same bits however they are made."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bias_tutorial.scenario import BiasAttribute, Effect, Scenario, preset, streams
from bias_tutorial.simulate import brain, counterfactual, drawn_table, remake, render
from bias_tutorial.simulate.anatomy import Grid, region, subject_modes, template
from bias_tutorial.simulate.brain import design
from bias_tutorial.simulate.deformation import (
    compose,
    exponential,
    identity,
    warp,
)
from bias_tutorial.simulate.effects import change_intensity, receive_field

SMALL, VOLUME = (56, 48), (36, 44, 32)


def digest(images):
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def still(scenario):
    """The same design with every subject shaped like the template: only effects move anything."""
    return replace(scenario, subject_bound=1e-6)


def one_bias(kind, strength, sd=0.0):
    return Scenario(kind, (BiasAttribute("bias", kind, (0.5, 0.5), effect=Effect(strength, sd)),))


@pytest.mark.parametrize("shape", [SMALL, VOLUME])
def test_a_disease_that_folds_the_brain_is_refused_by_image(shape):
    scenario = still(replace(preset("no_bias"), severity_means=(1, 60), severity_sd=0.01))
    first = scenario.draw(4, 0).query("disease == 1")["image_id"].iloc[0]
    with pytest.raises(ValueError, match=f"disease or bias deformation of image '{first}' is not invertible"):
        brain(scenario, 4, 0, shape)
    with pytest.raises(ValueError, match="subject's deformation of image"):
        table = drawn_table(brain(preset("no_bias"), 2, 0, shape).meta).copy()
        table.loc[:, [f"subject_{k}" for k in range(1, 11)]] *= 60
        _world(preset("no_bias"), shape).positions(table)


def _module(name):
    return sys.modules[f"bias_tutorial.simulate.{name}"]  # the package's own name `brain` is the function


def _world(scenario, shape):
    return _module("brain").World(scenario, Grid(shape), "cpu")


# ---------------------------------------------------------------------------------------------- what an image is
def integrate(grid, scenario, row, names):
    """Displacements of subject and effects integrated on the full grid, with nothing of the lattices."""
    points = grid.millimetres()
    v = np.einsum("da,ka...->kd...", grid.directions(), subject_modes(points, scenario.subject_modes))
    latents = row[[f"subject_{k + 1}" for k in range(scenario.subject_modes)]].to_numpy(dtype=float)
    v = torch.from_numpy(np.tensordot(latents, v, axes=1).astype(np.float32))[None]
    w = torch.zeros_like(v)
    for name, strength in names:
        where = region(name)
        offset = points - np.array(where.centre).reshape(3, *(1,) * grid.dimensions)
        if grid.dimensions == 2:
            offset[2] = 0
        r = np.linalg.norm(offset, axis=0) / where.radius
        edge = np.clip((3.5 - r) / 0.5, 0, 1)
        push = 1.5 * offset / where.radius * np.exp(0.5 - r**2 / 2) * edge**2 * (3 - 2 * edge)
        w += float(strength) * torch.from_numpy(np.tensordot(grid.directions(), push, axes=1).astype(np.float32))
    return v, w


@pytest.mark.parametrize("shape", [(112, 96), (44, 54, 40)])
def test_one_warp_equals_subject_first_then_transported_effect(shape):
    """SimBA warps the template into the subject, then warps that by f g f^-1. Ours reads the template once."""
    scenario = preset("far")
    grid = Grid(shape)
    table = scenario.draw(12, 0)
    k = int(np.argmax(table["morphology"] * table["severity"].abs()))
    row = table.iloc[k]
    ours = render(design(scenario, 12, 0, shape, noise=0), [k])[0, 0]
    v, w = integrate(grid, scenario, row, [("left_putamen", row["severity"]),
                                           ("right_occipital", row["morphology_strength"])])
    subject, forward, effect = exponential(-v, 8), exponential(v, 8), exponential(-w, 8)
    transported = compose(compose(subject, effect), forward)  # f^-1 g f: to the template, the effect, and back
    two_warps, one_warp = compose(transported, subject), compose(subject, effect)
    near = (effect.norm(dim=1) > 0.1)[0]  # where the effect acts, away from the border
    identical = (two_warps - one_warp).norm(dim=1)[:, near]
    assert effect.norm(dim=1).max() > 0.4 and identical.mean() < 0.02 and identical.max() < 0.1
    assert (compose(effect, subject) - one_warp).norm(dim=1)[:, near].mean() > 2 * identical.mean()  # order matters

    original = torch.from_numpy(template(shape).copy())[None, None]
    step_by_step = warp(warp(original, subject), transported)[0, 0].numpy()
    unaffected = warp(original, subject)[0, 0].numpy()
    near = near.numpy()
    assert np.abs(ours - step_by_step / step_by_step.max())[near].mean() < 0.05  # two interpolations blur, one does not
    at_once = warp(original, one_warp)[0, 0].numpy()
    assert np.abs(ours - at_once / at_once.max())[near].mean() < 0.02
    assert np.abs(ours - unaffected / unaffected.max())[near].mean() > 2 * np.abs(ours - at_once)[near].mean()


@pytest.mark.parametrize("shape", [(112, 96), (58, 70, 52)])
def test_positions_agree_with_integration_on_the_full_grid(shape):
    """Lattices are a matter of speed: the displacement differs by less than a tenth of a pixel on average."""
    scenario, grid = preset("near"), Grid(shape)  # near: the two fields overlap
    table = scenario.draw(6, 3)
    row = table[table["morphology"] == 1].iloc[:1]
    v, w = integrate(grid, scenario, row.iloc[0], [("left_putamen", row["severity"].iloc[0]),
                                                   ("left_insula", row["morphology_strength"].iloc[0])])
    expected = compose(exponential(-v, 8), exponential(-w, 8))
    got = _world(scenario, shape).positions(row) - identity(shape)
    error = (got - expected).norm(dim=1)
    assert expected.norm(dim=1).max() > 1
    assert error.mean() < 0.05 and error.max() < 0.5


def test_a_local_field_also_moves_what_the_subject_carried_into_its_box():
    shift = torch.tensor([5.0, -3.0]).reshape(2, 1, 1)
    position = (identity((40, 36)) + shift)[None]
    inside = ((position[0] >= 20) & (position[0] <= 28)).all(dim=0)  # the box, in pixels
    before = position.clone()
    _module("brain")._move_on(position, torch.ones(1, 2, 5, 5), (slice(10, 15), slice(10, 15)), 2, moved=5.0)
    moved = (position - before)[0]
    assert (moved[:, inside] == 2).all() and inside.any()
    outside = ((before[0] <= 18) | (before[0] >= 30)).any(dim=0)
    assert (moved[:, outside] == 0).all()


def test_severity_makes_the_region_grow():
    """Positive strength pushes outwards: the brain around the putamen moves away from its centre."""
    grid, scenario = Grid((112, 96)), still(preset("no_bias"))
    table = scenario.draw(4, 0).iloc[:1].assign(severity=2.0)
    moved = (_world(scenario, grid.shape).positions(table) - identity(grid.shape))[0]
    row, column = grid.index(region("left_putamen").centre)
    beside = int(round(column + 9 / grid.spacing))
    assert moved[1, int(round(row)), beside] < -0.5  # what is seen there comes from nearer to the centre


# ---------------------------------------------------------------------------------------------- the cohort
def test_a_cohort_keeps_the_contract_and_says_how_it_was_made():
    cohort = brain(preset("both"), 24, 3, SMALL)
    assert cohort.images.shape == (24, 1, *SMALL) and cohort.images.dtype == np.float32
    assert cohort.images.min() == 0 and cohort.images.max() <= 1
    assert cohort.schema.targets == {"disease": (0, 1)}
    assert set(cohort.schema.attributes) == {"morphology", "intensity"}
    assert cohort.schema.latents == preset("both").latent_names
    pd.testing.assert_frame_equal(cohort.table, preset("both").draw(24, 3))
    meta = json.loads(json.dumps(cohort.meta))
    assert meta["simulator"] == "brain" and meta["seed"] == 3 and meta["n"] == 24
    assert meta["scenario"] == json.loads(json.dumps(preset("both").to_dict()))
    assert "MNI" in meta["template"]["licence"] and meta["shape"] == list(SMALL)
    np.testing.assert_allclose(meta["affine"], Grid(SMALL).affine)
    assert meta["spacing"] == Grid(SMALL).spacing
    assert meta["balance"] == preset("both").draw(24, 3).attrs["balance"]


@pytest.fixture(scope="module")
def slices():
    return brain(preset("both"), 70, 11, SMALL)


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_for_any_chunk_and_threads(slices, chunk, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert digest(render(slices.meta, range(70), chunk=chunk)) == digest(slices.images)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [2, 4])
def test_the_same_bits_for_any_number_of_workers(slices, workers):
    assert digest(render(slices.meta, range(70), workers=workers, chunk=10)) == digest(slices.images)


def test_the_same_bits_for_volumes():
    cohort = brain(preset("both"), 8, 2, VOLUME)
    meta = json.loads(json.dumps(cohort.meta))
    before = torch.get_num_threads()
    for chunk, threads, workers in ((1, 1, 1), (7, 2, 1), (64, 1, 1), (2, 2, 4)):
        torch.set_num_threads(threads)
        try:
            assert digest(render(meta, range(8), workers=workers, chunk=chunk)) == digest(cohort.images)
        finally:
            torch.set_num_threads(before)


def test_a_cohort_is_remade_from_its_meta_after_json(slices):
    again = remake(json.loads(json.dumps(slices.meta)))
    assert digest(again.images) == digest(slices.images)
    pd.testing.assert_frame_equal(again.table, slices.table)
    some = remake(slices.meta, image_ids=["00031", "00002"])
    assert digest(some.images) == digest(slices.images[[30, 1]])
    assert some.table["image_id"].tolist() == ["00031", "00002"]
    with pytest.raises(ValueError, match="version 0 of the simulated world"):
        remake({**slices.meta, "version": 0})


def test_an_image_does_not_depend_on_other_rows(slices):
    assert digest(render(slices.meta, [42])) == digest(slices.images[[42]])
    assert digest(render(slices.meta, [69, 0, 42])) == digest(slices.images[[69, 0, 42]])


def test_another_seed_gives_other_brains(slices):
    assert np.abs(brain(preset("both"), 8, 12, SMALL).images - slices.images[:8]).mean() > 0.02


# ---------------------------------------------------------------------------------------------- twins
@pytest.mark.parametrize("shape", [(112, 96), VOLUME])
def test_twins_differ_in_the_region_alone(shape):
    scenario, grid = still(preset("far")), Grid(shape)
    cohort = brain(scenario, 10, 0, shape)
    on, off = (counterfactual(cohort, morphology=v) for v in (1, 0))
    points = grid.millimetres()
    distance = np.linalg.norm((points - np.array(region("right_occipital").centre).reshape(3, *(1,) * grid.dimensions)),
                              axis=0) / region("right_occipital").radius
    # A strong effect moves pixels by some millimetres, and one pixel takes from its neighbour.
    beyond = distance > 3.5 + (2 * 1.5 * 4 + 2 * grid.spacing) / region("right_occipital").radius
    changed = on.images[:, 0] != off.images[:, 0]
    assert not changed[:, beyond].any()
    assert changed[:, distance < 2].mean() > 0.1
    carried = cohort.table["morphology"].to_numpy() == 1
    np.testing.assert_array_equal(on.images[carried], cohort.images[carried])
    np.testing.assert_array_equal(off.images[~carried], cohort.images[~carried])
    assert (on.images[~carried] != cohort.images[~carried]).any()


def test_twins_share_everything_but_the_effect(slices):
    on, off = counterfactual(slices, morphology=1), counterfactual(slices, morphology=0)
    same = [c for c in slices.table if not c.startswith("morphology")]
    for twin, value in ((on, 1), (off, 0)):
        pd.testing.assert_frame_equal(twin.table[same], slices.table[same])
        assert (twin.table["morphology"] == value).all()
    assert (off.table["morphology_strength"] == 0).all()
    np.testing.assert_array_equal(on.table["morphology_strength"],
                                  preset("both").potential_strengths(70, 11)["morphology"])
    carried = slices.table["morphology"] == 1
    np.testing.assert_array_equal(on.table.loc[carried, "morphology_strength"],
                                  slices.table.loc[carried, "morphology_strength"])


def test_switching_off_and_on_again_returns_the_original(slices):
    carriers = slices.subset(((slices.table["morphology"] == 1) & (slices.table["intensity"] == 1)).to_numpy())
    clean = counterfactual(carriers, morphology=0, intensity=0)
    assert digest(clean.images) != digest(carriers.images)
    back = counterfactual(clean, morphology=1, intensity=1)
    assert digest(back.images) == digest(carriers.images)
    pd.testing.assert_frame_equal(back.table, carriers.table)
    again = counterfactual(counterfactual(carriers, morphology=0), intensity=0)
    assert digest(again.images) == digest(clean.images)
    assert digest(remake(json.loads(json.dumps(clean.meta)), clean.table["image_id"]).images) == digest(clean.images)
    assert digest(counterfactual(carriers).images) == digest(carriers.images)


def test_twins_are_refused_where_there_is_no_truth(slices):
    real = replace(slices, meta={"source": "hospital"})
    for refused in (lambda: counterfactual(real, morphology=0), lambda: remake(real.meta)):
        with pytest.raises(ValueError, match="was not simulated"):
            refused()
    with pytest.raises(ValueError, match="no attribute 'sex', expected one of morphology, intensity"):
        counterfactual(slices, sex=1)
    with pytest.raises(ValueError, match="set to 0 or 1, got 2"):
        counterfactual(slices, intensity=2)
    with pytest.raises(ValueError, match="its design has no bias"):
        counterfactual(brain(preset("no_bias"), 2, 0, SMALL), intensity=1)


# ---------------------------------------------------------------------------------------------- intensity and noise
def by_hand(image, kind, s, grid):
    if kind == "contrast_stretch":
        far = np.clip(0.5 + s * (image - 0.5), 0, 1)
        return (far - far.min()) / (far.max() - far.min())
    if kind == "gain":
        return np.minimum(s * image, 1)
    if kind == "gamma":
        return image**s
    return np.clip(image * (1 + s * receive_field(grid)), 0, 1)


@pytest.mark.parametrize(("kind", "strength"), [("contrast_stretch", 1.2), ("contrast_stretch", 1.5), ("gain", 1.3),
                                                ("gain", 0.7), ("gamma", 1.4), ("receive_field", 0.3)])
def test_intensity_biases_do_what_they_say(kind, strength):
    cohort = brain(one_bias(kind, strength), 8, 0, SMALL, noise=0)
    plain = counterfactual(cohort, bias=0).images[:, 0]
    biased = counterfactual(cohort, bias=1).images[:, 0]
    assert (plain.min(axis=(1, 2)) == 0).all() and (plain.max(axis=(1, 2)) == 1).all()
    for one, other in zip(plain, biased, strict=True):
        np.testing.assert_allclose(other, by_hand(one.astype(float), kind, strength, Grid(SMALL)), atol=1e-5)
        assert np.abs(other - one).mean() > 0.005
    carried = cohort.table["bias"].to_numpy() == 1
    np.testing.assert_array_equal(cohort.images[carried, 0], biased[carried])
    np.testing.assert_array_equal(cohort.images[~carried, 0], plain[~carried])


def test_the_stretch_rescales_when_the_clip_leaves_a_gap():
    image = torch.tensor([[0.3, 0.5], [0.6, 0.7]])
    got = change_intensity(image, "contrast_stretch", 1.2, Grid((16, 16)))
    np.testing.assert_allclose(got, [[0, 0.5], [0.75, 1]], atol=1e-6)


def test_a_receive_field_is_smooth_and_slanted():
    for shape in (SMALL, VOLUME):
        field = receive_field(Grid(shape))
        assert np.abs(field).max() == 1 and field.min() < -0.3 and field.max() > 0.3
        assert max(np.abs(np.diff(field, axis=a)).max() for a in range(field.ndim)) < 0.1


def test_intensity_of_the_bias_varies_between_carriers_but_not_with_other_rows():
    scenario = one_bias("gain", 0.8, sd=0.05)
    cohort = brain(scenario, 16, 0, SMALL, noise=0)
    clean = counterfactual(cohort, bias=0)
    carriers = np.flatnonzero(cohort.table["bias"] == 1)
    gain = cohort.images[carriers].max(axis=(1, 2, 3))  # a clean image reaches exactly 1
    np.testing.assert_allclose(gain, np.minimum(cohort.table["bias_strength"].iloc[carriers], 1), rtol=1e-5)
    assert len(np.unique(gain)) > 1
    alone = render(cohort.meta, carriers[:1])
    assert digest(alone) == digest(cohort.images[carriers[:1]])
    assert clean.images.max() == 1


def test_a_gamma_below_zero_is_refused():
    with pytest.raises(ValueError, match="gamma bias needs a strength above 0, got -1"):
        brain(one_bias("gamma", -1.0), 4, 0, SMALL)
    with pytest.raises(ValueError, match="unknown intensity kind 'sepia'"):
        change_intensity(torch.rand(16, 16), "sepia", 1.0, Grid((16, 16)))


def test_noise_comes_where_it_is_said_to():
    scenario = one_bias("gain", 0.5)
    clean = brain(scenario, 8, 0, SMALL, noise=0)
    last = brain(scenario, 8, 0, SMALL, noise=0.05)
    first = brain(scenario, 8, 0, SMALL, noise=0.05, noise_order="before_intensity")
    for k in range(8):
        grain = 0.05 * streams(0)("noise", k).standard_normal(SMALL, dtype=np.float32)
        gain = 0.5 if clean.table["bias"].iloc[k] else 1.0
        np.testing.assert_allclose(last.images[k, 0], np.clip(clean.images[k, 0] + grain, 0, 1), atol=1e-6)
        before = np.clip(np.clip(clean.images[k, 0] / gain + grain, 0, 1) * gain, 0, 1)
        np.testing.assert_allclose(first.images[k, 0], before, atol=1e-6)
    twin = counterfactual(last, bias=0)
    carried = last.table["bias"].to_numpy() == 1
    inside = (twin.images[carried] > 0) & (twin.images[carried] < 1) & (last.images[carried] > 0)
    difference = (twin.images[carried] - last.images[carried])[inside]
    expected = (0.5 * (clean.images[carried] / 0.5))[inside]
    np.testing.assert_allclose(difference, expected, atol=1e-5)  # the same noise in both twins cancels


def test_before_noise_every_image_spans_zero_to_one():
    for shape in (SMALL, VOLUME):
        images = brain(preset("far"), 6, 0, shape, noise=0).images.reshape(6, -1)
        assert (images.min(axis=1) == 0).all() and (images.max(axis=1) == 1).all()
