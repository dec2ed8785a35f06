"""Measures behind chapter 5: what embeddings of chest radiographs hold, learned without labels, and its erasure.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is new patients, one image each, and
new weights. Encoders and probes learn from train and validation rows; what is reported comes from the test rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from .. import autoencoders, multilabel, networks
from ..clustering import clusters, explain, hidden_mode, verdicts, without
from ..cohort import Cohort
from ..mitigation.erasure import ERASERS
from ..probing.probes import standardised
from ..probing.readout import read_out
from ..simulate.chest import ChestDesign, chest
from ..simulate.chest_subjects import FINDINGS
from ..training import Recipe
from .chapter_01 import TRAINING, cohort_seed
from .chapter_02 import with_intervals

FINDING = "cardiomegaly"  # the disease of the erasure, present in half of the patients
SEXES = ("F", "M")
CLASSES = ("sex", "view", "site", *FINDINGS, "hidden")
PUBLISHED = {"view": (0.942, 0.986), "sex": (0.736, 0.951), "age": (13.06, 7.90), "findings": (0.690, 0.765)}
"""CheXpert, variational (128 latents) and diffusion (512): balanced accuracy, age MAE in years, mean AUC of five
findings (Hunecke 2024, poster)."""
FORMS = {"none": ("none", ""), **{f"{name}_{form}": (name, form) for name in ERASERS for form in ("pooled", "within")}}


# ---------------------------------------------------------------------- cohorts and encoders
def cohort(settings: Mapping[str, Any], seed: int) -> Cohort:
    """Chest radiographs, one a patient; whatever ``settings['design']`` does not say is independent.

    Settings: ``n_train``, ``n_validation``, ``n_test``, ``shape``, ``design``.
    """
    counts = [settings[f"n_{split}"] for split in ("train", "validation", "test")]
    findings = dict.fromkeys(FINDINGS, 0.25) | {FINDING: 0.5}
    design = ChestDesign(**{"findings": findings, **settings.get("design", {})},
                         split_shares=tuple(count / sum(counts) for count in counts))
    return chest(design, sum(counts), cohort_seed(seed, TRAINING), tuple(settings["shape"]))


def fitted(kind: str, images: Cohort, settings: Mapping[str, Any], seed: int) -> tuple[autoencoders.Autoencoder,
                                                                                   pd.DataFrame, float]:
    """An autoencoder, its history, and the seconds of processor time that training took.

    Settings: ``latent``; under the kind's name ``width`` and whatever of its recipe differs.
    """
    own = dict(settings[kind])
    model = autoencoders.KINDS[kind](images.images.shape[1:], settings["latent"], own.pop("width"), seed=seed)
    start = time.process_time()
    history = model.fit(images, replace(model.recipe, **own), seed, progress=False)
    return model, history, time.process_time() - start


def components(images: Cohort, size: int, seed: int) -> np.ndarray:
    """Scores on principal components of the training pixels, as many as latents, shape (n, size)."""
    pixels = images.images.reshape(len(images), -1)
    return PCA(size, random_state=seed).fit(pixels[images.table["split"] == "train"]).transform(pixels)


def supervised(images: Cohort, settings: Mapping[str, Any], seed: int) -> np.ndarray:
    """Logits of a small CNN that is told the sex and the findings, shape (n, 6), sex first."""
    told = replace(images, table=images.table.assign(female=(images.table["sex"] == "F").astype(int)),
                   schema=replace(images.schema, targets={"female": (0, 1), **images.schema.targets}))
    network = networks.build("modern", 2, classes=1 + len(FINDINGS), seed=seed)
    multilabel.fit(network, told, recipe=Recipe(**{"shift": 0, **settings["supervised"]}), seed=seed, progress=False)
    chances = multilabel.predict(network, told).clip(1e-6, 1 - 1e-6)
    return np.log(chances / (1 - chances))


# ---------------------------------------------------------------------- (a), (c), (d), (e)
def embedded(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Encoders side by side: what is read out of each; and what erasing sex does to the variational one.

    Settings: those of :func:`cohort`; ``sources``, of ``variational``, ``diffusion``, ``pca``, ``pca<size>``,
    ``pixels``, ``untrained``, ``supervised``; ``latent`` and what :func:`fitted` and :func:`supervised` need;
    ``n_probe``, training rows that probes are fitted on, and ``n_probe_test``; ``agreements`` and ``prevalence``,
    where erasure is wanted, see :func:`erased` and :func:`by_group`. Results: those of :func:`told`, and

    - ``<kind>_seconds`` of training, ``<kind>_error`` of reconstruction on test images (mean squared error a pixel, in
      [0, 1]), ``<kind>_error_at_<k>``, on validation images after k quarters of the training;
    - ``diffusion_time_ratio``, seconds of diffusion over those of the variational one.
    """
    images = cohort(settings, seed)
    sources: dict[str, np.ndarray] = {}
    out: dict[str, Any] = {}
    test = images.split("test")
    for name in settings["sources"]:
        if name in autoencoders.KINDS:
            model, history, seconds = fitted(name, images, settings, seed)
            sources[name] = model.encode(images)
            some = test.batch(np.arange(min(len(test), 500)))
            out |= {f"{name}_seconds": seconds, f"{name}_epochs": len(history),
                    f"{name}_error": float(np.square(model.reconstruct(some) - some).mean())}
            errors = history["reconstruction_error"].to_numpy()
            out |= {f"{name}_error_at_{k}": float(errors[max(0, round(len(errors) * k / 4) - 1)]) for k in range(1, 5)}
        else:
            sources[name] = other(name, images, settings, seed)
    if {"variational_seconds", "diffusion_seconds"} <= set(out):
        out["diffusion_time_ratio"] = out["diffusion_seconds"] / out["variational_seconds"]
    probed = rows(images.table, agreeing(0.5), counted(settings), seed)
    out |= told(sources, images.table, probed, settings, seed)
    if "agreements" in settings:
        x = sources["variational"].astype(float)
        out |= erased(x, images.table, settings, seed) | by_group(x, images.table, settings, seed)
    return out


