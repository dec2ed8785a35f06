"""Measures behind chapter 4: methods that are to keep a network from using a bias, on three simulated worlds.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is new subjects in every cohort, new
weights and a new order. ``methods`` in the settings names each arm and says how it is trained: ``method``, a name from
:data:`bias_tutorial.mitigation.METHODS`, and the settings of that method; ``from`` starts it with the weights of
another arm that was trained before it. All arms of a seed have the same first weights and the same order of images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from .. import answer_key, networks, training
from ..cohort import Cohort
from ..mitigation import METHODS, Grey
from ..probing import Activations, GramPCA, gram, probe
from ..simulate.marks import MARKS, apply_marks
from ..simulate.tumour import TumourDesign, tumour
from ..training import Recipe, predict
from .chapter_01 import TEST, TRAINING, cohort_seed
from .chapter_02 import with_intervals
from .chapter_03 import KEEP

LEARN = (2 / 3, 1 / 3, 0.0)  # shares of train, validation and test where a test cohort is drawn apart


# ---------------------------------------------------------------------- training
class Trained(NamedTuple):
    """A network, the step that trained it (it keeps the bias predictors) and the history of its training."""

    network: nn.Module
    step: training.Step
    history: pd.DataFrame


def train(cohort: Cohort, target: str, bias: Sequence[str], how: Mapping[str, Any], recipe: Recipe, seed: int,
          before: Mapping[str, Trained] | None = None, progress: bool = False) -> Trained:
    """Train a network by a method.

    Parameters
    ----------
    cohort : Cohort
        Train and validation splits.
    target : str
        What is to be learned.
    bias : sequence of str
        Columns with the bias labels.
    how : mapping
        ``method`` and its settings; ``from`` names an arm of ``before``.
    recipe, seed, progress
        As for :func:`bias_tutorial.training.fit`; the seed is also that of the first weights.
    before : mapping of str to Trained, optional
        Arms that were trained before.
    """
    own = {name: value for name, value in how.items() if name not in ("method", "from", "only")}
    method = METHODS[how["method"]](**own)
    network = networks.build("modern", cohort.images.ndim - 2, cohort.images.shape[1],
                             len(cohort.schema.targets[target]), seed=seed)
    if "from" in how:
        network.load_state_dict(before[how["from"]].network.state_dict())
    network = method.wrap(network, cohort, bias)
    step = method.step(bias)
    history = method.fit(network, cohort, target, bias, recipe, seed, progress=progress, step=step)
    return Trained(network, step, history)


def arms(cohort: Cohort, target: str, bias: Sequence[str], settings: Mapping[str, Any], seed: int,
         at: float | None = None) -> dict[str, Trained]:
    """Every arm of ``settings['methods']``; with ``at``, those whose ``only`` (if they have one) contains it."""
    found: dict[str, Trained] = {}
    for name, how in settings["methods"].items():
        if at is None or at in how.get("only", [at]):
            found[name] = train(cohort, target, bias, how, Recipe(**settings.get("recipe", {})), seed, found)
    return found


# ---------------------------------------------------------------------- reading the features
def fresh_probe(network: nn.Module, block: str, cohort: Cohort, label: Sequence, seed: int) -> dict[str, float]:
    """A new linear probe on a block: fitted on the first half of the cohort, scored on the second, other patients.

    The label must be unrelated to the target in the cohort.
    """
    fit, score = np.array_split(np.arange(len(cohort)), 2)
    block = f"network.{block}" if isinstance(network, Grey) else block
    pca = GramPCA.fit(gram(Activations(network.eval(), cohort, block)), fit, KEEP)
    found = probe(pca.scores, pd.Series(np.asarray(label)), fit, score, seed=seed)
    return {"auc": found.auc, "auc_interval": [found.auc_low, found.auc_high], "accuracy": found.accuracy,
            "accuracy_interval": [found.accuracy_low, found.accuracy_high]}


@torch.inference_mode()
def adversary_log_odds(trained: Trained, cohort: Cohort, target: str) -> np.ndarray:
    """Log-odds of the bias's second value, from the predictor that was trained along; shape (n,)."""
    trained.network.eval()
    trained.step.modules.eval()
    said = []
    for rows in np.array_split(np.arange(len(cohort)), -(-len(cohort) // 256)):
        labels = torch.tensor(codes(cohort, target)[rows])
        _, features = trained.step.forward(torch.from_numpy(cohort.batch(rows)), labels)
        scores = trained.step.read(features, labels)[0]
        said.append((scores[:, 1] - scores[:, 0]).numpy())
    return np.concatenate(said)


def adversary_accuracy(trained: Trained, cohort: Cohort, target: str, label: Sequence) -> float:
    """Balanced accuracy of the bias predictor that was trained along, on the second half of a cohort.

    The same images as a fresh probe is scored on. But the predictor was fitted on confounded images, and one that is
    told the class goes by how frequent the bias is there; a linear head reads means over positions.
    """
    score = np.array_split(np.arange(len(cohort)), 2)[1]
    odds = adversary_log_odds(trained, cohort.subset(score), target)
    return float(balanced_accuracy_score(np.asarray(label)[score], odds > 0))


# ---------------------------------------------------------------------- (a), (b): marks on tumour scans
def scans(settings: Mapping[str, Any], seed: int) -> tuple[Cohort, Cohort]:
    """Scans without marks: to learn from (train and validation), and one of each of ``n_test`` other patients.

    Settings: ``n_patients`` (two thirds in train), ``slices`` a patient, ``n_test``, ``separation``, ``shape``.
    """
    design = TumourDesign(slices=settings["slices"], separation=settings["separation"], split_shares=LEARN)
    shape = tuple(settings["shape"])
    return (tumour(design, settings["n_patients"], cohort_seed(seed, TRAINING), shape),
            tumour(replace(design, slices=1, split_shares=(0, 0, 1)), settings["n_test"], cohort_seed(seed, TEST),
                   shape))


def marked(clean: Cohort, rho: float, splits: Sequence[str] = ("train", "validation")) -> Cohort:
    """Scans with the red line on a share ``rho`` of the gliomas: what the simulator gives for that design."""
    images, marks = apply_marks(clean.images, clean.masks, clean.table["kind"], rho, 0.0, clean.meta["seed"],
                                clean.meta["spacing"], clean.table["split"], splits)
    drawn = {"glioma_mark": (0, 1)} if rho else {}
    meta = {**clean.meta, "scenario": {**clean.meta["scenario"], "rho": rho}}
    return replace(clean, images=images, table=clean.table.assign(**marks), meta=meta,
                   schema=replace(clean.schema, attributes=drawn))


def lined(clean: Cohort) -> Cohort:
    """The twins: every scan with the red line, whatever its kind."""
    every = np.full(len(clean), MARKS["glioma_mark"])
    images, _ = apply_marks(clean.images, clean.masks, every, 1.0, 0.0, 0, clean.meta["spacing"])
    return replace(clean, images=images, table=clean.table.assign(glioma_mark=1),
                   schema=replace(clean.schema, attributes={"glioma_mark": (0, 1)}))


def half_lined(clean: Cohort, twins: Cohort, seed: int) -> Cohort:
    """Scans of which half carry the line, drawn by lot within each kind, so that it tells nothing about the kind."""
    rng, line = np.random.default_rng(seed), np.zeros(len(clean), dtype=int)
    for rows in clean.table.groupby("kind").indices.values():
        line[rng.permutation(rows)[:len(rows) // 2]] = 1
    images = np.where(line[:, None, None, None] == 1, twins.images, clean.images)
    return replace(twins, images=images, table=clean.table.assign(glioma_mark=line))


def marks(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Networks trained with a line on a share rho of the gliomas, judged on clean scans.

    Settings: those of :func:`scans`; ``rhos``; ``methods``, the first of them the one others are compared with;
    ``n_probe`` test scans for fresh probes; ``block`` that they read; ``recipe``. Results are called
    ``r<100 rho>_<arm>_<quantity>``: ``accuracy`` on clean scans (kinds are equally frequent) and of each kind,
    ``drawn`` (by how much more scans are called glioma when a line is drawn on them, kinds alike), ``same`` (accuracy
    expected on scans marked as in training), ``mark_auc`` of a fresh probe, ``..._change`` against the first arm of
    that rho, ``fall`` in accuracy from the first arm of the first rho, which should be 0. ``r<100 rho>_key_accuracy``
    is the key, ``..._key_own_sight`` that of a reader who sees severity as badly as that first arm does.
    """
    clean, test = scans(settings, seed)
    twins, kinds = lined(test), test.schema.targets["kind"]
    y, glioma = codes(test), kinds.index(MARKS["glioma_mark"])
    n, sight, unmarked = settings["n_probe"], None, None
    mixed = half_lined(test.subset(range(n)), twins.subset(range(n)), seed)
    out: dict[str, Any] = {}
    for rho in settings["rhos"]:
        found = arms(marked(clean, rho), "kind", ("glioma_mark",) if rho else (), settings, seed, rho)
        start, first = f"r{round(100 * rho)}_", None
        for name, arm in found.items():
            off, on = (predict(arm.network, cohort).argmax(1) for cohort in (test, twins))
            right, right_on = (off == y).astype(float), (on == y).astype(float)
            values = {"accuracy": right, "drawn": (on == glioma).astype(float) - (off == glioma),
                      "same": np.where(y == glioma, rho * right_on + (1 - rho) * right, right)}
            unmarked = right if unmarked is None else unmarked
            changes = {f"{what}_change": values[what] - first[what] for what in first or ()}
            changes["fall"] = unmarked - right
            first = first or values
            out |= {f"{start}{name}_{k}": v for k, v in with_intervals(values | changes, seed).items()}
            out |= {f"{start}{name}_{kind}_accuracy": float(right[y == k].mean()) for k, kind in enumerate(kinds)}
            read = fresh_probe(arm.network, settings["block"], mixed, mixed.table["glioma_mark"], seed)
            out |= {f"{start}{name}_mark_{k}": v for k, v in read.items()}
            sight = sight or separation(out[f"{start}{name}_accuracy"], kinds)
        for what, apart in (("accuracy", settings["separation"]), ("own_sight", sight)):
            out[f"{start}key_{what}"] = float(answer_key.one_sided(rho, kinds=kinds, separation=apart)["mean"][0])
    return out


def codes(cohort: Cohort, target: str = "kind") -> np.ndarray:
    """Place of each row's value among the target's values, shape (n,)."""
    return cohort.table[target].map({value: k for k, value in enumerate(cohort.schema.targets[target])}).to_numpy()


def by_kind(network: nn.Module, test: Cohort, twins: Cohort) -> dict[str, float]:
    """Accuracy on clean scans, of each kind and of all, and ``drawn``; see :func:`marks`."""
    kinds, y = test.schema.targets["kind"], codes(test)
    off, on = (predict(network, cohort).argmax(1) for cohort in (test, twins))
    glioma = kinds.index(MARKS["glioma_mark"])
    found = {kind: float((off[y == k] == k).mean()) for k, kind in enumerate(kinds)}
    return found | {"all": float((off == y).mean()), "drawn": float((on == glioma).mean() - (off == glioma).mean())}


def separation(accuracy: float, kinds: Sequence[str]) -> float:
    """Separation of the kinds at which the best reader of clean scans would be right as often as a network was."""
    least = 1 / len(kinds) + 1e-3
    return float(brentq(lambda s: answer_key.one_sided(0, kinds=kinds, separation=s)["mean"][0] - max(accuracy, least),
                        1e-6, 20))


# ---------------------------------------------------------------------- audits
def audits(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Four faults made to happen on tumour scans, and what each adds to the number that is reported.

    Settings: those of :func:`scans`; ``likeness`` of a patient's slices in the first audit; ``rho``; ``method``, of the
    adversary; ``n_probe``; ``block``; ``recipe``. Results: ``slices_gain``, accuracy on held-out slices of patients who
    were trained on, less that on other patients; ``epoch_gain``, accuracy at the epoch that is best on the test set,
    there, less that of the same network on other patients, and ``epoch_honest_gain``, less that at the epoch the
    validation split chooses; ``batch_norm_drop``, accuracy of a network in evaluation mode less that in training mode
    on scans that come kind by kind; ``frozen_adversary_accuracy`` and ``frozen_mark_accuracy`` (a fresh probe) for an
    adversary that is not stepped, beside ``trained_...`` for one that is.
    """
    recipe, shape = Recipe(**settings.get("recipe", {})), tuple(settings["shape"])
    out: dict[str, Any] = {}

    # held-out slices: a quarter of each patient's training slices, or slices of other patients
    alike = TumourDesign(slices=settings["slices"], separation=settings["separation"], likeness=settings["likeness"],
                         split_shares=(1 / 2, 1 / 4, 1 / 4))
    own = tumour(alike, settings["n_patients"], cohort_seed(seed, TRAINING), shape)
    learn, other = own.subset(own.table["split"] != "test"), own.split("test")
    last = (learn.table["split"] == "train") & learn.table["image_id"].str.endswith(f"_{settings['slices']}")
    plain = {"method": "plain"}
    network = train(learn.subset(~last), "kind", (), plain, recipe, seed).network
    values = [accuracy(network, cohort) for cohort in (learn.subset(last), other)]
    out |= {"slices_own": values[0], "slices_other": values[1], "slices_gain": values[0] - values[1]}

    # the epoch chosen on the test set
    clean, test = scans(settings, seed)
    half = np.array_split(np.arange(len(test)), 2)
    there, fresh = (test.subset(rows) for rows in half)
    biased = marked(clean, settings["rho"])
    chosen = replace(biased, images=np.concatenate([biased.images, there.images]),
                     masks=np.concatenate([biased.masks, there.masks]),
                     table=pd.concat([biased.table.assign(split=biased.table["split"].replace("validation", "test")),
                                      there.table.assign(split="validation", image_id="t" + there.table["image_id"],
                                                        patient_id="t" + there.table["patient_id"])],
                                     ignore_index=True))
    network = train(chosen, "kind", (), plain, recipe, seed).network
    honest = train(biased, "kind", (), plain, recipe, seed).network
    reported = accuracy(network, there)
    out |= {"epoch_reported": reported, "epoch_gain": reported - accuracy(network, fresh),
            "epoch_honest": accuracy(honest, there), "epoch_honest_gain": reported - accuracy(honest, there)}

    # batch norm left in training mode, on scans that come kind by kind
    in_turn = np.argsort(there.table["kind"], kind="stable")
    wrong = accuracy(honest, there.subset(in_turn), training_mode=True)
    out |= {"batch_norm_right": out["epoch_honest"], "batch_norm_wrong": wrong,
            "batch_norm_drop": out["epoch_honest"] - wrong}

    # an adversary that is not stepped
    some, twins = test.subset(range(settings["n_probe"])), lined(test.subset(range(settings["n_probe"])))
    mixed = half_lined(some, twins, seed)
    for name, rate in (("frozen", 0.0), ("trained", 1.0)):
        arm = train(biased, "kind", ("glioma_mark",), {**settings["method"], "rate": rate}, recipe, seed)
        read = fresh_probe(arm.network, settings["block"], mixed, mixed.table["glioma_mark"], seed)
        out |= {f"{name}_adversary_accuracy": adversary_accuracy(arm, mixed, "kind", mixed.table["glioma_mark"]),
                f"{name}_mark_accuracy": read["accuracy"], f"{name}_mark_auc": read["auc"]}
    return out


def accuracy(network: nn.Module, cohort: Cohort, training_mode: bool = False, target: str = "kind") -> float:
    """Share of a cohort that a network names rightly; ``training_mode`` leaves batch norm to each batch of 32."""
    truth = cohort.table[target].to_numpy()
    if not training_mode:
        said = predict(network, cohort).argmax(1)
    else:
        network = copy.deepcopy(network).train()
        network.dropout.eval()
        with torch.no_grad():
            said = np.concatenate([network(torch.from_numpy(cohort.batch(rows))).argmax(1).numpy()
                                   for rows in np.array_split(np.arange(len(cohort)), -(-len(cohort) // 32))])
    return float((np.asarray(cohort.schema.targets[target], dtype=object)[said] == truth).mean())
