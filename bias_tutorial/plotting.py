"""One style for every figure of the course.

A :class:`Figure` is a matplotlib figure with a text that says what it shows. It reaches the page as an inline SVG drawn
in the ink of the text around it, so one output fits light and dark pages, and its words stay words at any width.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas

from .svg import INK, LARGEST, page_png, page_svg

# Okabe and Ito's colours for all kinds of colour vision (2008), less those with a contrast below 3 : 1 (WCAG 2.2,
# 1.4.11) on white or on #121212. Lines differ by dash and marker too, so colour never carries the meaning alone.
BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A7A7A"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, GREY)
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.8)), (0, (6, 2, 1.2, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v")

WIDTH = 5.0
"""Default width of a figure in inches: 480 CSS pixels, so that 10-point text has 9 pixels on a phone."""
PHONE = 327
"""Pixels left for a figure in the book on a screen of 375 pixels (measured)."""
_SHORTEST_ALT = 20
_PRINTED: ContextVar[int | None] = ContextVar("printed", default=None)  # dots per inch, within printed()


def style():
    """Context manager with the course's matplotlib settings; create figures inside it.

    Examples
    --------
    >>> from matplotlib.figure import Figure as Canvas
    >>> with style():
    ...     canvas = Canvas()
    >>> float(canvas.get_figwidth())
    5.0
    """
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
            "patch.edgecolor", "lines.color", "grid.color")
    return matplotlib.rc_context({
        **dict.fromkeys(inks, INK), "figure.figsize": (WIDTH, 3.0), "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10,
        "xtick.labelsize": 10, "ytick.labelsize": 10, "legend.fontsize": 10, "figure.titlesize": 10,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.8, "axes.grid": False, "grid.alpha": 0.15, "grid.linewidth": 0.8, "lines.linewidth": 1.8,
        "lines.markersize": 5.5, "legend.frameon": False, "image.cmap": "gray", "image.interpolation": "none",
        "mathtext.default": "regular", "axes.prop_cycle": matplotlib.cycler(color=PALETTE, linestyle=DASHES),
        "svg.fonttype": "none", "svg.hashsalt": "bias-tutorial",
    })


@contextmanager
def printed(dpi: int = 160) -> Iterator[None]:
    """Within this block figures also keep themselves as pixels, ``Figure.png``, for slides and print."""
    before = _PRINTED.set(dpi)
    try:
        yield
    finally:
        _PRINTED.reset(before)


class Figure:
    """A picture and the text that says what it shows.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Made inside :func:`style`. It is drawn once, here, and closed where pyplot holds it.
    alt : str
        What the picture shows, with its numbers: at least a sentence (20 characters).

    Raises
    ------
    ValueError
        When the text is missing or shorter than a sentence.
    """

    def __init__(self, figure, alt: str):
        if not isinstance(alt, str) or len(alt.strip()) < _SHORTEST_ALT:
            raise ValueError(f"a figure needs a text of at least {_SHORTEST_ALT} characters that says what it shows, "
                             f"with its numbers; got {alt!r}")
        self.alt = " ".join(alt.split())
        self._svg = page_svg(figure, self.alt)
        self.png = page_png(figure, dpi) if (dpi := _PRINTED.get()) else None
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(figure)

    def svg(self) -> str:
        """Return the picture as one ``<svg>`` element: nothing in it clashes with the page around it."""
        return self._svg

    def html(self) -> str:
        """Return the picture as a ``<figure>`` element for a page."""
        return f'<figure class="bt-figure" style="margin:1em 0">{self._svg}</figure>'

    @property
    def phone_text(self) -> float:
        """Height of the smallest text in CSS pixels when the figure stands on a phone (``PHONE`` pixels)."""
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', self._svg).group(1))
        sizes = [float(s) for s in re.findall(r"font-size: ([\d.]+)px", self._svg)]
        return min(sizes, default=float("inf")) * min(PHONE / width, LARGEST * 4 / 3)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html(), "text/plain": self.alt}

    def __repr__(self) -> str:
        return self.alt


# ---------------------------------------------------------------------- numbers for the texts
def number(value: float, digits: int = 3) -> str:
    """Write a number as the course prints it: fixed digits, a real minus sign, never a negative zero.

    Examples
    --------
    >>> number(0.84134), number(-1.5, 2), number(-0.0001)
    ('0.841', '−1.50', '0.000')
    """
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("-", "−")


def describe(name: str, x: Sequence[float], y: Sequence[float], low=None, high=None, digits: int = 3,
             most: int = 8) -> str:
    """Put a series of points into words: every point up to ``most`` of them, else ends, lowest and highest.

    Examples
    --------
    >>> describe("key", [0.5, 0.7], [0.841, 0.861])
    'key: 0.841 at 0.5, 0.861 at 0.7'
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) == 0:
        raise ValueError(f"series '{name}': x and y need the same length of at least 1, got {x.shape} and {y.shape}")
    places = range(len(x)) if len(x) <= most else sorted({0, int(np.nanargmin(y)), int(np.nanargmax(y)), len(x) - 1})
    def point(k):
        interval = "" if low is None else f" (interval {number(low[k], digits)} to {number(high[k], digits)})"
        return f"{number(y[k], digits)}{interval} at {x[k]:.4g}".replace("-", "−")
    return f"{name}: " + ", ".join(point(k) for k in places)


