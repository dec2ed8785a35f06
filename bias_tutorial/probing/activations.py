"""What a block of a network gives for many images, a slice of its features at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from .. import environment
from ..cohort import Cohort
from ..networks import block_names

__all__ = ["Activations", "block_names"]


class Activations:
    """Activations of one block for all images, made again for every slice of features and kept nowhere else.

    Parameters
    ----------
    network : torch.nn.Module
        Any module, in evaluation mode. It is moved to ``device``; its weights are not touched. A pass ends at the
        block: what comes after it is not computed.
    images : Cohort, array or tensor
        Shape ``(n, channels, *space)``, 2-D or 3-D, or whatever the network takes, one row an image.
    block : str
        Name from ``network.named_modules()``, for example ``block3`` or ``layer2.0.conv1``. Its output must be one
        tensor with one row an image.
    memory : int
        Bytes, at least 4 n: the most that a slice may take. A block that needs more takes several passes.
    batch_size : int
        Images per pass through the network, at least 1.
    device : str, optional
        ``cpu``, ``cuda``, ``mps``; the fastest here when left out.

    Attributes
    ----------
    shape : tuple of int
        Images and features, ``(n, features)``.
    block_shape : tuple of int
        Of one image's activation, for example ``(channels, *space)``; features are in this order (C order).
    passes : int
        Passes through the network that :meth:`slices` takes.

    Raises
    ------
    ValueError
        For an unknown block (the message lists the names there are), a module in training mode, a block that the
        network calls never or more than once, an output that is no tensor or has not one row an image, too little
        memory, no images.
    """

    def __init__(self, network: nn.Module, images: Cohort | np.ndarray | torch.Tensor, block: str,
                 memory: int = 512 * 2**20, batch_size: int = 64, device: str | None = None):
        self.network, self.images, self.block = network, images, block
        self._module = _find(network, block)
        training = next((name for name, part in network.named_modules() if part.training), None)
        if training is not None:
            raise ValueError(f"module '{training or type(network).__name__}' is in training mode, where batch norm and "
                             "dropout change what it gives; call network.eval() first")
        n = len(images)
        if n == 0 or batch_size < 1:
            raise ValueError(f"expected at least 1 image and a batch_size of at least 1, got {n} and {batch_size}")
        if memory < 4 * n:
            raise ValueError(f"memory is {memory} bytes; one feature of {n} images takes {4 * n}")
        self.batch_size, self.device = batch_size, device or environment.device()
        network.to(self.device)
        seen: list[tuple[int, ...]] = []
        with self._hook(lambda output: seen.append(tuple(output.shape))):
            network(self._batch(0, 1))
        if len(seen) != 1:
            raise ValueError(f"block '{block}' is called {len(seen)} times in a pass through the network, expected 1")
        self.block_shape = seen[0][1:]
        self.shape = n, int(np.prod(self.block_shape))
        self._width = min(memory // (4 * n), self.shape[1])
        self.passes = -(-self.shape[1] // self._width)

    def slices(self) -> Iterator[np.ndarray]:
        """Features in order, a slice a time.

        Yields
        ------
        numpy.ndarray, shape (n, width), float32
            At most ``memory`` bytes.

        Raises
        ------
        ValueError
            For activations that are NaN or infinite; the message names the block and the first image.
        """
        for start in range(0, self.shape[1], self._width):
            yield self._slice(start, min(start + self._width, self.shape[1]))

    def _slice(self, first: int, last: int) -> np.ndarray:
        kept = np.empty((self.shape[0], last - first), dtype=np.float32)

        def keep(output: torch.Tensor) -> None:
            kept[start:start + len(output)] = output.reshape(len(output), -1)[:, first:last].float().cpu().numpy()
            raise _Enough

        with self._hook(keep):
            for start in range(0, self.shape[0], self.batch_size):  # `keep` reads start
                stop = min(start + self.batch_size, self.shape[0])
                try:
                    self.network(self._batch(start, stop))
                except _Enough:
                    pass
                finite = np.isfinite(kept[start:stop]).all(axis=1)
                if not finite.all():
                    raise ValueError(f"block '{self.block}' gives NaN or infinite values for image "
                                     f"{self._name(start + int(np.argmin(finite)))}")
        return kept

    @contextmanager
    def _hook(self, receive: Callable[[torch.Tensor], None]) -> Iterator[None]:
        """Give every output of the block to a function, without gradients; the hook goes even after an error."""
        def check(_, inputs, output) -> None:
            if not isinstance(output, torch.Tensor):
                raise ValueError(f"block '{self.block}' gives a {type(output).__name__}, expected one tensor")
            if output.ndim == 0 or len(output) != self._rows:
                raise ValueError(f"block '{self.block}' gives shape {tuple(output.shape)} for {self._rows} images, "
                                 "expected one row an image")
            receive(output)

        handle = self._module.register_forward_hook(check)
        try:
            with torch.no_grad():
                yield
        finally:
            handle.remove()

    def _batch(self, start: int, stop: int) -> torch.Tensor:
        self._rows = stop - start
        images = self.images
        images = images.batch(np.arange(start, stop)) if isinstance(images, Cohort) else images[start:stop]
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(np.array(images, dtype=np.float32))  # a copy: torch warns of read-only arrays
        return images.to(self.device, torch.float32)

    def _name(self, row: int) -> str:
        return f"'{self.images.table['image_id'].iloc[row]}'" if isinstance(self.images, Cohort) else f"in row {row}"


class _Enough(Exception):
    """Ends a pass at the block that was asked for."""


def _find(network: nn.Module, block: str) -> nn.Module:
    """The module of a name; where there is none, an error with the names there are, near ones first."""
    modules = dict(network.named_modules())
    names = [name for name in modules if name]
    if block not in names:
        near = difflib.get_close_matches(str(block), names, n=5)
        rest = [name for name in names if name not in near]
        raise ValueError(f"{type(network).__name__} has no block '{block}', expected one of {', '.join(near + rest)}")
    return modules[block]
