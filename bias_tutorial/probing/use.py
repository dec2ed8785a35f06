"""From encoding to use: what a network's outputs do when one of its blocks is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..cohort import Cohort
from ..mitigation.erasure import Eraser, leace
from .activations import Activations
from .pca import GramPCA, gram
from .probes import checked_rows

Images = Cohort | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Effect:
    """A network's outputs for every image, shape (n, values), with a block as it is and with the block changed."""

    before: np.ndarray
    after: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """By how much the log odds of the second value rise, shape (n,); for outputs that are two logits."""
        return log_odds(self.after) - log_odds(self.before)


def log_odds(outputs: np.ndarray) -> np.ndarray:
    """Log odds of the second value, shape (n,), of logits (n, 2): it is decided for where they are above 0."""
    if outputs.ndim != 2 or outputs.shape[1] != 2:
        raise ValueError(f"outputs have shape {outputs.shape}, expected (n, 2)")
    return outputs[:, 1].astype(float) - outputs[:, 0]


def run_from(network: nn.Module, block: str, images: Images,
             change: Callable[[torch.Tensor, np.ndarray], torch.Tensor], batch_size: int = 64,
             device: str | None = None) -> np.ndarray:
    """Run a network with the output of one block replaced.

    Parameters
    ----------
    network, block, images, batch_size, device
        As for :class:`Activations`, which checks them: a module in evaluation mode, a block that is called once.
    change : callable
        Given the block's output, ``(b, *block_shape)``, and the row numbers of its b images, the tensor of the same
        shape that the network goes on with. It must not write into its input; it may run the network itself.

    Returns
    -------
    numpy.ndarray, shape (n, values), float32
        What the network gives: logits for the networks of the course.

    Raises
    ------
    ValueError
        As :class:`Activations`; for a change of the shape, and outputs that are NaN or infinite.
    """
    site = Activations(network, images, block, batch_size=batch_size, device=device)
    outputs, rows, inside = [], np.arange(0), False

    def replace(module, inputs, output):
        nonlocal inside
        if inside:  # the change runs the network for its own ends
            return None
        inside = True
        try:
            new = change(output, rows)
        finally:
            inside = False
        if new.shape != output.shape:
            raise ValueError(f"the change gives shape {tuple(new.shape)}, block '{block}' {tuple(output.shape)}")
        return new

    handle = network.get_submodule(block).register_forward_hook(replace)
    try:
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                rows = np.arange(start, min(start + batch_size, len(images)))
                batch = images.batch(rows) if isinstance(images, Cohort) else images[start:start + batch_size]
                batch = torch.as_tensor(batch, dtype=torch.float32, device=site.device)
                outputs.append(network(batch).float().cpu().numpy())
    finally:
        handle.remove()
    outputs = np.concatenate(outputs)
    if not (finite := np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)).all():
        raise ValueError(f"the network gives NaN or infinite values for the image in row {np.argmin(finite)}")
    return outputs


def fit_eraser(network: nn.Module, block: str, images: Images, label: Sequence, train: np.ndarray,
               fit: Callable[[np.ndarray, Sequence, np.ndarray], Eraser] = leace, keep: float = 0.99,
               pca: GramPCA | None = None, memory: int = 512 * 2**20, batch_size: int = 64,
               device: str | None = None) -> Eraser:
    """Fit an eraser on the exact principal components of a block and carry it back to the block's features.

    Parameters
    ----------
    network, block, images, memory, batch_size, device
        As for :class:`Activations`.
    label : sequence, shape (n,)
        What to erase, as for :func:`~bias_tutorial.mitigation.erasure.leace`.
    train : numpy.ndarray
        Row numbers, or a mask, to fit on: no image and no label of other rows is looked at. Take rows in which the
        label is not related to disease, or a part of disease is erased with it.
    fit : callable
        ``fit(scores, label, train)`` gives the eraser of scores.
    keep : float
        Share of the variance whose components are kept; what lies outside them stays as it is.
    pca : GramPCA, optional
        Components of exactly the training rows, made before: saves a pass; ``keep`` is then not used.

    Returns
    -------
    Eraser
        Of features: ``mean`` (features,), ``read`` and ``write`` (r, features), for any images, by :func:`erase` and
        :func:`swap`.

    Raises
    ------
    ValueError
        As :class:`Activations`, :class:`GramPCA` and ``fit``; for components of other rows than ``train``.
    """
    train = checked_rows("train", train, len(images))
    if pca is not None:
        if not np.array_equal(np.sort(train), np.sort(pca.rows)):
            raise ValueError(f"the components are of {len(pca.rows)} rows that are not the {len(train)} rows of train")
        train = pca.rows
    part = images.subset(train) if isinstance(images, Cohort) else images[train]
    site = Activations(network, part, block, memory, batch_size, device)
    if pca is None:
        pca = GramPCA.fit(gram(site), np.arange(len(train)), keep)
        scores = pca.scores
    else:
        scores = pca.scores[train]
    label = pd.Series(np.asarray(label)[train], name=getattr(label, "name", None))
    eraser = fit(scores, label, np.arange(len(train)))
    weights = pca.feature_weights(np.concatenate([eraser.read, eraser.write])).astype(np.float32)
    mean, directions = [], []
    for part in site.slices():
        mean.append(part.mean(axis=0, dtype=float))
        part -= mean[-1].astype(np.float32)  # the weights sum to 0: this spares rounding where a mean is large
        directions.append(weights @ part)
    return Eraser(np.concatenate(mean), *np.split(np.concatenate(directions, axis=1).astype(float), 2))


