"""An explorer for maps of points, such as t-SNE maps of an embedding: point at one, and see its image and values."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_hex
from PIL import Image

from .page import Output, check_controls, page, printed, setting, slider
from .plotting import BLUE, GREY, PALETTE, VERMILLION

SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",  # circle
    "M-4.4-4.4h8.8v8.8h-8.8z",  # square
    "M0-5.8L5.6 4.2H-5.6z",  # triangle
    "M0-6.2L5 0 0 6.2-5 0z",  # diamond
    "M0 5.8L5.6-4.2H-5.6z",  # triangle on its tip
    "M-1.6-5.6h3.2v4h4v3.2h-4v4h-3.2v-4h-4v-3.2h4z",  # plus
    "M0-2.3L3-5.3 5.3-3 2.3 0 5.3 3 3 5.3 0 2.3-3 5.3-5.3 3-2.3 0-5.3-3-3-5.3z",  # cross
    "M-6.5-1.8h13v3.6h-13z",  # bar
)
"""One shape a class, as SVG paths around 0; from the sixth class on the colours of the palette come again."""
STEPS = 7
"""A number is drawn in this many steps, from a small blue circle over grey to a large vermillion one: the size tells
what the colour tells, and all keep a contrast of 3 : 1 on white and on #121212."""
DIGITS = 3
WIDTH, HEIGHT, MARGIN = 440, 400, 14
HELP = ("Map of points. Arrow keys go to the nearest point in that direction, Page Up and Page Down to the one before "
        "and after in the list, Home and End to the first and last.")


def point_map(title: str, maps: Mapping[Any, np.ndarray], colours: pd.DataFrame, images: np.ndarray,
              by: str = "perplexity", start: Any = None, describe: Sequence[str] | None = None) -> Output:
    """Build an explorer for maps of the same points, such as t-SNE maps of several perplexities.

    A slider picks the map, a list the attribute shown by colour and shape. The point under the pointer, tapped, or
    reached by the arrow keys shows its image and its values.

    Parameters
    ----------
    title : str
        Visible heading and accessible name.
    maps : mapping of value to array, shape (n, 2)
        At least two, in the order of the slider. Each is drawn as large as fits, with one scale for both axes, as a
        map's axes have neither unit nor direction.
    colours : pandas.DataFrame, n rows
        One column an attribute, the first shown at the start. Columns of numbers get a scale; bool, text and categories
        are classes, at most eight. Turn a label coded 0 and 1 into text or bool.
    images : array, shape (n, h, w)
        Grey values in [0, 1], kept with 8 bits.
    by : str
        What the keys of ``maps`` are.
    start : optional
        The key of ``maps`` shown first and in the still picture; by default the middle one.
    describe : sequence of str, optional
        Columns of ``colours`` that are told of a point; by default all.

    Returns
    -------
    Output
        HTML with everything inside. Without scripts the map at the start stands still, with its legend.

    Raises
    ------
    ValueError
        When the parts differ in n, there are fewer than two maps, points are not finite or all the same, an attribute
        is constant, missing somewhere or has more than eight classes, an image leaves [0, 1], or the page passes
        1.5 MB.
    """
    maps, images = {key: np.asarray(places, float) for key, places in maps.items()}, np.asarray(images, float)
    shown = check_controls(title, {by: list(maps)}, {} if start is None else {by: start})[by]
    told = list(colours.columns if describe is None else describe)
    attributes = [_attribute(title, str(name), colours[name]) for name in colours]
    _check(title, maps, colours, images, by, told)
    settings, (sheet, columns) = [setting(by, key) for key in maps], _sheet(images)
    data = {"help": HELP, "settings": settings, "maps": [_fitted(places) for places in maps.values()],
            "attributes": attributes, "names": [str(name) for name in told],
            "values": list(zip(*(_told(colours[name]) for name in told), strict=True)),
            "sheet": sheet, "columns": columns}
    k = list(maps).index(shown)
    alt = f"{len(images):,} points at {settings[k]}, {attributes[0]['words']}"
    body = _body(by, k, data, alt, images.shape[1:])
    return Output(page("map", title, body, data), f"{title}. {alt}. In the page, each point shows its image.")


def _check(title: str, maps: Mapping[Any, np.ndarray], colours: pd.DataFrame, images: np.ndarray, by: str,
           told: list) -> None:
    """Refuse parts that do not fit each other, and points and images that cannot be drawn."""
    n = len(colours)
    if images.ndim != 3 or len(images) != n:
        raise ValueError(f"explorer '{title}': images have shape {images.shape}, expected ({n}, h, w) as colours have "
                         f"{n} rows")
    for key, places in maps.items():
        if places.shape != (n, 2):
            raise ValueError(f"explorer '{title}': the map at {setting(by, key)} has shape {places.shape}, expected "
                             f"({n}, 2) as colours have {n} rows")
        if not np.isfinite(places).all() or not np.ptp(places, axis=0).any():
            raise ValueError(f"explorer '{title}': the map at {setting(by, key)} needs finite points that are not all "
                             "the same")
    for k, image in enumerate(images):
        if not ((image >= 0) & (image <= 1)).all():
            raise ValueError(f"explorer '{title}': image {k} goes from {image.min():g} to {image.max():g}, expected "
                             "grey values in [0, 1]")
    unknown = [name for name in told if name not in colours]
    if unknown or not told:
        raise ValueError(f"explorer '{title}': describe names {unknown or 'nothing'}, expected columns of colours: "
                         f"{list(colours)}")


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _told(column: pd.Series) -> list[tuple[str, str]]:
    """Every value as printed, and in full as Python writes it."""
    values = [v.item() if isinstance(v, np.generic) else v for v in column]
    return [(printed(v, DIGITS) if _numeric(column) else str(v), repr(v)) for v in values]


