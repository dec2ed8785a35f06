"""Figures of images: slices side by side, named regions, displacement fields, in the style of :mod:`.plotting`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.cm
import matplotlib.colors
import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure as Canvas

from .plotting import VERMILLION, WIDTH, Figure, number, style

SKY = "#56B4E9"
"""Below zero in difference pictures: lies on grey values only, where the palette's blue would be too dark."""


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], differences: Sequence | None = None,
               difference_label: str = "difference", what: str = "Images", columns: int = 3) -> Figure:
    """Draw slices side by side, each with a signed difference laid over it if wanted.

    Parameters
    ----------
    images : sequence of arrays, shape (H, W) or (H, W, 3)
        Grey values or RGB in [0, 1]; row 0 is drawn at the top.
    titles : sequence of str
        One per image, drawn above it and used in the text.
    differences : sequence of arrays or None, optional
        A signed picture of the same shape per image, or None for an image without. All share one scale: sky blue below
        zero, vermillion above, clear at zero.
    difference_label : str
        Name of the differences, with units.
    what : str
        First sentence of the text: what these images are.
    columns : int
        Images a row; more rows as needed. Three is what a phone can show.

    Returns
    -------
    Figure
        Its text gives each title with mean and range of grey, and the range of each difference.
    """
    images = [_slice(image, title) for image, title in zip(images, titles, strict=True)]
    differences = [None] * len(images) if differences is None else [None if d is None else np.asarray(d, float)
                                                                   for d in differences]
    for image, d, title in zip(images, differences, titles, strict=True):
        if d is not None and (d.shape != image.shape or d.ndim != 2):
            raise ValueError(f"difference of '{title}' has shape {d.shape}, expected {image.shape}")
    shown = [d for d in differences if d is not None]
    scale = max((float(np.abs(d).max()) for d in shown), default=0.0) or 1.0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = min(WIDTH, 2.6 * columns)  # one picture alone need not fill the page
    height = rows * ((width / columns) * images[0].shape[0] / images[0].shape[1] + 0.25) + (0.55 if shown else 0)
    with style():
        figure = Canvas(figsize=(width, height))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, image, d, title in zip(grid.flat, images, differences, titles, strict=False):
            axes.imshow(image if d is None else _overlay(image, d / scale), vmin=0, vmax=1)
            axes.set_title(title, fontweight="normal", loc="center")
        if shown:
            _difference_bar(figure, grid, scale, difference_label)
        texts = [f"{title}: mean grey {number(image.mean())}, range {number(image.min(), 2)} to "
                 f"{number(image.max(), 2)}"
                 + ("" if d is None else f"; {difference_label} from {number(d.min())} to {number(d.max())}")
                 for image, d, title in zip(images, differences, titles, strict=True)]
        return Figure(figure, f"{what}. {'. '.join(texts)}.")


