"""Methods against bias: one calling form, weights and batches by group, models by group, grey images."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import Interrupting, _one_thread, check_same  # noqa: F401
from torch import nn

from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.mitigation import METHODS, BalancedBatches, ByGroup, Grey, GroupModels, Plain, Reweighing
from bias_tutorial.mitigation.reweighing import weights
from bias_tutorial.networks import CNN
from bias_tutorial.training import Recipe, Step, Task, fit, load, predict

SHORT = Recipe(epochs=3, batch_size=16, shift=1, precision="fp32")


def images_of(n=96, p=0.75, seed=0, channels=3):
    """Small images: disease brightens the left half, the mark reddens the right; they agree with probability p."""
    rng, row = np.random.default_rng(seed), np.arange(n)
    disease = row % 2
    mark = np.where(rng.random(n) < p, disease, 1 - disease)
    images = 0.3 * rng.random((n, channels, 10, 8))
    images[:, :, :, :4] += 0.4 * disease[:, None, None, None]
    images[:, 0, :, 4:] += 0.4 * mark[:, None, None]
    table = pd.DataFrame({"image_id": [f"i{k}" for k in row], "patient_id": row, "disease": disease, "mark": mark,
                          "site": np.where(row // 4 % 2, "B", "A"),
                          "split": np.where(row < 2 * n // 3, "train", "validation")})
    return Cohort(images.astype(np.float32), table, Schema({"disease": (0, 1)}, {"mark": (0, 1), "site": ("A", "B")}))


def features_of(n=4000, p=0.8, seed=0):
    """Severity N(+-1, 1) and the mark, two features an image: the world of the answer key, seen perfectly."""
    rng = np.random.default_rng(seed)
    disease = np.arange(n) % 2
    mark = np.where(rng.random(n) < p, disease, 1 - disease)
    features = np.column_stack([rng.standard_normal(n) + 2 * disease - 1, mark]).astype(np.float32)
    table = pd.DataFrame({"image_id": np.arange(n), "patient_id": np.arange(n), "disease": disease, "mark": mark,
                          "split": np.where(np.arange(n) < 0.75 * n, "train", "validation")})
    return Cohort(features, table, Schema({"disease": (0, 1)}, {"mark": (0, 1)}))


def small(seed=0, channels=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CNN((4, 6), channels=channels)


def run(method, data=None, recipe=SHORT, bias="mark", seed=0, first=0, **more):
    data = images_of() if data is None else data
    network = method.wrap(small(first), data, bias)
    return network, method.fit(network, data, "disease", bias, recipe, seed, "cpu", progress=False, **more)


def short(name):
    """A method of that name whose block and head fit the small network."""
    return METHODS[name](**({"block": "block1"} if name == "learning_not_to_learn" else {}))


def state(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def started(step, data, recipe=SHORT, network=None):
    """A step that is ready for batches, without a run."""
    rows = (np.flatnonzero(data.table["split"] == split) for split in ("train", "validation"))
    step.start(Task(network or small(), data, "disease", recipe, 0, "cpu", *rows,
                    torch.tensor(data.table["disease"].to_numpy())))
    return step


# ---------------------------------------------------------------------- one calling form
@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_called_alike_and_repeats_itself(name):
    data = images_of()
    first = run(short(name), data)
    network, history = first
    assert {"epoch", "train_loss", "validation_loss", "best"} <= set(history) and len(history) >= SHORT.epochs
    assert np.isfinite(history.select_dtypes("number")).all().all() and history["best"].any()
    probability = predict(network, data, "cpu")
    assert probability.shape == (96, 2) and probability.sum(1) == pytest.approx(1, abs=1e-5)
    check_same(first, run(short(name), data), data)
    assert not run(short(name), data, seed=1)[1].equals(history)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_what_is_easy(name):
    data = images_of(p=0.6)
    network, _ = run(short(name), data, Recipe(15, 16, learning_rate=0.01, shift=0, precision="fp32"))
    held = data.split("validation")
    right = predict(network, held, "cpu").argmax(1) == held.table["disease"]
    assert right.mean() > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_ends_as_if_it_was_not(name, tmp_path):
    data, path = images_of(), tmp_path / "run.pt"
    whole = run(short(name), data)

    def stop():
        raise KeyboardInterrupt

    late = 14 if name == "group_models" else 11
    with pytest.raises(KeyboardInterrupt):
        run(short(name), replace(data, images=Interrupting(data.images, late, stop)), checkpoint=path)
    assert list(tmp_path.iterdir())
    check_same(whole, run(short(name), data, checkpoint=path), data)


def test_plain_is_the_plain_loop_to_the_bit():
    data, network = images_of(), small()
    history = fit(network, data, recipe=SHORT, device="cpu", progress=False)
    check_same((network, history), run(Plain(), data), data)
    check_same((network, history), run(Plain(), data, bias=()), data)


@pytest.mark.parametrize(("change", "method"), [
    ({}, short("adversarial_unlearning")), ({"bias": "site"}, Reweighing()), ({}, Reweighing("loss")), ({}, Plain())])
def test_a_checkpoint_of_another_method_is_refused(change, method, tmp_path):
    run(Reweighing(), checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="belongs to another step"):
        run(method, checkpoint=tmp_path / "run.pt", **change)


def test_a_checkpoint_of_other_bias_labels_is_refused(tmp_path):
    data = images_of()
    run(Reweighing(), data, checkpoint=tmp_path / "run.pt")
    other = replace(data, table=data.table.assign(mark=data.table["mark"].to_numpy()[::-1]))
    with pytest.raises(ValueError, match="belongs to another step"):
        run(Reweighing(), other, checkpoint=tmp_path / "run.pt")


# ---------------------------------------------------------------------- which epoch
def test_the_groups_rule_is_as_computed_by_hand():
    data = images_of()
    validation = np.flatnonzero(data.table["split"] == "validation")[:7]
    table = data.table.drop(index=[k for k in data.table.index[64:] if k not in validation]).reset_index(drop=True)
    table.loc[64:, "disease"], table.loc[64:, "mark"] = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]
    data = Cohort(data.images[:71], table, data.schema)
    losses = np.array([0.1, 0.3, 1.0, 0.7, 0.2, 0.4, 0.6])
    right = torch.tensor(np.exp(-losses))
    scores = torch.stack([1 - right, right], 1).log()
    scores[3:] = scores[3:].flip(1)
    expected = 3 / 7 * (0.2 + 1.0) / 2 + 4 / 7 * (0.7 + 0.4) / 2
    assert started(Plain("groups").step("mark"), data).validation_loss(scores) == pytest.approx(expected)
    assert started(Reweighing("loss").step("mark"), data).validation_loss(scores) == pytest.approx(losses.mean())
    table.loc[67, "mark"] = 0  # the healthy of the validation split have one group only
    data = Cohort(data.images, table, data.schema)
    expected = 3 / 7 * (0.2 + 1.0) / 2 + 4 / 7 * losses[3:].mean()
    assert started(Plain("groups").step("mark"), data).validation_loss(scores) == pytest.approx(expected)


def test_last_takes_the_last_epoch_whatever_its_loss():
    recipe = Recipe(8, 16, learning_rate=0.05, patience=1, shift=0, precision="fp32")
    network, history = run(Plain("last"), recipe=recipe)
    assert history["best"].tolist() == 7 * [False] + [True]
    held = images_of().split("validation")
    right = predict(network, held, "cpu", "fp32")[np.arange(len(held)), held.table["disease"]]
    assert -np.log(right).mean() == pytest.approx(history["validation_loss"].iloc[-1], rel=1e-4)


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(ValueError, match="select must be loss, groups or last, got 'test'"):
        Plain("test")


# ---------------------------------------------------------------------- reweighing and balanced batches
def test_weights_as_computed_by_hand_for_unequal_classes():
    classes = np.array([1] * 4 + [0] * 8)
    groups = np.array([1, 1, 1, 0] + [1] * 2 + [0] * 6)
    found = weights(classes, groups)
    for y, a, expected in ((1, 1, 4 * 5 / (12 * 3)), (1, 0, 4 * 7 / 12), (0, 1, 8 * 5 / (12 * 2)),
                           (0, 0, 8 * 7 / (12 * 6))):
        assert found[(classes == y) & (groups == a)] == pytest.approx(expected)


@pytest.mark.parametrize("values", [(2, 2), (3, 4), (4, 2)])
def test_under_the_weights_class_and_group_are_independent(values):
    rng = np.random.default_rng(0)
    classes = rng.choice(values[0], 900, p=np.arange(1, values[0] + 1) / sum(range(values[0] + 1)))
    groups = np.where(rng.random(900) < 0.5, classes % values[1], rng.integers(0, values[1], 900))
    table = pd.DataFrame({"y": classes, "a": groups, "w": weights(classes, groups)})
    joint = table.pivot_table(values="w", index="y", columns="a", aggfunc="sum") / 900
    expected = np.outer(table["y"].value_counts(normalize=True).sort_index(),
                        table["a"].value_counts(normalize=True).sort_index())
    assert joint.to_numpy() == pytest.approx(expected) and table["w"].mean() == pytest.approx(1)


@pytest.mark.parametrize(("method", "on_mark", "tolerance"), [
    (Plain(), 2 * np.log(4), 0.5), (Reweighing(), 0.0, 0.3), (BalancedBatches(), 0.0, 0.3)])
def test_the_known_optimum_of_a_linear_world_is_reached(method, on_mark, tolerance):
    """Log odds are 2 d + 2 logit(p) mark on the training data, and 2 d where mark and disease are made independent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Linear(2, 2)
    method.fit(network, features_of(), bias="mark", device="cpu", progress=False,
               recipe=Recipe(30, 200, learning_rate=0.1, weight_decay=0.0, patience=30, precision="fp32"))
    slope = (network.weight[1] - network.weight[0]).detach().numpy()
    assert slope == pytest.approx([2.0, on_mark], abs=tolerance)


