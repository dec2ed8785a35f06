"""What the rays meet in a frontal and in a lateral view of a simulated thorax: mm of air, soft tissue and bone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .chest_anatomy import (
    AERATED,
    BONE,
    HIDING,
    MEDIAL_FALL,
    METAL,
    RIB_MM,
    SOFT,
    Part,
    Projection,
    Thorax,
    along,
    ball,
    heart_chord,
    limited,
    rise,
    tube,
)

TEXTURE = 12  # standard normals that no latent names: courses of vessels, border of a consolidation, course of wires
_VESSELS = 9  # on a half turn around a hilum


def attenuation(subject: Mapping, texture: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, dict[str, Part]]:
    """Line integral of the attenuation along every ray, and what it is made of.

    Parameters
    ----------
    subject : mapping
        Latents of one image, as in a row of the table.
    texture : numpy.ndarray
        Standard normal, shape ``(TEXTURE,)``.
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    numpy.ndarray
        float32, shape ``shape``.
    dict of str to numpy.ndarray
        By name, each of the same shape: air in ``lung_right`` and ``lung_left``, tissue of the ``heart``,
        ``posterior_ribs``, ``anterior_ribs`` in mm along the ray; ``thorax`` (inside the ribs, above the lungs' lower
        ends) and the ``diaphragm`` in it as masks; the findings and the devices from 0 to 1. In the lateral view all
        ribs are ``posterior_ribs``.
    """
    body, projection = Thorax(subject), Projection(subject, shape)
    view = _lateral if projection.view == "lateral" else _frontal
    soft, bone, parts = view(subject, body, projection, texture)
    metal = _devices(subject, body, projection, texture, parts)
    return (SOFT * soft + BONE * subject["bone"] * bone + METAL * metal).astype(np.float32), parts


# ---------------------------------------------------------------------- frontal
def _frontal(subject, body, projection, texture):
    x, z = projection.plane()
    axis, width, depth = body.lung(z)
    heart = heart_chord(body, projection)
    solid, aorta, airways = _mediastinum(subject, body, projection)
    solid = np.maximum(heart, solid) + aorta
    parts = {"heart": heart, "thorax": np.zeros(solid.shape, bool), "diaphragm": np.zeros(solid.shape, bool)}
    extra = np.zeros(solid.shape, np.float32)
    for side, name in ((-1, "lung_right"), (1, "lung_left")):
        q = (side * x - axis) / width  # -1 at the midline, 1 at the ribs
        square = q * q
        outward = limited(q)
        full = 2 * depth * np.sqrt(np.maximum(1 - square * square, 0)) * (z < body.apex)
        dome = body.dome[side] - np.where(q > 0, body.fall[side] * square, MEDIAL_FALL * square)
        air = np.maximum(full * (1 - np.sqrt(limited((dome - z) / HIDING))) - solid, 0)
        parts["thorax"] |= (half := (side * x >= 0) & (q < 1) & (z > body.dome[side] - body.fall[side]))
        parts["diaphragm"] |= half & (z < dome)
        air = air * (1 - _effusion(subject, body, side, outward, z, full > 0, parts))
        bare = np.zeros_like(air)
        if subject["pneumothorax_side"] == side:
            edge = _smaller((1 - q) * width, 0.5 * (body.apex - z))
            bare = _pneumothorax(subject, edge, air, width, projection, extra)
            parts["pneumothorax"] = bare * (air > 0)
        extra += _vessels(subject, body, side, x, z, texture, projection) * (1 - bare) * rise(air - 10, 8)
        gas = subject["gas_mm"]
        if side == 1:
            stomach = ball(x - 0.42 * body.half, z - (body.dome[1] - 0.8 * gas - 8), (1.3 * gas, 0.8 * gas, gas))
            extra -= stomach * rise(dome - z, 3)
        parts[name] = air
    both = parts["lung_right"] + parts["lung_left"]
    extra += _focal(subject, body, projection, texture, both, parts)
    bone = _frontal_bones(subject, body, projection, parts)
    soft = _frontal_body(body, projection) + _breasts(subject, body, projection) - airways - AERATED * both + extra
    return np.maximum(soft, 0), bone, parts


def _mediastinum(subject, body, projection):
    """Chords through the tissue between the lungs, through the aorta behind it, and through the airways in it."""
    x, z = projection.plane()
    unfolding, knob = subject["unfolding_mm"], subject["aortic_knob_mm"]
    column = 1.24 * body.depth * np.sqrt(np.maximum(1 - ((x + 0.1 * unfolding) / (25 + 0.15 * unfolding)) ** 2, 0))
    radius = 0.5 * knob + 3
    arch = ball(x - (9 + knob - radius), z - (body.carina + 22), (radius, 1.15 * radius, radius))
    rising = ball(x + 14, z - (body.carina - 20), (17 + 0.5 * unfolding, 48, 26))
    trunk = ball(x - 20, z - (body.carina - 30), (19, 32, 24))
    hila = sum(ball(side * x - 34, z - (body.carina - low), (13, 20, 12)) for side, low in ((-1, 26), (1, 14)))
    solid = np.maximum.reduce([column + 0 * z, arch, rising, trunk, hila])
    behind, height = projection.plane(-0.5 * body.depth)
    aorta = tube(behind - 13 - 0.9 * unfolding, 12) * rise(body.carina + 22 - height, 8)
    airways = tube(x + 1, 8.5) * rise(z - body.carina, 3)
    bronchi = 0.75 * (z - body.carina + 0.75 * np.abs(x + 1))
    airways = np.maximum(airways, tube(bronchi, 6) * rise(36 - np.abs(x), 4))
    return solid, aorta, airways


def _vessels(subject, body, side, x, z, texture, projection):
    """Tissue of the vessels of one lung: branches that leave the hilum and thin out."""
    across, up = side * x - 32, z - (body.carina - (24 if side < 0 else 12))
    radius = np.sqrt(across * across + up * up) + 6
    first = texture[:3] if side < 0 else texture[3:6]
    phase = np.arctan2(up, across) * (_VESSELS / math.pi) + first[0] + 0.5 * np.sin(radius / 24 + 3 * first[1])
    phase += 0.2 * np.sin(radius / 9 + 3 * first[2])
    distance = (phase - np.rint(phase)) * radius * (math.pi / _VESSELS)
    bore = 0.6 + 3.2 * np.exp(-radius / 60)
    wide = np.maximum(bore, 0.5 * projection.pixel)
    return subject["markings"] * 2.2 * bore * (bore / wide) * np.exp(-((distance / wide) ** 2))


def _effusion(subject, body, side, outward, z, inside, parts):
    """Share of the air at each pixel that fluid has taken: a meniscus, higher at the ribs; less on the other side."""
    height = subject["effusion_mm"] * (1 if subject["effusion_side"] == side else 0.4)
    surface = body.dome[side] - body.fall[side] + height * (0.4 + 0.6 * outward * outward * outward)
    fluid = rise(surface - z, 3) * inside
    parts["effusion"] = np.maximum(parts.get("effusion", 0), fluid)
    return fluid


def _pneumothorax(subject, edge, air, width, projection, extra):
    """Share of each ray's lung that has fallen away from the wall; adds what shows of it to ``extra``."""
    rim = subject["pneumothorax_mm"]
    bare = rise(rim - edge, 2)
    wide = max(1.2, 0.5 * projection.pixel)
    line = 5 * (1.2 / wide) * np.exp(-(((edge - rim) / wide) ** 2)) * rise(air - 10, 8)
    fallen = (1 - AERATED) * air  # tissue of the lung: gone from the rim, and denser in what is left
    extra += line - fallen * bare + fallen * (1 - bare) * np.minimum(1.2 * rim / width, 1.2)
    return bare


