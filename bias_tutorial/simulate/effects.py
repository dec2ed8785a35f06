"""What shows in an image: local deformations of a region, and changes of intensity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..scenario import GAIN, GAMMA, RECEIVE_FIELD, STRETCH
from .anatomy import Grid, region

MM_PER_UNIT = 1.5  # largest displacement that one standard unit of strength gives
LATTICE_MM = 2.0  # local fields are integrated on a lattice of about this spacing
_REACH = 3.5  # a local field ends at this many radii


@dataclass(frozen=True)
class LocalField:
    """A velocity field on a box of a lattice, 0 outside.

    Parameters
    ----------
    box : tuple of slice
        Lattice indices along each axis; lattice index ``i`` is pixel ``i * step``.
    step : int
        Pixels between lattice points.
    velocity : torch.Tensor
        Shape ``(dimensions, *box)``, in lattice steps per unit strength.
    """

    box: tuple[slice, ...]
    step: int
    velocity: Tensor


def region_field(name: str, grid: Grid) -> LocalField:
    """Growth (positive strength) or shrinkage (negative) of a named region.

    The velocity points away from the region's centre, rises to ``MM_PER_UNIT`` at its radius and falls off smoothly.
    SimBA draws along the first principal component of a region's velocity fields instead (``generate_data.py``).

    Parameters
    ----------
    name : str
        A region the grid crosses, see :data:`~bias_tutorial.simulate.anatomy.REGIONS`.
    grid : Grid
        Where to draw it.
    """
    where = region(name, grid.dimensions)
    step = max(1, round(LATTICE_MM / grid.spacing))
    middle, reach = grid.index(where.centre), _REACH * where.radius / grid.spacing
    low = np.floor(np.maximum(middle - reach, 0) / step).astype(int)
    high = np.ceil(np.minimum(middle + reach, np.array(grid.shape) - 1) / step).astype(int) + 1
    offset = grid.millimetres([np.arange(a, b) * step for a, b in zip(low, high, strict=True)])
    offset = offset - np.array(where.centre).reshape(3, *(1,) * grid.dimensions)
    if grid.dimensions == 2:
        offset[2] = 0  # the slice shows the field of the plane through the centre
    distance = np.linalg.norm(offset, axis=0) / where.radius
    edge = np.clip((_REACH - distance) / 0.5, 0, 1)
    window = np.exp(0.5 - distance**2 / 2) * edge**2 * (3 - 2 * edge)
    velocity = np.tensordot(grid.directions(), MM_PER_UNIT * offset / where.radius * window, axes=1) / step
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return LocalField(box, step, torch.from_numpy(velocity.astype(np.float32)))


def receive_field(grid: Grid) -> np.ndarray:
    """A smooth, slanted coil sensitivity, between -1 and 1 over the grid, shape ``grid.shape``."""
    x, y, z = (grid.millimetres() - np.array([0, -17, 5.0]).reshape(3, *(1,) * grid.dimensions)) / 90
    slant = 0.7 * x + 0.4 * y + 0.3 * z + 0.5 * (x**2 - y**2)
    return (slant / np.abs(slant).max()).astype(np.float32)


def change_intensity(image: Tensor, kind: str, strength: float, grid: Grid) -> Tensor:
    """Apply one intensity bias to one image in [0, 1].

    Parameters
    ----------
    image : torch.Tensor
        Shape ``grid.shape``, values in [0, 1].
    kind : str
        ``contrast_stretch``: values move away from mid-range by the factor ``strength``, are clipped to the old range
        and rescaled to [0, 1] (SimBA's intensity bias; published factor 1.2). ``gain``: multiplied by ``strength``.
        ``gamma``: raised to the power ``strength``. ``receive_field``: multiplied by 1 + ``strength`` times a smooth
        field. All end clipped to [0, 1].
    strength : float
        See above; in units of the kind.
    grid : Grid
        The image's grid.
    """
    if kind == STRETCH:
        stretched = ((image - 0.5) * strength + 0.5).clamp(0, 1)
        low, high = stretched.min(), stretched.max()
        return (stretched - low) / (high - low)
    if kind == GAIN:
        return (image * strength).clamp(0, 1)
    if kind == GAMMA:
        if not strength > 0:
            raise ValueError(f"a gamma bias needs a strength above 0, got {strength:.3f}")
        return image.clamp(0, 1) ** strength
    if kind == RECEIVE_FIELD:
        field = torch.from_numpy(receive_field(grid)).to(image.device)
        return (image * (1 + strength * field)).clamp(0, 1)
    raise ValueError(f"unknown intensity kind '{kind}', expected one of {STRETCH}, {GAIN}, {GAMMA}, {RECEIVE_FIELD}")
