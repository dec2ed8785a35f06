"""The training loop against the plain loop: images a second, and the accuracy that either reaches.

``python -m benchmarks.training`` prints what ``measure`` returns. Ours is ``bias_tutorial.training.fit`` as it is
called in the chapters, from its door to its end. The plain loop is written below as it usually is: fp32, images in the
usual order of memory, once with a ``DataLoader`` over a ``Dataset``, once with a tensor that is sliced. All sides have
the same network, first weights, batch size, optimizer, rates and images, nothing is shifted, every epoch ends with the
same validation, and the best weights are kept. They take turns, and count by their medians over the rounds.
"""

import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bias_tutorial import environment, networks
from bias_tutorial.cohort import Cohort
from bias_tutorial.files import to_json
from bias_tutorial.scenario import preset
from bias_tutorial.simulate import brain
from bias_tutorial.training import Recipe, fit, predict

from .report import command_line, finish, opening, with_load

SIZES = ((84, 72), (112, 96))
IMAGES = {"modern": 1_920, "published": 128}  # an epoch and round; the published network is some twenty times slower
ACCURACY_SIZES = {"modern": (84, 72), "published": (42, 36)}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
VALIDATION, TEST = 32, 1_000
LEAST_TIMES = 2.0  # faster than the plain loop


# ---------------------------------------------------------------------- the plain loop
class Images(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]), self.labels[index]


class Slices:
    """Batches sliced from one tensor, in a new random order each time."""

    def __init__(self, images, labels, batch_size):
        self.images, self.labels, self.batch_size = torch.from_numpy(images), torch.from_numpy(labels), batch_size

    def __iter__(self):
        for rows in torch.randperm(len(self.labels)).split(self.batch_size):
            yield self.images[rows], self.labels[rows]


def loader(images, labels, batch_size):
    return DataLoader(Images(images, labels), batch_size, shuffle=True)


def plain_loop(network, batches, validation, recipe):
    """Train as usually written; the network ends with the weights of its best epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    best, lowest = None, math.inf
    for _ in range(recipe.epochs):
        network.train()
        total = 0.0
        for images, labels in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        scheduler.step()
        network.eval()
        with torch.no_grad():
            validation_loss = nn.functional.cross_entropy(network(validation[0]), validation[1]).item()
        if validation_loss < lowest:
            lowest, best = validation_loss, copy.deepcopy(network.state_dict())
    network.load_state_dict(best)


# ---------------------------------------------------------------------- the sides
def cohort(shape, images, seed):
    """As many training images as asked for, and a few to validate on."""
    drawn = brain(preset("no_bias"), images + VALIDATION, seed, shape)
    # By place, not by the scenario's shares, so that every batch of every side is full.
    split = np.repeat(["train", "validation"], [images, VALIDATION])
    return Cohort(drawn.images, drawn.table.assign(split=split), drawn.schema, meta=drawn.meta)


def sides(data, recipe):
    """Each side as a function that trains the network it is given, by name."""
    images, labels = np.asarray(data.images), data.table["disease"].to_numpy().astype(np.int64)
    n = len(labels) - VALIDATION
    held = torch.from_numpy(images[n:]), torch.from_numpy(labels[n:])

    def plain(make):
        return lambda network, seed: plain_loop(network, make(images[:n], labels[:n], recipe.batch_size), held, recipe)

    return {"fit": lambda network, seed: fit(network, data, recipe=recipe, seed=seed, device="cpu", progress=False),
            "loader": plain(loader), "tensor": plain(Slices)}


def images_per_second(runs, starts, images, rounds):
    """Medians, and all rounds, of functions that train a network on so many images; one more round warms up."""
    took = {name: [] for name in runs}
    for turn in range(rounds + 1):
        names = list(runs)[turn % len(runs):] + list(runs)[:turn % len(runs)]  # nobody always comes first
        for name in names:
            network = copy.deepcopy(starts[name])
            begin = time.perf_counter()
            runs[name](network, 0)
            took[name].append(images / (time.perf_counter() - begin))
    rounds_of = {name: values[1:] for name, values in took.items()}
    return {name: statistics.median(values) for name, values in rounds_of.items()}, rounds_of


def speed(architecture, shape, images, rounds):
    """Images a second of every side, and how many times faster fit is than each plain loop (range over rounds)."""
    data, start = cohort(shape, images, 0), networks.build(architecture)
    runs = sides(data, Recipe(epochs=1, shift=0)) | {"fit, shifting": sides(data, Recipe(epochs=1))["fit"]}
    medians, every = images_per_second(runs, dict.fromkeys(runs, start), images, rounds)
    times = {}
    for plain in ("loader", "tensor"):
        ratios = [a / b for a, b in zip(every["fit"], every[plain], strict=True)]
        times[plain] = {"median": medians["fit"] / medians[plain], "least": min(ratios), "most": max(ratios)}
    return {"architecture": architecture, "shape": shape, "images_per_second": medians, "times_faster": times,
            "rounds": every}


def strided(shape, images, rounds):
    """The gain of striding over max pooling alone: two networks with the same filters, both by fit."""
    with torch.random.fork_rng(devices=[]):
        starts = {name: networks.CNN(strided=name == "strided") for name in ("strided", "max_pooled")}
    train = sides(cohort(shape, images, 0), Recipe(epochs=1, shift=0))["fit"]
    medians, every = images_per_second(dict.fromkeys(starts, train), starts, images, rounds)
    return {"shape": shape, "images_per_second": medians, "times_faster": medians["strided"] / medians["max_pooled"],
            "rounds": every}


def accuracy(architecture, shape, images, epochs, seeds):
    """Accuracy on new subjects after training by every side, from the same weights, seed by seed."""
    test = brain(preset("no_bias"), TEST, 99_999, shape)
    truth, recipe = test.table["disease"].to_numpy(), Recipe(epochs=epochs, shift=0, patience=epochs)
    found = {}
    for seed in range(seeds):
        for name, train in sides(cohort(shape, images, seed), recipe).items():
            network = networks.build(architecture, seed=seed)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                train(network, seed)
            # fp32 for all: what is compared is the training
            right = (predict(network, test, "cpu", "fp32").argmax(1) == truth).mean()
            found.setdefault(name, []).append(float(right))
    less = {name: np.subtract(found["fit"], found[name]).tolist() for name in ("loader", "tensor")}
    return {"architecture": architecture, "shape": shape, "images": images, "epochs": epochs, "of": found,
            "mean": {name: statistics.fmean(values) for name, values in found.items()},
            "spread": {name: statistics.stdev(values) if seeds > 1 else None for name, values in found.items()},
            "fit_less": less}


# ---------------------------------------------------------------------- all of it
def measure(rounds=5, seeds=3, sizes=SIZES, images=IMAGES, accuracy_sizes=ACCURACY_SIZES, accuracy_images=1_280,
            accuracy_epochs=12, avx2=True):
    """All measurements, as a dictionary; see ``targets`` for the verdicts."""
    begin = time.perf_counter()
    results = {"threads": torch.get_num_threads(), "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
               "precision": environment.precision()[0], "batch_size": Recipe().batch_size,
               "speed": [speed(a, shape, images[a], rounds) for shape in sizes for a in images],
               "strided": [strided(shape, images["modern"], rounds) for shape in sizes],
               "accuracy": [accuracy(a, accuracy_sizes[a], accuracy_images, accuracy_epochs, seeds)
                            for a in (images if seeds else ())]}
    if avx2:
        results["avx2"] = _in_process(AVX2, rounds=rounds, sizes=sizes, images=images)
    return results | {"minutes": (time.perf_counter() - begin) / 60}


def _in_process(variables, **settings):
    """Speeds under other environment variables, which oneDNN reads only once: from a process of their own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.training", "--settings", to_json(settings)], check=True,
                          stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
                          env={**os.environ, **variables})
    return json.loads(done.stdout)


