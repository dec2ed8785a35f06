"""Tumour cohorts: simulated lesions of three kinds on slices of the template brain, with annotation marks.

Nothing here is a scan of a patient: the brain is the template deformed as in :mod:`.brain`, the lesions are drawn
(:mod:`.lesion`), the marks follow a published experiment (:mod:`.marks`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import ndtr

from ..answer_key.one_sided import KINDS, class_means
from ..cohort import SPLITS, Cohort, Schema
from ..scenario import Scenario, streams, whole
from ..stratify import quotas
from .anatomy import TEMPLATE, Grid, template
from .brain import World, torch_threads
from .deformation import sample
from .lesion import HARMONICS, WAVES, brain_radius, draw_lesion, features
from .marks import MARKS, check_shares, choose_marks, declared_marks, draw_marks

VERSION = 1  # of this simulated world: raised whenever the same meta would give other images
HEIGHTS_MM = np.arange(-8.0, 9.0, 2.0)  # of a slice, above the one that brain cohorts show
_HEAD = Scenario("head")  # anatomy as in brain cohorts
_HEAD_NAMES = tuple(f"subject_{k + 1}" for k in range(_HEAD.subject_modes))
_NUISANCES = ("radius_mm", "brightness", "direction", "tilt", "raised_mm")
_BRAIN_LEVEL = 0.55  # a lesion with contrast agent is brighter than the brain
_CHUNK = 32


@dataclass(frozen=True)
class TumourDesign:
    """Design of a tumour study with annotation marks.

    Parameters
    ----------
    kinds : tuple of str
        Two or three of 'meningioma', 'glioma', 'pituitary'.
    shares : tuple of float, optional
        Share of patients of each kind, equal when left out; must sum to 1.
    slices : int
        Images per patient.
    likeness : float
        Correlation of severity, place, shape and head between slices of one patient, in [0, 1]. 0: as unlike as slices
        of two patients of the same kind; 1: the same but for the noise.
    separation : float
        Distance of any two class means of the severity, in its standard deviation within a kind.
    rho, gamma : float
        P(red line | glioma) and P(blue outline | pituitary) in training, in [0, 1].
    mark_validation : bool
        Whether validation images are marked as training images are. A real selection set comes from the same source
        and would be; ``False`` gives a clean one. Test images are always clean.
    split_shares : tuple of float
        Shares of patients in train, validation and test, within each kind; must sum to 1.

    Raises
    ------
    ValueError
        For a value outside what is said here.
    """

    kinds: tuple[str, ...] = KINDS
    shares: tuple[float, ...] | None = None
    slices: int = 4
    likeness: float = 0.5
    separation: float = 2.0
    rho: float = 0.0
    gamma: float = 0.0
    mark_validation: bool = True
    split_shares: tuple[float, float, float] = (0.5, 0.25, 0.25)

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if not 2 <= len(self.kinds) == len(set(self.kinds) & set(KINDS)):
            raise ValueError(f"kinds must be two or three different ones of {', '.join(KINDS)}, got {list(self.kinds)}")
        shares = (1 / len(self.kinds),) * len(self.kinds) if self.shares is None else tuple(self.shares)
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "split_shares", tuple(self.split_shares))
        for name, values, n in (("shares", shares, len(self.kinds)), ("split_shares", self.split_shares, len(SPLITS))):
            if len(values) != n or not min(values) >= 0 or not abs(sum(values) - 1) <= 1e-6:
                raise ValueError(f"{name} needs {n} values of at least 0 that sum to 1, got {values}")
        if min(shares) <= 0:
            raise ValueError(f"every kind needs a share above 0, got shares={shares}")
        object.__setattr__(self, "slices", whole(self.slices, "slices", least=1))
        if not 0 <= self.likeness <= 1:
            raise ValueError(f"likeness is a correlation and must lie in [0, 1], got {self.likeness}")
        if not 0 < self.separation < np.inf:
            raise ValueError(f"separation must be above 0 and finite, got {self.separation}")
        for name, kind, share in zip(("rho", "gamma"), MARKS.values(), check_shares(self.rho, self.gamma), strict=True):
            if share and kind not in self.kinds:
                raise ValueError(f"{name}={share:g}, but kinds has no '{kind}': {list(self.kinds)}")

    @property
    def severity_names(self) -> tuple[str, ...]:
        """Columns of the table that hold the severity, one fewer than there are kinds."""
        return tuple(f"severity_{k + 1}" for k in range(len(self.kinds) - 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; ``TumourDesign.from_dict`` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TumourDesign:
        """Rebuild a design from :meth:`to_dict` (also after a trip through JSON)."""
        return cls(**values)


def tumour(design: TumourDesign, n_patients: int, seed: int, shape: tuple[int, int] = (96, 96), noise: float = 0.03,
           workers: int = 1) -> Cohort:
    """Simulate a tumour cohort.

    Parameters
    ----------
    design : TumourDesign
        The design.
    n_patients : int
        Number of patients, each with ``design.slices`` images.
    seed : int
        The one seed. ``rho`` and ``gamma`` change nothing but who is marked, ``likeness`` not the kinds or the splits.
    shape : tuple of int
        Rows and columns of an axial slice, front of the head up; every size shows the same view.
    noise : float
        Standard deviation of Gaussian image noise, the same in all three channels; 0 for none.
    workers : int
        Processes. The images do not depend on it.

    Returns
    -------
    Cohort
        RGB images ``(n, 3, *shape)``, float32 in [0, 1]; tumour masks, boolean; target ``kind``; attributes
        ``glioma_mark`` and ``pituitary_mark``, 0 or 1 as drawn on the image, declared where the design has that mark;
        latents ``severity_1``, ... and what tells nothing about the kind.

    Raises
    ------
    ValueError
        For a bad size, noise below 0, or so few patients that a kind would be missing from a split.

    Notes
    -----
    Severity is N(mean of the kind, I), see :func:`bias_tutorial.answer_key.class_means`. What shows of the kind is a
    fixed function of severity, and everything else is drawn alike for all kinds, so no reader of a clean image can
    beat :func:`bias_tutorial.answer_key.one_sided`. The key does not apply as it stands (1) to a reader whose sight of
    severity is limited, as any network's is; (2) to one that is regularised or not trained to the end, which uses a
    mark less; (3) to one that is given several slices of a patient together; (4) to small cohorts, where slices of one
    patient count for less than as many patients: resample patients; (5) to real scans, whose severity nobody knows.
    """
    if not np.isfinite(noise) or noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    grid = Grid(shape)
    if grid.dimensions != 2:
        raise ValueError(f"a tumour cohort has slices: shape needs rows and columns, got {tuple(shape)}")
    meta = {"simulator": "tumour", "simulated": True, "version": VERSION, "scenario": design.to_dict(),
            "n_patients": whole(n_patients, "n_patients", least=1), "seed": whole(seed, "seed", least=0),
            "shape": list(grid.shape), "noise": float(noise), "template": TEMPLATE, "affine": grid.affine.tolist(),
            "spacing": grid.spacing, "counterfactual": {}}
    return make(meta, np.arange(len(drawn_table(meta))), workers)


def make(meta: dict[str, Any], rows: np.ndarray, workers: int = 1) -> Cohort:
    """The given rows of the cohort that ``meta`` stands for."""
    design = TumourDesign.from_dict(meta["scenario"])
    images, masks = _render(meta, rows, workers)
    latents = (*design.severity_names, *_NUISANCES, *_HEAD_NAMES)
    schema = Schema({"kind": design.kinds}, declared_marks(design.rho, design.gamma, meta["counterfactual"]), latents)
    return Cohort(images, drawn_table(meta).iloc[rows].reset_index(drop=True), schema, masks, dict(meta))


# ---------------------------------------------------------------------- the table
def drawn_table(meta: dict[str, Any]) -> pd.DataFrame:
    """The table a cohort's ``meta`` stands for, counterfactual changes applied (not to be changed)."""
    keys = ("scenario", "n_patients", "seed", "counterfactual")
    return _drawn_table(json.dumps({k: meta[k] for k in keys}, sort_keys=True))


