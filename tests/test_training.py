"""The training loop: it learns, repeats itself to the bit, and refuses bad input."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bias_tutorial import batches, environment, networks
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.training import Recipe, fit, load, predict, shifted

SHAPE = (28, 24)
SHORT = Recipe(epochs=4, batch_size=16)
VALUES = {2: ("healthy", "sick"), 3: ("healthy", "early", "late")}


class Interrupting:
    """Images that act at the k-th time that rows are asked for."""

    def __init__(self, images, at, act):
        self.images, self.shape, self.left, self.act = images, images.shape, at, act

    def __getitem__(self, rows):
        self.left -= 1
        if self.left == 0:
            self.act()
        return self.images[rows]


def cohort(n=72, shape=SHAPE, step=0.25, classes=2, seed=0, **columns):
    """Two thirds to train on, one third to validate on; each class brighter than the one before."""
    rng, place = np.random.default_rng(seed), np.arange(n) % classes
    images = 0.2 * rng.random((n, 1, *shape)) + step * place.reshape(-1, *[1] * (1 + len(shape)))
    table = pd.DataFrame({"image_id": [f"i{k}" for k in range(n)], "patient_id": np.arange(n),
                          "split": np.where(np.arange(n) < 2 * n // 3, "train", "validation"),
                          "disease": np.array(VALUES[classes], dtype=object)[place],
                          "sex": np.where(np.arange(n) // classes % 2, "F", "M")})
    return Cohort(images.astype(np.float32), table.assign(**columns),
                  Schema({"disease": VALUES[classes]}, {"sex": ("F", "M")}))


def run(data, recipe=SHORT, seed=0, first=0, **more):
    network = networks.build("modern", len(data.images.shape) - 2, classes=len(data.schema.targets["disease"]),
                             seed=first)
    return network, fit(network, data, recipe=recipe, seed=seed, device="cpu", progress=False, **more)


def check_same(one, other, data):
    """Weights, history and predictions agree in every bit."""
    (a, history), (b, again) = one, other
    pd.testing.assert_frame_equal(history, again, check_exact=True)
    state = b.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in a.state_dict().items())
    assert np.array_equal(predict(a, data, "cpu"), predict(b, data, "cpu"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """So small images gain nothing by more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------- it learns, and repeats itself
@pytest.mark.parametrize(("shape", "classes", "channels_last"), [
    (SHAPE, 2, torch.channels_last), (SHAPE, 3, torch.channels_last), ((18, 20, 16), 2, torch.channels_last_3d)])
def test_an_easy_task_is_learned(shape, classes, channels_last):
    data, test = cohort(120, shape, classes=classes), cohort(60, shape, classes=classes, seed=1)
    network, history = run(data, Recipe(epochs=10, batch_size=16, shift=1))
    probability = predict(network, test, "cpu")
    assert probability.shape == (60, classes) and probability.sum(1) == pytest.approx(1, abs=1e-5)
    assert (probability.argmax(1) == np.arange(60) % classes).mean() > 0.9
    assert list(history) == ["epoch", "train_loss", "validation_loss", "best"]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert network.block2[0].weight.is_contiguous(memory_format=channels_last)
    two = replace(data, images=np.repeat(data.images, 2, axis=1))  # with one channel, every order is the same
    images = batches.read(two, np.arange(4), "cpu")
    assert images.is_contiguous(memory_format=channels_last) and np.array_equal(images, two.images[:4])


def test_features_are_trained_on_too():
    data = cohort(shape=())
    network = nn.Linear(1, 2)
    fit(network, data, recipe=Recipe(epochs=40, learning_rate=0.1), device="cpu", progress=False)
    assert (predict(network, data, "cpu").argmax(1) == np.arange(72) % 2).mean() > 0.9


def test_a_seed_decides_everything_and_torchs_own_state_stays():
    data = cohort()
    torch.manual_seed(5)
    state, drawn = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one = run(data)
    assert torch.equal(torch.random.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], drawn)
    torch.rand(3)
    check_same(one, run(data), data)
    for other in ({"seed": 1}, {"first": 1}):
        assert not one[1].equals(run(data, **other)[1])


