"""The template brain, its grid, its named regions, and how healthy brains differ.

Everything is defined in millimetres of MNI space, so that slices and volumes of any size show the same anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from ..scenario import streams

TEMPLATE = {
    "name": "MNI152 2009 symmetric T1, 1 mm, skull-stripped (as distributed by nilearn)",
    "file": "mni152_t1_1mm.nii.gz",
    "citation": "Fonov et al., NeuroImage 2011, doi 10.1016/j.neuroimage.2010.07.033",
    "licence": "MNI: use, change and redistribution with the copyright notice, see NOTICE",
}
SLICE_MM = 5.0  # height of the 2-D slice: through putamen, insula, thalamus and visual cortex
_CENTRE_MM = np.array([0.0, -17.0, 5.0])
_VIEW_MM = {2: np.array([196.0, 168.0]), 3: np.array([173.0, 211.0, 155.0])}  # rows x columns; x, y, z
_MODE_SEED = 152  # the modes are part of the anatomy, the same in every cohort


@dataclass(frozen=True)
class Region:
    """A ball in MNI space: where an effect acts.

    Parameters
    ----------
    centre : tuple of float
        MNI coordinates x, y, z in mm (negative x is the subject's left).
    radius : float
        Distance in mm at which a localised effect is strongest.
    """

    centre: tuple[float, float, float]
    radius: float


def _both_sides(**right: tuple[float, float, float, float]) -> dict[str, Region]:
    regions = {}
    for name, (x, y, z, radius) in right.items():
        regions[f"left_{name}"] = Region((-x, y, z), radius)
        regions[f"right_{name}"] = Region((x, y, z), radius)
    return regions


# Centres read off the template, rounded to whole millimetres.
REGIONS = _both_sides(
    putamen=(26, 3, 3, 9), caudate=(13, 14, 8, 7), thalamus=(12, -19, 7, 8), insula=(39, 5, 3, 8),
    occipital=(14, -84, 4, 9), superior_temporal=(56, -20, 5, 9), frontal_pole=(24, 58, 6, 9),
    hippocampus=(27, -20, -15, 8), precentral=(38, -18, 56, 9), cerebellum=(26, -62, -34, 10),
)


def region(name: str, dimensions: int = 3) -> Region:
    """A named region.

    Raises
    ------
    ValueError
        For an unknown name, or one that the 2-D slice does not cross; the message lists the regions there are.
    """
    known = {k: r for k, r in REGIONS.items() if dimensions == 3 or abs(r.centre[2] - SLICE_MM) < r.radius}
    if name not in known:
        where = "" if dimensions == 3 else f" in the slice at z = {SLICE_MM:g} mm"
        raise ValueError(f"no region '{name}'{where}, expected one of {', '.join(sorted(known))}")
    return known[name]


@dataclass(frozen=True)
class Grid:
    """Pixels or voxels in MNI space.

    Parameters
    ----------
    shape : tuple of int
        ``(rows, columns)`` of an axial slice, front of the head up and the subject's left on the left; or
        ``(x, y, z)`` of a volume, all increasing (RAS).
    """

    shape: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(s) for s in self.shape))
        if len(self.shape) not in (2, 3) or min(self.shape) < 16:
            raise ValueError(f"shape needs 2 or 3 sizes of at least 16, got {self.shape}")

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def spacing(self) -> float:
        """Edge of a pixel or voxel in mm, the same in all directions, so that every size shows the same view."""
        return float((_VIEW_MM[self.dimensions] / self.shape).max())

    @property
    def affine(self) -> np.ndarray:
        """4 x 4 matrix from array indices (a slice has third index 0) to MNI millimetres."""
        matrix = np.eye(4)
        if self.dimensions == 3:
            matrix[:3, :3] *= self.spacing
        else:  # rows run from front to back, columns from left to right
            matrix[:3, :3] = [[0, self.spacing, 0], [-self.spacing, 0, 0], [0, 0, self.spacing]]
        middle = np.zeros(3)
        middle[: self.dimensions] = (np.array(self.shape) - 1) / 2
        centre = _CENTRE_MM if self.dimensions == 3 else np.array([*_CENTRE_MM[:2], SLICE_MM])
        matrix[:3, 3] = centre - matrix[:3, :3] @ middle
        return matrix

    def index(self, millimetres) -> np.ndarray:
        """Array indices (not rounded) of MNI coordinates ``(..., 3)``, shape ``(..., dimensions)``."""
        inverse = np.linalg.inv(self.affine)
        return (np.asarray(millimetres) @ inverse[:3, :3].T + inverse[:3, 3])[..., : self.dimensions]

    def millimetres(self, axes: list[np.ndarray] | None = None) -> np.ndarray:
        """MNI coordinates ``(3, *shape)`` of the points, or of a lattice given by its indices along each axis."""
        axes = axes or [np.arange(s) for s in self.shape]
        index = np.stack(np.meshgrid(*axes, indexing="ij"))
        matrix = self.affine
        moved = np.tensordot(matrix[:3, : self.dimensions], index, axes=1)
        return moved + matrix[:3, 3].reshape(3, *(1,) * self.dimensions)

    def directions(self) -> np.ndarray:
        """Matrix ``(dimensions, 3)`` that turns a vector in mm into one in pixels or voxels of this grid."""
        return np.linalg.inv(self.affine[:3, :3])[: self.dimensions]


def region_mask(name: str, grid: Grid) -> np.ndarray:
    """Boolean mask, shape ``grid.shape``, of the pixels or voxels within a region's radius of its centre."""
    where = region(name, grid.dimensions)
    offset = grid.millimetres() - np.array(where.centre).reshape(3, *(1,) * grid.dimensions)
    if grid.dimensions == 2:
        offset[2] = 0  # as the effect is drawn: in the plane through the centre
    return np.linalg.norm(offset, axis=0) <= where.radius


@lru_cache(maxsize=1)
def _template_volume() -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib

    image = nib.load(str(files("bias_tutorial.assets") / TEMPLATE["file"]))
    return np.asarray(image.dataobj, dtype=np.float32) / 255, image.affine


@lru_cache(maxsize=1)
def _smoothed_volume(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    volume, affine = _template_volume()
    return (gaussian_filter(volume, sigma=0.4 * np.sqrt(spacing**2 - 1)) if spacing > 1 else volume), affine


@lru_cache(maxsize=16)
def template(shape: tuple[int, ...], raised_mm: float = 0.0) -> np.ndarray:
    """The template brain on a grid of the given shape, float32 in [0, 1], smoothed where the grid is coarser.

    ``raised_mm`` moves the view up in the head: a slice at another height.
    """
    grid = Grid(shape)
    volume, affine = _smoothed_volume(grid.spacing)
    inverse = np.linalg.inv(affine)
    points = grid.millimetres()
    points[2] += raised_mm
    index = np.tensordot(inverse[:3, :3], points, axes=1) + inverse[:3, 3].reshape(3, *(1,) * grid.dimensions)
    image = map_coordinates(volume, index, order=1, mode="constant").astype(np.float32)
    image = (image - image.min()) / (image.max() - image.min())
    image.setflags(write=False)
    return image


def subject_modes(millimetres: np.ndarray, count: int) -> np.ndarray:
    """Velocity fields of normal anatomical variation, in mm for one standard deviation.

    Each mode is a smooth random vector field, a sum of plane waves whose amplitude falls with frequency; later modes
    are finer and weaker. They stand in for the first principal components of velocity fields between real heads that
    SimBA samples from (Stanley et al. 2023), which cannot be redistributed: the spectrum is chosen, not estimated.

    Parameters
    ----------
    millimetres : numpy.ndarray
        MNI coordinates, shape ``(3, ...)``.
    count : int
        Number of modes.

    Returns
    -------
    numpy.ndarray
        Shape ``(count, 3, ...)``, float32, in mm.
    """
    points = millimetres - _CENTRE_MM.reshape(3, *(1,) * (millimetres.ndim - 1))
    modes = np.zeros((count, *millimetres.shape), dtype=np.float32)
    stream = streams(_MODE_SEED)
    waves = 6
    for k in range(count):
        rng = stream("subject mode", k)
        wavelength = 240.0 / (1 + 0.25 * k) * rng.uniform(0.8, 1.25, waves)
        heading = rng.standard_normal((waves, 3))
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        push = rng.standard_normal((waves, 3)) / np.sqrt(waves)
        phase = rng.uniform(0, 2 * np.pi, waves)
        amplitude = 2.4 / np.sqrt(1 + k)
        for w in range(waves):
            turn = 2 * np.pi / wavelength[w] * np.tensordot(heading[w], points, axes=1) + phase[w]
            modes[k] += (amplitude * push[w]).reshape(3, *(1,) * (points.ndim - 1)) * np.cos(turn)
    return modes
