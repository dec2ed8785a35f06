"""Methods with an adversary: gradients against hand-computed ones, who moves when, and worlds with a known optimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_mitigation import SHORT, features_of, images_of, run, same, small, started, state
from test_training import _one_thread  # noqa: F401
from torch import nn

from bias_tutorial import training
from bias_tutorial.mitigation import AdversarialUnlearning, LearningNotToLearn, Plain
from bias_tutorial.mitigation.adversarial import confusion
from bias_tutorial.mitigation.adversary import BiasHead, bias_loss, kept
from bias_tutorial.mitigation.learning_not_to_learn import entropy, learn_not_to_learn
from bias_tutorial.networks import CNN
from bias_tutorial.training import Recipe

LNL = LearningNotToLearn(block="block1", lambda_=0.5, mu=0.3)


class Turns:
    """An optimizer that notes, at every step, which of the given parameters have a gradient."""

    def __init__(self, optimizer, parts):
        self.optimizer, self.parts, self.moved = optimizer, parts, []

    def zero_grad(self, **how):
        self.optimizer.zero_grad(**how)

    def step(self):
        before = {name: [p.detach().clone() for p in part] for name, part in self.parts.items()}
        self.optimizer.step()
        self.moved.append({name for name, part in self.parts.items()
                           if any(not torch.equal(p, b) for p, b in zip(part, before[name], strict=True))})


def one_batch(method, network, bias="mark", n=16):
    """A step that is ready, an optimizer that notes who moves, and a batch."""
    data = images_of()
    step = started(method.step(bias), data, network=network)
    network.train()
    step.modules.train()
    parts = {"f": list(network.block1.parameters()), "g": [*network.block2.parameters(), *network.head.parameters()],
             "h": list(step.modules.parameters())}
    turns = Turns(torch.optim.AdamW(step.parameter_groups(), 1e-2, weight_decay=0.05), parts)
    step.batches(np.random.default_rng(0), 1)
    return step, turns, torch.from_numpy(data.images[:n]), np.arange(n)


# ---------------------------------------------------------------------- terms by hand
def test_entropy_and_confusion_as_computed_by_hand():
    even, odd = torch.zeros(2, 2), torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float32)
    of_odd = (0.75 * np.log(4 / 3) + 0.25 * np.log(4) + np.log(2)) / 2
    assert float(entropy([even])) == pytest.approx(np.log(2))
    assert float(entropy([odd])) == pytest.approx(of_odd)
    assert float(entropy([even, odd])) == pytest.approx((np.log(2) + of_odd) / 2)
    assert float(entropy([torch.zeros(3, 8)])) == pytest.approx(np.log(8))
    of_odd = ((np.log(4 / 3) + np.log(4)) / 2 + np.log(2)) / 2
    assert float(confusion([odd])) == pytest.approx(of_odd)
    assert float(confusion([even, odd])) == pytest.approx(np.log(2) + of_odd)  # each has its own: they add up
    assert float(bias_loss([odd, even], [torch.tensor([0, 1])] * 2)) == pytest.approx(
        (np.log(4 / 3) + np.log(2)) / 2 + np.log(2))


def test_gradients_as_computed_by_hand():
    """f = w x, g(f) = f, h(f) = (0, v f): everything is a product, so every gradient can be written down."""
    w, v, u = (torch.tensor(value, requires_grad=True) for value in (0.5, 1.5, -0.7))
    x, y, lambda_, mu = 2.0, 1.0, 0.4, 0.25
    feature = (w * x).reshape(1, 1)
    loss = ((u * feature - y) ** 2 / 2).sum()
    scores, of_bias = learn_not_to_learn(loss, feature, lambda seen: [torch.cat([0 * seen, v * seen], 1)], [v],
                                         [torch.tensor([1])], lambda_, mu)
    f, s = 0.5 * x, 1.5 * 0.5 * x
    p = 1 / (1 + np.exp(-s))
    of_entropy = -s * p * (1 - p)  # dH/ds of a coin with log odds s
    assert float(of_bias.detach()) == pytest.approx(-np.log(p)) and float(scores[0][0, 1].detach()) == s
    assert float(u.grad) == pytest.approx((-0.7 * f - y) * f)  # g: the target alone
    assert float(v.grad) == pytest.approx((p - 1) * f)  # h: its own loss alone, not reversed, no entropy
    reversed_ = -mu * (p - 1) * 1.5
    assert float(w.grad) == pytest.approx(((-0.7 * f - y) * -0.7 + reversed_ - lambda_ * of_entropy * 1.5) * x)


@pytest.mark.parametrize("head", ["conv", "pooled", "linear"])
@pytest.mark.parametrize(("lambda_", "mu"), [(0.5, 0.3), (0.5, 0.0), (0.0, 0.3), (0.0, 0.0)])
def test_one_pass_gives_the_gradients_of_two(head, lambda_, mu):
    """Against the published form: a pass for target and entropy, another for the reversed bias loss."""
    method = replace(LNL, head=head, lambda_=lambda_, mu=mu, conditional=True)
    network = small()
    step, turns, images, rows = one_batch(method, network, ("mark", "site"))
    labels, biases, f = step.labels(rows), step.biases(rows), turns.parts["f"]
    torch.manual_seed(0)
    loss, features = step.forward(images, labels)
    learn_not_to_learn(loss, features, lambda seen: step.read(seen, labels), turns.parts["h"], biases, lambda_, mu)
    got = {name: [p.grad.clone() for p in part] for name, part in turns.parts.items()}
    torch.manual_seed(0)  # the same dropout
    loss, features = step.forward(images, labels)
    first = torch.autograd.grad(loss - lambda_ * entropy(step.read(features, labels)), [*f, *turns.parts["g"]])
    _, features = step.forward(images, labels)
    second = torch.autograd.grad(bias_loss(step.read(features, labels), biases), [*f, *turns.parts["h"]])
    expected = {"f": [a - mu * b for a, b in zip(first[:len(f)], second[:len(f)], strict=True)],
                "g": first[len(f):], "h": second[len(f):]}
    for name, values in expected.items():
        for value, wanted in zip(got[name], values, strict=True):
            assert torch.allclose(value, wanted, rtol=1e-5, atol=1e-6), name


# ---------------------------------------------------------------------- who moves, and who does not
def test_all_parts_move_in_one_step():
    step, turns, images, rows = one_batch(LNL, small())
    report = step(images, rows, turns)
    assert turns.moved == [{"f", "g", "h"}]
    assert list(report) == ["train_loss", "bias_loss", "entropy", "mark_accuracy"]


def test_unlearning_takes_three_turns():
    method = AdversarialUnlearning(block="block1", head="conv")
    step, turns, images, rows = one_batch(method, small())
    step(images, rows, turns)
    assert turns.moved == [{"f", "g"}, {"h"}, {"f"}]
    assert all(head.training for head in step.modules["heads"])


def test_the_three_turns_are_those_of_three_plain_steps():
    """The same with everything written out: Adam for each part, the predictor in evaluation mode in the third turn."""
    method, networks = AdversarialUnlearning(block="block1", head="conv", weight=0.7), [small(), small()]
    (step, turns, images, rows), (other, *_) = (one_batch(method, network) for network in networks)
    torch.manual_seed(0)
    step(images, rows, turns)
    network, h, labels, mark = networks[1], other.modules["heads"][0], other.labels(rows), other.biases(rows)[0]
    encoder, rest, head = (torch.optim.AdamW(part, 1e-2, weight_decay=0.05) for part in (
        list(network.block1.parameters()), [*network.block2.parameters(), *network.head.parameters()], h.parameters()))
    torch.manual_seed(0)
    features = network.block1(images)
    scores = network.head(network.dropout(network.pool(network.block2(features))))
    nn.functional.cross_entropy(scores, labels).backward()
    encoder.step(), rest.step()
    h.zero_grad()
    nn.functional.cross_entropy(h(features.detach(), labels), mark).backward()
    head.step()
    encoder.zero_grad()
    (0.7 * -h.eval()(network.block1(images), labels).log_softmax(1).mean()).backward()
    encoder.step()
    for one, two in ((networks[0], network), (step.modules["heads"][0], h)):
        for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6), name


def test_an_adversary_that_only_looks_on_changes_nothing():
    data = images_of()
    plain, history = run(Plain(), data)
    method = replace(LNL, lambda_=0.0, mu=0.0)
    step = method.step("mark")
    network = small()
    watched = training.fit(network, data, "disease", SHORT, 0, "cpu", None, False, step)
    assert same(state(network), state(plain))
    assert watched[list(history)].equals(history)
    first = started(method.step("mark"), data).modules
    assert not same(state(first), state(step.modules))  # it did learn meanwhile


@pytest.mark.parametrize("method", [LNL, AdversarialUnlearning(block="block1")])
def test_a_rate_of_0_keeps_the_predictor_as_it_was(method):
    data = images_of()
    step = replace(method, rate=0.0).step("mark")
    training.fit(small(), data, "disease", SHORT, 0, "cpu", None, False, step)
    first = dict(started(method.step("mark"), data).modules.named_parameters())
    assert all(torch.equal(value, first[name]) for name, value in step.modules.named_parameters())


@pytest.mark.parametrize(("lambda_", "mu", "least", "most"), [
    (0.0, 0.0, 0.0, 0.1), (1.0, 0.0, 0.65, 0.7), (0.0, 1.0, 0.25, np.inf)])
def test_reversal_and_entropy_work_against_the_predictor(lambda_, mu, least, most):
    """Features that the target asks nothing of: entropy brings the predictor to ln 2, reversal only turns around it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        f, h = nn.Linear(1, 1, bias=False), nn.Linear(1, 2)
    nn.init.constant_(f.weight, 1.0)
    optimizer = torch.optim.SGD([*f.parameters(), *h.parameters()], 0.1)
    bias = torch.arange(40) % 2
    x = (2.0 * bias - 1).reshape(-1, 1)
    for _ in range(60):
        optimizer.zero_grad()
        features = f(x)
        _, of_bias = learn_not_to_learn(0 * features.sum(), features, lambda seen: [h(seen)], list(h.parameters()),
                                        [bias], lambda_, mu)
        optimizer.step()
    assert least < float(of_bias.detach()) < most


