"""Group models: a network for each bias group."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import training
from ..cohort import Cohort, Schema
from ..training import Recipe, Step
from .method import Bias, Method, as_names, bias_values


class ByGroup(nn.Module):
    """A network for each bias group; whoever asks it must say the group of every image.

    :func:`bias_tutorial.training.predict` does so, from the cohort's table.

    Parameters
    ----------
    network : torch.nn.Module
        Copied for every group; kept as ``shared``, what the group models start from.
    values : dict of str to tuple
        Values of each column with bias labels; every combination is a group.
    """

    def __init__(self, network: nn.Module, values: Mapping[str, tuple]):
        super().__init__()
        self.names, self.groups = tuple(values), tuple(product(*values.values()))
        self.shared = network
        self.models = nn.ModuleList(copy.deepcopy(network) for _ in self.groups)

    def told(self, table: pd.DataFrame) -> torch.Tensor:
        """Number of the group of every row of a cohort's table, shape (n,)."""
        places = {group: k for k, group in enumerate(self.groups)}
        found = list(table[list(self.names)].itertuples(index=False, name=None))
        for group in found:
            if group not in places:
                known = " or ".join(name_of(self.names, known) for known in self.groups)
                raise ValueError(f"there is no model for a row with {name_of(self.names, group)}, expected {known}")
        return torch.tensor([places[group] for group in found])

    def forward(self, images: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Scores of images, each from the model of its group ``(n,)``."""
        rows = [(groups == k).nonzero().flatten() for k in range(len(self.models))]
        scores = [model(images[own]) for model, own in zip(self.models, rows, strict=True) if len(own)]
        return torch.cat(scores)[torch.cat(rows).argsort()]


@dataclass(frozen=True)
class GroupModels(Method):
    """A network for each bias group, trained on the rows of that group alone.

    Within a group the bias is the same in all images, so no network needs to see it. But a group keeps its own shares
    of the classes, and its model learns them: at best all models together do what the best user of the shortcut does,
    so the gap between groups may stay. Every prediction needs the image's bias label.

    Parameters
    ----------
    joint : bool
        Train one network on all rows first, as Stanley et al. did (JAMIA 2024), and let each group's start from it.
    select
        Of the joint training; a group's model has its own best epoch, by the target loss of its validation rows.

    References
    ----------
    Puyol-Anton et al., Fairness in cardiac MR image analysis, MICCAI 2021; Stanley et al., JAMIA 2024.
    """

    joint: bool = True

    def wrap(self, network: nn.Module, cohort: Cohort, bias: Bias = ()) -> ByGroup:
        """The networks of all groups, each beginning as a copy of the given one."""
        return ByGroup(network, {name: bias_values(cohort, name) for name in as_names(bias)})

    def fit(self, network: nn.Module, cohort: Cohort, target: str = "disease", bias: Bias = (),
            recipe: Recipe | None = None, seed: int = 0, device: str | None = None,
            checkpoint: str | os.PathLike | None = None, progress: bool = True,
            step: Step | None = None) -> pd.DataFrame:
        """As :meth:`Method.fit`, for a network from :meth:`wrap`; ``model`` in the history says whose epoch it is.

        ``step`` is that of the joint training; the groups' models are trained plainly.
        Each model has a checkpoint of its own beside the given path. Bias attributes that do not vary within a group
        are no concern of its model; a class without rows in a group is refused, and the group named.
        """
        names = as_names(bias)
        if not isinstance(network, ByGroup) or network.names != names:
            raise ValueError(f"GroupModels trains a network from its wrap(network, cohort, bias) for the same bias "
                             f"{names}, got {type(network).__name__}")
        histories = []
        if self.joint:
            histories.append(training.fit(network.shared, cohort, target, recipe, seed, device,
                                          _beside(checkpoint, "all"), progress, step or self.step(names)))
            histories[0].insert(0, "model", "all")
        of_rows = list(cohort.table[list(names)].itertuples(index=False, name=None))
        for group, model in zip(network.groups, network.models, strict=True):
            called = name_of(names, group)
            rows = np.array([own == group for own in of_rows])
            if not rows.any():
                raise ValueError(f"no row has {called}: there is nothing to train its model on")
            targets = {target: cohort.schema.targets[target]}
            own = replace(cohort.subset(rows), schema=Schema(targets))
            model.load_state_dict(network.shared.state_dict())
            try:
                history = training.fit(model, own, target, recipe, seed, device, _beside(checkpoint, called), progress)
            except ValueError as error:
                raise ValueError(f"the model of {called}: {error}") from None
            history.insert(0, "model", called)
            histories.append(history)
        return pd.concat(histories, ignore_index=True)


def name_of(names: tuple[str, ...], group: tuple) -> str:
    """A group in words, ``'sex=F, scanner=B'``."""
    return ", ".join(f"{name}={value}" for name, value in zip(names, group, strict=True))


def _beside(checkpoint: str | os.PathLike | None, which: str) -> Path | None:
    """Path of one model's checkpoint: the given one with the model's name before its ending."""
    if checkpoint is None:
        return None
    path, safe = Path(checkpoint), "".join(c if c.isalnum() or c in "=-" else "_" for c in which)
    return path.with_name(f"{path.stem}.{safe}{path.suffix}")
