"""Balanced batches: as many images of each class and bias group in every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..training import Task
from .method import BiasStep, Method, check_cells


class _Step(BiasStep):
    def start(self, task: Task) -> None:
        super().start(task)
        classes = task.labels[task.train].numpy()
        check_cells(classes, task, self.names)
        cells = np.unique(np.column_stack([classes, self.groups[task.train]]), axis=0, return_inverse=True)[1].ravel()
        self.cells = [task.train[cells == cell] for cell in range(cells.max() + 1)]
        if task.recipe.batch_size < len(self.cells):
            raise ValueError(f"batch_size is {task.recipe.batch_size}, expected at least {len(self.cells)}: one image "
                             "of every class in every bias group")

    def batches(self, rng: np.random.Generator, epoch: int) -> list[np.ndarray]:
        each = self.task.recipe.batch_size // len(self.cells)
        count = max(1, round(len(self.task.train) / (each * len(self.cells))))
        drawn = []
        for rows in self.cells:
            turns = -(-count * each // len(rows))
            order = np.concatenate([rng.permutation(rows) for _ in range(turns)])
            drawn.append(order[:count * each].reshape(count, each))
        return list(np.concatenate(drawn, axis=1))


@dataclass(frozen=True)
class BalancedBatches(Method):
    """Plain training on batches with the same number of images of every class in every bias group.

    An epoch has about as many images as the training split. Each cell is gone through in a new random order, again
    from the start when it is used up: images of small cells come several times, some of large cells not in every
    epoch. A batch holds as many images a cell as fit into ``batch_size``, so up to one per cell less. Classes that are
    unequal become equal too, which moves the predicted probabilities. A class without a row in a group that another
    class has is refused. The best epoch is chosen by groups unless stated otherwise.
    """

    select: str = "groups"
    step_class = _Step