def other(name: str, images: Cohort, settings: Mapping[str, Any], seed: int) -> np.ndarray:
    """An embedding that no autoencoder learned."""
    if name == "pixels":
        return images.images.reshape(len(images), -1)
    if name == "untrained":
        kind = autoencoders.KINDS["variational"]
        return kind(images.images.shape[1:], settings["latent"], settings["variational"]["width"],
                    seed=seed).encode(images)
    if name == "supervised":
        return supervised(images, settings, seed)
    return components(images, int(name.removeprefix("pca") or settings["latent"]), seed)


def told(sources: Mapping[str, np.ndarray], table: pd.DataFrame, split: Sequence, settings: Mapping[str, Any],
         seed: int) -> dict[str, Any]:
    """What probes read out of embeddings, by logistic regression and support vector machines.

    Results: ``<source>_<class>``, AUC, and ``<source>_<class>_accuracy``, balanced; ``<source>_age``, R squared, and
    ``<source>_age_error``, MAE in years (SVR); ``<source>_findings``, mean AUC of the five; ``<source>_sex_<svm>``;
    each but the mean with its interval, and against PCA of equal size as ``..._beyond``. ``diffusion_..._less``:
    diffusion less variational.
    """
    classes = [name for name in CLASSES if name in settings.get("labels", CLASSES)]
    found, out = {}, {}
    for against, names in (("pca", list(sources)), ("variational", ["variational", "diffusion"])):
        if against not in sources or not set(names) <= set(sources):
            continue
        some = {name: sources[name] for name in names}
        table_of = [read_out(some, table[[*classes, "age"]], split, numbers=("age",), probes=("logistic", "svr"),
                             against=against, seed=seed, draws=500)]
        if settings.get("machines") and against == "pca":
            some = {name: part for name, part in some.items() if name in ("pca", *autoencoders.KINDS)}
            table_of.append(read_out(some, table[["sex"]], split, probes=("linear_svm", "rbf_svm"), against=against,
                                     seed=seed, draws=500))
        found[against] = pd.concat(table_of)
    metrics = {"auc": "", "balanced_accuracy": "_accuracy", "r2": "", "mae": "_error"}
    for against, results in found.items():
        for row in results.itertuples():
            name = f"{row.embedding}_{row.label}{metrics[row.metric]}"
            name += f"_{row.probe}" if row.probe.endswith("svm") else ""
            if against == "pca":
                out |= {name: row.value, f"{name}_interval": [row.low, row.high]}
            if row.embedding != against:
                end = "beyond" if against == "pca" else "less"
                out |= {f"{name}_{end}": row.change, f"{name}_{end}_interval": [row.change_low, row.change_high]}
    if set(FINDINGS) <= set(classes):
        out |= {f"{name}_findings": float(np.mean([out[f"{name}_{f}"] for f in FINDINGS])) for name in sources}
    return out


