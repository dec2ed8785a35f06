"""The groups that are looked at: values of each attribute, and combinations of the attributes to balance by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..cohort import Cohort
from ..evaluation import group_rows
from ..findings import Predictions

UNKNOWN = "not known"
INTERSECTION = "intersection"


def demographics(cohort: Cohort) -> pd.DataFrame:
    """The attributes of every row as categories in the schema's order; what is missing is ``not known``."""
    return pd.DataFrame({name: pd.Categorical(cohort.table[name].astype(object).fillna(UNKNOWN),
                                              [*values, *([UNKNOWN] if cohort.table[name].isna().any() else [])])
                         for name, values in cohort.schema.attributes.items()})


def sets(groups: pd.DataFrame, crossed: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Row numbers by attribute and name; the first attribute is ``all``, the last ``intersection`` if two are crossed.

    Groups without a row are there too.
    """
    found = {"all": {"all": np.arange(len(groups))}}
    for name in groups:
        found[name] = {key: rows for key, rows in group_rows(groups[[name]], smallest=0).items() if key != "all"}
    if len(crossed) > 1:
        single = {"all"}.union(*found.values())
        every = group_rows(groups[list(crossed)], smallest=0)
        found[INTERSECTION] = {key: rows for key, rows in every.items() if key not in single}
    return found


@dataclass(frozen=True)
class Audited(Predictions):
    """Predictions whose intersections are those of the attributes named in ``crossed``, not of all."""

    crossed: tuple[str, ...] = ()

    def sets(self) -> dict[str, np.ndarray]:
        """Rows of ``all``, of every group and of every intersection that occurs; small ones too."""
        return {name: rows for part in sets(self.groups, self.crossed).values() for name, rows in part.items()
                if len(rows)}
