"""The measures of chapter 4: drawings equal to the simulator's, readers whose answers are known by construction."""

import numpy as np
import pytest
import torch
from torch import nn

from bias_tutorial import answer_key, networks, simulate
from bias_tutorial.mitigation.adversary import BiasHead
from bias_tutorial.simulate.tumour import TumourDesign, tumour
from bias_tutorial.studies import chapter_04 as study
from bias_tutorial.studies import chapter_04_worlds as worlds
from bias_tutorial.studies.chapter_01 import TRAINING, cohort_seed
from bias_tutorial.training import Recipe

SCANS = {"n_patients": 30, "slices": 2, "n_test": 90, "n_probe": 90, "separation": 2.0, "shape": (40, 40),
         "block": "block3", "recipe": {"epochs": 1, "precision": "fp32"}}
ADVERSARY = {"method": "learning_not_to_learn", "select": "groups"}


class RedLine(nn.Module):
    """Calls a scan glioma (place 1) where it is redder than grey, and the first kind elsewhere."""

    def __init__(self):
        super().__init__()
        self.block3 = nn.Identity()
        self.dropout = nn.Dropout(0.0)

    def forward(self, images):
        images = self.block3(images)
        red = ((images[:, 0] - images[:, 1]) > 0.5).flatten(1).any(1).float()
        return torch.stack([1 - red, red, torch.full_like(red, -1)], 1)


@pytest.fixture(scope="module")
def scans():
    return study.scans(SCANS, 3)


@pytest.fixture(scope="module")
def mixed(scans):
    return study.half_lined(scans[1], study.lined(scans[1]), 0)


def test_marked_scans_are_the_simulators(scans):
    design = TumourDesign(slices=2, separation=2.0, split_shares=study.LEARN, rho=0.6)
    expected = tumour(design, 30, cohort_seed(3, TRAINING), (40, 40))
    found = study.marked(scans[0], 0.6)
    assert np.array_equal(found.images, expected.images) and found.table.equals(expected.table)
    assert found.schema == expected.schema and found.meta["scenario"]["rho"] == 0.6


def test_twins_with_a_line_are_the_simulators(scans):
    assert np.array_equal(study.lined(scans[1]).images, simulate.counterfactual(scans[1], glioma_mark=1).images)


def test_lines_dealt_out_by_lot_tell_nothing_about_the_kind(scans, mixed):
    assert (mixed.table.groupby(["kind", "glioma_mark"]).size() == 15).all()
    red = (mixed.images[:, 0] - mixed.images[:, 1]).reshape(90, -1).max(1) > 0.5
    assert (red == (mixed.table["glioma_mark"] == 1)).all()


def test_a_reader_of_lines_is_described_by_kind(scans):
    found = study.by_kind(RedLine(), scans[1], study.lined(scans[1]))
    assert found == {"meningioma": 1.0, "glioma": 0.0, "pituitary": 0.0, "all": pytest.approx(1 / 3), "drawn": 1.0}


def test_a_fresh_probe_finds_a_line_and_no_random_label(mixed):
    line = mixed.table["glioma_mark"]
    assert study.fresh_probe(RedLine(), "block3", mixed, line, 0)["auc"] > 0.8
    by_lot = np.random.default_rng(5).permutation(line)
    assert abs(study.fresh_probe(RedLine(), "block3", mixed, by_lot, 0)["auc"] - 0.5) < 0.25


def test_the_adversary_is_asked_about_the_second_half(mixed):
    class Step:
        def __init__(self, scores):
            self.modules, self.scores = nn.ModuleDict(), scores

        def forward(self, images, labels):
            return None, images

        def read(self, images, labels):
            red = ((images[:, 0] - images[:, 1]) > 0.5).flatten(1).any(1).float()
            return [torch.stack([self.scores[0] - red, self.scores[1] + red], 1)]

    def asked(scores):
        return study.adversary_accuracy(study.Trained(RedLine(), Step(scores), None), mixed, "kind",
                                        mixed.table["glioma_mark"])

    assert asked((0.5, 0.0)) == 1.0
    assert asked((9.0, 0.0)) == 0.5  # says no line, whatever it sees: balanced, so a half