def regions(image: np.ndarray, masks: Mapping[str, np.ndarray], what: str = "Slice with regions marked") -> Figure:
    """Draw a slice with the outline of each region, numbered, and their names beneath.

    Parameters
    ----------
    image : array, shape (H, W)
        Grey values in [0, 1].
    masks : mapping of str to array, shape (H, W)
        True, or a weight of at least .5, inside the region; every region needs at least one pixel in this slice.

    Returns
    -------
    Figure
        Its text gives each region's name, size in pixels and centre.
    """
    image = _slice(image, what)
    with style():
        height = 0.62 * WIDTH * image.shape[0] / image.shape[1] + 0.22 * -(-len(masks) // 2) + 0.2
        figure = Canvas(figsize=(WIDTH, height))
        axes = figure.add_subplot()
        axes.axis("off")
        axes.imshow(image, vmin=0, vmax=1)
        texts, handles = [], []
        for k, (name, mask) in enumerate(masks.items(), 1):
            inside = np.asarray(mask) >= 0.5
            if inside.shape != image.shape or not inside.any():
                raise ValueError(f"region '{name}' needs a mask of shape {image.shape} with at least one pixel inside, "
                                 f"got shape {inside.shape} and {inside.sum()} pixels")
            y, x = (c.mean() for c in np.nonzero(inside))
            # Light and dark line together, so that the outline shows on every grey.
            for colour, width in (("black", 2.6), ("white", 1.2)):
                axes.contour(inside.astype(float), [0.5], colors=colour, linewidths=width)
            handles.append(axes.text(x, y, str(k), color="white", ha="center", va="center", fontweight="bold",
                                     bbox={"facecolor": "black", "edgecolor": "none", "pad": 1.2, "alpha": 0.75}))
            texts.append(f"{k} {name.replace('_', ' ')}: {inside.sum()} pixels around row {y:.0f}, column {x:.0f}")
        names = [f"{k}  {name.replace('_', ' ')}" for k, name in enumerate(masks, 1)]
        blank = [matplotlib.patches.Rectangle((0, 0), 0, 0, fill=False, edgecolor="none") for _ in names]
        figure.legend(blank, names, loc="outside lower center", ncols=2, handlelength=0, handletextpad=0)
        return Figure(figure, f"{what}. {'; '.join(texts)}.")


def displacement(image: np.ndarray, field: np.ndarray, step: int = 5, margin: int | None = None,
                 unit: str = "pixels", what: str = "Displacement field") -> Figure:
    """Draw a slice with arrows that show where its points move, drawn to scale.

    Parameters
    ----------
    image : array, shape (H, W)
        Grey values in [0, 1].
    field : array, shape (2, H, W)
        Displacement along rows and columns, in pixels.
    step : int
        One arrow every ``step`` pixels; arrows shorter than a tenth of the longest are left out.
    margin : int, optional
        Show only the part that moves and this many pixels around it; by default the whole slice.
    unit : str
        Name of the unit in the text.

    Returns
    -------
    Figure
        Its text gives the longest displacement, where it is, and the share of points that move by half a unit or more.
    """
    image, field = _slice(image, what), np.asarray(field, float)
    if field.shape != (2, *image.shape) or not np.isfinite(field).all():
        raise ValueError(f"field needs shape {(2, *image.shape)} and finite values, got shape {field.shape}")
    length = np.hypot(*field)
    row, column = np.unravel_index(length.argmax(), length.shape)
    y, x = np.mgrid[step // 2 : image.shape[0] : step, step // 2 : image.shape[1] : step]
    drawn = length[y, x] >= max(0.1 * length.max(), 1e-6)
    y, x = y[drawn], x[drawn]
    rows, columns = (np.flatnonzero((length >= 0.1 * length.max()).any(axis=k)) for k in (1, 0))
    if margin is None:
        rows, columns, margin = range(image.shape[0]), range(image.shape[1]), 0
    top, bottom = max(rows[0] - margin, 0) - 0.5, min(rows[-1] + margin, image.shape[0] - 1) + 0.5
    left, right = max(columns[0] - margin, 0) - 0.5, min(columns[-1] + margin, image.shape[1] - 1) + 0.5
    with style():
        figure = Canvas(figsize=(WIDTH, 0.62 * WIDTH * (bottom - top) / (right - left)))
        axes = figure.add_subplot()
        axes.axis("off")
        axes.imshow(image, vmin=0, vmax=1)
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.quiver(x, y, field[1, y, x], field[0, y, x], angles="xy", scale_units="xy", scale=1, width=0.007,
                    color="white", edgecolor="black", linewidth=0.5)
        return Figure(figure, f"{what}. The longest displacement is {number(length.max(), 2)} {unit}, at row {row}, "
                              f"column {column}; {(length >= 0.5).mean():.0%} of points move at least half a unit.")


def heatmaps(tables: Mapping[str, Any], xlabel: str, ylabel: str, low: float, high: float) -> Figure:
    """Tables as pictures, one below the other, with their numbers in the cells.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        One or two, of the same rows and columns, by their titles.
    xlabel, ylabel : str
        What the columns and the rows are.
    low, high : float
        Values drawn lightest and darkest.

    Returns
    -------
    Figure
        Its text gives every column of every table.
    """
    first = next(iter(tables.values()))
    if len(tables) > 2 or any(not t.index.equals(first.index) or not t.columns.equals(first.columns)
                              for t in tables.values()):
        raise ValueError(f"heatmaps draws one or two tables of the same rows and columns, got {len(tables)}")
    with style():
        figure = Canvas(figsize=(WIDTH, 0.7 + len(tables) * (0.45 + 0.27 * len(first))))
        grid = figure.subplots(len(tables), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (title, table) in zip(grid, tables.items(), strict=True):
            values = table.to_numpy(dtype=float)
            axes.pcolormesh(values, cmap="Blues", vmin=low, vmax=high)
            axes.invert_yaxis()
            for (row, column), value in np.ndenumerate(values):
                dark = value > low + 0.55 * (high - low)
                axes.text(column + 0.5, row + 0.5, number(value, 2), ha="center", va="center",
                          color="#ffffff" if dark else "#102030")
            axes.set(title=title, ylabel=ylabel, xticks=np.arange(len(table.columns)) + 0.5,
                     yticks=np.arange(len(table)) + 0.5)
            axes.set_xticklabels([str(c) for c in table.columns])
            axes.set_yticklabels([str(r) for r in table.index])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        grid[-1].set_xlabel(xlabel)
        texts = [f"{title}: " + "; ".join(f"{xlabel} {c}: {', '.join(number(v, 2) for v in table[c])}" for c in table)
                 for title, table in tables.items()]
        return Figure(figure, f"Values by {ylabel} (down) and {xlabel} (across). {'. '.join(texts)}.")


def _slice(image, name: str) -> np.ndarray:
    image = np.asarray(image, dtype=float)
    if not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3) or not np.isfinite(image).all():
        raise ValueError(f"image '{name}' needs shape (H, W) or (H, W, 3) and finite values, got shape {image.shape}")
    return image


def _overlay(image: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Grey picture with a signed difference in [-1, 1] over it, shape (H, W, 3)."""
    strength = np.sqrt(np.abs(difference))[..., None]  # the root lets small differences be seen; the bar uses it too
    below, above = (matplotlib.colors.to_rgb(c) for c in (SKY, VERMILLION))
    tint = np.where(difference[..., None] < 0, below, above)
    return (1 - strength) * 0.8 * np.clip(image, 0, 1)[..., None] + strength * tint


def _difference_bar(figure, grid, scale: float, label: str) -> None:
    """Colour bar of :func:`_overlay`, below the pictures."""
    ramp = np.linspace(-1, 1, 128)
    colours = _overlay(np.full((1, 128), 0.4), ramp[None])[0]
    mappable = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-scale, scale),
                                            matplotlib.colors.ListedColormap(colours))
    bar = figure.colorbar(mappable, ax=list(grid.flat), location="bottom", fraction=0.05, aspect=40, pad=0.02,
                          label=label)
    bar.outline.set_visible(False)
    bar.set_ticks([-scale, 0, scale], labels=[number(-scale, 2), "0", number(scale, 2)])
