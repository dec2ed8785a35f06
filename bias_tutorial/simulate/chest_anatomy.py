"""A parametric thorax, and what X-rays meet on their way through it.

Everything is a simple solid whose chord along a ray is known in closed form: no volume is ever built. Lengths are in
mm of a standard PA film (see :class:`Projection`); x points to the patient's left, y to the front, z up, and the middle
of the lungs is the origin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

FIELD_MM = 400.0  # edge of the film
SOFT, BONE = 0.019, 0.034  # attenuation per mm at about 70 keV: water, NIST; what bone adds, spongy and cortical mixed
AERATED = 0.78  # share of a lung that is air
METAL = 1.6
_DISTANCE_MM = {"PA": 1800.0, "AP": 1000.0, "lateral": 1800.0}  # from the tube to the detector
_GAP_MM = 15.0  # between skin and detector
HIDING, MEDIAL_FALL = 35.0, 12.0  # the diaphragm falls by this from its dome to front and back, and to the midline
RIB_MM = 6.0  # half the height of a rib

Part = np.ndarray


class Projection:
    """Where points of the body fall on the film.

    A plane at some depth is magnified as a whole, by its distance from the detector; rays are parallel otherwise.
    Lengths count as on a PA film, so the middle of the body has magnification 1 there.

    Parameters
    ----------
    subject : mapping
        Latents of one image.
    shape : tuple of int
        Rows and columns.
    """

    def __init__(self, subject: Mapping, shape: tuple[int, int]):
        self.view, self.turn = subject["view"], math.radians(subject["rotation_deg"])
        self.offset = subject["offset_x_mm"], subject["offset_z_mm"]
        half = (subject["thorax_mm"] if self.view == "lateral" else subject["depth_mm"]) / 2
        self.middle = half + subject["wall_mm"] + _GAP_MM  # of the body, from the detector
        thickness = subject["depth_mm"] / 2 + subject["wall_mm"] + _GAP_MM
        self.unit = 1 / (1 - thickness / _DISTANCE_MM["PA"])
        pixel = FIELD_MM / shape[0]
        self.pixel = pixel
        self.u = ((np.arange(shape[1]) + 0.5) * pixel - FIELD_MM / 2).astype(np.float32)[None]
        self.v = (FIELD_MM / 2 - (np.arange(shape[0]) + 0.5) * pixel).astype(np.float32)[:, None]

    def magnification(self, depth: float) -> float:
        """Of a plane: ``depth`` is y in frontal views and x in the lateral one."""
        away = self.middle + (depth if self.view == "AP" else -depth)
        return 1 / (1 - away / _DISTANCE_MM[self.view]) / self.unit

    def plane(self, depth: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of all rays where they cross a plane: across, shape ``(1, W)``, and up, ``(H, 1)``.

        Across is x in frontal views, and y in the lateral one, whose front is to the left of the image.
        """
        m = self.magnification(depth)
        across = self.u / m - self.offset[0] - (0 if self.view == "lateral" else depth * math.sin(self.turn))
        return -across if self.view == "lateral" else across, self.v / m - self.offset[1]

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """Film coordinates of points, shape ``(k, 3)`` to ``(k, 2)``."""
        depth = xyz[:, 0] if self.view == "lateral" else xyz[:, 1]
        m = np.array([self.magnification(d) for d in depth.tolist()])
        across = -xyz[:, 1] if self.view == "lateral" else xyz[:, 0] + depth * math.sin(self.turn)
        return np.column_stack([(across + self.offset[0]) * m, (xyz[:, 2] + self.offset[1]) * m])


