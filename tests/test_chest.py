"""Chest cohorts: correlations as designed, severity as the key assumes, twins bit for bit, and clear refusals."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bias_tutorial import storage
from bias_tutorial.simulate import ChestDesign, chest, counterfactual, remake
from bias_tutorial.simulate.chest_subjects import (
    CHOICES,
    DEVICES,
    EFFECTS,
    FINDINGS,
    HIDDEN_KINDS,
    LATENTS,
    ORDER,
    RANGES,
    SPREAD,
)

RICH = ChestDesign(devices={"tube": 0.3, "wires": 0.3, "pacemaker": 0.2}, view={"PA": 0.5, "AP": 0.3, "lateral": 0.2},
                   images=2, likeness=0.5, hidden_dose=2.0)
module = sys.modules["bias_tutorial.simulate.chest"]  # the package's own name `chest` is the function
ANATOMY = ("thorax_mm", "lung_mm", "depth_mm", "dome_mm", "wall_mm", "breast_mm", "bone", "aortic_knob_mm", "gas_mm")


def table(design, n_patients=3000, seed=0, **changes):
    """The table alone: no image is made."""
    return module.drawn_table({"scenario": json.loads(json.dumps(design.to_dict())), "n_patients": n_patients,
                               "seed": seed, "counterfactual": changes})


@pytest.fixture(scope="module")
def cohort():
    return chest(RICH, 20, 3)


# ---------------------------------------------------------------------------------------------- the cohort
def test_a_cohort_keeps_the_contract_and_says_how_it_was_made(cohort):
    assert cohort.images.shape == (40, 1, 64, 64) and cohort.images.dtype == np.float32
    assert cohort.images.min() >= 0 and cohort.images.max() <= 1
    assert cohort.meta["simulator"] == "chest" and cohort.meta["simulated"] is True and cohort.meta["seed"] == 3
    assert dict(cohort.schema.targets) == dict.fromkeys(FINDINGS, (0, 1))
    assert list(cohort.schema.attributes) == ["sex", "age_group", "site", "view", *DEVICES]
    assert cohort.schema.latents == LATENTS and "hidden" not in cohort.schema.attributes
    for name, (low, high) in RANGES.items():
        assert cohort.table[name].between(low, high).all(), name
    for name, values in CHOICES.items():
        assert cohort.table[name].isin(values).all(), name
    assert "simulated" in module.__doc__.lower() and "What it cannot show" in chest.__doc__


def test_only_what_differs_is_declared():
    plain = chest(ChestDesign({"effusion": 0.5}, view={"AP": 1.0}, site={"B": 1.0}), 12, 0)
    assert list(plain.schema.targets) == ["effusion"]
    assert list(plain.schema.attributes) == ["sex", "age_group"]
    assert plain.table[list(FINDINGS)].drop(columns="effusion").to_numpy().sum() == 0
    twin = counterfactual(plain, view="PA", tube=1)  # what a design leaves out can still be set
    assert twin.schema.attributes["view"] == ("PA", "AP") and twin.schema.attributes["tube"] == (0, 1)


def test_counts_follow_the_design_to_within_one():
    design = ChestDesign({"effusion": 0.2, "nodule": 0.35}, sex={"F": 0.4, "M": 0.6}, split_shares=(0.6, 0.2, 0.2))
    drawn = table(design, 1000)
    for name, value, expected in (("sex", "F", 400), ("effusion", 1, 200), ("nodule", 1, 350), ("view", "AP", 400),
                                  ("split", "test", 200), ("hidden", 1, 300)):
        assert abs((drawn[name] == value).sum() - expected) <= 1, name
    assert (drawn.groupby("patient_id")["split"].nunique() == 1).all()


def test_odds_multiply_and_act_on_what_comes_later():
    design = ChestDesign({"effusion": 0.2, "pneumothorax": 0.5}, {"tube": 0.1}, odds={
        "effusion": {"F": 3.0}, "AP": {"60-80": 3.0}, "B": {"F": 2.0}, "tube": {"pneumothorax": 9.0, "AP": 2.0}})
    drawn = table(design, 6000)
    ill = drawn.groupby("sex")["effusion"].mean()
    assert ill["M"] == pytest.approx(0.2, abs=0.002) and ill["F"] == pytest.approx(0.75 / 1.75, abs=0.002)
    lying = (drawn["view"] == "AP").groupby(drawn["age_group"] == "60-80").mean()
    assert lying[False] == pytest.approx(0.4, abs=0.002) and lying[True] == pytest.approx(2 / 3, abs=0.002)
    assert (drawn["site"] == "B").groupby(drawn["sex"]).mean()["F"] == pytest.approx(0.5, abs=0.002)
    tubes = drawn.groupby(["pneumothorax", "view"])["tube"].mean()
    expected = {(0, "PA"): 0.1, (0, "AP"): 2 / 11, (1, "PA"): 0.5, (1, "AP"): 2 / 3}
    for cell, share in expected.items():
        assert tubes[cell] == pytest.approx(share, abs=0.004), cell
    body = list(ANATOMY)
    pd.testing.assert_frame_equal(drawn[body], table(replace(design, odds={}), 6000)[body])


# ---------------------------------------------------------------------------------------------- severity
@pytest.mark.parametrize("likeness", [0.0, 0.5, 1.0])
def test_severity_is_what_the_key_assumes(likeness):
    drawn = table(ChestDesign(images=2, likeness=likeness), 3000)
    for finding in FINDINGS:
        for present, mean in ((1, 1.0), (0, -1.0)):
            d = drawn.loc[drawn[finding] == present, f"{finding}_severity"].to_numpy()
            assert d.mean() == pytest.approx(mean, abs=0.03) and d.std() == pytest.approx(1, abs=0.04)
            assert np.corrcoef(d[::2], d[1::2])[0, 1] == pytest.approx(likeness, abs=0.12)
            by_sex = drawn[drawn[finding] == present].groupby("sex")[f"{finding}_severity"].mean()
            assert by_sex.max() - by_sex.min() < 0.04
    assert np.corrcoef(drawn[[f"{f}_severity" for f in FINDINGS]].T)[np.triu_indices(5, 1)] == \
        pytest.approx(0, abs=0.05)


def test_what_shows_rises_with_severity_and_never_ends():
    d = np.linspace(-4, 5, 91)
    for name, effect in EFFECTS.items():
        shown = effect(d)
        assert (np.diff(shown) > 0).all() and shown.min() > 0, name
    drawn = table(ChestDesign(), 3000)
    severity = drawn["cardiomegaly_severity"]
    assert np.corrcoef(severity, drawn["ctr"])[0, 1] > 0.9
    assert (drawn["ctr"] > 0.5)[severity > 1.5].mean() > 0.9 and (drawn["ctr"] < 0.5)[severity < -0.5].mean() > 0.9


def test_nothing_but_the_design_separates_groups():
    drawn = table(ChestDesign(), 4000)
    for finding in FINDINGS:
        by_class = drawn.groupby(finding)[[*ANATOMY, "age", "raised_mm"]].mean() / drawn[[*ANATOMY, "age",
                                                                                         "raised_mm"]].std()
        assert by_class.diff().abs().max(axis=None) < 0.12
        splits = drawn.groupby("split")[finding].mean()
        assert splits.max() - splits.min() < 0.01
    age = drawn.groupby("split")["age"].mean()
    assert age.max() - age.min() < 0.5


def test_sex_and_age_shape_the_body_as_the_sources_say():
    drawn = table(ChestDesign({}), 4000)
    means = drawn.groupby("sex")[["thorax_mm", "lung_mm", "dome_mm", "dome_step_mm", "ctr"]].mean()
    # Alghamdi 2021 and Brakohiapa 2017; West Afr J Med 2007; Mensah 2015.
    assert 263 <= means.loc["F", "thorax_mm"] <= 271 and 290 <= means.loc["M", "thorax_mm"] <= 297
    assert means.loc["M", "lung_mm"] == pytest.approx(229, abs=1) and means.loc["F", "lung_mm"] == \
        pytest.approx(215, abs=1)
    assert means.loc["M", "dome_step_mm"] == pytest.approx(15, abs=1)
    assert means.loc["F", "dome_step_mm"] == pytest.approx(12, abs=1)
    assert 40 <= means["dome_mm"].mean() <= 62
    assert means.loc["M", "ctr"] == pytest.approx(0.452, abs=0.012)
    assert means.loc["F", "ctr"] == pytest.approx(0.467, abs=0.012)
    slope = np.polyfit(drawn["age"], drawn["aortic_knob_mm"], 1)
    assert slope[0] == pytest.approx(0.2, abs=0.03) and slope[1] == pytest.approx(19.5, abs=1.5)
    assert np.corrcoef(drawn["age"], drawn["bone"])[0, 1] < -0.4


@pytest.mark.parametrize(("effect", "change"), [("sex_effect", {"sex": "M"}), ("age_effect", {"age": 75.0})])
def test_without_an_effect_sex_and_age_shape_no_body(effect, change):
    design = ChestDesign({}, split_shares=(1, 0, 0))
    for size, same in ((0.0, True), (1.0, False)):
        films = chest(replace(design, **{effect: size}), 12, 7, (32, 32))
        twins = counterfactual(films, **change)
        moved = (twins.table[list(change)] != films.table[list(change)]).to_numpy()[:, 0]
        assert moved.sum() >= 6
        np.testing.assert_array_equal((twins.images == films.images).all(axis=(1, 2, 3)), ~moved | same)
        if same:
            rest = films.table.columns.drop([*change, "age_group"])
            pd.testing.assert_frame_equal(twins.table[rest], films.table[rest])


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0])
def test_an_effect_is_a_share_of_the_published_difference(effect):
    design = ChestDesign({}, sex_effect=effect, age_effect=effect)
    men, women = (table(design, 200, sex=sex) for sex in "MF")
    np.testing.assert_allclose(men["thorax_mm"] - women["thorax_mm"], 28 * effect, atol=1e-9)
    ratio = (men["breast_mm"] / women["breast_mm"]).median()  # a few are cut to their range
    assert ratio == pytest.approx((17 - 7 * effect) / (17 + 7 * effect), abs=1e-9)
    old, young = (table(design, 200, age=age) for age in (70, 50))
    np.testing.assert_allclose(old["depth_mm"] - young["depth_mm"], 0.35 * 20 * effect, atol=1e-9)
    drawn = table(design, 4000)
    gap = drawn.groupby("sex")[[*ANATOMY, "ctr"]].mean().diff().iloc[1] / drawn[[*ANATOMY, "ctr"]].std()
    slope = drawn[[*ANATOMY, "ctr"]].corrwith(drawn["age"])
    if effect == 0:  # balanced over sex and age group: far below the sampling error of 4000
        assert gap.abs().max() < 0.02 and slope.abs().max() < 0.04
    else:
        assert gap["thorax_mm"] > 0.6 and slope["depth_mm"] > 0.2


# ---------------------------------------------------------------------------------------------- the hidden shift
@pytest.mark.parametrize("kind", HIDDEN_KINDS)
def test_a_hidden_shift_moves_its_carriers_and_nobody_else(kind):
    design = ChestDesign({}, hidden_kind=kind, split_shares=(1, 0, 0))
    none, some = (chest(replace(design, hidden_dose=dose), 20, 4) for dose in (0.0, 3.0))
    carries = (none.table["hidden"] == 1).to_numpy()
    pd.testing.assert_series_equal(none.table["hidden"], some.table["hidden"])
    assert carries.sum() == 6 and (none.table["hidden_shift"] == 0).all()
    assert (some.table["hidden_shift"] == 3 * carries).all()
    changed = (none.images != some.images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, carries)
    moved = ("offset_x_mm", "offset_z_mm") if kind == "position" else ("exposure", "contrast")
    for name in moved:
        step = (some.table[name] - none.table[name])[carries]
        np.testing.assert_allclose(step, 3 / np.sqrt(2) * SPREAD[name])
    rest = [c for c in none.table if c not in (*moved, "hidden_shift")]
    pd.testing.assert_frame_equal(none.table[rest], some.table[rest])
    assert not {"hidden", "hidden_shift"} & set(some.schema.attributes)
    np.testing.assert_array_equal(counterfactual(some, hidden_shift=0).images, none.images)


def test_the_hidden_shift_is_independent_of_all_that_is_labelled():
    drawn = table(ChestDesign(devices={"wires": 0.3}), 4000)
    for name in ("sex", "age_group", "site", "view", "wires", *FINDINGS):
        rates = drawn.groupby(name)["hidden"].mean()
        assert rates.max() - rates.min() < 0.07, name


# ---------------------------------------------------------------------------------------------- twins and bits
def test_likeness_goes_from_strangers_to_copies():
    same, other = (chest(replace(RICH, likeness=likeness), 12, 5, noise=0) for likeness in (1.0, 0.0))
    body = [*ANATOMY, *(f"{f}_severity" for f in FINDINGS), "effusion_side", "nodule_height"]
    assert (same.table[body][::2].to_numpy() == same.table[body][1::2].to_numpy()).all()
    assert (other.table[body][::2].to_numpy() != other.table[body][1::2].to_numpy()).any(axis=1).all()
    for columns in (same, other):
        kept = ["sex", "age_group", "age", "site", "pacemaker", *FINDINGS]
        assert (columns.table[kept][::2].to_numpy() == columns.table[kept][1::2].to_numpy()).all()
    fixed = dict.fromkeys(("offset_x_mm", "offset_z_mm", "exposure", "contrast", "rotation_deg", "collimation_x_mm",
                           "collimation_z_mm", "marker_x_mm", "marker_z_mm", "raised_mm", "shoulders_mm"), 0.0)
    alike = counterfactual(same, view="PA", marker="L", tube=0, wires=0, **fixed)
    np.testing.assert_array_equal(alike.images[::2], alike.images[1::2])  # nothing is left but the body


def test_twins_change_what_was_asked_and_what_follows(cohort):
    male = counterfactual(cohort, sex="M")
    was = (cohort.table["sex"] == "M").to_numpy()
    np.testing.assert_array_equal(male.images[was], cohort.images[was])
    assert (male.images[~was] != cohort.images[~was]).any(axis=(1, 2, 3)).all()
    assert (male.table["thorax_mm"] - cohort.table["thorax_mm"])[~was].between(15, 28.001).all()
    apart = [*FINDINGS, "site", "view", "age", "effusion_mm", "offset_x_mm", "raised_mm", "marker"]
    pd.testing.assert_frame_equal(male.table[apart], cohort.table[apart])

    ill = counterfactual(cohort, effusion=1)
    step = ill.table["effusion_severity"] - cohort.table["effusion_severity"]
    np.testing.assert_allclose(step, 2.0 * (cohort.table["effusion"] == 0))
    set_to = counterfactual(cohort, effusion_severity=2.0)
    np.testing.assert_allclose(set_to.table["effusion_mm"], EFFECTS["effusion_mm"](2.0))
    assert (set_to.table["effusion"] == cohort.table["effusion"]).all()
    older = counterfactual(cohort, age=70)
    assert (older.table["age_group"] == "60-80").all() and older.table["bone"].mean() < cohort.table["bone"].mean()

    back = counterfactual(counterfactual(cohort, view="AP"), view="PA")
    assert back.meta["counterfactual"] == {"view": "PA"}
    pa = (cohort.table["view"] == "PA").to_numpy()
    np.testing.assert_array_equal(back.images[pa], cohort.images[pa])


def test_a_device_changes_only_the_pixels_near_it():
    clean = chest(ChestDesign({}), 10, 6, noise=0)
    for device in DEVICES:
        with_it = counterfactual(clean, **{device: 1})
        where = module.regions(with_it, [device])[device]
        strong = np.abs(with_it.images - clean.images)[:, 0] > 0.1  # scatter reaches far, but is faint
        assert strong.any(axis=(1, 2)).all()
        assert (strong & ~where).sum() <= 0.25 * where.sum()


def test_the_same_bits_for_any_rows_and_workers(cohort):
    meta = json.loads(json.dumps(cohort.meta))
    some = ["00015_2", "00001_1", "00008_1"]
    rows = [cohort.table["image_id"].tolist().index(name) for name in some]
    np.testing.assert_array_equal(remake(meta, some).images, cohort.images[rows])
    again = remake(meta, workers=2)
    np.testing.assert_array_equal(again.images, cohort.images)
    pd.testing.assert_frame_equal(again.table, cohort.table)
    with pytest.raises(ValueError, match="version 0 of the simulated world"):
        remake({**meta, "version": 0})


def test_twins_can_be_made_after_saving_and_loading(cohort, tmp_path):
    loaded = storage.load(storage.save(cohort, tmp_path / "cohort.npz"))
    twins = counterfactual(loaded.subset([3, 4]), pacemaker=0, exposure=1.5)
    np.testing.assert_array_equal(twins.images, counterfactual(cohort, pacemaker=0, exposure=1.5).images[[3, 4]])
    masks, loaded_masks = (module.regions(c.subset([3, 4]), ["heart"])["heart"] for c in (cohort, loaded))
    np.testing.assert_array_equal(masks, loaded_masks)


# ---------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("arguments", "message"), [
    ({"findings": {"effusion": 1.2}}, r"findings: the share of 'effusion' must lie in \[0, 1\], got 1.2"),
    ({"findings": {"oedema": 0.2}}, "findings: there is no 'oedema', expected one of cardiomegaly"),
    ({"devices": {"clip": 0.1}}, "devices: there is no 'clip', expected one of tube, wires, pacemaker"),
    ({"site": {"A": 0.5, "D": 0.5}}, "site: there is no 'D', expected one of A, B, C"),
    ({"view": {"PA": 0.5, "AP": 0.4}}, "view: the shares must sum to 1"),
    ({"sex": {"F": -0.1, "M": 1.1}}, r"sex: the share of 'F' must lie in \[0, 1\], got -0.1"),
    ({"odds": {"effusion": {"X": 2.0}}}, "odds: there is no 'X'"),
    ({"odds": {"F": {"effusion": 2.0}}}, "odds of 'F' cannot depend on 'effusion', which is drawn later"),
    ({"odds": {"AP": {"PA": 2.0}}}, "odds of 'AP' cannot depend on 'PA'"),
    ({"odds": {"effusion": {"F": 0.0}}}, "odds of 'effusion' given 'F' must be above 0 and finite, got 0.0"),
    ({"images": 0}, "images must be a whole number of at least 1, got 0"),
    ({"likeness": 1.5}, r"likeness must lie in \[0, 1\], got 1.5"),
    ({"sex_effect": 1.2}, r"sex_effect must lie in \[0, 1\], got 1.2"),
    ({"sex_effect": float("nan")}, "sex_effect must lie in"),
    ({"age_effect": -0.1}, r"age_effect must lie in \[0, 1\], got -0.1"),
    ({"hidden_dose": -1}, r"hidden_dose must lie in \[0, 10\], got -1"),
    ({"hidden_dose": float("nan")}, "hidden_dose must lie in"),
    ({"hidden_share": 2}, r"hidden_share must lie in \[0, 1\], got 2"),
    ({"hidden_kind": "colour"}, "hidden_kind must be one of position, response, got 'colour'"),
    ({"split_shares": (0.5, 0.6, 0.1)}, "split_shares needs 3 values of at least 0 that sum to 1")])
def test_bad_designs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChestDesign(**arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n_patients": 5}, "n_patients must be a whole number of at least 10, got 5"),
    ({"design": ChestDesign({"nodule": 0.02})}, "n_patients=12 leaves no image with nodule = 1, of share 0.02"),
    ({"shape": (16, 16)}, r"shape needs two equal numbers of 32 to 512, got \(16, 16\)"),
    ({"shape": (64, 96)}, "shape needs two equal numbers"),
    ({"shape": (64, 64, 64)}, "shape needs two equal numbers"),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"noise": -1}, "noise must be at least 0, got -1")])
def test_bad_cohorts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        chest(**{"design": ChestDesign(), "n_patients": 12, "seed": 0, **arguments})


@pytest.mark.parametrize(("change", "message"), [
    ({"race": 1}, "no attribute, finding or latent 'race' that can be set, expected one of sex"),
    ({"posterior_ribs": 9}, "'posterior_ribs' that can be set"),
    ({"view": "oblique"}, "'view' can be set to 'PA', 'AP', 'lateral', got 'oblique'"),
    ({"effusion": 2}, "'effusion' can be set to 0, 1, got 2"),
    ({"effusion_side": 0}, "'effusion_side' can be set to -1, 1, got 0"),
    ({"ctr": 2.0}, "'ctr' can be set to a number from 0.32 to 0.72, got 2.0")])
def test_bad_twins_are_refused(cohort, change, message):
    with pytest.raises(ValueError, match=message):
        counterfactual(cohort, **change)


def test_regions_are_refused_where_nobody_knows_them(cohort):
    with pytest.raises(ValueError, match="unknown region 'liver', expected one of lung_right"):
        module.regions(cohort, ["liver"])
    with pytest.raises(ValueError, match="cohorts of simulate.chest only"):
        module.regions(replace(cohort, meta={}))
    assert len(ORDER) == len(set(ORDER))
