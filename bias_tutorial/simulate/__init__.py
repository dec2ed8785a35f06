"""Cohorts whose truth is known, and their counterfactual twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..cohort import Cohort
from ..scenario import Scenario
from . import chest as _chest
from . import tumour as _tumour
from .brain import brain, design, drawn_table, render, schema
from .chest import ChestDesign, chest
from .marks import MARKS
from .tumour import TumourDesign, tumour

__all__ = ["ChestDesign", "TumourDesign", "brain", "chest", "counterfactual", "design", "drawn_table", "remake",
           "render", "schema", "tumour"]


def counterfactual(cohort: Cohort, workers: int = 1, **attributes) -> Cohort:
    """The same subjects with something changed, everything that does not follow from it identical to the last bit.

    Parameters
    ----------
    cohort : Cohort
        Simulated; also after saving, loading, or taking a subset.
    workers : int
        Processes.
    **attributes
        What to change. Brain and tumour cohorts: bias effects off (0) or on (1); a subject given an effect it did not
        carry gets the strength it would have had; a mark is drawn on a lesion of any kind. Chest cohorts: any
        attribute, finding, device or latent to any value it can have; what follows from it (anatomy from sex and age,
        severity from a finding) follows, with the same chance parts.

    Returns
    -------
    Cohort
        Twins in the same order, same ``image_id``, same noise.

    Raises
    ------
    ValueError
        For a cohort that was not simulated, an attribute it does not have, or a value that cannot be.
    """
    _check_simulated(cohort.meta)
    check = _WORLDS[cohort.meta["simulator"]].check
    changes = {name: check(cohort.meta, name, value) for name, value in attributes.items()}
    changes = {**cohort.meta["counterfactual"], **changes}
    return _make({**cohort.meta, "counterfactual": changes}, cohort.table["image_id"], workers)


def remake(meta: dict[str, Any], image_ids=None, workers: int = 1) -> Cohort:
    """Make a simulated cohort again from its ``meta``, bit for bit on the same platform.

    Parameters
    ----------
    meta : dict
        ``Cohort.meta``.
    image_ids : sequence of str, optional
        The images wanted, in order; all if not given.
    workers : int
        Processes.
    """
    _check_simulated(meta)
    return _make(meta, image_ids, workers)


def _make(meta, image_ids, workers) -> Cohort:
    world = _WORLDS[meta["simulator"]]
    table = world.table(meta)
    rows = np.arange(len(table)) if image_ids is None else table.index.get_indexer_for(
        table.reset_index().set_index("image_id").loc[list(image_ids), "index"])
    return world.make(meta, rows, workers)


def _make_brain(meta, rows, workers) -> Cohort:
    return Cohort(render(meta, rows, workers=workers), drawn_table(meta).iloc[rows].reset_index(drop=True),
                  schema(Scenario.from_dict(meta["scenario"])), meta=dict(meta))


class _World(NamedTuple):
    """How the cohorts of one simulator are made again: all from their ``meta``."""

    check: Callable  # what a change sets, or an error
    table: Callable
    make: Callable


def _effect(names: Callable) -> Callable:
    """The check of a world in which some attributes can be 0 or 1."""
    def check(meta: dict[str, Any], name: str, value: Any) -> int:
        known = names(meta)
        if name not in known:
            raise ValueError(f"the cohort has no attribute '{name}', "
                             f"expected one of {', '.join(known) or 'none: its design has no bias'}")
        if value not in (0, 1):
            raise ValueError(f"attribute '{name}' can be set to 0 or 1, got {value!r}")
        return int(value)

    return check


_WORLDS = {"brain": _World(_effect(lambda meta: Scenario.from_dict(meta["scenario"]).attribute_names), drawn_table,
                           _make_brain),
           "tumour": _World(_effect(lambda meta: tuple(MARKS)), _tumour.drawn_table, _tumour.make),
           "chest": _World(_chest.check_change, _chest.drawn_table, _chest.make)}


def _check_simulated(meta: dict[str, Any]) -> None:
    if meta.get("simulator") not in _WORLDS:
        raise ValueError("this cohort was not simulated, so nobody knows what its images would look like otherwise: "
                         "counterfactual twins and remaking need a cohort made by bias_tutorial.simulate")