class Thorax:
    """Shapes of one subject that every view draws from.

    Parameters
    ----------
    subject : mapping
        Latents of one image.
    """

    def __init__(self, subject: Mapping):
        get = subject.__getitem__
        self.half, self.depth, self.wall = get("thorax_mm") / 2, get("depth_mm") / 2, get("wall_mm")
        self.apex = (get("lung_mm") + get("dome_mm")) / 2 - 8
        self.dome = {-1: self.apex - get("lung_mm") + get("raised_mm")}  # by side: -1 right, 1 left
        self.dome[1] = self.dome[-1] - get("dome_step_mm")
        self.fall = {-1: get("dome_mm"), 1: get("dome_mm") - get("dome_step_mm") * 0.85}  # dome to costophrenic angle
        self.length = 0.8 * get("lung_mm")
        self.widest = self.apex - self.length
        self.carina = self.apex - 0.34 * get("lung_mm")
        # The heart is as wide on a PA film in full inspiration as its ratio says; a raised diaphragm spreads it.
        tilt = math.radians(get("heart_tilt_deg"))
        cos, sin = math.cos(tilt), math.sin(tilt)
        self.heart_y = 0.32 * self.depth
        film = 1 - (thickness := self.depth + self.wall + _GAP_MM) / 1800
        shrink = (1 - (thickness - self.heart_y) / 1800) / film
        width = get("ctr") * self.half * shrink * (1 + 0.002 * max(get("raised_mm"), 0))
        long = width / math.hypot(cos, 0.76 * sin)
        short, deep = 0.76 * long, min(0.8 * long, 0.72 * self.depth)
        self.heart = {"xx": (cos / long) ** 2 + (sin / short) ** 2, "zz": (sin / long) ** 2 + (cos / short) ** 2,
                      "xz": sin * cos * (1 / short**2 - 1 / long**2), "yy": 1 / deep**2}
        height = math.hypot(long * sin, short * cos)
        self.heart_x, self.heart_z = 0.30 * width, (self.dome[-1] + self.dome[1]) / 2 - 6 + 0.72 * height
        self.ribs = self.apex + 5, get("rib_spacing_mm"), get("rib_slope_mm")

    def lung(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of either lung at height z: distance of its axis from the midline, half its width, half its depth."""
        s = (z - self.widest) / self.length
        up = np.minimum(np.maximum(s, 0), 1.25)
        foot = (self.half + 15) / 2
        axis = foot - (foot - 0.36 * self.half) * np.minimum(up, 1) ** 1.5
        width = (self.half - 15) / 2 * np.sqrt(np.maximum(1 - up**2.6, 1e-4)) * (1 - 0.05 * np.minimum(s, 0) ** 2)
        return axis, width, self.depth * (1 - 0.45 * up**2)

    def rib_phase(self, angle: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the middle of the nearest rib in mm, and which it is (0 to 11).

        ``angle`` runs from 0 at the spine to pi at the breastbone; ribs fall on their way to the front.
        """
        first, spacing, slope = self.ribs
        phase = (first - z - slope * (angle / math.pi) ** 1.3) / spacing
        number = np.minimum(np.maximum(np.rint(phase), 0), 11)
        return (phase - number) * spacing, number


def tube(distance: np.ndarray, radius: float) -> np.ndarray:
    """Chord through a round bar, seen from the side, at a distance from its axis."""
    return 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))


def ball(across: np.ndarray, up: np.ndarray, radii: tuple[float, float, float]) -> np.ndarray:
    """Chord through an ellipsoid: radii across, up, and along the ray."""
    return 2 * radii[2] * np.sqrt(np.maximum(1 - (across / radii[0]) ** 2 - (up / radii[1]) ** 2, 0))


def limited(values: np.ndarray) -> np.ndarray:
    """Values cut at 0 and 1 (``numpy.clip`` takes several times as long on small arrays)."""
    return np.minimum(np.maximum(values, 0), 1)


def rise(distance: np.ndarray, width: float) -> np.ndarray:
    """From 0 to 1 across a border of about this width, in mm."""
    t = limited(0.5 + distance * (0.5 / width))
    return t * t * (3 - 2 * t)


def along(projection: Projection, points: np.ndarray) -> np.ndarray:
    """Distance on the film from a line through points in the body, shape ``(H, W)``."""
    places = projection.points(np.asarray(points, dtype=float))
    nearest = np.float32(np.inf)
    for start, end in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
        du, dv = end[0] - start[0], end[1] - start[1]
        length = max(du * du + dv * dv, 1e-9)
        u, v = projection.u - start[0], projection.v - start[1]
        t = limited(u * (du / length) + v * (dv / length))
        nearest = np.minimum(nearest, (u - t * du) ** 2 + (v - t * dv) ** 2)
    return np.sqrt(nearest)


def heart_chord(body: Thorax, projection: Projection) -> Part:
    """Chord through the heart, in the film's direction."""
    q, lateral = body.heart, projection.view == "lateral"
    across, up = projection.plane(body.heart_x if lateral else body.heart_y)
    up = up - body.heart_z
    if lateral:
        inside = 1 - q["yy"] * (across - body.heart_y) ** 2 - (q["zz"] - q["xz"] ** 2 / q["xx"]) * up**2
        return 2 * np.sqrt(np.maximum(inside, 0) / q["xx"])
    across = across - body.heart_x
    return 2 * np.sqrt(np.maximum(1 - q["xx"] * across**2 - q["zz"] * up**2 - 2 * q["xz"] * across * up, 0)
                       / q["yy"])
