"""The calling form that all methods against bias share, and what they know of bias labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..cohort import Cohort
from ..training import Recipe, Step, Task, fit

Bias = str | Sequence[str]
"""Names of one or several columns of the table that say which bias an image carries."""


class BiasStep(Step):
    """Plain training that knows bias labels, and chooses its epoch as the method says; what other steps build on.

    Attributes
    ----------
    names : tuple of str
        Columns with bias labels.
    codes : dict of str to torch.Tensor
        Per name, the place of every row's value among ``values[name]``; -100 where it is missing.
    groups : numpy.ndarray, shape (n,)
        Number of every row's combination of bias labels.
    """

    def __init__(self, method: Method, names: tuple[str, ...]):
        super().__init__()
        self.method, self.names = method, names

    def start(self, task: Task) -> None:
        """Read the bias labels; refuses those that are missing or constant."""
        super().start(task)
        needed = {"train": task.train}
        if self.method.select == "groups":
            needed["validation"] = task.validation
        self.values = {name: bias_values(task.cohort, name) for name in self.names}
        self.codes = {}
        for name, values in self.values.items():
            column = task.cohort.table[name]
            for split, rows in needed.items():
                check_labels(column.iloc[rows], split)
            places = {value: k for k, value in enumerate(values)}
            self.codes[name] = torch.tensor([places.get(value, -100) for value in column])
        self.groups = np.zeros(len(task.cohort), dtype=int)
        for name, codes in self.codes.items():
            self.groups = self.groups * (len(self.values[name]) + 1) + codes.clamp(min=-1).numpy() + 1
        labels = task.cohort.table[list(self.names)].to_csv(index=False)
        self.owner = f"{self.method!r}, {self.names}, {hashlib.sha256(labels.encode()).hexdigest()[:12]}"

    def validation_loss(self, scores: torch.Tensor) -> float:
        """The target loss of the validation rows, over all or over groups, see :class:`Method`."""
        if self.method.select != "groups":
            return super().validation_loss(scores)
        rows, labels = self.task.validation, self.task.labels[self.task.validation]
        table = pd.DataFrame({"loss": nn.functional.cross_entropy(scores, labels, reduction="none").numpy(),
                              "class": labels.numpy(), "group": self.groups[rows]})
        of_class = table.groupby(["class", "group"])["loss"].mean().groupby("class").mean()
        return float((of_class * table["class"].value_counts(normalize=True)).sum())

    def counts(self, epoch: int) -> bool:
        """Whether an epoch may be the best one."""
        return self.method.select != "last" or epoch == self.task.recipe.epochs


@dataclass(frozen=True)
class Method:
    """A way to train a network, with its settings; the same calls for every method.

    ``network = method.wrap(network, cohort, bias)``, then ``method.fit(network, cohort, target, bias)``, then
    :func:`bias_tutorial.training.predict`.

    Parameters
    ----------
    select : {'loss', 'groups', 'last'}
        By what the best epoch is chosen. ``loss``: the target loss of the validation split; where it is biased as the
        training split is, this favours epochs that use the bias. ``groups``: the same as if the bias groups were
        equally frequent within each class, from bias labels of the validation split; a group that a class does not
        have is left out. ``last``: nothing is chosen, the last epoch is taken.
    """

    select: str = "loss"
    step_class: ClassVar[type[BiasStep]] = BiasStep
    """What does the work on a batch; a method with work of its own names its own step."""

    def __post_init__(self):
        if self.select not in ("loss", "groups", "last"):
            raise ValueError(f"select must be loss, groups or last, got {self.select!r}")

    def wrap(self, network: nn.Module, cohort: Cohort, bias: Bias = ()) -> nn.Module:
        """The network that this method trains, around the given one; for most methods the given one itself."""
        return network

    def step(self, bias: Bias = ()) -> Step:
        """What is done with a batch, for ``training.fit(..., step=...)``; it keeps the modules of its own."""
        return self.step_class(self, as_names(bias))

    def fit(self, network: nn.Module, cohort: Cohort, target: str = "disease", bias: Bias = (),
            recipe: Recipe | None = None, seed: int = 0, device: str | None = None,
            checkpoint: str | os.PathLike | None = None, progress: bool = True,
            step: Step | None = None) -> pd.DataFrame:
        """Train a network in place; afterwards it has the weights of its best epoch by validation.

        Parameters
        ----------
        network : torch.nn.Module
            From :meth:`wrap`.
        bias : str or sequence of str
            Columns of ``cohort.table`` with the bias labels; :class:`~bias_tutorial.mitigation.Plain` needs none.
            Predictions need them after :class:`~bias_tutorial.mitigation.GroupModels` alone.
        cohort, target, recipe, seed, device, checkpoint, progress
            As for :func:`bias_tutorial.training.fit`.
        step : Step, optional
            From :meth:`step` with the same bias, for a caller who wants to look at its modules afterwards.

        Returns
        -------
        pandas.DataFrame
            As :func:`bias_tutorial.training.fit`, with what the method notes besides.

        Raises
        ------
        ValueError
            As :func:`bias_tutorial.training.fit`; for bias labels that are missing, constant, or not in the table.
        """
        return fit(network, cohort, target, recipe, seed, device, checkpoint, progress, step or self.step(bias))


def as_names(bias: Bias) -> tuple[str, ...]:
    """Names of bias columns as a tuple; refuses none."""
    if names := (bias,) if isinstance(bias, str) else tuple(bias):
        return names
    raise ValueError("this method works with bias labels: name one or several columns of the table, bias=...")


def bias_values(cohort: Cohort, name: str) -> tuple:
    """Values of a column with bias labels: those of the schema, or those that occur, in order."""
    if name not in cohort.table:
        raise ValueError(f"the cohort has no column '{name}' with bias labels; its attributes are "
                         f"{', '.join(cohort.schema.attributes) or 'none'}")
    return cohort.schema.attributes.get(name) or tuple(np.unique(cohort.table[name].dropna()).tolist())


def check_labels(column: pd.Series, split: str) -> None:
    """Refuse bias labels that are missing, or the same in all rows of a split."""
    if missing := column.isna().sum():
        raise ValueError(f"bias '{column.name}' is missing in {missing} of {len(column)} rows of split '{split}'; "
                         "a method that works with bias labels needs them there")
    if split == "train" and column.nunique() == 1:
        raise ValueError(f"bias '{column.name}' is {column.unique().tolist()[0]!r} in all {len(column)} training rows: "
                         "there is nothing to learn not to use")


def check_cells(classes: np.ndarray, task: Task, names: tuple[str, ...]) -> None:
    """Refuse training rows in which a class lacks a bias group that another class has."""
    table, values = task.cohort.table.iloc[task.train], task.cohort.schema.targets[task.target]
    counts = pd.crosstab(classes, [table[name].to_numpy() for name in names])
    for place, group in product(counts.index, counts.columns):
        if counts.loc[place, group] == 0:
            called = zip(names, group if isinstance(group, tuple) else (group,), strict=True)
            raise ValueError(f"no training row has {task.target} = {values[place]!r} and "
                             f"{', '.join(f'{name} = {value!r}' for name, value in called)}: no weight and no drawing "
                             "makes up for a group that is not there")
