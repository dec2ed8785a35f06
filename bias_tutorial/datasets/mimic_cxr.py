"""MIMIC-CXR as embeddings of CXR Foundation, with the table that BiasCXR works on.

The embeddings are "Generalized Image Embeddings for the MIMIC Chest X-Ray dataset" (Sellergren et al. 2023,
doi:10.13026/pxc2-vx69): 1,376 numbers an image, one TFRecord file an image. The table is BiasCXR's
(github.com/aahmadnejad/BiasCXR): one line an image with patient, study, demographics of MIMIC-IV and 14 labels. Neither
was at hand: what is here was tested on files of that form made by us.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..cohort import Cohort, Schema, split_by_patient
from .cxr import (
    AGE_GROUPS,
    FINDINGS,
    SEXES,
    LeftOut,
    by_policy,
    count_labels,
    count_unknown,
    read_ages,
    read_columns,
    read_group,
    read_labels,
)
from .embeddings import ENDINGS, Embeddings, Faults, gather, in_one_file

WIDTH = 1376
# What stands before " - " in MIMIC-IV's column race, as groups of Seyyed-Kalantari et al. 2021 (Nature Medicine) plus
# Pacific Islander. "Portuguese" and "South American" are judgements of ours; UNKNOWN, UNABLE TO OBTAIN and PATIENT
# DECLINED TO ANSWER are not among them, and so not known.
RACES = {"WHITE": "White", "PORTUGUESE": "White",
         "BLACK/AFRICAN AMERICAN": "Black", "BLACK/AFRICAN": "Black", "BLACK/CAPE VERDEAN": "Black",
         "BLACK/CARIBBEAN ISLAND": "Black",
         "HISPANIC OR LATINO": "Hispanic", "HISPANIC/LATINO": "Hispanic", "SOUTH AMERICAN": "Hispanic",
         "ASIAN": "Asian", "AMERICAN INDIAN/ALASKA NATIVE": "American Indian",
         "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER": "Pacific Islander",
         "MULTIPLE RACE/ETHNICITY": "Other", "OTHER": "Other"}
INSURANCES = ("Medicare", "Medicaid", "Private", "No charge", "Other")


def read(csv: str | Path = "data/mimic_cxr/metadata.csv", embeddings: str | Path | None = None,
         policy: str = "missing", blank: str = "negative", seed: int = 0,
         shares: Sequence[float] = (0.5, 0.25, 0.25), races: Mapping[str, str] = RACES, width: int = WIDTH,
         store: str | Path | None = None, listing: str | Path | None = None, progress: bool = True) -> Cohort:
    """Read the table and the embeddings of its images.

    Small files are read once and gathered in a store, about 2 GB for all of MIMIC-CXR; the next call opens that. A call
    that was stopped goes on where it was, and files that changed are read again.

    Parameters
    ----------
    csv : path
        Columns ``subject_id``, ``study_id``, ``dicom_id``, ``gender``, ``race``, ``anchor_age``, ``insurance``, the 14
        findings, and ``path`` where ``embeddings`` is not given. Other columns are not read.
    embeddings : path, optional
        A folder with a file for each image (or for each study), however deep, named after ``dicom_id`` (or
        ``study_id``, with or without ``s`` before it): ``.npy``, ``.tfrecord`` or ``.tfrecord.gz``. Or one ``.npy``
        file of shape (lines of the table, width), in their order. By default the files of the column ``path``, which
        start from the folder of the table.
    policy : {'missing', 'negative', 'positive'}
        What an uncertain label (-1) becomes: NaN, 0 or 1.
    blank : {'missing', 'negative'}
        What an empty label becomes, see :func:`bias_tutorial.datasets.cxr.by_policy`.
    seed, shares
        Of the split by patient, drawn among those who are kept: see :func:`bias_tutorial.cohort.split_by_patient`.
    races : mapping
        From what stands in the column ``race``, or before " - " in it, to a group. Anything else is not known: NaN.
    width : int
        Numbers an embedding must have.
    store : path, optional
        Folder to gather embeddings in; by default beside the table, ``<its name>.embeddings``. It holds patient data,
        as the files do.
    listing : path, optional
        Where to write every line that was left out, with its reason, as CSV.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort
        Images ``(n, width)``, read when their rows are asked for. Targets: the 14 findings, 1, 0 or NaN. Attributes
        ``sex``, ``race``, ``age_group``, ``insurance``; columns ``age`` (years) and ``study_id``. ``meta["excluded"]``
        says how many lines were left out and why, ``meta["unknown"]`` what stands where an attribute is not known,
        ``meta["labels"]`` how often each label was 1, 0, -1 and blank among the rows kept;
        :func:`bias_tutorial.datasets.cxr.summary` puts the first two in words.

    Raises
    ------
    ValueError
        For a missing column, a line of another length, a file of embeddings that does not fit the table, two files for
        one image, an unknown policy, or when no row is left.
    FileNotFoundError
        Without table, or without folder or file of embeddings.

    Notes
    -----
    A line is left out when an id is empty, its ``dicom_id`` stands in several lines (one of equal lines is kept), a
    label is something else than 1, 0, -1 and blank, the age is text or outside 0 to 120, or its embedding is missing,
    damaged, of another width, all zeros, or not finite.
    """
    csv = Path(csv)
    by_policy(pd.DataFrame(), policy, blank)  # a misspelled policy is found before the long reading
    rows = read_columns(csv, ("subject_id", "study_id", "dicom_id", *(("path",) if embeddings is None else ())),
                        ("gender", "race", "anchor_age", "insurance", *FINDINGS))
    out = LeftOut(csv, rows["dicom_id"])
    for column in ("subject_id", "dicom_id"):
        out.add(rows[column] == "", f"{column} is empty")
    if (twice := rows["dicom_id"].duplicated(keep=False).to_numpy()).any():
        again = np.zeros(len(rows), dtype=bool)
        again[twice] = rows[twice].duplicated()
        out.add(again, "dicom_id stands in an earlier line that says the same")
        out.add(twice & ~again & rows["dicom_id"].where(~again).duplicated(keep=False),
                "dicom_id stands in lines that contradict each other")
    stored = read_labels(rows, out)
    age, age_group = read_ages(rows["anchor_age"], out)
    parts, place, faults = _embeddings(rows, csv, embeddings, width, store, progress)
    out.add_each(faults)
    out.write(listing)
    kept = out.keep()

    table = pd.DataFrame({
        "image_id": rows["dicom_id"], "patient_id": rows["subject_id"], "study_id": rows["study_id"],
        "sex": read_group(rows["gender"], {s: s for s in SEXES}),
        "race": read_group(rows["race"], races),
        "age_group": age_group,
        "insurance": read_group(rows["insurance"], {i: i for i in INSURANCES}),
        "age": age,
    }).iloc[kept].reset_index(drop=True)
    table.insert(2, "split", split_by_patient(table, seed, shares))
    stored = stored.iloc[kept].reset_index(drop=True)
    table = pd.concat([table, by_policy(stored, policy, blank)], axis=1)
    cells = {"sex": rows["gender"], "race": rows["race"], "age_group": rows["anchor_age"],
             "insurance": rows["insurance"]}
    schema = Schema(dict.fromkeys(FINDINGS, (0, 1)),
                    {"sex": SEXES, "race": tuple(dict.fromkeys(races.values())), "age_group": AGE_GROUPS,
                     "insurance": INSURANCES})
    meta = {"reader": "mimic_cxr", "source": "MIMIC-CXR; embeddings doi:10.13026/pxc2-vx69", "table": csv.name,
            "policy": policy, "blank": blank, "seed": seed, "shares": list(shares), "excluded": out.report(),
            "unknown": count_unknown(cells, table, kept), "labels": count_labels(stored)}
    return Cohort(Embeddings(parts, place[kept]), table, schema, meta=meta)


def _embeddings(rows: pd.DataFrame, csv: Path, source: str | Path | None, width: int, store: str | Path | None,
                progress: bool) -> tuple[list[Path], np.ndarray, Faults]:
    """Files to map, the embedding of each row in them, and what is wrong with which row."""
    if source is None:
        paths = [csv.parent / p if p else None for p in rows["path"]]
    elif (source := Path(source)).is_dir():
        names = _by_name(source)
        paths = [names.get(dicom) or names.get(f"s{study}") or names.get(study)
                 for dicom, study in zip(rows["dicom_id"], rows["study_id"], strict=True)]
    elif source.is_file():
        parts, faults = in_one_file(source, len(rows), width, progress)
        return parts, np.arange(len(rows)), faults
    else:
        raise FileNotFoundError(f"'{source}': there is no such folder or .npy file of embeddings")
    return gather(paths, csv.with_suffix(".embeddings") if store is None else Path(store), width, progress)


def _by_name(folder: Path) -> dict[str, Path]:
    """Every file of embeddings below a folder, by its name without ending."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            ending = next((e for e in reversed(ENDINGS) if name.endswith(e)), None)
            if ending:
                path, stem = Path(place, name), name.removesuffix(ending)
                if stem in found:
                    raise ValueError(f"'{path}' and '{found[stem]}' have one name, expected one file for each image")
                found[stem] = path
    return found