# ---------------------------------------------------------------------- lines and points
@dataclass(frozen=True)
class Series:
    """One series of :func:`lines`.

    Parameters
    ----------
    label : str
        Its name, written beside its right end.
    x, y : array-like of float, shape (n,)
        Points in the order of x.
    low, high : array-like of float, shape (n,), optional
        Interval around each y.
    points : bool
        Draw separate measured points with their intervals, not a line with a band.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    points: bool = False

    def __post_init__(self):
        for name in ("x", "y", "low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), float))


def lines(series: Sequence[Series], xlabel: str, ylabel: str, mark: float | None = None, ylim=None, title: str = "",
          digits: int = 3, legend: bool = False) -> Figure:
    """Curves and measured points with intervals, named at their right end.

    Parameters
    ----------
    series : sequence of Series
        At most five, in the order of the palette; put the reference lines first.
    xlabel, ylabel : str
        What the axes show, with units.
    mark : float, optional
        An x to mark with a vertical line and a dot on every curve: what an explorer's slider points at.
    ylim : (float, float), optional
        Fixed range of y, so that the frames of an explorer stay in place.
    title : str
        Written above.
    digits : int
        Digits after the point in the text.
    legend : bool
        Name the series below the axes, where their right ends lie together.

    Returns
    -------
    Figure
        Its text lists every series at up to eight places, with intervals.
    """
    if not 1 <= len(series) <= len(PALETTE):
        raise ValueError(f"lines draws 1 to {len(PALETTE)} series, got {len(series)}")
    texts = [describe(s.label, s.x, s.y, s.low, s.high, digits) for s in series]
    with style():
        figure = Canvas(figsize=(WIDTH, 3.2))
        axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
        for s, colour, dash, marker in zip(series, PALETTE, DASHES, MARKERS, strict=False):
            x, y = np.asarray(s.x, float), np.asarray(s.y, float)
            if s.points:
                spread = None if s.low is None else [y - np.asarray(s.low), np.asarray(s.high) - y]
                axes.errorbar(x, y, spread, fmt=marker, color=colour, capsize=3, elinewidth=1.4, linestyle="none",
                              label=s.label)
            else:
                axes.plot(x, y, color=colour, linestyle=dash, label=s.label)
                if s.low is not None:
                    axes.fill_between(x, s.low, s.high, color=colour, alpha=0.2, linewidth=0)
            if mark is not None and not s.points:
                axes.plot([mark], [np.interp(mark, x, y)], marker=marker, color=colour, markersize=8)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.8, alpha=0.5, zorder=0)
        if ylim is not None:
            axes.set_ylim(*ylim)
        if legend:
            figure.legend(loc="outside lower left", ncols=2)
        else:
            _name_ends(axes, series)
        marked = "" if mark is None else f" Marked at {mark:g}."
        return Figure(figure, f"{title or 'Lines'}. {ylabel} over {xlabel}.{marked} {'; '.join(texts)}.")


def _name_ends(axes, series) -> None:
    """Write each series' name right of its last point, pushed apart where they would touch."""
    axes.margins(x=0.02)
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    ends = sorted(range(len(series)), key=lambda k: series[k].y[-1])
    places = []
    for k in ends:
        places.append(max(float(series[k].y[-1]), places[-1] + gap) if places else float(series[k].y[-1]))
    over = max(0.0, places[-1] - high)
    right = max(max(s.x) for s in series)
    left = min(min(s.x) for s in series)
    for k, place in zip(ends, places, strict=True):
        axes.annotate(series[k].label, (right, place), (right + 0.03 * (right - left), place - over), va="center",
                      annotation_clip=False)


