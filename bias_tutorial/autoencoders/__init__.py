"""Autoencoders: images to a few numbers and back, learned without labels, all called in the same way."""

from __future__ import annotations

import os

from ..checkpoint import read
from .autoencoder import Autoencoder, direction
from .diffusion import DiffusionAutoencoder
from .variational import VariationalAutoencoder

KINDS = {"variational": VariationalAutoencoder, "diffusion": DiffusionAutoencoder}
"""Kinds by name: ``KINDS[name](shape, latent, ...)``."""


def load(path: str | os.PathLike, device: str = "cpu") -> Autoencoder:
    """An autoencoder from :meth:`Autoencoder.save`.

    Raises
    ------
    ValueError
        When the file is damaged or no saved autoencoder.
    """
    found = read(path, ("kind", "settings", "weights"), "autoencoder saved by bias_tutorial", device)
    kinds = {kind.__name__: kind for kind in KINDS.values()}
    if found["kind"] not in kinds:
        raise ValueError(f"'{path}' holds a '{found['kind']}', expected one of {', '.join(kinds)}")
    model = kinds[found["kind"]](**found["settings"])
    model.load_state_dict(found["weights"])
    return model.to(device)


__all__ = ["KINDS", "Autoencoder", "DiffusionAutoencoder", "VariationalAutoencoder", "direction", "load"]
