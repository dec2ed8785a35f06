"""What the whole course stands on: balance, deformations that do not fold, twins that differ in one thing."""

import numpy as np
import pytest

from bias_tutorial import simulate
from bias_tutorial.scenario import Effect, balance, preset


@pytest.mark.parametrize("name", ["no_bias", "near", "far", "intensity", "both"])
def test_groups_and_splits_differ_by_less_than_a_twentieth_on_every_latent(name):
    scenario = preset(name)
    for seed in (0, 1, 2):
        table = scenario.draw(2000, seed)
        smd = balance(table, scenario)
        assert len(table) == 2000 and set(smd["latent"]) == set(scenario.balanced_latents)
        assert smd["smd"].abs().max() < 0.05, f"{name}, seed {seed}: {smd.loc[smd['smd'].abs().idxmax()].to_dict()}"


def test_an_effect_so_strong_that_the_image_folds_is_refused_by_name():
    from dataclasses import replace

    near = preset("near")
    torn = replace(near, attributes=(replace(near.attributes[0], effect=Effect(200.0)),))
    with pytest.raises(ValueError, match=r"of image '\d+' is not invertible: its Jacobian determinant falls to -"):
        simulate.brain(torn, 20, 0, shape=(56, 48))


def test_a_twin_differs_in_the_one_effect_alone():
    cohort = simulate.brain(preset("both"), 40, 0, shape=(56, 48))
    carries = cohort.table["intensity"].to_numpy() == 1
    off, on = (simulate.counterfactual(cohort, intensity=value) for value in (0, 1))
    assert (off.table["intensity"] == 0).all() and (on.table["intensity"] == 1).all()
    same = [c for c in cohort.table if not c.startswith("intensity")]
    assert off.table[same].equals(cohort.table[same]) and on.table[same].equals(cohort.table[same])
    np.testing.assert_array_equal(on.images[carries], cohort.images[carries])
    np.testing.assert_array_equal(off.images[~carries], cohort.images[~carries])
    assert (np.abs(on.images - off.images).reshape(40, -1).max(axis=1) > 0.01).all()
