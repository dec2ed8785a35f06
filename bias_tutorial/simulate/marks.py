"""Annotation marks that give the answer away: a reader's ruler line and outline, drawn on slices with a lesion.

Form after Peretz 2020 (github.com/galprz/bias-in-medical-imaging): in training a glioma carries, with probability rho,
a red dashed line along its longest axis with the length as text; a pituitary tumour, with probability gamma, a blue
outline with text; test images carry none. Used on simulated and on real slices alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from ..scenario import streams

MARKS = {"glioma_mark": "glioma", "pituitary_mark": "pituitary"}  # column of the table, and the kind that carries it
RED, BLUE = (1.0, 0.0, 0.0), (0.1, 0.3, 1.0)
_OPAQUE = 255


def choose_marks(kinds: Sequence[str], rho: float, gamma: float, seed: int, splits: Sequence[str] | None = None,
                 marked_splits: Sequence[str] = ("train", "validation")) -> pd.DataFrame:
    """Decide which images carry a mark.

    Within each split exactly ``round(rho * n)`` of its ``n`` gliomas are marked, chosen at random, and so for
    ``gamma``: the share in the data is the share in the key. With the same seed a larger share marks the same images
    and more.

    Parameters
    ----------
    kinds : sequence of str
        Kind of each image.
    rho, gamma : float
        P(mark | glioma) and P(mark | pituitary), in [0, 1].
    seed : int
        The one seed.
    splits : sequence of str, optional
        Split of each image; without it every image counts as training.
    marked_splits : sequence of str
        Splits whose images may be marked; the others stay clean.

    Returns
    -------
    pandas.DataFrame
        ``glioma_mark`` and ``pituitary_mark``, 0 or 1, one row per image.

    Raises
    ------
    ValueError
        For a share outside [0, 1], or one above 0 when a marked split has no image of the kind.
    """
    kinds = np.asarray(kinds, dtype=object)
    if splits is None:
        splits, marked_splits = ["train"] * len(kinds), ("train",)
    splits = np.asarray(splits, dtype=object)
    rng = streams(seed)
    marks = pd.DataFrame(0, index=range(len(kinds)), columns=list(MARKS))
    for (column, kind), share, name in zip(MARKS.items(), check_shares(rho, gamma), ("rho", "gamma"), strict=True):
        for k, split in enumerate(marked_splits):
            rows = np.flatnonzero((kinds == kind) & (splits == split))
            if share and not len(rows):
                raise ValueError(f"{name}={share:g}, but split '{split}' has no image of kind '{kind}' to mark")
            chosen = rng(kind, k).permutation(rows)[:int(np.floor(share * len(rows) + 0.5))]
            marks.loc[chosen, column] = 1
    return marks


def declared_marks(rho: float, gamma: float, also: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Attributes of a schema: the marks in use, by their shares or in ``also``; a mark nobody carries is no attribute.

    Parameters
    ----------
    rho, gamma : float
        See :func:`choose_marks`.
    also : sequence of str
        Columns to declare whatever their share.
    """
    return {name: (0, 1) for name, share in zip(MARKS, (rho, gamma), strict=True) if share or name in also}


def apply_marks(images: np.ndarray, masks: np.ndarray, kinds: Sequence[str], rho: float, gamma: float, seed: int,
                spacing: float, splits: Sequence[str] | None = None,
                marked_splits: Sequence[str] = ("train", "validation")) -> tuple[np.ndarray, pd.DataFrame]:
    """Choose marks (:func:`choose_marks`) and draw them (:func:`draw_marks`).

    Parameters
    ----------
    images : numpy.ndarray
        Shape ``(n, H, W)``, ``(n, 1, H, W)`` or ``(n, 3, H, W)``, in [0, 1]; left as they are.
    masks : numpy.ndarray
        Lesions, boolean, shape ``(n, H, W)``.
    kinds, rho, gamma, seed, splits, marked_splits
        See :func:`choose_marks`.
    spacing : float
        Edge of a pixel in mm.

    Returns
    -------
    tuple of numpy.ndarray and pandas.DataFrame
        RGB images, float32, shape ``(n, 3, H, W)``, and what :func:`choose_marks` gave.
    """
    marks = choose_marks(kinds, rho, gamma, seed, splits, marked_splits)
    drawn = [draw_marks(image, mask, spacing, line=bool(line), outline=bool(outline))
             for image, mask, line, outline in zip(images, masks, *(marks[c] for c in MARKS), strict=True)]
    return np.stack(drawn), marks


def draw_marks(image: np.ndarray, mask: np.ndarray, spacing: float, line: bool = False,
               outline: bool = False) -> np.ndarray:
    """One image in RGB with the marks asked for; every other pixel keeps its bits.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``, in [0, 1]; left as it is.
    mask : numpy.ndarray
        The lesion, boolean, shape ``(H, W)``.
    spacing : float
        Edge of a pixel in mm.
    line, outline : bool
        Which marks; with neither only the form changes.

    Returns
    -------
    numpy.ndarray
        float32, shape ``(3, H, W)``.
    """
    out = rgb(image)
    if outline:
        out = outline_mark(out, mask, spacing)
    return line_mark(out, mask, spacing) if line else out


