"""t-SNE maps, for looking at an embedding, and how far one may trust what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class Maps:
    """t-SNE maps of the same rows.

    Attributes
    ----------
    points : dict of (float, int) to numpy.ndarray, shape (n, 2)
        By perplexity and seed. Axes have no unit and no direction.
    table : pandas.DataFrame
        One row a map: ``perplexity``, ``seed``; ``kept``, the share of each row's k nearest neighbours in the embedding
        that are among its k nearest in the map; ``trustworthiness`` (Venna and Kaski 2001, as in scikit-learn);
        ``same``, the share that maps of other seeds at this perplexity have in common with it, and ``other``, that maps
        of other perplexities have (NaN where there are none). By chance: ``chance`` for the three shares, and
        ``chance_trustworthiness``.
    """

    points: dict[tuple[float, int], np.ndarray]
    table: pd.DataFrame


def maps(embedding: np.ndarray, perplexities: Sequence[float] = (5, 30, 100), seeds: Sequence[int] = (0, 1),
         neighbours: int = 10) -> Maps:
    """Draw an embedding by t-SNE with several perplexities and seeds, and say how stable the maps are.

    Maps are for looking at: distances between groups of points, their sizes and densities are made by the method, and
    so are some groups. Find clusters in the embedding, by :func:`~bias_tutorial.clustering.clusters`.

    Parameters
    ----------
    embedding : numpy.ndarray, shape (n, d)
        Its Euclidean distances are what is drawn.
    perplexities : sequence of float
        About how many neighbours a point is to keep; each above 1 and below n.
    seeds : sequence of int
        Of the random first positions: with a start from principal components all seeds give the same map.
    neighbours : int
        k of the scores, from 1 to below n / 2.

    Raises
    ------
    ValueError
        For a perplexity that is not below the number of rows, k out of range, an embedding that is not finite.

    References
    ----------
    van der Maaten and Hinton, Visualizing data using t-SNE, JMLR 2008, through scikit-learn; Wattenberg, Viegas and
    Johnson, How to use t-SNE effectively, Distill 2016, on what maps do not show.
    """
    x = checked(embedding)
    n = len(x)
    for perplexity in perplexities:
        if not 1 < perplexity < n:
            raise ValueError(f"perplexity {perplexity:g} must be above 1 and below the number of rows, {n}")
    if not 1 <= neighbours < n / 2:
        raise ValueError(f"neighbours must be from 1 to below half of {n} rows, got {neighbours}")
    points = {(p, s): TSNE(2, perplexity=p, init="random", random_state=s).fit_transform(x.astype(np.float32))
              for p, s in product(perplexities, seeds)}
    around = {key: _nearest(part, neighbours) for key, part in points.items()}
    own, rows = _nearest(x, neighbours), []
    for (perplexity, seed), near in around.items():
        shared = {key: _overlap(near, other) for key, other in around.items() if key != (perplexity, seed)}
        rows.append({"perplexity": perplexity, "seed": seed, "kept": _overlap(near, own),
                     "trustworthiness": trustworthiness(x, points[perplexity, seed], n_neighbors=neighbours),
                     "same": _mean(v for (p, _), v in shared.items() if p == perplexity),
                     "other": _mean(v for (p, _), v in shared.items() if p != perplexity)})
    # by chance a map's neighbour is of any rank r from 1 to n - 1 in the embedding and costs max(r - k, 0)
    cost = (n - 1 - neighbours) * (n - neighbours) / (n - 1)
    return Maps(points, pd.DataFrame(rows).assign(
        chance=neighbours / (n - 1), chance_trustworthiness=1 - cost / (2 * n - 3 * neighbours - 1)))


def checked(embedding: np.ndarray) -> np.ndarray:
    """An embedding as float64 (n, d); refuses other shapes and values that are not finite."""
    x = np.asarray(embedding, dtype=float)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"the embedding has shape {x.shape}, expected (n, d)")
    if not (finite := np.isfinite(x).all(axis=1)).all():
        raise ValueError(f"row {np.argmin(finite)} of the embedding is NaN or infinite")
    return x


def _nearest(x: np.ndarray, k: int) -> np.ndarray:
    """Row numbers of the k nearest others, shape (n, k)."""
    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share of each row's neighbours that both name, on average."""
    return float((a[:, :, None] == b[:, None, :]).any(axis=2).mean())


def _mean(values) -> float:
    values = list(values)
    return float(np.mean(values)) if values else np.nan
