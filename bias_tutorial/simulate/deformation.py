"""Smooth, invertible deformations from stationary velocity fields, in 2-D and 3-D.

A velocity field ``v`` is integrated for one unit of time by scaling and squaring (Arsigny et al., MICCAI 2006); the
inverse deformation is the integral of ``-v``. Displacements are in pixels (voxels) of their own grid; component ``k``
points along array axis ``k``. All work is done image by image: a batch gives the same bits as its images one by one.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

SQUARINGS = 6


@lru_cache(maxsize=16)
def identity(shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Array coordinates of every point, shape ``(dimensions, *shape)`` (not to be changed)."""
    axes = [torch.arange(s, dtype=torch.float32, device=device) for s in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(image: Tensor, position: Tensor, outside: str = "border") -> Tensor:
    """Values of ``image`` at given positions, linearly interpolated.

    Parameters
    ----------
    image : torch.Tensor
        Shape ``(n, channels, *shape)``.
    position : torch.Tensor
        Array coordinates to read at, shape ``(n, dimensions, *target)``.
    outside : {'border', 'zeros'}
        What is read outside the image.
    """
    sizes = torch.tensor(image.shape[2:], dtype=torch.float32, device=image.device)
    grid = (position * (2 / (sizes - 1)).reshape(-1, *(1,) * (position.ndim - 2)) - 1).flip(1).movedim(1, -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=outside, align_corners=True)


def refine(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Linear interpolation from a lattice to a finer grid with the same corners.

    Parameters
    ----------
    values : torch.Tensor
        Shape ``(n, channels, *lattice)``.
    shape : tuple of int
        Shape of the finer grid.

    Returns
    -------
    torch.Tensor
        Shape ``(n, channels, *shape)``.
    """
    # Axis by axis, last axis first: several times faster than interpolate(mode="trilinear").
    for axis in reversed(range(2, values.ndim)):
        values = refine_axis(values, axis, shape[axis - 2])
    return values


def refine_axis(values: Tensor, axis: int, size: int, rows: slice = slice(None)) -> Tensor:
    """Linear interpolation along one axis to ``size`` points with the same ends, of which only ``rows`` are made."""
    coarse = values.shape[axis]
    place = torch.linspace(0, coarse - 1, size, dtype=torch.float64)[rows]
    low = place.floor().clamp(max=coarse - 2).long()
    part = (place - low).float().to(values.device).reshape(-1, *(1,) * (values.ndim - axis - 1))
    low = low.to(values.device)
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, low + 1), part)


def exponential(velocity: Tensor, squarings: int = SQUARINGS) -> Tensor:
    """Displacement after one unit of time along a stationary velocity field, by scaling and squaring.

    Parameters
    ----------
    velocity : torch.Tensor
        Shape ``(n, dimensions, *shape)``, in pixels per unit of time.
    squarings : int
        The field is divided by ``2 ** squarings`` and composed with itself that many times.

    Returns
    -------
    torch.Tensor
        Displacement, same shape, in pixels.
    """
    displacement = velocity / 2**squarings
    start = identity(tuple(velocity.shape[2:]), str(velocity.device))
    for _ in range(squarings):
        displacement = displacement + sample(displacement, start + displacement)
    return displacement


def warp(image: Tensor, displacement: Tensor, outside: str = "border") -> Tensor:
    """Read ``image`` at every point moved by ``displacement``: shape ``(n, channels, *shape)``."""
    return sample(image, identity(tuple(displacement.shape[2:]), str(displacement.device)) + displacement, outside)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Displacement of moving by ``first`` and from there by ``then`` (same grid)."""
    return first + warp(then, first)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Local change of volume of the deformation, shape ``(n, *shape)``; at or below 0 the deformation folds."""
    dimensions = displacement.shape[1]
    rows = []
    for k in range(dimensions):
        slopes = torch.gradient(displacement[:, k], dim=tuple(range(1, dimensions + 1)))
        rows.append(torch.stack([s + (1.0 if j == k else 0.0) for j, s in enumerate(slopes)], dim=-1))
    m = torch.stack(rows, dim=-2)
    if dimensions == 2:
        return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
    return (m[..., 0, 0] * (m[..., 1, 1] * m[..., 2, 2] - m[..., 1, 2] * m[..., 2, 1])
            - m[..., 0, 1] * (m[..., 1, 0] * m[..., 2, 2] - m[..., 1, 2] * m[..., 2, 0])
            + m[..., 0, 2] * (m[..., 1, 0] * m[..., 2, 1] - m[..., 1, 1] * m[..., 2, 0]))


def require_invertible(displacement: Tensor, names: list[str], what: str) -> None:
    """Raise unless every deformation of the batch is invertible (Jacobian determinant above 0 everywhere).

    Parameters
    ----------
    displacement : torch.Tensor
        Shape ``(n, dimensions, *shape)``.
    names : list of str
        One name per image, for the message.
    what : str
        What the deformation is, for the message.

    Raises
    ------
    ValueError
        Naming the first image whose deformation folds and its smallest determinant.
    """
    lowest = jacobian_determinant(displacement).flatten(1).amin(dim=1)
    bad = torch.nonzero(~(lowest > 0)).flatten().tolist()  # also catches NaN
    if bad:
        raise ValueError(f"the {what} of image '{names[bad[0]]}' is not invertible: its Jacobian determinant falls to "
                         f"{lowest[bad[0]].item():.3f}, it must stay above 0; use a weaker effect")
