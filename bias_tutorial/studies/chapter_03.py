"""Measures behind chapter 3: what a linear reader finds in each block of a network, and what the network does with it.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is new subjects in every cohort, new
weights and a new order. Probes are fitted on one half of the decorrelated test subjects and scored on the other; the
published form, fitted and scored on the same confounded images, stands beside them in :func:`in_sample`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import nn

from .. import answer_key, networks, simulate
from ..cohort import Cohort
from ..evaluation import patient_bootstrap
from ..probing import (
    Activations,
    GramPCA,
    Probe,
    aggregate,
    bias_on_disease,
    code_length,
    con_score,
    erase,
    fit_eraser,
    gram,
    individual,
    log_odds,
    margin_ratio,
    probe,
    random_labels,
    swap,
)
from ..scenario import Scenario, preset
from ..training import predict
from .chapter_01 import READING, TEST, cohort_seed
from .chapter_02 import train

KEEP = 0.99  # share of the variance whose components are probed, as published
CLAIMED = ("block3", "pool")  # blocks whose intervals are stored
CARRIED = {"no_bias": (), "far": ("morphology",), "intensity": ("intensity",), "both": ("morphology", "intensity")}
"""Attributes in the training data of each network."""


def trained_networks(settings: Mapping[str, Any], seed: int, which=tuple(CARRIED)) -> dict[str, nn.Module]:
    """One network that nobody trained, and one for each design, all from the same first weights.

    Settings: ``p``, and those of :func:`bias_tutorial.studies.chapter_02.train`.
    """
    both = preset("both", settings["p"])
    found = {"untrained": networks.build(settings.get("architecture", "modern"), len(settings["shape"]), seed=seed)}
    for name in which:
        carried = tuple(a for a in both.attributes if a.name in CARRIED[name])
        found[name] = train(replace(both, attributes=carried), settings, seed)
    return {name: network.eval() for name, network in found.items()}


class Halves(NamedTuple):
    """Decorrelated subjects, of whom one half is for fitting and the other for scoring."""

    cohort: Cohort
    fit: np.ndarray
    score: np.ndarray

    def label(self, name: str) -> pd.Series:
        """A column of the table."""
        return self.cohort.table[name].reset_index(drop=True)


def halves(settings: Mapping[str, Any], seed: int) -> Halves:
    """Draw ``n_probe`` subjects in whom disease and both marks are unrelated. Settings: ``n_probe``, ``shape``."""
    cohort = simulate.brain(preset("both").decorrelated(), settings["n_probe"], cohort_seed(seed, TEST),
                            tuple(settings["shape"]))
    return Halves(cohort, *np.array_split(np.arange(len(cohort)), 2))


def twins(data: Halves, mark: str) -> tuple[Cohort, Cohort]:
    """The scoring half as twins without any mark and with one."""
    own = data.cohort.subset(data.score)
    names = data.cohort.schema.attributes
    return tuple(simulate.counterfactual(own, **{name: int(on and name == mark) for name in names})
                 for on in (False, True))


def components(network: nn.Module | None, data: Halves, block: str) -> GramPCA:
    """Exact components of a block (of the pixels, where there is no network), of the fitting half, for all subjects."""
    if network is None:
        return GramPCA.fit(gram(data.cohort.batch(range(len(data.cohort))).reshape(len(data.cohort), -1)),
                           data.fit, KEEP)
    return GramPCA.fit(gram(Activations(network, data.cohort, block)), data.fit, KEEP)


def block_table(nets: Mapping[str, nn.Module], data: Halves, labels: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Held-out probes of every block: one row for each ``network``, ``block`` and ``label``.

    Labels are columns of the table, or ``random``: those of the first, dealt out again.
    """
    rows = {}
    for name, network in nets.items():
        for block in networks.block_names(network):
            pca = components(network, data, block)
            for label in labels:
                values = (pd.Series(random_labels(data.label(labels[0]), seed=seed)) if label == "random"
                          else data.label(label))
                rows[name, block, label] = probe(pca.scores, values, data.fit, data.score, seed=seed).numbers()
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["network", "block", "label"])


