"""Measures behind the audits of chapter 5: what maps show, patients on both sides, an eraser fitted on test data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist
from sklearn.cluster import HDBSCAN

from ..clustering import clusters, maps
from ..mitigation.erasure import leace
from ..probing.readout import read_out
from ..simulate.chest import ChestDesign, chest
from .chapter_01 import TRAINING, cohort_seed
from .chapter_05 import agreeing, cohort, components, rows

GROUP_SIZE = 200
HARD = "nodule"  # it is lost in 32 pixels


def map_faults(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What t-SNE makes of distances and sizes that are known, and of a cloud in which there is nothing.

    Three normal groups of 200 in ten dimensions: the second lies ``settings['near']`` standard deviations from the
    first, the third ``settings['far']``, and the third is ``settings['spread']`` times as wide. Results for each
    perplexity of ``settings['perplexities']``: ``distance_<perplexity>``, the map's distance first to third over first
    to second (``distance_true``: what it is); ``size_<perplexity>``, the width of the third over the first; and
    ``islands_<perplexity>``, clusters that HDBSCAN (at least 10 points) finds on the map of 600 normal points, beside
    ``islands_true``, those of :func:`~bias_tutorial.clustering.clusters` in the ten dimensions.
    """
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(3, GROUP_SIZE, 10))
    groups[2] *= settings["spread"]
    groups[1, :, 0] += settings["near"]
    groups[2, :, 1] += settings["far"]
    cloud = rng.normal(size=(3 * GROUP_SIZE, 10))
    out: dict[str, float] = {"distance_true": _ratios(groups)[0], "size_true": _ratios(groups)[1],
                             "islands_true": clusters(cloud, np.arange(len(cloud))).count}
    drawn, empty = (maps(x, settings["perplexities"], (seed,)).points for x in (groups.reshape(-1, 10), cloud))
    for perplexity in settings["perplexities"]:
        distance, size = _ratios(drawn[perplexity, seed].reshape(3, GROUP_SIZE, 2))
        found = HDBSCAN(min_cluster_size=10, copy=True).fit_predict(empty[perplexity, seed])
        out |= {f"distance_{perplexity}": distance, f"size_{perplexity}": size,
                f"islands_{perplexity}": int(found.max() + 1)}
    return out


def _ratios(groups: np.ndarray) -> tuple[float, float]:
    """Distance first to third over first to second, and width (mean distance inside) of the third over the first."""
    middle = groups.mean(axis=1)
    near, far = (np.linalg.norm(middle[k] - middle[0]) for k in (1, 2))
    return float(far / near), float(pdist(groups[2]).mean() / pdist(groups[0]).mean())


def same_patient(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Several images of a patient, split by image and split by patient: AUC of a finding that hardly shows.

    Settings: ``n_patients``, ``images`` of each, ``likeness``, values of it; ``shape``, ``latent`` (principal
    components of the pixels, of the training rows of the split by patient, which needs no label). An RBF machine reads
    them. At likeness 0 a patient's images still share sex, age and site. Results, for each likeness in hundredths:
    ``rows_<likeness>`` and ``patients_<likeness>``, AUC; ``inflation_<likeness>``, the first less the second.
    """
    out: dict[str, float] = {}
    for likeness in settings["likeness"]:
        design = ChestDesign(findings={HARD: 0.5}, images=settings["images"], likeness=likeness,
                             split_shares=(0.5, 0.2, 0.3))
        made = chest(design, settings["n_patients"], cohort_seed(seed, TRAINING), tuple(settings["shape"]))
        mixed = pd.Series(np.random.default_rng(seed).permutation(made.table["split"]))
        x = components(made, settings["latent"], seed)
        name = round(100 * likeness)
        for way, split, patients in (("rows", mixed, None), ("patients", made.table["split"],
                                                             made.table["patient_id"])):
            read = read_out({"pca": x}, made.table[[HARD]], split, patients, probes=("rbf_svm",), seed=seed, draws=2)
            out[f"{way}_{name}"] = float(read.loc[read["metric"] == "auc", "value"].iloc[0])
        out[f"inflation_{name}"] = out[f"rows_{name}"] - out[f"patients_{name}"]
    return out


def eraser_on_test(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """LEACE fitted on the rows that it is then judged on: what is reported there, and what other patients show.

    Settings: those of a cohort, ``latent`` (principal components), ``n_probe``, training rows and test rows, and
    ``n_probe_test``. Results: AUC of fresh linear probes of sex, ``reported`` on the rows that the eraser saw,
    ``others`` on other test patients with the same eraser, and ``honest`` on those with an eraser fitted on as many
    training rows, none of which the probe learns from; ``flattery``, others less reported.
    """
    images = cohort(settings, seed)
    table, x = images.table, components(images, settings["latent"], seed)
    counts = [settings["n_probe"], settings["n_probe"] // 3, settings["n_probe"]]
    split = rows(table, agreeing(0.5), counts, seed)
    seen, unseen = np.flatnonzero(split == "test"), (table["split"] == "test").to_numpy() & (split != "test")
    sex = (table["sex"] == "F").astype(int).rename("sex")
    wrong = leace(x, sex, seen)(x)
    fresh = np.flatnonzero((table["split"] == "train").to_numpy() & (split != "train"))[:settings["n_probe"]]
    right = leace(x, sex, fresh)(x)
    others = np.where(split == "test", None, split)
    others[np.flatnonzero(unseen)[:settings["n_probe_test"]]] = "test"
    out: dict[str, Any] = {}
    for name, part, tested in (("reported", wrong, split), ("others", wrong, others), ("honest", right, others)):
        read = read_out({"erased": part}, table[["sex"]], tested, probes=("logistic",), seed=seed, draws=500)
        row = read[read["metric"] == "auc"].iloc[0]
        out |= {name: float(row["value"]), f"{name}_interval": [float(row["low"]), float(row["high"])]}
    return out | {"flattery": out["others"] - out["reported"]}
