"""Figures, tables and the explorer of chapter 4."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .. import answer_key, claims, explore, pictures, plotting
from ..answer_key.one_sided import KINDS
from ..cohort import Cohort
from ..studies import chapter_04
from .stored import over_seeds

ARMS = {"plain": "plain", "groups": "plain, epoch by groups", "lnl": "Learning Not to Learn",
        "reversal": "reversal alone", "conditional": "reversal, told the class",
        "unlearning": "adversarial unlearning", "reweighing": "reweighing", "balanced": "balanced batches",
        "group_models": "group models", "longer": "plain training twice as long"}
"""Names of the stored runs' arms in figures and tables."""

PUBLISHED_DIGITS = pd.DataFrame({"plain": [.4055, .4813, .5996, .6626, .7333, .7973, .8450],
                                 "grey": [.8374, .8751, .8996, .9166, .9325, .9472, .9596],
                                 "lnl": [.8185, .8854, .9137, .9306, .9406, .9555, .9618]},
                                index=[.020, .025, .030, .035, .040, .045, .050])
"""Accuracy on coloured MNIST by the variance of the colour (Kim et al., CVPR 2019)."""

GAPS = {ARMS[name]: f"g_{name}_gap" for name in
        ("plain", "longer", "groups", "lnl", "reversal", "conditional", "unlearning", "group_models", "balanced",
         "reweighing")}
"""Claims that hold the gaps of all arms on brains."""

CLEAN = {"plain, no lines": "a_clean", "plain, .7": "a_70", "LNL, .7": "b_70_accuracy", "plain, .9": "a_90",
         "epoch by groups, .9": "b_90_groups", "LNL, .9": "b_90_accuracy", "reversal, .9": "b_90_reversal",
         "told the class, .9": "b_90_conditional", "plain, 1": "a_100", "LNL, 1": "o_accuracy"}
"""Claims that hold accuracy on clean scans, by arm and rho."""


def marked_scans(clean: Cohort, lined: Cohort) -> plotting.Figure:
    """A scan of each kind as it is, and with the red line."""
    rows = clean.table.reset_index(drop=True).groupby("kind").head(1).index
    images = [np.moveaxis(cohort.batch([row])[0], 0, -1) for cohort in (clean, lined) for row in rows]
    titles = [f"{clean.table['kind'].iloc[row]}{end}" for end in ("", ", line") for row in rows]
    return pictures.image_grid(images, titles, what="Simulated scans of each kind, as they are and "
                               "with a red dashed line along the lesion and its length")


def _runs(name: str, what: str = "accuracy") -> dict[float, pd.Series]:
    """A result of an arm in the stored runs on tumour scans, by rho."""
    found = {}
    for claim in ("a_clean", "a_70"):
        runs = claims.stored_runs("04", claim)
        for rho in (0.0, 0.7, 0.9, 1.0):
            if (column := f"r{round(100 * rho)}_{name}_{what}") in runs:
                found.setdefault(rho, runs[column])
    return dict(sorted(found.items()))


def accuracy_over_rho(names: Sequence[str] = ("plain", "lnl")) -> plotting.Figure:
    """Stored runs: accuracy on clean scans over rho, beside the key at perfect sight and at the network's own."""
    rhos = np.append(np.linspace(0, 0.98, 50), 1.0)
    own = chapter_04.separation(_runs("plain")[0.0].mean(), KINDS)
    series = [plotting.Series(label, rhos, answer_key.one_sided(rhos, separation=apart)["mean"])
              for label, apart in (("key", 2.0), ("key at the network's sight", own))]
    for name in names:
        runs = _runs(name)
        series.append(over_seeds(ARMS[name], list(runs), list(runs.values())))
    return plotting.lines(series, "rho: share of gliomas with a line in training", "accuracy on clean scans",
                          legend=True)


def marks_explorer() -> explore.Output:
    """Choose method, lambda and rho: what networks did in the stored runs on small scans, means over seeds."""
    runs = claims.stored_runs("04", "x_plain")
    methods = {ARMS["plain"]: "plain", ARMS["groups"]: "groups", ARMS["lnl"]: "lnl",
               f"{ARMS['lnl']}, told the class": "told"}
    strengths, rhos = {0.0: "0", 0.01: "1", 0.1: "10"}, (0.5, 0.7, 0.9, 1.0)
    keys = plotting.Series("key", curve := np.append(np.linspace(0.5, 0.98, 25), 1.0),
                           answer_key.one_sided(curve)["mean"])

    def frame(method: str, lambda_: float, rho: float) -> explore.Frame:
        adversary = methods[method] in ("lnl", "told")
        arm = methods[method] + (strengths[lambda_] if adversary else "")

        def found(what: str, at: float) -> pd.Series:
            return runs[f"r{round(100 * at)}_{arm}_{what}"]

        accuracy = {at: found("accuracy", at) for at in rhos}
        values = {"accuracy, clean scans": accuracy[rho].mean(), "smallest of all seeds": accuracy[rho].min(),
                  "largest of all seeds": accuracy[rho].max(),
                  "accuracy, clean gliomas": found("glioma_accuracy", rho).mean(),
                  "called glioma for a line": found("drawn", rho).mean(),
                  "fresh probe for the line, AUC": found("mark_auc", rho).mean()}
        network = over_seeds("network", rhos, list(accuracy.values()))
        return explore.Frame({name: float(value) for name, value in values.items()} | {"seeds": len(runs)},
                             plotting.lines([keys, network], "rho", "accuracy, clean scans", mark=rho, ylim=(0.3, 0.8)))

    return explore.explorer("Networks in the stored runs", {"method": list(methods), "lambda_": list(strengths),
                                                            "rho": rhos}, frame,
                            {"method": ARMS["lnl"], "lambda_": 0.01, "rho": 0.9},
                            {"lambda_": "lambda (adversaries only)", "rho": "rho, share of gliomas with a line"})


