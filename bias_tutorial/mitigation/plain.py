"""Plain training, and plain training on grey images as the trivial control for a bias in colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..cohort import Cohort
from ..training import Step
from .method import Bias, Method

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Plain(Method):
    """Plain training, the reference for every method; it needs bias labels only to select otherwise than by loss."""

    def step(self, bias: Bias = ()) -> Step:
        """What is done with a batch."""
        return Step() if self.select == "loss" else super().step(bias)


class Grey(nn.Module):
    """A network that sees colour images in grey: as many channels as before, all with the luminance.

    Its blocks keep their names behind ``network.``, as in ``network.block3``.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("weights", torch.tensor(LUMINANCE), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of images ``(n, 3, *shape)``."""
        if images.shape[1] != len(LUMINANCE):
            raise ValueError(f"grey is made of the 3 channels red, green and blue, these images have {images.shape[1]}")
        grey = torch.tensordot(images, self.weights, dims=([1], [0])).unsqueeze(1)
        return self.network(grey.expand_as(images))


@dataclass(frozen=True)
class GreyInput(Plain):
    """Plain training of a network that cannot see colour.

    The trivial control for a bias in colour; differences in brightness remain, and a mark that is drawn can still be
    seen by its shape.
    """

    def wrap(self, network: nn.Module, cohort: Cohort, bias: Bias = ()) -> Grey:
        """The network behind grey glasses."""
        return Grey(network)

    def fit(self, network: nn.Module, *args: Any, **more: Any) -> pd.DataFrame:
        """As :meth:`Method.fit`, for a network from :meth:`wrap`."""
        if not isinstance(network, Grey):
            raise ValueError(f"GreyInput trains a network from its wrap(network, cohort), got {type(network).__name__}")
        return super().fit(network, *args, **more)
