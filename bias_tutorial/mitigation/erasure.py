"""Linear erasure: take from features what a linear reader could tell a label by."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

with warnings.catch_warnings():  # the package compiles a helper by a call that newer torch deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from concept_erasure import LeaceFitter


@dataclass(frozen=True)
class Eraser:
    """A fitted linear eraser: ``x`` becomes ``x - ((x - mean) @ read.T) @ write``.

    The form that linear methods share: what is *read* of a label along r directions is taken out along r others, so
    that the change of every image has rank r, whatever the number of features.

    Attributes
    ----------
    mean : numpy.ndarray, shape (k,)
        Of the rows it was fitted on; it stays where it is.
    read, write : numpy.ndarray, shape (r, k)
        Directions that the label is read along and that the change goes along; r = 0: nothing to erase.
    """

    mean: np.ndarray
    read: np.ndarray
    write: np.ndarray

    def amounts(self, scores: np.ndarray) -> np.ndarray:
        """How far each row goes along the rows of ``write``, shape (n, r): ``amounts(x) @ write`` is its change."""
        return -(np.asarray(scores, dtype=float) - self.mean) @ self.read.T

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The scores without what was erased, shape (n, k), float64."""
        return scores + self.amounts(scores) @ self.write


def leace(scores: np.ndarray, label: Sequence, train: np.ndarray, shrinkage: bool = True) -> Eraser:
    """Fit LEACE: the smallest change after which no linear reader can tell the label.

    Of all affine maps that leave no covariance between features and label, the one that moves the features least in
    mean square. It holds for the rows that it is fitted on; on others a rest remains, the larger the more columns
    there are for the rows, so judge it there, by a fresh probe. What a non-linear reader finds is left untouched.

    Parameters
    ----------
    scores : numpy.ndarray, shape (n, k)
        Components or features.
    label : sequence, shape (n,)
        Numbers as they are; other values as one column for each but the first. A pandas Series gives errors its name.
    train : numpy.ndarray
        Row numbers, or a mask, to fit on; labels of other rows are not looked at.
    shrinkage : bool
        Shrink the covariance of the features (Bodnar, Gupta and Parolya 2014, as concept-erasure does): needed where
        there are nearly as many columns as rows. The label is erased exactly with and without.

    Raises
    ------
    ValueError
        For scores that are not finite, a constant label (named), one with missing values, fewer than 2 rows.

    References
    ----------
    Belrose et al., LEACE: Perfect linear concept erasure in closed form, NeurIPS 2023, theorem 4.3, through the
    package concept-erasure, in float64.
    """
    name, label, scores = getattr(label, "name", None) or "label", np.asarray(label), np.asarray(scores, dtype=float)
    if scores.ndim != 2 or label.shape != (len(scores),) or not np.isfinite(scores).all():
        raise ValueError(f"scores {scores.shape} must be finite and of shape (n, k), label '{name}' {label.shape} (n,)")
    x, label = scores[train], label[train]
    if pd.isna(label).any():
        raise ValueError(f"label '{name}': {pd.isna(label).sum()} values are missing in the rows to fit on")
    values = np.unique(label)
    if len(values) < 2:
        raise ValueError(f"label '{name}' is {values.tolist()[0]!r} in all {len(label)} rows to fit on: "
                         "there is nothing to erase")
    z = label[:, None].astype(float) if label.dtype.kind in "biuf" else label[:, None] == values[1:]
    z = (z - z.mean(axis=0)) / z.std(axis=0)  # the package drops weak covariances by a threshold in units of the label
    # A threshold far below any covariance that counts: with the package's own, weak traces would stay. The trace
    # cannot grow but by rounding, so the constraint against it, which would break the guarantee, has no work to do.
    fitted = LeaceFitter.fit(torch.from_numpy(x), torch.from_numpy(z), shrinkage=shrinkage, svd_tol=1e-9,
                             constrain_cov_trace=False).eraser
    read, write = fitted.proj_right.numpy(), fitted.proj_left.numpy().T
    used = np.abs(read).max(axis=1, initial=0) > 0
    return Eraser(fitted.bias.numpy(), read[used], write[used])