def histograms(groups: Mapping[str, Sequence[float]], xlabel: str, bins: int = 30, mark: float | None = None,
               title: str = "") -> Figure:
    """Distributions of groups as outlines over the same bins, each scaled to area 1.

    Parameters
    ----------
    groups : mapping of str to array-like
        Values of each group, at most five groups, none empty, all finite.
    xlabel : str
        What the values are, with units.
    bins : int
        Number of bins over the range of all values.
    mark : float, optional
        A threshold, drawn as a vertical line.

    Returns
    -------
    Figure
        Its text gives n, mean and standard deviation of every group.
    """
    values = {name: np.asarray(v, float).ravel() for name, v in groups.items()}
    if not 1 <= len(values) <= len(PALETTE):
        raise ValueError(f"histograms draws 1 to {len(PALETTE)} groups, got {len(values)}")
    for name, v in values.items():
        if len(v) == 0 or not np.isfinite(v).all():
            raise ValueError(f"group '{name}' needs at least one value and only finite ones")
    with style():
        figure = Canvas(figsize=(WIDTH, 3.0))
        axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel="density")
        edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
        for (name, v), colour, dash in zip(values.items(), PALETTE, DASHES, strict=False):
            axes.stairs(np.histogram(v, edges, density=True)[0], edges, color=colour, linestyle=dash, linewidth=1.8,
                        label=f"{name} (n = {len(v):,})")
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.8, alpha=0.6)
        figure.legend(loc="outside lower left", ncols=1 if max(map(len, values)) > 14 else 2)
        texts = [f"{name}: n = {len(v):,}, mean {number(v.mean(), 2)}, standard deviation "
                 f"{number(v.std(ddof=1) if len(v) > 1 else 0.0, 2)}" for name, v in values.items()]
        marked = "" if mark is None else f" A line marks {number(mark, 2)}."
        return Figure(figure, f"{title or 'Distributions'}. {xlabel} by group. {'; '.join(texts)}.{marked}")