def _smaller(one, other):
    """The smaller of two distances, without a corner where they are equal."""
    one, other = np.maximum(one, 0.01), np.maximum(other, 0.01)
    return one * other / np.sqrt(one * one + other * other)


def place(subject: Mapping, body: Thorax, finding: str) -> tuple[float, float, float]:
    """Middle of a consolidation or nodule in the body."""
    low, high = body.dome[int(subject[f"{finding}_side"])] + 14, body.apex - 32
    z = low + (high - low) * (subject[f"{finding}_height"] + 0.6) / 1.2
    axis, width, depth = (float(v) for v in body.lung(np.float64(z)))
    x = subject[f"{finding}_side"] * (axis + (0.1 + subject[f"{finding}_across"]) * width)
    return x, subject[f"{finding}_depth"] * depth, z


def _focal(subject, body, projection, texture, air, parts):
    """Tissue of the consolidation and of the nodule, in place of air."""
    lateral = projection.view == "lateral"
    extra = np.zeros(air.shape, np.float32)
    for finding in ("consolidation", "nodule"):
        x, y, z = place(subject, body, finding)
        across, up = projection.plane(x if lateral else y)
        across, up = across - (y if lateral else x), up - z
        size = subject[f"{finding}_mm"]
        if finding == "nodule":
            chord = 1.4 * ball(across, up, (size / 2,) * 3)  # partly calcified
            parts[finding] = (chord > 0) * 1.0
        else:
            ragged = 1 + 0.3 * np.sin((across * texture[6] + up * texture[7]) / 12 + 3 * texture[8]) \
                + 0.2 * np.sin((across * texture[9] - up * texture[6]) / 7)
            parts[finding] = np.exp(-(((across**2 + up**2) / size**2 * ragged) ** 2))
            chord = 1.5 * size * parts[finding]
        extra += AERATED * subject[f"{finding}_opacity"] * np.minimum(chord, air)
    return extra


