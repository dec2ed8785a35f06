"""Cohorts whose truth is known, and their counterfactual twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..cohort import Cohort
from ..scenario import Scenario
from . import tumour as _tumour
from .brain import brain, design, drawn_table, render, schema
from .marks import MARKS
from .tumour import TumourDesign, tumour

__all__ = ["TumourDesign", "brain", "counterfactual", "design", "drawn_table", "remake", "render", "schema", "tumour"]


def counterfactual(cohort: Cohort, workers: int = 1, **attributes: int) -> Cohort:
    """The same subjects with bias effects off (0) or on (1), everything else identical to the last bit.

    Parameters
    ----------
    cohort : Cohort
        Simulated; also after saving, loading, or taking a subset.
    workers : int
        Processes.
    **attributes : int
        0 or 1 for each attribute to change. A subject given an effect it did not carry gets the strength it would
        have had; a mark is drawn on a lesion of any kind.

    Returns
    -------
    Cohort
        Twins in the same order, same ``image_id``, same noise.

    Raises
    ------
    ValueError
        For a cohort that was not simulated, an attribute it does not have, or a value other than 0 or 1.
    """
    _check_simulated(cohort.meta)
    known = _WORLDS[cohort.meta["simulator"]].attributes(cohort.meta)
    for name, value in attributes.items():
        if name not in known:
            raise ValueError(f"the cohort has no attribute '{name}', "
                             f"expected one of {', '.join(known) or 'none: its design has no bias'}")
        if value not in (0, 1):
            raise ValueError(f"attribute '{name}' can be set to 0 or 1, got {value!r}")
    changes = {**cohort.meta["counterfactual"], **{k: int(v) for k, v in attributes.items()}}
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

    attributes: Callable  # names of what can be set
    table: Callable
    make: Callable


_WORLDS = {"brain": _World(lambda meta: Scenario.from_dict(meta["scenario"]).attribute_names, drawn_table, _make_brain),
           "tumour": _World(lambda meta: tuple(MARKS), _tumour.drawn_table, _tumour.make)}


def _check_simulated(meta: dict[str, Any]) -> None:
    if meta.get("simulator") not in _WORLDS:
        raise ValueError("this cohort was not simulated, so nobody knows what its images would look like otherwise: "
                         "counterfactual twins and remaking need a cohort made by bias_tutorial.simulate")
