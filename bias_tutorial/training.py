"""One loop that fits a network, and one function that reads its answers."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from . import environment
from .cohort import Cohort
from .files import atomic


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
        device: str | None = None, checkpoint: str | os.PathLike | None = None, progress: bool = True) -> pd.DataFrame:
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

    Returns
    -------
    pandas.DataFrame
        One row an epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``best`` (whether it was the best so far).

    Raises
    ------
    ValueError
        Unknown target, a class or a group without a row in a split, a network with another number of scores, a
        checkpoint of another network, recipe, seed or cohort, or a damaged one.
    FloatingPointError
        When the loss is not finite; the message names epoch and images.
    """
    recipe, device = recipe or Recipe(), device or environment.device()
    train, validation = (_rows(cohort, target, split) for split in ("train", "validation"))
    labels = _labels(cohort, target)
    network.to(device, memory_format=_layout(cohort))
    _check_scores(_scores(network, cohort, train[:1], recipe, device), cohort, target)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    owner = {} if checkpoint is None else _owner(network, cohort, target, recipe, seed, device)
    state = _State(network, optimizer, owner, checkpoint)
    state.resume(device)
    bar = tqdm(total=recipe.epochs, initial=len(state.history), desc="epochs", disable=not progress)
    while len(state.history) < recipe.epochs and state.patience_used() < recipe.patience:
        epoch = len(state.history) + 1
        network.train()
        losses = []
        for group in optimizer.param_groups:  # half a cosine, from the full rate to nearly nothing
            group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.epochs)) / 2
        with _seeded(seed, epoch) as rng:
            order = train[rng.permutation(len(train))]
            for rows in _batches(order, recipe.batch_size):
                images = shifted(_images(cohort, rows, device), recipe.shift, rng)
                with _precision(recipe, device):
                    scores = network(images)
                    loss = nn.functional.cross_entropy(scores.float(), labels[rows].to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(_finite(float(loss.detach()), epoch, cohort, rows))
        scores = _scores(network, cohort, validation, recipe, device)
        validation_loss = _finite(float(nn.functional.cross_entropy(scores, labels[validation])), epoch, cohort,
                                  validation)
        state.end_epoch(float(np.mean(losses)), validation_loss)
        bar.update()
        bar.set_postfix(validation_loss=f"{validation_loss:.3f}")
    bar.close()
    network.load_state_dict(state.best)
    return pd.DataFrame(state.history)


def predict(network: nn.Module, cohort: Cohort, device: str | None = None, precision: str = "auto",
            batch_size: int = 256) -> np.ndarray:
    """Probability of each value of the target for every row of a cohort, shape ``(n, values)``."""
    recipe, device = Recipe(precision=precision), device or environment.device()
    network.to(device, memory_format=_layout(cohort))
    scores = _scores(network, cohort, np.arange(len(cohort)), recipe, device, batch_size)
    return scores.softmax(1).numpy()


# ---------------------------------------------------------------------- what the loop is made of
def _rows(cohort: Cohort, target: str, split: str) -> np.ndarray:
    """Rows of a split whose target is known; refuses a class or a group that has none."""
    table, schema = cohort.table, cohort.schema
    if target not in schema.targets:
        raise ValueError(f"the cohort has no target '{target}', expected one of {', '.join(schema.targets)}")
    inside = (table["split"] == split) & table[target].notna()
    for column, values in {target: schema.targets[target], **schema.attributes}.items():
        missing = [v for v in values if not (table.loc[inside, column] == v).any()]
        if missing:
            raise ValueError(f"split '{split}': no row has {column} = {missing[0]!r}; every class and every group "
                             "needs rows there, or must be taken out of the schema")
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
        return torch.cat([network(_images(cohort, part, device)).float().cpu() for part in _batches(rows, batch_size)])


def _finite(loss: float, epoch: int, cohort: Cohort, rows: np.ndarray) -> float:
    if not math.isfinite(loss):
        names = ", ".join(map(str, cohort.table["image_id"].iloc[rows[:3]]))
        raise FloatingPointError(f"the loss became {loss} in epoch {epoch}, in the batch of {len(rows)} images that "
                                 f"begins with {names}; a smaller learning_rate may help")
    return loss


class _State:
    """What a checkpoint holds: weights, the best weights, the optimizer, the history, and whose they are."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, owner: dict[str, Any],
                 path: str | os.PathLike | None):
        self.network, self.optimizer, self.owner = network, optimizer, owner
        self.path = None if path is None else Path(path)
        self.history: list[dict[str, Any]] = []
        self.best = copy.deepcopy(network.state_dict())

    def patience_used(self) -> int:
        """Epochs since the best one."""
        return next((k for k, row in enumerate(reversed(self.history)) if row["best"]), 0)

    def end_epoch(self, train_loss: float, validation_loss: float) -> None:
        """Note an epoch, keep its weights if they are the best, write the checkpoint."""
        best = all(validation_loss < row["validation_loss"] for row in self.history)
        self.history.append({"epoch": len(self.history) + 1, "train_loss": train_loss,
                             "validation_loss": validation_loss, "best": best})
        if best:
            self.best = copy.deepcopy(self.network.state_dict())
        if self.path is None:
            return
        with atomic(self.path) as file:
            torch.save({"owner": self.owner, "network": self.network.state_dict(), "best": self.best,
                        "optimizer": self.optimizer.state_dict(), "history": self.history}, file)

    def resume(self, device: str) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return
        found = load(self.path, device)
        for what, value in self.owner.items():
            if found["owner"].get(what) != value:
                raise ValueError(f"checkpoint '{self.path}' belongs to another {what} ({found['owner'].get(what)}, "
                                 f"here {value}); give another file, or delete it to start anew")
        self.network.load_state_dict(found["network"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.best, self.history = found["best"], found["history"]


def load(path: str | os.PathLike, device: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; ``load(path)['best']`` are the weights of its best epoch.

    Raises
    ------
    ValueError
        When the file is damaged or no checkpoint of :func:`fit`.
    """
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged archive may fail anywhere in torch, zipfile or pickle
        raise ValueError(f"checkpoint '{path}' cannot be read ({type(error).__name__}); it is damaged or none. "
                         "Delete it to start anew") from None
    parts = {"owner", "network", "best", "optimizer", "history"}
    if not isinstance(found, dict) or not parts <= set(found):
        raise ValueError(f"'{path}' is no checkpoint of bias_tutorial.training.fit")
    return found


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
