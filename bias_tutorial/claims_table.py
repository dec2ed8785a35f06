"""What the stored runs say about the claims of a chapter, as the table that stands in it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby

from .claims import Verdict, load_claims, verdict
from .experiments import Store


class Summary:
    """Table of a chapter's claims and verdicts; shows itself as HTML, and as text where there is no HTML."""

    def __init__(self, chapter: str):
        self.chapter = chapter
        claims = load_claims(chapter)
        rows = {store: Store(store).rows() for store in {claim.store for claim in claims}}  # many share a file
        self.verdicts = [verdict(claim, rows[claim.store], whole=True) for claim in claims]

    def __repr__(self) -> str:
        lines = [f"{v.claim.statement}: {v.sentence()}" for v in self.verdicts]
        return "\n".join([*lines, f"Repeat these runs: make claims CHAPTER={self.chapter}"])

    def _repr_html_(self) -> str:
        again = f"Does it hold? Repeat these runs with <code>make claims CHAPTER={self.chapter}</code>"
        estimates = [v for v in self.verdicts if v.claim.kind == "estimate"]
        others = [v for v in self.verdicts if v.claim.kind != "estimate"]
        if any(v.claim.part for v in others):
            shown = f"<p>{again}. {_held(others)}</p>"
            for part, group in groupby(others, key=lambda v: v.claim.part):
                inside = list(group)
                shown += _folded(f"{part}: {_held(inside)}", part, inside)
        else:
            shown = _table(again, others)
        estimated = f"Estimates, reported and not judged: {len(estimates)}"
        return shown + (_folded(estimated, "Estimates", estimates) if estimates else "")


def _held(verdicts: Sequence[Verdict]) -> str:
    """For example '3 of 5 claims hold'; shares are counted apart, as they are not judged."""
    judged = [v.holds for v in verdicts if v.holds is not None]
    said = [f"{sum(judged)} of {len(judged)} claims hold"] * bool(judged)
    said += [f"{len(verdicts) - len(judged)} shares of seeds"] * (len(verdicts) > len(judged))
    return ", ".join(said)


def _folded(title: str, caption: str, verdicts: Sequence[Verdict]) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{_table(html.escape(caption), verdicts)}</details>"


def _table(caption: str, verdicts: Sequence[Verdict]) -> str:
    left = 'style="text-align:left;font-weight:normal"'
    rows = "".join(f'<tr><th scope="row" {left}>{html.escape(v.claim.statement)}</th>'
                   f"<td {left}>{html.escape(v.sentence())}</td></tr>" for v in verdicts)
    head = '<tr><th scope="col">Claim</th><th scope="col">What the stored runs say</th></tr>'
    return f"<table><caption>{caption}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>"