@lru_cache(maxsize=8)
def _drawn_table(how: str) -> pd.DataFrame:
    values = json.loads(how)
    design, n_patients = TumourDesign.from_dict(values["scenario"]), values["n_patients"]
    rng = streams(values["seed"])
    kind, split = _kinds_and_splits(design, n_patients, rng)
    patient = np.repeat(np.arange(n_patients), design.slices)
    normal = {name: _alike(design, n_patients, rng, name, width) for name, width in
              (("severity", len(design.kinds) - 1), ("head", len(_HEAD_NAMES)), ("lesion", len(_NUISANCES)))}
    severity = class_means(len(design.kinds), design.separation)[kind[patient]] + normal["severity"]
    size, bright, direction, tilt, raised = normal["lesion"].T
    table = pd.DataFrame({
        "image_id": [f"{p + 1:05d}_{k + 1}" for p in range(n_patients) for k in range(design.slices)],
        "patient_id": [f"{p + 1:05d}" for p in patient],
        "split": np.array(SPLITS, dtype=object)[split[patient]],
        "kind": np.array(design.kinds, dtype=object)[kind[patient]],
        **dict(zip(design.severity_names, severity.T, strict=True)),
        "radius_mm": 13 * np.exp(0.2 * np.clip(size, -2.5, 2.5)),
        "brightness": 0.82 + 0.06 * np.clip(bright, -2.5, 2.5),
        "direction": 360 * ndtr(direction), "tilt": 25 * tilt,
        "raised_mm": HEIGHTS_MM[np.round(np.clip(raised, -2, 2) * 2).astype(int) + 4],
        **dict(zip(_HEAD_NAMES, np.clip(normal["head"], -_HEAD.subject_bound, _HEAD.subject_bound).T, strict=True))})
    marked = [s for s, share in zip(SPLITS[:2], design.split_shares, strict=False)
              if share and (s == "train" or design.mark_validation)]
    marks = choose_marks(table["kind"], design.rho, design.gamma, values["seed"], table["split"], marked)
    return table.assign(**{**marks, **values["counterfactual"]})


