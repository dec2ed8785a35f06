"""The variational autoencoder, with a weight on how little the latents may hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ..training import Recipe
from .autoencoder import GROUPS, Autoencoder

NOISE = 0.05
"""Standard deviation of a pixel around the decoded one, in the likelihood; images lie in [0, 1]."""


class VariationalAutoencoder(Autoencoder):
    """Encoder and decoder trained so that a little noise on the latents does not matter.

    The encoder gives mean and variance of a Gaussian over the latents; the decoder, from a draw of it, the mean of a
    Gaussian over the pixels with standard deviation ``NOISE``. The loss, in nats per pixel, is the negative
    log-likelihood without its constant plus ``beta`` times the divergence of the first Gaussian from N(0, 1), see
    :func:`divergence`. Latents of an image are the means.

    Parameters
    ----------
    shape, latent, width, seed
        As for :class:`Autoencoder`.
    beta : float
        1 is the evidence lower bound; more makes latents hold less, and each stand more for itself; 0 leaves plain
        reconstruction from noisy latents.

    Notes
    -----
    Soft-IntroVAE, which one account of Hunecke's thesis names, was not tried: its encoder and decoder are trained
    against each other, several passes a step, where this one has minutes on two cores.

    References
    ----------
    Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014, sections 2.2 to 3 and appendix B; Higgins et al.,
    beta-VAE: learning basic visual concepts with a constrained variational framework, ICLR 2017, section 2.
    """

    recipe = Recipe(epochs=40, batch_size=16, learning_rate=2e-3, weight_decay=0.0, patience=10, shift=0)
    outputs = 2

    def __init__(self, shape: Sequence[int] = (1, 32, 32), latent: int = 64, width: int = 32, beta: float = 1.0,
                 seed: int = 0):
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, got {beta!r}")
        self.beta = beta
        super().__init__(shape, latent, width, seed, beta=beta)

    def make_decoder(self) -> None:
        """The encoder's mirror image: nearest neighbours doubled, then a convolution."""
        start = [nn.Linear(self.latent, self.widths[-1] * math.prod(self.coarsest)),
                 nn.Unflatten(1, (self.widths[-1], *self.coarsest))]
        blocks = [layer for before, after in pairwise([*self.widths[::-1], self.widths[0]])
                  for layer in (nn.GroupNorm(GROUPS, before), nn.SiLU(), nn.Upsample(scale_factor=2),
                                nn.Conv2d(before, after, 3, padding=1))]
        self.decoder = nn.Sequential(*start, *blocks, nn.GroupNorm(GROUPS, self.widths[0]), nn.SiLU(),
                                     nn.Conv2d(self.widths[0], self.shape[0], 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Latents ``(n, latent)`` of images: the means."""
        return self.encoder(images).chunk(2, dim=1)[0]

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss in nats per pixel, the mean squared error per pixel, and the divergence in nats per image."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        error = (self.decoder(drawn(mean, log_variance)).float() - images).square().mean()
        nats = divergence(mean, log_variance).mean()
        loss = error / (2 * NOISE**2) + self.beta * nats / images[0].numel()
        return {"train_loss": loss, "error": error, "divergence": nats}

    def decode(self, latents: np.ndarray, noise: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """Images in [0, 1] of latents; nothing in it is random, so ``noise`` and ``seed`` have no effect."""
        return self.each(lambda part: self.decoder(part).clamp(0, 1), self.checked_latents(latents))


def drawn(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """A draw of N(mean, variance) through which gradients reach both (the reparametrisation trick)."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of N(mean, variance) from N(0, 1), summed over latents, in nats, shape ``(n,)``."""
    return (log_variance.exp() + mean.square() - 1 - log_variance).sum(1) / 2