def test_batch_norm_in_training_mode_reads_the_batch():
    network = nn.Sequential(nn.Flatten(), nn.LazyBatchNorm1d(), nn.Linear(3 * 40 * 40, 3))
    network.dropout = nn.Dropout(0.0)
    clean, _ = study.scans({**SCANS, "n_patients": 6, "n_test": 6}, 1)
    network(torch.from_numpy(clean.images))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    study.accuracy(network, clean, training_mode=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_marks_adds_up(scans):
    arms = {"plain": {"method": "plain"}, "lnl": {**ADVERSARY, "only": [0.5]}, "grey": {"method": "grey_input"},
            "warm": {**ADVERSARY, "from": "plain", "only": [0.5]}}
    out = study.marks({**SCANS, "rhos": [0, 0.5], "methods": arms}, 3)
    assert "r0_lnl_accuracy" not in out and out["r0_plain_fall"] == 0.0
    for name in arms:
        kinds = [out[f"r50_{name}_{kind}_accuracy"] for kind in ("meningioma", "glioma", "pituitary")]
        assert out[f"r50_{name}_accuracy"] == pytest.approx(np.mean(kinds))
        assert out[f"r50_{name}_fall"] == pytest.approx(out["r0_plain_accuracy"] - out[f"r50_{name}_accuracy"])
        low, high = out[f"r50_{name}_accuracy_interval"]
        assert low <= out[f"r50_{name}_accuracy"] <= high
    assert out["r50_lnl_accuracy_change"] == pytest.approx(out["r50_lnl_accuracy"] - out["r50_plain_accuracy"])
    assert out["r50_key_accuracy"] == answer_key.one_sided(0.5)["mean"][0]
    assert out["r50_key_own_sight"] <= out["r0_key_own_sight"] + 1e-9


def test_an_arm_may_start_from_another():
    clean, _ = study.scans(SCANS, 4)
    cohort, recipe = study.marked(clean, 0.5), Recipe(epochs=1, precision="fp32", learning_rate=1e-12)
    first = study.train(cohort, "kind", ("glioma_mark",), {"method": "plain"}, Recipe(epochs=2, precision="fp32"), 0)
    again = study.train(cohort, "kind", (), {"method": "plain", "from": "a"}, recipe, 0, {"a": first})
    for name, value in first.network.named_parameters():
        assert torch.allclose(again.network.get_parameter(name), value, atol=1e-6)


def test_settings_of_a_method_hold_whatever_they_do():
    clean, _ = study.scans(SCANS, 4)
    cohort, recipe = study.marked(clean, 0.5), Recipe(epochs=1, precision="fp32", learning_rate=1e-12)
    weights = networks.build("modern", 2, 3, 3, seed=7).state_dict()
    found = study.train(cohort, "kind", ("glioma_mark",), {**ADVERSARY, "warm_start": weights}, recipe, 0)
    for name, value in found.network.named_parameters():
        assert torch.allclose(value, weights[name], atol=1e-6)
    assert "heads" in found.step.modules


@pytest.mark.parametrize("accuracy", [0.4, 0.7, 0.9])
def test_separation_gives_back_the_accuracy(accuracy):
    found = study.separation(accuracy, ("meningioma", "glioma", "pituitary"))
    assert answer_key.one_sided(0, separation=found)["mean"][0] == pytest.approx(accuracy, abs=1e-6)


def test_confounded_adds_up():
    arms = {"plain": {"method": "plain"}, "reversal": ADVERSARY, "group_models": {"method": "group_models"}}
    out = worlds.confounded({"preset": "intensity", "p": 0.7, "n_train": 80, "n_test": 80, "n_probe": 80,
                             "shape": (28, 24), "block": "block3", "methods": arms,
                             "recipe": {"epochs": 2, "precision": "fp32"}}, 2)
    for name in arms:
        assert out[f"{name}_gap"] == pytest.approx((out[f"{name}_tpr_gap"] + out[f"{name}_fpr_gap"]) / 2)
        assert out[f"{name}_decorrelated"] == pytest.approx((out[f"{name}_aligned"] + out[f"{name}_conflicting"]) / 2)
        assert out[f"{name}_gap_size"] == abs(out[f"{name}_gap"]) and 0 <= out[f"{name}_distance"] <= 1
    assert out["reversal_gap_change"] == pytest.approx(out["reversal_gap"] - out["plain_gap"])
    assert out["reversal_probe_beyond"] == out["reversal_bias_accuracy"] - out["reversal_adversary_accuracy"]
    assert "group_models_bias_auc" not in out and out["key_gap"] == pytest.approx(0.205, abs=1e-3)


def test_a_receive_field_is_a_design_of_one_attribute():
    (field,) = worlds.one_bias("receive_field", 0.8).attributes
    assert field.prevalence == pytest.approx((0.2, 0.8)) and field.kind == "receive_field"


def test_the_linear_world_overshoots_under_marginal_independence_alone():
    adversary = {"method": "learning_not_to_learn", "block": "0", "head": "linear", "rate": 5.0, "select": "last",
                 "lambda_": 0.0, "mu": 3.0}
    out = worlds.linear({"p_values": [0.8], "n_train": 1500, "n_test": 1000,
                         "methods": {"plain": {"method": "plain"}, "reversal": adversary,
                                     "reweighing": {"method": "reweighing"}},
                         "recipe": {"epochs": 40, "batch_size": 250, "learning_rate": 0.02, "weight_decay": 0.0,
                                    "precision": "fp32"}}, 0)
    assert out["p80_plain_gap"] == pytest.approx(0.334, abs=0.05)  # the key
    assert out["p80_reversal_gap"] < -0.1 and abs(out["p80_reweighing_gap"]) < 0.05


def test_digits_compare_arms_on_the_same_digits():
    arms = {"plain": {"method": "plain", "select": "last"}, "grey": {"method": "grey_input", "select": "last"}}
    out = worlds.coloured({"variances": [0.05, 0.02], "methods": arms, "recolourings": 2,
                           "recipe": {"epochs": 1, "precision": "fp32"}}, 1)
    assert out["rise_plain"] == pytest.approx(out["v50_plain_accuracy"] - out["v20_plain_accuracy"])
    assert out["change_grey"] == pytest.approx(np.mean([out[f"v{v}_grey_change"] for v in (20, 50)]))
    assert out["change_plain"] == 0


def test_audits_report_every_fault():
    out = study.audits({**SCANS, "slices": 3, "likeness": 0.8, "rho": 0.9, "method": ADVERSARY}, 0)
    assert out["slices_gain"] == pytest.approx(out["slices_own"] - out["slices_other"])
    assert out["batch_norm_drop"] == pytest.approx(out["batch_norm_right"] - out["batch_norm_wrong"])
    assert all(0 <= out[name] <= 1 for name in ("epoch_reported", "epoch_honest", "trained_mark_accuracy"))


def test_a_frozen_adversary_keeps_its_first_weights():
    clean, _ = study.scans(SCANS, 4)
    cohort, recipe = study.marked(clean, 0.5), Recipe(epochs=2, precision="fp32", weight_decay=0.0)
    kept = [study.train(cohort, "kind", ("glioma_mark",), {**ADVERSARY, "rate": rate}, recipe, 0).step.modules
            for rate in (0.0, 1.0)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = BiasHead("conv", (32, 5, 5), 2)
    frozen, trained = (modules["heads"][0] for modules in kept)
    for name, value in first.named_parameters():
        assert torch.equal(frozen.get_parameter(name), value)
        assert not torch.equal(trained.get_parameter(name), value)