MAP = {"a line on gliomas": ("x_plain", "r90_", "accuracy_change"),
       "intensity": ("w_intensity", "", "decorrelated_change"),
       "a bright side": ("w_receive_field", "", "decorrelated_change"), "shape": ("w_far", "", "decorrelated_change")}
"""Kinds of bias in the wider map: claim, start of the results' names, and which result."""
MATCHES = 0.02
"""A method matches plain training when the interval of the difference lies within this of 0."""


def methods_map() -> pd.DataFrame:
    """Stored runs: change of accuracy against plain training, every method on every kind of bias.

    Mean over seeds with its 95% t interval, and what it says: beats, hurts (the interval excludes 0), matches (it lies
    within ``MATCHES`` of 0, whether or not it includes it), or open.
    """
    rows: dict[str, dict[str, str]] = {}
    for kind, (claim, start, what) in MAP.items():
        runs = claims.stored_runs("04", claim)
        for name in ("longer", "groups", "lnl", "reversal", "conditional", "unlearning", "group_models", "balanced",
                     "reweighing"):
            column = f"{start}{'lnl1' if start and name == 'lnl' else name}_{what}"
            rows.setdefault(ARMS[name], {})[kind] = _said(runs[column]) if column in runs else "–"
    return pd.DataFrame(rows).T


def _said(values: pd.Series) -> str:
    mean, low, high = claims.over_seeds(values.to_numpy())
    word = "matches" if -MATCHES < low and high < MATCHES else "beats" if low > 0 else "hurts" if high < 0 else "open"
    return f"{mean:+.3f} ± {mean - low:.3f}, {word}".replace("-", "−")


def methods_table() -> pd.DataFrame:
    """Stored runs on brains: every arm's gap, accuracies and fresh probes, means over seeds."""
    runs = claims.stored_runs("04", "g_plain_gap")
    columns = {"gap": "gap", "same distribution": "same", "decorrelated": "decorrelated", "worst group": "worst",
               "adversary": "adversary_accuracy", "probe: bias": "bias_accuracy", "probe: disease": "disease_accuracy"}
    rows = {label: {title: runs[f"{claim[2:-4]}_{name}"].mean() if f"{claim[2:-4]}_{name}" in runs else np.nan
                    for title, name in columns.items()} for label, claim in GAPS.items()}
    return pd.DataFrame(rows).T.map(lambda value: "" if np.isnan(value) else f"{value:.3f}")


def digits_beside_published() -> pd.DataFrame:
    """Accuracy on digits of random colour by variance of the colour: published on MNIST, ours on small digits."""
    runs = claims.stored_runs("04", "d_rise")
    ours = pd.DataFrame({name: [runs[f"v{round(1000 * v)}_{name}_accuracy"].mean() for v in PUBLISHED_DIGITS.index]
                         for name in PUBLISHED_DIGITS}, index=PUBLISHED_DIGITS.index)
    both = pd.concat({"published": PUBLISHED_DIGITS, "ours": ours}, axis=1).rename_axis("variance")
    return both.rename(columns={"lnl": "LNL"}).round(3)


def audits_table() -> pd.DataFrame:
    """Stored runs: accuracies with each fault, and with the fault mended; means over seeds."""
    runs = claims.stored_runs("04", "u_slices")
    rows = {"slices of trained patients, of others": ("slices_own", "slices_other"),
            "epoch by the test set, by validation": ("epoch_reported", "epoch_honest"),
            "batch norm in training mode, evaluation mode": ("batch_norm_wrong", "batch_norm_right"),
            "adversary frozen, trained: its own accuracy": ("frozen_adversary_accuracy", "trained_adversary_accuracy"),
            "the same: a fresh probe's": ("frozen_mark_accuracy", "trained_mark_accuracy")}
    return pd.DataFrame({label: {"with the fault": runs[a].mean(), "mended": runs[b].mean()}
                         for label, (a, b) in rows.items()}).T.round(3)
