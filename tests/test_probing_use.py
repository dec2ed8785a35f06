"""Interventions on networks whose use of the bias is set by hand, and directions that are known."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from bias_tutorial import networks
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.mitigation.erasure import leace
from bias_tutorial.probing.activations import Activations
from bias_tutorial.probing.directions import bias_on_disease, con_score, margin_ratio
from bias_tutorial.probing.pca import GramPCA, gram
from bias_tutorial.probing.use import Effect, erase, fit_eraser, log_odds, run_from, swap

N, TRAIN = 240, np.arange(160)
BIAS = np.arange(N) % 2
cpu = {"device": "cpu"}


def images(shape=(3, 4), bias=BIAS, seed=0):
    """Subjects in pairs that differ in bias alone, so that it is related to nothing: disease at pixel 0, bias at 1."""
    pixels = np.repeat(np.random.default_rng(seed).normal(scale=0.4, size=(N // 2, np.prod(shape))), 2, axis=0)
    pixels[:, 0] *= 3
    pixels[:, 1] = 0.7 * np.asarray(bias)
    return pixels.reshape(N, 1, *shape).astype(np.float32)


class Linear(nn.Module):
    """Log odds ``2 disease + use * pixel 1``: a convolution with set weights, and a linear layer on its output."""

    def __init__(self, use, shape=(3, 4), skip=False):
        super().__init__()
        self.block = (nn.Conv2d if len(shape) == 2 else nn.Conv3d)(1, 2, 1)
        self.flat, self.head, self.skip = nn.Flatten(), nn.Linear(2 * int(np.prod(shape)), 2), skip
        with torch.no_grad():
            self.block.weight[:] = torch.tensor([1.0, -0.5]).reshape(self.block.weight.shape)
            self.block.bias[:] = torch.tensor([30.0, -0.2])  # a large mean must not drown what is small
            self.head.weight[:], self.head.bias[:] = 0, torch.tensor([1.0, -59.0])
            self.head.weight[1, 0] = 2  # first channel, pixel 0
            self.head.weight[1, 1 + np.prod(shape)] = -2 * use  # second channel, pixel 1
        self.eval()

    def forward(self, x):
        return self.head(self.flat(self.block(x) + x if self.skip else self.block(x)))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
@pytest.mark.parametrize("use", [1.5, 0.3, 0.0, -1.0])
def test_erasing_the_bias_takes_off_just_what_the_network_makes_of_it(use, shape):
    network, x = Linear(use, shape), images(shape)
    for keep in (0.99, 1.0):
        eraser = fit_eraser(network, "block", x, BIAS, TRAIN, keep=keep, **cpu)
        effect = erase(network, "block", x, eraser, **cpu)  # rows that it was fitted on and others
        assert effect.change == pytest.approx(-use * 0.7 * (BIAS - 0.5), abs=2e-4)
        assert log_odds(effect.after)[BIAS == 1] == pytest.approx(log_odds(effect.after)[BIAS == 0], abs=4e-4)
    assert effect.before == pytest.approx(network(torch.from_numpy(x)).detach().numpy(), abs=1e-4)
    assert np.abs(effect.change).max() == pytest.approx(abs(use) * 0.35, abs=2e-4)


@pytest.mark.parametrize("use", [1.5, 0.0])
def test_swapping_the_twin_in_moves_the_output_by_the_use_of_the_bias(use):
    network, x, twins = Linear(use), images(), images(bias=1 - BIAS)
    whole = swap(network, "block", x, twins, **cpu)
    assert whole.change == pytest.approx(use * 0.7 * (1 - 2 * BIAS), abs=1e-4)
    assert whole.after == pytest.approx(network(torch.from_numpy(twins)).detach().numpy(), abs=1e-4)
    sicker = twins.copy()
    sicker[:, 0, 0, 0] += 1
    assert swap(network, "block", x, sicker, **cpu).change == pytest.approx(whole.change + 2, abs=1e-4)
    eraser = fit_eraser(network, "block", x, BIAS, TRAIN, **cpu)
    along = swap(network, "block", x, sicker, eraser, **cpu)
    assert along.change == pytest.approx(whole.change, abs=2e-4)  # only the bias is taken from the twin


def test_what_goes_around_the_block_stays():
    network, x, twins = Linear(1.0, skip=True), images(), images(bias=1 - BIAS)
    plain = [log_odds(network(torch.from_numpy(part)).detach().numpy()) for part in (x, twins)]
    change = swap(network, "block", x, twins, **cpu).change
    assert change == pytest.approx(0.7 * (1 - 2 * BIAS), abs=1e-4)
    assert plain[1] - plain[0] == pytest.approx(-change, abs=1e-4)  # the skip adds 1 to the block's -.5


def test_erasing_in_components_is_erasing_in_features():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).eval()
    rng = np.random.default_rng(0)
    x = images(seed=1) + rng.normal(size=(N, 1, 3, 4)).astype(np.float32)
    label = (x[:, 0, 0, 0] + x[:, 0, 1, 1] + rng.normal(size=N) > 0).astype(int)
    plain = partial(leace, shrinkage=False)
    features = np.concatenate(list(Activations(network, x, "1", **cpu).slices()), axis=1)
    direct = plain(features, label, TRAIN)(features)
    eraser = fit_eraser(network, "1", x, label, TRAIN, plain, keep=1.0, **cpu)
    assert eraser(features) == pytest.approx(direct, abs=1e-4) and np.abs(direct - features).max() > 0.1
    after = erase(network, "1", x, eraser, **cpu).after
    head = network[3]
    assert after == pytest.approx(direct @ head.weight.detach().numpy().T + head.bias.detach().numpy(), abs=1e-4)
    ready = GramPCA.fit(gram(Activations(network, x, "1", **cpu)), rng.permutation(TRAIN), keep=1.0)
    for other in (fit_eraser(network, "1", x, label, TRAIN, plain, pca=ready, **cpu),
                  fit_eraser(network, "1", x, label, TRAIN, plain, keep=1.0, memory=4 * 160 * 5, batch_size=7, **cpu)):
        assert other(features) == pytest.approx(direct, abs=1e-4)  # components made before; features in four slices


def test_only_training_rows_are_looked_at():
    network, x, label = Linear(1.0), images(), BIAS.copy()
    first = fit_eraser(network, "block", x, label, TRAIN, **cpu)
    x[160:], label[160:] = np.nan, 1
    second = fit_eraser(network, "block", x, label, np.arange(N) < 160, **cpu)
    assert all(np.array_equal(getattr(first, part), getattr(second, part)) for part in ("mean", "read", "write"))


def test_a_cohort_and_a_real_network():
    network = networks.build("modern", seed=1).eval()
    rng = np.random.default_rng(0)
    x = rng.random((N, 1, 32, 32), dtype=np.float32)
    x[:, :, :8] += 0.3 * BIAS[:, None, None, None]
    table = pd.DataFrame({"image_id": np.arange(N), "patient_id": np.arange(N), "split": "test", "stretch": BIAS})
    cohort = Cohort(x, table, Schema(attributes={"stretch": (0, 1)}))
    for block in ("block2", "pool"):
        eraser = fit_eraser(network, block, cohort, table["stretch"], TRAIN, keep=1.0, **cpu)
        features = np.concatenate(list(Activations(network, cohort, block, **cpu).slices()), axis=1).astype(float)
        covariance = [(BIAS[TRAIN] - 0.5) @ f[TRAIN] / 160 for f in (features, eraser(features))]
        assert np.abs(covariance[1]).max() < 1e-4 * np.abs(covariance[0]).max()
        effect = erase(network, block, cohort, eraser, **cpu)
        assert effect.after == pytest.approx(erase(network, block, x, eraser, batch_size=50, **cpu).after, abs=1e-5)
        assert np.abs(effect.change).max() > 1e-4
    twins = Cohort(x[::-1].copy(), table, cohort.schema)
    swapped = swap(network, "block2", cohort, twins, **cpu)
    assert swapped.after == pytest.approx(swapped.before[::-1], abs=1e-5)


def test_run_from_gives_rows_and_leaves_no_trace():
    network, x = Linear(1.0), images()
    seen = []

    def by_row(output, rows):
        seen.append(rows)
        return output + torch.as_tensor(rows, dtype=torch.float32).reshape(-1, 1, 1, 1)

    outputs = run_from(network, "block", x, by_row, batch_size=64, **cpu)
    assert [len(rows) for rows in seen] == [64, 64, 64, 48] and np.concatenate(seen).tolist() == list(range(N))
    plain = network(torch.from_numpy(x)).detach().numpy()
    assert log_odds(outputs) - log_odds(plain) == pytest.approx(np.zeros(N), abs=1e-3)  # 2 - 2 = 0 in both channels
    unused = Linear(0.0)
    outputs = run_from(unused, "block", x, by_row, **cpu)
    assert log_odds(outputs - unused(torch.from_numpy(x)).detach().numpy()) == pytest.approx(2 * np.arange(N), abs=1e-3)
    with pytest.raises(ZeroDivisionError):
        run_from(network, "block", x, lambda output, rows: 1 / 0, **cpu)
    assert network(torch.from_numpy(x)).detach().numpy() == pytest.approx(plain)  # no hook is left, also after an error
    assert not network.block._forward_hooks


def test_bad_input_is_refused():
    network, x = Linear(1.0), images()
    eraser = fit_eraser(network, "block", x, BIAS, TRAIN, **cpu)
    with pytest.raises(ValueError, match="no block 'blok', expected one of block"):
        erase(network, "blok", x, eraser, **cpu)
    with pytest.raises(ValueError, match="training mode"):
        swap(Linear(1.0).train(), "block", x, x, **cpu)
    with pytest.raises(ValueError, match=r"the change gives shape \(64, 2, 1\), block 'block' \(64, 2, 3, 4\)"):
        run_from(network, "block", x, lambda output, rows: output[..., 0, :1], **cpu)
    hole = torch.where(torch.arange(N) == 65, torch.nan, 0.0).reshape(-1, 1, 1, 1)
    with pytest.raises(ValueError, match="NaN or infinite values for the image in row 65"):
        run_from(network, "block", x, lambda output, rows: output + hole[rows], **cpu)
    with pytest.raises(ValueError, match="label 'stretch' is 1 in all 160 rows to fit on"):
        fit_eraser(network, "block", x, pd.Series(np.ones(N, int), name="stretch"), TRAIN, **cpu)
    with pytest.raises(ValueError, match="components are of 240 rows that are not the 160 rows of train"):
        fit_eraser(network, "block", x, BIAS, TRAIN, pca=GramPCA.fit(gram(x.reshape(N, -1)), np.arange(N)), **cpu)
    with pytest.raises(ValueError, match="240 images and 100 twins"):
        swap(network, "block", x, x[:100], **cpu)
    pooled = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    with pytest.raises(ValueError, match="for images, .* for their twins"):
        swap(pooled, "0", x, images((4, 4)), **cpu)
    with pytest.raises(ValueError, match=r"outputs have shape \(4, 3\)"):
        _ = Effect(np.zeros((4, 3)), np.zeros((4, 3))).change


# ---------------------------------------------------------------------- directions
def population(n=8000, p=0.5, seed=0):
    rng = np.random.default_rng(seed)
    disease = rng.integers(0, 2, n)
    bias = np.where(rng.random(n) < p, disease, 1 - disease)
    return 2 * disease - 1 + rng.normal(size=n), disease, bias


def test_margins_of_the_optimal_user_of_a_shortcut_lie_on_the_answer_key():
    severity, disease, bias = population()
    shift = np.log(0.7 / 0.3)
    found = margin_ratio(2 * severity + shift * (2 * bias - 1), disease, bias)
    key = (2 - shift) / (2 + shift)
    assert key == pytest.approx(0.40, abs=0.005) and found["low"] < key < found["high"]
    assert found["ratio"] == pytest.approx(key, abs=0.03) and found["high"] - found["low"] < 0.06
    assert found["aligned"] == pytest.approx(2 + shift, abs=0.05) and found["n"] == 8000
    other = margin_ratio(40 - 3 * severity - 1.5 * shift * (2 * bias - 1), disease, bias)  # turned, in another unit
    assert other["ratio"] == pytest.approx(found["ratio"])
    assert other["aligned"] == pytest.approx(1.5 * found["aligned"])
    severity, disease, bias = population(p=0.7, seed=1)
    confounded = margin_ratio(2 * severity + shift * (2 * bias - 1), disease, bias, draws=2)
    assert confounded["ratio"] == pytest.approx(key, abs=0.05)


def test_margins_without_use_and_with_nothing_else():
    severity, disease, bias = population()
    none = margin_ratio(severity, disease, np.array(["no", "yes"])[bias])
    assert none["low"] < 1 < none["high"] and none["ratio"] == pytest.approx(1, abs=0.06)
    assert margin_ratio(severity + 3 * bias, disease, bias)["ratio"] < 0
    few = [part[:1000] for part in (severity, disease, bias)]
    wider = margin_ratio(*(np.repeat(part, 4) for part in few), patients=np.arange(4000) // 4)  # images add nothing
    alone = margin_ratio(*few)
    assert wider["ratio"] == pytest.approx(alone["ratio"]) and wider["low"] == pytest.approx(alone["low"])


@pytest.mark.parametrize(("change", "message"), [
    ({"disease": np.ones(40, int)}, "label 'disease' is 1 in all"),
    ({"bias": np.arange(40) % 3}, "label 'bias' has 3 values"),
    ({"bias": np.arange(40) % 2}, "20, 0, 0 and 20 rows"),
    ({"values": np.full(40, np.nan)}, "finite"),
    ({"values": np.zeros(40)}, "margin 0"),
])
def test_margins_refuse(change, message):
    known = {"values": np.arange(40.0), "disease": np.arange(40) % 2, "bias": np.arange(40) // 2 % 2}
    with pytest.raises(ValueError, match=message):
        margin_ratio(**known | change)


@pytest.mark.parametrize("p", [0.5, 0.9])
@pytest.mark.parametrize("cosine", [0.0, 0.5, -0.8, 1.0])
def test_the_angle_between_bias_and_disease_is_found_in_any_units(cosine, p):
    _, disease, bias = population(p=p)
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(8000, 4))
    scores[:, 0] += 0.5 * disease + cosine * 0.5 * bias
    scores[:, 1] += np.sqrt(1 - cosine**2) * 0.5 * bias
    found = bias_on_disease(scores, disease, bias, np.arange(6000))
    assert found == pytest.approx(cosine, abs=0.1)
    turned = scores @ rng.normal(size=(4, 4)) + 3
    turned[6000:] = 1e6
    assert bias_on_disease(turned, disease, bias, np.arange(8000) < 6000) == pytest.approx(found, abs=1e-6)
    assert bias_on_disease(scores, disease, 1 - bias, np.arange(6000)) == pytest.approx(-found)


def test_angles_refuse():
    _, disease, bias = population(n=60)
    with pytest.raises(ValueError, match="disease and bias are the same"):
        bias_on_disease(np.random.default_rng(0).normal(size=(60, 3)), disease, 1 - disease, np.arange(60))
    with pytest.raises(ValueError, match="fewer components than rows"):
        bias_on_disease(np.zeros((60, 58)), disease, bias, np.arange(60))
    with pytest.raises(ValueError, match="label 'bias' is 1 in all 60 training rows"):
        bias_on_disease(np.zeros((60, 3)), disease, np.ones(60, int), np.arange(60))


def test_con_score_is_the_product_it_is_said_to_be():
    severity, _, bias = population(n=2000)
    features = np.column_stack([severity, bias + np.random.default_rng(2).normal(size=2000), np.zeros(2000)])
    model = LogisticRegression(C=np.inf, tol=1e-8).fit(features, bias)
    variance = model.decision_function(features).var()
    d2 = 1 - log_loss(bias, model.predict_proba(features)) / log_loss(bias, np.full(2000, bias.mean()))
    for weights, cosine in (([0, 2.0, 0], 1), ([3.0, 0, 0], 0), ([1.0, -1, 0], -np.sqrt(0.5))):
        found = con_score(features, bias, np.array([np.ones(3), np.ones(3) + weights]))
        own = model.coef_[0] @ weights / np.linalg.norm(model.coef_) / np.linalg.norm(weights)
        assert found["cosine"] == pytest.approx(own, abs=1e-3) and own == pytest.approx(cosine, abs=0.1)
        assert found["r2"] == pytest.approx(variance / (variance + np.pi**2 / 3), abs=1e-3)
        assert found["con_score"] == pytest.approx(found["r2"] * abs(found["cosine"]))
        assert found["d2"] == pytest.approx(d2, abs=1e-4)
        assert found["con_score_d2"] == pytest.approx(found["d2"] * abs(found["cosine"]))
        assert con_score(features, bias, np.array(weights)).equals(found)


def test_con_score_of_random_labels_is_high_where_it_is_published_and_nothing_held_out():
    rng = np.random.default_rng(0)
    features, label, weights = rng.normal(size=(400, 80)), rng.integers(0, 2, 400), rng.normal(size=80)
    published = con_score(features, label, weights)
    honest = con_score(features, label, weights, np.arange(200), np.arange(200, 400))
    assert published["r2"] > 0.2 and published["d2"] > 0.1 and published["con_score_d2"] > 0
    assert honest["r2"] > 0.3 and honest["d2"] < 0 and honest["con_score_d2"] == 0


@pytest.mark.parametrize(("change", "message"), [
    ({"weights": np.zeros(3)}, "not all 0"), ({"weights": np.ones(4)}, r"weights \(4,\)"),
    ({"features": np.full((60, 3), np.inf)}, "finite"), ({"train": np.arange(30)}, "give train and test, or neither"),
    ({"train": np.arange(31), "test": np.arange(30, 60)}, "1 rows are in train and in test, the first is row 30"),
    ({"label": pd.Series(np.ones(60), name="scanner")}, "label 'scanner' is 1.0 in all"),
])
def test_con_score_refuses(change, message):
    features = np.random.default_rng(0).normal(size=(60, 3))
    known = {"features": features, "label": np.arange(60) % 2, "weights": np.ones(3)}
    with pytest.raises(ValueError, match=message):
        con_score(**known | change)
