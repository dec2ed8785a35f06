"""What training keeps of itself in a file, to go on from after any interruption."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import atomic


class State:
    """What a checkpoint holds: weights, the best weights, the optimizer, the history, and whose they are.

    Weights are those of the network and those of the modules that are trained beside it, in this order.
    """

    def __init__(self, network: nn.Module, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer,
                 owner: dict[str, Any], path: str | os.PathLike | None):
        self.network, self.modules, self.optimizer, self.owner = network, modules, optimizer, owner
        self.path = None if path is None else Path(path)
        self.history: list[dict[str, Any]] = []
        self.best = copy.deepcopy((network.state_dict(), modules.state_dict()))

    def patience_used(self) -> int:
        """Epochs since the best one."""
        return next((k for k, row in enumerate(reversed(self.history)) if row["best"]), 0)

    def end_epoch(self, means: dict[str, float], validation_loss: float, counts: bool) -> None:
        """Note an epoch, keep its weights if it counts and they are the best, write the checkpoint."""
        best = counts and all(validation_loss < row["validation_loss"] for row in self.history if row["best"])
        self.history.append({"epoch": len(self.history) + 1, "train_loss": means["train_loss"],
                             "validation_loss": validation_loss, "best": best} | means)
        if best:
            self.best = copy.deepcopy((self.network.state_dict(), self.modules.state_dict()))
        if self.path is None:
            return
        write(self.path, {"owner": self.owner, "network": self.network.state_dict(), "best": self.best[0],
                          "modules": self.modules.state_dict(), "best_modules": self.best[1],
                          "optimizer": self.optimizer.state_dict(), "history": self.history})

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
        self.modules.load_state_dict(found["modules"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.best, self.history = (found["best"], found["best_modules"]), found["history"]


def load(path: str | os.PathLike, device: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; ``load(path)['best']`` are the weights of its best epoch.

    Raises
    ------
    ValueError
        When the file is damaged or no checkpoint of :func:`bias_tutorial.training.fit`.
    """
    parts = ("owner", "network", "best", "modules", "best_modules", "optimizer", "history")
    return read(path, parts, "checkpoint of bias_tutorial.training.fit", device)


def write(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write weights and plain values to a file, in one piece."""
    with atomic(path) as file:
        torch.save(content, file)


def read(path: str | os.PathLike, parts: Sequence[str], what: str, device: str = "cpu") -> dict[str, Any]:
    """Read what :func:`write` wrote; runs no code from the file.

    Raises
    ------
    ValueError
        When the file is damaged, or lacks a part of what it should be.
    """
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged archive may fail anywhere in torch, zipfile or pickle
        raise ValueError(f"checkpoint '{path}' cannot be read ({type(error).__name__}); it is damaged or none. "
                         "Delete it to start anew") from None
    if not isinstance(found, dict) or not set(parts) <= set(found):
        raise ValueError(f"'{path}' is no {what}")
    return found