def test_order_and_dropout_follow_seed_and_epoch():
    drawn = []
    for seed, epoch in ((0, 1), (0, 1), (1, 1), (0, 2)):
        with batches.seeded(seed, epoch) as rng:
            drawn.append((rng.permutation(50).tolist(), nn.functional.dropout(torch.ones(50)).tolist()))
    assert drawn[0] == drawn[1] and all(drawn[0][k] != other[k] for other in drawn[2:] for k in (0, 1))


def test_dropout_and_batch_norm_learn_in_training_only():
    network, modes = networks.build("modern"), []
    network.register_forward_hook(lambda module, _, __: modes.append((module.training, torch.is_grad_enabled())))
    fit(network, cohort(), recipe=SHORT, device="cpu", progress=False)
    assert modes == [(False, False)] + 4 * [*3 * [(True, True)], (False, False)]  # the first asks how many scores
    assert network.block1[1].num_batches_tracked <= 12 and not network.training


def test_the_test_split_is_not_looked_at():
    data = cohort(90)
    table = data.table.assign(split=np.repeat(["train", "validation", "test"], [48, 24, 18]))
    images = data.images.copy()
    images[72:] = np.nan  # reading them would raise
    check_same(run(Cohort(images, table, data.schema)), run(Cohort(images[:72], table[:72], data.schema)), cohort())


def test_rows_without_the_target_are_left_out():
    data = cohort(90)
    table = data.table.assign(split=np.where(np.arange(90) < 60, "train", "validation"))
    table.loc[[0, 7, 31, 66, 89], "disease"] = np.nan
    images = data.images.copy()
    images[[0, 7, 31, 66, 89]] = np.nan
    network, history = run(Cohort(images, table, data.schema))
    known = table["disease"].notna().to_numpy()
    assert np.isfinite(history["validation_loss"]).all()
    check_same((network, history), run(Cohort(images[known], table[known], data.schema)), data)


def test_early_stopping_gives_back_the_best_weights():
    data = cohort(step=0.02)
    network, history = run(data, Recipe(epochs=12, batch_size=16, patience=2, learning_rate=0.03, shift=0))
    best = history["validation_loss"].idxmin()
    assert len(history) == best + 3 < 12 and history["best"].iloc[best] and not history["best"].iloc[best + 1:].any()
    expected = [loss < min(history["validation_loss"][:k], default=np.inf)
                for k, loss in enumerate(history["validation_loss"])]
    assert history["best"].tolist() == expected
    scores = predict(network, data.split("validation"), "cpu")
    right = scores[np.arange(24), np.arange(48, 72) % 2]
    assert -np.log(right).mean() == pytest.approx(history["validation_loss"].min(), rel=1e-5)


# ---------------------------------------------------------------------- parts of the loop
@pytest.mark.parametrize("size", [2, 3, 5, 16, 32])
def test_no_batch_is_left_with_one_image(size):
    for n in range(2, 70):
        parts = batches.in_batches(np.arange(n), size)
        assert np.array_equal(np.concatenate(parts), np.arange(n))
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 2 and max(sizes) - min(sizes) <= 1
        assert max(sizes) <= size or (size, max(sizes), n % 2) == (2, 3, 1)


def test_pairs_of_an_odd_number_of_images_are_trained_on():
    data = cohort(39).subset(np.arange(1, 39))
    assert len(data.split("train")) == 25 and np.isfinite(run(data, Recipe(1, 2))[1]["train_loss"]).all()


