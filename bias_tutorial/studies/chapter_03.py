"""Measures behind chapter 3: what a linear reader finds in each block of a network, and what the network does with it.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is new subjects in every cohort, new
weights and a new order. Probes are fitted on some decorrelated subjects and scored on others, drawn apart; they carry
the mark that is probed and no other. The published form, fitted and scored on the same confounded images, stands
beside them in :func:`in_sample`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import nn

from .. import answer_key, networks, simulate
from ..cohort import Cohort
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
    run_from,
    swap,
    within,
)
from ..scenario import Scenario, preset
from .chapter_01 import READING, TEST, cohort_seed
from .chapter_02 import train, with_intervals

KEEP = 0.99  # share of the variance whose components are probed, as published; of ``pool`` all are
FIRST = 5  # components whose individual encoding is kept
CLAIMED = ("block3", "pool")  # blocks that are looked at more closely
MARKS = ("morphology", "intensity")
CARRIED = {"no_bias": (), "far": MARKS[:1], "intensity": MARKS[1:], "both": MARKS}
"""Marks in the training data of each network."""
AGAIN = 500  # added to a seed: the seed of a second training without marks


def design(marks: Sequence[str], p: float = 0.5) -> Scenario:
    """The design of chapter 2 with both marks, of which only these are kept."""
    both = preset("both", p)
    return replace(both, attributes=tuple(a for a in both.attributes if a.name in marks))


def trained_networks(settings: Mapping[str, Any], seed: int, which=tuple(CARRIED)) -> dict[str, nn.Module]:
    """One network that nobody trained, and one for each design, all from the same first weights.

    Settings: ``p``, and those of :func:`bias_tutorial.studies.chapter_02.train`.
    """
    found = {"untrained": networks.build(settings.get("architecture", "modern"), len(settings["shape"]), seed=seed)}
    found |= {name: train(design(CARRIED[name], settings["p"]), settings, seed) for name in which}
    return {name: network.eval() for name, network in found.items()}


class Halves(NamedTuple):
    """Subjects in whom disease and a mark are unrelated: those to fit on, and after them those to score on."""

    mark: str
    images: np.ndarray
    table: pd.DataFrame
    fit: np.ndarray
    score: np.ndarray


def halves(settings: Mapping[str, Any], seed: int, mark: str = "morphology") -> Halves:
    """Draw two cohorts of ``n_probe / 2`` subjects, of whom half carry a mark. Settings: ``n_probe``, ``shape``."""
    drawn = [simulate.brain(design([mark]), settings["n_probe"] // 2, cohort_seed(seed, role),
                            tuple(settings["shape"])) for role in (READING, TEST)]
    images = np.concatenate([cohort.images for cohort in drawn])
    table = pd.concat([cohort.table for cohort in drawn], ignore_index=True)
    return Halves(mark, images, table, *np.split(np.arange(len(table)), 2))


def twins(settings: Mapping[str, Any], seed: int, mark: str = "morphology") -> tuple[Cohort, Cohort]:
    """Draw ``n_twins`` subjects, or ``n_probe / 2``, without the mark and with it; nobody to fit on is among them."""
    drawn = simulate.brain(design([mark]), settings.get("n_twins", settings["n_probe"] // 2), cohort_seed(seed, TEST),
                           tuple(settings["shape"]))
    return tuple(simulate.counterfactual(drawn, **{mark: value}) for value in (0, 1))


def components(network: nn.Module | None, data: Halves, block: str) -> GramPCA:
    """Exact components of a block (of the pixels, where there is no network), of the fitting half, for all subjects."""
    source = (data.images.reshape(len(data.images), -1) if network is None
              else Activations(network, data.images, block))
    return GramPCA.fit(gram(source), data.fit, 1.0 if block == "pool" else KEEP)


def block_table(nets: Mapping[str, nn.Module], data: Halves, labels: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Held-out probes of every block: one row for each ``network``, ``block`` and ``label``.

    Labels are columns of the table, or ``random``: those of the first, dealt out again.
    """
    rows = {}
    for name, network in nets.items():
        for block in networks.block_names(network):
            pca = components(network, data, block)
            for label in labels:
                values = (pd.Series(random_labels(data.table[labels[0]], seed=seed)) if label == "random"
                          else data.table[label])
                rows[name, block, label] = probe(pca.scores, values, data.fit, data.score, seed=seed).numbers()
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["network", "block", "label"])