def love_plot(balances: Mapping[str, Any], bound: float = 0.05, title: str = "") -> Figure:
    """Largest standardised mean difference left on every latent, one row a latent, one marker a way of assigning.

    Parameters
    ----------
    balances : mapping of str to pandas.DataFrame
        Tables from :func:`bias_tutorial.scenario.balance` (columns ``latent`` and ``smd``) by their label.
    bound : float
        Drawn as a vertical line: differences should stay left of it.

    Returns
    -------
    Figure
        Its text gives, for each label, the largest difference, its latent, and how many latents pass the bound.

    Notes
    -----
    After Love's covariate balance plot; see Austin, Statistics in Medicine 2009, doi 10.1002/sim.3697.
    """
    worst = {}
    for name, table in balances.items():
        missing = {"latent", "smd"} - set(table.columns)
        if missing or not len(table):
            raise ValueError(f"balance table '{name}' needs rows and the columns latent and smd, "
                             f"got {list(table.columns)}")
        worst[name] = table["smd"].abs().groupby(table["latent"], sort=False).max()
    order = next(iter(worst.values())).index
    with style():
        figure = Canvas(figsize=(WIDTH, 1.0 + 0.21 * len(order)))
        axes = figure.add_subplot(title=title, xlabel="largest standardised mean difference")
        rows = np.arange(len(order))[::-1]
        for (name, values), colour, marker in zip(worst.items(), PALETTE, MARKERS, strict=False):
            axes.plot(values.reindex(order), rows, linestyle="none", marker=marker, color=colour, label=name)
        axes.axvline(bound, color=INK, linewidth=1, linestyle=DASHES[1])
        axes.annotate(f"bound {bound:g}", (bound, len(order) - 0.4), (3, 0), textcoords="offset points", va="bottom")
        axes.set(yticks=rows, yticklabels=[str(n).replace("_", " ") for n in order], ylim=(-0.7, len(order) + 0.3))
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y")
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower left", ncols=2)
        texts = [f"{name}: largest {number(v.max())} ({str(v.idxmax()).replace('_', ' ')}), {(v > bound).sum()} of "
                 f"{len(v)} latents above {bound:g}" for name, v in worst.items()]
        return Figure(figure, f"{title or 'Balance'}. Largest standardised mean difference per latent. "
                              f"{'; '.join(texts)}.")


def dots(rows: Mapping[str, tuple[float, float, float]], references: Mapping[str, Mapping[str, float]], xlabel: str,
         xlim=None, title: str = "") -> Figure:
    """One measured value a row with its interval, and reference values to hold it against.

    Parameters
    ----------
    rows : mapping of str to (value, low, high)
        In order, the first on top.
    references : mapping of str to mapping of str to float
        For each kind of reference, at most four, its value in the rows that have one.
    xlabel : str
        What the values are, with units.
    xlim : (float, float), optional
        Fixed range.

    Returns
    -------
    Figure
        Its text gives every row with its interval and references.
    """
    if not rows or len(references) >= len(PALETTE):
        raise ValueError(f"dots draws at least one row and at most {len(PALETTE) - 1} kinds of references, "
                         f"got {len(rows)} and {len(references)}")
    for name, found in references.items():
        unknown = set(found) - set(rows)
        if unknown:
            raise ValueError(f"reference '{name}' names the row '{min(unknown)}', the rows are {', '.join(rows)}")
    places = {row: len(rows) - 1 - k for k, row in enumerate(rows)}
    with style():
        figure = Canvas(figsize=(WIDTH, 1.3 + 0.3 * len(rows)))
        axes = figure.add_subplot(title=title, xlabel=xlabel)
        for (name, found), colour, marker in zip(references.items(), PALETTE[1:], MARKERS[1:], strict=False):
            axes.plot(list(found.values()), [places[row] for row in found], linestyle="none", marker=marker,
                      color=colour, fillstyle="none", markersize=7, markeredgewidth=1.6, label=name)
        value, low, high = np.array(list(rows.values()), dtype=float).T
        axes.errorbar(value, list(places.values()), xerr=[value - low, high - value], fmt=MARKERS[0], color=PALETTE[0],
                      capsize=3, elinewidth=1.4, linestyle="none", label="measured")
        axes.set(yticks=list(places.values()), yticklabels=list(places), ylim=(-0.6, len(rows) - 0.4))
        if xlim is not None:
            axes.set_xlim(*xlim)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y")
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower left", ncols=2)
        texts = [f"{row}: {number(v)} (interval {number(a)} to {number(b)})"
                 + "".join(f", {name} {number(found[row])}" for name, found in references.items() if row in found)
                 for row, (v, a, b) in rows.items()]
        return Figure(figure, f"{title or 'Measured values'}. {xlabel}. {'; '.join(texts)}.")
