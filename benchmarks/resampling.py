"""Resampling against the same steps taken row by row: time and equality; and the time of clusters and copies.

``python -m benchmarks.resampling`` writes ``resampling.json`` and ``resampling.md``. The reference takes the steps of
BiasCXR's released code, written anew: every group is looked up in the table for every label, every row that is scored
is read from the table, label by label, and the rates among all rows are computed each time, as there. The target is
held against it at the largest size that it finishes in a minute. Much of its time is work done again; so a thrifty form
of it, which keeps rates and groups, is timed too and reported, without a target. Both draw the same random numbers as
ours, so rows must be equal, one for one.

Our time is that of the whole call: checks, grouping, resampling and report. The reference gets its groups ready-made
and reports nothing. Seconds are those of the processor, over all threads, so that other work on the machine does not
count; those on the clock stand beside them. Data are simulated: 14 findings, sex x race x age in single years.
"""

import os
import time
from importlib.metadata import version

import numpy as np
import pandas as pd

from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.mitigation import resampling

from .report import command_line, finish, opening, with_load

ROWS, FINDINGS, DESCRIBED, WIDTH = 370_000, 14, 10_000, 1_376
AT_MOST, LEAST_TIMES, RELEASED_SECONDS, DESCRIBED_SECONDS = 60, 50, 2, 10
TRIAL = 5_000  # rows by which the reference's largest size is guessed
RATES = np.array([.2, .2, .05, .12, .03, .02, .03, .23, .33, .24, .01, .07, .05, .29])


def cohort(rows, width=1, seed=0):
    """Simulated rows in the form of MIMIC-CXR's table: groups A to E, findings whose rates differ by group and age."""
    rng = np.random.default_rng(seed)
    race, sex = rng.choice(5, rows, p=(.62, .17, .1, .07, .04)), rng.integers(0, 2, rows)
    age = np.clip(rng.normal(62, 17, rows), 18, 91).astype(int)
    odds = np.log(RATES / (1 - RATES)) + rng.normal(0, .5, (5, FINDINGS))[race] + .02 * (age[:, None] - 62)
    labels = rng.random((rows, FINDINGS)) < 1 / (1 + np.exp(-odds))
    names = [f"finding {k + 1}" for k in range(FINDINGS)]
    patient = np.arange(rows) // 3
    table = pd.DataFrame({"image_id": np.arange(rows), "patient_id": patient, "split": "train",
                          "sex": np.array(["F", "M"])[sex], "race": np.array(list("ABCDE"))[race], "age": age})
    table = pd.concat([table, pd.DataFrame(labels.astype(float), columns=names)], axis=1)
    features = rng.standard_normal((rows, width), dtype=np.float32) + race[:, None].astype(np.float32)
    schema = Schema({name: (0, 1) for name in names}, {"sex": ("F", "M"), "race": tuple("ABCDE")})
    return Cohort(features, table, schema)


def ours(data):
    groups = resampling.Groups.of(data, ("sex", "race", "age"), ages={"age": None})
    return groups, resampling.as_released(groups, seed=1)


def timed(call, *given):
    """What a call returns, and its seconds: of the processor, and on the clock."""
    begin = time.process_time(), time.perf_counter()
    found = call(*given)
    return found, {"seconds": time.process_time() - begin[0], "clock": time.perf_counter() - begin[1]}


# ---------------------------------------------------------------------- the reference
def row_by_row(table, names, findings, seed, thrifty=False):
    """Row numbers, ascending, from a table with a column ``group`` (one of ``names``), rows numbered from 0."""
    rng = np.random.default_rng(seed)
    keys = [rng.random() for _ in range(len(table))]
    target = int(table["group"].value_counts().median())
    means = {name: table[name].mean() for name in findings}
    parts = dict(list(table.groupby("group"))) if thrifty else {}

    def rate(name):
        return means[name] if thrifty else table[name].mean()

    def members(group):
        return parts[group] if thrifty else table[table["group"] == group]

    def score(row):
        sample, total = table.loc[row], 0
        for name in findings:
            total += abs(sample[name] - rate(name))
        return total

    chosen = []
    for group in names:
        rows = members(group).index.tolist()
        distance = sum(abs(members(group)[name].mean() - means[name]) for name in findings) / len(findings)
        if len(rows) > target:
            chosen += sorted(rows, key=score if distance > .1 else keys.__getitem__)[:target]
            continue
        missing, first = target - len(rows), []
        if distance > .1 and missing > 0:
            first = sorted(rows, key=score, reverse=True)[:int(.7 * len(rows))][:missing]
        chosen += rows + first + [rows[int(rng.random() * len(rows))] for _ in range(missing - len(first))]
    return np.sort(np.array(chosen))


