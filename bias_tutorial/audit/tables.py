"""The tables of an audit as they may be shown; the report and the CSV files hold nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..findings import NO_FINDING
from ..mitigation.resampling.report import evenness
from . import study
from .groups import UNKNOWN, demographics, sets
from .privacy import LEAST, masked, numeric, share, shown, support

_METRICS = ("auc", "average_precision", "fnr", "fnr_low", "fnr_high", "fpr", "fpr_low", "fpr_high",
            "calibration_error", "calibration_in_the_large")
_TEXT, _OFTEN = 60, 50  # shown of what stood in a cell, where so many rows say the same: less may be one person's


def publish(results: study.Results) -> dict[str, pd.DataFrame]:
    """Everything that may leave, by the name of its CSV file.

    Returns
    -------
    dict of str to pandas.DataFrame
        ``input`` (what was read, left out and not known), ``labels``, ``findings``, ``groups``, ``evenness``,
        ``prevalence``, ``procedures``, ``training``, ``thresholds``, ``metrics``, ``gaps``, ``levelling_down``,
        ``underdiagnosis``. Counts are numbers in tens or text such as ``"<10"``.
    """
    cohort, by = results.cohort, results.settings.by
    people = demographics(cohort)
    found = {"input": _input(cohort), "labels": _labels(cohort)}
    found["findings"] = pd.DataFrame([{"finding": name, "learned": name in results.findings}
                                      for name in cohort.schema.targets])
    found["groups"] = _groups(cohort, people, by)
    found["evenness"] = _evenness_of(found["groups"])
    found["prevalence"] = _prevalence(cohort, people, by, results.findings)
    found["procedures"] = _procedures(results)
    behind = _behind(cohort, people, by, results.findings)
    for key, finish in _SHOWN.items():
        if rows := [{"procedure": name} | row for name, arm in results.arms.items() for row in arm.get(key, ())]:
            found[key] = finish(pd.DataFrame(rows), behind)
    found["underdiagnosis"] = _underdiagnosis(found["metrics"])
    return found


def _behind(cohort, people: pd.DataFrame, by: tuple[str, ...], learned: tuple[str, ...]) -> pd.DataFrame:
    """Test patients of every finding and group: with it, without it, and all."""
    test = np.flatnonzero(cohort.table["split"] == "test")
    patients = cohort.table["patient_id"].iloc[test].to_numpy()
    labels = cohort.table[list(learned)].iloc[test].to_numpy(dtype=float, na_value=np.nan)
    members = [(attribute, group, rows) for attribute, part in sets(people.iloc[test], by).items()
               for group, rows in part.items() if len(rows)]
    having, lacking = support(labels, [rows for *_, rows in members], patients)
    return pd.DataFrame([(finding, group, attribute, having[k, g], lacking[k, g], len(np.unique(patients[rows])))
                         for k, finding in enumerate(learned) for g, (attribute, group, rows) in enumerate(members)],
                        columns=["finding", "group", "attribute", "with", "without", "people"])


# ---------------------------------------------------------------------- the data
def _input(cohort) -> pd.DataFrame:
    """Rows read, kept, left out by reason, and demographics that are not known by what stands in their place."""
    rows = [("studies read", "", cohort.meta.get("excluded", {}).get("rows", len(cohort))),
            ("studies kept", "", len(cohort)), ("patients kept", "", cohort.table["patient_id"].nunique())]
    rows += [("left out", reason, n) for reason, n in cohort.meta.get("excluded", {}).get("reasons", {}).items()]
    for name, values in cohort.meta.get("unknown", {}).items():
        often = {text: n for text, n in values.items() if n >= _OFTEN}
        rows += [(f"{name} {UNKNOWN}", _spreadsheet_safe(text[:_TEXT]), n) for text, n in often.items()]
        if rest := sum(values.values()) - sum(often.values()):
            rows.append((f"{name} {UNKNOWN}", "(texts that stand in few rows)", rest))
    table = pd.DataFrame(rows, columns=["what", "detail", "number"])
    return table.assign(number=shown(table["number"]))


def _spreadsheet_safe(text: str) -> str:
    """A cell that begins like a formula would be run by a spreadsheet."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def _labels(cohort) -> pd.DataFrame:
    """How often each finding is 1, 0, uncertain and blank as stored; as used where nothing else is known."""
    stored = cohort.meta.get("labels") or {
        name: {"1": int((column == 1).sum()), "0": int((column == 0).sum()), "blank": int(column.isna().sum())}
        for name, column in cohort.table[list(cohort.schema.targets)].items()}
    return pd.DataFrame([{"finding": name} | {("uncertain" if key == "-1" else key): shown([n])[0]
                                              for key, n in counts.items()} for name, counts in stored.items()])


def _groups(cohort, people: pd.DataFrame, by: tuple[str, ...]) -> pd.DataFrame:
    patient, test = cohort.table["patient_id"].to_numpy(), (cohort.table["split"] == "test").to_numpy()
    rows = [(attribute, group, len(np.unique(patient[inside])), len(inside),
             len(np.unique(patient[inside[test[inside]]])))
            for attribute, members in sets(people, by).items() for group, inside in members.items()]
    table = pd.DataFrame(rows, columns=["attribute", "group", "patients", "studies", "test_patients"])
    counted = {"patients": shown(table["patients"]), "studies": shown(table["studies"], table["patients"]),
               "test_patients": shown(table["test_patients"])}
    table = table.assign(**counted)
    return table.assign(share=share(table["patients"], [counted["patients"][0]] * len(table)))