def test_balanced_batches_hold_equally_many_of_each_cell():
    data = images_of()
    step = started(BalancedBatches().step(("mark", "site")), data, replace(SHORT, batch_size=20))
    batches = step.batches(np.random.default_rng(0), 1)
    train = data.table.iloc[:64]
    for batch in batches:
        counts = train.iloc[batch].groupby(["disease", "mark", "site"]).size()
        assert len(counts) == 8 and set(counts) == {2}
    assert len(batches) == 4  # 16 images a batch for 64 images
    drawn = pd.Series(np.concatenate(batches)).value_counts()
    for _, cell in train.groupby(["disease", "mark", "site"]):
        times = drawn.reindex(cell.index, fill_value=0)
        assert times.max() - times.min() <= 1  # nothing comes again before all have come
    again = step.batches(np.random.default_rng(0), 1)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not np.array_equal(batches[0], step.batches(np.random.default_rng(1), 1)[0])


def test_a_batch_too_small_for_all_cells_is_refused():
    with pytest.raises(ValueError, match="batch_size is 3, expected at least 4: one image of every class"):
        run(BalancedBatches(), recipe=replace(SHORT, batch_size=3))


@pytest.mark.parametrize("method", [Reweighing(), BalancedBatches()])
def test_an_empty_cell_is_refused_and_named(method):
    data = images_of()
    table = data.table.assign(mark=np.where(data.table["disease"] == 0, 0, data.table["mark"]))
    with pytest.raises(ValueError, match=r"no training row has disease = 0 and mark = 1: no weight"):
        run(method, Cohort(data.images, table, data.schema))
    odd = (table["disease"] == 1) & (data.table["mark"] == 0)
    table = data.table.assign(site=np.where(odd, "A", data.table["site"]))
    with pytest.raises(ValueError, match=r"no training row has disease = 1 and mark = 0, site = 'B'"):
        run(method, Cohort(data.images, table, data.schema), bias=("mark", "site"))


