"""One loop that fits a network, and one function that reads its answers."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from . import environment
from .batches import computing, in_batches, layout, read, resolved, scores, seeded, shifted
from .checkpoint import State
from .checkpoint import load as load
from .cohort import Cohort


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs : int
        At most this many passes over the training split.
    batch_size : int
        Images per step, at least 2.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls along half a cosine over ``epochs``. (Stanley et al. 2025: Adam, 1e-4.)
    patience : int
        Stop after this many epochs without a lower validation loss (Stanley et al. 2025: 15). With batch norm the
        validation loss jumps while the rate is high: too little patience stops before it settles.
    shift : int
        Each training image is moved by up to this many pixels along every axis, at random, edges repeated; 0 for not.
    precision : {'auto', 'fp32', 'bf16'}
        ``auto``: bf16 where the device has it natively, see :func:`bias_tutorial.environment.precision`.
    """

    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    patience: int = 10
    shift: int = 2
    precision: str = "auto"

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 2), ("patience", 1)):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= least):
                raise ValueError(f"{name} must be a whole number of at least {least}, got {getattr(self, name)!r}")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError("learning_rate must be above 0 and weight_decay at least 0, "
                             f"got {self.learning_rate} and {self.weight_decay}")
        if not (isinstance(self.shift, int) and self.shift >= 0):
            raise ValueError(f"shift must be a whole number of pixels of at least 0, got {self.shift!r}")
        resolved(self.precision, "cpu")  # refuses an unknown one


def fit(network: nn.Module, cohort: Cohort, target: str = "disease", recipe: Recipe | None = None, seed: int = 0,
        device: str | None = None, checkpoint: str | os.PathLike | None = None, progress: bool = True,
        step: Step | None = None) -> pd.DataFrame:
    """Train a network in place; afterwards it has the weights of its best epoch.

    Parameters
    ----------
    network : torch.nn.Module
        Gives one score per value of the target, shape ``(n, values)``.
    cohort : Cohort
        Its train split teaches, its validation split says when to stop; the test split is not looked at. Rows whose
        target is missing are left out.
    target : str
        A target of ``cohort.schema``.
    recipe : Recipe, optional
        The defaults when left out.
    seed : int
        Of the order of the images and of dropout.
    device : str, optional
        ``cpu``, ``cuda``, ``mps``; the fastest here when left out.
    checkpoint : path-like, optional
        File written after every epoch, in one piece. If it exists, training goes on from there and ends exactly as if
        it had never stopped.
    progress : bool
        Show a bar.
    step : Step, optional
        What is done with a batch; plain training when left out. Methods against bias bring their own, see
        :mod:`bias_tutorial.mitigation`.

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``best`` (whether it was the best so far),
        then what else the step reports, as means over its batches.

    Raises
    ------
    ValueError
        Unknown target, a class without a row in either split, a group without one in training, a network with another
        number of scores, a checkpoint of another network, recipe, seed, step or cohort, or a damaged one; a step whose
        modules the optimizer does not hold.
    FloatingPointError
        When the loss is not finite; the message names epoch and images.
    """
    recipe, device = recipe or Recipe(), device or environment.device()
    train, validation = (_rows(cohort, target, split) for split in ("train", "validation"))
    _check_scores(scores(network, cohort, train[:1], recipe.precision, device), cohort, target)
    task = Task(network, cohort, target, recipe, seed, device, train, validation, _labels(cohort, target))
    return run(task, step or Step(), checkpoint, progress)


@dataclass(frozen=True)
class Task:
    """What is to be trained, for the step: row numbers of both splits, and labels as places (n,).

    ``target`` and ``labels`` are None where the step brings its own, as for many findings, or needs none, as an
    autoencoder.
    """

    network: nn.Module
    cohort: Cohort
    target: str | None
    recipe: Recipe
    seed: int
    device: str
    train: np.ndarray
    validation: np.ndarray
    labels: torch.Tensor | None = None

    def precision(self):
        """Context in which networks compute in the recipe's precision."""
        return computing(self.recipe.precision, self.device)


