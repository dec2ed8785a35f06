"""Saliency maps of networks whose gradients are known, and scores by region."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bias_tutorial import networks
from bias_tutorial.attribution import by_group, region_scores, smoothgrad
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.simulate.anatomy import Grid, region_mask


def cohort(shape, n=6, channels=1):
    images = np.random.default_rng(0).random((n, channels, *shape), dtype=np.float32)
    table = pd.DataFrame({"image_id": np.arange(n), "patient_id": np.arange(n), "split": "test"})
    return Cohort(images, table, Schema())


class Weighted(nn.Module):
    """Scores ``(0, sum of weight * image ** power)``."""

    def __init__(self, weight, power=1):
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.as_tensor(weight, dtype=torch.float32)), power

    def forward(self, images):
        score = (self.weight * images**self.power).flatten(1).sum(1)
        return torch.stack([0 * score, score], 1)


@pytest.mark.parametrize("shape", [(32, 28), (22, 26, 20)])
def test_the_region_that_the_score_uses_is_found(shape):
    masks = {name: region_mask(name, Grid(shape)) for name in ("left_putamen", "right_occipital")}
    sign = np.where(np.arange(shape[-1]) % 2, 1.0, -1.0)  # either sign counts
    maps = smoothgrad(Weighted(masks["left_putamen"] * sign), cohort(shape), samples=2, device="cpu")
    assert maps.shape == (6, *shape) and maps.dtype == np.float32
    scores = region_scores(maps, masks)
    share = masks["left_putamen"].mean()
    assert scores["left_putamen"].to_numpy() == pytest.approx(np.full(6, 1 / share), rel=1e-5)
    assert (scores["right_occipital"] == 0).all()
    assert (smoothgrad(Weighted(sign), cohort(shape), value=0, samples=2, device="cpu") == 0).all()


def test_noise_is_in_units_of_intensity_and_absolute_values_are_averaged():
    black = cohort((40, 40))
    black.images[:] = 0
    maps = smoothgrad(Weighted(np.ones((40, 40)), power=2), black, samples=50, noise=0.2, device="cpu")
    # gradient 2 e with e ~ N(0, .2): mean of its absolute value is 2 * .2 * sqrt(2 / pi); of the gradient itself, 0
    assert maps.mean() == pytest.approx(0.4 * np.sqrt(2 / np.pi), rel=0.01)


def test_channels_are_summed():
    weight = np.stack([np.full((20, 20), 2.0), np.full((20, 20), -3.0)])
    assert smoothgrad(Weighted(weight), cohort((20, 20), channels=2), device="cpu") == pytest.approx(5, rel=1e-5)


def test_a_seed_gives_the_same_maps_and_nothing_else_is_touched():
    network, images = networks.build("modern", seed=1).train(), cohort((32, 32))
    network.head.weight.grad = torch.full_like(network.head.weight, 7.0)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    stream = torch.random.get_rng_state()
    maps = [smoothgrad(network, images, samples=3, seed=seed, device="cpu", batch_size=4) for seed in (0, 0, 1)]
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])
    assert torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())  # also those of batch norm
    assert (network.head.weight.grad == 7).all() and network.block1[0].weight.grad is None
    assert not network.training


def test_batches_change_only_the_noise():
    network, images = networks.build("modern", seed=1), cohort((32, 32))
    maps = [smoothgrad(network, images, samples=1, noise=0, device="cpu", batch_size=size) for size in (4, 64)]
    assert maps[0] == pytest.approx(maps[1], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("change", "message"), [
    ({"value": 2}, "scores for values 0 to 1, got value 2"),
    ({"samples": 0}, "samples must be at least 1"),
    ({"noise": -0.1}, "noise at least 0, got 16 and -0.1"),
    ({"cohort": cohort(())}, r"images have shape \(6, 1\), expected"),
])
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        smoothgrad(**{"network": Weighted(np.ones((20, 20))), "cohort": cohort((20, 20)), "device": "cpu", **change})


def test_scores_are_multiples_of_the_mean_inside():
    maps = np.zeros((2, 4, 4))
    maps[:, :2] = 3.0
    maps[1, 0, 0] = 9.0
    brain, top, corner = np.zeros((3, 4, 4), dtype=bool)
    brain[:3], top[:2], corner[0, 0] = True, True, True
    scores = region_scores(maps, {"top": top, "corner": corner, "bottom": ~top}, inside=brain)
    assert scores.loc[0].to_dict() == {"top": 1.5, "corner": 1.5, "bottom": 0}  # mean 3 over mean 2
    assert scores.loc[1, "corner"] == pytest.approx(9 / (30 / 12))
    each = np.stack([top, corner])  # one mask an image
    assert region_scores(maps, {"each": each})["each"].tolist() == pytest.approx([2, 9 / (30 / 16)])


def test_bad_masks_and_maps_are_refused():
    maps, mask = np.ones((2, 4, 4)), np.ones((4, 4), bool)
    with pytest.raises(ValueError, match=r"mask 'putamen' has shape \(5, 4\), expected \(4, 4\) or \(2, 4, 4\)"):
        region_scores(maps, {"putamen": np.ones((5, 4))})
    with pytest.raises(ValueError, match="mask 'putamen' marks no pixel"):
        region_scores(maps, {"putamen": ~mask})
    with pytest.raises(ValueError, match="mask 'inside' marks no pixel for row 1"):
        region_scores(maps, {}, inside=np.stack([mask, ~mask]))
    with pytest.raises(ValueError, match="map in row 1 has mean 0 inside"):
        region_scores(np.stack([maps[0], 0 * maps[0]]), {"all": mask})
    with pytest.raises(ValueError, match="map in row 0 has mean nan inside"):
        region_scores(maps * np.nan, {"all": mask})


def test_group_means_with_their_intervals():
    rng = np.random.default_rng(0)
    groups = pd.DataFrame({"sex": ["F"] * 400 + ["M"] * 100})
    scores = pd.DataFrame({"putamen": rng.normal(2, 1, 500) + (groups["sex"] == "M"), "caudate": rng.random(500)})
    table = by_group(scores, groups).set_index(["group", "region"])
    row = table.loc[("sex = M", "putamen")]
    part = scores["putamen"][400:]
    assert row["n"] == 100 and row["score"] == pytest.approx(part.mean())
    half = 1.96 * part.std() / 10
    assert (row["low"], row["high"]) == pytest.approx((part.mean() - half, part.mean() + half), abs=0.03)
    assert list(table.index[:2]) == [("all", "putamen"), ("all", "caudate")]


def test_images_of_a_patient_count_once():
    scores = pd.DataFrame({"putamen": [5.0] * 60 + [1.0] * 59})  # the first patient has 60 images
    patients = np.r_[np.zeros(60, int), np.arange(1, 60)]
    row = by_group(scores, pd.DataFrame(index=range(119)), patients).iloc[0]
    assert row["n"] == 60 and row["score"] == pytest.approx((5 + 59) / 60)


def test_a_small_group_is_refused():
    groups = pd.DataFrame({"sex": ["F"] * 29 + ["M"] * 60})
    with pytest.raises(ValueError, match=r"group \(sex = F\) has 29 patients, at least 30"):
        by_group(pd.DataFrame({"putamen": np.ones(89)}), groups)
    with pytest.raises(ValueError, match="88 rows of scores for 89 rows of groups"):
        by_group(pd.DataFrame({"putamen": np.ones(88)}), groups)
