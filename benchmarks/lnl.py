"""Learning Not to Learn in one pass against the published loop of two passes: seconds a step, gradients, outcome.

``python -m benchmarks.lnl`` writes ``lnl.json`` and ``lnl.md``. Ours is the step that ``LearningNotToLearn`` takes in
``training.fit``, with all that it notes. The published loop (Kim et al. 2019, github.com/feidfoe/learning-not-to-learn)
is written below as its authors describe it, on our optimizer: a pass in which features and classifier step on the
target loss and the entropy term, then another with the new weights, in which the predictors step on the bias loss and
the features on its reversed gradient. Both sides have the same network, predictors, batch and precision, take turns,
and count by their medians over the rounds.
"""

import copy
import statistics
import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from bias_tutorial import networks
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.mitigation import LearningNotToLearn, Plain
from bias_tutorial.mitigation.adversary import AdversaryStep, kept
from bias_tutorial.mitigation.learning_not_to_learn import learn_not_to_learn
from bias_tutorial.scenario import preset
from bias_tutorial.simulate import brain
from bias_tutorial.training import Recipe, Task, fit, predict

from .report import command_line, finish, opening, with_load

# architecture, block, head, size, batch, classes, values of each bias
CASES = {"tumour scans, our network": ("modern", "block3", "conv", (96, 96), 32, 3, (2,)),
         "the same, pooled head": ("modern", "pool", "pooled", (96, 96), 32, 3, (2,)),
         "tumour scans, ResNet-18": ("resnet18", "layer2", "conv", (96, 96), 16, 3, (2, 2)),
         "coloured digits": ("modern", "block2", "conv", (28, 28), 128, 10, (8, 8, 8))}
LAMBDA, MU = 0.01, 0.1  # the published weights
LEAST_TIMES, LARGEST_ERROR = 1.3, 1e-5


# ---------------------------------------------------------------------- the published loop
class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, mu):
        ctx.mu = mu
        return features.view_as(features)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.mu * gradient, None


class Published:
    """Two passes a batch; ``forward(images)`` gives scores and the features that the heads read."""

    def __init__(self, forward, network, heads, lambda_, mu, rate=2e-3, weight_decay=0.05):
        self.forward, self.heads, self.lambda_, self.mu = forward, heads, lambda_, mu
        self.of_network = torch.optim.AdamW(network.parameters(), rate, weight_decay=weight_decay)
        self.of_heads = torch.optim.AdamW(heads.parameters(), rate, weight_decay=weight_decay)

    def first(self, images, labels):
        """Target loss and entropy term, and its backward pass."""
        scores, features = self.forward(images)
        loss = nn.functional.cross_entropy(scores.float(), labels)
        negative = 0.0
        for head in self.heads:
            p = head(features, labels).float().softmax(1)
            negative = negative + (p * p.log()).sum(1).mean()
        (loss + self.lambda_ * negative / len(self.heads)).backward()
        return loss

    def second(self, images, labels, biases):
        """Bias loss behind the reversal, and its backward pass."""
        _, features = self.forward(images)
        turned = Reverse.apply(features, self.mu)
        loss = sum(nn.functional.cross_entropy(head(turned, labels).float(), bias)
                   for head, bias in zip(self.heads, biases, strict=True))
        loss.backward()

    def __call__(self, images, labels, biases):
        self.of_network.zero_grad()
        loss = self.first(images, labels)
        self.of_network.step()
        self.of_network.zero_grad()
        self.of_heads.zero_grad()
        self.second(images, labels, biases)
        self.of_network.step()
        self.of_heads.step()
        return loss.item()


def forward_of(network, block):
    def forward(images):
        with kept(network, block) as outputs:
            scores = network(images)
        return scores, outputs[0]
    return forward


