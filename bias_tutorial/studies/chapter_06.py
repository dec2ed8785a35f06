"""Measures behind chapter 6: what resampling does to gaps between groups, by the cause of the gap.

Every measure takes ``settings`` and a ``seed`` and returns plain numbers. A seed is new patients in every cohort, new
weights and a new order. Cohorts are simulated embeddings whose causes of a gap are known; the two groups that are
compared, ``FEW`` and ``MANY``, are those on which the causes act most and least.

Test patients are drawn apart, with the races in equal shares so that every race is measured equally well; error rates
within a race do not depend on its share. Error rates count against the truth, AUCs against the labels, which is all a
study of real data can do; ``..._labelled`` and ``..._true`` are the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from .. import answer_key, multilabel, networks
from ..cohort import Cohort, Schema, split_by_patient
from ..findings import Predictions, thresholds
from ..mitigation import resampling as methods
from ..mitigation.resampling import Groups, Resampled
from ..mitigation.resampling.counts import DEVIATES
from ..simulate.cxr_embeddings import (
    ATTRIBUTES,
    CAUSES,
    DRAWN,
    FINDINGS,
    NO_FINDING,
    CxrDesign,
    cxr_embeddings,
    drawn_table,
)
from .by_patient import Exam, auc, exam, rate
from .chapter_01 import TEST, TRAINING, cohort_seed
from .chapter_02 import with_intervals

MANY, FEW = "A", "E"
HOWS = ("fixed", "prevalence", "youden")  # ways to choose a threshold, see bias_tutorial.findings.thresholds
DRAWS = 500  # bootstrap samples of an interval
RARE = 6  # so many of the drawn findings, those of lowest prevalence (at most .05 as the design stands)
SHARES = CAUSES["representation"]["shares"]
RELEASED = {"by": ("sex", "race", "age"), "ages": {"age": None}}  # the groups of the released code
BALANCE = {"plain": "none", "counts": "counts", "by_finding": "reweighing", "reweighing": "reweighing"}
"""Arms that the answer key knows, and what it calls them."""
SUBSETS = {"counts": "subset", "released": "subset_released"}
"""Arms, and their controls of the same size; the control comes first in a list of arms."""


# ---------------------------------------------------------------------- cohorts
def design(causes: Sequence[str], settings: Mapping[str, Any]) -> CxrDesign:
    """A study with the causes given; groups are of unequal size in all of them, which alone does no harm.

    ``settings['design']`` holds further parameters of :class:`CxrDesign`.
    """
    return CxrDesign.with_causes(*causes, **{"shares": SHARES, "splits": (0.8, 0.2, 0.0), **settings.get("design", {})})


def equal(shares: Mapping[str, Mapping[str, float]], *names: str) -> dict[str, dict[str, float]]:
    """Shares in which every value of the named attributes is equally frequent."""
    return {**shares, **{name: dict.fromkeys(ATTRIBUTES[name], 1 / len(ATTRIBUTES[name])) for name in names}}


def cohorts(made: CxrDesign, settings: Mapping[str, Any], seed: int) -> tuple[Cohort, Cohort]:
    """To learn from (train and validation), and to test on: other patients, races in equal shares.

    Settings: ``n_learn`` and ``n_test`` studies, ``features``.
    """
    exam = replace(made, shares=equal(made.shares, "race"), splits=(0.0, 0.0, 1.0))
    return (cxr_embeddings(made, settings["n_learn"], cohort_seed(seed, TRAINING), settings["features"]),
            cxr_embeddings(exam, settings["n_test"], cohort_seed(seed, TEST), settings["features"]))


# ---------------------------------------------------------------------- arms
def sample(arm: str, cohort: Cohort, by: Sequence[str], seed: int) -> Resampled | None:
    """Training rows of an arm: ``plain``, or a procedure of :mod:`bias_tutorial.mitigation.resampling`.

    ``counts``, ``described``, ``by_finding`` and ``reweighing`` have the groups ``by``; ``released`` those of the
    released code. ``subset`` holds as many rows, drawn without looking at groups, as ``counts`` leaves *different*
    ones, ``subset_released`` as ``released`` does.
    """
    if arm == "plain":
        return None
    if arm.startswith("subset"):
        like = sample(arm.partition("_")[2] or "counts", cohort, by, seed)
        return methods.random_subset(Groups.of(cohort, by), len(np.unique(like.rows)), seed)
    if arm == "released":
        return methods.as_released(Groups.of(cohort, **RELEASED), seed)
    groups = Groups.of(cohort, by)
    if arm == "reweighing":
        return methods.reweighing(groups)
    known = {"counts": methods.balanced_counts, "described": methods.as_described, "by_finding": methods.by_finding}
    return known[arm](groups, seed=seed)


def train(cohort: Cohort, drawn: Resampled | None, settings: Mapping[str, Any], seed: int):
    """The published network, fitted on a sample of the training rows."""
    network = networks.embedding_mlp(cohort.images.shape[1], len(FINDINGS), seed)
    multilabel.fit(network, cohort, recipe=replace(multilabel.RECIPE, **settings.get("recipe", {})), seed=seed,
                   progress=False, sample=drawn)
    return network


def said(network, cohort: Cohort, by: Sequence[str], truth: bool) -> Predictions:
    """What a network says of a cohort, beside the truth or beside the labels."""
    columns = [f"{f} present" if truth else f for f in FINDINGS]
    labels = cohort.table[columns].set_axis(FINDINGS, axis=1)
    return Predictions(labels, multilabel.predict(network, cohort), cohort.table[list(by)],
                       cohort.table["patient_id"])


# ---------------------------------------------------------------------- (a) to (f), (h)
def resampled(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Networks trained on resampled rows, judged by group.

    Settings: ``causes``; ``design``; ``n_learn``, ``n_test``, ``features``; ``arms``, of :func:`sample`, ``plain``
    first; ``by``, the columns whose combinations are balanced; ``recipe``. Thresholds are chosen on the validation
    split in each of the ways ``HOWS``. Results are called ``<arm>_<quantity>``, and ``..._change`` against the first
    arm:

    - those of :func:`judged`, and ``..._beyond``, against the control of the same size in ``SUBSETS``;
    - ``narrowed_<how>``, share of the drawn findings whose *range* (highest less lowest FNR of the five races) is
      smaller than in the first arm, and ``levelled_<how>``, where it is smaller while no race's FNR is;
    - of the rows that are learned from: ``rows``; ``different`` rows; ``positives``, mean P(finding) over the drawn
      findings; ``rate_gap``, P(finding | FEW) less P(finding | MANY), mean over them;
    - ``key_gap``, of the arms in ``BALANCE``: ``gap_youden`` of the best reader at *plain* training's thresholds.
    """
    made = design(settings["causes"], settings)
    learn, test = cohorts(made, settings, seed)
    weight = test.table["race"].map(made.shares["race"]).to_numpy()
    out: dict[str, Any] = {}
    first: dict[str, np.ndarray] = {}
    found: dict[str, dict[str, np.ndarray]] = {}
    tables = cuts = rows = None
    for arm in settings["arms"]:
        drawn = sample(arm, learn, settings["by"], seed)
        network = train(learn, drawn, settings, seed)
        validation = said(network, learn.split("validation"), (), False)
        cut = {how: thresholds(validation, how) for how in HOWS}
        true, labelled = (exam(said(network, test, ("race", "insurance"), truth)) for truth in (True, False))
        values, fnr = judged(true, labelled, cut, made, weight)
        found[arm] = values
        changes = {f"{name}_change": value - first[name] for name, value in values.items() if first}
        changes |= {f"{name}_beyond": values[name] - value for name, value in found.get(SUBSETS.get(arm), {}).items()}
        first, tables, cuts = first or values, tables or fnr, cuts or cut
        out |= {f"{arm}_{name}": value for name, value in with_intervals(values | changes, seed, DRAWS).items()}
        numbers = levelled(tables, fnr) | learned(learn, drawn)
        rows = rows or numbers
        numbers |= {f"{name}_change": numbers[name] - rows[name] for name in ("positives", "rate_gap")}
        out |= {f"{arm}_{name}": value for name, value in numbers.items()}
        if arm in BALANCE:
            out[f"{arm}_key_gap"] = key_gap(made, settings["by"], cuts["youden"], BALANCE[arm])
    return out