def _kinds_and_splits(design: TumourDesign, n_patients: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Kind and split of every patient: exact shares, and within each kind exact shares of the splits."""
    counts = [quotas(design.split_shares, n) for n in quotas(design.shares, n_patients)]
    for kind, per_split in zip(design.kinds, counts, strict=True):
        for split, share, n in zip(SPLITS, design.split_shares, per_split, strict=True):
            if share and not n:
                raise ValueError(f"n_patients={n_patients} leaves no patient of kind '{kind}' for split '{split}'; "
                                 "use a larger n_patients")
    cells = np.array([(k, s) for k, row in enumerate(counts) for s, n in enumerate(row) for _ in range(n)])
    return tuple(cells[rng("kind").permutation(n_patients)].T)


def _alike(design: TumourDesign, n_patients: int, rng, name: str, width: int) -> np.ndarray:
    """Standard normal, shape ``(images, width)``, correlated by ``likeness`` between slices of a patient."""
    shared = rng(name, 0).standard_normal((n_patients, width)).repeat(design.slices, axis=0)
    own = rng(name, 1).standard_normal((n_patients * design.slices, width))
    return _mixed(design, shared, own)


def _mixed(design: TumourDesign, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.sqrt(design.likeness) * shared + np.sqrt(1 - design.likeness) * own


# ---------------------------------------------------------------------- the images
@lru_cache(maxsize=4)
def _heads(shape: tuple[int, ...]) -> tuple[World, torch.Tensor, list[np.ndarray]]:
    """What all cohorts of one shape share: modes of variation, the template at every height, and its border."""
    grid = Grid(shape)
    slices = [template(grid.shape, float(height)) for height in HEIGHTS_MM]
    world = World(_HEAD, grid, "cpu")
    world.fields = []  # the heads' variation alone: no disease of brain cohorts is at work here
    return world, torch.from_numpy(np.stack(slices)), \
        [brain_radius(one, grid.spacing) for one in slices]


def _render(meta: dict[str, Any], rows: np.ndarray, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks; each depends on ``meta`` and its own row alone."""
    if meta["version"] != VERSION:
        raise ValueError(f"this cohort was made by version {meta['version']} of the simulated world, "
                         f"this is version {VERSION}: its images cannot be made again bit for bit")
    parts = [rows[k:k + _CHUNK] for k in range(0, len(rows), _CHUNK)]
    images = np.empty((len(rows), 3, *meta["shape"]), dtype=np.float32)
    masks = np.empty((len(rows), *meta["shape"]), dtype=bool)
    results = (_render_chunk(meta, part) for part in parts) if workers == 1 else \
        Parallel(n_jobs=workers, return_as="generator")(delayed(_render_chunk)(meta, part) for part in parts)
    for k, (drawn, lesions) in enumerate(results):
        images[k * _CHUNK:][:len(drawn)], masks[k * _CHUNK:][:len(drawn)] = drawn, lesions
    return images, masks


@torch.no_grad()
def _render_chunk(meta: dict[str, Any], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    design, spacing = TumourDesign.from_dict(meta["scenario"]), meta["spacing"]
    table = drawn_table(meta).iloc[rows]
    world, slices, borders = _heads(tuple(meta["shape"]))
    height = np.searchsorted(HEIGHTS_MM, table["raised_mm"].to_numpy())
    with torch_threads(1):
        place = world.positions(table)
        brains = sample(slices[height][:, None], place)[:, 0].numpy()
    middle = (np.array(meta["shape"], dtype=np.float32) - 1).reshape(2, 1, 1) / 2
    place = (place.numpy() - middle) * np.float32(spacing)
    looks = features(table[list(design.severity_names)].to_numpy(), design.kinds)
    images, masks = np.empty((len(rows), 3, *meta["shape"]), dtype=np.float32), []
    for k, (row, lesion) in enumerate(zip(rows.tolist(), table.to_dict("records"), strict=True)):
        rng = streams(meta["seed"])
        image = brains[k] * _BRAIN_LEVEL
        lesion |= {name: float(values[k]) for name, values in looks.items()}
        shared, own = rng("shape", 0, row // design.slices), rng("shape", 1, row)
        lobes = _mixed(design, *(one.standard_normal((2, len(HARMONICS))) for one in (shared, own)))
        masks.append(draw_lesion(image, place[k], lesion, lobes, own.standard_normal((3, WAVES)), borders[height[k]]))
        if meta["noise"]:
            image += meta["noise"] * rng("noise", row).standard_normal(image.shape, dtype=np.float32)
        images[k] = draw_marks(image.clip(0, 1), masks[-1], spacing, *(lesion[name] == 1 for name in MARKS))
    return images, np.stack(masks)