def run(task: Task, step: Step, checkpoint: str | os.PathLike | None = None, progress: bool = True) -> pd.DataFrame:
    """The loop itself, for any task: :func:`fit` without its checks of a target with classes.

    Parameters
    ----------
    task : Task
        What is to be trained.
    step : Step
        What is done with a batch, and how an epoch is judged.
    checkpoint, progress
        As for :func:`fit`.

    Returns
    -------
    pandas.DataFrame
        As from :func:`fit`.

    Raises
    ------
    ValueError
        For a checkpoint of another run, or a damaged one; a step whose modules the optimizer does not hold.
    FloatingPointError
        When the loss is not finite; the message names epoch and images.
    """
    network, cohort, recipe = task.network, task.cohort, task.recipe
    network.to(task.device, memory_format=layout(cohort))
    step.start(task)
    step.modules.to(task.device, memory_format=layout(cohort))
    optimizer = torch.optim.AdamW(step.parameter_groups(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    _check_stepped(optimizer, network, step.modules)
    state = State(network, step.modules, optimizer, {} if checkpoint is None else _owner(task, step), checkpoint)
    state.resume(task.device)
    bar = tqdm(total=recipe.epochs, initial=len(state.history), desc="epochs", disable=not progress)
    while len(state.history) < recipe.epochs and state.patience_used() < recipe.patience:
        epoch = len(state.history) + 1
        network.train()
        step.modules.train()
        reports = []
        for group in optimizer.param_groups:  # half a cosine, from the full rate to nearly nothing
            rate = recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.epochs)) / 2
            group["lr"] = group.get("rate", 1.0) * rate
        with seeded(task.seed, epoch) as rng:
            for batch in step.batches(rng, epoch):
                reports.append(step(step.images(batch, rng), batch, optimizer))
                for value in reports[-1].values():
                    _finite(value, epoch, cohort, step.rows(batch))
        found = step.validate()
        for value in found.values():
            _finite(value, epoch, cohort, task.validation)
        means = {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}
        state.end_epoch(means | found, found["validation_loss"], step.counts(epoch))
        bar.update()
        bar.set_postfix(validation_loss=f"{found['validation_loss']:.3f}")
    bar.close()
    network.load_state_dict(state.best[0])
    step.modules.load_state_dict(state.best[1])
    return pd.DataFrame(state.history)


