"""Adversarial unlearning with a confusion loss, in three turns a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .adversary import AdversarialMethod, AdversaryStep, at_least_0, bias_loss


def confusion(scores: list[torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of the bias predictors' outputs against equal odds, mean over images, summed over predictors."""
    return sum(-score.log_softmax(1).mean() for score in scores)


class _Step(AdversaryStep):
    def __call__(self, images: torch.Tensor, rows: np.ndarray, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        labels, biases, heads = self.labels(rows), self.biases(rows), self.modules["heads"]
        loss, features = self.forward(images, labels)
        _turn(optimizer, loss)
        scores = self.read(features.detach(), labels)
        of_bias = bias_loss(scores, biases)
        _turn(optimizer, of_bias)
        _, features = self.forward(images, labels)
        seen = features.detach().requires_grad_()
        heads.eval()
        confused = confusion(self.read(seen, labels))
        heads.train()
        optimizer.zero_grad(set_to_none=True)
        features.backward(self.method.weight * torch.autograd.grad(confused, seen)[0])
        optimizer.step()
        return self.report(loss, scores, biases, bias_loss=of_bias, confusion=confused)


@dataclass(frozen=True)
class AdversarialUnlearning(AdversarialMethod):
    """Train features that leave a bias predictor at equal odds, in three turns on every batch.

    First features and classifier step on the target loss; then the bias predictor steps on its own, reading the
    features of that pass; then the features alone step on ``weight`` times the confusion loss, after a new pass, with
    the predictor as it now is, in evaluation mode. The features' two turns share the optimizer's moments.

    Parameters
    ----------
    weight : float
        Of the confusion loss; the published code has 1.
    block, head, rate, select
        As for every method with an adversary. Published: all that comes before the last layer, a linear head.

    Notes
    -----
    The history also holds ``bias_loss``, ``confusion`` and, for each bias, ``<bias>_accuracy`` of the predictor on its
    training batches. Features that are merely small leave the predictor at equal odds too. The published run starts
    from a network trained for disease and a predictor trained for bias, and chooses its epoch by the accuracies of
    both; here train the network first where that is wanted, and the epoch is chosen by ``select``.

    References
    ----------
    Dinsdale et al., Deep learning-based unlearning of dataset bias, NeuroImage 2021; used for SimBA by Stanley et al.,
    JAMIA 2024, github.com/estanley16/SimBA, ``bias_mitigation/unlearning.py``.
    """

    block: str = "pool"
    head: str = "linear"
    weight: float = 1.0
    step_class = _Step

    def __post_init__(self):
        super().__post_init__()
        at_least_0(self, "weight")


def _turn(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of what the loss depends on, and of nothing else."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