def erase(network: nn.Module, block: str, images: Images, eraser: Eraser, before: np.ndarray | None = None,
          batch_size: int = 64, device: str | None = None) -> Effect:
    """A network's outputs with a block as it is, and with a label erased from it.

    Parameters
    ----------
    eraser : Eraser
        Of the block's features, from :func:`fit_eraser`: on other patients than these, or on a part of them.
    before : numpy.ndarray, optional
        The outputs with the block as it is, where they are there already: saves a pass.
    network, block, images, batch_size, device
        As for :func:`run_from`.

    Notes
    -----
    Outputs that move depend on what was erased. Outputs that stay do not depend on what a line reads in this block;
    they may depend on the label in another way. How much of it is left in these images a fresh probe must say.
    """
    mean, read, write = _tensors(eraser)

    def change(output: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        mean_, read_, write_ = (part.to(output.device) for part in (mean, read, write))
        return output - (((output.flatten(1) - mean_) @ read_.T) @ write_).reshape(output.shape)

    return _effect(network, block, images, change, before, batch_size, device)


def swap(network: nn.Module, block: str, images: Images, twins: Images, eraser: Eraser | None = None,
         before: np.ndarray | None = None, batch_size: int = 64, device: str | None = None) -> Effect:
    """A network's outputs with a block as it is, and with its activation taken from each image's twin.

    Parameters
    ----------
    images, twins : Cohort, array or tensor
        The same subjects in the same order; twins as :func:`bias_tutorial.simulate.counterfactual` makes them.
    eraser : Eraser, optional
        Of the block's features, from :func:`fit_eraser`: then only what it reads is taken from the twin, along the
        directions in which it writes, and all else stays.
    before
        As for :func:`erase`.
    network, block, batch_size, device
        As for :func:`run_from`.

    Raises
    ------
    ValueError
        As :func:`run_from`; for another number or another shape of twins than of images.

    Notes
    -----
    Where every path from image to output leads through the block, as in the networks of the course, the whole
    activation of the twin gives the twin's output, whatever the block: an effect of the image. What a block hands on
    *along the direction of the label* is seen with ``eraser``. Interchange intervention: Geiger et al., Causal
    abstractions of neural networks, NeurIPS 2021, section 2.
    """
    if len(images) != len(twins):
        raise ValueError(f"{len(images)} images and {len(twins)} twins, expected one twin an image")
    parts = None if eraser is None else _tensors(eraser)

    def change(output: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        part = twins.subset(rows) if isinstance(twins, Cohort) else twins[rows]
        site = Activations(network, part, block, batch_size=batch_size, device=device)
        twin = torch.from_numpy(np.concatenate(list(site.slices()), axis=1)).reshape(len(rows), *site.block_shape)
        if twin.shape != output.shape:
            raise ValueError(f"block '{block}' gives shape {tuple(output.shape)} for images, {tuple(twin.shape)} for "
                             "their twins")
        if parts is None:
            return twin.to(output)
        _, read, write = (part.to(output.device) for part in parts)
        return output + (((twin.to(output) - output).flatten(1) @ read.T) @ write).reshape(output.shape)

    return _effect(network, block, images, change, before, batch_size, device)


def _effect(network, block, images, change, before, batch_size, device) -> Effect:
    if before is None:
        before = run_from(network, block, images, lambda output, rows: output, batch_size, device)
    return Effect(before, run_from(network, block, images, change, batch_size, device))


def _tensors(eraser: Eraser) -> list[torch.Tensor]:
    return [torch.as_tensor(part, dtype=torch.float32) for part in (eraser.mean, eraser.read, eraser.write)]
