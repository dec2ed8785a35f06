"""The measures of chapter 3 on networks whose use of a mark is known by construction."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from bias_tutorial import answer_key
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
    return study.halves(SETTINGS, 3)


def test_halves_share_no_subject_and_marks_are_unrelated_to_disease(data):
    assert not set(data.fit) & set(data.score) and len(data.fit) == len(data.score) == 120
    table = data.cohort.table
    assert (table.groupby(["disease", "morphology", "intensity"]).size() == 30).all()
    off, on = study.twins(data, "intensity")
    assert (off.table["image_id"].str[:5] == on.table["image_id"].str[:5]).all()
    assert (on.table["intensity"] == 1).all() and not on.table["morphology"].any()
    assert not off.table[["morphology", "intensity"]].any().any()


def test_a_network_that_decides_by_the_mark_alone_is_found_out(data):
    off, on = study.twins(data, "intensity")
    images = [torch.from_numpy(cohort.batch(range(len(cohort)))) for cohort in (off, on)]
    seen = [Spread()(part)[:, 0] for part in images]
    network = OneNumber(1000.0, float((seen[0].mean() + seen[1].mean()) / 2)).eval()
    result = study.used(network, "pool", data, off, on, "intensity", 0)
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


def test_a_network_that_ignores_what_it_holds_is_cleared(data):
    result = study.used(OneNumber(0.0).eval(), "pool", data, *study.twins(data, "intensity"), "intensity", 0)
    assert {result[f"{what}_gap"] for what in ("total", "carried", "left", "erased")} == {0.0}
    table = study.block_table({"ignores": OneNumber(0.0).eval()}, data, ("intensity", "random"))
    held = table["auc"].droplevel(["network", "block"])
    assert held["intensity"] > 0.9 and abs(held["random"] - 0.5) < 0.2


def test_auc_by_ranks_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 300), rng.integers(0, 20, 300).astype(float)  # with ties
    assert study._auc(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    value, (low, high) = study._auc_difference(truth, score + 5 * truth, score, 0)
    assert 0 < low < value < high
    assert study._auc_difference(truth, score, score, 0) == (0.0, [0.0, 0.0])


def test_layers_gives_every_number_that_the_claims_name():
    blocks = ["block3", "pool"]
    out = study.layers({**SETTINGS, "blocks": blocks}, 0)
    aucs = {name: value for name, value in out.items() if name.endswith("_auc") and "_dominant" not in name}
    assert len(aucs) > 40 and all(0 <= value <= 1 for value in aucs.values())
    for network, marks in study.CARRIED.items():
        for label in ("disease", "morphology", "intensity"):
            assert out[f"{network}_all_{label}_auc"] == min(out[f"{network}_{b}_{label}_auc"] for b in blocks)
        for mark in marks:
            assert out[f"{network}_pool_{mark}_raised"] == pytest.approx(
                out[f"{network}_pool_{mark}_auc"] - out[f"no_bias_pool_{mark}_auc"], abs=1e-9)
            assert -1 <= out[f"{network}_{mark}_absent"] <= 1
    easier = [out[f"untrained_{b}_intensity_auc"] - out[f"untrained_{b}_morphology_auc"] for b in blocks]
    assert out["untrained_all_easier"] == pytest.approx(min(easier), abs=1e-9)
    assert out["pixels_input_intensity_auc"] > 0.9  # a stretched image is easy to tell
    assert not [name for name, value in out.items() if not np.isfinite(value).all()]


def test_the_published_form_reads_random_labels_and_other_patients_do_not_bear_it_out():
    out = study.in_sample({**SETTINGS, "shape": (84, 72)}, 0)
    assert out["block1_random_in_sample"] > 0.9 > 0.65 > out["block1_random_held_out"]
    for block in ("block1", "pool"):
        assert out[f"{block}_morphology_optimism"] == pytest.approx(
            out[f"{block}_morphology_in_sample"] - out[f"{block}_morphology_held_out"])
    assert out["block1_features"] == 8 * 42 * 36 and out["pool_features"] == 64
    assert out["key_floor_accuracy"] == pytest.approx(0.7306, abs=1e-3)


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
