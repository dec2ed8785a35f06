"""Training for many findings: missing labels, repeated rows, weights, early stopping, resuming."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bias_tutorial import multilabel
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.mitigation.resampling import Groups, as_described
from bias_tutorial.multilabel import Rows
from bias_tutorial.networks import MLP, embedding_mlp
from bias_tutorial.simulate.cxr_embeddings import CxrDesign, cxr_embeddings
from bias_tutorial.training import Recipe

TRAIN = np.flatnonzero(np.arange(300) % 4 < 2)  # of cohort()
RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=1e-3, weight_decay=0.0, patience=3, shift=0, precision="fp32")


def cohort(n=300, seed=0, missing=0.2):
    """Two findings, each in one of the first two features; validation and test a quarter each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 2)).astype(float)
    images = rng.normal(size=(n, 6)).astype(np.float32)
    images[:, :2] += 2 * labels - 1
    labels[rng.random((n, 2)) < missing] = np.nan
    ids = [f"{k:04d}" for k in range(n)]
    table = pd.DataFrame({"image_id": ids, "patient_id": ids, "a": labels[:, 0], "b": labels[:, 1],
                          "split": np.array(["train", "train", "validation", "test"])[np.arange(n) % 4]})
    return Cohort(images, table, Schema({"a": (0, 1), "b": (0, 1)}))


def network(seed=0, scores=2):
    torch.manual_seed(seed)
    return MLP(6, (16,), scores, dropout=0.1)


def fit(net, data, **options):
    return multilabel.fit(net, data, **{"recipe": RECIPE, "device": "cpu", "progress": False} | options)


def weights(net):
    return torch.cat([p.detach().ravel() for p in net.parameters()])


def test_the_loss_is_the_mean_over_known_labels():
    scores = torch.tensor([[0.3, -1.0], [2.0, 0.0]])
    labels, known = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[True, False], [True, True]])
    parts = nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    expected = (parts[0, 0] + parts[1, 0] + parts[1, 1]) / 3
    assert multilabel._loss(scores, labels, known, torch.ones(())).item() == pytest.approx(expected.item())
    doubled = multilabel._loss(scores, labels, known, torch.tensor([[2.0], [1.0]])).item()
    assert doubled == pytest.approx((2 * parts[0, 0] + parts[1, 0] + parts[1, 1]).item() / 3)


def test_missing_labels_do_not_count():
    data, nets = cohort(), [network(), network()]
    lost = data.table[["a", "b"]].isna().all(axis=1).to_numpy()
    images = data.images.copy()
    images[lost] = 99.0  # rows without any label are never looked at
    histories = [fit(nets[0], data), fit(nets[1], Cohort(images, data.table, data.schema))]
    pd.testing.assert_frame_equal(*histories)
    assert lost.any() and torch.equal(weights(nets[0]), weights(nets[1]))


def test_it_learns_and_stops_early():
    data, net = cohort(2000), network()
    history = fit(net, data, recipe=Recipe(epochs=60, batch_size=32, learning_rate=3e-3, weight_decay=0.0, patience=2,
                                           shift=0, precision="fp32"))
    assert len(history) < 60 and not history["best"].iloc[-2:].any()
    test = data.split("test")
    probability = multilabel.predict(net, test, "cpu", "fp32")
    assert probability.shape == (len(test), 2) and 0 <= probability.min() and probability.max() <= 1
    for k, name in enumerate("ab"):
        known = test.table[name].notna().to_numpy()
        assert ((probability[:, k] > 0.5) == test.table[name])[known].mean() > 0.8  # .841 at best
    # The weights are those of the best epoch.
    validation = data.split("validation")
    known = validation.table[["a", "b"]].notna().to_numpy()
    truth = validation.table[["a", "b"]].to_numpy()[known]
    said = np.clip(multilabel.predict(net, validation, "cpu", "fp32"), 1e-9, 1 - 1e-9)[known]
    loss = -np.mean(truth * np.log(said) + (1 - truth) * np.log(1 - said))
    assert loss == pytest.approx(history["validation_loss"].min(), abs=1e-5)


