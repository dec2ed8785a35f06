"""Who is in a simulated chest cohort: the design's correlations, and every latent of an image, within cited ranges.

Lengths are in mm as they measure on a standard PA film, which is how the sources give them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr, ndtri

from ..cohort import SPLITS
from ..scenario import streams
from ..stratify import assign

FINDINGS = ("cardiomegaly", "effusion", "consolidation", "pneumothorax", "nodule")
DEVICES = ("tube", "wires", "pacemaker")
ATTRIBUTES = {"sex": ("F", "M"), "age_group": ("20-40", "40-60", "60-80"), "site": ("A", "B", "C"),
              "view": ("PA", "AP", "lateral")}
AGE_EDGES = (20, 40, 60, 80)  # years; a birthday belongs to the older group
HIDDEN_KINDS = ("position", "response")
MARKERS, LEFT_MARKER = ("L", "R"), {"A": 0.8, "B": 0.2, "C": 0.5}  # share of films with the L among those with a marker
ORDER = ("sex", "age_group", "site", *FINDINGS, "pacemaker", "view", "tube", "wires")  # of drawing
EFFECTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ctr": lambda d: 0.485 + 0.035 * d,
    "effusion_mm": lambda d: 30 * np.exp(0.5 * d),
    "consolidation_mm": lambda d: 42 * np.exp(0.12 * d),
    "consolidation_opacity": lambda d: expit(1.2 * d),
    "pneumothorax_mm": lambda d: 11 * np.exp(0.6 * d),
    "nodule_mm": lambda d: 22 * np.exp(0.18 * d),
    "nodule_opacity": lambda d: expit(1.2 * d + 0.8)}
"""What shows of a finding at severity ``d``: rising all the way, and never exactly nothing."""

# Least and greatest value of each latent that is a number. Sources are named in the docstring of `chest`.
RANGES = {
    "age": (20, 80), **{f"{finding}_severity": (-6, 6) for finding in FINDINGS},
    # the thorax
    "thorax_mm": (215, 340), "lung_mm": (180, 280), "depth_mm": (125, 230), "dome_mm": (28, 72),
    "dome_step_mm": (0, 30), "wall_mm": (9, 50), "breast_mm": (2, 75), "bone": (0.45, 1.5), "rib_slope_mm": (70, 140),
    "rib_spacing_mm": (17, 33), "heart_tilt_deg": (20, 60), "aortic_knob_mm": (16, 46), "unfolding_mm": (0, 25),
    "kyphosis_mm": (0, 45), "markings": (0.4, 2.0), "gas_mm": (2, 30),
    # the findings
    "ctr": (0.32, 0.72), "effusion_mm": (1, 170), "consolidation_mm": (20, 80), "consolidation_opacity": (0, 1),
    "pneumothorax_mm": (0.3, 80), "nodule_mm": (7, 65), "nodule_opacity": (0, 1),
    **{f"{finding}_{place}": (-0.6, 0.6) for finding in ("consolidation", "nodule")
       for place in ("across", "height", "depth")},
    # the acquisition
    "raised_mm": (-12, 60), "shoulders_mm": (-45, 45), "offset_x_mm": (-60, 60), "offset_z_mm": (-60, 60),
    "rotation_deg": (-15, 15), "exposure": (-6, 6), "contrast": (-6, 6), "collimation_x_mm": (0, 40),
    "collimation_z_mm": (0, 40), "marker_x_mm": (-30, 30), "marker_z_mm": (-30, 30), "hidden_shift": (0, 10)}
CHOICES = {**{f"{finding}_side": (-1, 1) for finding in FINDINGS[1:]}, "hidden": (0, 1), "marker": MARKERS}
SPREAD = {"offset_x_mm": 6.0, "offset_z_mm": 8.0, "exposure": 1.0, "contrast": 1.0}  # standard deviations
_TAPER = 2.8  # a normal latent ends at this many standard deviations
_COLLIMATED = {"A": 15.0, "B": 18.0, "C": 16.0}  # mm, on average; so far from 0 that no film is cut off there


def draw_subjects(design, n_patients: int, seed: int, changes: Mapping[str, object]) -> pd.DataFrame:
    """The table of a cohort.

    Parameters
    ----------
    design : ChestDesign
        The design.
    n_patients : int
        Patients, each with ``design.images`` images.
    seed : int
        The one seed.
    changes : mapping
        Columns that hold the given value instead; what follows from them follows, nothing else changes.
    """
    stream = streams(seed)
    patient = _draw_patients(design, n_patients, stream)
    split = _draw_splits(design, patient, stream)
    owner = np.repeat(np.arange(n_patients), design.images)
    n = len(owner)
    drawn = {name: values[owner] for name, values in patient.items()}
    for name in ORDER[ORDER.index("view"):]:
        drawn[name] = _draw_outcome(design, name, drawn, n, stream)
    cells = _cells(drawn, ("sex", "age_group"))

    def alike(purpose: str, groups: np.ndarray, keys: tuple[int, ...] = ()) -> np.ndarray:
        """Standard normal, balanced over groups, correlated by ``likeness`` between images of a patient."""
        shared = _balanced_normals(groups[::design.images], stream(purpose, 0, *keys))[owner]
        own = _balanced_normals(groups, stream(purpose, 1, *keys))
        return np.sqrt(design.likeness) * shared + np.sqrt(1 - design.likeness) * own

    columns: dict[str, np.ndarray] = {
        "image_id": np.array([f"{p + 1:05d}_{k + 1}" for p in range(n_patients) for k in range(design.images)], object),
        "patient_id": np.array([f"{p + 1:05d}" for p in owner], object), "split": split[owner]}

    def put(name: str, values: np.ndarray) -> np.ndarray:
        if name in changes:
            values = np.full(n, changes[name], dtype=object if isinstance(changes[name], str) else None)
        elif name in RANGES:
            values = np.clip(values, *RANGES[name])
        columns[name] = values
        return values

    def normal(name: str, mean, sd) -> np.ndarray:
        z = np.clip(alike("anatomy", cells, (sorted(RANGES).index(name),)), -_TAPER, _TAPER)
        return put(name, mean + sd * z)

    def taken(name: str, mean, sd) -> np.ndarray:
        """Latents of the acquisition: drawn anew for every image."""
        z = stream("taken", sorted(RANGES).index(name)).standard_normal(n)
        return put(name, mean + sd * np.clip(z, -_TAPER, _TAPER))

    for name in (*FINDINGS, "sex", "age_group", "site", "view", *DEVICES):
        put(name, drawn[name])
    male = 0.5 + design.sex_effect * ((columns["sex"] == "M") - 0.5)  # 0.5: a body midway
    youngest = np.array(AGE_EDGES)[_codes("age_group", columns["age_group"])]
    age = put("age", youngest + 20 * drawn["age_part"])
    if "age" in changes:
        columns["age_group"] = np.array(ATTRIBUTES["age_group"], object)[np.searchsorted(AGE_EDGES[1:3], age, "right")]
    old, ap = design.age_effect * (age - 50), columns["view"] == "AP"

    severity = {}
    for k, name in enumerate(FINDINGS):
        rest = alike("severity", _cells(drawn, ("sex", "age_group", name)), (k,))
        severity[name] = put(f"{name}_severity", np.where(columns[name] == 1, 1.0, -1.0) + rest)

    normal("thorax_mm", 264 + 28 * male, 17)
    lung = normal("lung_mm", 215 + 14 * male, 13)
    normal("depth_mm", 158 + 12 * male + 0.35 * old, 10)
    normal("dome_mm", 47 + 8 * male - 0.05 * old, 7)
    normal("dome_step_mm", 12 + 3 * male, 4)
    put("wall_mm", 18 * np.exp(0.28 * alike("anatomy", cells, (101,))))
    put("breast_mm", (24 - 14 * male) * np.exp(0.45 * alike("anatomy", cells, (102,))))
    put("markings", np.exp(0.25 * alike("anatomy", cells, (103,))))
    normal("bone", 1.03 + 0.05 * male - 0.004 * old - 0.004 * (1 - male) * np.maximum(old, 0), 0.11)
    normal("rib_slope_mm", 98 + 0.15 * old, 9)
    put("rib_spacing_mm", lung / 9.3 * (1 + 0.04 * np.clip(alike("anatomy", cells, (104,)), -2, 2)))
    normal("heart_tilt_deg", 41 - 0.1 * old, 5)
    normal("aortic_knob_mm", 19.5 + 0.2 * (50 + old) + 3 * (male - 0.5), 2.5)
    normal("unfolding_mm", 5 + 0.22 * old, 3)
    normal("kyphosis_mm", 13 + 0.3 * old, 5)
    normal("gas_mm", 14, 6)

    own_heart = 0.012 * np.clip(alike("anatomy", cells, (105,)), -_TAPER, _TAPER)
    put("ctr", EFFECTS["ctr"](severity["cardiomegaly"]) + 0.0005 * old - 0.014 * (male - 0.5) + own_heart)
    for name, effect in EFFECTS.items():
        if name != "ctr":
            put(name, effect(severity[name.split("_")[0]]))
    for k, finding in enumerate(FINDINGS[1:]):
        put(f"{finding}_side", np.where(alike("side", np.zeros(n, int), (k,)) > 0, 1, -1))
    for k, finding in enumerate(("consolidation", "nodule")):
        for j, place in enumerate(("across", "height", "depth")):
            put(f"{finding}_{place}", 1.2 * ndtr(alike("place", np.zeros(n, int), (k, j))) - 0.6)

    raised = taken("raised_mm", 6 + 13 * ap, 6)
    taken("shoulders_mm", 0, 8)
    put("hidden", drawn["hidden"])
    shift = put("hidden_shift", columns["hidden"] * design.hidden_dose)
    moved = {kind: shift * (design.hidden_kind == kind) for kind in HIDDEN_KINDS}
    for name, kind in (("offset_x_mm", "position"), ("offset_z_mm", "position"), ("exposure", "response"),
                       ("contrast", "response")):
        taken(name, moved[kind] * SPREAD[name] / np.sqrt(2), SPREAD[name])
    taken("rotation_deg", 0, 2 + 1.5 * ap)
    collimated = pd.Series(columns["site"]).map(_COLLIMATED).to_numpy()
    taken("collimation_x_mm", collimated, 5)
    taken("collimation_z_mm", collimated, 5)
    left = stream("marker").random(n) < pd.Series(columns["site"]).map(LEFT_MARKER).to_numpy()
    put("marker", np.where(left, "L", "R").astype(object))
    taken("marker_x_mm", 0, 8)
    taken("marker_z_mm", 0, 10)
    # Rib k lies this far below the apex in the mid-clavicular line (a third of the way round, see chest_anatomy).
    first, last = -5 + columns["rib_slope_mm"] * (1 / 6) ** 1.3, lung - raised
    columns["posterior_ribs"] = np.clip(np.floor((last - first) / columns["rib_spacing_mm"]) + 1, 0, 12).astype(int)
    return pd.DataFrame(columns)


LATENTS = (*RANGES, *CHOICES, "posterior_ribs")


def outcome_values(name: str) -> tuple:
    """Values of an attribute, finding or device, in order."""
    return ATTRIBUTES.get(name, (0, 1))


# ---------------------------------------------------------------------- drawing
def _draw_patients(design, n: int, stream) -> dict[str, np.ndarray]:
    """What all images of a patient share."""
    drawn: dict[str, np.ndarray] = {}
    for name in ORDER[:ORDER.index("view")]:
        drawn[name] = _draw_outcome(design, name, drawn, n, stream)
    drawn["age_part"] = ndtr(_balanced_normals(_cells(drawn, ("sex", "age_group")), stream("age")))
    share = np.tile([1 - design.hidden_share, design.hidden_share], (n, 1))
    drawn["hidden"] = _apportion(share, stream("hidden"))
    return drawn


def _draw_outcome(design, name: str, drawn: Mapping[str, np.ndarray], n: int, stream) -> np.ndarray:
    """Draw an attribute, finding or device given all that was drawn before: odds multiply."""
    values, shares = outcome_values(name), design.shares_of(name)
    weights = np.tile(np.asarray(shares, dtype=float), (n, 1))
    for k, value in enumerate(values):
        for state, factor in design.odds.get(name if value in (0, 1) else value, {}).items():
            if value != 0:
                parent, wanted = state_of(state)
                weights[:, k] *= np.where(drawn[parent] == wanted, factor, 1.0)
    codes = _apportion(weights / weights.sum(axis=1, keepdims=True), stream("outcome", ORDER.index(name)))
    return np.array(values, dtype=object)[codes] if name in ATTRIBUTES else codes


def state_of(state: str) -> tuple[str, object]:
    """Column and value that a state of ``ChestDesign.odds`` stands for, such as ``'F'`` or ``'effusion'``."""
    for name, values in ATTRIBUTES.items():
        if state in values:
            return name, state
    return state, 1


def _apportion(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A category for every row: at random, yet with counts within one of what the chances add up to.

    Rows with equal chances stand together, in random order, and each takes the category that is most in arrears: the
    counts hold among them too, not only overall.
    """
    n, k = chances.shape
    order = np.lexsort((rng.random(n), *chances.T))
    arrears = (rng.random(k) / k).tolist()
    out = np.empty(n, dtype=int)
    for row, wanted in zip(order.tolist(), chances[order].tolist(), strict=True):
        arrears = [a + w for a, w in zip(arrears, wanted, strict=True)]
        # What has no chance in this row is not taken, however much in arrears.
        out[row] = taken = max((j for j in range(k) if wanted[j]), key=arrears.__getitem__)
        arrears[taken] -= 1
    return out


