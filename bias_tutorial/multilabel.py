"""Training for many findings at once: binary cross-entropy in which missing labels do not count."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from . import environment
from .batches import in_batches, scores
from .cohort import Cohort
from .training import Recipe, Step, Task, run

RECIPE = Recipe(epochs=20, batch_size=128, learning_rate=1e-3, weight_decay=0.0, patience=3, shift=0)
"""For embeddings: Adam at 1e-3 as in Ahmadnejad Roudsari 2025; there one epoch in batches of 16, here several."""


class Sample(Protocol):
    """Which rows are learned from: :class:`Rows`, or what a method of :mod:`bias_tutorial.mitigation.resampling` gives.

    Attributes
    ----------
    rows : numpy.ndarray, shape (m,)
        Of the train split; a row may come several times.
    weights : numpy.ndarray, shape (m, targets), or None
        What the loss of each label counts, at least 0, relative to the mean over the labels learned from.
    """

    rows: np.ndarray
    weights: np.ndarray | None

    def batch(self, cohort: Cohort, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Features of some of the rows, given by their places in ``rows``."""


@dataclass(frozen=True)
class Rows:
    """Rows as they are, see :class:`Sample`."""

    rows: np.ndarray
    weights: np.ndarray | None = None

    def batch(self, cohort: Cohort, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Features of some of the rows."""
        return cohort.batch(self.rows[places])


def fit(network: nn.Module, cohort: Cohort, targets: Sequence[str] | None = None, recipe: Recipe = RECIPE,
        seed: int = 0, device: str | None = None, checkpoint: str | os.PathLike | None = None, progress: bool = True,
        sample: Sample | None = None) -> pd.DataFrame:
    """Train a network for several binary targets in place; afterwards it has the weights of its best epoch.

    Parameters
    ----------
    network : torch.nn.Module
        Gives one score (logit) per target, shape ``(n, targets)``.
    cohort : Cohort
        Its train split teaches, its validation split says when to stop; the test split is not looked at. A label that
        is missing does not count; a row without any label is left out.
    targets : sequence of str, optional
        Targets of ``cohort.schema`` with the values 0 and 1; all of them when left out.
    recipe, seed, device, checkpoint, progress
        As for :func:`bias_tutorial.training.fit`; ``shift`` is without effect.
    sample : Sample, optional
        Rows of the train split to learn from, with weights; all of them alike when left out. The validation split is
        neither resampled nor weighted.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``best``.

    Raises
    ------
    ValueError
        For an unknown target or one with other values than 0 and 1, a target that is always or never present (or never
        known) where it is to be learned, rows outside the train split, weights of another shape or
        below 0, a network with another number of scores; for a checkpoint of another run.
    FloatingPointError
        When the loss is not finite; the message names epoch and images.
    """
    device = device or environment.device()
    targets = tuple(cohort.schema.targets if targets is None else targets)
    labels, known = _labels(cohort, targets)
    train, validation = (np.flatnonzero(cohort.table["split"] == split) for split in ("train", "validation"))
    sample = Rows(train) if sample is None else sample
    taught = np.array(sample.rows)
    if stray := len(np.setdiff1d(taught, train)):
        raise ValueError(f"{stray} different rows to learn from are not in the train split of the cohort")
    places = np.flatnonzero(known[taught].any(1))
    train, validation = taught[places], validation[known[validation].any(1).numpy()]
    for k, name in enumerate(targets):
        for split, part in (("train", train), ("validation", validation)):
            values = labels[part, k][known[part, k]].unique().tolist()
            if not values or (split == "train" and len(values) < 2):
                raise ValueError(f"target '{name}': the rows of split '{split}' have the values {values}, expected "
                                 f"{'0 and 1' if split == 'train' else 'at least one known label'}")
    weight = _weights(sample.weights, known[taught])
    if (shape := scores(network, cohort, train[:1], recipe.precision, device).shape[1:]) != (len(targets),):
        raise ValueError(f"the network gives scores of shape {tuple(shape)} an image, expected ({len(targets)},): one "
                         f"for each of {list(targets)}")
    drawn = (getattr(sample, part, None) for part in ("augmented", "partner", "share"))
    owner = (f"targets {', '.join(targets)}; labels {_digest(labels, known)}; weights {_digest(weight)}; "
             f"rows {_digest(taught, *drawn)}")
    task = Task(network, cohort, None, recipe, seed, device, train, validation)
    return run(task, _Step(sample, taught, places, labels, known, weight, owner), checkpoint, progress)


class _Step(Step):
    """Plain training on a sample; its batches are places in the sample, as a row may come several times."""

    def __init__(self, sample: Sample, taught: np.ndarray, places: np.ndarray, labels: torch.Tensor,
                 known: torch.Tensor, weight: torch.Tensor, owner: str):
        super().__init__()
        self.sample, self.taught, self.places, self.weight = sample, taught, places, weight
        self.given, self.known, self.owner = labels, known, owner

    def batches(self, rng: np.random.Generator, epoch: int) -> list[np.ndarray]:
        return in_batches(rng.permutation(self.places), self.task.recipe.batch_size)

    def images(self, batch: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(self.sample.batch(self.task.cohort, batch, rng)).to(self.task.device)

    def rows(self, batch: np.ndarray) -> np.ndarray:
        return self.taught[batch]

    def loss(self, images: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        with self.task.precision():
            said = self.task.network(images).float()
        rows = self.taught[batch]
        return _loss(said, *(part.to(said.device) for part in (self.given[rows], self.known[rows], self.weight[batch])))

    def validation_loss(self, scores: torch.Tensor) -> float:
        rows = self.task.validation
        return float(_loss(scores, self.given[rows], self.known[rows], torch.ones(())))


def predict(network: nn.Module, cohort: Cohort, device: str | None = None, precision: str = "auto",
            batch_size: int = 256) -> np.ndarray:
    """Probability of every target for every row of a cohort, shape ``(n, targets)``."""
    return scores(network, cohort, np.arange(len(cohort)), precision, device, batch_size).sigmoid().numpy()


def _labels(cohort: Cohort, targets: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels as float (0 where missing) and whether they are known, each of shape (n, targets)."""
    for name in targets:
        if name not in cohort.schema.targets:
            raise ValueError(f"the cohort has no target '{name}', expected some of {', '.join(cohort.schema.targets)}")
        if set(cohort.schema.targets[name]) != {0, 1}:
            raise ValueError(f"target '{name}' has the values {list(cohort.schema.targets[name])}, expected 0 and 1")
    values = cohort.table[list(targets)].to_numpy(dtype=np.float32, na_value=np.nan)
    return torch.from_numpy(np.nan_to_num(values)), torch.from_numpy(~np.isnan(values))


def _weights(weights: np.ndarray | None, known: torch.Tensor) -> torch.Tensor:
    """Weight of every label of the sample, shape (m, targets), mean 1 over the known ones."""
    weight = np.ones(known.shape, np.float32) if weights is None else np.array(weights, np.float32)
    if weight.shape != known.shape:
        raise ValueError(f"weights of the sample have shape {weight.shape}, expected {tuple(known.shape)}")
    if not (np.isfinite(weight).all() and weight.min() >= 0):
        raise ValueError(f"weights must be finite and at least 0, got {weight.min()} to {weight.max()}")
    weight = torch.from_numpy(weight)
    if not weight[known].mean() > 0:
        raise ValueError("all weights of the rows to learn from are 0")
    return weight / weight[known].mean()


def _digest(*parts) -> str:
    return hashlib.sha256(b"".join(np.asarray(p).tobytes() for p in parts if p is not None)).hexdigest()[:12]


def _loss(scores: torch.Tensor, labels: torch.Tensor, known: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the known labels; every row has one."""
    each = nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return (each * weight * known).sum() / known.sum()