def compared(rows, thrifty=False):
    """Seconds of both sides on the first so many rows, and whether they chose the same rows."""
    data = cohort(rows)
    ours(data)  # warm-up
    runs = [timed(ours, data) for _ in range(3)]
    (groups, found), mine = sorted(runs, key=lambda run: run[1]["seconds"])[1]
    table = data.table[list(groups.findings)].assign(group=np.array(groups.names)[groups.codes])
    expected, theirs = timed(row_by_row, table, groups.names, groups.findings, 1, thrifty)
    result = {"rows": rows, "groups": len(groups.names), "left": len(found), "ours": mine, "row by row": theirs,
              "times_faster": theirs["seconds"] / mine["seconds"], "equal": bool(np.array_equal(found.rows, expected))}
    print(f"  {rows:,} rows: ours {mine['seconds']:.2f} s, row by row {theirs['seconds']:.1f} s, "
          f"equal: {result['equal']}", flush=True)
    return result


def largest(rows, at_most):
    """The comparison at about the largest size, up to ``rows``, that the reference finishes in ``at_most`` seconds."""
    trial = compared(min(TRIAL, rows))
    growth = (.9 * at_most / trial["row by row"]["seconds"]) ** .8  # its time grows faster than its rows
    size = min(rows, int(growth * trial["rows"]))
    while (found := compared(size))["row by row"]["seconds"] > at_most:
        size = int(.8 * size)
    return found


def described(rows, width):
    """Clusters and copies, from the cohort on."""
    data = cohort(rows, width)

    def whole():
        groups = resampling.Groups.of(data, ("sex", "race", "age"), ages={"age": (0, 20, 40, 60, 80)})
        return groups, resampling.as_described(groups)

    (groups, found), took = timed(whole)
    print(f"  as described, {rows:,} rows: {took['seconds']:.1f} s", flush=True)
    return {"rows": rows, "width": width, "groups": len(groups.names), "left": len(found), **took}


def measure(rows=ROWS, at_most=AT_MOST, clustered=DESCRIBED, width=WIDTH):
    data = cohort(rows)
    ours(data)
    full = timed(ours, data)[1]
    print(f"  {rows:,} rows: ours {full['seconds']:.2f} s", flush=True)
    most = largest(rows, at_most)
    return {"findings": FINDINGS, "full": {"rows": rows, **full}, "largest": most,
            "thrifty": compared(most["rows"], thrifty=True), "described": described(clustered, width),
            "cores": os.cpu_count(), "versions": {name: version(name) for name in ("numpy", "pandas", "scikit-learn")}}


def targets(results):
    """Each target with what was measured: (what, measured, bound, met)."""
    most, full, clusters = (results[key] for key in ("largest", "full", "described"))
    equal = most["equal"] and results["thrifty"]["equal"]
    return [(f"times faster than row by row, {most['rows']:,} rows", most["times_faster"], f"at least {LEAST_TIMES}",
             most["times_faster"] >= LEAST_TIMES),
            ("the same rows as row by row (1: yes)", int(equal), "1", equal),
            (f"seconds as released, {full['rows']:,} rows x {results['findings']} findings", full["seconds"],
             f"about {RELEASED_SECONDS}", full["seconds"] <= 1.25 * RELEASED_SECONDS),
            (f"seconds as described, {clusters['rows']:,} rows x {clusters['width']:,} features", clusters["seconds"],
             f"about {DESCRIBED_SECONDS}", clusters["seconds"] <= 1.25 * DESCRIBED_SECONDS)]


def report(results):
    lines = opening("Last measurement of resampling", "benchmarks.resampling", targets(results))
    lines += ["", "| Reference | Rows | Groups | Ours, s | Row by row, s | Ratio |", "|---|---|---|---|---|---|"]
    for key, what in (("largest", "as released"), ("thrifty", "thrifty: rates and groups kept")):
        row = results[key]
        lines.append(f"| {what} | {row['rows']:,} | {row['groups']:,} | {row['ours']['seconds']:.3g} | "
                     f"{row['row by row']['seconds']:.3g} | {row['times_faster']:.3g} |")
    clock = " and ".join(f"{results[key]['clock']:.3g}" for key in ("full", "described"))
    lines += ["", f"Seconds of the processor; on the clock, as released at full size and as described, {clock}. "
              f"{results['cores']} cores; load before and after {results['load'][0]:.1f} and {results['load'][1]:.1f}; "
              f"{', '.join(f'{name} {found}' for name, found in results['versions'].items())}."]
    return lines


def main():
    given = command_line("resampling", __doc__).parse_args()
    results = with_load(measure, *(2_000, 10, 2_000, 64) if given.short else ())
    finish("resampling", results, report(results), targets(results), keep=not given.short)


if __name__ == "__main__":
    main()
