"""The diffusion autoencoder: a denoiser that is told what the image is, by a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..scenario import whole
from ..training import Recipe
from .autoencoder import GROUPS, Autoencoder, Images

TIMES = 1000
"""Steps from an image to noise."""

ROUNDS = 3
"""How often a step towards noise is corrected."""


class DiffusionAutoencoder(Autoencoder):
    """A semantic encoder, and a denoiser conditioned on its latents, trained together to part image and noise.

    Images are brought to [-1, 1] and mixed with Gaussian noise to a degree that grows with a time from 1 to ``TIMES``,
    see :func:`signal`. Decoding goes the way back from pure noise in ``steps`` deterministic steps (DDIM); the noise an
    image would have to come from is found by going the other way, :meth:`invert`. The latents hold what the noise does
    not, and nothing keeps them to a known distribution.

    Parameters
    ----------
    shape, latent, width, seed
        As for :class:`Autoencoder`. The encoder is that of the other kinds.
    steps : int
        Of decoding and inverting, 1 to ``TIMES``.

    Notes
    -----
    Smaller than the published network, and different in three ways, all for training in minutes. The denoiser works on
    patches of 2 x 2 pixels, without attention. The latents also enter it as a map at its coarsest level, so that where
    things are need not be told by factors of channels alone. And what it predicts is the velocity
    ``sqrt(share) noise - sqrt(1 - share) image``, from which both follow: the squared error of that is the published
    one of the noise divided by the share of signal. The noise alone must be predicted very well before the image can
    be read from it where hardly any is left in the mix: in a trial of nine epochs of 1,000 images, decoding was still
    worse than the mean image. No moving average of the weights is kept; the learning rate falls to nearly nothing
    instead.

    References
    ----------
    Preechakul et al., Diffusion autoencoders: toward a meaningful and decodable representation, CVPR 2022, section 3;
    Song et al., Denoising diffusion implicit models, ICLR 2021, equation 12 at sigma 0; Ho et al.,
    Denoising diffusion probabilistic models, NeurIPS 2020, section 4 (the schedule); Pan et al., Effective real image
    editing with accelerated iterative diffusion inversion, ICCV 2023 (inverting in few steps); Salimans and Ho,
    Progressive distillation for fast sampling of diffusion models, ICLR 2022, section 4 (the velocity).
    """

    recipe = Recipe(epochs=20, batch_size=16, learning_rate=2e-3, weight_decay=0.0, patience=10, shift=0)

    def __init__(self, shape: Sequence[int] = (1, 32, 32), latent: int = 64, width: int = 32, steps: int = 20,
                 seed: int = 0):
        if (steps := whole(steps, "steps", least=1)) > TIMES:
            raise ValueError(f"steps must be at most {TIMES}, got {steps}")
        super().__init__(shape, latent, width, seed, steps=steps)
        self.steps = steps
        self.register_buffer("signals", signal(), persistent=False)

    def make_decoder(self) -> None:
        """The denoiser."""
        self.denoiser = Denoiser(self.shape[0], self.widths, self.coarsest, self.latent)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Latents ``(n, latent)`` of images."""
        return self.encoder(images)

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean squared error per pixel of the velocity."""
        times = torch.randint(1, TIMES + 1, (len(images),), device=images.device)
        share, clean, noise = self.signals[times].view(-1, 1, 1, 1), 2 * images - 1, torch.randn_like(images)
        said = self.denoiser(share.sqrt() * clean + (1 - share).sqrt() * noise, times, self(images)).float()
        return {"train_loss": (said - share.sqrt() * noise + (1 - share).sqrt() * clean).square().mean()}

    def noise_in(self, mixed: torch.Tensor, time: int, latents: torch.Tensor) -> torch.Tensor:
        """The noise in a mix, as the denoiser sees it."""
        velocity = self.denoiser(mixed, torch.full((len(mixed),), time, device=mixed.device), latents)
        return self.signals[time].sqrt() * velocity + (1 - self.signals[time]).sqrt() * mixed

    def decode(self, latents: np.ndarray, noise: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """Images in [0, 1] of latents, see :meth:`Autoencoder.decode`."""
        latents = self.checked_latents(latents)
        noise = np.broadcast_to(self.draw_noise(1, seed), (len(latents), *self.shape)) if noise is None else noise
        return self.each(lambda mixed, told: (self.walk(mixed, told, TIMES, 0) / 2 + 0.5).clamp(0, 1), noise, latents)

    def invert(self, images: Images, latents: np.ndarray) -> np.ndarray:
        """Noise, shape ``(n, *shape)``, from which :meth:`decode` comes back to the images (nearly)."""
        return self.each(lambda part, told: self.walk(2 * self.checked(part) - 1, told, 0, TIMES),
                         images, self.checked_latents(latents))

    def draw_noise(self, n: int, seed: int) -> np.ndarray:
        """Noise to decode ``n`` different samples from."""
        return np.random.default_rng([seed, 2]).standard_normal((n, *self.shape), dtype=np.float32)

    def walk(self, images: torch.Tensor, latents: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Deterministic steps from time 0, the image, to ``TIMES``, noise, or back.

        The times are closer together near the image (Song et al. 2021, appendix D.2). A step towards noise is the one
        from which the step back returns: found by taking it ``ROUNDS`` times, each with the noise that the denoiser
        sees where the last one arrived (Pan et al. 2023).
        """
        times = sorted({round(TIMES * (k / self.steps)**2) for k in range(self.steps + 1)}, reverse=start > end)
        for before, after in pairwise(times):
            reached = images
            for _ in range(ROUNDS if after > before else 1):
                noise = self.noise_in(reached, max(before, after), latents)
                reached = ddim(images, noise, self.signals[before], self.signals[after])
            images = reached
        return images


