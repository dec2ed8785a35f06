"""What methods with an adversary share: bias predictors that read a block of the network, and how they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..training import Task
from .method import BiasStep, Method

HEADS = ("conv", "pooled", "linear")


class BiasHead(nn.Module):
    """Bias predictor h: scores of bias values from the features of a block.

    Parameters
    ----------
    kind : {'conv', 'pooled', 'linear'}
        ``conv``: two 3 x 3 convolutions with batch norm and ReLU between them, whose scores are averaged over the
        positions. ``pooled``: the features' mean over the positions, then two linear layers. ``linear``: the mean,
        then one.
    shape : tuple of int
        Of one image's features: ``(channels, *space)``, or ``(channels,)`` for a head that is not convolutional.
    values : int
        Of the bias.
    classes : int
        Of the target, if the head is told the class (as so many more channels); 0 if not.
    """

    def __init__(self, kind: str, shape: tuple[int, ...], values: int, classes: int = 0):
        super().__init__()
        channels, dimensions, self.classes = shape[0], len(shape) - 1, classes
        given = channels + classes
        self.dense = kind == "conv"
        if self.dense:
            if dimensions not in (2, 3):
                raise ValueError("a conv head reads features (channels, *space) of 2 or 3 dimensions, this block gives "
                                 f"{shape}; take an earlier block, or head='pooled'")
            conv, norm = getattr(nn, f"Conv{dimensions}d"), getattr(nn, f"BatchNorm{dimensions}d")
            self.layers = nn.Sequential(conv(given, channels, 3, padding=1, bias=False), norm(channels), nn.ReLU(),
                                        conv(channels, values, 3, padding=1))
        elif kind == "pooled":
            self.layers = nn.Sequential(nn.Linear(given, channels), nn.ReLU(), nn.Linear(channels, values))
        else:
            self.layers = nn.Linear(given, values)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores (n, values) of features (n, channels, *space); ``labels`` (n,) are the classes, if it is told them."""
        if not self.dense:
            features = _mean(features)
        if self.classes:
            told = nn.functional.one_hot(labels, self.classes).to(features.dtype)
            told = told.reshape(*told.shape, *[1] * (features.ndim - 2)).expand(-1, -1, *features.shape[2:])
            features = torch.cat([features, told], dim=1)
        return _mean(self.layers(features))


def _mean(features: torch.Tensor) -> torch.Tensor:
    """Mean over the positions, where there are any."""
    return features.mean(tuple(range(2, features.ndim))) if features.ndim > 2 else features


@contextmanager
def kept(network: nn.Module, block: str) -> Iterator[list[torch.Tensor]]:
    """Note the output of a block in every pass through the network inside this context."""
    try:
        module = network.get_submodule(block)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"the network has no block '{block}'; it has {names}, and what is inside them") from None
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@dataclass(frozen=True)
class AdversarialMethod(Method):
    """Settings that all methods with an adversary have.

    Parameters
    ----------
    block : str
        Whose output is to hold no bias, a name from ``network.named_modules()``.
    head : {'conv', 'pooled', 'linear'}
        Form of the bias predictor, see :class:`BiasHead`; one predictor for every bias.
    rate : float
        Learning rate of the bias predictors as a multiple of the recipe's.
    """

    block: str = "block3"
    head: str = "conv"
    rate: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        at_least_0(self, "rate")


def at_least_0(method: Method, *names: str) -> None:
    """Refuse settings that are no finite number of at least 0."""
    for name in names:
        if not 0 <= getattr(method, name) < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(method, name)!r}")


class AdversaryStep(BiasStep):
    """A step with a bias predictor for every bias: ``modules['heads']``, in the order of ``names``."""

    conditional = False

    def start(self, task: Task) -> None:
        """Look at the block's features and make the bias predictors; their first weights follow the seed."""
        super().start(task)
        images = torch.from_numpy(task.cohort.batch(task.train[:1])).to(task.device)
        with kept(task.network, self.method.block) as outputs, torch.inference_mode():
            task.network.eval()(images)
        if len(outputs) != 1:
            raise ValueError(f"block '{self.method.block}' is called {len(outputs)} times in a pass, expected 1")
        shape, classes = tuple(outputs[0].shape[1:]), len(task.cohort.schema.targets[task.target])
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(task.seed)
            self.modules["heads"] = nn.ModuleList(
                BiasHead(self.method.head, shape, len(values), classes if self.conditional else 0)
                for values in self.values.values())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network, and the bias predictors with their own rate."""
        return [*super().parameter_groups(),
                {"params": list(self.modules["heads"].parameters()), "rate": self.method.rate}]

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass through the network: the target loss, and the block's features."""
        with self.task.precision(), kept(self.task.network, self.method.block) as outputs:
            loss = nn.functional.cross_entropy(self.task.network(images).float(), labels)
        return loss, outputs[0]

    def read(self, features: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        """Scores of every bias predictor, in fp32."""
        with self.task.precision():
            return [head(features, labels).float() for head in self.modules["heads"]]

    def biases(self, rows: np.ndarray) -> list[torch.Tensor]:
        """Bias labels of rows, one tensor (n,) for every bias, on the device."""
        return [codes[rows].to(self.task.device) for codes in self.codes.values()]

    def report(self, loss: torch.Tensor, scores: list[torch.Tensor], biases: list[torch.Tensor],
               **more: torch.Tensor) -> dict[str, float]:
        """What is noted of a batch: losses, and each bias predictor's accuracy before it learns from the batch."""
        found = {"train_loss": loss, **more}
        for name, score, bias in zip(self.names, scores, biases, strict=True):
            found[f"{name}_accuracy"] = (score.argmax(1) == bias).float().mean()
        return dict(zip(found, torch.stack([value.detach() for value in found.values()]).tolist(), strict=True))


def bias_loss(scores: list[torch.Tensor], biases: list[torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of the bias predictors, summed over them."""
    return sum(nn.functional.cross_entropy(score, bias) for score, bias in zip(scores, biases, strict=True))