# ---------------------------------------------------------------------- bias predictors
@pytest.mark.parametrize(("kind", "shape"), [("conv", (4, 5, 6)), ("conv", (4, 3, 4, 5)), ("pooled", (4, 5, 6)),
                                             ("pooled", (4,)), ("linear", (4, 3, 4, 5)), ("linear", (4,))])
@pytest.mark.parametrize("classes", [0, 3])
def test_heads_read_features_of_any_form_and_the_class_if_told(kind, shape, classes):
    head, features = BiasHead(kind, shape, 5, classes).eval(), torch.rand(2, *shape)
    with torch.no_grad():
        scores = head(features, torch.tensor([0, 1]))
        other = head(features, torch.tensor([2, 1]))
    assert scores.shape == (2, 5) and torch.equal(scores[1], other[1])
    assert torch.equal(scores[0], other[0]) == (classes == 0)


def test_there_is_a_predictor_for_every_bias_and_it_learns_what_there_is_to_see():
    recipe = Recipe(10, 16, learning_rate=0.02, shift=0, precision="fp32")
    _, history = run(replace(LNL, lambda_=0.0, mu=0.0), bias=("mark", "site"), recipe=recipe)
    assert list(history)[4:] == ["bias_loss", "entropy", "mark_accuracy", "site_accuracy"]
    assert history["mark_accuracy"].iloc[-1] > 0.9  # the mark is there to be seen, the site is not
    assert history["site_accuracy"].iloc[-1] < 0.8


