"""Figures and explorers of chapter 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .. import answer_key, claims, explore, pictures, plotting
from .stored import over_seeds


def losses(history: pd.DataFrame) -> plotting.Figure:
    """Loss of training and validation over the epochs of :func:`bias_tutorial.training.fit`."""
    series = [plotting.Series(name, history["epoch"], history[f"{name}_loss"]) for name in ("train", "validation")]
    best = int(history.loc[history["best"], "epoch"].iloc[-1])
    return plotting.lines(series, "epoch", "loss (cross-entropy)", mark=best)


def groups_against_key(results: Mapping[str, Mapping[str, Any]], p: float) -> plotting.Figure:
    """Accuracy of networks in the aligned and the conflicting group, beside both reference lines.

    ``results`` are those of :func:`bias_tutorial.studies.chapter_02.judge`, by design.
    """
    key = answer_key.shortcut_curve(p).iloc[0]
    rows, rewarded = {}, {}
    for name, result in results.items():
        for side in ("aligned", "conflicting"):
            rows[f"{name}, {side}"] = (result[side], *result[f"{side}_interval"])
            rewarded[f"{name}, {side}"] = key[side]
    wanted = dict.fromkeys(rows, key["wanted"])
    return plotting.dots(rows, {"rewarded by the data": rewarded, "what we want": wanted}, "accuracy", xlim=(0.55, 1.0))


RUNS_OVER_N = {500: ("n_500", "g_500"), 1000: ("n_1000", "g_1000"), 2000: ("f_growth",), 4000: ("n_4000", "g_4000")}
"""Training images of the stored runs of ``curve``, and the claims that hold them."""


def gap_over_p() -> plotting.Figure:
    """Stored runs: the network's TPR gap at several agreements, on the key's curve; intervals over seeds."""
    p = (0.5, 0.6, 0.7, 0.9)
    runs, curve = claims.stored_runs("02", "f_growth"), answer_key.shortcut_curve(np.linspace(0.5, 0.9, 41))
    return plotting.lines([plotting.Series("rewarded", curve["p"], curve["tpr_gap"]),
                           plotting.Series("wanted", curve["p"], 0 * curve["p"]),
                           over_seeds("network", p, [runs[f"p{round(100 * x)}_tpr_gap"] for x in p])],
                          "agreement p", "TPR gap")


def gap_over_n() -> plotting.Figure:
    """Stored runs: the TPR gap at p = .7 over the number of training images; intervals over seeds."""
    n, key = list(RUNS_OVER_N), float(answer_key.shortcut_curve(0.7)["tpr_gap"].iloc[0])
    return plotting.lines([plotting.Series("rewarded", n, [key] * len(n)), plotting.Series("wanted", n, [0.0] * len(n)),
                           over_seeds("network", n, [claims.stored_runs("02", RUNS_OVER_N[k][0])["p70_tpr_gap"]
                                                      for k in n])],
                          "training images", "TPR gap")


def stored_explorer() -> explore.Output:
    """Sliders over p and n: what networks did in the stored runs, means over seeds and the range of the gap."""
    p_values, curve = [0.5, 0.7, 0.9], answer_key.shortcut_curve(np.linspace(0.5, 0.9, 41))
    runs = {n: pd.concat([claims.stored_runs("02", name).set_index("seed") for name in names], axis=1)
            for n, names in RUNS_OVER_N.items()}
    shown = [plotting.Series(f"key, {side}", curve["p"], curve[side]) for side in ("aligned", "conflicting")]

    def frame(p: float, n: int) -> explore.Frame:
        key = answer_key.shortcut_curve(p).iloc[0]
        at = {what: runs[n][f"p{round(100 * p)}_{what}"]
              for what in ("tpr_gap", "aligned", "conflicting", "same", "decorrelated")}
        values = {"TPR gap": at["tpr_gap"].mean(), "smallest of all seeds": at["tpr_gap"].min(),
                  "largest of all seeds": at["tpr_gap"].max(), "key's gap": key["tpr_gap"],
                  "aligned": at["aligned"].mean(), "conflicting": at["conflicting"].mean(),
                  "training distribution": at["same"].mean(), "decorrelated": at["decorrelated"].mean(),
                  "seeds": len(runs[n])}
        sides = [over_seeds(side, p_values, [runs[n][f"p{round(100 * x)}_{side}"] for x in p_values])
                 for side in ("aligned", "conflicting")]
        return explore.Frame(values,
                             plotting.lines([*shown, *sides], "agreement p", "accuracy", mark=p, ylim=(0.4, 1.0)))

    return explore.explorer("Networks in the stored runs", {"p": p_values, "n": list(RUNS_OVER_N)}, frame,
                            {"p": 0.7, "n": 2000},
                            {"p": "agreement p between bias and disease", "n": "training images n"})


def volumes_beside_slices() -> pd.DataFrame:
    """Stored runs at p = .7: networks on slices (means over seeds), and each network on volumes."""
    columns = ["aligned", "conflicting", "same", "decorrelated", "tpr_gap", "fpr_gap"]
    slices, rows = claims.stored_runs("02", "b_far_tpr"), {}
    for mark in ("far", "intensity"):
        rows[mark, f"slices, {len(slices)} seeds"] = [slices[f"{mark}_{column}"].mean() for column in columns]
        for _, run in claims.stored_runs("02", f"v_{mark}").iterrows():
            rows[mark, f"volumes, seed {run['seed']}"] = [run[f"p70_{column}"] for column in columns]
    return pd.DataFrame(rows, index=columns).T.astype(float).round(3)


def saliency_maps(maps: Mapping[str, np.ndarray]) -> plotting.Figure:
    """Mean saliency of several networks, each scaled so that its highest hundredth of pixels is white."""
    shown = [np.clip(m.mean(0) / np.quantile(m.mean(0), 0.99), 0, 1) for m in maps.values()]
    return pictures.image_grid(shown, list(maps), what="Mean saliency of each network (bright: matters more)")