@pytest.mark.parametrize("shape", [(9, 7), (8, 6, 7)])
def test_shifts_are_whole_pixels_with_edges_repeated(shape):
    images = torch.rand(40, 2, *shape, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    moved = shifted(images, 2, np.random.default_rng(0))
    assert torch.equal(images, kept) and moved.shape == images.shape and moved.dtype == images.dtype
    found = set()
    for image, result in zip(images, moved, strict=True):
        moves = [m for m in np.ndindex(*[5] * len(shape))
                 if torch.equal(result, image[(slice(None), *np.ix_(*[np.clip(np.arange(s) + k - 2, 0, s - 1)
                                                                      for s, k in zip(shape, m, strict=True)]))])]
        assert len(moves) == 1
        found.add(moves[0])
    assert {m[0] for m in found} == {m[-1] for m in found} == set(range(5))  # every move, along every axis
    assert torch.equal(moved, shifted(images, 2, np.random.default_rng(0)))
    assert not torch.equal(moved, shifted(images, 2, np.random.default_rng(1)))


def test_shifts_that_move_nothing():
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    images, features = torch.rand(4, 1, 5, 6), torch.rand(4, 9)
    assert torch.equal(shifted(images, 0, rng), images) and torch.equal(shifted(features, 3, rng), features)
    assert rng.bit_generator.state == before
    flat = torch.full((4, 1, 5, 6), 0.5)
    assert torch.equal(shifted(flat, 3, rng), flat)


def test_a_shift_larger_than_the_image_repeats_its_edge():
    images = torch.arange(12.0).reshape(1, 1, 3, 4)
    seen = {tuple(shifted(images, 9, np.random.default_rng(k)).flatten().tolist()) for k in range(200)}
    assert (0.0,) * 12 in seen and (11.0,) * 12 in seen
    assert np.isfinite(run(cohort(), Recipe(1, shift=40))[1]["train_loss"]).all()


@pytest.mark.parametrize(("asked", "here", "kind"), [
    ("auto", "bf16", torch.bfloat16), ("auto", "fp32", torch.float32), ("bf16", "fp32", torch.bfloat16),
    ("fp32", "bf16", torch.float32)])
def test_precision_is_by_capability_or_on_request(asked, here, kind, monkeypatch):
    places, kinds = [], set()
    monkeypatch.setattr(environment, "precision", lambda where: (places.append(where), (here, "stated"))[1])
    network = networks.build("modern")
    network.block1[0].register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    history = fit(network, cohort(), recipe=Recipe(2, 16, precision=asked), device="cpu", progress=False)
    probability = predict(network, cohort(), "cpu", precision=asked)
    assert kinds == {kind} and set(places) <= {"cpu"} and bool(places) == (asked == "auto")
    assert np.isfinite(history["validation_loss"]).all() and probability.dtype == np.float32
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_the_rate_falls_along_half_a_cosine(monkeypatch):
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step",
                        lambda self, *a: rates.append(self.param_groups[0]["lr"]) or step(self, *a))
    run(cohort(), Recipe(4, 48, learning_rate=0.01))
    assert rates == pytest.approx([0.01, 0.01 * (1 + 0.5**0.5) / 2, 0.005, 0.01 * (1 - 0.5**0.5) / 2])


def test_an_unknown_precision_is_refused_in_prediction_too():
    with pytest.raises(ValueError, match="precision must be auto, fp32 or bf16, got 'half'"):
        predict(networks.build("modern"), cohort(), "cpu", precision="half")


def test_predictions_do_not_depend_on_batches_or_on_labels():
    data = cohort()
    network, _ = run(data, Recipe(1))
    table = data.table.assign(disease=np.nan, split="test")
    one = predict(network, Cohort(data.images, table, data.schema), "cpu", batch_size=7)
    assert one == pytest.approx(predict(network, data, "cpu"), abs=1e-5)
    assert predict(network, data.subset([3]), "cpu").shape == (1, 2)


# ---------------------------------------------------------------------- bad input
def changed(column, value, split):
    data = cohort()
    return Cohort(data.images, data.table.assign(**{column: data.table[column].mask(data.table["split"] == split,
                                                                                    value)}), data.schema)


@pytest.mark.parametrize(("split", "column", "kept", "missing"), [
    ("train", "disease", "sick", "healthy"), ("validation", "disease", "sick", "healthy"), ("train", "sex", "M", "F")])
def test_a_class_or_group_without_rows_is_refused(split, column, kept, missing):
    with pytest.raises(ValueError, match=f"split '{split}': no row has {column} = '{missing}'; every class and every"):
        run(changed(column, kept, split))


def test_a_group_may_lack_in_validation_and_moves_nothing():
    check_same(run(changed("sex", "M", "validation")), run(cohort()), cohort())


def test_a_class_whose_rows_lack_only_the_target_is_refused():
    data = cohort()
    table = data.table.assign(disease=data.table["disease"].mask(data.table["disease"] == "sick"))
    with pytest.raises(ValueError, match="split 'train': no row has disease = 'sick'"):
        run(Cohort(data.images, table, data.schema))