def _frontal_body(body, projection):
    x, z = projection.plane()
    axis, width, depth = body.lung(z)
    q = (x / (axis + width + body.wall)) ** 2
    trunk = 2 * (depth + body.wall) * np.sqrt(np.maximum(1 - q * q, 0))
    top = body.apex + 40 - 0.27 * np.abs(x)
    arm = np.abs(x) - body.half - 8
    shoulders = 135 * np.sqrt(limited((top - z) / 70)) * rise(z - body.apex + 70 + 2.2 * np.maximum(arm, 0), 35)
    neck = tube(x, 54) * rise(z - body.apex + 60, 40)
    return np.maximum(np.maximum(trunk * rise(body.apex + 25 - z, 20), shoulders), neck)


def _breasts(subject, body, projection):
    """Breast tissue, or what a chest muscle adds; it falls to the side when the patient leans back."""
    lying = subject["view"] == "AP"
    size = subject["breast_mm"] * (0.8 if lying else 1)
    x, z = projection.plane(body.depth + body.wall)
    return sum(ball(side * x - (0.62 if lying else 0.52) * body.half, z - body.dome[-1] - 24,
                    (45 + 0.5 * size, 40 + 0.5 * size, size / 2)) for side in (-1, 1))


def _frontal_bones(subject, body, projection, parts):
    x, z = projection.plane(-0.75 * body.depth)
    bone = 0.30 * tube(x, 16) * (0.8 + 0.2 * np.cos(2 * math.pi * (body.ribs[0] - z) / body.ribs[1]))
    for depth, name in ((-0.6, "posterior_ribs"), (0.6, "anterior_ribs")):
        x, z = projection.plane(depth * body.depth)
        axis, width, _ = body.lung(z)
        sine = np.abs(x) / (axis + width + 2)
        angle = np.arcsin(np.minimum(sine, 1))
        distance, number = body.rib_phase(angle if depth < 0 else math.pi - angle, z)
        inside = (sine < 1) & ((np.abs(x) > 12) if depth < 0 else (sine > 0.4) & (number < 9))
        flat = np.sqrt(np.maximum(1 - (distance / RIB_MM) ** 2, 0)) * inside
        parts[name] = 4.5 * flat * np.minimum(1 / np.sqrt(np.maximum(1 - sine * sine, 0.12)), 2.5)
        bone = bone + parts[name] * (1 if depth < 0 else 0.8)
    ap = subject["view"] == "AP"
    sternal = body.apex - 54 + 28 * ap + 0.6 * subject["shoulders_mm"]
    x, z = projection.plane(0.5 * body.depth)
    course = np.interp(np.abs(x), (13, 55, 95, 155), (0, 7, 12, 34 - 12 * ap)).astype(np.float32) + sternal
    clavicles = tube(0.94 * (z - course), 5.5) * rise(np.abs(x) - 13, 3) * rise(155 - np.abs(x), 5)
    parts["clavicles"] = clavicles
    return bone + 0.8 * clavicles + _scapulae(subject, body, projection, ap)


