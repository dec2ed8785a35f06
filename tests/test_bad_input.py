"""Bad designs and sizes: each is refused with the name, the value, and what was expected."""

from dataclasses import replace

import numpy as np
import pytest

from bias_tutorial.cohort import Cohort
from bias_tutorial.scenario import BiasAttribute, Effect, Scenario, preset, streams
from bias_tutorial.simulate import brain

BOTH = preset("both")
JOINT = [[[0.6, 0.1], [0.1, 0.2]], [[0.2, 0.1], [0.1, 0.6]]]


def attribute(**changes):
    return BiasAttribute(**{"name": "coil", "kind": "gain", "prevalence": (0.3, 0.7), **changes})


@pytest.mark.parametrize(("make", "message"), [
    (lambda: attribute(prevalence=(0.3, 1.2)), r"'coil': prevalence must lie in \[0, 1\], got 1.2"),
    (lambda: attribute(prevalence=(-0.1, 0.5)), "'coil': prevalence.*got -0.1"),
    (lambda: attribute(prevalence=(np.nan, 0.5)), "'coil': prevalence.*got nan"),
    (lambda: attribute(kind="glow"), "'coil': unknown kind 'glow', expected one of morphology, contrast_stretch"),
    (lambda: attribute(kind="morphology"), "'coil': a region is needed"),
    (lambda: attribute(region="left_insula"), "'coil': a region is needed for kind 'morphology' and for no other"),
    (lambda: Effect(np.nan), "finite mean"),
    (lambda: Effect(1.0, -0.5), "standard deviation of at least 0"),
    (lambda: Effect(1.0, np.inf), "standard deviation of at least 0"),
    (lambda: preset("neer"), "unknown preset 'neer', expected one of no_bias, near, far, intensity, both"),
    (lambda: preset("near", 1.01), r"p must lie in \[0, 1\], got 1.01"),
    (lambda: preset("near", np.nan), r"p must lie in \[0, 1\], got nan"),
    (lambda: Scenario("s", class_shares=(0.5, 0.6)), r"class_shares must be at least 0 and sum to 1.*0\.6"),
    (lambda: Scenario("s", class_shares=(-0.5, 1.5)), "class_shares must be at least 0"),
    (lambda: Scenario("s", class_shares=(0.0, 1.0)), "every class needs a share above 0"),
    (lambda: Scenario("s", class_shares=(np.nan, 1.0)), "class_shares"),
    (lambda: Scenario("s", split_shares=(0.5, 0.5)), "split_shares needs one value for each of train, validation"),
    (lambda: Scenario("s", split_shares=(0.8, 0.3, -0.1)), "split_shares must be at least 0"),
    (lambda: Scenario("s", severity_means=(0.0, 1.0, 2.0)), "severity_means has 3 values for 2 classes"),
    (lambda: Scenario("s", severity_sd=0.0), "severity_sd must be above 0, got 0"),
    (lambda: Scenario("s", subject_modes=0), "subject_modes must be at least 1"),
    (lambda: Scenario("s", subject_bound=-1.0), "subject_bound above 0"),
    (lambda: Scenario("s", (attribute(), attribute())), r"names must differ, got \['coil', 'coil'\]"),
    (lambda: Scenario("s", (attribute(name="split"),)), "'split' is used for another column"),
    (lambda: Scenario("s", (attribute(name="subject_3"),)), "'subject_3' is used for another column"),
    (lambda: Scenario("s", (attribute(prevalence=(0.1, 0.2, 0.3)),)), "'coil' has 3 prevalences for 2 classes"),
    (lambda: replace(BOTH, joint=JOINT[:1]), r"joint has shape \(1, 2, 2\), expected \(2, 2, 2\)"),
    (lambda: replace(BOTH, joint=[[[0.6, 0.1], [0.1, 0.3]], JOINT[1]]), "sum to 1 within each class"),
    (lambda: replace(BOTH, joint=[[[0.8, -0.1], [-0.1, 0.4]], JOINT[1]]), "joint must be at least 0"),
    (lambda: replace(preset("both", 0.8), joint=JOINT), r"joint gives attribute 'morphology' the prevalences"),
    (lambda: Scenario("s", class_shares=(0.5, 0.25, 0.25), severity_means=(0, 0, 1)).at(0.5), "two classes"),
])
def test_an_impossible_design_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("n", [0, -5, 2.5, np.nan])
def test_impossible_sizes_are_refused(n):
    with pytest.raises(ValueError, match=f"n must be a whole number of at least 1, got {n}"):
        BOTH.draw(n, 0)


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0, got {seed}"):
        streams(seed)
    with pytest.raises(ValueError, match="seed must be"):
        brain(preset("near"), 8, seed, (28, 24))


def test_a_cohort_that_would_leave_a_group_empty_is_refused():
    with pytest.raises(ValueError, match="n=6 leaves 3 subjects for class 0, but scenario 'both' declares 4 groups"):
        BOTH.draw(6, 0)


@pytest.mark.parametrize(("changes", "message"), [
    ({"shape": (-56, 48)}, r"shape needs 2 or 3 sizes of at least 16, got \(-56, 48\)"),
    ({"shape": (56,)}, r"shape needs 2 or 3 sizes.*\(56,\)"),
    ({"shape": (8, 8)}, "at least 16"),
    ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
    ({"noise": np.nan}, "noise must be at least 0, got nan"),
    ({"noise_order": "first"}, "noise_order must be one of last, before_intensity, got 'first'"),
    ({"n": -3}, "n must be a whole number of at least 1, got -3"),
    ({"scenario": replace(preset("no_bias"), disease_region="nose")}, "no region 'nose'.*left_putamen.*right_insula"),
    ({"scenario": replace(preset("no_bias"), disease_region="left_cerebellum")}, "in the slice at z = 5 mm"),
])
def test_a_simulation_that_cannot_be_made_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        brain(**{"scenario": preset("no_bias"), "n": 4, "seed": 0, "shape": (28, 24), **changes})


@pytest.mark.parametrize("workers", [1, 2])
def test_an_effect_that_folds_the_brain_is_refused_by_image_in_any_process(workers):
    torn = replace(preset("far"), attributes=(replace(preset("far").attributes[0], effect=Effect(80.0)),))
    with pytest.raises(ValueError, match=r"deformation of image '0000\d' is not invertible.*weaker effect"):
        brain(torn, 8, 0, (56, 48), workers=workers)


def test_an_image_that_is_not_finite_is_refused_by_name():
    cohort = brain(preset("no_bias"), 6, 0, (28, 24))
    images = cohort.images.copy()
    images[4, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="image '00005' holds NaN or infinite values"):
        Cohort(images, cohort.table, cohort.schema, meta=cohort.meta).batch(range(6))
