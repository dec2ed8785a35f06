"""The report of an audit: one HTML file that needs neither network nor script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import pandas as pd

from ..plotting import number
from . import drawings, procedures
from .drawings import RATE_WORDS, words
from .groups import INTERSECTION
from .privacy import LEAST, SMALLEST_GROUP
from .study import CHOSEN, RULES

NOTHING = "–"
_CAUSES = {"representation": "some groups are small, and findings look different in them",
           "prevalence": "findings are not equally frequent in all groups",
           "label_noise": "in some groups reports miss findings",
           "feature_quality": "in some groups findings are shown less clearly"}


def page(tables: Mapping[str, pd.DataFrame], run: Mapping[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        From :func:`bias_tutorial.audit.tables.publish`.
    run : dict
        What ``run.json`` holds.

    Returns
    -------
    str
        HTML. Every text in it that came from a file is escaped.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    simulated = run["inputs"]["simulated"]
    view = View(tables, run, ", simulated" if simulated else "")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"said": said, "svg": lambda figure: Markup(figure.html()), "words": words, "value": _value}
    template = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(view=view, run=run, simulated=simulated, tables=tables, causes=_CAUSES, rules=RULES,
                           what_they_do=procedures.WORDS, least=LEAST, smallest=SMALLEST_GROUP,
                           plain=procedures.PLAIN, rate_words=RATE_WORDS)


def said(value: Any, digits: int | None = None) -> str:
    """A cell of a table: numbers with a real minus sign, counts with separators, a dash for nothing."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return NOTHING
    if float(value).is_integer() and digits is None:
        return f"{int(value):,}"
    return number(value, 2 if digits is None else digits)