# ---------------------------------------------------------------------- bias labels that cannot be used
NEED_LABELS = [name for name in METHODS if name not in ("plain", "grey_input")]


@pytest.mark.parametrize("name", NEED_LABELS)
def test_bias_labels_that_cannot_be_used_are_named(name):
    data = images_of()
    free = Schema(data.schema.targets)
    with pytest.raises(ValueError, match="no column 'scanner' with bias labels; its attributes are mark, site"):
        run(short(name), data, bias="scanner")
    with pytest.raises(ValueError, match="name one or several columns of the table, bias="):
        run(short(name), data, bias=())
    with pytest.raises(ValueError, match="bias 'mark' is 1 in all 64 training rows: there is nothing to learn"):
        run(short(name), Cohort(data.images, data.table.assign(mark=1), free))
    table = data.table.assign(mark=data.table["mark"].where(data.table.index > 2))
    with pytest.raises(ValueError, match="bias 'mark' is missing in 3 of 64 rows of split 'train'"):
        run(short(name), Cohort(data.images, table, data.schema))


def test_labels_of_the_validation_split_are_needed_only_to_select_by_them():
    data = images_of()
    table = data.table.assign(mark=data.table["mark"].where(data.table["split"] == "train"))
    data = Cohort(data.images, table, Schema(data.schema.targets))
    assert len(run(Reweighing("loss"), data)[1]) == 3
    with pytest.raises(ValueError, match="bias 'mark' is missing in 32 of 32 rows of split 'validation'"):
        run(Reweighing(), data)


