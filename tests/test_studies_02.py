"""The measures of chapter 2: what they compute from decisions on twins, checked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from bias_tutorial import answer_key
from bias_tutorial.scenario import preset
from bias_tutorial.simulate import counterfactual
from bias_tutorial.studies import chapter_02 as study
from bias_tutorial.training import predict

SETTINGS = {"n_train": 40, "n_test": 80, "shape": (28, 24), "recipe": {"epochs": 1}}


class Brightness(nn.Module):
    """Score of class 1: by how much the mean of the image exceeds a level."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, images):
        score = 50 * (images.mean((1, 2, 3)) - self.level)
        return torch.stack([torch.zeros_like(score), score], 1)


def decisions(n=4000, seed=0):
    """Severity, class, and the scores of the rewarded reader at p = .7 for both twins of each subject."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    severity = rng.standard_normal(n) + 2 * y - 1
    push = np.log(0.7 / 0.3)
    score = {b: 1 / (1 + np.exp(-(2 * severity + (push if b else -push)))) for b in (0, 1)}
    return y, severity, score


def test_the_rewarded_reader_lands_on_the_key():
    y, severity, score = decisions(40_000)
    out = study.judge(y, score[0], score[1], 0.7, severity > 0)
    key = answer_key.shortcut_curve(0.7).iloc[0]
    for name, column in (("aligned", "aligned"), ("conflicting", "conflicting"), ("same", "overall"),
                         ("decorrelated", "decorrelated"), ("tpr_gap", "tpr_gap"), ("fpr_gap", "fpr_gap")):
        assert out[name] == pytest.approx(key[column], abs=0.01)
        low, high = out[f"{name}_interval"]
        assert low < out[name] < high and high - low < 0.03
    assert out["same_change"] == pytest.approx(key["overall"] - key["wanted"], abs=0.005)
    assert out["conflicting_change"] < -0.1 < 0.05 < out["aligned_change"]
    assert out["auc_with"] == pytest.approx(out["auc_without"], abs=1e-12)  # a shift of all scores moves no rank


def test_weights_of_the_training_distribution():
    y, _, score = decisions(400)
    for p in (0.5, 0.9):
        out = study.judge(y, score[0], score[1], p)
        assert out["same"] == pytest.approx(p * out["aligned"] + (1 - p) * out["conflicting"])
        assert out["decorrelated"] == pytest.approx((out["aligned"] + out["conflicting"]) / 2)
    assert "same_change" not in out


def test_a_training_cohort_has_two_thirds_to_learn_from_and_no_test_split():
    cohort = study.training_cohort(preset("far"), 40, 3, (28, 24))
    assert cohort.table["split"].value_counts().to_dict() == {"train": 40, "validation": 20}


def test_twins_are_scored_as_themselves_and_test_subjects_are_no_training_subjects():
    both, network = preset("both"), Brightness(0.2)
    test, scores = study.scores_on_twins({"it": network}, both, SETTINGS, 5)
    assert set(scores["it"]) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for twin, found in scores["it"].items():
        seen = counterfactual(test, morphology=twin[0], intensity=twin[1])
        assert np.array_equal(found, predict(network, seen)[:, 1])
    for mark in ("morphology", "intensity"):  # decorrelated: half of each class carries each mark
        assert test.table.groupby("disease")[mark].mean().tolist() == [0.5, 0.5]
    train = study.training_cohort(both, 40, 5, (28, 24))
    assert not set(train.table["severity"]) & set(test.table["severity"])


def test_two_biases_by_hand():
    y = np.repeat([0, 1], 40)
    on, off = np.ones(80, bool), np.zeros(80, bool)
    by_intensity = {(0, 0): off, (1, 0): off, (0, 1): on, (1, 1): on}  # says what the intensity says
    by_shape = {(0, 0): off, (0, 1): off, (1, 0): on, (1, 1): on}
    r2 = {"severity": 0.9, "morphology": 0.9, "intensity": 0.9}
    design = preset("both")
    out = study.judge_both(y, by_intensity, (by_shape, by_intensity), design, r2, 0)
    assert (out["aligned"], out["one_agrees"], out["conflicting"], out["decorrelated"]) == (1, 0.5, 0, 0.5)
    assert out["intensity_tpr_gap"] == 1 and out["morphology_tpr_gap"] == 0
    assert out["dominance_tpr"] == 1 and out["dominance_fpr"] == 1
    # alone, shape and intensity weighed the same: all of the dominance is beyond that
    assert out["dominance_tpr_beyond_alone"] == 1
    key = answer_key.solve(design).rewarded.decorrelated.dominance("intensity", "morphology")
    assert out["dominance_tpr_less_key"] == pytest.approx(1 - key["tpr"])
    deaf = {twin: off for twin in by_shape}
    out = study.judge_both(y, by_intensity, (deaf, by_intensity), design, r2, 0)
    assert out["dominance_tpr_beyond_alone"] == 0  # intensity alone did just as much


def test_a_curve_is_deterministic_and_its_growth_is_the_difference_of_its_ends():
    settings = {"preset": "intensity", "p_values": [0.5, 0.6, 0.9], **SETTINGS, "n_train": 120,
                "recipe": {"epochs": 4, "precision": "fp32"}}
    out = study.curve(settings, 901)
    assert out["growth"] == pytest.approx(out["p90_tpr_gap"] - out["p60_tpr_gap"])
    assert out == study.curve(settings, 901)
    assert out != study.curve(settings, 902)
