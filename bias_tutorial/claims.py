"""Claims: what a chapter states, the runs that back it, and what the runs say about it.

``stored/NN_claims.yml`` states every claim of a chapter before it is counted: quantity, comparison, null, margin,
seeds. ``stored/runs/NN_*.jsonl`` holds the runs. :func:`verdict` puts the two together, :func:`does_it_hold` shows
them in the chapter, and ``python -m bias_tutorial.claims`` repeats and checks them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from .experiments import PILOT_SEEDS, Store, plain, run_key, runs_table, seed_range

STORED = Path(__file__).parent / "stored"
MIME = "application/vnd.bias-tutorial+json"
KINDS = ("claim", "share", "estimate")
COMPARISONS = ("less", "greater", "within")


@dataclass(frozen=True)
class Claim:
    """One line of a claims file.

    Parameters
    ----------
    id, statement : str
        Short name (letters, digits, ``_``) and the sentence the reader sees; the sentence holds no result.
    measure, settings, seeds
        What is run: see :func:`bias_tutorial.experiments.sweep`. Seeds are written ``"0:10"`` and lie below 900.
    quantity : str
        The result of the measure that is judged.
    short : dict
        One cheap run to repeat in every test: ``settings``, ``seed``, and the ``tolerance`` within which the quantity
        must agree with that run as it was stored.
    kind : {'claim', 'share', 'estimate'}
        ``claim`` is judged over seeds; ``share`` reports how many seeds meet the comparison, with a Wilson interval;
        ``estimate`` is reported with its interval and never counted.
    comparison : {'less', 'greater', 'within'}
        Of the quantity with ``null``; ``within`` means nearer to it than ``margin``. Not for estimates.
    null, margin : float
        Bound, or middle of the band; half width of the band (.02 unless stated).
    interval : {'patients', 'none'}
        ``patients``: a seed counts when its own interval over resampled patients, ``<quantity>_interval``, meets the
        comparison. ``none``: the value itself counts; ``why`` says why there is nothing to resample.
    every_seed : bool
        The claim holds only if, besides the interval over seeds, each single seed meets it.
    full : bool
        Too long for ``make claims``; repeated only with ``FULL=1``.
    live : dict, optional
        ``recorded``: the name under which the chapter records the same quantity; ``parameters``: which setting each
        name of the chapter's parameters cell must equal for the two to be compared.
    part : str, optional
        Heading under which this claim and those after it, up to the next heading, are folded in the chapter.
    """

    chapter: str
    id: str
    statement: str
    measure: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    quantity: str
    short: Mapping[str, Any]
    kind: str = "claim"
    comparison: str | None = None
    null: float | None = None
    margin: float = 0.02
    interval: str = "none"
    why: str = ""
    every_seed: bool = False
    full: bool = False
    live: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""

    def __post_init__(self):
        where = f"{self.chapter}_claims.yml, claim '{self.id}'"
        texts = {"id": self.id, "statement": self.statement, "measure": self.measure, "quantity": self.quantity}
        demand(isinstance(self.part, str), where, f"'part' must be a text, not {self.part!r}")
        wrong = [name for name, value in texts.items() if not isinstance(value, str) or not value.strip()]
        demand(not wrong, where, f"'{wrong[0] if wrong else ''}' must be a text that is not empty")
        demand(re.fullmatch(r"\w+", self.id), where, "the id may hold letters, digits and _ only")
        demand(re.fullmatch(r"[\w.]+:\w+", self.measure), where, f"measure '{self.measure}' is not 'module:function'")
        demand(isinstance(self.settings, Mapping), where, "'settings' must be a mapping")
        demand(len(self.seeds) > 1, where, "needs at least two seeds: an interval over seeds cannot be had from one")
        demand(max(self.seeds) < PILOT_SEEDS, where, f"seeds from {PILOT_SEEDS} up are pilot seeds, never counted")
        demand(self.kind in KINDS, where, f"kind '{self.kind}' is not one of {', '.join(KINDS)}")
        if self.kind == "estimate":
            demand(self.comparison is None and self.null is None, where,
                    "an estimate is reported, not judged: it takes no 'comparison' and no 'null'")
        else:
            demand(self.comparison in COMPARISONS, where,
                    f"comparison '{self.comparison}' is not one of {', '.join(COMPARISONS)}")
            demand(is_number(self.null), where, "needs 'null', the number it is compared with")
            demand(is_number(self.margin) and self.margin > 0, where, "'margin' must be a number above 0")
        demand(self.interval in ("patients", "none"), where, f"interval '{self.interval}' is not 'patients' or 'none'")
        demand(self.interval == "patients" or self.kind == "estimate" or self.why.strip(), where,
                "with interval 'none', 'why' must say why no patients are resampled")
        self._check_short(where)
        if self.live:
            demand(set(self.live) == {"recorded", "parameters"} and isinstance(self.live["parameters"], Mapping), where,
                    "'live' needs 'recorded' (a name) and 'parameters' (names of the notebook: names of the settings)")
            for setting in self.live["parameters"].values():
                demand(setting in self.settings, where, f"'live' names the setting '{setting}', which is not there")

    def _check_short(self, where):
        names = {"settings", "seed", "tolerance"}
        demand(isinstance(self.short, Mapping) and set(self.short) == names, where,
                f"'short' must give exactly {', '.join(sorted(names))}")
        demand(isinstance(self.short["settings"], Mapping) and isinstance(self.short["seed"], int), where,
                "'short' needs a mapping 'settings' and a whole number 'seed'")
        demand(is_number(self.short["tolerance"]) and self.short["tolerance"] > 0, where,
               "'short' needs a number 'tolerance' above 0")

    @property
    def store(self) -> Path:
        """The file with the runs of this claim's measure."""
        return STORED / "runs" / f"{self.chapter}_{self.measure.partition(':')[2]}.jsonl"

    @property
    def keys(self) -> list[str]:
        """Keys of the runs it stands on, one per seed."""
        return [run_key(self.measure, self.settings, seed) for seed in self.seeds]

    @property
    def short_key(self) -> str:
        """Key of the short run."""
        return run_key(self.measure, self.short["settings"], self.short["seed"])

    def meets(self, low: float, high: float) -> bool:
        """Whether an interval meets the comparison as a whole."""
        if self.comparison == "less":
            return bool(high < self.null)
        if self.comparison == "greater":
            return bool(low > self.null)
        return bool(self.null - self.margin < low and high < self.null + self.margin)


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a claim.

    Attributes
    ----------
    k, n : int
        Seeds that meet the comparison (None for an estimate), and seeds.
    mean, sd, low, high, min, max : float
        Of the quantity over seeds, with the 95% t interval of its mean; for a share, of the share (Wilson interval).
    holds : bool or None
        Whether the interval over seeds meets the comparison (None for a share and an estimate).
    values : tuple of float
        One per seed, in order.
    """

    claim: Claim
    k: int | None
    n: int
    mean: float
    sd: float
    low: float
    high: float
    holds: bool | None
    values: tuple[float, ...]

    min = property(lambda self: min(self.values), doc="Smallest value over seeds.")
    max = property(lambda self: max(self.values), doc="Largest value over seeds.")

    def sentence(self) -> str:
        """For example 'holds in 10 of 10 seeds; mean 0.023, 95% interval 0.021 to 0.025'."""
        interval = f"95% interval {show(self.low)} to {show(self.high)}"
        if self.claim.kind == "estimate" and self.n == 2:  # t with one degree of freedom: it says nothing but that
            first, second = sorted(self.values)
            return f"mean {show(self.mean)} over 2 seeds, {show(first)} and {show(second)}: too few for an interval"
        if self.claim.kind == "estimate":
            return f"mean {show(self.mean)} over {self.n} seeds, {interval}"
        if self.claim.kind == "share":
            return f"in {self.k} of {self.n} seeds; share {show(self.mean)}, {interval}"
        start = "holds in" if self.holds else "does not hold; met in"
        return f"{start} {self.k} of {self.n} seeds; mean {show(self.mean)}, {interval}"


# ---------------------------------------------------------------------- claims and their runs
def chapters() -> list[str]:
    """Chapters that have a claims file, such as ``['01', '02']``."""
    return sorted(path.name[:2] for path in STORED.glob("[0-9][0-9]_claims.yml"))


def load_claims(chapter: str) -> list[Claim]:
    """Claims of a chapter, checked.

    Raises
    ------
    ValueError
        When the file breaks the schema; the message names file, claim and field.
    """
    path = STORED / f"{chapter}_claims.yml"
    if not path.exists():
        raise ValueError(f"chapter '{chapter}' has no claims file; there are: {', '.join(chapters()) or 'none'}")
    return parse_claims(path.read_text(encoding="utf-8"), chapter)


@lru_cache(maxsize=32)
def parse_claims(text: str, chapter: str) -> list[Claim]:
    """Claims from the text of a claims file; see :class:`Claim` for the fields."""
    where = f"{chapter}_claims.yml"
    content = yaml.safe_load(text)
    demand(isinstance(content, Mapping) and set(content) == {"claims"} and isinstance(content["claims"], list), where,
            "must hold one list, 'claims'")
    demand(content["claims"], where, "holds no claim")
    known = {f.name: f for f in fields(Claim) if f.name != "chapter"}
    claims, part = [], ""
    for number, entry in enumerate(content["claims"], start=1):
        demand(isinstance(entry, Mapping), f"{where}, entry {number}", "must be a mapping")
        entry = {"null" if name is None else name: value for name, value in entry.items()}  # YAML reads null as None
        here = f"{where}, claim '{entry.get('id', number)}'"
        unknown = set(entry) - set(known)
        demand(not unknown, here, f"unknown field '{min(unknown, default='')}'; known are {', '.join(known)}")
        missing = {"id", "statement", "measure", "settings", "seeds", "quantity", "short"} - set(entry)
        demand(not missing, here, f"'{min(missing, default='')}' is missing")
        part = entry.get("part", part)
        claims.append(Claim(**{**entry, "chapter": chapter, "seeds": seed_range(entry["seeds"], here), "part": part}))
    ids = [claim.id for claim in claims]
    doubled = {i for i in ids if ids.count(i) > 1}
    demand(not doubled, where, f"the id '{min(doubled, default='')}' stands twice")
    return claims


def verdict(claim: Claim, rows: Iterable[Mapping[str, Any]] | None = None, whole: bool = False) -> Verdict:
    """Judge a claim by its runs.

    Parameters
    ----------
    claim : Claim
        From :func:`load_claims`.
    rows : iterable of dict, optional
        Runs to judge by; default the stored ones, which must hold every seed of the claim.
    whole : bool
        Demand that of given rows too.

    Raises
    ------
    ValueError
        When runs are missing, damaged, or lack the quantity or its interval.
    """
    where = f"{claim.chapter}_claims.yml, claim '{claim.id}'"
    whole, rows = whole or rows is None, Store(claim.store).rows() if rows is None else rows
    by_key = {row["key"]: row for row in rows}
    found = [by_key[key]["results"] for key in claim.keys if key in by_key]
    demand(len(found) == len(claim.seeds) or not whole, where,
            f"{len(claim.seeds) - len(found)} of {len(claim.seeds)} runs are not stored; "
            f"run: python -m bias_tutorial.claims run {claim.chapter} --update")
    demand(len(found) > 1, where, "an interval over seeds needs at least two runs")
    for results in found:
        demand(is_number(results.get(claim.quantity)), where,
                f"the measure returned no number '{claim.quantity}'; it returned {', '.join(results)}")
    values = np.array([results[claim.quantity] for results in found], dtype=float)
    n, sd, (mean, low, high) = len(values), float(values.std(ddof=1)), over_seeds(values)
    if claim.kind == "estimate":
        return Verdict(claim, None, n, mean, sd, low, high, None, tuple(values.tolist()))
    k = sum(claim.meets(*_own_interval(claim, results, where)) for results in found)
    if claim.kind == "share":
        wilson = stats.binomtest(k, n).proportion_ci(method="wilson")
        return Verdict(claim, k, n, k / n, sd, float(wilson.low), float(wilson.high), None, tuple(values.tolist()))
    holds = claim.meets(low, high) and (k == n or not claim.every_seed)
    return Verdict(claim, k, n, mean, sd, low, high, holds, tuple(values.tolist()))


def over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of one value a seed, and its 95% t interval."""
    mean, half = float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def stored_runs(chapter: str, claim_id: str):
    """Give the stored runs of one claim as a table: seed, settings and every result of the measure, one row a seed."""
    claim = find_claim(chapter, claim_id)
    return runs_table(row for row in Store(claim.store).rows() if row["key"] in claim.keys)