def _scapulae(subject, body, projection, ap):
    x, z = projection.plane(-body.depth - 4)
    border = body.half * (0.80 if ap else 1.04) + 0.5 * subject["shoulders_mm"] + 0.15 * (z - body.apex + 90)
    inward = np.abs(x) - border
    tall = rise(body.apex - 12 - z, 6) * rise(z - (body.apex - 150) - 0.9 * np.maximum(inward, 0), 5)
    return (2.5 * rise(inward, 3) * rise(85 - inward, 5) + 5 * np.exp(-((inward / 3.5) ** 2))) * tall


# ---------------------------------------------------------------------- lateral
def _lateral(subject, body, projection, texture):
    y, z = projection.plane()
    axis, width, depth = body.lung(z)
    heart = heart_chord(body, projection)
    v = np.abs(y) / depth
    across = np.sqrt(np.sqrt(np.maximum(1 - v * v, 0)))  # of a lung's half width
    solid = heart * 0.8 + ball(y - 0.1 * body.depth, z - body.carina - 5, (34, 62, 11))
    thorax = (v < 1) & (z > min(body.dome[side] - body.fall[side] for side in (-1, 1)))
    parts = {"heart": heart, "thorax": thorax, "diaphragm": thorax & (z < max(body.dome.values()) - HIDING * v * v)}
    extra = np.zeros(heart.shape, np.float32)
    for side, name in ((-1, "lung_right"), (1, "lung_left")):
        under = np.maximum(body.dome[side] - HIDING * v * v - z, 0)  # the dome's ridge
        halves = sum(np.maximum(across - np.sqrt(np.minimum(under / fall, 1)), 0)
                     for fall in (body.fall[side], MEDIAL_FALL))
        air = np.maximum(width * halves * (z < body.apex) - solid * (0.35 if side < 0 else 0.65), 0)
        air = air * (1 - _effusion(subject, body, side, np.minimum(v, 1), z, v < 1, parts))
        if subject["pneumothorax_side"] == side:
            edge = _smaller((1 - v) * depth, 0.5 * (body.apex - z))
            parts["pneumothorax"] = _pneumothorax(subject, edge, air, width, projection, extra) * (air > 0)
        parts[name] = air
    both = parts["lung_right"] + parts["lung_left"]
    extra += _focal(subject, body, projection, texture, both, parts)
    trachea = tube(y - 0.25 * (z - body.carina) * 0.4 + 0.05 * body.depth, 8.5) * rise(z - body.carina, 3)
    soft = _lateral_body(subject, body, projection) - trachea - AERATED * both + extra
    return np.maximum(soft, 0), _lateral_bones(subject, body, projection, parts), parts


def _lateral_body(subject, body, projection):
    y, z = projection.plane()
    axis, width, depth = body.lung(z)
    q = (y / (depth + body.wall)) ** 2
    trunk = 2 * (axis + width + body.wall) * np.sqrt(np.maximum(1 - q * q, 0))
    reach = 0.8 * body.depth + 0.25 * np.maximum(z - body.apex, 0)
    arms = 230 * np.sqrt(np.maximum(1 - (y / reach) ** 2, 0)) * rise(z - body.apex, 45)
    size = subject["breast_mm"]
    breasts = 1.2 * ball(y - body.depth - body.wall + 4, z - body.dome[-1] - 24,
                         (size, 40 + 0.5 * size, 45 + 0.5 * size))
    return np.maximum(trunk, arms) + breasts * rise(y - body.depth, 12)