# ---------------------------------------------------------------------- speed and gradients
def sides(case, precision):
    """Our step and the published loop on one batch, from the same weights, and what both are made of."""
    architecture, block, head, size, batch, classes, values = CASES[case]
    rng, rows = np.random.default_rng(0), np.arange(batch)
    names = [f"bias{k}" for k in range(len(values))]
    kind = rng.permutation(rows) % classes
    table = pd.DataFrame({"image_id": rows, "patient_id": rows, "split": "train", "kind": kind,
                          **{name: rng.permutation(rows) % v for name, v in zip(names, values, strict=True)}})
    data = Cohort(rng.random((batch, 3, *size)).astype(np.float32), table, Schema({"kind": tuple(range(classes))}))
    network = networks.build(architecture, channels=3, classes=classes).to(memory_format=torch.channels_last)
    recipe = Recipe(batch_size=batch, precision=precision)
    task = Task(network, data, "kind", recipe, 0, "cpu", rows, rows, torch.tensor(table["kind"].to_numpy()))
    step = LearningNotToLearn(block=block, head=head, lambda_=LAMBDA, mu=MU).step(names)
    step.start(task)
    step.modules.to(memory_format=torch.channels_last)
    network.train()
    optimizer = torch.optim.AdamW(step.parameter_groups(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    step.batches(rng, 1)
    images = torch.from_numpy(data.images).contiguous(memory_format=torch.channels_last)
    twin, heads = copy.deepcopy((network, step.modules["heads"]))
    published = Published(forward_of(twin, block), twin, heads, LAMBDA, MU)
    labels, biases = step.labels(rows), step.biases(rows)

    def theirs():
        with task.precision():
            return published(images, labels, biases)

    return lambda: step(images, rows, optimizer), theirs, (step, published, images, labels, biases)


def speed(case, precision, rounds, steps):
    """Seconds a step of either side, and how many times faster ours is (median, and range over rounds)."""
    ours, theirs, _ = sides(case, precision)
    took = {"ours": [], "published": []}
    for turn in range(rounds + 1):
        both = [("ours", ours), ("published", theirs)]
        for name, run in both if turn % 2 else both[::-1]:
            begin = time.perf_counter()
            for _ in range(steps):
                run()
            took[name].append((time.perf_counter() - begin) / steps)
    rounds_of = {name: values[1:] for name, values in took.items()}  # the first round warms up
    seconds = {name: statistics.median(values) for name, values in rounds_of.items()}
    ratios = [b / a for a, b in zip(*rounds_of.values(), strict=True)]
    return {"case": case, "precision": precision, "seconds": seconds, "rounds": rounds_of,
            "times_faster": seconds["published"] / seconds["ours"], "least": min(ratios), "most": max(ratios)}


def gradients(case):
    """Largest relative distance of our gradients to those of both published losses at the same weights, fp32."""
    _, _, (step, published, images, labels, biases) = sides(case, "fp32")
    twin = [group["params"] for group in published.of_network.param_groups][0]
    torch.manual_seed(0)  # the same dropout
    loss, features = step.forward(images, labels)
    heads = list(step.modules["heads"].parameters())
    learn_not_to_learn(loss, features, lambda seen: step.read(seen, labels), heads, biases, LAMBDA, MU)
    torch.manual_seed(0)
    published.first(images, labels)
    published.of_heads.zero_grad()  # the predictors do not step on the entropy term
    published.second(images, labels, biases)
    pairs = {"network": (step.task.network.parameters(), twin), "predictors": (heads, published.heads.parameters())}
    found = {}
    for name, parts in pairs.items():
        ours, theirs = (torch.cat([p.grad.flatten() for p in part]).double() for part in parts)
        found[name] = float((ours - theirs).norm() / theirs.norm())
    return {"case": case, **found}


# ---------------------------------------------------------------------- what either leads to
class PublishedStep(AdversaryStep):
    """The published loop inside ``training.fit``: the same order, rates, shifts and choice of the epoch."""

    published = None

    def __call__(self, images, rows, optimizer):
        if self.published is None:
            network, method = self.task.network, self.method
            self.published = Published(forward_of(network, method.block), network, self.modules["heads"],
                                       method.lambda_, method.mu, weight_decay=self.task.recipe.weight_decay)
        for own in (self.published.of_network, self.published.of_heads):
            own.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        with self.task.precision():
            return {"train_loss": self.published(images, self.labels(rows), self.biases(rows))}


def outcomes(seeds, n_train, n_test, shape, epochs, mu):
    """Accuracy on decorrelated images, and its difference aligned less conflicting, of networks trained either way."""
    design, found = preset("intensity", 0.8), {}
    method = LearningNotToLearn(lambda_=0.1, mu=mu)
    for seed in range(seeds):
        data = brain(design, 2 * n_train, seed, shape)
        test = brain(design.decorrelated(), n_test, 10_000 + seed, shape)
        agree = (test.table["disease"] == test.table["intensity"]).to_numpy()
        for name, step in (("plain", Plain().step()), ("ours", method.step("intensity")),
                           ("published", PublishedStep(method, ("intensity",)))):
            network = networks.build(seed=seed)
            fit(network, data, recipe=Recipe(epochs=epochs, patience=epochs), seed=seed, progress=False, step=step)
            right = predict(network, test).argmax(1) == test.table["disease"]
            of = found.setdefault(name, {"accuracy": [], "gap": []})
            of["accuracy"].append(float(right.mean()))
            of["gap"].append(float(right[agree].mean() - right[~agree].mean()))
    less = {key: np.subtract(found["ours"][key], found["published"][key]).tolist() for key in ("accuracy", "gap")}
    spread = {key: statistics.stdev(values) if seeds > 1 else None for key, values in less.items()}
    return {"seeds": seeds, "n_train": n_train, "shape": shape, "epochs": epochs, "mu": mu, "of": found,
            "ours_less_published": less, "mean": {key: statistics.fmean(v) for key, v in less.items()},
            "spread": spread}


# ---------------------------------------------------------------------- all of it
def measure(rounds=7, steps=12, cases=tuple(CASES), seeds=5, n_train=800, n_test=1_500, shape=(56, 48), epochs=10):
    """All measurements, as a dictionary; see ``targets`` for the verdicts."""
    begin = time.perf_counter()
    results = {"threads": torch.get_num_threads(), "lambda": LAMBDA, "mu": MU,
               "speed": [speed(case, precision, rounds, steps) for case in cases for precision in ("fp32", "auto")],
               "gradients": [gradients(case) for case in cases],
               "outcomes": [outcomes(seeds, n_train, n_test, shape, epochs, mu) for mu in (0.1, 1.0)]}
    return results | {"minutes": (time.perf_counter() - begin) / 60}


def targets(results):
    """Each target with what was measured: (what, measured, bound, met)."""
    rows = [(f"times faster a step, {row['case']}, {row['precision']}", row["times_faster"],
             f"at least {LEAST_TIMES:g}", row["times_faster"] >= LEAST_TIMES) for row in results["speed"]]
    return rows + [(f"relative distance of gradients, {row['case']}, {part}", row[part], f"below {LARGEST_ERROR:g}",
                    row[part] < LARGEST_ERROR) for row in results["gradients"] for part in ("network", "predictors")]


def report(results):
    lines = opening("Last measurement of Learning Not to Learn", "benchmarks.lnl", targets(results))
    lines += ["", "| One pass less published loop, over seeds | mu | Mean | Spread | Plain | Ours | Published |",
              "|---|---|---|---|---|---|---|"]
    for row in results["outcomes"]:
        for key, what in (("accuracy", "accuracy, decorrelated"), ("gap", "aligned less conflicting accuracy")):
            spread = row["spread"][key]
            means = " | ".join(f"{statistics.fmean(row['of'][n][key]):.3f}" for n in ("plain", "ours", "published"))
            lines.append(f"| {what} | {row['mu']:g} | {row['mean'][key]:+.3f} | "
                         f"{'-' if spread is None else f'{spread:.3f}'} | {means} |")
    first = results["outcomes"][0]
    lines += ["", f"Outcomes: intensity bias at p = .8, {first['n_train']:,} images to learn from, {first['seeds']} "
              f"seeds. {results['threads']} threads; {results['minutes']:.0f} minutes; load before and after "
              f"{results['load'][0]:.1f} and {results['load'][1]:.1f}."]
    return lines


def main():
    given = command_line("lnl", __doc__).parse_args()
    short = {"rounds": 1, "steps": 1, "cases": tuple(CASES)[:1], "seeds": 1, "n_train": 32, "n_test": 32, "epochs": 1}
    results = with_load(measure, **(short if given.short else {}))
    finish("lnl", results, report(results), targets(results), keep=not given.short)


if __name__ == "__main__":
    main()
