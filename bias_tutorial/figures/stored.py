"""What figures of stored runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .. import claims, plotting


def over_seeds(label: str, x: Sequence[float], columns: Sequence[pd.Series]) -> plotting.Series:
    """Results of stored runs, one column per point: mean and 95% t interval over seeds."""
    return plotting.Series(label, x, *np.transpose([claims.over_seeds(column) for column in columns]), points=True)


def stored_dots(rows: Mapping[str, str], xlabel: str, chapter: str = "02",
                references: Mapping[str, float] | None = None) -> plotting.Figure:
    """Stored runs of several claims, one row each, with 95% intervals over seeds; ``rows`` are labels and claim ids.

    ``references`` are lines to hold all of them against, by name; zero when left out.
    """
    verdicts = [claims.verdict(claims.find_claim(chapter, i)) for i in rows.values()]
    return plotting.dots({label: (v.mean, v.low, v.high) for label, v in zip(rows, verdicts, strict=True)},
                         {name: dict.fromkeys(rows, value) for name, value in (references or {"zero": 0.0}).items()},
                         xlabel)
