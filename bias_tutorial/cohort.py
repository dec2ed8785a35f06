"""A cohort: images and the table that says what is true of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

SPLITS = ("train", "validation", "test")
REQUIRED = ("image_id", "patient_id", "split")


@dataclass(frozen=True)
class Schema:
    """Which columns of a cohort's table mean what.

    Parameters
    ----------
    targets : dict of str to tuple
        What is to be predicted, with its allowed values in order. A missing value is NaN, never 0.
    attributes : dict of str to tuple
        Bias attributes or demographics, with their allowed values in order.
    latents : tuple of str
        Columns that hold the truth, where we made it; empty for real data.
    """

    targets: Mapping[str, tuple] = field(default_factory=dict)
    attributes: Mapping[str, tuple] = field(default_factory=dict)
    latents: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; ``Schema.from_dict`` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schema:
        """Rebuild a schema from :meth:`to_dict` (also after a trip through JSON)."""
        return cls({k: tuple(v) for k, v in values["targets"].items()},
                   {k: tuple(v) for k, v in values["attributes"].items()}, tuple(values["latents"]))


@dataclass(frozen=True)
class Cohort:
    """Images and their table, the one thing every method downstream takes.

    Parameters
    ----------
    images : array-like
        Anything with ``shape`` whose indexing by rows returns float32: ``(n, C, H, W)`` or ``(n, C, D, H, W)`` in
        [0, 1], or features ``(n, F)`` unscaled. A tensor, an array, a memory map, or files read on demand.
    table : pandas.DataFrame
        One row an image: ``image_id`` (unique), ``patient_id``, ``split``, then the columns of ``schema``.
    schema : Schema
        Meaning of the columns.
    masks : array-like, optional
        One mask per image, same spatial shape.
    meta : dict
        How it was made, JSON-serialisable: scenario, seed, version, template, licence, affine and spacing.

    Raises
    ------
    ValueError
        When images and table differ in length, a column is missing, an id is not unique, a value lies outside its
        declared values, or a patient is in two splits; the message names the column and the value.
    """

    images: Any
    table: pd.DataFrame
    schema: Schema
    masks: Any = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_table(self.table, self.schema)
        for what, rows in (("images", self.images), ("masks", self.masks)):
            if rows is not None and rows.shape[0] != len(self.table):
                raise ValueError(f"{rows.shape[0]} {what} for {len(self.table)} table rows")
        object.__setattr__(self, "table", self.table.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images of the given rows as a float32 array.

        Raises
        ------
        ValueError
            When an image holds NaN or infinite values; the message names the ``image_id``.
        """
        images = np.asarray(self.images[np.asarray(rows)], dtype=np.float32)
        bad = ~np.isfinite(images.reshape(len(images), -1)).all(axis=1)
        if bad.any():
            name = self.table["image_id"].iloc[np.asarray(rows)[np.flatnonzero(bad)[0]]]
            raise ValueError(f"image '{name}' holds NaN or infinite values")
        return images

    def subset(self, rows) -> Cohort:
        """The cohort of the given rows (positions, or a boolean mask over the table), order kept."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == 0:
            raise ValueError("the subset is empty: no row of the cohort was chosen")
        images, masks = (None if part is None else part.subset(rows) if hasattr(part, "subset") else part[rows]
                         for part in (self.images, self.masks))  # files are not read before they are asked for
        return replace(self, images=images, table=self.table.iloc[rows], masks=masks)

    def split(self, name: str) -> Cohort:
        """The rows of one split: 'train', 'validation' or 'test'."""
        if name not in SPLITS:
            raise ValueError(f"unknown split '{name}', expected one of {', '.join(SPLITS)}")
        rows = (self.table["split"] == name).to_numpy()
        if not rows.any():
            raise ValueError(f"the cohort has no row in split '{name}'")
        return self.subset(rows)


def check_table(table: pd.DataFrame, schema: Schema) -> None:
    """Raise ``ValueError`` unless the table keeps the data contract; the message names column and value."""
    if len(table) == 0:
        raise ValueError("the table has no rows")
    declared = (*REQUIRED, *schema.targets, *schema.attributes, *schema.latents)
    for column in declared:
        if column not in table:
            raise ValueError(f"column '{column}' is missing; the table has {', '.join(map(str, table.columns))}")
    doubled = table["image_id"][table["image_id"].duplicated()]
    if len(doubled):
        times = (table["image_id"] == doubled.iloc[0]).sum()
        raise ValueError(f"column 'image_id': '{doubled.iloc[0]}' stands in {times} rows, expected one")
    for column, values in {"split": SPLITS, **schema.targets, **schema.attributes}.items():
        present = table[column]
        wrong = present[~(present.isin(values) | (present.isna() & (column != "split")))]
        if len(wrong):
            raise ValueError(f"column '{column}': value {wrong.iloc[0]!r} in row {wrong.index[0]}, "
                             f"expected one of {list(values)}")
    splits = table.groupby("patient_id")["split"].nunique()
    if (splits > 1).any():
        patient = splits.index[splits > 1][0]
        found = sorted(table.loc[table["patient_id"] == patient, "split"].unique())
        raise ValueError(f"patient '{patient}' is in several splits: {', '.join(found)}")


def split_by_patient(table: pd.DataFrame, seed: int, shares: Sequence[float] = (0.5, 0.25, 0.25)) -> pd.Series:
    """A split for every row so that all images of a patient share it.

    Parameters
    ----------
    table : pandas.DataFrame
        Needs ``patient_id``.
    seed : int
        Seed of the shuffle.
    shares : sequence of float
        Shares of patients in train, validation and test.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares needs {len(SPLITS)} values of at least 0 that sum to 1, got {tuple(shares)}")
    patients = np.sort(table["patient_id"].unique())
    order = np.random.default_rng(seed).permutation(len(patients))
    edges = np.round(np.cumsum(shares) * len(patients)).astype(int)
    places = np.searchsorted(edges, np.arange(len(patients)), side="right")
    return table["patient_id"].map(pd.Series(np.array(SPLITS, dtype=object)[places], index=patients[order]))
