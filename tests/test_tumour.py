"""Tumour cohorts: severity as the key assumes, looks that follow it, marks in training alone, and twins bit for bit."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import binary_dilation, center_of_mass

from bias_tutorial import networks, storage
from bias_tutorial.answer_key import class_means, one_sided
from bias_tutorial.mitigation import Plain
from bias_tutorial.simulate import TumourDesign, anatomy, counterfactual, remake, tumour
from bias_tutorial.simulate.anatomy import Grid, template
from bias_tutorial.simulate.lesion import FEATURES, brain_radius, features
from bias_tutorial.simulate.marks import draw_marks
from bias_tutorial.training import Recipe

KINDS = ("meningioma", "glioma", "pituitary")
MARKED = TumourDesign(rho=0.5, gamma=1.0, slices=2)
SHAPE = (64, 64)
module = sys.modules["bias_tutorial.simulate.tumour"]  # the package's own name `tumour` is the function


def table(design, n_patients=3000, seed=0):
    """The table alone: no image is made."""
    return module.drawn_table({"scenario": json.loads(json.dumps(design.to_dict())), "n_patients": n_patients,
                               "seed": seed, "counterfactual": {}})


@pytest.fixture(scope="module")
def cohort():
    return tumour(MARKED, 24, 3, SHAPE)


# ---------------------------------------------------------------------------------------------- the cohort
def test_a_cohort_keeps_the_contract_and_says_how_it_was_made(cohort):
    assert cohort.images.shape == (48, 3, *SHAPE) and cohort.images.dtype == np.float32
    assert cohort.images.min() >= 0 and cohort.images.max() <= 1
    assert cohort.masks.shape == (48, *SHAPE) and cohort.masks.dtype == bool
    assert cohort.schema.targets == {"kind": KINDS}
    assert cohort.schema.attributes == {"glioma_mark": (0, 1), "pituitary_mark": (0, 1)}
    assert cohort.schema.latents[:2] == ("severity_1", "severity_2")
    meta = json.loads(json.dumps(cohort.meta))
    assert meta["simulator"] == "tumour" and meta["simulated"] is True and meta["seed"] == 3
    assert TumourDesign.from_dict(meta["scenario"]) == MARKED
    assert meta["spacing"] == Grid(SHAPE).spacing and "MNI" in meta["template"]["licence"]


def test_patients_have_one_kind_and_one_split_in_the_declared_shares():
    design = TumourDesign(shares=(0.2, 0.5, 0.3), split_shares=(0.6, 0.2, 0.2), slices=3)
    drawn = table(design, 200)
    assert len(drawn) == 600 and drawn["image_id"].is_unique
    per_patient = drawn.groupby("patient_id")[["kind", "split"]].nunique()
    assert (per_patient == 1).all(axis=None)
    counts = drawn.drop_duplicates("patient_id").groupby(["kind", "split"]).size()
    assert counts["glioma"].to_dict() == {"train": 60, "validation": 20, "test": 20}
    assert counts["meningioma"].to_dict() == {"train": 24, "validation": 8, "test": 8}
    order = drawn.drop_duplicates("patient_id")["kind"].to_list()
    assert len(set(order[:20])) > 1  # not sorted by kind


# ---------------------------------------------------------------------------------------------- severity
@pytest.mark.parametrize("kinds", [KINDS, ("glioma", "pituitary")])
@pytest.mark.parametrize("likeness", [0.0, 0.5, 1.0])
def test_severity_is_what_the_key_assumes(kinds, likeness):
    design = TumourDesign(kinds, likeness=likeness, separation=2.0)
    drawn = table(design, 3000)
    for kind, mean in zip(kinds, class_means(len(kinds)), strict=True):
        d = drawn.loc[drawn["kind"] == kind, list(design.severity_names)].to_numpy()
        np.testing.assert_allclose(d.mean(axis=0), mean, atol=0.12)
        np.testing.assert_allclose(np.cov(d.T).reshape(len(mean), -1), np.eye(len(mean)), atol=0.12)
        slices = d[:, 0].reshape(-1, 4)
        assert np.corrcoef(slices[:, 0], slices[:, 3])[0, 1] == pytest.approx(likeness, abs=0.08)


@pytest.mark.parametrize(("kinds", "rho", "gamma"), [(("meningioma", "glioma"), 0.9, 0.0), (KINDS, 0.9, 0.5)])
def test_the_best_reader_of_marked_training_data_lands_on_the_key(kinds, rho, gamma):
    """Fitted to the drawn training data (severity and marks), read on the clean test images."""
    design = TumourDesign(kinds, rho=rho, gamma=gamma, split_shares=(0.5, 0, 0.5), slices=1)
    drawn = table(design, 40_000, 1)
    train, test = (drawn[drawn["split"] == s] for s in ("train", "test"))
    d, names = test[list(design.severity_names)].to_numpy(), np.array(kinds)
    clean = train[train[["glioma_mark", "pituitary_mark"]].sum(axis=1) == 0]
    log_odds = [np.log((clean["kind"] == k).mean()) - ((d - clean.loc[clean["kind"] == k, list(design.severity_names)]
                .mean().to_numpy()) ** 2).sum(axis=1) / 2 for k in kinds]
    said = names[np.argmax(log_odds, axis=0)]
    key = one_sided(rho, gamma, kinds).iloc[0]
    for kind in kinds:
        of_kind = (test["kind"] == kind).to_numpy()
        assert (said[of_kind] == kind).mean() == pytest.approx(key[kind], abs=0.02)


def test_nothing_else_tells_the_kind():
    drawn = table(TumourDesign(slices=1), 6000)
    rest = [c for c in drawn if c.startswith("subject_")] + ["radius_mm", "brightness", "direction", "tilt",
                                                             "raised_mm"]
    means = drawn.groupby("kind")[rest].mean() / drawn[rest].std()
    assert (means.max() - means.min()).max() < 0.12  # 15 latents, 2,000 a kind


# ---------------------------------------------------------------------------------------------- what an image shows
@pytest.mark.parametrize("kinds", [KINDS, ("pituitary", "glioma")])
def test_a_mean_severity_looks_like_the_typical_lesion_of_its_kind(kinds):
    looks = features(class_means(len(kinds)), kinds)
    for name, (_, typical) in FEATURES.items():
        np.testing.assert_allclose(looks[name], [typical[k] for k in kinds])
    fine = np.linspace(-4, 4, 81)[:, None] * class_means(len(kinds))[0]
    along = features(fine, kinds)["depth"]
    assert (np.diff(along) != 0).all() and np.abs(np.diff(along)).max() < 0.1  # smooth, and never out of sight
    (low, high), _ = FEATURES["depth"]
    assert low < along.min() and along.max() < high


def measured(cohort):
    """Distance from the middle, and core against rim, of each lesion: by its mask alone."""
    values = []
    for image, mask in zip(cohort.images[:, 0], cohort.masks, strict=True):
        row, column = center_of_mass(mask)
        y, x = np.nonzero(mask)
        apart = np.hypot(y - row, x - column)
        brain = np.hypot(row - 31.5, column - 31.5)
        core = image[mask][apart <= np.median(apart)].mean() - image[mask][apart > np.median(apart)].mean()
        values.append((brain, core, image[mask].std()))
    return np.array(values)


def test_severity_can_be_read_off_the_images():
    design = TumourDesign(("meningioma", "pituitary"), likeness=0.0)
    apart = tumour(design, 40, 0, SHAPE)
    distance = measured(apart)[:, 0]
    assert np.corrcoef(distance, apart.table["severity_1"])[0, 1] < -0.8
    ragged = tumour(replace(design, kinds=("meningioma", "glioma")), 40, 0, SHAPE)
    assert np.corrcoef(measured(ragged)[:, 1], ragged.table["severity_1"])[0, 1] < -0.6
    glioma = (ragged.table["kind"] == "glioma").to_numpy()
    assert np.corrcoef(measured(ragged)[glioma, 1], ragged.table["severity_1"][glioma])[0, 1] < -0.4  # within a kind


def test_lesions_lie_in_the_brain_and_have_the_size_they_were_given():
    design = TumourDesign(slices=1, split_shares=(1, 0, 0))
    drawn = tumour(design, 60, 2, (96, 96), noise=0)
    assert (drawn.masks.sum(axis=(1, 2)) >= 25).all()
    for image, mask in zip(drawn.images[:, 0], drawn.masks, strict=True):
        around = binary_dilation(mask, iterations=3) & ~binary_dilation(mask)
        assert (image[around] > 0.05).mean() > 0.3  # at the border of the brain, the brain's side
    area = drawn.masks.sum(axis=(1, 2)) * drawn.meta["spacing"] ** 2
    inner = drawn.table["kind"] == "pituitary"  # no border cuts these off
    size = np.sqrt(area / np.pi)[inner] / drawn.table["radius_mm"][inner]
    assert size.between(0.85, 1.1).mean() > 0.9
    assert (drawn.images[:, 0] == drawn.images[:, 1]).all() and (drawn.images[:, 0] == drawn.images[:, 2]).all()


def test_the_border_of_a_disc_is_found():
    y, x = np.mgrid[:81, :81] - 40.0
    np.testing.assert_allclose(brain_radius((np.hypot(y, x) <= 25).astype(np.float32), 2.0), 50, atol=2.5)


def test_likeness_goes_from_strangers_to_copies():
    same = tumour(TumourDesign(likeness=1.0, slices=2, split_shares=(1, 0, 0)), 6, 0, SHAPE, noise=0)
    # The texture of a slice is its own.
    assert (same.masks[::2] == same.masks[1::2]).all()
    assert np.abs(same.images[::2] - same.images[1::2]).mean() < 0.005
    other = tumour(TumourDesign(likeness=0.0, slices=2, split_shares=(1, 0, 0)), 6, 0, SHAPE, noise=0)
    assert np.abs(other.images[::2] - other.images[1::2]).mean() > 0.02


def test_a_raised_template_is_the_plane_above():
    """At 1 mm nothing is smoothed: the view is a plane of the volume, at z = 5 mm and 3 mm above it."""
    volume, affine = anatomy._template_volume()
    columns, rows = (np.round(Grid((196, 168)).millimetres()[k] - affine[k, 3]).astype(int).clip(0, size - 1)
                     for k, size in enumerate(volume.shape[:2]))
    planes = {z: volume[columns, rows, round(z - affine[2, 3])].ravel() for z in (2, 5, 8)}
    for raised, height in ((0.0, 5), (3.0, 8)):
        view = template((196, 168), raised).ravel()
        alike = {z: np.corrcoef(view, plane)[0, 1] for z, plane in planes.items()}
        assert max(alike, key=alike.get) == height and alike[height] > 0.99


# ---------------------------------------------------------------------------------------------- marks
def test_marks_are_drawn_in_training_and_validation_as_the_table_says(cohort):
    clean = tumour(replace(MARKED, rho=0.0, gamma=0.0), 24, 3, SHAPE)
    marks = cohort.table[["glioma_mark", "pituitary_mark"]]
    for split in ("train", "validation", "test"):
        here = cohort.table[cohort.table["split"] == split]
        for kind, column, share in (("glioma", "glioma_mark", 0.5), ("pituitary", "pituitary_mark", 1.0)):
            expected = 0 if split == "test" else share * (here["kind"] == kind).sum()
            assert here[column].sum() == here.loc[here["kind"] == kind, column].sum() == expected
    changed = (cohort.images != clean.images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, marks.sum(axis=1) == 1)
    rest = [c for c in cohort.table if c not in marks]
    pd.testing.assert_frame_equal(cohort.table[rest], clean.table[rest])
    k = int(np.flatnonzero(cohort.table["glioma_mark"])[0])
    expected = draw_marks(clean.images[k], clean.masks[k], clean.meta["spacing"], line=True)
    np.testing.assert_array_equal(cohort.images[k], expected)


def test_only_marks_of_the_design_are_attributes_yet_any_can_be_drawn():
    clean = tumour(TumourDesign(slices=1, split_shares=(0, 0, 1)), 3, 0, SHAPE)
    assert not clean.schema.attributes and clean.table[["glioma_mark", "pituitary_mark"]].to_numpy().sum() == 0
    marked = counterfactual(clean, pituitary_mark=1)
    assert set(marked.schema.attributes) == {"pituitary_mark"}
    assert (marked.images != clean.images).any(axis=(1, 2, 3)).all()
    assert set(tumour(replace(MARKED, gamma=0.0), 12, 0, SHAPE).schema.attributes) == {"glioma_mark"}


def test_a_clean_selection_set_can_be_had():
    drawn = table(replace(MARKED, mark_validation=False), 100)
    marked = drawn.groupby("split")[["glioma_mark", "pituitary_mark"]].sum().sum(axis=1)
    assert marked["train"] > 0 and marked["validation"] == 0 and marked["test"] == 0


@pytest.mark.parametrize("select", ["loss", "groups"])
def test_a_network_trains_beside_a_clean_selection_set(select):
    drawn = tumour(TumourDesign(rho=0.5, slices=2, mark_validation=False), 24, 3, (32, 32))
    network = networks.build("modern", channels=3, classes=3)
    history = Plain(select).fit(network, drawn, "kind", "glioma_mark", Recipe(1, 8), device="cpu", progress=False)
    assert np.isfinite(history["validation_loss"]).all()


# ---------------------------------------------------------------------------------------------- twins and bits
def test_twins_differ_in_the_mark_alone(cohort):
    off = counterfactual(cohort, glioma_mark=0, pituitary_mark=0)
    clean = tumour(replace(MARKED, rho=0.0, gamma=0.0), 24, 3, SHAPE)
    np.testing.assert_array_equal(off.images, clean.images)
    assert off.table[["glioma_mark", "pituitary_mark"]].to_numpy().sum() == 0
    on = counterfactual(cohort.subset(np.arange(10)), glioma_mark=1)  # whatever their kind
    red = (on.images[:, 0] - on.images[:, 1]).max(axis=(1, 2))
    assert (red == 1).all() and (on.table["glioma_mark"] == 1).all()
    np.testing.assert_array_equal(on.masks, cohort.masks[:10])
    carried = (cohort.table["glioma_mark"][:10] == 1).to_numpy()
    assert carried.any()
    np.testing.assert_array_equal(on.images[carried], cohort.images[:10][carried])
    back = counterfactual(counterfactual(cohort, glioma_mark=0), glioma_mark=1)
    assert back.meta["counterfactual"] == {"glioma_mark": 1}
    np.testing.assert_array_equal(back.images[:10], on.images)
    with pytest.raises(ValueError, match="no attribute 'sex', expected one of glioma_mark, pituitary_mark"):
        counterfactual(cohort, sex=1)


def test_the_same_bits_for_any_rows_threads_and_workers(cohort):
    meta = json.loads(json.dumps(cohort.meta))
    some = ["00021_2", "00001_1", "00013_1"]
    rows = [cohort.table["image_id"].tolist().index(name) for name in some]
    np.testing.assert_array_equal(remake(meta, some).images, cohort.images[rows])
    np.testing.assert_array_equal(remake(meta, some).masks, cohort.masks[rows])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = remake(meta, workers=2)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(again.images, cohort.images)
    pd.testing.assert_frame_equal(again.table, cohort.table)
    with pytest.raises(ValueError, match="version 0 of the simulated world"):
        remake({**meta, "version": 0})


def test_twins_can_be_made_after_saving_and_loading(cohort, tmp_path):
    loaded = storage.load(storage.save(cohort, tmp_path / "cohort.npz"))
    np.testing.assert_array_equal(loaded.masks, cohort.masks)
    twins = counterfactual(loaded.subset([3, 4]), glioma_mark=0, pituitary_mark=0)
    np.testing.assert_array_equal(twins.images,
                                  counterfactual(cohort, glioma_mark=0, pituitary_mark=0).images[[3, 4]])


# ---------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("arguments", "message"), [
    ({"rho": 1.5}, r"rho is the probability of a mark and must lie in \[0, 1\], got 1.5"),
    ({"gamma": -0.1}, r"gamma is the probability of a mark"),
    ({"kinds": ("glioma",)}, "kinds must be two or three different ones of meningioma, glioma, pituitary"),
    ({"kinds": ("glioma", "lymphoma")}, "kinds must be two or three"),
    ({"kinds": ("meningioma", "pituitary"), "rho": 0.5}, r"rho=0.5, but kinds has no 'glioma'"),
    ({"likeness": 1.2}, r"likeness is a correlation and must lie in \[0, 1\], got 1.2"),
    ({"separation": 0}, "separation must be above 0 and finite, got 0"),
    ({"slices": 0}, "slices must be a whole number of at least 1, got 0"),
    ({"shares": (0.5, 0.5)}, "shares needs 3 values"),
    ({"shares": (0.5, 0.5, 0)}, "every kind needs a share above 0"),
    ({"split_shares": (0.5, 0.6, 0.1)}, "split_shares needs 3 values of at least 0 that sum to 1")])
def test_bad_designs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TumourDesign(**arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n_patients": 6}, "n_patients=6 leaves no patient of kind 'meningioma' for split 'test'"),
    ({"n_patients": 0}, "n_patients must be a whole number of at least 1"),
    ({"shape": (20, 20, 20)}, r"shape needs rows and columns, got \(20, 20, 20\)"),
    ({"noise": -1}, "noise must be at least 0, got -1")])
def test_bad_cohorts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tumour(TumourDesign(), **{"n_patients": 12, "seed": 0, "shape": SHAPE, **arguments})
