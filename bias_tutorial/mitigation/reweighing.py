"""Reweighing: weights under which class and bias are independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..training import Task
from .method import BiasStep, Method, check_cells


def weights(classes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Weight of each row, P(class) P(group) / P(class, group): under them class and group are independent.

    The shares of classes and of groups stay as they are, and the mean weight is 1 when every class has every group.

    Parameters
    ----------
    classes, groups : numpy.ndarray, shape (n,)
        Any number of values; unequal shares are taken into account.

    Returns
    -------
    numpy.ndarray, shape (n,)

    References
    ----------
    Kamiran and Calders, Data preprocessing techniques for classification without discrimination, Knowledge and
    Information Systems 2012, section 5.2.
    """
    _, y, of_class = np.unique(classes, return_inverse=True, return_counts=True)
    _, a, of_group = np.unique(groups, return_inverse=True, return_counts=True)
    together = np.zeros((len(of_class), len(of_group)))
    np.add.at(together, (y, a), 1)
    return of_class[y] * of_group[a] / (len(y) * together[y, a])


class _Step(BiasStep):
    def start(self, task: Task) -> None:
        super().start(task)
        classes = task.labels[task.train].numpy()
        check_cells(classes, task, self.names)
        self.weights = torch.zeros(len(task.cohort))
        self.weights[task.train] = torch.from_numpy(weights(classes, self.groups[task.train])).float()

    def __call__(self, images: torch.Tensor, rows: np.ndarray, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        with self.task.precision():
            scores = self.task.network(images).float()
            losses = nn.functional.cross_entropy(scores, self.labels(rows), reduction="none")
            loss = (losses * self.weights[rows].to(losses.device)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"train_loss": float(loss.detach())}


@dataclass(frozen=True)
class Reweighing(Method):
    """Plain training with a weight for each image under which class and bias are independent; see :func:`weights`.

    With several biases, their combinations are the groups. A class without a row in a group that another class has is
    refused: no weight makes up for it. The best epoch is chosen by groups unless stated otherwise.
    """

    select: str = "groups"
    step_class = _Step