class View:
    """What the template asks for, all of it made from published tables.

    Parameters
    ----------
    tables, run
        As for :func:`page`.
    stamp : str
        Stands in the title of every figure.
    """

    def __init__(self, tables: Mapping[str, pd.DataFrame], run: Mapping[str, Any], stamp: str):
        self.tables, self.run, self.stamp = tables, run, stamp
        metrics, gaps = tables["metrics"], tables["gaps"]
        self.metrics = metrics[(metrics["procedure"] == procedures.PLAIN)]
        self.at_chosen = self.metrics[self.metrics["rule"] == CHOSEN]
        self.gaps = gaps[(gaps["procedure"] == procedures.PLAIN) & gaps["gap"].notna()]
        self.gaps_at_chosen = self.gaps[self.gaps["rule"] == CHOSEN]
        self.findings = list(dict.fromkeys(metrics["finding"]))
        self.left_out = tables["findings"].query("not learned")["finding"].tolist()
        self.crossed = " and ".join(map(words, run["settings"]["by"])) if len(run["settings"]["by"]) > 1 else ""
        self.attributes = [name for name in dict.fromkeys(tables["groups"]["attribute"]) if name != "all"]

    # ------------------------------------------------------------------ summary
    @property
    def size(self) -> dict[str, Any]:
        """Patients and studies, in words for tens."""
        everybody = self.tables["groups"].iloc[0]
        return {what: said(everybody[what]) for what in ("patients", "studies", "test_patients")}

    @property
    def beyond_chance(self) -> pd.DataFrame:
        """Gaps of the plain model that are above 95% of the gaps that chance gives, largest excess first."""
        above = self.gaps_at_chosen[self.gaps_at_chosen["p"] < 0.05]
        return above.assign(excess=above["gap"] - above["floor_95"]).sort_values("excess", ascending=False)

    @property
    def shown_attribute(self) -> str | None:
        """The attribute whose figures are drawn where one must do: where most gaps are beyond chance."""
        beyond = self.beyond_chance["attribute"].value_counts()
        return max(dict.fromkeys(self.gaps_at_chosen["attribute"]), key=lambda name: beyond.get(name, 0), default=None)

    def mean_auc(self, procedure: str) -> float:
        """Over findings, all test patients."""
        metrics = self.tables["metrics"]
        return metrics[(metrics["procedure"] == procedure) & (metrics["rule"] == CHOSEN)
                       & (metrics["group"] == "all")]["auc"].mean()

    def outcomes(self) -> list[dict[str, Any]]:
        """For every procedure: mean AUC, and how gaps in missed findings changed, over findings and attributes."""
        rows, changes = [], self.tables.get("levelling_down", pd.DataFrame())
        for name in self.run["settings"]["resample"]:
            row = {"name": name, "auc": self.mean_auc(name)}
            if name != procedures.PLAIN:
                part = changes[(changes["procedure"] == name) & (changes["rate"] == "fnr") & changes["gap"].notna()]
                row |= {"compared": len(part), "gap": part["gap"].mean(), "worst": part["worst"].mean(),
                        "mean": part["mean"].mean(), "smaller": int((part["gap_high"] < 0).sum()),
                        "larger": int((part["gap_low"] > 0).sum()),
                        "levelled": int((part["levelled_down"] == True).sum()),  # noqa: E712 - NaN where not judged
                        "fell": int((part["gap"] < 0).sum())}
            rows.append(row)
        return rows

    def hidden_by_threshold(self) -> list[str]:
        """Findings that a threshold of .5 misses in nine of ten patients, so that no gap can be seen."""
        fixed = self.metrics[(self.metrics["rule"] == "fixed") & (self.metrics["group"] == "all")]
        return fixed[fixed["fnr"] >= 0.9]["finding"].tolist()

    def healthy(self) -> dict[str, Any] | None:
        """Groups that the plain model most and least often calls healthy in spite of a finding."""
        table = self.underdiagnosis
        table = table[table["fpr"].notna() & ~table["attribute"].isin(["all", INTERSECTION])]
        if len(table) < 2:
            return None
        return {"most": table.loc[table["fpr"].idxmax()], "least": table.loc[table["fpr"].idxmin()]}

    @property
    def underdiagnosis(self) -> pd.DataFrame:
        """Of the plain model; empty where "No Finding" was not learned."""
        table = self.tables["underdiagnosis"]
        return table[table["procedure"] == procedures.PLAIN]

    # ------------------------------------------------------------------ tables
    def healthy_by_procedure(self) -> Iterable[tuple[Any, list[float]]]:
        """Rows of :attr:`underdiagnosis`, each with the shares after the other procedures."""
        wide = self.tables["underdiagnosis"].pivot(index="group", columns="procedure", values="fpr")
        others = [name for name in self.run["settings"]["resample"] if name != procedures.PLAIN]
        return [(row, wide.loc[row.group, others].tolist()) for row in self.underdiagnosis.itertuples()]

    def matrix(self, table: pd.DataFrame, value: str, attribute: str) -> dict[str, Any]:
        """Findings by groups of an attribute, the groups' values without the attribute's name."""
        part = table[table["attribute"] == attribute]
        groups = list(dict.fromkeys(part["group"]))
        wide = part.pivot(index="finding", columns="group", values=value)
        return {"groups": [_value(group) for group in groups],
                "rows": [(finding, [wide.loc[finding, group] for group in groups]) for finding in self.findings]}

    # ------------------------------------------------------------------ figures
    def figures(self, which: str) -> Sequence[drawings.Figure]:
        """Figures of one section; none where there is nothing to draw."""
        return {"thresholds": self._thresholds, "gaps": self._gaps, "levelling": self._levelling,
                "healthy": self._healthy}[which]()

    def _thresholds(self) -> Sequence[drawings.Figure]:
        if self.shown_attribute is None:
            return ()
        gaps = self.gaps[(self.gaps["attribute"] == self.shown_attribute) & (self.gaps["rate"] == "fnr")]
        return drawings.thresholds(self.metrics, gaps, RULES, self.stamp)

    def _gaps(self) -> Sequence[drawings.Figure]:
        parts = self.gaps_at_chosen[self.gaps_at_chosen["rate"] == "fnr"].groupby("attribute", sort=False)
        return [drawings.against_chance(part, attribute, "fnr", self.stamp) for attribute, part in parts]

    def _levelling(self) -> Sequence[drawings.Figure]:
        table = self.tables.get("levelling_down")
        if table is None or self.shown_attribute is None:
            return ()
        part = table[(table["rate"] == "fnr") & (table["attribute"] == self.shown_attribute) & table["gap"].notna()]
        reach = part[["gap", "worst", "mean"]].abs().max().max() * 1.5
        return [drawings.levelling_down(each, name, self.stamp, (-reach, reach))
                for name, each in part.groupby("procedure", sort=False)] if reach > 0 else ()

    def _healthy(self) -> Sequence[drawings.Figure]:
        table = self.underdiagnosis
        return [drawings.called_healthy(table, self.stamp)] if table["fpr"].notna().any() else ()


def _value(group: str) -> str:
    """'sex = F, race = A' as 'F, A'."""
    return ", ".join(part.partition(" = ")[2] or part for part in group.split(", "))
