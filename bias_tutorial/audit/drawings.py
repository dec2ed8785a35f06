"""The figures of an audit, from its published tables."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as Canvas

from ..plotting import BLUE, GREEN, INK, PURPLE, VERMILLION, WIDTH, Figure, dots, number, style

RATE_WORDS = {"fnr": "missed (FNR)", "fpr": "false alarm (FPR)"}


def against_chance(gaps: pd.DataFrame, attribute: str, rate: str, stamp: str) -> Figure:
    """Gap of every finding between the groups of an attribute, with its interval, and the gap that chance gives."""
    part = gaps[gaps["gap"].notna()]
    rows = {r.finding: (r.gap, r.low, r.high) for r in part.itertuples()}
    chance = {r.finding: r.floor_95 for r in part.itertuples()}
    return dots(rows, {"95% of gaps by chance are below": chance}, f"gap in {RATE_WORDS[rate]}, highest less lowest",
                title=f"Gap by {words(attribute)}{stamp}")


def thresholds(metrics: pd.DataFrame, gaps: pd.DataFrame, rules: dict[str, str], stamp: str) -> tuple[Figure, ...]:
    """For every rule, the share of a finding's patients that is missed, and the gap of that share between groups."""
    missed = metrics[metrics["group"] == "all"].pivot(index="finding", columns="rule", values="fnr")
    apart = gaps.pivot(index="finding", columns="rule", values="gap")
    return (_markers(missed, rules, f"Missed in all patients{stamp}", "share missed (FNR)"),
            _markers(apart.reindex(missed.index), rules, f"Gap between groups{stamp}", "gap in share missed (FNR)"))


def _markers(table: pd.DataFrame, rules: dict[str, str], title: str, xlabel: str) -> Figure:
    """One row a finding, one marker a rule."""
    with style():
        figure = Canvas(figsize=(WIDTH, 1.6 + 0.3 * len(table)))
        axes = figure.add_subplot(title=title, xlabel=xlabel)
        places = list(range(len(table)))[::-1]
        for (rule, said), colour, marker in zip(rules.items(), (BLUE, VERMILLION, GREEN), "osD", strict=True):
            axes.plot(table[rule], places, linestyle="none", marker=marker, color=colour, fillstyle="none",
                      markersize=7, markeredgewidth=1.6, label=said)
        axes.set(yticks=places, yticklabels=list(table.index), ylim=(-0.6, len(table) - 0.4))
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.grid(axis="y")
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower left", ncols=1, title="threshold", alignment="left")
        texts = [f"{finding}: " + ", ".join(f"{said} {number(row[rule], 2)}" for rule, said in rules.items()
                                            if pd.notna(row[rule])) for finding, row in table.iterrows()]
        return Figure(figure, f"{title}. {xlabel} by way of choosing the threshold. {'; '.join(texts)}.")


def levelling_down(table: pd.DataFrame, title: str, stamp: str, limits: tuple[float, float]) -> Figure:
    """Change of the gap against the change of the worst and of the mean group's error, a point a finding."""
    low, high = limits
    with style():
        figure = Canvas(figsize=(WIDTH, 4.6))
        axes = figure.add_subplot(title=f"{title}{stamp}", xlabel="change of the gap", ylabel="change of the error",
                                  xlim=limits, ylim=limits)
        axes.fill_between([low, 0], 0, high, color=PURPLE, alpha=0.13, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.axvline(0, color=INK, linewidth=0.8)
        for key, said, colour, marker in (("worst", "worst group", VERMILLION, "s"),
                                          ("mean", "mean of the groups", BLUE, "o")):
            axes.errorbar(table["gap"], table[key], fmt=marker, color=colour, label=said, linestyle="none",
                          fillstyle="none", markeredgewidth=1.5,
                          xerr=[table["gap"] - table["gap_low"], table["gap_high"] - table["gap"]],
                          yerr=[table[key] - table[f"{key}_low"], table[f"{key}_high"] - table[key]],
                          elinewidth=0.6, ecolor=to_rgba(colour, 0.45))
        for x, y, text in ((low, high, "gap smaller, errors higher"), (low, low, "gap smaller, errors lower")):
            axes.annotate(text, (x, y), (5, -5 if y > 0 else 5), textcoords="offset points",
                          va="top" if y > 0 else "bottom")
        figure.legend(loc="outside lower left", ncols=2)
        texts = [f"{r.finding}: gap {number(r.gap, 2)}, worst group {number(r.worst, 2)}, mean {number(r.mean, 2)}"
                 for r in table.itertuples()]
        return Figure(figure, f"{title}{stamp}. Change against training on all studies as they are; "
                              f"shaded: gap smaller, errors higher. {'; '.join(texts)}.")


def called_healthy(table: pd.DataFrame, stamp: str) -> Figure:
    """Share of those with a finding whom the model calls healthy, by group."""
    rows = {words(r.group): (r.fpr, r.fpr_low, r.fpr_high) for r in table[table["fpr"].notna()].itertuples()}
    return dots(rows, {}, "share called healthy", title=f"Called healthy in spite of a finding{stamp}")


def words(attribute: str) -> str:
    """An attribute or a group as it is written: ``age_group = 80+`` as "age group 80+"."""
    return attribute.replace("_", " ").replace(" = ", " ")
