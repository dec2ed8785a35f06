"""Linear erasure: take from features what a linear reader could tell a label by.

Three methods, called alike: ``fit(scores, label, train, target=None)`` looks at the rows of ``train`` alone and gives
an :class:`Eraser`. Without ``target`` they are fitted *pooled*: where the label goes with disease, the mean difference
between its values holds a part of disease, which is erased with it. With ``target`` (disease) they are fitted *within
class*: features and label are taken as differences from their means in each class, so that what is erased is how
features go with the label while the class is held, one direction for all classes. Afterwards the label is still told
as well as the class tells it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

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


def leace(scores: np.ndarray, label: Sequence, train: np.ndarray, shrinkage: bool = True,
          target: Sequence | None = None) -> Eraser:
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
    target : sequence, shape (n,), optional
        Classes to fit within, see the module: the covariance within classes becomes 0, summed over the classes, and
        the change is the least one in the features' covariance within classes.

    Raises
    ------
    ValueError
        For scores that are not finite, a constant label (named), one with missing values, fewer than 2 rows; for a
        target with missing values, and a label with a value that is constant within every class of it.

    References
    ----------
    Belrose et al., LEACE: Perfect linear concept erasure in closed form, NeurIPS 2023, theorem 4.3, through the
    package concept-erasure, in float64.
    """
    return _closed_form(scores, label, train, target, shrinkage=shrinkage)


def mean_projection(scores: np.ndarray, label: Sequence, train: np.ndarray, target: Sequence | None = None) -> Eraser:
    """Fit the projection that takes out the difference between the means of a label's values.

    An orthogonal projection, one direction for each value but the first. As after LEACE no covariance with the label
    is left in the rows that it is fitted on; but features that vary together with that direction are moved more than
    they need be.

    Parameters
    ----------
    scores, label, train, target
        As for :func:`leace`; of a label that is a number, the direction of its covariance with the features.

    Raises
    ------
    ValueError
        As for :func:`leace`.

    References
    ----------
    Mean projection in Haghighatkhah et al., Better hit the nail on the head than beat around the bush, EMNLP 2022;
    through the package concept-erasure (``method="orth"``).
    """
    return _closed_form(scores, label, train, target, method="orth", shrinkage=False)