def judged(true: Exam, labelled: Exam, cut: Mapping[str, pd.Series], made: CxrDesign,
           weight: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What one network does, one number a patient, and FNR by way to choose a threshold (findings, races).

    - ``auc``: mean over findings, races weighted by their shares in the design; ``auc_few`` within ``FEW``,
      ``auc_gap`` that less the one within ``MANY``;
    - ``gap_<how>``: FNR of ``FEW`` less that of ``MANY``, mean over the drawn findings; ``fnr_<how>`` the mean over
      races, ``worst_<how>`` that of the worst race of each finding; ``rare_...``, the same over the ``RARE`` rarest
      findings, and ``rare_back_<how>``, the rare gap less that at the fixed threshold;
    - ``gap_youden_labelled``, the gap that a study without the truth measures;
    - ``under``: underdiagnosis, FPR of No Finding, of ``FEW`` less that of ``MANY`` (Youden); ``under_both``: at the
      intersection of ``FEW`` and the last insurance, less that of the worse of the two (all in a test set with races
      in equal shares).
    """
    def over(values: Iterable[np.ndarray]) -> np.ndarray:
        return np.mean(list(values), axis=0)

    races, rare = ATTRIBUTES["race"], sorted(DRAWN, key=made.prevalence.get)[:RARE]
    few, many = races.index(FEW), races.index(MANY)
    inside = np.stack([np.isin(np.arange(len(weight)), true.groups[f"race = {race}"]) for race in races]).astype(float)
    values = {"auc": over(auc(labelled, f, weight) for f in FINDINGS),
              "auc_few": over(auc(labelled, f, inside[few]) for f in FINDINGS)}
    values["auc_true"] = over(auc(true, f, weight) for f in FINDINGS)
    values["auc_gap"] = values["auc_few"] - over(auc(labelled, f, inside[many]) for f in FINDINGS)
    tables = {}
    for how, by_finding in cut.items():
        fnr = {f: [rate(true, f, by_finding[f], f"race = {race}") for race in races] for f in DRAWN}
        tables[how] = np.array([[one.mean() for one in rows] for rows in fnr.values()])
        for start, some in (("", DRAWN), ("rare_", rare)):
            values |= {f"{start}gap_{how}": over(fnr[f][few] - fnr[f][many] for f in some),
                       f"{start}fnr_{how}": over(over(fnr[f]) for f in some),
                       f"{start}worst_{how}": over(max(fnr[f], key=np.mean) for f in some)}
        values[f"rare_back_{how}"] = values[f"rare_gap_{how}"] - values["rare_gap_fixed"]
    youden = cut["youden"]
    values["gap_youden_labelled"] = over(rate(labelled, f, youden[f], f"race = {FEW}") -
                                         rate(labelled, f, youden[f], f"race = {MANY}") for f in DRAWN)
    under = {group: rate(true, NO_FINDING, youden[NO_FINDING], group, "fpr") for group in true.groups}
    last = ATTRIBUTES["insurance"][-1]
    alone = max(under[f"race = {FEW}"], under[f"insurance = {last}"], key=np.mean)
    return values | {"under": under[f"race = {FEW}"] - under[f"race = {MANY}"],
                     "under_both": under[f"race = {FEW}, insurance = {last}"] - alone}, tables


def levelled(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of findings whose range of FNR over races narrowed, and where it did while no race's FNR fell."""
    out = {}
    for how, old in before.items():
        new = after[how]
        narrowed = np.ptp(new, axis=1) < np.ptp(old, axis=1)
        out |= {f"narrowed_{how}": float(narrowed.mean()),
                f"levelled_{how}": float((narrowed & (new >= old).all(axis=1)).mean())}
    return out


def learned(learn: Cohort, drawn: Resampled | None) -> dict[str, float]:
    """What the rows are like that are learned from; see :func:`resampled`."""
    rows = np.flatnonzero(learn.table["split"] == "train") if drawn is None else drawn.rows
    labels, race = learn.table[list(DRAWN)].to_numpy()[rows], learn.table["race"].to_numpy()[rows]
    weights = np.ones(labels.shape)
    if drawn is not None and drawn.weights is not None:
        weights = drawn.weights[:, [f != NO_FINDING for f in FINDINGS]]

    def frequency(inside: np.ndarray) -> float:
        return float(((labels * weights)[inside].sum(axis=0) / weights[inside].sum(axis=0)).mean())

    return {"rows": len(rows), "different": len(np.unique(rows)), "positives": frequency(np.full(len(rows), True)),
            "rate_gap": frequency(race == FEW) - frequency(race == MANY)}


def key_gap(made: CxrDesign, by: Sequence[str], cut: Mapping[str, float], balance: str) -> float:
    """FNR of ``FEW`` less that of ``MANY`` for the best reader who sees the groups ``by``, mean over drawn findings.

    The groups must hold all that the causes act on.
    """
    gaps = []
    for finding in DRAWN:
        strata = made.truth(finding)
        mixed = strata.groupby(list(by))[["prevalence", "missed", "invented", "separation"]].agg(np.ptp)
        if (mixed > 1e-9).any(axis=None):
            raise ValueError(f"a cause acts within the groups {', '.join(by)}: the key needs groups that are alike "
                             "inside")
        means = strata.mul(strata["share"], axis=0).groupby(list(by)).sum().div(
            strata.groupby(list(by))["share"].sum(), axis=0).assign(share=strata.groupby(list(by))["share"].sum())
        cells = {", ".join(name): answer_key.Group(**row) for name, row in zip(means.index, means.to_dict("records"),
                                                                              strict=True)}
        table = answer_key.finding_by_group(cells, cut[finding], balance=balance).set_index(means.index)
        sick = (table["share"] * table["prevalence"]).groupby("race").sum()
        fnr = (table["fnr"] * table["share"] * table["prevalence"]).groupby("race").sum() / sick
        gaps.append(fnr[FEW] - fnr[MANY])
    return float(np.mean(gaps))


# ---------------------------------------------------------------------- (f): rows dropped by score
def stripped(settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What the released procedure does to P(finding) in groups whose rows it picks by score; nothing is trained.

    Settings: ``causes``; ``design``; ``n_learn``. Results: ``groups``; ``target``, rows of each afterwards;
    ``scored``, share of the groups whose rates deviate enough to be scored; of those, ``shrunk``, change of
    P(finding), mean over the drawn findings, in the groups that are made smaller, and ``grown`` in those made larger
    (0 where there are none; groups weighted by their rows afterwards); ``shrunk_rows``, share of all training rows
    that stand in the former; ``rate_gap_change``, by how much P(finding | FEW) less P(finding | MANY) changes.
    """
    made = design(settings["causes"], settings)
    meta = {"design": asdict(made), "n_studies": settings["n_learn"], "seed": cohort_seed(seed, TRAINING)}
    table = drawn_table(meta)
    cohort = Cohort(np.zeros((len(table), 1), np.float32), table, Schema(dict.fromkeys(FINDINGS, (0, 1)),
                                                                        dict(ATTRIBUTES)))
    groups = Groups.of(cohort, **RELEASED)
    drawn = methods.as_released(groups, seed)
    rates = drawn.report.findings.pivot(index="group", columns="finding", values="before").loc[list(groups.names)]
    scored = rates.sub(pd.Series(groups.labels.mean(axis=0), groups.findings)).abs().mean(axis=1) > DEVIATES
    change = drawn.report.findings[drawn.report.findings["finding"].isin(DRAWN)].groupby("group")["change"].mean()
    size, change = drawn.report.groups.loc[rates.index], change.loc[rates.index]
    out = {"groups": len(size), "target": int(size["after"].median()), "scored": float(scored.mean())}
    for name, moved in (("shrunk", size["after"] < size["before"]), ("grown", size["after"] > size["before"])):
        chosen = scored & moved
        out[name] = float(np.average(change[chosen], weights=size["after"][chosen])) if chosen.any() else 0.0
        out[f"{name}_rows"] = float(size["before"][chosen].sum() / size["before"].sum())
    gaps = [learned(cohort, one)["rate_gap"] for one in (drawn, None)]
    return out | {"rate_gap_change": gaps[0] - gaps[1]}


# ---------------------------------------------------------------------- (g): splits in the wrong order
def leaks(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Splits made wrongly: AUC on the validation split beside the AUC on other patients of the same mixture.

    Settings: as for :func:`resampled`, without arms. ``honest``: split by patient, then balance the training rows;
    ``rows``: split row by row, then balance; ``copies``: balance all rows, then split them row by row. Results, means
    over findings, for each way: ``validation`` (rows weighted so that the groups ``by`` count alike), ``test`` (groups
    equally frequent), ``inflation`` (the first less the second), ``beyond``, inflation less that of the honest way
    (its interval takes the parts for independent, so it is too wide), and ``test_change`` against the honest way.
    """
    made, by = design(settings["causes"], settings), list(settings["by"])
    exams = replace(made, shares=equal(made.shares, *by), splits=(0.0, 0.0, 1.0))
    learn = cxr_embeddings(made, settings["n_learn"], cohort_seed(seed, TRAINING), settings["features"])
    test = cxr_embeddings(exams, settings["n_test"], cohort_seed(seed, TEST), settings["features"])
    out: dict[str, Any] = {}
    honest = first = None
    for way in ("honest", "rows", "copies"):
        cohort, drawn = split(learn, way, by, made.splits, seed)
        network = train(cohort, drawn, settings, seed)
        inside = cohort.split("validation")
        share = inside.table.groupby(by)["image_id"].transform("size")
        found = {"validation": mean_auc(network, inside, 1 / share.to_numpy(), inside.table["owner"]),
                 "test": mean_auc(network, test, np.ones(len(test)), test.table["patient_id"])}
        honest = found["test"] if honest is None else honest
        out |= {f"{way}_{name}": value for name, value in with_intervals({"test_change": found["test"] - honest},
                                                                        seed).items()}
        out |= {f"{way}_{name}": float(values.mean()) for name, values in found.items()}
        apart = out[f"{way}_validation"] - out[f"{way}_test"], sum(map(_variance, found.values()))
        first = first or apart
        for name, value, variance in (("inflation", *apart), ("beyond", apart[0] - first[0], apart[1] + first[1])):
            out |= {f"{way}_{name}": value, f"{way}_{name}_interval": _interval(value, variance)}
        out[f"{way}_on_both_sides"] = both_sides(cohort)
    return out


def _variance(values: np.ndarray) -> float:
    """Variance of the mean of values with one number a patient."""
    return float(values.var(ddof=1) / len(values))


def _interval(value: float, variance: float) -> list[float]:
    return [float(value + z * np.sqrt(variance)) for z in (-1.96, 1.96)]


def split(learn: Cohort, way: str, by: Sequence[str], shares: Sequence[float],
          seed: int) -> tuple[Cohort, Resampled | None]:
    """A cohort split in one of the ways of :func:`leaks`, and what is to be learned from; ``owner`` is the patient."""
    learn = replace(learn, table=learn.table.assign(owner=learn.table["patient_id"]))
    if way == "honest":
        return learn, methods.balanced_counts(Groups.of(learn, by), seed=seed)
    rows = np.arange(len(learn))
    if way == "copies":
        every = replace(learn, table=learn.table.assign(split="train"))
        rows = methods.balanced_counts(Groups.of(every, by), seed=seed).rows
    names = [f"row {k}" for k in range(len(rows))]  # as if every row were a patient
    table = learn.table.iloc[rows].reset_index(drop=True).assign(image_id=names, patient_id=names)
    cohort = replace(learn, images=learn.images[rows],
                     table=table.assign(split=split_by_patient(table, seed, shares)))
    return cohort, None if way == "copies" else methods.balanced_counts(Groups.of(cohort, by), seed=seed)


def both_sides(cohort: Cohort) -> float:
    """Share of validation rows whose patient is in the training split too."""
    taught = cohort.table.loc[cohort.table["split"] == "train", "owner"]
    return float(cohort.table.loc[cohort.table["split"] == "validation", "owner"].isin(taught).mean())


def mean_auc(network, cohort: Cohort, weight: np.ndarray, owner: pd.Series) -> np.ndarray:
    """Mean AUC over findings against the labels, one number a patient."""
    label = cohort.table[list(FINDINGS)].to_numpy() == 1
    found = Exam(label, multilabel.predict(network, cohort), pd.factorize(owner)[0], {})
    return np.mean([auc(found, finding, weight) for finding in FINDINGS], axis=0)


# ---------------------------------------------------------------------- audit: unreadable embeddings as zeros
def silent_zeros(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Embeddings that cannot be read: filled with zeros, or left out; in training and in the test.

    Settings: as for :func:`resampled`, without arms, and ``unreadable``, their share in ``FEW``; all others can be
    read. Results, for ``zeros`` and ``left_out``: ``auc_few`` and ``gap_youden`` on the test as each sees it;
    ``zeros_..._less``, their difference (zeros less left out); and ``zeros_..._readable_change``, the same for both
    networks on the readable rows, paired: what training on zeros does to the others.
    """
    made, out, found, readable = design(settings["causes"], settings), {}, {}, {}
    learn, test = cohorts(made, settings, seed)
    rest = unreadable(test, settings["unreadable"], seed, "left_out")
    for way in ("zeros", "left_out"):
        taught = unreadable(learn, settings["unreadable"], seed, way)
        network = train(taught, None, settings, seed)
        cut = {how: thresholds(said(network, taught.split("validation"), (), False), how) for how in HOWS}
        for results, cohort in ((found, unreadable(test, settings["unreadable"], seed, way)), (readable, rest)):
            true, labelled = (exam(said(network, cohort, ("race", "insurance"), truth)) for truth in (True, False))
            results[way] = judged(true, labelled, cut, made, np.ones(len(cohort)))[0]
    paired = {f"zeros_{name}_readable_change": readable["zeros"][name] - readable["left_out"][name]
              for name in ("auc_few", "gap_youden")}
    out |= with_intervals(paired, seed, DRAWS)
    for name in ("auc_few", "gap_youden"):
        out |= {f"{way}_{name}": float(found[way][name].mean()) for way in found}
        out[f"zeros_{name}_less"] = out[f"zeros_{name}"] - out[f"left_out_{name}"]
    return out


def unreadable(cohort: Cohort, share: float, seed: int, way: str) -> Cohort:
    """A cohort in which a share of the rows of ``FEW`` could not be read, as ``zeros`` or ``left_out``."""
    lost = (cohort.table["race"] == FEW).to_numpy() & (np.random.default_rng(seed).random(len(cohort)) < share)
    if way == "left_out":
        return cohort.subset(~lost)
    return replace(cohort, images=np.where(lost[:, None], np.float32(0), cohort.images))
