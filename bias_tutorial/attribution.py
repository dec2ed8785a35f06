"""Where in the image a network's score comes from: SmoothGrad maps, and their scores by named region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import nn

from . import environment
from .cohort import Cohort
from .evaluation import group_rows, patient_bootstrap


def smoothgrad(network: nn.Module, cohort: Cohort, value: int = 1, samples: int = 16, noise: float = 0.1,
               seed: int = 0, device: str | None = None, batch_size: int = 64) -> np.ndarray:
    """How strongly each pixel moves a score: the absolute gradient, averaged over noisy copies of the image.

    Parameters
    ----------
    network : torch.nn.Module
        Gives one score per value of the target, shape ``(n, values)``. It is put in evaluation mode; its weights and
        their gradients are not touched.
    cohort : Cohort
        Images ``(n, C, H, W)`` or ``(n, C, D, H, W)``; every row is explained.
    value : int
        Place of the target's value whose score is explained.
    samples : int
        Noisy copies of each image.
    noise : float
        Standard deviation of the noise, in units of image intensity [0, 1].
    seed : int
        Of the noise. Twins in the same order get the same noise, with the same ``batch_size``.
    device : str, optional
        ``cpu``, ``cuda``, ``mps``; the fastest here when left out.
    batch_size : int
        Images per pass.

    Returns
    -------
    numpy.ndarray
        Shape ``(n, *spatial)``, float32, at least 0: the sum over channels.

    Raises
    ------
    ValueError
        For features instead of images, a value that the network has no score for, fewer than one sample, or noise
        below 0.

    References
    ----------
    Smilkov et al., SmoothGrad, 2017, arXiv 1706.03825, through captum. The paper averages gradients with their sign;
    here absolute values are averaged, so that a pixel that helps in one copy and harms in another still counts.
    """
    if len(cohort.images.shape) not in (4, 5):
        raise ValueError(f"images have shape {tuple(cohort.images.shape)}, expected (n, C, H, W) or (n, C, D, H, W)")
    if samples < 1 or not noise >= 0:
        raise ValueError(f"samples must be at least 1 and noise at least 0, got {samples} and {noise}")
    device = device or environment.device()
    network.to(device).eval()

    def score(images: torch.Tensor) -> torch.Tensor:
        scores = network(images)
        if not 0 <= value < scores.shape[1]:
            raise ValueError(f"the network has scores for values 0 to {scores.shape[1] - 1}, got value {value}")
        return scores[:, value]

    tunnel, maps = NoiseTunnel(Saliency(score)), []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # captum draws from torch's global stream
        torch.manual_seed(seed)
        for start in range(0, len(cohort), batch_size):
            images = torch.from_numpy(cohort.batch(np.arange(start, min(start + batch_size, len(cohort))))).to(device)
            found = tunnel.attribute(images, nt_samples=samples, nt_samples_batch_size=1, stdevs=float(noise))
            maps.append(found.sum(1).float().cpu().numpy())
    return np.concatenate(maps)


def region_scores(maps: np.ndarray, masks: Mapping[str, np.ndarray], inside: np.ndarray | None = None) -> pd.DataFrame:
    """Mean saliency in each region as a multiple of the mean over the whole brain.

    Parameters
    ----------
    maps : numpy.ndarray, shape (n, *spatial)
        At least 0, as :func:`smoothgrad` gives them.
    masks : mapping of str to array-like
        Regions by name: boolean, shape ``spatial``, or ``(n, *spatial)`` with one mask an image.
    inside : array-like, optional
        What a region is compared with, of the same kind: the brain. Left out, the whole image.

    Returns
    -------
    pandas.DataFrame
        One row an image, one column a region: 1 = no more than average, 0 = nothing.

    Raises
    ------
    ValueError
        For a mask of another shape or without a pixel, and for a map that is 0 everywhere inside.
    """
    reference = _mean_over("inside", maps, np.ones(maps.shape[1:], bool) if inside is None else inside)
    if not (reference > 0).all():
        row = np.flatnonzero(~(reference > 0))[0]
        raise ValueError(f"the map in row {row} has mean {reference[row]:g} inside, expected more than 0: "
                         "the score does not depend on the image there")
    return pd.DataFrame({name: _mean_over(name, maps, mask) / reference for name, mask in masks.items()})


def _mean_over(name: str, maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of each map over a mask, shape (n,)."""
    mask = np.asarray(mask, dtype=bool)
    if mask.shape not in (maps.shape, maps.shape[1:]):
        raise ValueError(f"mask '{name}' has shape {mask.shape}, expected {maps.shape[1:]} or {maps.shape}")
    axes = tuple(range(1, maps.ndim))
    size = np.broadcast_to(mask, maps.shape).sum(axes)
    if not size.all():
        raise ValueError(f"mask '{name}' marks no pixel for row {np.argmin(size)}")
    return np.where(mask, maps, 0).sum(axes, dtype=float) / size


def by_group(scores: pd.DataFrame, groups: pd.DataFrame, patients: Sequence | None = None,
             seed: int = 0) -> pd.DataFrame:
    """Mean score of every region in all images, every group and every intersection.

    Parameters
    ----------
    scores : pandas.DataFrame, shape (n, regions)
        From :func:`region_scores`.
    groups, patients
        As for :func:`bias_tutorial.evaluation.group_rows`. Every patient counts once, with the mean of their images.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per group and region: ``group``, ``region``, ``n`` (patients), ``score`` and its 95% patient-bootstrap
        interval ``low, high``.

    Raises
    ------
    ValueError
        For a group with fewer than 30 patients, missing group values, or another number of rows.
    """
    if len(scores) != len(groups):
        raise ValueError(f"{len(scores)} rows of scores for {len(groups)} rows of groups")
    parts = []
    patient = np.arange(len(groups)) if patients is None else np.asarray(patients)
    for name, rows in group_rows(groups, patient).items():
        means = scores.iloc[rows].groupby(patient[rows]).mean()
        low, high = patient_bootstrap(means.to_numpy(), seed)
        parts.append(pd.DataFrame({"group": name, "region": list(scores), "n": len(means), "score": means.mean().array,
                                   "low": low, "high": high}))
    return pd.concat(parts, ignore_index=True)