def test_equal_seeds_give_equal_weights_and_resuming_changes_nothing(tmp_path):
    data, nets = cohort(), [network(), network(), network()]
    whole = fit(nets[0], data, checkpoint=tmp_path / "whole")
    steps = iter(range(7))  # 5 batches an epoch: the second is broken off

    def stop(net, _):
        if net.training and next(steps, None) is None:
            raise KeyboardInterrupt

    handle = nets[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        fit(nets[1], data, checkpoint=tmp_path / "part")
    handle.remove()
    pd.testing.assert_frame_equal(fit(nets[2], data, checkpoint=tmp_path / "part"), whole)
    assert torch.equal(weights(nets[0]), weights(nets[2]))
    for options, what in (({"targets": ["b", "a"]}, "step .targets a, b; .* here targets b, a; "),
                          ({"sample": Rows(TRAIN[:-1])}, "step"), ({"sample": Rows(TRAIN[::-1])}, "step"),
                          ({"seed": 1}, "seed"),
                          ({"sample": Rows(TRAIN, 1 + np.arange(300).reshape(150, 2))}, "step")):
        with pytest.raises(ValueError, match=f"belongs to another {what}"):
            fit(network(), data, checkpoint=tmp_path / "whole", **options)


def test_repeated_rows_count_as_often_as_they_come():
    """All rows twice, or weights of 2, are the same full-batch step; a row left out is not looked at."""
    data = cohort(80, missing=0)
    train = np.flatnonzero(data.table["split"] == "train")
    full = Recipe(epochs=1, batch_size=200, learning_rate=1e-3, weight_decay=0.0, shift=0, precision="fp32")

    def after(sample=None):
        torch.manual_seed(0)
        net = nn.Linear(6, 2)
        fit(net, data, recipe=full, sample=sample)
        return weights(net)

    some, once = train[::2], np.isin(train, train[::2])[:, None] * np.ones(2)
    torch.testing.assert_close(after(Rows(np.repeat(train, 2))), after())
    torch.testing.assert_close(after(Rows(train, np.full((40, 2), 2.0))), after())
    torch.testing.assert_close(after(Rows(np.concatenate([train, some, some]))), after(Rows(train, 1 + 2 * once)))
    torch.testing.assert_close(after(Rows(train, once)), after(Rows(some)))
    assert not torch.allclose(after(Rows(some)), after(), atol=1e-6)


def test_a_resampling_method_is_a_sample():
    data = cxr_embeddings(CxrDesign.with_causes("representation"), 600, 0, 128)
    sample = as_described(Groups.of(data, ("race",)), seed=1)
    full = Recipe(epochs=1, batch_size=2000, learning_rate=1e-3, weight_decay=0.0, shift=0, precision="fp32")
    nets = []
    for given in (sample, Rows(sample.rows)):
        nets.append(embedding_mlp(128))
        fit(nets[-1], data, recipe=full, sample=given)
    changed = sample.augmented is not None and sample.augmented.any()
    assert changed and not torch.equal(*(weights(net) for net in nets))  # copies are moved, not repeated


def test_the_published_network_learns_simulated_embeddings():
    data = cxr_embeddings(CxrDesign(), 3000, 0, 128)
    net = embedding_mlp(128)
    fit(net, data, recipe=Recipe(epochs=4, batch_size=64, learning_rate=1e-3, weight_decay=0.0, shift=0))
    test = data.split("test")
    probability = multilabel.predict(net, test, "cpu")
    present = test.table["No Finding"] == 1
    assert (probability[present, 8][:, None] > probability[~present, 8]).mean() > 0.85
    assert probability.shape == (len(test), 14)


@pytest.mark.parametrize(("options", "message"), [
    ({"targets": ["a", "c"]}, "the cohort has no target 'c', expected some of a, b"),
    ({"sample": Rows(np.array([2]))}, "1 different rows to learn from are not in the train split"),
    ({"sample": Rows(np.array([0]))}, r"target 'a': the rows of split 'train' have the values \[[01].0\], expected 0"),
    ({"sample": Rows(TRAIN, np.ones(3))}, r"weights of the sample have shape \(3,\), expected \(150, 2\)"),
    ({"sample": Rows(TRAIN, -np.ones((150, 2)))}, "weights must be finite and at least 0, got -1.0"),
    ({"sample": Rows(TRAIN, np.full((150, 2), np.nan))}, "weights must be finite"),
    ({"sample": Rows(TRAIN, np.zeros((150, 2)))}, "all weights of the rows to learn from are 0")])
def test_bad_calls_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), cohort(missing=0), **options)


def test_bad_cohorts_and_networks_are_refused():
    data = cohort()
    with pytest.raises(ValueError, match=r"the network gives scores of shape \(3,\) an image, expected \(2,\)"):
        fit(network(scores=3), data)
    with pytest.raises(ValueError, match=r"target 'a' has the values \[0, 1, 2\], expected 0 and 1"):
        fit(network(), Cohort(data.images, data.table, Schema({"a": (0, 1, 2), "b": (0, 1)})))
    known = data.table["a"].where(data.table["split"] != "validation")
    never = Cohort(data.images, data.table.assign(a=known), data.schema)
    with pytest.raises(ValueError, match=r"target 'a': the rows of split 'validation' have the values \[\]"):
        fit(network(), never)
    nothing = data.table.assign(a=np.nan, b=np.where(data.table["split"] == "validation", np.nan, 1))
    with pytest.raises(ValueError, match=r"target 'a': the rows of split 'train' have the values \[\]"):
        fit(network(), Cohort(data.images, nothing, data.schema))
    broken = network()
    nn.init.constant_(broken.head.bias, np.inf)
    with pytest.raises(FloatingPointError, match="the loss became .* in epoch 1, in the batch of [23]"):
        fit(broken, data)