# ---------------------------------------------------------------------- (c), (d), use
def layers(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Every block of every network: what is encoded, along which component, and what interventions do.

    Settings: ``p``, ``n_train``, ``n_probe``, ``n_twins``, ``shape``, ``recipe``; ``blocks`` to look at, all when left
    out (the last is ``pool``). Results are called ``<network>_<block>_<mark>_<quantity>``; networks that were trained
    with another mark only are not read for this one. ``<network>_all_<mark>_auc`` is the lowest AUC of its blocks (for
    random labels the mean), ``..._early_...`` the lowest of its first four. ``<network>_<mark>_absent`` and
    ``..._present``: by how much more of the twins it calls sick, without and with the mark, than the network trained
    without bias does without. ``again`` is a second network trained without bias, on other subjects:
    ``again_size`` is by how much, up or down, its share called sick differs from that of the first on the same images.
    """
    found = trained_networks(settings, seed)
    again = train(design(()), settings, seed + AGAIN).eval()
    out: dict[str, Any] = {}
    probes: dict[tuple[str, str, str], Probe] = {}
    truth: dict[str, np.ndarray] = {}
    for mark in MARKS:
        data, pair = halves(settings, seed, mark), twins(settings, seed, mark)
        truth[mark] = data.table[mark].to_numpy()[data.score]
        read = {name: network for name, network in found.items() if mark in (CARRIED.get(name) or MARKS)}
        as_is = {name: outputs(network, *pair) for name, network in (read | {"again": again}).items()
                 if name != "untrained"}
        carried: dict[tuple[str, str], np.ndarray] = {}
        for name, network in ({"pixels": None} | read).items():
            for block in ("input",) if network is None else settings.get("blocks") or networks.block_names(network):
                pca, key = components(network, data, block), f"{name}_{block}_{mark}"
                numbers, probes[name, block, mark] = _encoded(pca, data, seed, block)
                if name == "untrained" and block in CLAIMED:
                    bits = code_length(pca.scores[data.fit], data.table[mark][data.fit], seed=seed)
                    numbers["bits_per_label"] = bits.bits / bits.uniform
                if name in CARRIED and block in CLAIMED:
                    moved = moves(network, block, data, pair, pca=pca, as_is=as_is[name])
                    luck = moves(network, block, data, pair, random_labels(data.table[mark], seed=seed), pca,
                                 as_is[name])
                    numbers |= summary(moved, pair[0], seed)
                    numbers |= {f"luck_{what}_gap": float(luck[what].mean()) for what in ("carried", "left")}
                    carried[name, block] = moved["carried"]
                out |= {f"{key}_{k}": v for k, v in numbers.items()}
        for name in CARRIED:
            if name in read:
                out[f"{name}_{mark}_con_score"] = _con(found[name], data)
        sick = {name: [(log_odds(seen) > 0).astype(float) for seen in both] for name, both in as_is.items()}
        out |= with_intervals({f"{name}_{mark}_{what}": part - sick["no_bias"][0] for name in CARRIED if name in read
                               for what, part in zip(("absent", "present"), sick[name], strict=True)}, seed)
        out |= with_intervals({f"{name}_{block}_{mark}_beyond_no_bias": part - carried["no_bias", block]
                               for (name, block), part in carried.items()}, seed)
        out |= {f"again_{mark}_total_gap": float((sick["again"][1] - sick["again"][0]).mean()),
                "again_size": float(abs((sick["again"][0] - sick["no_bias"][0]).mean()))}
    return out | _over_blocks(probes, truth, out, seed)


def _encoded(pca: GramPCA, data: Halves, seed: int, block: str) -> tuple[dict[str, Any], Probe]:
    """Probes of a block for the mark, the disease and random labels, all components together and one by one.

    Of :data:`CLAIMED` blocks also along the components that tell disease and the mark best, chosen in the fitting half
    among those with the published share of the variance.
    """
    disease, label = data.table["disease"], data.table[data.mark]
    sides = (data.fit, data.score)
    found = probe(pca.scores, label, *sides, seed=seed)
    published = int(min(np.searchsorted(np.cumsum(pca.explained_variance_ratio), KEEP, side="right") + 1,
                        pca.n_components))
    out: dict[str, Any] = {
        "auc": found.auc, "disease_auc": probe(pca.scores, disease, *sides, seed=seed).auc,
        "random_auc": probe(pca.scores, random_labels(label, seed=seed), *sides, seed=seed).auc,
        "components": published}
    by = {what: individual(pca.scores[:, :FIRST], values, *sides)["auc"] for what, values in
          (("mark", label), ("disease", disease))}
    out |= {f"{what}_auc_{k}": float(auc) for what, column in by.items() for k, auc in column.items()}
    if block not in CLAIMED:
        return out, found
    if block == "pool":
        out["cosine"] = bias_on_disease(pca.scores, disease, label, data.fit)
    dominant, best = (int(individual(pca.scores[:, :published], values, data.fit, data.fit)["auc"].argmax())
                      for values in (disease, label))
    along = {name: probe(pca.scores[:, [k]], values, *sides, seed=seed) for name, k, values in
             (("dominant_disease", dominant, disease), ("dominant_mark", dominant, label), ("best_mark", best, label))}
    ratio = margin_ratio(pca.scores[data.score, dominant], disease[data.score], label[data.score], seed=seed)
    out |= {f"{name}_auc": one.auc for name, one in along.items()}
    out |= auc_less("mark_moved", (along["best_mark"], label[data.score]), (along["dominant_mark"], label[data.score]),
                    seed)
    return out | {
        "within_auc": float(within(pca.scores, label, disease, *sides, seed=seed).loc["mean", "auc"]),
        "best_for_disease": dominant, "best_for_mark": best, "differ": float(dominant != best),
        "margin_ratio": float(ratio["ratio"]), "margin_ratio_interval": [float(ratio["low"]), float(ratio["high"])],
    }, found


def _con(network: nn.Module, data: Halves) -> float:
    """Con-score of a mark before the last layer, its held-out form."""
    pool = np.concatenate(list(Activations(network, data.images, "pool").slices()), axis=1)
    weights = [part for part in network.modules() if isinstance(part, nn.Linear)][-1].weight
    return float(con_score(pool, data.table[data.mark], weights.detach().cpu().numpy(), data.fit,
                           data.score)["con_score_d2"])


def _over_blocks(probes: Mapping[tuple[str, str, str], Probe], truth: Mapping[str, np.ndarray], out: Mapping[str, Any],
                 seed: int) -> dict[str, Any]:
    """The lowest AUC of a network's blocks, what training on a mark adds, and which mark is read more easily."""
    table = pd.DataFrame({key: (p.auc, p.auc_low, p.auc_high) for key, p in probes.items()}).T
    found: dict[str, Any] = {}
    for (name, mark), rows in table.groupby(level=[0, 2], sort=False):
        for what, some in (("all", rows), ("early", rows.iloc[:4])):
            value, *ends = some.min().tolist()
            found |= {f"{name}_{what}_{mark}_auc": value, f"{name}_{what}_{mark}_auc_interval": ends}
        by_luck = [out["_".join((*key, "random_auc"))] for key in rows.index]
        found[f"{name}_all_{mark}_random_auc"] = float(np.mean(by_luck))
        if mark in CARRIED.get(name, ()):
            pair = ((probes[n, "pool", mark], truth[mark]) for n in (name, "no_bias"))
            found |= auc_less(f"{name}_pool_{mark}_raised", *pair, seed)
    easier = [auc_less("untrained_all_easier", (p, truth[mark]), (probes[name, block, MARKS[0]], truth[MARKS[0]]), seed)
              for (name, block, mark), p in probes.items() if (name, mark) == ("untrained", MARKS[1])]
    return found | min(easier, key=lambda row: row["untrained_all_easier"])


def auc_less(name: str, one: tuple[Probe, np.ndarray], other: tuple[Probe, np.ndarray], seed: int,
             draws: int = 400) -> dict[str, Any]:
    """AUC of a probe less that of another, each with labels of the same subjects, and its 95% bootstrap interval."""
    (a, y_a), (b, y_b) = ((p.log_odds, np.asarray(y)) for p, y in (one, other))
    rng, again = np.random.default_rng(seed), []
    while len(again) < draws:
        rows = rng.integers(0, len(a), len(a))
        if len(set(y_a[rows])) == len(set(y_b[rows])) == 2:
            again.append(roc_auc_score(y_a[rows], a[rows]) - roc_auc_score(y_b[rows], b[rows]))
    return {name: float(one[0].auc - other[0].auc), f"{name}_interval": np.quantile(again, [0.025, 0.975]).tolist()}


def outputs(network: nn.Module, *cohorts: Cohort) -> tuple[np.ndarray, ...]:
    """What a network gives for cohorts, nothing in it changed: logits, shape (n, 2) each."""
    last = networks.block_names(network)[-1]
    return tuple(run_from(network, last, cohort, lambda output, rows: output) for cohort in cohorts)


def moves(network: nn.Module, block: str, data: Halves, pair: tuple[Cohort, Cohort], label: Sequence | None = None,
          pca: GramPCA | None = None, as_is: tuple[np.ndarray, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """How decisions move with a mark, and with interventions on what a block holds of it.

    Parameters
    ----------
    pair : tuple of Cohort
        From :func:`twins`.
    label : sequence, optional
        Whose direction is taken, for the rows of ``data``: the mark, or random labels as a control.
    pca : GramPCA, optional
        From :func:`components`, where it is there already.
    as_is : tuple of numpy.ndarray, optional
        From :func:`outputs` of the pair, where they are there already.

    Returns
    -------
    dict of numpy.ndarray, shape (n,)
        For every subject 1, 0 or -1: called sick after, not before. ``total``: twins with the mark against twins
        without. ``carried``: twins without, when only the component of the block's activation along the label's
        direction (LEACE, fitted on the fitting half) is taken from the twin with the mark. ``left``: as total, with
        that direction erased from both. ``erased``: total less left. ``accuracy_change``: right after that direction
        is erased, not before, on twins without the mark.
    """
    off, on = pair
    as_is = as_is or outputs(network, *pair)
    eraser = fit_eraser(network, block, data.images, data.table[data.mark] if label is None else label, data.fit,
                        pca=pca or components(network, data, block))
    given = {"off": as_is[0], "on": as_is[1], "carried": swap(network, block, off, on, eraser, as_is[0]).after}
    given |= {f"{name}_erased": erase(network, block, cohort, eraser, before).after
              for name, cohort, before in zip(("off", "on"), pair, as_is, strict=True)}
    sick = {name: (log_odds(one) > 0).astype(float) for name, one in given.items()}
    moved = {"total": sick["on"] - sick["off"], "carried": sick["carried"] - sick["off"],
             "left": sick["on_erased"] - sick["off_erased"]}
    y = off.table["disease"].to_numpy()
    return moved | {"erased": moved["total"] - moved["left"],
                    "accuracy_change": (sick["off_erased"] == y).astype(float) - (sick["off"] == y)}


def summary(moved: Mapping[str, np.ndarray], subjects: Cohort, seed: int) -> dict[str, Any]:
    """Means of :func:`moves`: ``<what>_gap`` with intervals over patients, ``<what>_tpr_gap``, ``<what>_fpr_gap``.

    ``carried_size`` is the share that the swap moves, up or down.
    """
    y = subjects.table["disease"].to_numpy()
    out = with_intervals({what if what == "accuracy_change" else f"{what}_gap": part for what, part in moved.items()},
                         seed)
    for what in ("total", "carried", "left", "erased"):
        out |= {f"{what}_{rate}_gap": float(moved[what][y == value].mean()) for rate, value in (("tpr", 1), ("fpr", 0))}
    return out | {"carried_size": abs(out["carried_gap"])}


# ---------------------------------------------------------------------- audit
def in_sample(settings: Mapping[str, Any], seed: int, network: nn.Module | None = None) -> dict[str, Any]:
    """The published probe, fitted and scored on the same confounded images, and the same probe on other patients.

    Five folds, each with the components of its fitting patients.

    Settings: ``p``, ``n_train``, ``n_published`` (images; 1,074 in the paper), ``shape``, ``recipe``. Results are
    called ``<block>_<label>_in_sample`` (the published form, all images), ``..._fitted`` and ``..._held_out`` (means
    over folds, of the patients that were fitted on and of the others), all accuracies, and ``..._optimism``, fitted
    less held out; ``<block>_components`` how many were kept of all images. ``pool_<k>_<label>_in_sample``: the
    published form for component k alone. Along the component that tells disease best in the fitting patients, AUC and
    accuracy for the mark in the others: ``floor_auc``, ``floor_accuracy``, and within each class of disease
    ``floor_within_auc``. ``key_wanted_floor_...``: the same of a perfect reader of disease who never saw the mark,
    ``key_rewarded_floor_...`` of one who takes the shortcut. The network is that of the design unless one is given.
    """
    scenario = design(MARKS[:1], settings["p"])
    network = train(scenario, settings, seed).eval() if network is None else network
    cohort = simulate.brain(scenario, settings["n_published"], cohort_seed(seed, READING), tuple(settings["shape"]))
    every, disease, mark = np.arange(len(cohort)), cohort.table["disease"], cohort.table["morphology"]
    folds = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(every, disease))
    labels = {"disease": disease, "morphology": mark, "random": pd.Series(random_labels(mark, seed=seed))}
    key = answer_key.solve(scenario)
    out: dict[str, Any] = {f"key_{name}_floor_{what}": float(line.same.probe_floors.loc["morphology", what])
                           for name, line in (("wanted", key.wanted), ("rewarded", key.rewarded))
                           for what in ("accuracy", "auc")}
    for block in networks.block_names(network):
        site = Activations(network, cohort, block)
        products, out[f"{block}_features"] = gram(site), site.shape[1]
        whole, parts = GramPCA.fit(products, every), [GramPCA.fit(products, fit) for fit, _ in folds]
        out[f"{block}_components"] = whole.n_components
        for label, values in labels.items():
            fitted, held_out = np.mean([[aggregate(pca.scores, values, fit, rows)["accuracy"] for rows in (fit, score)]
                                        for pca, (fit, score) in zip(parts, folds, strict=True)], axis=0)
            out |= {f"{block}_{label}_in_sample": float(aggregate(whole.scores, values, every, every)["accuracy"]),
                    f"{block}_{label}_fitted": float(fitted), f"{block}_{label}_held_out": float(held_out),
                    f"{block}_{label}_optimism": float(fitted - held_out)}
    for label in ("disease", "morphology"):
        alone = individual(whole.scores[:, :3], labels[label], every, every)["accuracy"]
        out |= {f"pool_{k}_{label}_in_sample": float(accuracy) for k, accuracy in alone.items()}
    floors = [_along_disease(pca, disease, mark, *rows) for pca, rows in zip(parts, folds, strict=True)]
    return out | {name: float(np.mean([row[name] for row in floors])) for name in floors[0]}


def _along_disease(pca: GramPCA, disease: pd.Series, mark: pd.Series, fit: np.ndarray,
                   score: np.ndarray) -> dict[str, float]:
    """How well the component that tells disease best tells a mark: in other patients, and in each class of them."""
    best = individual(pca.scores, disease, fit, fit)["auc"].argmax()
    up = np.sign(np.corrcoef(pca.scores[fit, best], mark[fit])[0, 1])  # the side of the mark, from the fitting patients
    read = up * pca.scores[:, best]
    classes = [score[disease[score] == value] for value in (0, 1)]
    return {"floor_auc": roc_auc_score(mark[score], read[score]),
            "floor_accuracy": individual(pca.scores[:, [best]], mark, fit, score)["accuracy"].iloc[0],
            "floor_within_auc": np.mean([roc_auc_score(mark[rows], read[rows]) for rows in classes])}