# ---------------------------------------------------------------------- grey
def test_grey_is_the_luminance_in_every_channel():
    network, images = small().eval(), torch.rand(3, 3, 10, 8)
    grey = images[:, :1] * 0.299 + images[:, 1:2] * 0.587 + images[:, 2:] * 0.114
    with torch.no_grad():
        assert torch.allclose(Grey(network)(images), network(grey.repeat(1, 3, 1, 1)), atol=1e-6)
        hue = images + torch.tensor([0.587, -0.299, 0.0]).reshape(1, 3, 1, 1)  # another colour, as bright
        assert torch.allclose(Grey(network)(images), Grey(network)(hue), atol=1e-6)
        assert not torch.allclose(network(images), network(hue), atol=1e-3)


def test_grey_refuses_images_without_colour_and_networks_without_glasses():
    with pytest.raises(ValueError, match="the 3 channels red, green and blue, these images have 1"):
        Grey(small(channels=1))(torch.rand(2, 1, 10, 8))
    with pytest.raises(ValueError, match=r"GreyInput trains a network from its wrap\(network, cohort\), got CNN"):
        METHODS["grey_input"]().fit(small(), images_of())


# ---------------------------------------------------------------------- group models
def test_every_image_is_judged_by_the_model_of_its_group():
    data = images_of()
    network, history = run(GroupModels(), data, bias=("mark", "site"))
    assert list(dict.fromkeys(history["model"])) == ["all", "mark=0, site=A", "mark=0, site=B", "mark=1, site=A",
                                                     "mark=1, site=B"]
    found = predict(network, data, "cpu")
    for (mark, site), model in zip(network.groups, network.models, strict=True):
        own = (data.table["mark"] == mark) & (data.table["site"] == site)
        assert found[own] == pytest.approx(predict(model, data.subset(own), "cpu"), abs=1e-5)
        assert not same(state(model), state(network.shared))
    assert np.array_equal(predict(network, data.subset([5, 2, 90]), "cpu").argmax(1), found[[5, 2, 90]].argmax(1))


def test_a_group_model_learns_from_its_group_alone():
    data = images_of()
    other = replace(data, images=np.where((data.table["mark"] == 1).to_numpy()[:, None, None, None], 0.5,
                                          data.images).astype(np.float32))
    one, two = (run(GroupModels(joint=False), each)[0] for each in (data, other))
    assert same(state(one.models[0]), state(two.models[0])) and not same(state(one.models[1]), state(two.models[1]))
    assert same(state(one.shared), state(small()))  # nothing was trained on all


def test_group_models_learn_the_class_shares_of_their_group():
    """At best they do what the best user of the shortcut does: log odds 2 d + logit(p) with the mark, - without."""
    data = features_of()
    method = GroupModels()
    network = method.wrap(nn.Linear(2, 2), data, "mark")
    method.fit(network, data, bias="mark", device="cpu", progress=False,
               recipe=Recipe(30, 200, learning_rate=0.1, weight_decay=0.0, patience=30, precision="fp32"))
    probe = np.array([[0.0, 0.0], [0.0, 1.0]], np.float32)
    table = data.table.iloc[:2].assign(mark=[0, 1])
    probability = predict(network, Cohort(probe, table, data.schema), "cpu")
    assert np.log(probability[:, 1] / probability[:, 0]) == pytest.approx([-np.log(4), np.log(4)], abs=0.35)


def test_groups_without_a_class_or_a_model_are_named(tmp_path):
    data = images_of()
    table = data.table.assign(mark=np.where(data.table["disease"] == 0, 0, data.table["mark"]))
    with pytest.raises(ValueError, match="the model of mark=1: split 'train': no row has disease = 0"):
        run(GroupModels(joint=False), Cohort(data.images, table, data.schema))
    network, _ = run(GroupModels(), data, checkpoint=tmp_path / "run.pt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.all.pt", "run.mark=0.pt", "run.mark=1.pt"]
    assert same(load(tmp_path / "run.mark=1.pt")["best"], state(network.models[1]))
    unknown = Cohort(data.images, data.table.assign(mark=np.nan), data.schema)
    with pytest.raises(ValueError, match="no model for a row with mark=nan, expected mark=0 or mark=1"):
        predict(network, unknown, "cpu")
    with pytest.raises(ValueError, match=r"for the same bias \('site',\), got ByGroup"):
        GroupModels().fit(network, data, bias="site")
    assert isinstance(network, ByGroup)


# ---------------------------------------------------------------------- what the loop asks of a step
def test_a_part_that_the_optimizer_does_not_hold_is_named():
    class Forgetful(Step):
        def start(self, task):
            super().start(task)
            self.modules["adversary"] = nn.Linear(3, 2)

    with pytest.raises(ValueError, match="'weight' of module 'adversary' is missing from the optimizer, so it would"):
        fit(small(), images_of(), recipe=SHORT, device="cpu", progress=False, step=Forgetful())
