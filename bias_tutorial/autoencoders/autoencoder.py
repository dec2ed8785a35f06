"""The form that all autoencoders share: the encoder, what is done with latents, training, saving."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import environment
from ..batches import in_batches, read, seeded
from ..checkpoint import write
from ..cohort import Cohort
from ..scenario import whole
from ..training import Recipe, Step, Task, run

GROUPS = 8
"""Of group normalisation."""

WATCHED = 32
"""Validation images, the first ones, whose reconstruction is measured after every epoch."""

Images = Cohort | np.ndarray
"""A cohort, or images of shape (n, channels, height, width) in [0, 1]."""


class Autoencoder(nn.Module, ABC):
    """Turns images into a few numbers, the latents, and latents into images; learned without any label.

    Kinds differ in how they are trained and decode: :class:`VariationalAutoencoder`, :class:`DiffusionAutoencoder`.
    All latents and images outside are float32 arrays, and computed in fp32 whatever the precision of training.

    Parameters
    ----------
    shape : tuple of int
        Of an image, ``(channels, height, width)``. It is halved until its shorter side is 4 to 7, so both sides must
        be multiples of that power of two: 32 x 32, 64 x 64, 112 x 96, 256 x 256.
    latent : int
        Numbers per image.
    width : int
        Channels at the finest level of the encoder; each coarser one has twice as many, up to four times.
    seed : int
        Of the first weights; torch's own random state is left as it was.

    Raises
    ------
    ValueError
        For a size that does not divide, or a latent size or width that is no whole number of at least 1.
    """

    recipe: ClassVar[Recipe]
    """How it is trained when nothing else is asked for."""
    outputs: ClassVar[int] = 1
    """Numbers that the encoder gives for each latent."""

    def __init__(self, shape: Sequence[int] = (1, 32, 32), latent: int = 64, width: int = 32, seed: int = 0,
                 **settings: Any):
        super().__init__()
        self.shape, self.latent, width = tuple(shape), whole(latent, "latent", least=1), whole(width, "width", least=1)
        if width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS}, got {width}")
        self.settings = {"shape": self.shape, "latent": self.latent, "width": width, "seed": seed, **settings}
        self.levels = halvings(self.shape)
        self.widths = [width * min(2**level, 4) for level in range(self.levels)]
        self.coarsest = tuple(side >> self.levels for side in self.shape[1:])
        self.register_buffer("latent_mean", torch.full((self.latent,), torch.nan))
        self.register_buffer("latent_factor", torch.full((self.latent, self.latent), torch.nan))
        with seeded(seed, 0):
            self.encoder = self.make_encoder()
            self.make_decoder()
        self.to(memory_format=torch.channels_last)  # the order in which convolutions are fastest

    def make_encoder(self) -> nn.Sequential:
        """Strided convolutions down to the coarsest level, then one linear layer; the same for every kind."""
        layers = [layer for before, after in pairwise([self.shape[0], *self.widths])
                  for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, after),
                                nn.SiLU())]
        features = self.widths[-1] * math.prod(self.coarsest)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, self.outputs * self.latent))

    # ------------------------------------------------------------------ what a kind brings
    @abstractmethod
    def make_decoder(self) -> None:
        """Make the parts that decode."""

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Latents ``(n, latent)`` of images."""

    @abstractmethod
    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is trained, as ``train_loss``, and what else is to be noted of a batch, means over its images."""

    @abstractmethod
    def decode(self, latents: np.ndarray, noise: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """Images in [0, 1], shape ``(n, *shape)``, of latents ``(n, latent)``.

        Parameters
        ----------
        latents : numpy.ndarray, shape (n, latent)
            From :meth:`encode`, or moved from there.
        noise : numpy.ndarray, shape (n, *shape), optional
            What decoding starts from, where the kind has such a thing, for example from :meth:`invert`; when left out,
            one draw that all rows share, so that images differ by their latents alone.
        seed : int
            Of that draw.
        """

    def invert(self, images: Images, latents: np.ndarray) -> np.ndarray | None:
        """What of the images the latents do not hold, as noise to :meth:`decode` from; None where nothing is kept."""
        return None

    def draw_noise(self, n: int, seed: int) -> np.ndarray | None:
        """Noise to decode ``n`` different samples from."""
        return None

    # ------------------------------------------------------------------ what one does with it
    def encode(self, images: Images) -> np.ndarray:
        """Latents of images, float32 of shape ``(n, latent)``.

        Raises
        ------
        ValueError
            For images of another shape, outside [0, 1], or not finite.
        """
        return self.each(lambda part: self(self.checked(part)), images)

    def reconstruct(self, images: Images, exact: bool = False, seed: int = 0) -> np.ndarray:
        """Images after encoding and decoding, shape ``(n, *shape)``.

        Parameters
        ----------
        exact : bool
            Keep what the latents do not hold, see :meth:`invert`; without effect where there is no such thing.
        seed : int
            As for :meth:`decode`.
        """
        latents = self.encode(images)
        return self.decode(latents, self.invert(images, latents) if exact else None, seed)

    def interpolate(self, one: Images, other: Images, steps: int = 7, exact: bool = False) -> np.ndarray:
        """Images from one to the other, shape ``(steps, n, *shape)``, both ends included.

        Latents on the straight line between the two; the noise, if it is kept, on the arc. ``exact`` as for
        :meth:`reconstruct`.
        """
        latents = [self.encode(images) for images in (one, other)]
        noise = [self.invert(*end) if exact else None for end in zip((one, other), latents, strict=True)]
        return np.stack([self.decode((1 - share) * latents[0] + share * latents[1],
                                     None if noise[0] is None else arc(*noise, share))
                         for share in np.linspace(0, 1, steps)])

    def move(self, images: Images, along: np.ndarray, amounts: Sequence[float], exact: bool = False) -> np.ndarray:
        """Images with their latents moved along a direction, shape ``(len(amounts), n, *shape)``.

        Parameters
        ----------
        along : numpy.ndarray, shape (latent,)
            From :func:`direction`, in latents per unit of the attribute.
        amounts : sequence of float
            In units of the attribute: ``[0, 10, 20]`` with a direction of age in years makes images 10 and 20 years
            older, as far as the direction is that of age alone.
        exact : bool
            As for :meth:`reconstruct`. What is kept beside the latents does not move: after short training that may be
            the attribute itself.
        """
        latents = self.encode(images)
        noise = self.invert(images, latents) if exact else None
        return np.stack([self.decode(latents + np.float32(amount) * along, noise) for amount in amounts])

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """New images, shape ``(n, *shape)``, from latents of a Gaussian fitted to those of the training images.

        The Gaussian has their mean and full covariance. It is a simple stand-in for the prior of a variational
        autoencoder, which training may leave unused, and for the latent diffusion model of Preechakul et al. 2022.
        """
        if not torch.isfinite(self.latent_mean).all():
            raise ValueError("an autoencoder has no latents to sample from before fit")
        drawn = np.random.default_rng([seed, 1]).standard_normal((n, self.latent), dtype=np.float32)
        latents = self.latent_mean.cpu().numpy() + drawn @ self.latent_factor.cpu().numpy().T
        return self.decode(latents, self.draw_noise(n, seed))

    def fit(self, cohort: Cohort, recipe: Recipe | None = None, seed: int = 0, device: str | None = None,
            checkpoint: str | os.PathLike | None = None, progress: bool = True) -> pd.DataFrame:
        """Train in place, without labels; afterwards it has the weights of its best epoch by validation loss.

        Parameters
        ----------
        cohort : Cohort
            Its train split teaches, its validation split says which epoch is best; the test split is not looked at.
        recipe : Recipe, optional
            ``self.recipe`` when left out.
        seed, device, checkpoint, progress
            As for :func:`bias_tutorial.training.fit`; the seed is also that of all noise in training.

        Returns
        -------
        pandas.DataFrame
            One row an epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``best``, what the kind notes besides, and
            ``reconstruction_error``, the mean squared error per pixel of the first ``WATCHED`` validation images.

        Raises
        ------
        ValueError
            For images of another shape or outside [0, 1], a split without rows, a checkpoint of another run.
        FloatingPointError
            When the loss is not finite.
        """
        train, validation = (np.flatnonzero(cohort.table["split"] == split) for split in ("train", "validation"))
        for split, rows in (("train", train), ("validation", validation)):
            if len(rows) < 2:
                raise ValueError(f"split '{split}' has {len(rows)} images, expected at least 2")
        task = Task(self, cohort, None, recipe or self.recipe, seed, device or environment.device(), train, validation)
        history = run(task, _Step(repr(self.settings)), checkpoint, progress)
        latents = self.each(self, cohort, rows=train).astype(float)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(latents.T)))
        self.latent_mean.copy_(torch.from_numpy(latents.mean(0)))
        self.latent_factor.copy_(torch.from_numpy(vectors * np.sqrt(values.clip(0))))
        return history

    def save(self, path: str | os.PathLike) -> None:
        """Write weights and settings to a file, in one piece; :func:`bias_tutorial.autoencoders.load` reads it."""
        write(path, {"kind": type(self).__name__, "settings": self.settings, "weights": self.state_dict()})

    # ------------------------------------------------------------------ how it is computed
    @torch.inference_mode()
    def each(self, act: Callable[..., torch.Tensor], *inputs: Any, rows: np.ndarray | None = None,
             batch_size: int = 128) -> np.ndarray:
        """Do something with images, and latents or noise, a batch at a time, in fp32 and in evaluation mode."""
        self.eval()
        if len(counts := {len(part) for part in inputs}) > 1:
            raise ValueError(f"images, latents and noise that belong together have {sorted(counts)} rows")
        rows = np.arange(len(inputs[0])) if rows is None else rows
        return np.concatenate([act(*(self._tensor(part, some) for part in inputs)).float().cpu().numpy()
                               for some in in_batches(rows, batch_size)])

    def _tensor(self, part: Images, rows: np.ndarray) -> torch.Tensor:
        values = part.batch(rows) if isinstance(part, Cohort) else np.asarray(part[rows], dtype=np.float32)
        return torch.from_numpy(values).to(self.latent_mean.device)

    def checked(self, images: torch.Tensor) -> torch.Tensor:
        """The images, if they have the shape and range this autoencoder was made for."""
        if images.shape[1:] != self.shape:
            raise ValueError(f"images have the shape {tuple(images.shape[1:])}, expected {self.shape}, for which this "
                             "autoencoder was made")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images have values from {low:g} to {high:g}, expected finite ones in [0, 1]")
        return images

    def checked_latents(self, latents: np.ndarray) -> np.ndarray:
        """The latents as float32, if they have the right shape."""
        if np.ndim(latents) != 2 or np.shape(latents)[1] != self.latent:
            raise ValueError(f"latents have the shape {np.shape(latents)}, expected (n, {self.latent})")
        return np.asarray(latents, dtype=np.float32)


class _Step(Step):
    """What every autoencoder does with a batch, and how its epochs are judged."""

    def __init__(self, owner: str):
        super().__init__()
        self.owner = owner

    def __call__(self, images: torch.Tensor, rows: np.ndarray, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        network = self.task.network
        with self.task.precision():
            parts = network.losses(network.checked(images))
        optimizer.zero_grad(set_to_none=True)
        parts["train_loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return dict(zip(parts, torch.stack([part.detach() for part in parts.values()]).tolist(), strict=True))

    def validate(self) -> dict[str, float]:
        """The same loss with the same noise in every epoch, and the error of what comes back of a few images."""
        task, total = self.task, 0.0
        task.network.eval()
        with seeded(task.seed, 0), torch.inference_mode(), task.precision():
            for rows in in_batches(task.validation, 128):
                images = task.network.checked(read(task.cohort, rows, task.device))
                total += len(rows) * float(task.network.losses(images)["train_loss"])
        watched = task.cohort.batch(task.validation[:WATCHED])
        error = float(np.square(task.network.reconstruct(watched) - watched).mean())
        return {"validation_loss": total / len(task.validation), "reconstruction_error": error}


def halvings(shape: Sequence[int]) -> int:
    """How often images are halved until the shorter side is 4 to 7; refuses sizes that do not divide."""
    if not (len(shape) == 3 and all(isinstance(size, int) and size >= 1 for size in shape)):
        raise ValueError(f"shape must be (channels, height, width), whole numbers of at least 1, got {tuple(shape)}")
    levels = max(0, int(math.log2(min(shape[1:]) / 4))) if min(shape[1:]) >= 4 else 0
    unit = 2**max(levels, 1)
    if levels < 1 or shape[1] % unit or shape[2] % unit:
        raise ValueError(f"images of {shape[1]} x {shape[2]} pixels cannot be halved down to a shorter side of 4 to 7: "
                         f"both sides must be at least 8 and multiples of {unit}; resize or pad them, for example to "
                         f"{' x '.join(str(max(8, -(-side // unit) * unit)) for side in shape[1:])}")
    return levels


def arc(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Noise between two draws, row by row, on the arc, so that it stays as large as noise is (Shoemake 1985)."""
    flat, over = (noise.reshape(len(noise), -1) for noise in (one, other))
    cosine = (flat * over).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(over, axis=1)
    angle = np.arccos(cosine.clip(-1, 1)).clip(1e-6)
    parts = (np.sin(part * angle) / np.sin(angle) for part in (1 - share, share))
    a, b = (part.reshape(-1, *[1] * (one.ndim - 1)).astype(np.float32) for part in parts)
    return a * one + b * other


