"""Figures, tables and the explorer of chapter 6."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .. import claims, explore, plotting
from ..findings import Predictions

PROCEDURES = {"counts": "balanced counts", "by_finding": "group by finding", "reweighing": "reweighing",
              "released": "as released", "described": "as described"}
"""Names of the stored runs' arms in figures and tables."""

CAUSES = {"no cause": "n", "prevalence": "p", "missed labels": "l", "blurred findings": "f", "other looks": "r",
          "all": "a"}
"""Cohorts of the stored runs, and how their claims begin."""

PREVALENCE_GAPS = {"plain": "p_plain", "balanced counts": "p_counts", "group by finding": "p_by_finding",
                   "reweighing": "p_reweighing"}
"""Claims that hold the gaps where prevalence is the only cause."""

COSTS = {"balanced counts": "b_counts", "random subset, as small": "c_subset", "as released": "b_released",
         "random subset, as small as that": "c_subset_released", "as described": "b_described",
         "group by finding": "b_by_finding", "reweighing": "b_reweighing"}
"""Claims that hold the changes of overall AUC."""


def gap_by_cause() -> plotting.Figure:
    """Stored runs: FNR of the smallest group less that of the largest, by cause and arm, beside the answer key."""
    rows, key = {}, {}
    for cause, start in CAUSES.items():
        runs = claims.stored_runs("06", f"{start}_plain")
        for arm in ("plain", "counts", "by_finding"):
            row = f"{cause}: {PROCEDURES.get(arm, arm)}"
            rows[row] = claims.over_seeds(runs[f"{arm}_gap_youden"].to_numpy())
            key[row] = runs[f"{arm}_key_gap"].mean()
    return plotting.dots(rows, {"what we want": dict.fromkeys(rows, 0.0), "key": key}, "FNR of E less that of A")


def threshold_explorer(predictions: Mapping[str, Predictions]) -> explore.Output:
    """Choose training, finding and threshold: who is missed, who is called sick, and the gap."""
    chosen = ("Pleural Effusion", "Pneumonia", "Pneumothorax")
    cuts = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)

    def rates(said: Predictions, finding: str, cut: float) -> tuple[pd.Series, pd.Series]:
        k, race = said.findings.index(finding), said.groups.iloc[:, 0].to_numpy()
        positive, sick = said.probability[:, k] >= cut, (said.labels[finding] == 1).to_numpy()
        return (pd.Series(~positive[sick]).groupby(race[sick]).mean(),
                pd.Series(positive[~sick]).groupby(race[~sick]).mean())

    over = {(name, finding): [rates(said, finding, cut) for cut in cuts]
            for name, said in predictions.items() for finding in chosen}

    def frame(training: str, finding: str, threshold: float) -> explore.Frame:
        fnr, fpr = over[training, finding][cuts.index(threshold)]
        values = {"FNR of A": fnr["A"], "FNR of E": fnr["E"], "gap, E less A": fnr["E"] - fnr["A"],
                  "worst FNR of all groups": fnr.max(), "FPR of A": fpr["A"], "FPR of E": fpr["E"]}
        series = [plotting.Series(f"FNR of {race}", cuts, [missed[race] for missed, _ in over[training, finding]])
                  for race in ("A", "E")]
        return explore.Frame({name: float(value) for name, value in values.items()},
                             plotting.lines(series, "threshold", "FNR", mark=threshold, ylim=(0, 1.05)))

    return explore.explorer("Whom a threshold misses", {"training": list(predictions), "finding": chosen,
                                                        "threshold": cuts}, frame,
                            {"training": "plain", "finding": "Pneumothorax", "threshold": 0.5})


def levelling(how: str = "fixed") -> plotting.Figure:
    """Stored runs, all causes: change of the gap against change of the mean FNR, one point a procedure."""
    runs = claims.stored_runs("06", "a_plain")
    series = []
    for arm, label in PROCEDURES.items():
        gap, mean = (runs[f"{arm}_{what}_{how}_change"].to_numpy() for what in ("gap", "fnr"))
        series.append(plotting.Series(label, [gap.mean()], *np.transpose([claims.over_seeds(mean)]), points=True))
    return plotting.lines(series, "change of the gap", "change of mean FNR", mark=0.0,
                          legend=True)


def levelling_table() -> pd.DataFrame:
    """Stored runs, all causes: changes against plain training at two kinds of threshold, means over seeds."""
    runs = claims.stored_runs("06", "a_plain")
    columns = {"gap": "gap", "mean FNR": "fnr", "worst FNR": "worst"}
    return pd.DataFrame({label: {(at, title): runs[f"{arm}_{what}_{how}_change"].mean()
                                 for at, how in (("threshold .5", "fixed"), ("Youden", "youden"))
                                 for title, what in columns.items()}
                         for arm, label in PROCEDURES.items()}).T.round(3)


def splits_table() -> pd.DataFrame:
    """Stored runs: AUC on the validation split and on other patients, by the order of splitting and balancing."""
    runs = claims.stored_runs("06", "g_copies")
    rows = {"split by patient, then balanced": "honest", "split by row, then balanced": "rows",
            "balanced, then split by row": "copies"}
    return pd.DataFrame({label: {"on both sides": runs[f"{way}_on_both_sides"].mean(),
                                 "validation AUC": runs[f"{way}_validation"].mean(),
                                 "AUC, other patients": runs[f"{way}_test"].mean()}
                         for label, way in rows.items()}).T.round(3)
