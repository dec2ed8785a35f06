"""Simulated chest radiographs: a parametric thorax whose anatomy, acquisition, devices and findings are all known.

No radiograph of a patient entered into it. Rays are followed through simple solids (:mod:`.chest_anatomy`,
:mod:`.chest_views`) and exposed on a film (:mod:`.chest_exposure`); who is in a cohort, and which attribute goes with
which finding, is the design's (:mod:`.chest_subjects`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from ..cohort import SPLITS, Cohort, Schema
from ..scenario import streams, whole
from .chest_anatomy import FIELD_MM
from .chest_exposure import expose
from .chest_subjects import (
    ATTRIBUTES,
    CHOICES,
    DEVICES,
    FINDINGS,
    HIDDEN_KINDS,
    LATENTS,
    ORDER,
    RANGES,
    draw_subjects,
    outcome_values,
    state_of,
)
from .chest_views import TEXTURE, attenuation

VERSION = 3  # of this simulated world: raised whenever the same meta would give other images
REGIONS = ("lung_right", "lung_left", "heart", "thorax", "diaphragm", "posterior_ribs", "anterior_ribs", "clavicles",
           *FINDINGS[1:], *DEVICES)
"""What :func:`regions` can show; a part that a view or an image does not have gives an empty mask."""
_CHUNK = 64
_SEEN = {**dict.fromkeys(("effusion", "pneumothorax", *DEVICES), 0.5), "consolidation": 0.5, "posterior_ribs": 1.0,
         "anterior_ribs": 1.0, "lung_right": 5.0, "lung_left": 5.0}  # a part's mask is where it exceeds this


def _shares(name: str, **shares: float):
    return field(default_factory=lambda: dict(shares) or dict.fromkeys(ATTRIBUTES[name], 1 / len(ATTRIBUTES[name])))


@dataclass(frozen=True)
class ChestDesign:
    """Design of a simulated chest radiograph study. As it stands nothing goes with anything else.

    Parameters
    ----------
    findings : mapping
        P(finding) before the odds, each in [0, 1], for any of 'cardiomegaly', 'effusion', 'consolidation',
        'pneumothorax', 'nodule'. Those left out are absent in everybody and no target.
    devices : mapping
        P(device) before the odds, for any of 'tube' (a chest drain), 'wires' (of an electrocardiograph) and
        'pacemaker'. Those left out are absent in everybody and no attribute.
    sex, age_group, site, view : mapping
        Share of each value before the odds, summing to 1; values left out have share 0. Sexes F and M, age groups
        20-40, 40-60 and 60-80, sites A, B and C, views PA, AP and lateral.
    odds : mapping
        ``odds[outcome][state]``: what the odds of an outcome are multiplied by where a state holds. Both are a finding,
        a device, or a value of an attribute, such as ``{"effusion": {"F": 2}, "AP": {"60-80": 3}, "tube":
        {"pneumothorax": 8}}``. The state must come first in the order of drawing: sex, age_group, site, the findings,
        pacemaker, view, tube, wires. Several factors multiply.
    images : int
        Images per patient. Sex, age, site, findings and pacemaker are the patient's; view, tube, wires and the rest of
        the acquisition the image's.
    likeness : float
        Correlation of anatomy, severity and place between images of a patient, in [0, 1]. 0: as unlike as images of
        two patients of the same sex, age, site and findings; 1: the same body.
    sex_effect, age_effect : float
        How far bodies differ by sex and by age, in [0, 1]: 1, as cited; 0, not at all (all are midway between the
        sexes, and as at 50 years).
    hidden_dose : float
        Size of a systematic shift of the acquisition that no attribute names, at least 0, in standard deviations of
        the ordinary variation of what it shifts; 0 for none.
    hidden_share : float
        Share of patients with the shift, in [0, 1]. Who they are does not depend on the dose, nor on anything else.
    hidden_kind : {'position', 'response'}
        Whether the patient lies elsewhere on the film (up and to the patient's left), or the film responds differently
        (exposure and contrast).
    split_shares : tuple of float
        Shares of patients in train, validation and test; must sum to 1.

    Raises
    ------
    ValueError
        For a value outside what is said here; the message names the field.
    """

    findings: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FINDINGS, 0.25))
    devices: Mapping[str, float] = field(default_factory=dict)
    sex: Mapping[str, float] = _shares("sex")
    age_group: Mapping[str, float] = _shares("age_group")
    site: Mapping[str, float] = _shares("site")
    view: Mapping[str, float] = _shares("view", PA=0.6, AP=0.4)
    odds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    images: int = 1
    likeness: float = 0.8
    sex_effect: float = 1.0
    age_effect: float = 1.0
    hidden_dose: float = 0.0
    hidden_share: float = 0.3
    hidden_kind: str = "position"
    split_shares: tuple[float, float, float] = (0.5, 0.25, 0.25)

    def __post_init__(self):
        for name, known in (("findings", FINDINGS), ("devices", DEVICES), *ATTRIBUTES.items()):
            for value, share in getattr(self, name).items():
                if value not in known:
                    raise ValueError(f"{name}: there is no '{value}', expected one of {', '.join(known)}")
                if not 0 <= share <= 1:
                    raise ValueError(f"{name}: the share of '{value}' must lie in [0, 1], got {share}")
            if name in ATTRIBUTES and not abs(sum(getattr(self, name).values()) - 1) <= 1e-6:
                raise ValueError(f"{name}: the shares must sum to 1, got {dict(getattr(self, name))}")
        self._check_odds()
        object.__setattr__(self, "images", whole(self.images, "images", least=1))
        for name in ("likeness", "sex_effect", "age_effect", "hidden_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.hidden_dose <= RANGES["hidden_shift"][1]:
            raise ValueError(f"hidden_dose must lie in {list(RANGES['hidden_shift'])}, got {self.hidden_dose}")
        if self.hidden_kind not in HIDDEN_KINDS:
            raise ValueError(f"hidden_kind must be one of {', '.join(HIDDEN_KINDS)}, got '{self.hidden_kind}'")
        shares = tuple(self.split_shares)
        object.__setattr__(self, "split_shares", shares)
        if len(shares) != len(SPLITS) or not min(shares) >= 0 or not abs(sum(shares) - 1) <= 1e-6:
            raise ValueError(f"split_shares needs {len(SPLITS)} values of at least 0 that sum to 1, got {shares}")

    def _check_odds(self):
        states = (*FINDINGS, *DEVICES, *(value for values in ATTRIBUTES.values() for value in values))
        for outcome, factors in self.odds.items():
            for name in (outcome, *factors):
                if name not in states:
                    raise ValueError(f"odds: there is no '{name}', expected one of {', '.join(states)}")
            column = state_of(outcome)[0]
            for state, factor in factors.items():
                if ORDER.index(state_of(state)[0]) >= ORDER.index(column):
                    raise ValueError(f"odds of '{outcome}' cannot depend on '{state}', which is drawn later or with it:"
                                     f" the order is {', '.join(ORDER)}")
                if not 0 < factor < np.inf:
                    raise ValueError(f"odds of '{outcome}' given '{state}' must be above 0 and finite, got {factor}")

    def shares_of(self, name: str) -> tuple[float, ...]:
        """Shares of the values of an attribute, finding or device before the odds, in order."""
        if name in ATTRIBUTES:
            return tuple(getattr(self, name).get(value, 0.0) for value in ATTRIBUTES[name])
        share = {**self.findings, **self.devices}.get(name, 0.0)
        return 1 - share, share

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; ``ChestDesign.from_dict`` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChestDesign:
        """Rebuild a design from :meth:`to_dict` (also after a trip through JSON)."""
        return cls(**values)


def chest(design: ChestDesign, n_patients: int, seed: int, shape: tuple[int, int] = (64, 64), noise: float = 0.05,
          workers: int = 1) -> Cohort:
    """Simulate a cohort of chest radiographs.

    Parameters
    ----------
    design : ChestDesign
        The design.
    n_patients : int
        Patients, at least 10, each with ``design.images`` images.
    seed : int
        The one seed; every purpose has its own stream.
    shape : tuple of int
        Rows and columns, equal, 32 to 512. Every size shows the same film of 400 mm.
    noise : float
        Standard deviation of quantum noise in a mid-grey pixel, in units of the attenuation; 0 for none.
    workers : int
        Processes. The images do not depend on it.

    Returns
    -------
    Cohort
        Images ``(n, 1, *shape)``, float32 in [0, 1], bone bright, the patient's left on the right of the image and, in
        the lateral view, the front on the left. Targets: the findings of the design, 0 or 1. Attributes: ``sex``,
        ``age_group``, ``site``, ``view`` (where more than one value occurs) and the devices of the design. Latents: see
        ``LATENTS``; their ranges are in ``RANGES``.

    Raises
    ------
    ValueError
        For a bad size, noise below 0, or so few patients that a declared value would be missing.

    Notes
    -----
    *Severity.* ``<finding>_severity`` is N(+1, 1) where a finding is present and N(-1, 1) where not, balanced over sex
    and age group, and the finding shows by a rising function of severity that is the same in everybody
    (``chest_subjects.EFFECTS``; latents are cut to ``RANGES`` there, which few reach):
    the answer key holds for a reader of severity. Nothing is special at the border between present and absent, as in
    nature: an absent effusion is a little fluid, an absent nodule a faint one. At low severity they fall below what
    pixels and noise let through: a pneumothorax below d = -1 is thinner than a 64-pixel image's pixel. So the key at
    *measured* visibility applies to images. Only ``ctr`` also moves with sex, age and chance, and it can
    be read off a lateral view only through the heart's height.

    *Ranges.* Lengths are mm on a standard PA film, as the sources measured them. Cardiothoracic ratio: at most .5 in
    health (Danzer, Am J Med Sci 1919); means .452 in men and .467 in women, rising with age (Mensah et al., Ghana Med J
    2015). Width inside the ribs: 29.7 (2.7) cm in men and 27.1 (2.6) in women (Brakohiapa et al., Pan Afr Med J
    2017), or 29.2 (2.0) cm in men, 26.4 (2.1) in women, and dome of the diaphragm 51 (11) mm on
    the right and 38 (9) on the left above the costophrenic angle (Alghamdi et al., Int J Biomed 2021). Apex to right
    dome: 22.9 cm in men, 21.5 in women, the left dome 1.5 and 1.2 cm lower, limits 16 to 30 (West Afr J Med, May 2007,
    "Assessment of diaphragmatic levels on plain chest radiograph"). 8 to 10 posterior ribs above the diaphragm in
    good inspiration (introductiontoradiology.net). Aortic knob 19.5 mm and .2 mm for each year of age (a study of 113
    adults at Ribat Hospital, Sudan, 2019 to 2020). The heart's diameter on a PA film over that on an AP film taken at
    100 cm is .889 (Chon et al., J Korean Med Sci 2011). Lung areas of both views give a volume of 9.6 ml per cm2 less
    1,367 ml (planimetry of virtual radiographs, Acta Radiol 2016, doi 10.1177/0284185115618548). Fluid
    of 175 to 525 ml blunts the costophrenic angle (Woodring, AJR 1984). Spreads, effects of sex and age on other
    latents, and everything about sites, devices and shifts are our own choice.

    *What it cannot show.* No patient looks like this: there is no disease but the five, each of one form and with no
    consequence for the rest of the body; no scars, no folds, no clothes, no lobes. AP films are taken sitting: fluid
    does not layer behind the lung. Sites differ in three numbers, sexes in a few sizes; nothing here says how well such
    things can be read off real radiographs.
    """
    if not np.isfinite(noise) or noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    if len(shape) != 2 or shape[0] != shape[1] or not 32 <= shape[0] <= 512:
        raise ValueError(f"shape needs two equal numbers of 32 to 512, got {tuple(shape)}")
    meta = {"simulator": "chest", "simulated": True, "version": VERSION, "scenario": design.to_dict(),
            "n_patients": whole(n_patients, "n_patients", least=10), "seed": whole(seed, "seed", least=0),
            "shape": [whole(s, "shape", least=32) for s in shape], "noise": float(noise),
            "spacing": FIELD_MM / shape[0], "licence": "simulated, no source", "counterfactual": {}}
    return make(meta, np.arange(len(drawn_table(meta))), workers)


def make(meta: dict[str, Any], rows: np.ndarray, workers: int = 1) -> Cohort:
    """The given rows of the cohort that ``meta`` stands for."""
    if meta["version"] != VERSION:
        raise ValueError(f"this cohort was made by version {meta['version']} of the simulated world, "
                         f"this is version {VERSION}: its images cannot be made again bit for bit")
    design, rows = ChestDesign.from_dict(meta["scenario"]), np.asarray(rows)
    targets = {name: (0, 1) for name in FINDINGS if design.findings.get(name)}
    table = drawn_table(meta).iloc[rows].reset_index(drop=True)
    images = np.empty((len(rows), 1, *meta["shape"]), dtype=np.float32)
    parts = [rows[k:k + _CHUNK] for k in range(0, len(rows), _CHUNK)]
    results = (_render(meta, part) for part in parts) if workers == 1 else \
        Parallel(n_jobs=workers, return_as="generator")(delayed(_render)(meta, part) for part in parts)
    for k, drawn in enumerate(results):
        images[k * _CHUNK:][:len(drawn), 0] = drawn
    return Cohort(images, table, Schema(targets, _declared(design, meta["counterfactual"]), LATENTS), meta=dict(meta))


def regions(cohort: Cohort, names=REGIONS) -> dict[str, np.ndarray]:
    """Where the parts of the thorax, the findings and the devices lie in each image.

    Parameters
    ----------
    cohort : Cohort
        Made by :func:`chest`; also after saving, loading, or taking a subset.
    names : sequence of str
        Any of ``REGIONS``.

    Returns
    -------
    dict of str to numpy.ndarray
        Boolean masks, shape ``(n, *shape)``. A lung is where rays meet air of it; ``thorax`` lies inside the ribs and
        above the lungs' lower ends; a finding is where it would show whatever its severity.

    Raises
    ------
    ValueError
        For a cohort that is no simulated chest cohort, or an unknown name.
    """
    if cohort.meta.get("simulator") != "chest":
        raise ValueError("regions are known for cohorts of simulate.chest only: this one was made otherwise")
    for name in names:
        if name not in REGIONS:
            raise ValueError(f"unknown region '{name}', expected one of {', '.join(REGIONS)}")
    design, stream = ChestDesign.from_dict(cohort.meta["scenario"]), streams(cohort.meta["seed"])
    shape, table = tuple(cohort.meta["shape"]), drawn_table(cohort.meta)
    rows = table.reset_index().set_index("image_id").loc[list(cohort.table["image_id"]), "index"].to_numpy()
    masks = {name: np.zeros((len(rows), *shape), dtype=bool) for name in names}
    for k, subject in enumerate(table.iloc[rows].to_dict("records")):
        parts = attenuation(subject, _texture(design, stream, int(rows[k])), shape)[1]
        for name in names:
            if name in parts:
                masks[name][k] = parts[name] > _SEEN.get(name, 0)
    return masks


def check_change(meta: dict[str, Any], name: str, value: Any) -> Any:
    """The value that a counterfactual change sets, or ``ValueError``: what can be set is any attribute or latent."""
    choices = {**{n: outcome_values(n) for n in ORDER}, **CHOICES}
    if name not in choices and name not in RANGES:
        raise ValueError(f"the cohort has no attribute, finding or latent '{name}' that can be set, expected one of "
                         f"{', '.join((*ORDER, *(n for n in LATENTS if n in RANGES or n in CHOICES)))}")
    if name in choices:
        if value not in choices[name]:
            raise ValueError(f"'{name}' can be set to {', '.join(map(repr, choices[name]))}, got {value!r}")
        return value if isinstance(value, str) else int(value)
    low, high = RANGES[name]
    if not low <= value <= high:
        raise ValueError(f"'{name}' can be set to a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


# ---------------------------------------------------------------------- the table
def drawn_table(meta: dict[str, Any]) -> pd.DataFrame:
    """The table a cohort's ``meta`` stands for, counterfactual changes applied (not to be changed)."""
    keys = ("scenario", "n_patients", "seed", "counterfactual")
    return _drawn_table(json.dumps({k: meta[k] for k in keys}, sort_keys=True))


@lru_cache(maxsize=8)
def _drawn_table(how: str) -> pd.DataFrame:
    values = json.loads(how)
    design = ChestDesign.from_dict(values["scenario"])
    table = draw_subjects(design, values["n_patients"], values["seed"], {})
    used = {**_declared(design, ()), **{name: (0, 1) for name in FINDINGS if design.findings.get(name)}}
    for name, possible in used.items():
        for value in possible:
            chance = design.shares_of(name)[outcome_values(name).index(value)]
            if chance and not (table[name] == value).any():
                raise ValueError(f"n_patients={values['n_patients']} leaves no image with {name} = {value!r}, of share "
                                 f"{chance:g}; use a larger n_patients")
    return draw_subjects(design, values["n_patients"], values["seed"], values["counterfactual"]) \
        if values["counterfactual"] else table


def _declared(design: ChestDesign, changes) -> dict[str, tuple]:
    """Attributes of the schema: what differs between images, or was set."""
    declared = {}
    for name in (*ATTRIBUTES, *DEVICES):
        possible = tuple(value for value, share in zip(outcome_values(name), design.shares_of(name), strict=True)
                         if share or (name in changes and (value == changes[name] or name in DEVICES)))
        if len(possible) > 1:
            declared[name] = possible
    return declared


# ---------------------------------------------------------------------- the images
def _texture(design: ChestDesign, stream, row: int) -> list[float]:
    """What no latent names, alike between images of a patient as all of the body is."""
    shared = stream("texture", 0, row // design.images).standard_normal(TEXTURE)
    own = stream("texture", 1, row).standard_normal(TEXTURE)
    return (np.sqrt(design.likeness) * shared + np.sqrt(1 - design.likeness) * own).tolist()


def _render(meta: dict[str, Any], rows: np.ndarray) -> np.ndarray:
    """Images; each depends on ``meta`` and its own row alone."""
    design, stream, shape = ChestDesign.from_dict(meta["scenario"]), streams(meta["seed"]), tuple(meta["shape"])
    images = np.empty((len(rows), *shape), dtype=np.float32)
    for k, (row, subject) in enumerate(zip(rows.tolist(), drawn_table(meta).iloc[rows].to_dict("records"),
                                           strict=True)):
        paths = attenuation(subject, _texture(design, stream, row), shape)[0]
        grain = stream("grain", row).standard_normal(shape, dtype=np.float32) if meta["noise"] else None
        images[k] = expose(paths, subject, meta["noise"], grain)
    return images