def _balanced_normals(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standard normals, one from each of n equally likely intervals in every group of n rows."""
    lot, jitter = rng.random((2, len(groups)))
    out = np.empty(len(groups))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        rank = np.argsort(np.argsort(lot[rows]))
        out[rows] = ndtri((rank + np.clip(jitter[rows], 1e-9, 1 - 1e-9)) / len(rows))
    return out


def _codes(name: str, values: np.ndarray) -> np.ndarray:
    return pd.Categorical(values, categories=outcome_values(name)).codes


def _cells(drawn: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Number of each row's combination of values."""
    return sum(_codes(name, drawn[name]).astype(int) * 10**k for k, name in enumerate(names))


def _draw_splits(design, patient: Mapping[str, np.ndarray], stream) -> np.ndarray:
    """Split of every patient, alike in who they are and what they have."""
    columns = [patient["age_part"] + _codes("age_group", patient["age_group"])]
    columns += [patient[name] for name in (*FINDINGS, "pacemaker", "hidden")]
    columns += [_codes("sex", patient["sex"]), *(patient["site"] == site for site in ATTRIBUTES["site"])]
    latents = np.column_stack([np.asarray(c, dtype=float) for c in columns])
    sides = list(combinations(np.eye(len(SPLITS), dtype=bool), 2))
    split = assign(latents, np.zeros(len(latents), int), design.split_shares, sides, stream("split"), True)
    return np.array(SPLITS, dtype=object)[split]