def targets(results):
    """Each target with what was measured: (what, measured, bound, met)."""
    rows = []
    for found, where, least in ((results, "", LEAST_TIMES), (results.get("avx2"), " under AVX2", 1.0)):
        for row in found["speed"] if found else ():
            for plain, value in row["times_faster"].items():
                what = (f"times faster in training than the plain loop ({plain}), {row['architecture']}, "
                        f"{' x '.join(map(str, row['shape']))}{where}")
                rows.append((what, value["median"], f"at least {least:g}", value["median"] >= least))
    for row in results["accuracy"]:
        # Equal: the mean difference to either plain loop is within twice its standard error over seeds, or one point.
        for plain, less in row["fit_less"].items():
            error = statistics.stdev(less) / len(less)**0.5 if len(less) > 1 else 0.0
            mean = statistics.fmean(less)
            bound = max(0.01, 2 * error)
            rows.append((f"accuracy less that of the plain loop ({plain}), {row['architecture']}", mean,
                         f"within {bound:.3f} of 0", abs(mean) <= bound))
    return rows


def main():
    parser = command_line("training", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns each side takes after the warm-up")
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.settings:
        print(to_json(measure(seeds=0, avx2=False, **json.loads(given.settings))))
        return
    short = {"seeds": 2, "sizes": ((42, 36),), "images": {"modern": 64, "published": 32}, "accuracy_images": 32,
             "accuracy_epochs": 1}
    results = with_load(measure, given.rounds, **(short if given.short else {}))
    rows = targets(results)
    lines = opening("Last measurement of training", "benchmarks.training", rows)
    lines += [f"| times faster, strided than max-pooled blocks, {' x '.join(map(str, row['shape']))} "
              f"| {row['times_faster']:.3g} | | |" for row in results["strided"]]
    lines += ["", f"Precision {results['precision']}, {results['threads']} threads; {results['minutes']:.0f} minutes; "
              f"load before and after {results['load'][0]:.1f} and {results['load'][1]:.1f}."]
    finish("training", results, lines, rows, keep=not given.short)


if __name__ == "__main__":
    main()