def inlp(scores: np.ndarray, label: Sequence, train: np.ndarray, target: Sequence | None = None,
         patients: Sequence | None = None, tolerance: float = 0.02, seed: int = 0) -> Eraser:
    """Fit INLP: take out the direction that a linear classifier reads the label by, until a new one reads no more.

    Rounds of logistic regression on standardised features (L2 penalty with C = 1, values weighted alike), each
    followed by the orthogonal projection on what its weights do not see. **Stop rule**: a quarter of the patients among
    ``train`` is held out of the fits; the first classifier whose AUC there is no more than ``.5 + tolerance`` (several
    values: the mean of one against the rest) ends the rounds and is not used. There is no other limit.

    Parameters
    ----------
    scores, label, train, target
        As for :func:`leace`; the label has few values, numbers among them are names.
    patients : sequence, shape (n,), optional
        Whose row each is; left out, every row is another patient.
    tolerance : float
        In [0, .5).
    seed : int
        Of the held-out quarter.

    Raises
    ------
    ValueError
        As for :func:`leace`, and for a value of the label that only one of the two parts has.

    References
    ----------
    Ravfogel et al., Null it out: Guarding protected attributes by iterative nullspace projection, ACL 2020, algorithm
    1; the paper fixes the number of rounds.
    """
    x, label, group, name = _checked(scores, label, train, target)
    people = np.arange(len(x)) if patients is None else np.unique(np.asarray(patients)[train], return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(people.max() + 1)
    fit = order[people] >= len(order) / 4
    values = np.unique(label)
    for value in values.tolist():
        if (label[fit] == value).all() or not (label[fit] == value).any() or not (label[~fit] == value).any():
            raise ValueError(f"label '{name}': INLP needs its value {value!r} among the rows that it fits on and among "
                             "those that it stops by, and others too; it takes a label with few values")
    mean, z = x.mean(axis=0), _less_means(x, group, fit)
    scale = z[fit].std(axis=0)
    scale[scale <= 1e-12 * scale.max()] = np.inf
    basis = np.empty((0, x.shape[1]))
    while len(basis) < x.shape[1]:
        left = (z - z @ basis.T @ basis) / scale
        reader = LogisticRegression(class_weight="balanced", max_iter=2000).fit(left[fit], label[fit])
        odds = reader.decision_function(left[~fit])
        odds = np.column_stack([-odds, odds]) if odds.ndim == 1 else odds
        if np.mean([roc_auc_score(label[~fit] == v, odds[:, k]) for k, v in enumerate(values)]) <= 0.5 + tolerance:
            break
        weights = reader.coef_ / scale
        weights -= weights @ basis.T @ basis
        _, size, directions = np.linalg.svd(weights, full_matrices=False)
        basis = np.vstack([basis, directions[size > 1e-9 * size[0]]])
    return Eraser(mean, basis, basis)


ERASERS = {"mean_projection": mean_projection, "inlp": inlp, "leace": leace}
"""Methods by name: ``ERASERS[name](scores, label, train, target=target)(scores)``."""


# ---------------------------------------------------------------------- what erasers are made of
def _closed_form(scores, label, train, target, **settings) -> Eraser:
    """What concept-erasure fits, of features and label less their means within the classes of a target."""
    x, label, group, name = _checked(scores, label, train, target)
    values = np.unique(label)
    z = label[:, None].astype(float) if label.dtype.kind in "biuf" else label[:, None] == values[1:]
    z = _less_means(z, group) / z.std(axis=0)  # the package drops weak covariances by a threshold in units of the label
    if (still := np.abs(z).max(axis=0) < 1e-9).any():
        what = "" if label.dtype.kind in "biuf" else f"value {values[1:][still].tolist()[0]!r} of "
        raise ValueError(f"{what}label '{name}' is constant within every class of the target: "
                         "the two cannot be told apart")
    if target is not None:
        x, mean = _less_means(x, group), x.mean(axis=0)
    # A threshold far below any covariance that counts: with the package's own, weak traces would stay. The trace
    # cannot grow but by rounding, so the constraint against it, which would break the guarantee, has no work to do.
    fitted = LeaceFitter.fit(torch.from_numpy(x), torch.from_numpy(z), svd_tol=1e-9, constrain_cov_trace=False,
                             **settings).eraser
    read, write = fitted.proj_right.numpy(), fitted.proj_left.numpy().T
    used = np.abs(read).max(axis=1, initial=0) > 0
    return Eraser(fitted.bias.numpy() if target is None else mean, read[used], write[used])


def _checked(scores, label, train, target) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Scores, label and number of the class of the training rows, and the label's name; or an error."""
    name, label, scores = getattr(label, "name", None) or "label", np.asarray(label), np.asarray(scores, dtype=float)
    if scores.ndim != 2 or label.shape != (len(scores),) or not np.isfinite(scores).all():
        raise ValueError(f"scores {scores.shape} must be finite and of shape (n, k), label '{name}' {label.shape} (n,)")
    x, label = scores[train], label[train]
    if pd.isna(label).any():
        raise ValueError(f"label '{name}': {pd.isna(label).sum()} values are missing in the rows to fit on")
    if len(values := np.unique(label)) < 2:
        raise ValueError(f"label '{name}' is {values.tolist()[0]!r} in all {len(label)} rows to fit on: "
                         "there is nothing to erase")
    if target is None:
        return x, label, np.zeros(len(x), dtype=int), name
    target = np.asarray(target)
    if target.shape != (len(scores),) or pd.isna(target[train]).any():
        raise ValueError(f"target has shape {target.shape}, expected ({len(scores)},) without missing values in the "
                         "rows to fit on")
    return x, label, np.unique(target[train], return_inverse=True)[1], name


def _less_means(columns: np.ndarray, group: np.ndarray, fit: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Columns less their mean over the rows of ``fit`` in the same group."""
    return columns - np.array([columns[fit][group[fit] == g].mean(axis=0) for g in range(group.max() + 1)])[group]