def signal() -> torch.Tensor:
    """Share of the image in the variance of the mix at times 0 (all of it) to ``TIMES``: alpha-bar of Ho et al. 2020.

    The product of 1 - beta up to each time, with beta from 1e-4 to .02 in equal steps.
    """
    kept = 1 - torch.linspace(1e-4, 0.02, TIMES, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), kept.cumprod(0)]).float()


def ddim(mixed: torch.Tensor, noise: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """One deterministic step between two shares of signal, given the noise in the mix (Song et al. 2021, eq. 12)."""
    image = (mixed - (1 - before).sqrt() * noise) / before.sqrt()
    return after.sqrt() * image + (1 - after).sqrt() * noise


class Denoiser(nn.Module):
    """A small U-Net that parts image and noise in a mix, told the time and the latents.

    Parameters
    ----------
    channels : int
        Of the images.
    widths : list of int
        Channels at each level, from half the size of the images on.
    coarsest : tuple of int
        Height and width of the last level.
    latent : int
        Numbers per image.
    """

    def __init__(self, channels: int, widths: list[int], coarsest: tuple[int, int], latent: int):
        super().__init__()
        told = 4 * widths[0]
        self.time = nn.Sequential(nn.Linear(widths[0], told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.inlet = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.map = nn.Sequential(nn.Linear(latent, widths[-1] * math.prod(coarsest)),
                                 nn.Unflatten(1, (widths[-1], *coarsest)))
        pairs = list(zip([widths[0], *widths], widths, strict=False))
        self.down = nn.ModuleList(Block(before, after, told, latent) for before, after in pairs)
        self.middle = Block(widths[-1], widths[-1], told, latent)
        self.up = nn.ModuleList(Block(2 * after, before, told, latent) for before, after in reversed(pairs))
        self.outlet = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), zero(nn.Conv2d(
            widths[0], 4 * channels, 3, padding=1)))

    def forward(self, mixed: torch.Tensor, times: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Velocity ``(n, channels, height, width)`` of a mix of the same shape, at times ``(n,)``."""
        told = self.time(waves(times, self.inlet.out_channels))
        features, passed = self.inlet(functional.pixel_unshuffle(mixed, 2)), []
        for level, block in enumerate(self.down):
            features = block(functional.avg_pool2d(features, 2) if level else features, told, latents)
            passed.append(features)
        features = self.middle(features + self.map(latents), told, latents)
        for level, block in enumerate(self.up):
            features = functional.interpolate(features, scale_factor=2.0) if level else features
            features = block(torch.cat([features, passed.pop()], dim=1), told, latents)
        return functional.pixel_shuffle(self.outlet(features), 2)


class Block(nn.Module):
    """Two convolutions and a way around them; between them the features are scaled by time and latents.

    Adaptive group normalisation of Preechakul et al. 2022, section 3: normalised features, times and plus what the
    time says, times what the latents say.
    """

    def __init__(self, before: int, after: int, told: int, latent: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(GROUPS, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.norm = nn.GroupNorm(GROUPS, after)
        self.by_time, self.by_latents = nn.Linear(told, 2 * after), nn.Linear(latent, after)
        self.second = nn.Sequential(nn.SiLU(), zero(nn.Conv2d(after, after, 3, padding=1)))
        self.around = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, features: torch.Tensor, told: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Features ``(n, after, height, width)``."""
        scale, shift = self.by_time(told)[..., None, None].chunk(2, dim=1)
        factor = 1 + self.by_latents(latents)[..., None, None]
        return self.around(features) + self.second(
            factor * ((1 + scale) * self.norm(self.first(features)) + shift))


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that gives nothing before training, so that a block begins as its way around."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def waves(times: torch.Tensor, count: int) -> torch.Tensor:
    """Times as sines and cosines of ``count / 2`` frequencies from 1 down to 1/10000, shape ``(n, count)``."""
    angles = times[:, None] * torch.logspace(0, -4, count // 2, device=times.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