def test_an_empty_validation_split_is_refused():
    with pytest.raises(ValueError, match="split 'validation': no row"):
        run(cohort(split="train"))
    with pytest.raises(ValueError, match="split 'train': no row"):
        run(cohort(split="test"))


def test_patients_in_two_splits_are_refused_before_training():
    with pytest.raises(ValueError, match="patient '5' is in several splits: train, validation"):
        cohort(patient_id=np.r_[np.arange(71), 5])


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="the cohort has no target 'sex', expected one of disease"):
        run(cohort(), target="sex")


@pytest.mark.parametrize(("row", "value"), [(0, np.nan), (3, np.inf), (50, np.nan)])
def test_an_image_that_is_not_finite_is_named(row, value, tmp_path):
    data = cohort()
    data.images[row, 0, 2, 3] = value
    with pytest.raises(ValueError, match=f"image 'i{row}' holds NaN or infinite values"):
        run(data)
    with pytest.raises(ValueError, match=f"image 'i{row}' holds NaN or infinite values"):
        run(data, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


@pytest.mark.parametrize(("rate", "when"), [(float("inf"), "epoch 1, in the batch of 16"), (1e30, "epoch 1, in the")])
def test_a_rate_that_is_too_high_names_epoch_and_images(rate, when, tmp_path):
    with pytest.raises(FloatingPointError, match=rf"the loss became (nan|inf) in {when}.*images that begins with i\d+, "
                                                 r"i\d+, i\d+; a smaller learning_rate"):
        run(cohort(), replace(SHORT, learning_rate=rate), checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path):
    data, path = cohort(), tmp_path / "run.pt"
    network = networks.build("modern")
    images = Interrupting(data.images, 9, lambda: nn.init.constant_(network.head.weight, float("nan")))
    with pytest.raises(FloatingPointError, match="the loss became nan in epoch 2, in the batch of 16 images"):
        fit(network, replace(data, images=images), recipe=SHORT, device="cpu", progress=False, checkpoint=path)
    found = load(path)
    assert len(found["history"]) == 1 and all(torch.isfinite(v).all() for v in found["best"].values())
    check_same(run(data), run(data, checkpoint=path), data)


def test_a_validation_loss_that_is_not_finite_is_noticed():
    network = networks.build("modern")
    network.eval = lambda: (nn.init.constant_(network.head.bias, float("inf")), nn.Module.eval(network))[1]
    with pytest.raises(FloatingPointError, match="in epoch 1, in the batch of .*i"):
        fit(network, cohort(), recipe=Recipe(1, 64), device="cpu", progress=False)


@pytest.mark.parametrize(("scores", "classes"), [(1, 2), (3, 2), (2, 3)])
def test_another_number_of_scores_is_refused_at_the_door(scores, classes):
    network = networks.build("modern", classes=scores)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ValueError, match=rf"scores of shape \({scores},\) an image, expected \({classes},\): one for "
                                         r"each value of 'disease', \['healthy'"):
        fit(network, cohort(classes=classes), device="cpu", progress=False)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_scores_that_are_no_vector_are_refused():
    with pytest.raises(ValueError, match=r"scores of shape \(1, 28, 2\) an image, expected \(2,\)"):
        fit(nn.Linear(24, 2), cohort(), device="cpu", progress=False)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("epochs", 0, "epochs must be a whole number of at least 1, got 0"), ("epochs", 2.5, "epochs .* got 2.5"),
    ("batch_size", 1, "batch_size must be a whole number of at least 2, got 1"), ("batch_size", -8, "batch_size"),
    ("patience", 0, "patience must be a whole number of at least 1, got 0"), ("shift", -1, "shift .* got -1"),
    ("shift", 0.5, "shift must be a whole number of pixels"), ("learning_rate", 0, "learning_rate must be above 0"),
    ("learning_rate", -1e-3, "got -0.001"), ("learning_rate", float("nan"), "got nan"),
    ("weight_decay", -0.1, "weight_decay at least 0, got .* -0.1"), ("weight_decay", float("nan"), "nan"),
    ("precision", "fp16", "precision must be auto, fp32 or bf16, got 'fp16'"), ("epochs", "3", "epochs .* got '3'"),
])
def test_an_impossible_recipe_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{field: value})
