"""How a simulated lesion looks: a smooth, fixed function of its severity, and of what tells nothing about its kind.

Modelled on what distinguishes the kinds on contrast-enhanced T1 scans: a meningioma lies at the border of the brain,
round, sharp and even; a glioma inside it, ragged, with a bright ring around a dark core and swelling about it; a
pituitary tumour in the middle, round and even (a real one sits lower, below the slices shown here). No lesion
of a patient entered into it, and the values are chosen, not estimated.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter1d
from scipy.special import expit, logit

from ..answer_key import class_means

# Each feature: its range, and where a typical lesion of each kind stands in it.
FEATURES = {
    "depth": ((0.0, 1.0), {"meningioma": 0.93, "glioma": 0.62, "pituitary": 0.12}),  # 0 middle, 1 border of the brain
    "elongation": ((1.0, 2.2), {"meningioma": 1.35, "glioma": 1.3, "pituitary": 1.1}),  # long over short axis
    "raggedness": ((0.0, 0.3), {"meningioma": 0.03, "glioma": 0.13, "pituitary": 0.025}),  # of the border, per radius
    "softness": ((0.3, 5.0), {"meningioma": 0.8, "glioma": 2.2, "pituitary": 0.8}),  # of the border, in mm
    "ring": ((0.0, 1.0), {"meningioma": 0.08, "glioma": 0.75, "pituitary": 0.06}),  # how dark the core is
    "texture": ((0.0, 0.4), {"meningioma": 0.05, "glioma": 0.18, "pituitary": 0.04}),  # unevenness inside
    "swelling": ((0.0, 0.5), {"meningioma": 0.05, "glioma": 0.28, "pituitary": 0.03}),  # darkening of the brain around
}
HARMONICS = np.arange(2, 7)  # of the ragged border
WAVES = 6  # of the texture
_TYPICAL = 2.0  # at this separation of the class means a mean severity looks like the typical lesion of its kind
_SWELLING_MM = 12.0  # the swelling ends at about this distance from the lesion
_GRAIN_MM = 2.5  # of the texture: a wave of unit wave number turns by one radian in this distance
_MOST = 1.5  # the border's ups and downs end at this many times the raggedness


def features(severity: np.ndarray, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Appearance of lesions, from their severity alone.

    Parameters
    ----------
    severity : numpy.ndarray
        Shape ``(n, len(kinds) - 1)``.
    kinds : tuple of str
        Kinds of the design, in its order.

    Returns
    -------
    dict of str to numpy.ndarray
        One value per lesion and name in :data:`FEATURES`: between the kinds' typical values on a logistic scale, with
        weights linear in severity, so that no part of severity is ever wholly out of sight.
    """
    means = class_means(len(kinds), _TYPICAL)
    weights = [1 / len(kinds) + (severity * mean).sum(axis=1) * 2 / _TYPICAL**2 for mean in means]
    values = {}
    for name, ((low, high), typical) in FEATURES.items():
        scale = sum(w * logit((typical[kind] - low) / (high - low)) for w, kind in zip(weights, kinds, strict=True))
        values[name] = low + (high - low) * expit(scale)
    return values


def brain_radius(template: np.ndarray, spacing: float) -> np.ndarray:
    """Distance in mm from the middle of the slice to the brain's border, for each of 360 directions.

    Direction 0 points to the right of the image, a quarter turn further to its lower edge.
    """
    angle, steps = np.radians(np.arange(360)), np.arange(0, max(template.shape) * spacing / 2, 0.5)
    middle = (np.array(template.shape) - 1) / 2
    places = middle.reshape(2, 1, 1) + np.stack([np.sin(angle), np.cos(angle)])[:, :, None] * steps / spacing
    inside = map_coordinates(template, places, order=1, mode="constant") > 0.15
    outermost = steps[inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)]
    return uniform_filter1d(outermost, 9, mode="wrap")


def draw_lesion(image: np.ndarray, place: np.ndarray, lesion: dict[str, float], lobes: np.ndarray,
                waves: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Draw one lesion into an image, in place.

    Everything is laid out in the template and seen through the subject's deformation, as the brain itself is.

    Parameters
    ----------
    image : numpy.ndarray
        Shape ``(H, W)``.
    place : numpy.ndarray
        Where each pixel lies in the template: mm downwards and to the right of its middle, shape ``(2, H, W)``.
    lesion : dict
        Values of :func:`features` with ``radius_mm``, ``brightness``, ``direction`` from the middle in degrees, and
        ``tilt`` against the border in degrees.
    lobes : numpy.ndarray
        Standard normal weights of cosine and sine of the border's :data:`HARMONICS`, shape ``(2, 5)``.
    waves : numpy.ndarray
        Standard normal, shape ``(3, WAVES)``: two wave numbers and a phase for each wave of the texture.
    radius : numpy.ndarray
        See :func:`brain_radius`.

    Returns
    -------
    numpy.ndarray
        The lesion's mask, boolean, shape ``(H, W)``.
    """
    size, turn = lesion["radius_mm"], math.radians(lesion["direction"])
    away = lesion["depth"] * (float(radius[int(lesion["direction"]) % 360]) - 0.8 * size)
    y, x = place[0] - away * math.sin(turn), place[1] - away * math.cos(turn)
    stretch = math.sqrt(lesion["elongation"])
    reach = stretch * (1 + _MOST * lesion["raggedness"]) * (size + _SWELLING_MM)
    near = (np.abs(x) < reach) & (np.abs(y) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    y, x, part = y[box], x[box], image[box]

    # Distance outwards from the border in mm, about: from an ellipse whose radius goes up and down with the angle.
    along = turn + math.pi / 2 + math.radians(lesion["tilt"])
    u = (x * math.cos(along) + y * math.sin(along)) / (size * stretch)
    v = (y * math.cos(along) - x * math.sin(along)) * (stretch / size)
    distance = np.hypot(u, v)
    angle = (u - 1j * v) / np.maximum(distance, 1e-6)  # on the unit circle: its powers are the harmonics
    weights = lobes[0] + 1j * lobes[1]
    weights = (weights / HARMONICS * math.sqrt(2) / np.linalg.norm(weights / HARMONICS)).astype(np.complex64)
    power, wobble = angle, np.zeros_like(distance)
    for weight in weights:
        power = power * angle
        wobble += (weight * power).real
    outwards = (distance / (1 + lesion["raggedness"] * wobble.clip(-_MOST, _MOST)) - 1) * size

    fade = np.clip(1 - outwards / _SWELLING_MM, 0, 1)
    part *= 1 - lesion["swelling"] * fade**2 * (3 - 2 * fade)
    middle, direction = np.hypot(*place[:, *box]), np.degrees(np.arctan2(*place[:, *box]))
    to_border = np.interp(direction, np.arange(360), radius, period=360) - middle
    cover = expit(-2 / lesion["softness"] * outwards) * expit(2 * to_border)
    seen = cover > 1e-3
    y, x, cover, depth = y[seen], x[seen], cover[seen], -outwards[seen]
    grain = sum(np.cos((a * x + b * y) / _GRAIN_MM + 7 * c) for a, b, c in waves.T.tolist()) / math.sqrt(WAVES / 2)
    core = expit((depth - 0.3 * size) / 1.2)
    inside = lesion["brightness"] * (1 - 0.7 * lesion["ring"] * core) * (1 + lesion["texture"] * grain)
    part[seen] += (inside.clip(0, 1) - part[seen]) * cover
    mask = np.zeros(image.shape, dtype=bool)
    mask[box] = (outwards < 0) & (to_border > 0)
    return mask
