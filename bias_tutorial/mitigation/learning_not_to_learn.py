"""Learning Not to Learn: features from which a bias predictor, trained along, cannot tell the bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..training import Task
from .adversary import AdversarialMethod, AdversaryStep, at_least_0, bias_loss


def entropy(scores: list[torch.Tensor]) -> torch.Tensor:
    """Entropy of the bias predictors' outputs in nats, mean over images and over predictors."""
    logs = [score.log_softmax(1) for score in scores]
    return torch.stack([-(log.exp() * log).sum(1).mean() for log in logs]).mean()


def learn_not_to_learn(loss: torch.Tensor, features: torch.Tensor,
                       read: Callable[[torch.Tensor], list[torch.Tensor]], heads: list[nn.Parameter],
                       biases: list[torch.Tensor], lambda_: float, mu: float
                       ) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Leave in every ``grad`` what Learning Not to Learn asks for, from one pass through the network.

    The network gets the gradient of ``loss - lambda_ * entropy - mu * bias loss``, the bias predictors that of the
    bias loss alone.

    Parameters
    ----------
    loss : torch.Tensor
        Of the target, over the network's output.
    features : torch.Tensor
        Of the same pass; what the bias predictors read.
    read : callable
        ``read(features)`` gives the scores of every bias predictor.
    heads : list of torch.nn.Parameter
        Parameters of the bias predictors.
    biases : list of torch.Tensor
        True values, for every predictor.
    lambda_, mu : float
        Weights of the entropy and of the reversed gradient.

    Returns
    -------
    list of torch.Tensor, torch.Tensor
        The scores, and the bias loss, summed over the predictors.
    """
    seen = features.detach().requires_grad_()  # here the predictors' gradients end, to be weighed before they go on
    scores = read(seen)
    of_bias = bias_loss(scores, biases)
    *of_heads, of_features = torch.autograd.grad(of_bias, [*heads, seen], retain_graph=lambda_ > 0)
    passed_on = -mu * of_features
    if lambda_ > 0:
        passed_on = passed_on - lambda_ * torch.autograd.grad(entropy(scores), seen)[0]
    torch.autograd.backward([loss, features], [None, passed_on])
    for parameter, gradient in zip(heads, of_heads, strict=True):
        parameter.grad = gradient
    return scores, of_bias


class _Step(AdversaryStep):
    def start(self, task: Task) -> None:
        self.conditional, self.strength = self.method.conditional, 1.0
        if self.method.ramp >= task.recipe.epochs:
            raise ValueError(f"ramp is {self.method.ramp} of {task.recipe.epochs} epochs, expected fewer: no epoch "
                             "would have the full weights")
        super().start(task)

    def batches(self, rng: np.random.Generator, epoch: int) -> list[np.ndarray]:
        self.strength = min(1.0, (epoch - 1) / self.method.ramp) if self.method.ramp else 1.0
        return super().batches(rng, epoch)

    def counts(self, epoch: int) -> bool:
        return epoch > self.method.ramp and super().counts(epoch)

    def __call__(self, images: torch.Tensor, rows: np.ndarray, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        labels, biases = self.labels(rows), self.biases(rows)
        loss, features = self.forward(images, labels)
        optimizer.zero_grad(set_to_none=True)
        scores, of_bias = learn_not_to_learn(loss, features, lambda seen: self.read(seen, labels),
                                             list(self.modules["heads"].parameters()), biases,
                                             self.strength * self.method.lambda_, self.strength * self.method.mu)
        optimizer.step()
        return self.report(loss, scores, biases, bias_loss=of_bias, entropy=entropy(scores))


@dataclass(frozen=True)
class LearningNotToLearn(AdversarialMethod):
    """Train features f and classifier g so that a bias predictor h, which learns along, finds no bias in f.

    f and g descend on the cross-entropy of the target less ``lambda_`` times the entropy of h's output; h descends on
    its own cross-entropy, whose gradient reaches f reversed and multiplied by ``mu``. All of it is taken at the same
    parameters, in one pass through the network, and applied in one step; the published code takes two passes and
    steps f and g in between. ``mu=0`` is the entropy term alone, ``lambda_=0`` the reversal alone (as in DANN), both
    0 plain training beside an adversary that only looks on.

    Parameters
    ----------
    lambda_, mu : float
        Weights of entropy and reversal. The published code has .01 and .1.
    conditional : bool
        Tell h the class, so that what is removed is the bias *given* the class. Without it features are pushed to be
        independent of the bias over the training data as they are; where bias and disease are related there, that
        removes disease too (Zhao and Gordon 2019).
    ramp : int
        Epochs over which ``lambda_`` and ``mu`` rise from 0 in equal steps; 0 for full weights from the start. These
        epochs count neither for the best one nor for patience.
    warm_start : dict of str to torch.Tensor, optional
        Weights that training starts from, for instance those of a network that has learned the bias (as published).
    block, head, rate, select
        As for every method with an adversary. The published head is convolutional, about half-way up the network.

    Notes
    -----
    The history also holds ``bias_loss`` (sum over predictors), ``entropy`` and, for each bias, ``<bias>_accuracy`` of
    h on its training batches. That h fails does not mean that the bias is gone: ask a fresh probe. With several
    biases the losses of their predictors are summed and their entropies averaged, as in the published code. Entropy is
    highest for a uniform output, also where the bias values are not equally frequent, and features that are merely
    small make it high as well. At a bias that the class decides (correlation 1) no method can tell the two apart.

    References
    ----------
    Kim et al., Learning not to learn: training deep neural networks with biased data, CVPR 2019, section 3, and
    github.com/feidfoe/learning-not-to-learn; Ganin et al., Domain-adversarial training of neural networks, JMLR 2016.
    """

    lambda_: float = 0.01
    mu: float = 0.1
    conditional: bool = False
    ramp: int = 0
    warm_start: Mapping[str, torch.Tensor] | None = field(default=None, repr=False, compare=False)
    step_class = _Step

    def __post_init__(self):
        super().__post_init__()
        at_least_0(self, "lambda_", "mu")
        if not (isinstance(self.ramp, int) and self.ramp >= 0):
            raise ValueError(f"ramp must be a whole number of epochs of at least 0, got {self.ramp!r}")

    def fit(self, network: nn.Module, *args: Any, **more: Any) -> pd.DataFrame:
        """As :meth:`Method.fit`, from the weights of ``warm_start`` if there are any."""
        if self.warm_start is not None:
            network.load_state_dict(self.warm_start)
        return super().fit(network, *args, **more)