def find_claim(chapter: str, claim_id: str) -> Claim:
    """One claim by its id."""
    by_id = {claim.id: claim for claim in load_claims(chapter)}
    demand(claim_id in by_id, f"{chapter}_claims.yml", f"no claim '{claim_id}'; there are: {', '.join(by_id)}")
    return by_id[claim_id]


def does_it_hold(chapter: str):
    """Show what the stored runs say about every claim of a chapter, as a table for the page."""
    from .claims_table import Summary  # it needs what stands here

    return Summary(chapter)


def show(value: float) -> str:
    """Write a number with three decimals, or without any from 100 up."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value + 0.0:.3f}".replace("-0.000", "0.000")


# ---------------------------------------------------------------------- what a chapter records
def record(name: str, value: Any) -> None:
    """Keep a result of the running chapter for the checks, in the cell's outputs; nothing is shown.

    Only a run that is checked (the book's build, the tests) sets ``BIAS_TUTORIAL_BOOK``; in a reader's own session
    the value is checked to be finite and not stored, so that no program has to show an unknown kind of output.

    Parameters
    ----------
    name : str
        Unique within the chapter.
    value : number, text, list or dict of them
        NumPy values are converted.

    Raises
    ------
    ValueError
        When the value is NaN, infinite or of another type.
    """
    bundle = {MIME: {"name": name, "value": plain(value, f"recorded '{name}'")}}
    if os.environ.get("BIAS_TUTORIAL_BOOK"):
        from IPython.display import display

        display(bundle, raw=True)


def recorded(notebook: str | os.PathLike | Mapping[str, Any]) -> dict[str, Any]:
    """Results that an executed notebook recorded, by name."""
    found: dict[str, Any] = {}
    for cell in read_notebook(notebook)["cells"]:
        for output in cell.get("outputs", ()):
            if entry := output.get("data", {}).get(MIME):
                demand(entry["name"] not in found, "recorded results", f"'{entry['name']}' is recorded twice")
                found[entry["name"]] = entry["value"]
    return found


def read_notebook(notebook: str | os.PathLike | Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a notebook into a dictionary, from a path; a notebook already read is returned as it is."""
    return notebook if isinstance(notebook, Mapping) else json.loads(Path(notebook).read_text(encoding="utf-8"))


# ---------------------------------------------------------------------- helpers
def _own_interval(claim: Claim, results: Mapping[str, Any], where: str) -> tuple[float, float]:
    """Find a seed's own interval over resampled patients, or its value twice."""
    if claim.interval == "none":
        return results[claim.quantity], results[claim.quantity]
    interval = results.get(f"{claim.quantity}_interval")
    demand(isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval)), where,
            f"the measure returned no interval '{claim.quantity}_interval' of two numbers")
    return interval[0], interval[1]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (True and False are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def demand(condition: Any, where: str, message: str) -> None:
    """Raise ``ValueError`` with place and message unless the condition holds."""
    if not condition:
        raise ValueError(f"{where}: {message}")


if __name__ == "__main__":
    import sys

    from .claims_checks import main

    sys.exit(main())
