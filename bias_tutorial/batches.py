"""What a pass over a cohort is made of: batches, reading, moving, precision, random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from . import environment
from .cohort import Cohort

PRECISIONS = ("auto", "fp32", "bf16")
AT_ONCE = 256 * 256 * 256
"""Pixels of images that are scored in one go: 256 slices of that size, and only a few full-size volumes."""


def scores(network: nn.Module, cohort: Cohort, rows: np.ndarray, precision: str = "auto", device: str | None = None,
           batch_size: int = 256) -> torch.Tensor:
    """What a network says of rows of a cohort, in fp32 on the processor; afterwards it is in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        Gives one output per image, of any shape.
    rows : numpy.ndarray
        Row numbers, read ``batch_size`` at a time; fewer where those would have more than ``AT_ONCE`` pixels.
    precision : {'auto', 'fp32', 'bf16'}
        See :func:`computing`.
    device : str, optional
        The fastest here when left out.
    """
    device = device or environment.device()
    _check_dimensions(network, cohort)
    batch_size = max(1, min(batch_size, AT_ONCE // math.prod(cohort.images.shape[2:])))
    network.to(device, memory_format=layout(cohort)).eval()
    with torch.inference_mode(), computing(precision, device):
        return torch.cat([network(read(cohort, part, device), *_told(network, cohort, part, device)).float().cpu()
                          for part in in_batches(rows, batch_size)])


def _check_dimensions(network: nn.Module, cohort: Cohort) -> None:
    """Refuse a network for slices where there are volumes, and the other way round, before torch does so in riddles."""
    kinds = {2: "slices", 3: "volumes"}
    takes = next((k for m in network.modules() for k, kind in ((2, nn.Conv2d), (3, nn.Conv3d)) if isinstance(m, kind)),
                 None)
    axes = len(cohort.images.shape) - 2
    if takes and axes in kinds and axes != takes:
        raise ValueError(f"the network takes {kinds[takes]} and the images are {kinds[axes]} of shape "
                         f"{tuple(cohort.images.shape[2:])}; networks.build(..., dimensions={axes}) makes one for them")


def in_batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches of nearly equal size, at most ``size``: none is left with a single image, which batch norm refuses."""
    if size == 2 and len(order) > 1:  # an odd number in pairs: one batch of three
        return np.array_split(order, len(order) // 2)
    return np.array_split(order, math.ceil(len(order) / size))


def read(cohort: Cohort, rows: np.ndarray, device: str) -> torch.Tensor:
    """Images of rows of a cohort, on the device, in the order in which convolutions are fastest."""
    return torch.from_numpy(cohort.batch(rows)).to(device).contiguous(memory_format=layout(cohort))


def shifted(images: torch.Tensor, most: int, rng: np.random.Generator) -> torch.Tensor:
    """Move each image by up to ``most`` pixels along every axis, edges repeated; features have no axes to move along.

    Parameters
    ----------
    images : torch.Tensor, shape (n, channels, *shape)
        Left as they are.
    most : int
        At least 0.
    rng : numpy.random.Generator
        Draws the moves, whole pixels, uniformly.
    """
    shape = images.shape[2:]
    if most == 0 or not shape:
        return images
    padded = nn.functional.pad(images, [most] * (2 * len(shape)), mode="replicate")
    moved = torch.empty_like(images)
    corners = rng.integers(0, 2 * most + 1, (len(images), len(shape)))
    for image, source, corner in zip(moved, padded, corners, strict=True):
        image.copy_(source[(slice(None), *(slice(c, c + size) for c, size in zip(corner, shape, strict=True)))])
    return moved


def layout(cohort: Cohort) -> torch.memory_format:
    """Channels last: the order in which convolutions are fastest."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return layouts.get(len(cohort.images.shape), torch.contiguous_format)


def computing(precision: str, device: str):
    """Context in which networks compute in a precision; ``auto``: bf16 where the device has it natively."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=resolved(precision, device) == "bf16")


def resolved(precision: str, device: str) -> str:
    """The precision that ``auto`` stands for on a device, see :func:`bias_tutorial.environment.precision`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got '{precision}'")
    return environment.precision(torch.device(device).type)[0] if precision == "auto" else precision


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[np.random.Generator]:
    """Random numbers that depend on seed and epoch alone, so that an epoch is the same after a resume."""
    rng = np.random.default_rng([seed, epoch])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # manual_seed sets those of every card
        torch.manual_seed(int(rng.integers(2**62)))
        yield rng


def _told(network: nn.Module, cohort: Cohort, rows: np.ndarray, device: str) -> tuple[torch.Tensor, ...]:
    """What a network wants to know of a row besides its image: nothing, but where it has a method ``told``."""
    return (network.told(cohort.table.iloc[rows]).to(device),) if hasattr(network, "told") else ()