# ---------------------------------------------------------------------- (c), (d), use
def layers(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Every block of every network: what is encoded, along which component, and what interventions do.

    Settings: ``p``, ``n_train``, ``n_probe``, ``shape``, ``recipe``; ``blocks`` to look at, all when left out (the last
    is ``pool``). Results are called ``<network>_<block>_<label>_<quantity>``. ``<network>_all_<label>_auc`` is the
    lowest AUC of its blocks (for random labels the mean), ``..._early_...`` the lowest of its first four.
    ``<network>_<mark>_absent`` and ``..._present`` are by how much more of the subjects it calls sick, without and with
    the mark, than the network trained without bias does without: a mark that was learned moves both, a mere shift of
    the images only the second.
    """
    found, data = trained_networks(settings, seed), halves(settings, seed)
    marks = list(preset("both").attribute_names)
    labels = {name: data.label(name) for name in ("disease", *marks)}
    labels["random"] = pd.Series(random_labels(labels["morphology"], seed=seed), name="random")
    pairs = {mark: twins(data, mark) for mark in marks}
    out: dict[str, Any] = {}
    read: dict[tuple[str, str, str], Probe] = {}
    for name, network in {"pixels": None, **found}.items():
        for block in ("input",) if network is None else settings.get("blocks") or networks.block_names(network):
            pca = components(network, data, block)
            for label, values in labels.items():
                result = read[name, block, label] = probe(pca.scores, values, data.fit, data.score, seed=seed)
                out[f"{name}_{block}_{label}_auc"] = result.auc
            if name == "untrained":
                for mark in marks:
                    bits = code_length(pca.scores, labels[mark], seed=seed)
                    out[f"{name}_{block}_{mark}_bits_per_label"] = bits.bits / bits.uniform
            for mark in CARRIED.get(name) or (marks if name == "no_bias" else ()):
                result = used(network, block, data, *pairs[mark], mark, seed, pca)
                if name != "no_bias":
                    result |= _along_components(pca, data, labels["disease"], labels[mark], seed)
                out |= {f"{name}_{block}_{mark}_{k}": v for k, v in result.items()
                        if block in CLAIMED or not k.endswith("_interval")}
    for name, carried in CARRIED.items():
        pool = np.concatenate(list(Activations(found[name], data.cohort, "pool").slices()), axis=1)
        weights = [part for part in found[name].modules() if isinstance(part, nn.Linear)][-1].weight
        for mark in marks:
            con = con_score(pool, labels[mark], weights.detach().cpu().numpy(), data.fit, data.score)
            out[f"{name}_{mark}_con_score"] = float(con["con_score_d2"])
        for mark in carried:
            plain = predict(found["no_bias"], pairs[mark][0])[:, 1] > 0.5
            for what, seen in zip(("absent", "present"), pairs[mark], strict=True):
                moved = (predict(found[name], seen)[:, 1] > 0.5).astype(float) - plain
                out |= with_interval(f"{name}_{mark}_{what}", moved, seed)
    return out | _over_blocks(read, {name: labels[name].to_numpy()[data.score] for name in marks}, seed)


def _over_blocks(read: Mapping[tuple[str, str, str], Probe], truth: Mapping[str, np.ndarray],
                 seed: int) -> dict[str, Any]:
    """The lowest AUC of a network's blocks, the mean on random labels, and what training on the mark adds."""
    out: dict[str, Any] = {}
    for name, label in dict.fromkeys((name, label) for name, _, label in read):
        ends = np.array([(r.auc, r.auc_low, r.auc_high) for (n, _, k), r in read.items() if n == name and k == label])
        for what, rows in (("all", ends), ("early", ends[:4])):
            value, low, high = (rows.mean(axis=0) if label == "random" else rows.min(axis=0)).tolist()
            out |= {f"{name}_{what}_{label}_auc": value, f"{name}_{what}_{label}_auc_interval": [low, high]}
    pairs = {f"{name}_pool_{mark}_raised": ((name, "pool", mark), ("no_bias", "pool", mark), mark)
             for name, marks in CARRIED.items() for mark in marks}
    blocks = [block for name, block, label in read if (name, label) == ("untrained", "disease")]
    for block in blocks:
        a, b = ("untrained", block, "intensity"), ("untrained", block, "morphology")
        out[f"untrained_{block}_easier"] = read[a].auc - read[b].auc
    for key, (a, b, mark) in pairs.items():
        value, interval = _auc_difference(truth[mark], read[a].log_odds, read[b].log_odds, seed)
        out |= {key: value, f"{key}_interval": interval}
    worst = min(blocks, key=lambda block: out[f"untrained_{block}_easier"])
    draws = [_auc_draws(truth[mark], read["untrained", worst, mark].log_odds, seed) for mark in truth]
    out |= {"untrained_all_easier": out[f"untrained_{worst}_easier"],
            "untrained_all_easier_interval": np.quantile(draws[1] - draws[0], [0.025, 0.975]).tolist()}
    return out


def _auc_draws(truth: np.ndarray, score: np.ndarray, seed: int, draws: int = 500) -> np.ndarray:
    """AUC in patients drawn anew; the same patients for the same seed."""
    rng = np.random.default_rng(seed)
    drawn = []
    while len(drawn) < draws:
        rows = rng.integers(0, len(truth), len(truth))
        if 0 < truth[rows].sum() < len(rows):
            drawn.append(_auc(truth[rows], score[rows]))
    return np.array(drawn)


def _auc(truth: np.ndarray, score: np.ndarray) -> float:
    """The same as scikit-learn's, by ranks, without its checks: a tenth of the time."""
    positive = truth == 1
    n = positive.sum()
    return (stats.rankdata(score)[positive].mean() - (n + 1) / 2) / (len(truth) - n)


def _auc_difference(truth, a, b, seed) -> tuple[float, list[float]]:
    """AUC of one score less that of another for the same patients, with its 95% interval over them."""
    ends = np.quantile(_auc_draws(truth, a, seed) - _auc_draws(truth, b, seed), [0.025, 0.975])
    return float(_auc(truth, a) - _auc(truth, b)), ends.tolist()


def _along_components(pca: GramPCA, data: Halves, disease: pd.Series, mark: pd.Series, seed: int) -> dict[str, Any]:
    """The components that tell disease and the mark best in the fitting half, read on the other half."""
    dominant, best = (int(individual(pca.scores, label, data.fit, data.fit)["auc"].argmax())
                      for label in (disease, mark))
    by_disease, by_mark = (individual(pca.scores, label, data.fit, data.score)["auc"] for label in (disease, mark))
    ratio = margin_ratio(pca.scores[data.score, dominant], disease[data.score], mark[data.score], seed=seed)
    return {"components": pca.n_components, "best_for_disease": dominant, "best_for_mark": best,
            "differ": float(dominant != best), "dominant_disease_auc": float(by_disease[dominant]),
            "dominant_mark_auc": float(by_mark[dominant]), "best_mark_auc": float(by_mark[best]),
            "cosine": bias_on_disease(pca.scores, disease, mark, data.fit),
            "margin_ratio": float(ratio["ratio"]), "margin_ratio_interval": [float(ratio["low"]), float(ratio["high"])]}


def used(network: nn.Module, block: str, data: Halves, off: Cohort, on: Cohort, mark: str, seed: int,
         pca: GramPCA | None = None) -> dict[str, Any]:
    """What a network does with what a block holds of a mark.

    Parameters
    ----------
    off, on : Cohort
        From :func:`twins`.
    pca : GramPCA, optional
        From :func:`components`, where it is there already.

    Returns
    -------
    dict
        ``<what>_gap``, the change of the share of subjects called sick, with its interval over patients, and
        ``<what>_tpr_gap`` and ``<what>_fpr_gap``, the same among the sick and among the healthy. ``total``: twins with
        the mark against twins without. ``carried``: twins without, when only the component of the block's activation
        along the mark's direction (LEACE, fitted on the fitting half) is taken from the twin with it. ``left``: as
        total, with that direction erased from both. ``erased``: total less left. ``accuracy_change``: what erasing
        does to the accuracy on twins without the mark, with its interval.
    """
    y = off.table["disease"].to_numpy()
    eraser = fit_eraser(network, block, data.cohort, data.label(mark), data.fit, keep=KEEP, pca=pca)
    carried = swap(network, block, off, on, eraser)
    without, with_mark = erase(network, block, off, eraser), erase(network, block, on, eraser)
    decided = {name: log_odds(outputs) > 0 for name, outputs in
               (("off", without.before), ("on", with_mark.before), ("carried", carried.after),
                ("off_erased", without.after), ("on_erased", with_mark.after))}
    out: dict[str, Any] = {}
    step = {what: decided[one].astype(float) - decided[other] for what, one, other in
            (("total", "on", "off"), ("carried", "carried", "off"), ("left", "on_erased", "off_erased"))}
    step["erased"] = step["total"] - step["left"]
    for what, moved in step.items():
        out |= {f"{what}_tpr_gap": float(moved[y == 1].mean()), f"{what}_fpr_gap": float(moved[y == 0].mean())}
        out |= with_interval(f"{what}_gap", moved, seed)
    right = (decided["off_erased"] == y).astype(float) - (decided["off"] == y)
    return out | with_interval("accuracy_change", right, seed)


def with_interval(name: str, values: np.ndarray, seed: int) -> dict[str, Any]:
    """A mean over patients, and its 95% interval under ``<name>_interval``."""
    return {name: float(values.mean()), f"{name}_interval": patient_bootstrap(values, seed).tolist()}


# ---------------------------------------------------------------------- audit
def in_sample(settings: Mapping[str, Any], seed: int, network: nn.Module | None = None) -> dict[str, Any]:
    """The published probe, fitted and scored on the same confounded images, and the same probe on other patients.

    Other patients: five folds, each with the components of its fitting patients.
    Settings: ``p``, ``n_train``, ``n_published`` (images; 1,074 in the paper), ``shape``, ``recipe``. Results are
    called ``<block>_<label>_in_sample``, ``..._held_out`` (both accuracy) and ``..._optimism``, their difference;
    ``key_floor_accuracy`` and ``key_floor_auc`` say how well the disease alone tells the mark in such images. The
    network is that of the design unless one is given.
    """
    design: Scenario = preset("far", settings["p"])
    network = train(design, settings, seed).eval() if network is None else network
    cohort = simulate.brain(design, settings["n_published"], cohort_seed(seed, READING), tuple(settings["shape"]))
    every = np.arange(len(cohort))
    folds = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(every, cohort.table["disease"]))
    labels = {name: cohort.table[name].reset_index(drop=True) for name in ("disease", "morphology")}
    labels["random"] = pd.Series(random_labels(labels["morphology"], seed=seed), name="random")
    floor = answer_key.solve(design).rewarded.same.probe_floors.loc["morphology"]
    out: dict[str, Any] = {"key_floor_accuracy": float(floor["accuracy"]), "key_floor_auc": float(floor["auc"])}
    for block in networks.block_names(network):
        site = Activations(network, cohort, block)
        products, out[f"{block}_features"] = gram(site), site.shape[1]
        whole, parts = GramPCA.fit(products, every), [GramPCA.fit(products, fit) for fit, _ in folds]
        for label, values in labels.items():
            same = aggregate(whole.scores, values, every, every)["accuracy"]
            other = np.mean([aggregate(pca.scores, values, *rows)["accuracy"]
                             for pca, rows in zip(parts, folds, strict=True)])
            out |= {f"{block}_{label}_in_sample": float(same), f"{block}_{label}_held_out": float(other),
                    f"{block}_{label}_optimism": float(same - other)}
    pca, (fit, score) = parts[0], folds[0]
    best = int(individual(pca.scores, labels["disease"], fit, fit)["auc"].argmax())
    told = roc_auc_score(labels["morphology"][score], pca.scores[score, best])
    out["floor_auc"] = float(max(told, 1 - told))
    return out
