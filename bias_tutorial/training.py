"""One loop that fits a network, and one function that reads its answers."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from . import environment
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
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision must be auto, fp32 or bf16, got '{self.precision}'")


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
    recipe, device, step = recipe or Recipe(), device or environment.device(), step or Step()
    train, validation = (_rows(cohort, target, split) for split in ("train", "validation"))
    network.to(device, memory_format=_layout(cohort))
    _check_scores(_scores(network, cohort, train[:1], recipe, device), cohort, target)
    step.start(Task(network, cohort, target, recipe, seed, device, train, validation, _labels(cohort, target)))
    step.modules.to(device, memory_format=_layout(cohort))
    optimizer = torch.optim.AdamW(step.parameter_groups(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    _check_stepped(optimizer, network, step.modules)
    owner = {} if checkpoint is None else _owner(network, cohort, target, recipe, seed, device) | {"step": step.owner}
    state = State(network, step.modules, optimizer, owner, checkpoint)
    state.resume(device)
    bar = tqdm(total=recipe.epochs, initial=len(state.history), desc="epochs", disable=not progress)
    while len(state.history) < recipe.epochs and state.patience_used() < recipe.patience:
        epoch = len(state.history) + 1
        network.train()
        step.modules.train()
        reports = []
        for group in optimizer.param_groups:  # half a cosine, from the full rate to nearly nothing
            rate = recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.epochs)) / 2
            group["lr"] = group.get("rate", 1.0) * rate
        with _seeded(seed, epoch) as rng:
            for rows in step.batches(rng, epoch):
                images = shifted(_images(cohort, rows, device), recipe.shift, rng)
                reports.append(step(images, rows, optimizer))
                for value in reports[-1].values():
                    _finite(value, epoch, cohort, rows)
        scores = _scores(network, cohort, validation, recipe, device)
        validation_loss = _finite(step.validation_loss(scores), epoch, cohort, validation)
        means = {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}
        state.end_epoch(means, validation_loss, step.counts(epoch))
        bar.update()
        bar.set_postfix(validation_loss=f"{validation_loss:.3f}")
    bar.close()
    network.load_state_dict(state.best[0])
    step.modules.load_state_dict(state.best[1])
    return pd.DataFrame(state.history)


@dataclass(frozen=True)
class Task:
    """What :func:`fit` was asked to do, for the step: row numbers of both splits, and labels as places (n,)."""

    network: nn.Module
    cohort: Cohort
    target: str
    recipe: Recipe
    seed: int
    device: str
    train: np.ndarray
    validation: np.ndarray
    labels: torch.Tensor

    def precision(self):
        """Context in which networks compute in the recipe's precision."""
        return _precision(self.recipe, self.device)


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
        """Row numbers of each batch of an epoch (from 1); they are read, and shifted, with the same ``rng``."""
        return _batches(self.task.train[rng.permutation(len(self.task.train))], self.task.recipe.batch_size)

    def __call__(self, images: torch.Tensor, rows: np.ndarray, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Train on one batch; what is to be noted of it, ``train_loss`` first."""
        with self.task.precision():
            loss = nn.functional.cross_entropy(self.task.network(images).float(), self.labels(rows))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"train_loss": float(loss.detach())}

    def labels(self, rows: np.ndarray) -> torch.Tensor:
        """Places of the rows' target values, on the device."""
        return self.task.labels[rows].to(self.task.device)

    def validation_loss(self, scores: torch.Tensor) -> float:
        """The number whose lowest value says which epoch is best, from the scores of the validation rows in order."""
        return float(nn.functional.cross_entropy(scores, self.task.labels[self.task.validation]))

    def counts(self, epoch: int) -> bool:
        """Whether an epoch (from 1) may be the best one."""
        return True


def predict(network: nn.Module, cohort: Cohort, device: str | None = None, precision: str = "auto",
            batch_size: int = 256) -> np.ndarray:
    """Probability of each value of the target for every row of a cohort, shape ``(n, values)``."""
    recipe, device = Recipe(precision=precision), device or environment.device()
    network.to(device, memory_format=_layout(cohort))
    scores = _scores(network, cohort, np.arange(len(cohort)), recipe, device, batch_size)
    return scores.softmax(1).numpy()


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


def _batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches of nearly equal size, at most ``size``: none is left with a single image, which batch norm refuses."""
    if size == 2 and len(order) > 1:  # an odd number in pairs: one batch of three
        return np.array_split(order, len(order) // 2)
    return np.array_split(order, math.ceil(len(order) / size))


def _layout(cohort: Cohort) -> torch.memory_format:
    """Channels last: the order in which convolutions are fastest."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return layouts.get(len(cohort.images.shape), torch.contiguous_format)


def _images(cohort: Cohort, rows: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(cohort.batch(rows)).to(device).contiguous(memory_format=_layout(cohort))


def shifted(images: torch.Tensor, most: int, rng: np.random.Generator) -> torch.Tensor:
    """Move each image by up to ``most`` pixels along every axis, edges repeated; features have no axes to move along.

    Parameters
    ----------
    images : torch.Tensor, shape (n, channels, *shape)
        Left as they are.
    most : int
        At least 0.
    rng : numpy.random.Generator
        Draws the moves, whole pixels, uniformly.
    """
    shape = images.shape[2:]
    if most == 0 or not shape:
        return images
    padded = nn.functional.pad(images, [most] * (2 * len(shape)), mode="replicate")
    moved = torch.empty_like(images)
    corners = rng.integers(0, 2 * most + 1, (len(images), len(shape)))
    for image, source, corner in zip(moved, padded, corners, strict=True):
        image.copy_(source[(slice(None), *(slice(c, c + size) for c, size in zip(corner, shape, strict=True)))])
    return moved


def _check_stepped(optimizer: torch.optim.Optimizer, network: nn.Module, modules: nn.ModuleDict) -> None:
    """Refuse modules that the optimizer would leave as they are (torch itself refuses what stands in it twice)."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, part in (("network", network), *modules.items()):
        for inner, value in part.named_parameters():
            if id(value) not in held:
                raise ValueError(f"'{inner}' of module '{name}' is missing from the optimizer, so it would never be "
                                 "trained; parameter_groups of the step must name every parameter once")


def _precision(recipe: Recipe, device: str):
    """Context in which the network computes in the recipe's precision."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=_resolved(recipe, device) == "bf16")


def _resolved(recipe: Recipe, device: str) -> str:
    where = torch.device(device).type
    return environment.precision(where)[0] if recipe.precision == "auto" else recipe.precision


@contextmanager
def _seeded(seed: int, epoch: int) -> Iterator[np.random.Generator]:
    """Random numbers that depend on seed and epoch alone, so that an epoch is the same after a resume."""
    rng = np.random.default_rng([seed, epoch])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # manual_seed sets those of every card
        torch.manual_seed(int(rng.integers(2**62)))
        yield rng


@torch.inference_mode()
def _scores(network, cohort, rows, recipe, device, batch_size: int = 256) -> torch.Tensor:
    network.eval()
    with _precision(recipe, device):
        return torch.cat([network(_images(cohort, part, device), *_told(network, cohort, part, device)).float().cpu()
                          for part in _batches(rows, batch_size)])


def _told(network: nn.Module, cohort: Cohort, rows: np.ndarray, device: str) -> tuple[torch.Tensor, ...]:
    """What a network wants to know of a row besides its image: nothing, but where it has a method ``told``."""
    return (network.told(cohort.table.iloc[rows]).to(device),) if hasattr(network, "told") else ()


def _finite(loss: float, epoch: int, cohort: Cohort, rows: np.ndarray) -> float:
    if not math.isfinite(loss):
        names = ", ".join(map(str, cohort.table["image_id"].iloc[rows[:3]]))
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch}, in the batch of {len(rows)} images that "
                                 f"begins with {names}; a smaller learning_rate may help")
    return loss


def _owner(network, cohort: Cohort, target: str, recipe: Recipe, seed: int, device: str) -> dict[str, Any]:
    """What a checkpoint must agree in before training goes on from it."""
    layers = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    subjects = cohort.table[["image_id", "split", target]].astype(str).to_csv(index=False)
    # Simulated cohorts of one seed share names and labels whatever their bias, so some pixels count as well.
    some = cohort.batch(np.flatnonzero(cohort.table["split"] == "train")[:16])
    pixels = cohort.images.shape, hashlib.sha256(some).hexdigest()
    return {"network": _digest((layers, repr(network))), "cohort": _digest((subjects, pixels)), "target": target,
            "seed": seed, **asdict(recipe), "precision": _resolved(recipe, device)}


def _digest(value: Any) -> str:
    """First 12 characters of the SHA-256 of a value's text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