def direction(latents: np.ndarray, values: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    """How latents change, on average, per unit of an attribute: the slope of every latent in a linear regression.

    For an attribute of 0 and 1 it is the difference of the two means.

    Parameters
    ----------
    latents : numpy.ndarray, shape (n, latent)
        Of training images.
    values : numpy.ndarray, shape (n,)
        The attribute: a number, or 0 and 1.
    given : numpy.ndarray, shape (n,) or (n, k), optional
        Attributes that are to stay as they are. An attribute that goes along with another moves that one too, unless
        it is given here.

    Returns
    -------
    numpy.ndarray, shape (latent,)
        For :meth:`Autoencoder.move`.

    Raises
    ------
    ValueError
        For values that are missing, of another length, or decided by what is given (as a constant is).
    """
    columns = [np.ones(len(latents)), values, *([] if given is None else np.atleast_2d(np.transpose(given)))]
    if wrong := [np.shape(column) for column in columns if np.shape(column) != (len(latents),)]:
        raise ValueError(f"values have the shape {wrong[0]} for {len(latents)} latents")
    known = np.column_stack(columns).astype(float)
    if missing := (~np.isfinite(known)).any(1).sum():
        raise ValueError(f"{missing} of {len(known)} values are missing or not finite; leave these rows out")
    rest = known[:, 1] - known[:, [0, *range(2, known.shape[1])]] @ np.linalg.lstsq(
        known[:, [0, *range(2, known.shape[1])]], known[:, 1])[0]
    if np.allclose(rest, 0, atol=1e-9 * max(1, np.abs(known[:, 1]).max())):
        raise ValueError("the attribute is constant, or decided by what is given: it has no direction of its own")
    return (rest @ latents / (rest @ rest)).astype(np.float32)