# ---------------------------------------------------------------------- (d) erasure
def rows(table: pd.DataFrame, shares: Mapping[tuple[str, int], float], counts: Sequence[int], seed: int) -> np.ndarray:
    """Rows of each split in which sex and the finding have given shares, drawn without replacement; None elsewhere.

    Parameters
    ----------
    table : pandas.DataFrame
        Of a cohort.
    shares : mapping
        Share of each pair of sex and finding.
    counts : sequence of int
        Rows of train, validation and test.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        When a split has too few rows of a pair.
    """
    rng, out = np.random.default_rng(seed), np.full(len(table), None, dtype=object)
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        inside = (table["split"] == split).to_numpy()
        for (sex, present), share in shares.items():
            fits = np.flatnonzero(inside & (table["sex"] == sex) & (table[FINDING] == present))
            if len(fits) < (wanted := round(count * share)):
                raise ValueError(f"split '{split}' has {len(fits)} rows with sex {sex} and {FINDING} {present}, "
                                 f"{wanted} are needed")
            out[rng.choice(fits, wanted, replace=False)] = split
    return out


def two_draws(table: pd.DataFrame, p: float, settings: Mapping[str, Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which women and the finding agree with probability ``p``, and rows in which they are independent.

    No training row is in both, so what an eraser learned from the first is judged by probes that learn from others.
    Settings: those of :func:`counted`.
    """
    apart = rows(table, agreeing(0.5), counted(settings), seed)
    rest = table.assign(split=table["split"].mask(apart == "train"))
    return rows(rest, agreeing(p), counted(settings, "n_eraser"), seed + 1), apart


def counted(settings: Mapping[str, Any], learn: str = "n_probe") -> list[int]:
    """Rows that probes, or with ``learn="n_eraser"`` erasers, learn from; are chosen on; and are tested on.

    Settings: ``n_probe``, ``n_probe_test``; ``n_eraser``, as many as for probes where not given.
    """
    return [settings.get(learn, settings["n_probe"]), settings["n_probe"] // 3, settings["n_probe_test"]]


def normal_twin(x: np.ndarray, table: pd.DataFrame, seed: int) -> np.ndarray:
    """Normal latents with the embedding's mean in each cell of sex and finding, and its covariance within cells.

    All that they tell of sex is linear. What probes still find of it after an eraser comes from the number of rows.
    """
    cell = table.groupby(["sex", FINDING]).ngroup().to_numpy()
    means = np.array([x[cell == k].mean(axis=0) for k in range(cell.max() + 1)])[cell]
    spread = np.linalg.cholesky(np.cov((x - means).T) + 1e-9 * np.eye(x.shape[1]))
    return means + np.random.default_rng(seed).standard_normal(x.shape) @ spread.T


def agreeing(p: float) -> dict[tuple[str, int], float]:
    """Half women, half with the finding, of whom a share ``p`` are women."""
    return {("F", 1): p / 2, ("M", 1): (1 - p) / 2, ("F", 0): (1 - p) / 2, ("M", 0): p / 2}


def versions(x: np.ndarray, table: pd.DataFrame, split: np.ndarray, names: Iterable[str] = FORMS
             ) -> dict[str, np.ndarray]:
    """An embedding as it is and without sex, by every eraser, fitted pooled and within class on the train rows."""
    train, sex = np.flatnonzero(split == "train"), (table["sex"] == "F").astype(int).rename("sex")
    out = {}
    for name in names:
        eraser, form = FORMS[name]
        target = table[FINDING] if form == "within" else None
        out[name] = ERASERS[eraser](x, sex, train, target=target)(x) if form else x
    return out


def erased(x: np.ndarray, table: pd.DataFrame, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Sex erased from an embedding where it agrees with the finding to several degrees.

    Erasers and readers of the finding learn from rows in which women and the finding agree with probability p; probes
    of sex from other patients, in whom the two are independent.
    Settings: ``agreements``, and those of :func:`two_draws`.
    Results, for each p and eraser: ``p<100 p>_<eraser>_<form>_linear`` and ``..._rbf``, AUC of fresh probes of sex;
    ``..._same`` and ``..._apart``, AUC of the finding on rows like those learned from and on rows in which sex is
    independent, with ``_change`` from ``none``; and ``<eraser>_<form>_fall``, the change of ``_same`` at the largest p
    less that at the smallest. For the smallest and largest p also ``p<100 p>_twin_leace_<form>_linear`` and
    ``..._rbf``, the same of :func:`normal_twin`.
    """
    out: dict[str, Any] = {}
    ends, twin = (min(settings["agreements"]), max(settings["agreements"])), normal_twin(x, table, seed)
    for p in settings["agreements"]:
        split, apart = two_draws(table, p, settings, seed)
        kept = versions(x, table, split)
        if p in ends:
            of_twin = versions(twin, table, split, [name for name in FORMS if name.startswith("leace")])
            probes = read_out(of_twin, table[["sex"]], apart, probes=("logistic", "rbf_svm"), seed=seed, draws=2)
            out |= {f"p{round(100 * p)}_twin_{row.embedding}_{'rbf' if row.probe == 'rbf_svm' else 'linear'}": row.value
                    for row in probes[probes["metric"] == "auc"].itertuples()}
        probes = read_out(kept, table[["sex"]], apart, probes=("logistic", "rbf_svm"), seed=seed, draws=500)
        for row in probes[probes["metric"] == "auc"].itertuples():
            name = f"p{round(100 * p)}_{row.embedding}_{'rbf' if row.probe == 'rbf_svm' else 'linear'}"
            out |= {name: row.value, f"{name}_interval": [row.low, row.high]}
        for where, tested in (("same", split), ("apart", np.where(split == "test", None, split))):
            tested = np.where((apart == "test") & (where == "apart"), "test", tested)
            read = read_out(kept, table[[FINDING]], tested, probes=("logistic",), against="none", seed=seed, draws=500)
            for row in read[read["metric"] == "auc"].itertuples():
                name = f"p{round(100 * p)}_{row.embedding}_{where}"
                out |= {name: row.value, f"{name}_interval": [row.low, row.high], f"{name}_change": row.change,
                        f"{name}_change_interval": [row.change_low, row.change_high]}
    low, high = (f"p{round(100 * p)}" for p in ends)
    return out | {f"{name}_fall": out[f"{high}_{name}_same_change"] - out[f"{low}_{name}_same_change"]
                  for name in FORMS if name != "none"}


# ---------------------------------------------------------------------- (e) gaps
def by_group(x: np.ndarray, table: pd.DataFrame, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Gaps between women and men that come from prevalence, and from thresholds, before and after erasure.

    One logistic regression, classes not weighted. Settings: ``prevalence`` of the finding in women and men, where the
    threshold is the overall one; ``cuts``, thresholds of women and men where prevalence is equal. Results, for every
    eraser and each of ``prevalence``, ``equal`` (equal prevalence, threshold .5), ``cuts`` and ``own``, the last less
    ``equal``: ``<cause>_<eraser>_<form>_<rate>``, the women's TPR, FPR or PPV less the men's, and its ``_change`` from
    ``none``; and ``added_<eraser>_<form>_<rate>``, ``prevalence`` less ``equal``, of different patients.
    """
    few, many = settings["prevalence"]
    unequal = {("F", 1): few / 2, ("F", 0): (1 - few) / 2, ("M", 1): many / 2, ("M", 0): (1 - many) / 2}
    women, sick = (table["sex"] == "F").to_numpy(), (table[FINDING] == 1).to_numpy()
    out: dict[str, Any] = {}
    for shares, causes in ((unequal, {"prevalence": ((few + many) / 2,) * 2}),
                           (agreeing(0.5), {"equal": (0.5, 0.5), "cuts": settings["cuts"]})):
        split, gaps = rows(table, shares, counted(settings, "n_eraser"), seed + 2), {}
        train, test = (np.flatnonzero(split == part) for part in ("train", "test"))
        for name, part in versions(x, table, split).items():
            z = standardised(part[train], part)[1]
            said = LogisticRegression(max_iter=1000).fit(z[train], sick[train]).predict_proba(z[test])[:, 1]
            found = {cause: rate_gaps(said >= np.where(women[test], *cut), sick[test], women[test])
                     for cause, cut in causes.items()}
            if "cuts" in found:
                found["own"] = {rate: gap - found["equal"][rate] for rate, gap in found["cuts"].items()}
            gaps[name] = {f"{cause}_{{}}_{rate}": gap for cause, rates in found.items() for rate, gap in rates.items()}
        values = {place.format(name): gap for name, found in gaps.items() for place, gap in found.items()}
        values |= {place.format(name) + "_change": gap - gaps["none"][place] for name, found in gaps.items()
                   for place, gap in found.items() if name != "none"}
        out |= with_intervals(values, seed, 500)
    return out | {f"added_{name}_{rate}": out[f"prevalence_{name}_{rate}"] - out[f"equal_{name}_{rate}"]
                  for name in FORMS for rate in ("tpr", "fpr", "ppv")}


def rate_gaps(called: np.ndarray, sick: np.ndarray, women: np.ndarray) -> dict[str, np.ndarray]:
    """TPR, FPR and PPV of women less those of men, one number a patient: their mean is the gap (ratios linearised)."""
    def share(hit: np.ndarray, trial: np.ndarray) -> np.ndarray:
        value = (hit & trial).sum() / trial.sum()
        return value + ((hit & trial) - value * trial) / trial.mean()

    pairs = {"tpr": (called, sick), "fpr": (called, ~sick), "ppv": (sick, called)}
    return {rate: share(hit, trial & women) - share(hit, trial & ~women) for rate, (hit, trial) in pairs.items()}


# ---------------------------------------------------------------------- (b) a shift that nobody labelled
def shifted(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Look for a hidden shift of the acquisition without its label.

    Settings: as for :func:`cohort` and :func:`fitted`, with ``sources``. All else that has few values is given.
    Results, for each source: ``found``, 1 where :func:`~bias_tutorial.clustering.hidden_mode` decides *unexplained*;
    ``agreement``, balanced accuracy of its two sides against the truth (.5 where nothing was found); ``told``, 1 where
    it still decides so when the shift is among the given labels; ``cluster``, 1 where HDBSCAN, of the embedding less
    what given labels explain, leaves a cluster that they do not explain; and ``read``, AUC of a logistic probe that is
    given the label.
    """
    images = cohort(settings, seed)
    table, given = images.table, known(images)
    out: dict[str, Any] = {}
    for source in settings["sources"]:
        x = fitted(source, images, settings, seed)[0].encode(images) if source in autoencoders.KINDS else \
            other(source, images, settings, seed)
        found = hidden_mode(x, given, seed=seed)
        told_too = hidden_mode(x, given.assign(hidden=table["hidden"]), seed=seed)
        seen = found.decision == "unexplained"
        fit = (table["split"] == "train").to_numpy()
        left = clusters(without(x, given, fit), fit)
        decided = verdicts(explain(left, given, ~fit, seed=seed, draws=300)) if left.count else pd.DataFrame()
        read = read_out({source: x}, table[["hidden"]], table["split"], probes=("logistic",), seed=seed, draws=2)
        out |= {f"{source}_found": int(seen), f"{source}_p": found.p,
                f"{source}_agreement": agreement(found.inside, table["hidden"]) if seen else 0.5,
                f"{source}_told": int(told_too.decision == "unexplained"),
                f"{source}_cluster": int(len(decided) and (decided["verdict"] == "unexplained").any()),
                f"{source}_read": float(read.loc[read["metric"] == "auc", "value"].iloc[0])}
    return out


def known(images: Cohort) -> pd.DataFrame:
    """All that has few values and age, but not the hidden shift: what a report and a header would hold."""
    sides = [f"{finding}_side" for finding in FINDINGS[1:]]
    return images.table[["sex", "age", "site", "view", *images.schema.targets, *sides, "marker"]]


def agreement(inside: np.ndarray, truth: pd.Series) -> float:
    """Balanced accuracy of a side against the truth, whichever way round it is named."""
    value = balanced_accuracy_score(truth.to_numpy(int), inside.astype(int))
    return float(max(value, 1 - value))