class Step:
    """What :func:`fit` does with a batch. As it stands: plain training, a step of AdamW on the cross-entropy.

    A method against bias overrides what it does otherwise. One optimizer moves everything, and it moves only what
    has a gradient: so a step may take several turns, each with the gradients of the parts that are to move.

    Attributes
    ----------
    modules : torch.nn.ModuleDict
        Parts that are trained beside the network, such as an adversary; kept in the checkpoint. Made in :meth:`start`;
        after training they have the weights of the network's best epoch.
    owner : str, optional
        What a checkpoint must agree in besides; set in :meth:`start`.
    """

    owner: str | None = None

    def __init__(self):
        self.modules = nn.ModuleDict()

    def start(self, task: Task) -> None:
        """Make ready for a task; called once, before the optimizer is made."""
        self.task = task

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimizer; ``rate`` of a group multiplies the recipe's learning rate."""
        return [{"params": list(self.task.network.parameters())}]

    def batches(self, rng: np.random.Generator, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch (from 1): row numbers; they are read, and shifted, with the same ``rng``."""
        return in_batches(self.task.train[rng.permutation(len(self.task.train))], self.task.recipe.batch_size)

    def images(self, batch: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Images of a batch as they are trained on, on the device."""
        return shifted(read(self.task.cohort, batch, self.task.device), self.task.recipe.shift, rng)

    def rows(self, batch: np.ndarray) -> np.ndarray:
        """Row numbers of a batch, where :meth:`batches` gives something else."""
        return batch

    def __call__(self, images: torch.Tensor, rows: np.ndarray, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Train on one batch; what is to be noted of it, ``train_loss`` first."""
        loss = self.loss(images, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"train_loss": float(loss.detach())}

    def loss(self, images: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        """What a batch is trained to make small."""
        with self.task.precision():
            return nn.functional.cross_entropy(self.task.network(images).float(), self.labels(batch))

    def labels(self, rows: np.ndarray) -> torch.Tensor:
        """Places of the rows' target values, on the device."""
        return self.task.labels[rows].to(self.task.device)

    def validate(self) -> dict[str, float]:
        """Judge an epoch: ``validation_loss``, and what else is to be noted once an epoch."""
        task = self.task
        found = scores(task.network, task.cohort, task.validation, task.recipe.precision, task.device)
        return {"validation_loss": self.validation_loss(found)}

    def validation_loss(self, scores: torch.Tensor) -> float:
        """The number whose lowest value says which epoch is best, from the scores of the validation rows in order."""
        return float(nn.functional.cross_entropy(scores, self.task.labels[self.task.validation]))

    def counts(self, epoch: int) -> bool:
        """Whether an epoch (from 1) may be the best one."""
        return True


def predict(network: nn.Module, cohort: Cohort, device: str | None = None, precision: str = "auto",
            batch_size: int = 256) -> np.ndarray:
    """Probability of each value of the target for every row of a cohort, shape ``(n, values)``."""
    return scores(network, cohort, np.arange(len(cohort)), precision, device, batch_size).softmax(1).numpy()


# ---------------------------------------------------------------------- what the loop is made of
def _rows(cohort: Cohort, target: str, split: str) -> np.ndarray:
    """Rows of a split whose target is known; refuses a class that has none, and in training a group."""
    table, schema = cohort.table, cohort.schema
    if target not in schema.targets:
        raise ValueError(f"the cohort has no target '{target}', expected one of {', '.join(schema.targets)}")
    inside = (table["split"] == split) & table[target].notna()
    # A group that is not there to validate on, as where only training images are marked, moves nothing.
    groups = schema.attributes if split == "train" else {}
    for column, values in {target: schema.targets[target], **groups}.items():
        missing = [v for v in values if not (table.loc[inside, column] == v).any()]
        if missing:
            raise ValueError(f"split '{split}': no row has {column} = {missing[0]!r}; every class and every group "
                             "needs rows in training, every class in validation too, or must be taken out of the "
                             "schema")
    return np.flatnonzero(inside)


def _labels(cohort: Cohort, target: str) -> torch.Tensor:
    """Place of each row's value among the target's values; -100, which the loss refuses, where it is missing."""
    places = {value: k for k, value in enumerate(cohort.schema.targets[target])}
    return torch.tensor([places.get(value, -100) for value in cohort.table[target]])


def _check_scores(scores: torch.Tensor, cohort: Cohort, target: str) -> None:
    """Refuse a network whose last layer does not fit the target."""
    values = cohort.schema.targets[target]
    if scores.shape[1:] != (len(values),):
        raise ValueError(f"the network gives scores of shape {tuple(scores.shape[1:])} an image, expected "
                         f"({len(values)},): one for each value of '{target}', {list(values)}")


def _check_stepped(optimizer: torch.optim.Optimizer, network: nn.Module, modules: nn.ModuleDict) -> None:
    """Refuse modules that the optimizer would leave as they are (torch itself refuses what stands in it twice)."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, part in (("network", network), *modules.items()):
        for inner, value in part.named_parameters():
            if id(value) not in held:
                raise ValueError(f"'{inner}' of module '{name}' is missing from the optimizer, so it would never be "
                                 "trained; parameter_groups of the step must name every parameter once")


def _finite(loss: float, epoch: int, cohort: Cohort, rows: np.ndarray) -> float:
    if not math.isfinite(loss):
        names = ", ".join(map(str, cohort.table["image_id"].iloc[rows[:3]]))
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch}, in the batch of {len(rows)} images that "
                                 f"begins with {names}; a smaller learning_rate may help")
    return loss


def _owner(task: Task, step: Step) -> dict[str, Any]:
    """What a checkpoint must agree in before training goes on from it."""
    network, cohort = task.network, task.cohort
    layers = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    columns = ["image_id", "split", *([task.target] if task.target else [])]
    subjects = cohort.table[columns].astype(str).to_csv(index=False)
    # Simulated cohorts of one seed share names and labels whatever their bias, so some pixels count as well.
    some = cohort.batch(np.flatnonzero(cohort.table["split"] == "train")[:16])
    pixels = cohort.images.shape, hashlib.sha256(some).hexdigest()
    return {"network": _digest((layers, repr(network))), "cohort": _digest((subjects, pixels)), "target": task.target,
            "seed": task.seed, **asdict(task.recipe), "precision": resolved(task.recipe.precision, task.device),
            "step": step.owner}


def _digest(value: Any) -> str:
    """First 12 characters of the SHA-256 of a value's text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