def test_blocks_and_heads_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="no block 'layer2'; it has block1, block2, pool, dropout, head"):
        run(replace(LNL, block="layer2"))
    with pytest.raises(ValueError, match=r"a conv head reads .*, this block gives \(6,\); take an earlier block"):
        run(replace(LNL, block="pool"))
    network = CNN((4, 6), channels=3)
    network.block2 = nn.Sequential(network.block2, network.block2[1])
    with pytest.raises(ValueError, match="block 'block2.0.1' is called 2 times in a pass, expected 1"):
        replace(LNL, block="block2.0.1").fit(network, images_of(), bias="mark", device="cpu", progress=False)


@pytest.mark.parametrize(("method", "field", "value", "message"), [
    (LNL, "lambda_", -0.1, "lambda_ must be a finite number of at least 0, got -0.1"),
    (LNL, "mu", float("nan"), "mu must be a finite number"), (LNL, "rate", -1, "rate must be"),
    (LNL, "ramp", 1.5, "ramp must be a whole number of epochs of at least 0, got 1.5"),
    (LNL, "head", "deep", "head must be one of conv, pooled, linear, got 'deep'"),
    (AdversarialUnlearning(), "weight", float("inf"), "weight must be a finite number")])
def test_impossible_settings_are_refused(method, field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(method, **{field: value})


def test_a_pass_that_fails_leaves_no_hook():
    network = small()
    with pytest.raises(RuntimeError), kept(network, "block1"):
        network(torch.rand(2, 5, 10, 8))
    assert not network.block1._forward_hooks


# ---------------------------------------------------------------------- schedule and start
def test_weights_rise_over_the_ramp_which_does_not_count():
    step = started(replace(LNL, ramp=4).step("mark"), images_of(), replace(SHORT, epochs=7))
    seen = []
    for epoch in range(1, 8):
        step.batches(np.random.default_rng(0), epoch)
        seen.append((step.strength, step.counts(epoch)))
    assert seen == [(0.0, False), (0.25, False), (0.5, False), (0.75, False), *3 * [(1.0, True)]]
    _, history = run(replace(LNL, ramp=3), recipe=replace(SHORT, epochs=5, patience=1))
    assert history["best"].tolist()[:4] == [False, False, False, True]
    with pytest.raises(ValueError, match="ramp is 3 of 3 epochs, expected fewer"):
        run(replace(LNL, ramp=3))


def test_a_warm_start_begins_from_the_given_weights():
    weights = state(small(7))
    check = run(replace(LNL, warm_start=weights))[0], run(LNL, first=7)[0]
    assert same(*map(state, check)) and not same(state(run(LNL)[0]), state(check[0]))


# ---------------------------------------------------------------------- a linear world
@pytest.mark.parametrize(("method", "on_mark", "tolerance"), [
    (LearningNotToLearn(lambda_=0.0, mu=0.0), np.log(4), 0.3),  # the log odds, 2 d + 2 logit(p) mark
    (LearningNotToLearn(lambda_=0.0, mu=3.0, conditional=True), 0.0, 0.25),  # given class, d says nothing of the mark
    (LearningNotToLearn(lambda_=0.0, mu=3.0), -1.2, 0.4),  # -(E[d | mark] - E[d | no mark]) = -2 (2p - 1)
])
def test_the_known_optimum_of_a_linear_world_is_reached(method, on_mark, tolerance):
    """One feature d + c mark at p = .8: c is what the target alone, or independence of the mark, asks for."""
    on_severity, found = slopes(method)
    assert found / on_severity == pytest.approx(on_mark, abs=tolerance) and on_severity > 0.8


@pytest.mark.parametrize("method", [LearningNotToLearn(lambda_=3.0, mu=0.0), AdversarialUnlearning(weight=1.0)])
def test_odds_that_must_be_even_make_all_features_small(method):
    """What the entropy term, and the confusion loss, do in a linear world: they blunt, they do not take the mark out.

    Near independence their pull on the mark fades with the square of what the predictor reads, that on the size of
    the feature does not fade faster; the reversed gradient fades with its first power.
    """
    assert abs(slopes(method)[0]) < 0.5 < 1.5 < slopes(LearningNotToLearn(lambda_=0.0, mu=0.0))[0]


def slopes(method):
    """Of the log odds of disease on severity and on the mark, for a network with one feature between."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 2))
    replace(method, block="0", head="linear", rate=5.0, select="last").fit(
        network, features_of(3000), bias="mark", device="cpu", progress=False,
        recipe=Recipe(60, 250, learning_rate=0.02, weight_decay=0.0, precision="fp32"))
    return ((network[1].weight[1] - network[1].weight[0]) @ network[0].weight).tolist()