def _evenness_of(groups: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for attribute, part in groups[groups["attribute"] != "all"].groupby("attribute", sort=False):
        if len(part) > 1:
            rows.append({"attribute": attribute, "groups": len(part)} | _even(part["patients"]))
    return pd.DataFrame(rows, columns=["attribute", "groups", "entropy", "gini_coefficient", "gini_simpson"])


def _even(counts: list) -> dict[str, float]:
    """Entropy and both Gini measures of shown counts, two digits."""
    return {key: round(value, 2) for key, value in evenness(numeric(counts)).items() if key != "rows"}


def _prevalence(cohort, people: pd.DataFrame, by: tuple[str, ...], learned: tuple[str, ...]) -> pd.DataFrame:
    """P(finding | group) among all studies, from counts in tens."""
    labels = cohort.table[list(learned)].to_numpy(dtype=float, na_value=np.nan)
    families = sets(people, by)
    members = [(attribute, group, rows) for attribute, part in families.items() for group, rows in part.items()]
    counts = support(labels, [rows for *_, rows in members], cohort.table["patient_id"].to_numpy())
    table = []
    for k, finding in enumerate(learned):
        for g, (attribute, group, rows) in enumerate(members):
            column, fewest = labels[rows, k], counts[:, k, g].min()
            table.append((finding, attribute, group,
                          shown([(~np.isnan(column)).sum()], [counts[:, k, g].max()])[0],
                          shown([(column == 1).sum()], [fewest])[0]))
    table = pd.DataFrame(table, columns=["finding", "attribute", "group", "known", "present"])
    return table.assign(share=share(table["present"], table["known"]))


# ---------------------------------------------------------------------- the procedures
def _procedures(results: study.Results) -> pd.DataFrame:
    """Training rows of every procedure, how even its groups are, and how far P(finding | group) still differs."""
    groups, rows = results.groups, []
    members = [np.flatnonzero(groups.codes == code) for code in range(len(groups.names))]
    fits = support(groups.labels, members, groups.patients).min(axis=0).T >= LEAST  # (groups, findings)
    for name, arm in results.arms.items():
        rates = np.where(fits, np.array(arm["rates"], dtype=float), np.nan)[:, fits.sum(axis=0) > 1]
        spread = np.nanmax(rates, axis=0) - np.nanmin(rates, axis=0) if rates.size else np.array([np.nan])
        rows.append({"procedure": name, "training_studies": shown([sum(arm["rows"])])[0],
                     "different_studies": shown([arm["different"]])[0],
                     "epochs": len(arm["training"]), **_even(shown(arm["rows"])),
                     "prevalence_spread": round(float(spread.mean()), 2)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- the results
def _shown_metrics(table: pd.DataFrame, behind: pd.DataFrame) -> pd.DataFrame:
    table = table.merge(behind, on=["finding", "group"], how="left", validate="many_to_one")
    found = masked(table, _METRICS, table["with"], table["without"], table["people"])
    known = found[["with", "without"]].max(axis=1)  # at least so many patients stand behind n
    counts = {"studies": shown(found["n"], known), "patients": shown(found["people"]),
              "patients_with": shown(found["with"]), "patients_without": shown(found["without"])}
    return found.assign(**counts)[["procedure", "rule", "finding", "attribute", "group", *counts, *_METRICS, "reason"]]


def _underdiagnosis(metrics: pd.DataFrame) -> pd.DataFrame:
    """Share of those with a finding whom the model calls healthy: the false alarms of "No Finding"."""
    part = metrics[(metrics["finding"] == NO_FINDING) & (metrics["rule"] == study.CHOSEN)]
    return part[["procedure", "attribute", "group", "patients_without", "fpr", "fpr_low", "fpr_high", "reason"]].rename(
        columns={"patients_without": "patients_with_a_finding"})


def _shown_gaps(table: pd.DataFrame, behind: pd.DataFrame) -> pd.DataFrame:
    values = ["gap", "low", "high", "worst", "mean", "floor", "floor_95"]
    few = table["smallest_n"] < 100
    table[values] = np.where(few.to_numpy()[:, None], table[values].round(2), table[values].round(3))
    table["p"] = table["p"].round(3)
    counts = table["smallest_n"].fillna(0)
    table["smallest_n"] = [n if m else "" for n, m in zip(shown(counts), counts, strict=True)]
    first = ["procedure", "rule", "rate", "finding", "attribute"]
    return table[first + [column for column in table if column not in first]]


def _rounded(table: pd.DataFrame, behind: pd.DataFrame) -> pd.DataFrame:
    return table.round(3)


_SHOWN = {"training": lambda table, behind: table.round(4), "thresholds": _rounded, "metrics": _shown_metrics,
          "gaps": _shown_gaps, "levelling_down": _rounded}