def _lateral_bones(subject, body, projection, parts):
    y, z = projection.plane()
    bend = 0.72 * body.depth - subject["kyphosis_mm"] * ((z - body.carina) / 160) ** 2
    bone = 0.5 * tube(y + bend, 17) * (0.75 + 0.25 * np.cos(2 * math.pi * (body.ribs[0] - z) / body.ribs[1]))
    breast = np.exp(-(((y - body.depth - 3 + 0.12 * np.abs(z - body.carina)) / 5) ** 2))
    bone = bone + 14 * breast * rise(body.apex - 40 - z, 4) * rise(z - (body.apex - 190), 6)
    axis, width, depth = body.lung(z)
    cosine = -y / (depth + 2)
    angle = np.arccos(np.minimum(np.maximum(cosine, -1), 1))
    distance, number = body.rib_phase(angle, z)
    inside = (np.abs(cosine) < 1) & ((angle < 2.2) | (number < 8)) & (angle < 2.7)
    parts["posterior_ribs"] = 7 * np.sqrt(np.maximum(1 - (distance / RIB_MM) ** 2, 0)) * inside
    return bone + parts["posterior_ribs"]


# ---------------------------------------------------------------------- devices
def _devices(subject, body, projection, texture, parts):
    """Chest drain, leads of an electrocardiograph with their pads, pacemaker: metal along the ray, in mm."""
    metal = np.zeros((len(projection.v), projection.u.shape[1]), np.float32)

    def lay(points, radius, amount):
        wide = max(radius, 0.45 * projection.pixel)
        return amount * (radius / wide) * np.exp(-((along(projection, points) / wide) ** 2))

    front, half, side = body.depth + body.wall + 3, body.half, int(subject["pneumothorax_side"])
    if subject["tube"]:
        low = body.dome[side] + 55 + 8 * texture[10]
        drain = lay([(side * (half + 40), 0, low - 25), (side * 0.94 * half, 0, low),
                     (side * 0.72 * half, -0.3 * body.depth, low + 45),
                     (side * 0.5 * half, -0.3 * body.depth, body.apex - 35)], 3, 0.7)
        metal += drain
        parts["tube"] = drain / 0.7
    if subject["wires"]:
        pads = [(-0.62 * half + 9 * texture[9], front, body.apex - 55), (0.66 * half + 9 * texture[10], front,
                 body.apex - 62 + 8 * texture[11]), (0.72 * half, front, body.dome[1] + 5 + 9 * texture[8])]
        wires = np.float32(0)
        for pad, pull in zip(pads, texture[9:12], strict=True):
            x, y, z = pad
            points = [pad, (x * 0.8 + 10 * pull, y, z - 40), (x * 0.55 + 12 * pull, y, z - 95), (0.1 * x, y, -200)]
            wires = np.maximum(wires, lay(points, 1.2, 0.6))
            wires = np.maximum(wires, 0.4 * rise(7 - along(projection, [pad, pad]), 2))
        metal += wires
        parts["wires"] = np.minimum(wires / 0.4, 1)
    if subject["pacemaker"]:
        x, z = projection.plane(front) if projection.view != "lateral" else projection.plane(0.6 * half)
        middle = (0.62 * half + 5 * texture[7], body.apex - 62 + 6 * texture[8])
        if projection.view == "lateral":
            middle = (front - 4, middle[1])
        can = limited((1.15 - ((x - middle[0]) / (24 if projection.view != "lateral" else 7)) ** 4
                       - ((z - middle[1]) / 21) ** 4) / 0.15)
        tip = (body.heart_x + 18, body.heart_y, body.heart_z - 22)
        lead = lay([(0.62 * half, front, body.apex - 50), (0.42 * half, 0.6 * body.depth, body.apex - 34),
                    (6, 0.2 * body.depth, body.apex - 48), (-16, 0.1 * body.depth, body.carina - 10),
                    (-22, 0.2 * body.depth, body.heart_z + 20), (-4, 0.3 * body.depth, body.heart_z - 20), tip],
                   1.3, 0.9)
        metal += 2.0 * can + lead
        parts["pacemaker"] = np.maximum(can, lead / 0.9)
    return metal
