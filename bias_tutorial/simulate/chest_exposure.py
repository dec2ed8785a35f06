"""How a simulated chest is taken: scatter, noise, a site's response and habits, collimation and the side marker."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import shift, uniform_filter

from .chest_anatomy import FIELD_MM, SOFT


class Response(NamedTuple):
    """How the images of one site look."""

    latitude: float  # attenuation over which grey changes by a factor e of its odds; low: hard images
    level: float  # of mid grey, in units of the attenuation
    edges: float  # above 0: edges enhanced, below 0: blurred


RESPONSES = {"A": Response(0.80, 0.0, 0.0), "B": Response(0.74, 0.08, 0.3), "C": Response(0.88, -0.08, -0.25)}
_SCATTER, _SCATTER_MM = 0.12, 90.0  # scattered over primary radiation before the grid's leftovers are spread
_MARKER_MM, _MARKER_MOVES_MM = 26.0, 30.0  # height; how far it lies from its usual place at most


def expose(attenuation: np.ndarray, subject: Mapping, noise: float, grain: np.ndarray | None) -> np.ndarray:
    """The image of one subject.

    Parameters
    ----------
    attenuation : numpy.ndarray
        Line integrals, shape ``(H, W)``.
    subject : mapping
        Latents of the image.
    noise : float
        Standard deviation of the noise of an average pixel, in units of the attenuation.
    grain : numpy.ndarray or None
        Standard normal, shape ``(H, W)``; not used when ``noise`` is 0.

    Returns
    -------
    numpy.ndarray
        float32 in [0, 1], bone bright, shape ``(H, W)``.
    """
    response, pixel = RESPONSES[subject["site"]], FIELD_MM / len(attenuation)
    size = max(3, round(_SCATTER_MM / pixel))
    primary = np.exp(-attenuation)
    light = primary + _SCATTER * uniform_filter(uniform_filter(primary, size, mode="nearest"), size, mode="nearest")
    seen = -np.log(light / (1 + _SCATTER))
    # An automatic exposure goes by the patient's thickness.
    thickness = (subject["thorax_mm"] * 0.75 if subject["view"] == "lateral" else subject["depth_mm"]) \
        + 2 * subject["wall_mm"]
    level = 0.0125 * thickness * (SOFT / 0.019) + response.level + 0.09 * subject["exposure"]
    if noise:
        # Quanta: the noise is the stronger the less radiation comes through.
        seen = seen + grain * (noise * np.exp(0.5 * np.clip(seen - level, -3, 3) - 0.1 * subject["exposure"]))
    image = 1 / (1 + np.exp((level - seen) / (response.latitude * np.exp(-0.08 * subject["contrast"]))))
    if response.edges:
        image = image + response.edges * (image - uniform_filter(image, max(3, round(18 / pixel)), mode="nearest"))
    image = np.minimum(np.maximum(image, 0), 1)
    _write_marker(image, subject, pixel)
    _collimate(image, subject, pixel)
    return image.astype(np.float32)


def _collimate(image, subject, pixel):
    """Black where the collimator's leaves kept the radiation off."""
    rows, columns = image.shape
    down, across = (np.arange(k) + 0.5 for k in (rows, columns))
    for axis, (place, length, edge) in enumerate(((down, rows, "collimation_z_mm"), (across, columns,
                                                                                    "collimation_x_mm"))):
        inside = np.clip(np.minimum(place, length - place) + 0.5 - subject[edge] / pixel, 0, 1)  # share of the pixel
        inside = inside.astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        image *= inside


def _write_marker(image, subject, pixel):
    """A lead letter on the film: L on the right of the image, where the patient's left is, or R on the left."""
    letter = _letter(subject["marker"], max(6, round(_MARKER_MM / pixel)))
    half = np.array(letter.shape) * pixel / 2  # large where pixels are large: it must fit all the same
    down = max(52, half[0] + _MARKER_MOVES_MM) - subject["marker_z_mm"]
    out = min(148, FIELD_MM / 2 - _MARKER_MOVES_MM - half[1] - pixel)
    sideways = {"L": out, "R": -out}[subject["marker"]] + subject["marker_x_mm"]
    corner = (np.array([down, FIELD_MM / 2 + sideways]) - half) / pixel
    whole = corner.astype(int)
    # Between pixels: what leaves a pixel arrives in its neighbours; mode "constant" would lose the first row and column
    letter = shift(np.pad(letter, (0, 1)), corner - whole, order=1, mode="grid-constant")
    part = image[whole[0]:, whole[1]:][:letter.shape[0], :letter.shape[1]]
    part += letter * (1 - part)


@lru_cache(maxsize=16)
def _letter(text: str, height: int) -> np.ndarray:
    font = ImageFont.load_default(round(height * 1.4)).font_variant(layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(text)
    layer = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(layer).text((-left, -top), text, fill=255, font=font)
    return np.asarray(layer, dtype=np.float32) / 255
