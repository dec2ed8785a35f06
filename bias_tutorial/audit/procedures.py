"""What a network may be trained on: all training rows as they are, or one of the resampling procedures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..mitigation import resampling
from ..mitigation.resampling import Groups, Resampled
from ..mitigation.resampling.report import rates

PLAIN, SUBSET = "plain", "subset"
WORDS = {
    PLAIN: "All training studies as they are.",
    "counts": "Every group brought to the median count, at random: large groups lose studies, small ones get copies.",
    "by-finding": "Studies drawn so that each finding is as frequent in every group.",
    "reweighing": "No study is dropped or copied; the loss is weighted so that finding and group are independent.",
    "as-released": "As the code of BiasCXR does it: sex x race x single years of age to the median count, rows chosen "
                   "by how much their findings deviate.",
    "as-described": "As BiasCXR describes it: representatives of k-means clusters from large groups, mixtures of "
                    "neighbours for small ones.",
    SUBSET: "A control: as many studies as the smallest of the other procedures leaves, drawn without looking at "
            "groups. What it loses is the price of a smaller training set alone.",
}
DEFAULT = (PLAIN, "counts", "by-finding", "reweighing", SUBSET)


def ordered(names: tuple[str, ...]) -> tuple[str, ...]:
    """The named procedures in the order of ``WORDS``, with the plain one that all others are compared with.

    Raises
    ------
    ValueError
        For an unknown name, or a control without anything to match.
    """
    for name in names:
        if name not in WORDS:
            raise ValueError(f"there is no procedure '{name}', expected some of {', '.join(WORDS)}")
    chosen = tuple(name for name in WORDS if name in names or name == PLAIN)
    if chosen == (PLAIN, SUBSET):
        raise ValueError(f"'{SUBSET}' is matched in size to another procedure: name one more")
    return chosen


def make(name: str, groups: Groups, seed: int, sizes: Mapping[str, int]) -> Resampled:
    """The training rows of one procedure; ``sizes`` are the numbers of rows of those made before it."""
    everybody = len(groups.rows)
    if name in (PLAIN, SUBSET):
        size = min(sizes.values()) if name == SUBSET else everybody
        return resampling.random_subset(groups, min(size, everybody), seed)
    if name == "as-released":
        groups = Groups.of(groups.cohort, ("sex", "race", "age"), {"age": None}, groups.findings)
        return resampling.as_released(groups, seed)
    if name == "reweighing":
        return resampling.reweighing(groups)
    method: Callable = {"counts": resampling.balanced_counts, "by-finding": resampling.by_finding,
                        "as-described": resampling.as_described}[name]
    return method(groups, seed=seed)


def rows_by_group(groups: Groups, sample: Resampled) -> np.ndarray:
    """How many rows of a sample are in each group, shape (groups,)."""
    return np.bincount(groups.codes, _times(groups, sample), minlength=len(groups.names)).astype(int)


def rates_by_group(groups: Groups, sample: Resampled) -> np.ndarray:
    """P(finding | group) as the loss sees it, shape (groups, findings)."""
    return rates(groups, _times(groups, sample) if sample.weights is None else sample.weights)


def _times(groups: Groups, sample: Resampled) -> np.ndarray:
    return np.bincount(np.searchsorted(groups.rows, sample.rows), minlength=len(groups.rows))