def _attribute(title: str, name: str, column: pd.Series) -> dict:
    """Say how an attribute is drawn: its looks (path and colour), the look of every point, legend and words."""
    if column.isna().any() or (_numeric(column) and not np.isfinite(column.to_numpy(float)).all()):
        raise ValueError(f"explorer '{title}': attribute '{name}' is missing or not finite at some of {len(column)} "
                         "points")
    if column.nunique() < 2:
        raise ValueError(f"explorer '{title}': attribute '{name}' has one value for all {len(column)} points, expected "
                         "at least two")
    if _numeric(column):
        values, told = column.to_numpy(float), _told(column)
        low, high = told[values.argmin()][0], told[values.argmax()][0]
        of = np.minimum((values - values.min()) / np.ptp(values) * STEPS, STEPS - 1).astype(int)
        ramp = LinearSegmentedColormap.from_list("steps", [BLUE, GREY, VERMILLION], STEPS)(range(STEPS))
        looks = [(_circle(r), to_hex(colour)) for r, colour in zip(np.linspace(3, 7, STEPS), ramp, strict=True)]
        legend = f"<li>{low} {''.join(map(_mark, looks))} {high}</li>"
        words = f"coloured by {name}, from {low} to {high}"
    else:
        classes = column.astype("category").cat.remove_unused_categories().cat
        if len(classes.categories) > len(SHAPES):
            raise ValueError(f"explorer '{title}': attribute '{name}' has {len(classes.categories)} classes, at most "
                             f"{len(SHAPES)} can be told apart")
        of = classes.codes.to_numpy()
        counts = [(str(kind), f"{n:,}") for kind, n in zip(classes.categories, np.bincount(of), strict=True)]
        looks = list(zip(SHAPES, PALETTE + PALETTE, strict=False))[:len(counts)]
        legend = "".join(f"<li>{_mark(look)} {html.escape(kind)} ({n})</li>"
                         for look, (kind, n) in zip(looks, counts, strict=True))
        words = f"coloured by {name}: " + ", ".join(f"{kind} {n}" for kind, n in counts)
    return {"name": name, "looks": looks, "of": of.tolist(), "legend": legend, "words": words}


def _circle(r: float) -> str:
    return f"M{-r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0z"


def _mark(look: list[str]) -> str:
    return f'<svg viewBox="-8 -8 16 16" aria-hidden="true"><path d="{look[0]}" fill="{look[1]}"/></svg>'


def _fitted(places: np.ndarray) -> list[list[float]]:
    """Places in the picture: centred, as large as fits, upwards as in a plot."""
    span = np.ptp(places, axis=0)
    room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    scale = min(r / s for r, s in zip(room, span, strict=True) if s > 0)
    centred = (places - (places.min(axis=0) + places.max(axis=0)) / 2) * scale * [1, -1]
    return np.round(centred + [WIDTH / 2, HEIGHT / 2], 1).tolist()


def _sheet(images: np.ndarray) -> tuple[str, int]:
    """One PNG of all images, row by row in a square: its data address and how many images a row holds."""
    n, h, w = images.shape
    columns = ceil(sqrt(n))
    sheet = np.zeros((ceil(n / columns) * columns, h, w), dtype=np.uint8)
    sheet[:n] = np.round(images * 255)
    sheet = sheet.reshape(-1, columns, h, w).swapaxes(1, 2).reshape(-1, columns * w)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode(), columns


def _body(by: str, k: int, data: Mapping, alt: str, size: tuple[int, int]) -> str:
    first, at = data["attributes"][0], html.escape(data["settings"][k])
    options = "".join(f'<option value="{j}">{html.escape(attribute["name"])}</option>'
                      for j, attribute in enumerate(data["attributes"]))
    points = "".join(f'<path transform="translate({x} {y})" d="{path}" fill="{colour}"/>'
                     for (x, y), (path, colour) in zip(data["maps"][k], map(first["looks"].__getitem__, first["of"]),
                                                       strict=True))
    told = "".join(f"<div><dt>{html.escape(name)}</dt><dd></dd></div>" for name in data["names"])
    return (f'<div class="bt-controls" hidden>{slider(by, data["settings"], k)}'
            f'<label class="bt-choice"><span>Coloured by</span><select>{options}</select></label></div>'
            f'<ul class="bt-legend">{first["legend"]}</ul>'
            f'<div class="bt-view"><div class="bt-map">'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(alt)}">{points}'
            '<circle fill="none" stroke="currentColor" stroke-width="2"/></svg></div>'
            '<div class="bt-point" hidden><p class="bt-name"></p>'
            f'<canvas width="{size[1]}" height="{size[0]}" role="img"></canvas><dl class="bt-values">{told}</dl></div>'
            '</div><p class="bt-said" aria-live="polite"></p>'
            '<p class="bt-hint" hidden>Point at the map or tap it; by keyboard, go to it with Tab, then use the arrow '
            f'keys.</p><p class="bt-still">A still view at {at}, coloured by {html.escape(first["name"])}. Where '
            "scripts run, each point shows its image.</p>")
