"""NIH ChestX-ray14 as it comes: ``Data_Entry_2017.csv``, official lists, images (Wang et al. 2017, arXiv 1705.02315).

The set itself was not at hand: what is here was tested on files of that form made by us. torchxrayvision reads it too,
but by default keeps one PA image of each patient without a word and does not know the official split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..cohort import Cohort, Schema, split_by_patient
from .cxr import (
    AGE_GROUPS,
    SEXES,
    LeftOut,
    Radiographs,
    by_value,
    count_unknown,
    official_split,
    read_ages,
    read_columns,
    read_group,
)

NO_FINDING = "No Finding"
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
            "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax", NO_FINDING)
TABLE, LISTS = "Data_Entry_2017.csv", ("train_val_list.txt", "test_list.txt")
VIEWS = ("AP", "PA")
_YEARS = {"": 1, "Y": 1, "M": 1 / 12, "D": 1 / 365}  # the first release wrote 058Y, 013M, 001D


def read(root: str | Path = "data/nih_cxr", size: int = 224, split: str = "official", seed: int = 0,
         shares: Sequence[float] = (0.5, 0.25, 0.25), listing: str | Path | None = None) -> Cohort:
    """Read the table; images are read when their rows are asked for.

    An image file that cannot be read is named when its row is asked for; ``cohort.images.check()`` reads all now.

    Parameters
    ----------
    root : path
        Folder with ``Data_Entry_2017.csv``, the images below it, however deep, and for the official split
        ``train_val_list.txt`` and ``test_list.txt``.
    size : int
        Rows and columns of the images, see :class:`bias_tutorial.datasets.cxr.Radiographs`.
    split : {'official', 'patient'}
        ``'official'``: the test list is the test split, patients of the other list are divided between train and
        validation by ``seed``. ``'patient'``: all patients divided by ``seed``.
    seed, shares
        Of the split by patient.
    listing : path, optional
        Where to write every line that was left out, with its reason, as CSV.

    Returns
    -------
    Cohort
        Images ``(n, 1, size, size)``. Targets: 14 findings and "No Finding", 1 or 0: a finding that is not named counts
        as absent, there is nothing uncertain. Attributes ``sex``, ``age_group`` and ``view`` (AP, PA); column ``age``.
        ``meta["excluded"]`` and ``meta["unknown"]`` as of :func:`bias_tutorial.datasets.mimic_cxr.read`.

    Raises
    ------
    ValueError, FileNotFoundError
        For a missing table, list or column, a line of another length, an image in both lists, two image files of one
        name, an unknown split, or when no row is left.

    Notes
    -----
    A line is left out when its image or patient is not named, its image stands twice, leads to no file or is in
    neither list, a label is unknown or missing or stands beside "No Finding", or the age is text or outside 0 to 120
    (the set is known for a few ages above 400).
    """
    root = Path(root)
    if split not in ("official", "patient"):
        raise ValueError(f"split must be 'official' or 'patient', got {split!r}")
    rows = read_columns(root / TABLE, ("Image Index", "Patient ID"),
                        ("Finding Labels", "Patient Age", "Patient Gender", "View Position"))
    images = rows["Image Index"]
    out = LeftOut(root / TABLE, images)
    for column in ("Image Index", "Patient ID"):
        out.add(rows[column] == "", f"{column} is empty")
    out.add(images.duplicated(keep=False), "image stands in several lines", images)
    cells = rows["Finding Labels"]
    out.add(by_value(cells, lambda c: not _named(c) <= set(FINDINGS), bool), "label unknown or missing", cells)
    out.add(by_value(cells, lambda c: _named(c) > {NO_FINDING}, bool), f"'{NO_FINDING}' beside a finding", cells)
    labels = {f: by_value(cells, lambda c, f=f: f in _named(c), np.float32) for f in FINDINGS}
    age, age_group = read_ages(rows["Patient Age"], out, _years)
    if split == "official":
        train, test = (_list(root / name) for name in LISTS)
        if both := sorted(train & test):
            raise ValueError(f"'{root}': image '{both[0]}' is in both lists, {' and '.join(LISTS)}")
        out.add(~images.isin(train | test), f"in neither {' nor '.join(LISTS)}", images)
    files = _files(root)
    out.add(~images.isin(files), "image file not found", images)
    out.write(listing)
    kept = out.keep()

    table = pd.DataFrame({
        "image_id": images, "patient_id": rows["Patient ID"],
        "sex": read_group(rows["Patient Gender"], {s: s for s in SEXES}), "age_group": age_group,
        "view": read_group(rows["View Position"], {v: v for v in VIEWS}), "age": age,
        **labels,
    }).iloc[kept].reset_index(drop=True)
    table.insert(2, "split", split_by_patient(table, seed, shares) if split == "patient" else
                 official_split(table, table["image_id"].isin(test).to_numpy(), seed, shares))
    cells = {"sex": rows["Patient Gender"], "age_group": rows["Patient Age"], "view": rows["View Position"]}
    schema = Schema(dict.fromkeys(FINDINGS, (0, 1)), {"sex": SEXES, "age_group": AGE_GROUPS, "view": VIEWS})
    meta = {"reader": "nih_cxr", "source": "NIH ChestX-ray14, arXiv 1705.02315", "split": split, "seed": seed,
            "shares": list(shares), "size": size, "excluded": out.report(),
            "unknown": count_unknown(cells, table, kept)}
    return Cohort(Radiographs([files[name] for name in table["image_id"]], size), table, schema, meta=meta)


def _named(cell: str) -> set[str]:
    return {part.strip() for part in cell.split("|")}


def _years(cell: str) -> float:
    """058Y, 013M, 001D, or years alone."""
    found = re.fullmatch(r"(-?\d+(?:\.\d*)?)([YMD]?)", cell)
    return float(found[1]) * _YEARS[found[2]] if found else np.nan


def _list(path: Path) -> set[str]:
    if not path.is_file():
        raise FileNotFoundError(f"'{path}': there is no such list; split='patient' needs none")
    return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}


def _files(root: Path) -> dict[str, Path]:
    """Every PNG image below a folder by its name."""
    files = {}
    for path in root.rglob("*.png"):
        if path.name in files:
            raise ValueError(f"'{path}' and '{files[path.name]}' have one name, expected one file for each image")
        files[path.name] = path
    return files
