"""The measures of chapter 3 on networks whose use of a mark is known by construction."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from bias_tutorial import answer_key, claims, networks, probing
from bias_tutorial.studies import chapter_03 as study

SETTINGS = {"p": 0.7, "n_train": 60, "n_probe": 240, "n_published": 160, "shape": (28, 24), "recipe": {"epochs": 1}}


class OneNumber(nn.Module):
    """Decides by the spread of grey values, which intensity changes, and nothing else; or by nothing at all."""

    def __init__(self, weight, level=0.0):
        super().__init__()
        self.pool, self.weight, self.level = Spread(), weight, level

    def forward(self, images):
        score = self.weight * (self.pool(images)[:, 0] - self.level)
        return torch.stack([torch.zeros_like(score), score], 1)


class Spread(nn.Module):
    def forward(self, images):
        flat = images.flatten(1)
        return torch.stack([flat.std(1), flat.mean(1)], 1)


@pytest.fixture(scope="module")
def data():
    return study.halves(SETTINGS, 3, "intensity")


def test_halves_share_no_subject_and_carry_only_the_mark_that_is_probed(data):
    assert not set(data.fit) & set(data.score) and len(data.fit) == len(data.score) == 120
    assert "morphology" not in data.table and data.images.shape == (240, 1, 28, 24)
    for rows in (data.fit, data.score):
        assert (data.table.iloc[rows].groupby(["disease", "intensity"]).size() == 30).all()
    assert not set(data.table["severity"][data.fit]) & set(data.table["severity"][data.score])
    off, on = study.twins(SETTINGS | {"n_twins": 60}, 3, "intensity")
    assert len(on) == 60 and off.table["severity"].equals(on.table["severity"])
    assert (on.table["intensity"] == 1).all() and not off.table["intensity"].any()
    assert not set(off.table["severity"]) & set(data.table["severity"][data.fit])


def test_the_design_keeps_only_the_marks_that_are_named():
    for marks in study.CARRIED.values():
        assert study.design(marks, 0.7).attribute_names == marks
    assert study.design(["intensity"], 0.8).attributes[0].prevalence == pytest.approx((0.2, 0.8))


def test_of_pool_every_component_is_read(data):
    network = networks.build(seed=1).eval()
    every, some = (study.components(network, data, block) for block in ("pool", "block1"))
    assert every.explained_variance_ratio.sum() == pytest.approx(1) and every.n_components > 10
    assert study.KEEP < some.explained_variance_ratio.sum() < 1


def test_a_network_that_decides_by_the_mark_alone_is_found_out(data):
    off, on = study.twins(SETTINGS, 3, "intensity")
    images = [torch.from_numpy(cohort.batch(range(len(cohort)))) for cohort in (off, on)]
    seen = [Spread()(part)[:, 0] for part in images]
    network = OneNumber(1000.0, float((seen[0].mean() + seen[1].mean()) / 2)).eval()
    moved = study.moves(network, "pool", data, (off, on))
    luck = study.moves(network, "pool", data, (off, on), probing.random_labels(data.table["intensity"], seed=1))
    assert abs(luck["carried"].mean()) < abs(moved["carried"].mean()) and np.array_equal(luck["total"], moved["total"])
    result = study.summary(moved, off, 0)
    total = float(((seen[1] > network.level).double() - (seen[0] > network.level).double()).mean())
    assert result["total_gap"] == pytest.approx(total) and abs(total) > 0.5
    assert result["carried_gap"] == pytest.approx(total, abs=0.1)
    assert abs(result["left_gap"]) < 0.5 * abs(total)
    assert result["erased_gap"] == pytest.approx(result["total_gap"] - result["left_gap"])
    for what in ("total", "carried", "left", "erased"):
        low, high = result[f"{what}_gap_interval"]
        assert low <= result[f"{what}_gap"] <= high
    y = off.table["disease"].to_numpy()
    assert result["total_gap"] == pytest.approx((result["total_tpr_gap"] * y.sum() + result["total_fpr_gap"]
                                                 * (1 - y).sum()) / len(y))
    as_is = study.outputs(network, off, on)
    again = study.moves(network, "pool", data, (off, on), None, study.components(network, data, "pool"), as_is)
    assert all(np.array_equal(again[what], moved[what]) for what in moved)


def test_a_network_that_ignores_what_it_holds_is_cleared(data):
    pair = study.twins(SETTINGS, 3, "intensity")
    moved = study.moves(OneNumber(0.0).eval(), "pool", data, pair)
    result = study.summary(moved, pair[0], 0)
    assert {result[f"{what}_gap"] for what in ("total", "carried", "left", "erased")} == {0.0}
    table = study.block_table({"ignores": OneNumber(0.0).eval()}, data, ("intensity", "random"))
    held = table["auc"].droplevel(["network", "block"])
    assert held["intensity"] > 0.9 and abs(held["random"] - 0.5) < 0.2


def test_the_interval_of_a_difference_of_probes_is_over_the_same_subjects():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    one, other = (probing.Probe(roc_auc_score(truth, x), 0, 1, 0, 0, 0, 400, 400, 1, x) for x in
                  (truth + rng.standard_normal(400), rng.standard_normal(400)))
    found = study.auc_less("d", (one, truth), (other, truth), 0)
    low, high = found["d_interval"]
    assert low < found["d"] == one.auc - other.auc < high and 0.1 < high - low < 0.25
    assert study.auc_less("d", (one, truth), (one, truth), 0) == {"d": 0.0, "d_interval": [0.0, 0.0]}


def test_layers_gives_every_number_that_the_claims_name():
    blocks = ["block3", "pool"]
    out = study.layers({**SETTINGS, "blocks": blocks}, 0)
    aucs = {name: value for name, value in out.items() if name.endswith("_auc") or "_auc_" in name}
    points = [value for name, value in aucs.items() if not name.endswith("_interval")]
    assert len(points) > 100 and all(0 <= value <= 1 for value in points)
    for network, marks in study.CARRIED.items():
        for mark in marks or study.MARKS:
            assert out[f"{network}_all_{mark}_auc"] == min(out[f"{network}_{b}_{mark}_auc"] for b in blocks)
            assert out[f"{network}_pool_{mark}_carried_size"] == abs(out[f"{network}_pool_{mark}_carried_gap"])
        for mark in marks:
            assert out[f"{network}_pool_{mark}_raised"] == pytest.approx(
                out[f"{network}_pool_{mark}_auc"] - out[f"no_bias_pool_{mark}_auc"])
            assert -1 <= out[f"{network}_{mark}_absent"] <= 1
            assert out[f"{network}_pool_{mark}_beyond_no_bias"] == pytest.approx(
                out[f"{network}_pool_{mark}_carried_gap"] - out[f"no_bias_pool_{mark}_carried_gap"])
    easier = [out[f"untrained_{b}_intensity_auc"] - out[f"untrained_{b}_morphology_auc"] for b in blocks]
    assert out["untrained_all_easier"] == pytest.approx(min(easier), abs=1e-9)
    assert out["pixels_input_intensity_auc"] > 0.9  # a stretched image is easy to tell
    assert not [name for name, value in out.items() if not np.isfinite(value).all()]
    assert not {claim.quantity for claim in claims.load_claims("03") if claim.measure.endswith("layers")} - set(out)


def test_the_published_form_reads_random_labels_and_other_patients_do_not_bear_it_out():
    out = study.in_sample({**SETTINGS, "shape": (84, 72)}, 0)
    assert out["block1_random_in_sample"] > 0.9 > 0.65 > out["block1_random_held_out"]
    for block in ("block1", "pool"):
        assert out[f"{block}_morphology_optimism"] == pytest.approx(
            out[f"{block}_morphology_fitted"] - out[f"{block}_morphology_held_out"])
    assert out["block1_features"] == 8 * 42 * 36 and out["pool_features"] == 64
    assert out["key_wanted_floor_accuracy"] == pytest.approx(0.6365, abs=1e-3)
    assert out["key_rewarded_floor_auc"] == pytest.approx(0.803, abs=1e-3)
    assert not {claim.quantity for claim in claims.load_claims("03") if claim.measure.endswith("in_sample")} - set(out)


def test_confounded_images_tell_the_mark_by_the_disease_and_not_within_its_classes():
    rng = np.random.default_rng(0)
    disease = pd.Series(rng.integers(0, 2, 4000))
    mark = pd.Series(np.where(rng.random(4000) < 0.7, disease, 1 - disease))
    severity = 2 * disease - 1 + rng.standard_normal(4000)
    pca = SimpleNamespace(scores=np.column_stack([rng.standard_normal(4000), -severity]))
    found = study._along_disease(pca, disease, mark, np.arange(2000), np.arange(2000, 4000))
    assert found["floor_auc"] == pytest.approx(0.668, abs=0.03)
    assert found["floor_accuracy"] == pytest.approx(0.637, abs=0.03)
    assert found["floor_within_auc"] == pytest.approx(0.5, abs=0.04)


def test_margin_ratio_of_the_key():
    row = answer_key.margin_ratio(0.7).iloc[0]
    rng = np.random.default_rng(0)
    n = 400_000
    y, b = rng.integers(0, 2, n), rng.integers(0, 2, n)
    severity = rng.standard_normal(n) + 2 * y - 1
    margin = (2 * y - 1) * (severity + (2 * b - 1) * np.log(0.7 / 0.3) / 2)  # from the rewarded reader's boundary
    found = pd.Series(margin).groupby(y == b).mean()
    assert row["aligned"] == pytest.approx(found[True], abs=0.01)
    assert row["conflicting"] == pytest.approx(found[False], abs=0.01)
    assert row["ratio"] == pytest.approx(row["conflicting"] / row["aligned"])
    assert answer_key.margin_ratio(0.5)["ratio"].iloc[0] == 1
    with pytest.raises(ValueError, match="strictly between"):
        answer_key.margin_ratio([0.5, 1.0])
    with pytest.raises(ValueError, match="got 1.2"):
        answer_key.margin_ratio(1.2)
