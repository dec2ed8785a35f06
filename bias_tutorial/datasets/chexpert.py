"""CheXpert as it comes: ``train.csv``, ``valid.csv`` and folders of JPEG images (Irvin et al. 2019, arXiv 1901.07031).

The set itself was not at hand: what is here was tested on files of that form made by us. torchxrayvision reads it too,
but by default keeps one frontal PA image of each patient without a word, drops "No Finding", gives neither age nor sex,
and scales images to [-1024, 1024]; here demographics and what was left out are the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..cohort import Cohort, Schema, split_by_patient
from .cxr import (
    AGE_GROUPS,
    FINDINGS,
    SEXES,
    LeftOut,
    Radiographs,
    by_policy,
    count_labels,
    count_unknown,
    official_split,
    read_ages,
    read_columns,
    read_group,
    read_labels,
)

TABLES = ("train.csv", "valid.csv")
VIEWS = ("AP", "PA")
_PATH = r"((?:train|valid)/(patient\d+)/study\d+/[^/]+)$"  # what stands before it differs between the releases


def read(root: str | Path = "data/chexpert", size: int = 224, split: str = "patient", policy: str = "missing",
         blank: str = "negative", lateral: bool = False, seed: int = 0, shares: Sequence[float] = (0.5, 0.25, 0.25),
         listing: str | Path | None = None) -> Cohort:
    """Read the tables; images are read when their rows are asked for.

    An image file that cannot be read is named when its row is asked for; ``cohort.images.check()`` reads all now.

    Parameters
    ----------
    root : path
        Folder with ``train.csv``, ``valid.csv``, ``train/`` and ``valid/``.
    size : int
        Rows and columns of the images, see :class:`bias_tutorial.datasets.cxr.Radiographs`.
    split : {'patient', 'official'}
        ``'patient'``: all patients of both tables divided by ``seed``. ``'official'``: ``valid.csv`` (200 patients,
        labelled by radiologists and not by the labeller) is the test split, too small for most groups; patients of
        ``train.csv`` are divided between train and validation.
    policy, blank
        What -1 and empty labels become, see :func:`bias_tutorial.datasets.cxr.by_policy`.
    lateral : bool
        Keep lateral views too.
    seed, shares
        Of the split by patient.
    listing : path, optional
        Where to write every line that was left out, with its reason, as CSV.

    Returns
    -------
    Cohort
        Images ``(n, 1, size, size)``. Targets: the 14 findings, 1, 0 or NaN. Attributes ``sex``, ``age_group`` and
        ``view`` (AP, PA, lateral); column ``age``. ``meta`` as of :func:`bias_tutorial.datasets.mimic_cxr.read`.

    Raises
    ------
    ValueError, FileNotFoundError
        For a missing table or column, a line of another length, an unknown policy or split, or when no row is left.

    Notes
    -----
    A line is left out when its path names no patient, stands twice, or leads to no file, a label is something else than
    1, 0, -1 and blank, the age is text or outside 0 to 120, or its view is lateral and those are not asked for.
    """
    root = Path(root)
    by_policy(pd.DataFrame(), policy, blank)  # a misspelled policy is found before the long reading
    if split not in ("patient", "official"):
        raise ValueError(f"split must be 'patient' or 'official', got {split!r}")
    text, repeated = ("Path",), ("Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
    parts = [read_columns(root / name, text, repeated).astype(str) for name in TABLES]
    table_of = np.repeat(TABLES, [len(part) for part in parts])
    rows = pd.concat(parts)
    lines = rows.index.to_numpy() + 2
    rows = rows.reset_index(drop=True).astype(dict.fromkeys(repeated, "category"))
    names = rows["Path"].str.extract(_PATH).fillna("")

    out = LeftOut(root, rows["Path"], lines)
    out.add(names[1] == "", "path names no patient", rows["Path"])
    out.add(rows["Path"].duplicated(keep=False), "path stands in several lines", rows["Path"])
    lateral_view = rows["Frontal/Lateral"].astype(str).str.strip() == "Lateral"
    if not lateral:
        out.add(lateral_view, "lateral view")
    stored = read_labels(rows, out)
    age, age_group = read_ages(rows["Age"], out)
    view = read_group(rows["AP/PA"], {v: v for v in VIEWS})
    paths = np.array([root / name for name in names[0]], dtype=object)
    out.add([not path.is_file() for path in paths], "image file not found", pd.Series(paths, name="file").astype(str))
    out.write(listing)
    kept = out.keep()

    table = pd.DataFrame({
        "image_id": names[0], "patient_id": names[1], "sex": read_group(rows["Sex"], {"Female": "F", "Male": "M"}),
        "age_group": age_group, "view": np.where(lateral_view, "lateral", view), "age": age,
    }).iloc[kept].reset_index(drop=True)
    of_split = (split_by_patient(table, seed, shares) if split == "patient" else
                official_split(table, (table_of == TABLES[1])[kept], seed, shares))
    table.insert(2, "split", of_split)
    stored = stored.iloc[kept].reset_index(drop=True)
    table = pd.concat([table, by_policy(stored, policy, blank)], axis=1)
    cells = {"sex": rows["Sex"], "age_group": rows["Age"], "view": rows["AP/PA"]}
    views = (*VIEWS, "lateral") if lateral else VIEWS
    schema = Schema(dict.fromkeys(FINDINGS, (0, 1)), {"sex": SEXES, "age_group": AGE_GROUPS, "view": views})
    meta = {"reader": "chexpert", "source": "CheXpert, arXiv 1901.07031", "policy": policy, "blank": blank,
            "split": split, "seed": seed, "shares": list(shares), "size": size, "excluded": out.report(),
            "unknown": count_unknown(cells, table, kept), "labels": count_labels(stored)}
    return Cohort(Radiographs(paths[kept], size), table, schema, meta=meta)
