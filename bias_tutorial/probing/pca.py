"""Exact principal components of any number of features, by the Gram matrix of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .activations import Activations

__all__ = ["GramPCA", "gram"]

_COLUMNS = 4096  # features multiplied at a time: their float64 copies stay small


def gram(source: Activations | np.ndarray | Callable[[], Iterable[np.ndarray]] | Iterable[np.ndarray]) -> np.ndarray:
    """Inner products between all images, summed over slices of features.

    Once for all images: every split and every fold is cut out of it by :meth:`GramPCA.fit`.

    Parameters
    ----------
    source : Activations, array, iterable of arrays, or a function that gives one
        All features ``(n, features)``, or slices of them ``(n, width)``. Each slice is read once and may be large; of
        the rest, memory is for the result and for some thousand features, however many there are.

    Returns
    -------
    numpy.ndarray, shape (n, n), float64
        Symmetric; of features less their mean over all images. Principal components of any rows are the same with or
        without that shift, and small differences between images do not drown in a large mean.

    Raises
    ------
    ValueError
        For slices that have not one row an image or another number of rows, or values that are NaN or infinite.
    """
    if isinstance(source, Activations):
        slices: Iterable[np.ndarray] = source.slices()
    elif isinstance(source, np.ndarray):
        slices = [source]
    else:
        slices = source() if callable(source) else source
    total = None
    for part in slices:
        if total is None:
            total = np.zeros((len(part), len(part)))
        if part.ndim != 2 or len(part) != len(total):
            raise ValueError(f"a slice has shape {part.shape}, expected ({len(total)}, width)")
        for start in range(0, part.shape[1], _COLUMNS):
            columns = part[:, start:start + _COLUMNS].astype(np.float64)
            columns -= columns.mean(axis=0)
            total += columns @ columns.T
        del part  # not held while the next is made
    if total is None:
        raise ValueError("there is no slice of features")
    if not np.isfinite(total).all():
        raise ValueError("the features hold NaN or infinite values")
    return total


def as_rows(rows: np.ndarray, n: int) -> np.ndarray:
    """Row numbers of n images, given as such or as a mask.

    Raises
    ------
    ValueError
        For numbers outside 0 to n - 1, or a mask of another length.
    """
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or ((rows < 0) | (rows >= n)).any():
        raise ValueError(f"rows must be numbers from 0 to {n - 1} or a mask of {n}, got {rows.dtype} of shape "
                         f"{rows.shape}" + (f" from {rows.min()} to {rows.max()}" if rows.size else ""))
    return rows


@dataclass(frozen=True)
class GramPCA:
    """Principal components of some images, and the scores of all images of a Gram matrix on them.

    Made by :meth:`fit`.

    Attributes
    ----------
    rows : numpy.ndarray of int, shape (r,)
        Images the components are of.
    explained_variance : numpy.ndarray, shape (k,)
        Variance of the scores of ``rows`` (divided by r - 1), largest first.
    explained_variance_ratio : numpy.ndarray, shape (k,)
        The same as shares of the variance of all features.
    scores : numpy.ndarray, shape (n, k)
        Of all images, held-out ones too; the mean of ``rows`` is at 0. The largest score among ``rows`` in absolute
        value is positive.
    """

    rows: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    scores: np.ndarray
    _weights: np.ndarray  # (k, r): unit components as weighted sums of the centred features of rows

    @property
    def n_components(self) -> int:
        """Components kept, k."""
        return len(self.explained_variance)

    @classmethod
    def fit(cls, gram: np.ndarray, rows: np.ndarray, keep: float = 0.99) -> GramPCA:
        """Components of some images, equal to a singular value decomposition of their centred features.

        Parameters
        ----------
        gram : numpy.ndarray, shape (n, n)
            Of all images, from :func:`gram`.
        rows : array of int or bool
            Images to take the components of: positions, or a mask over n; at least 2.
        keep : float
            Share of the variance to keep, in (0, 1]: the fewest components that explain more than this. 1 keeps all
            but those without variance.

        Raises
        ------
        ValueError
            For a matrix that is not square or holds NaN, rows that are not there, fewer than 2 of them, a share
            outside (0, 1], or images that do not differ.

        Notes
        -----
        With X the centred features of ``rows`` and X X' = V L V', scores are V sqrt(L) and those of another image y
        are (y X') V / sqrt(L); both products of features are read off the Gram matrix. Equal to
        ``sklearn.decomposition.PCA(keep, svd_solver="full")`` but for the signs, in memory and time that do not depend
        on the number of features.
        """
        gram = np.asarray(gram, dtype=float)
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not np.isfinite(gram).all():
            raise ValueError(f"gram must be a square matrix without NaN, got shape {gram.shape}")
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be a share in (0, 1], got {keep}")
        rows = as_rows(rows, len(gram))
        if len(rows) < 2:
            raise ValueError(f"components need at least 2 images, got {len(rows)}")
        cross = gram[:, rows]
        mean = cross.mean(axis=1)
        cross -= mean[:, None]
        cross -= mean[rows] - mean[rows].mean()
        variance, vectors = np.linalg.eigh(cross[rows])
        variance, vectors = variance[::-1], vectors[:, ::-1]
        # Equal images, and the one dimension that the mean takes, leave a rest of rounding.
        rounding = len(gram) * np.finfo(float).eps * max(variance[0], np.abs(np.diag(gram)).max())
        real = int((variance > rounding).sum())
        if real == 0:
            raise ValueError(f"the {len(rows)} images do not differ: there is no variance to explain")
        variance, vectors = variance[:real], vectors[:, :real]
        ratio = variance / variance.sum()
        if keep < 1:  # rounding may leave the last sum just below a share near 1
            kept = min(np.searchsorted(np.cumsum(ratio), keep, side="right") + 1, real)
            variance, vectors, ratio = variance[:kept], vectors[:, :kept], ratio[:kept]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(variance))])
        weights = (vectors / np.sqrt(variance)).T
        return cls(rows, variance / (len(rows) - 1), ratio, cross @ weights.T, weights)

    def feature_weights(self, delta: np.ndarray) -> np.ndarray:
        """A change of scores as a change of features, without the components themselves.

        Parameters
        ----------
        delta : numpy.ndarray, shape (m, k)
            Changes of the scores of m images.

        Returns
        -------
        numpy.ndarray, shape (m, r)
            Weights w; the change of features is ``w @ features[rows]``, slice by slice. The mean of the features need
            not be taken off: the weights of an image sum to 0.

        Raises
        ------
        ValueError
            For another number of components.
        """
        delta = np.asarray(delta, dtype=float)
        if delta.ndim != 2 or delta.shape[1] != self.n_components:
            raise ValueError(f"delta has shape {delta.shape}, expected (m, {self.n_components})")
        return delta @ self._weights