def line_mark(image: np.ndarray, mask: np.ndarray, spacing: float) -> np.ndarray:
    """Draw the red dashed line along the lesion's longest axis, with its length; see :func:`draw_marks`."""
    start, end, length = longest_axis(mask, spacing)
    layer, draw = _layer(mask)
    # An odd number of equal pieces, every other one drawn: the line begins and ends where the axis does.
    dash = max(2, mask.shape[0] // 32)
    pieces = 2 * int(np.hypot(*np.subtract(end, start)) / dash / 2) + 1
    points = np.linspace(start[::-1], end[::-1], pieces + 1)  # PIL counts columns first
    for k in range(0, pieces, 2):
        draw.line([*points[k], *points[k + 1]], fill=_OPAQUE, width=_width(mask))
    _write(draw, mask, length, beside=True)
    return _paint(image, layer, RED)


def outline_mark(image: np.ndarray, mask: np.ndarray, spacing: float) -> np.ndarray:
    """Draw the blue line along the lesion's inner border, with its length; see :func:`draw_marks`."""
    mask = np.asarray(mask, dtype=bool)
    layer, draw = _layer(mask)
    border = mask & ~binary_erosion(mask, iterations=_width(mask))
    layer.paste(Image.fromarray(border.astype(np.uint8) * _OPAQUE))
    _write(draw, mask, longest_axis(mask, spacing)[2], beside=False)
    return _paint(image, layer, BLUE)


def longest_axis(mask: np.ndarray, spacing: float) -> tuple[tuple[int, int], tuple[int, int], float]:
    """The two points of a mask that are furthest apart.

    Parameters
    ----------
    mask : numpy.ndarray
        Boolean, shape ``(H, W)``.
    spacing : float
        Edge of a pixel in mm.

    Returns
    -------
    tuple
        Row and column of both points, and their distance in mm, from pixel centre to pixel centre.

    Raises
    ------
    ValueError
        For a mask of other than two dimensions, an empty one, or a spacing that is not above 0.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2 or not mask.any():
        raise ValueError(f"a mark needs a lesion mask of shape (H, W) with at least one pixel, got shape {mask.shape} "
                         f"with {int(mask.sum())}")
    if not 0 < spacing < np.inf:
        raise ValueError(f"spacing must be above 0 mm and finite, got {spacing}")
    # Of each row only the first and last pixel can be an end of the longest axis.
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.column_stack([rows, first]), np.column_stack([rows, last])])
    squared = ((ends[:, None] - ends[None]) ** 2).sum(axis=-1)
    i, j = np.unravel_index(squared.argmax(), squared.shape)
    start, end = sorted((tuple(ends[i].tolist()), tuple(ends[j].tolist())))
    return start, end, float(spacing * np.sqrt(squared[i, j]))


def length_text(millimetres: float) -> str:
    """What the marks say: a length in cm with one decimal, such as ``'3.2 cm'``."""
    return f"{millimetres / 10:.1f} cm"


def rgb(image: np.ndarray) -> np.ndarray:
    """A new float32 image of shape ``(3, H, W)`` from one of ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``."""
    image = np.asarray(image, dtype=np.float32)
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image must have shape (H, W), (1, H, W) or (3, H, W), got {image.shape}")
    return np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image.copy()


def check_shares(rho: float, gamma: float) -> tuple[float, float]:
    """``(rho, gamma)``; ``ValueError`` naming the one that lies outside [0, 1]."""
    for name, share in (("rho", rho), ("gamma", gamma)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is the probability of a mark and must lie in [0, 1], got {share}")
    return float(rho), float(gamma)


# ---------------------------------------------------------------------- drawing
def _layer(mask: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """What is to be painted, on its own, so that the image is never rounded to 256 levels."""
    layer = Image.new("L", np.shape(mask)[::-1])
    return layer, ImageDraw.Draw(layer)


def _paint(image: np.ndarray, layer: Image.Image, colour: tuple[float, float, float]) -> np.ndarray:
    out, cover = rgb(image), np.asarray(layer, dtype=np.float32) / _OPAQUE
    if cover.shape != out.shape[1:]:
        raise ValueError(f"the mask has shape {cover.shape}, the image {out.shape[1:]}: they must agree")
    painted = cover > 0
    ink = np.array(colour, dtype=np.float32)[:, None]
    out[:, painted] = out[:, painted] * (1 - cover[painted]) + ink * cover[painted]
    return out


def _write(draw: ImageDraw.ImageDraw, mask: np.ndarray, length: float, beside: bool) -> None:
    """Write the length beside the lesion or below it, or on the other side where there is no room."""
    text, font = length_text(length), _font(max(10, mask.shape[0] // 20))  # smaller, a 6 looks like an 8
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    size = (bottom - top, right - left)
    place = []
    for axis, sideways in enumerate((not beside, beside)):  # rows, then columns
        filled, room = np.flatnonzero(mask.any(axis=1 - axis)), mask.shape[axis] - size[axis]
        after, before = filled[-1] + 3, filled[0] - 2 - size[axis]
        wanted = (before if after > room and before >= 0 else after) if sideways else filled.mean() - size[axis] / 2
        place.append(round(float(np.clip(wanted, 0, max(0, room)))))
    draw.text((place[1] - left, place[0] - top), text, fill=_OPAQUE, font=font)


def _width(mask: np.ndarray) -> int:
    return max(1, round(np.shape(mask)[0] / 160))


@lru_cache(maxsize=4)
def _font(size: int):
    return ImageFont.load_default(size).font_variant(layout_engine=ImageFont.Layout.BASIC)  # the same everywhere
