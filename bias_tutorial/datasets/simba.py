"""SimBA's own layout: one CSV file and one folder of NIfTI volumes for each split.

What the public code writes (github.com/estanley16/SimBA and github.com/estanley16/bias_encoding; the data sets are
doi:10.5683/SP3/0A1IA0 and doi:10.5683/SP3/A9SOBZ):

- ``generate_data/define_stratified_distributions.py`` (commit 0047520): ``train_dst.csv``, ``val_dst.csv`` and
  ``test_dst.csv`` with an unnamed first column (row number) and ``isv_dst`` (the one number that drives all subject
  components), ``effect_dst`` (disease severity), ``isv_bin``, ``effect_bin``, ``both_bins``, ``bias_label`` (0 or 1),
  ``class_label`` (1 is disease) and ``strat_col``.
- ``generate_data/generate_data.py`` (commit 2080be8) adds ``filepath`` and ``filename`` and writes
  ``<experiment>/<split>.csv`` beside folders ``<split>`` with files ``NNNNN_<isv>_S_<effect>_D.nii.gz``, and
  ``..._D_<strength>_B.nii.gz`` for the bias group. ``filepath`` holds paths of the authors' machine, so files are
  found by ``filename`` here.
- ``generate_data/generate_data_multibias.py`` (commit 6a32dcf): ``bias_label`` 0 to 3 for both biases, intensity
  alone, morphology alone, none; the file name ends in ``_<bias_label>_B`` for every image.
- ``layerwise_encoding_analysis.ipynb`` of bias_encoding (commit 0a86d52) reads a column ``morph_bias_label``.

In the authors' sets without bias effects ``bias_label`` still names the group, though no image shows it.

Only this code was read; the data sets themselves were not at hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cohort import Cohort, Schema
from ..files import ImageFiles, write_text
from ..folders import from_text, notice, read_record, to_text, write_folder
from .table import choose, numeric, read_rows, require_files

NAME = "simba"
MISSING = ""
SPLIT_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_ATTRIBUTES = ("morphology", "intensity")
# bias_label of generate_data_multibias.py: who carries which of the two.
MULTI_BIAS = {0: (1, 1), 1: (0, 1), 2: (1, 0), 3: (0, 0)}
_COLUMNS = ("isv_dst", "effect_dst", "bias_label", "class_label", "filepath", "filename")
_STRENGTH = re.compile(r"_D_(-?[\d.]+(?:e-?\d+)?)_B\.nii\.gz$")


def read(folder: str | Path, several: bool | None = None, attribute: str = "morphology", scale="image") -> Cohort:
    """Read a folder in SimBA's layout, the authors' or one of ours.

    Parameters
    ----------
    folder : path
        Holds ``train.csv``, ``val.csv`` and ``test.csv`` (or the CSV inside the folder of its split), not necessarily
        all, and the volumes in ``train``, ``val`` and ``test``, or beside the CSV.
    several : bool, optional
        Whether ``bias_label`` has the four values of the two-bias design. When not given: whether 2 or 3 occurs.
    attribute : str
        Name of the attribute in the one-bias design: ``'morphology'`` or ``'intensity'``.
    scale : str or pair
        Default ``'image'``: each volume by its own minimum and maximum, as the authors' loader does
        (``model/datagenerator_3d.py``). A folder of ours is in [0, 1] and is read as it is.

    Returns
    -------
    Cohort
        Target ``disease``; attributes ``morphology`` and/or ``intensity``; latents ``severity`` (effect_dst),
        ``isv_dst`` and, with one bias, its strength from the file name. A folder written by :func:`write` gives
        back its whole table and ``meta``. Volumes are read when their rows are asked for.

    Raises
    ------
    ValueError
        For a missing column, a value outside its labels, or a folder without tables.
    FileNotFoundError
        For an image that is not there; the message names it and the line of the CSV.
    """
    folder = Path(folder)
    record = read_record(folder)
    parts, paths = [], []
    for split, short in SPLIT_FOLDERS.items():
        csv = next((c for c in (folder / f"{short}.csv", folder / short / f"{short}.csv") if c.is_file()), None)
        if csv is None:
            continue
        rows = read_rows(csv)
        for column in ("filename", "class_label"):
            if column not in rows:
                raise ValueError(f"'{csv}' has no column '{column}'; it has {', '.join(rows.columns)}")
        found = [_find(csv, short, name) for name in rows["filename"]]
        require_files(found, csv)
        paths += found
        parts.append((rows, csv, split))
    if not parts:
        raise ValueError(f"'{folder}' holds none of train.csv, val.csv and test.csv"
                         + ("; it is unfinished: run the command that writes it again" if record else ""))
    if record is not None:
        return _ours(folder, record, pd.concat([rows for rows, _, _ in parts], ignore_index=True), paths)
    if several is None:
        labels = pd.concat([rows.get("bias_label", pd.Series(dtype=str)) for rows, _, _ in parts])
        several = labels.isin(["2", "3", "2.0", "3.0"]).any()
    table = pd.concat([_published(*part, several, attribute) for part in parts], ignore_index=True)
    attributes = {c: (0, 1) for c in dict.fromkeys((*_ATTRIBUTES, attribute)) if c in table}
    latents = tuple(c for c in ("severity", "isv_dst", *(f"{a}_strength" for a in attributes)) if c in table)
    return Cohort(ImageFiles(paths, scale), table, Schema({"disease": (0, 1)}, attributes, latents),
                  meta={"reader": "simba", "scale": list(scale) if isinstance(scale, (tuple, list)) else scale})


def _find(csv: Path, split: str, name: str) -> Path:
    """Where the image lies: in the folder of its split, or beside the CSV. A name never leads out of these folders."""
    if Path(name).name != name or name in ("", "..", "."):
        raise ValueError(f"'{csv}': column 'filename' holds {name!r}, expected the name of a file without folders")
    places = [csv.parent / split / name, csv.parent / name]
    return next((p for p in places if p.is_file()), places[0])


def _published(rows: pd.DataFrame, csv: Path, split: str, several: bool, attribute: str) -> pd.DataFrame:
    """The table of one split as the public code writes it."""
    names = split + "/" + rows["filename"]
    table = pd.DataFrame({"image_id": names, "patient_id": names, "split": split,
                          "disease": choose(rows["class_label"], {"0": 0, "1": 1}, csv)})
    if "bias_label" in rows and several:
        label = choose(rows["bias_label"], {str(k): k for k in MULTI_BIAS}, csv)
        for k, name in enumerate(_ATTRIBUTES):
            table[name] = label.map({code: carried[k] for code, carried in MULTI_BIAS.items()})
    elif "bias_label" in rows:
        table[attribute] = choose(rows["bias_label"], {"0": 0, "1": 1}, csv)
    if "morph_bias_label" in rows:
        table["morphology"] = choose(rows["morph_bias_label"], {"0": 0, "1": 1}, csv)
    for column, source in (("severity", "effect_dst"), ("isv_dst", "isv_dst")):
        if source in rows:
            table[column] = numeric(rows[source], csv)
    if not several and attribute in table:  # with two biases the name ends in the label, not in a strength
        marks = [_STRENGTH.search(name) for name in rows["filename"]]
        table[f"{attribute}_strength"] = [float(m.group(1)) if m else 0.0 for m in marks]
    return table


def _ours(folder: Path, record: Mapping[str, Any], rows: pd.DataFrame, paths: Sequence[Path]) -> Cohort:
    """A folder written here: the whole table in its own order."""
    if len(rows) != record["rows"]:
        raise ValueError(f"'{folder}' holds {len(rows)} of its {record['rows']} rows: a table is missing or was cut")
    order = rows.iloc[:, 0].astype(int).argsort().to_numpy()
    table = from_text(rows.iloc[order].reset_index(drop=True), record["dtypes"], MISSING)
    return Cohort(ImageFiles([paths[k] for k in order], "none"), table, Schema.from_dict(record["schema"]),
                  meta=record["meta"])


# ---------------------------------------------------------------------- writing
def write(cohort: Cohort, folder: str | Path, progress: bool = False) -> Path:
    """Write a simulated cohort in SimBA's layout.

    The CSV files have SimBA's columns first, then ours. ``isv_dst`` is ``subject_norm``: here the subject components
    are independent, there one number drives them all. Row order is kept, where SimBA sorts by bias group.

    Parameters
    ----------
    cohort : Cohort
        With target ``disease`` (0 or 1), latents ``severity`` and ``subject_norm``, and at most two attributes (0 or
        1); of two, the first stands for morphology and the second for intensity in ``bias_label``.
    folder : path
        New or empty, or one that holds this same cohort.

    Raises
    ------
    ValueError
        For a cohort that the layout cannot hold, or a folder with other content.
    OSError
        When a file cannot be written.
    """
    if cohort.masks is not None:
        raise ValueError("SimBA's layout has no masks: save the cohort with storage.save, "
                         "or leave them out with dataclasses.replace(cohort, masks=None)")
    write_folder(folder, sys.modules[__name__], cohort.table, cohort.schema, cohort.meta, cohort.batch,
                 shape=cohort.images.shape[1:], progress=progress)
    return Path(folder)


def image_paths(table: pd.DataFrame, schema: Schema) -> list[str]:
    """Path of every row's image inside the folder."""
    taken = [c for c in _COLUMNS if c in table]
    if taken:
        raise ValueError(f"column '{taken[0]}' is SimBA's own; rename it in the cohort's table")
    return [f"{short}/{name}" for short, name in zip(*_names(table, schema), strict=True)]


def _names(table: pd.DataFrame, schema: Schema) -> tuple[list[str], list[str]]:
    """Folder and file name of every row, numbered from 0 within its split."""
    label = _bias_label(table, schema)
    number = table.groupby("split").cumcount()
    shorts, names = [], []
    for k in range(len(table)):
        row = table.iloc[k]
        end = f"_{label[k]}_B" if len(schema.attributes) == 2 else ""
        if len(schema.attributes) == 1 and label[k] == 1:
            strength = row.get(f"{next(iter(schema.attributes))}_strength", 1.0)
            end = f"_{np.round(float(strength), 3)}_B"
        isv, effect = np.round(float(row["subject_norm"]), 3), np.round(float(row["severity"]), 3)
        shorts.append(SPLIT_FOLDERS[row["split"]])
        names.append(f"{number.iloc[k]:05d}_{isv}_S_{effect}_D{end}.nii.gz")
    return shorts, names


def _bias_label(table: pd.DataFrame, schema: Schema) -> list[int]:
    for column in ("disease", "severity", "subject_norm"):
        if column not in table:
            raise ValueError(f"SimBA's layout needs column '{column}'; the table has {', '.join(table.columns)}")
    if len(schema.attributes) > 2:
        raise ValueError(f"SimBA's layout holds at most two attributes, got {', '.join(schema.attributes)}")
    for column in ("disease", *schema.attributes):
        wrong = table[column][~table[column].isin([0, 1])]
        if len(wrong):
            raise ValueError(f"SimBA's layout: column '{column}' holds {wrong.iloc[0]} in row {wrong.index[0]}, "
                             "expected 0 or 1")
    if not schema.attributes:
        return [0] * len(table)
    codes = {carried: code for code, carried in MULTI_BIAS.items()}
    carried = table[list(schema.attributes)].astype(int).itertuples(index=False, name=None)
    return [codes[c] if len(c) == 2 else c[0] for c in carried]


def write_tables(folder: Path, table: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write the CSV file of every split."""
    schema = Schema.from_dict(record["schema"])
    shorts, names = _names(table, schema)
    theirs = pd.DataFrame({"": range(len(table)), "isv_dst": table["subject_norm"], "effect_dst": table["severity"],
                           "bias_label": _bias_label(table, schema), "class_label": table["disease"],
                           "filepath": [f"{s}/{n}" for s, n in zip(shorts, names, strict=True)], "filename": names})
    text = pd.concat([to_text(theirs, "n/a"), to_text(table[list(record["dtypes"])], MISSING)], axis=1)
    if notice(record["meta"]):
        write_text(folder / "NOTICE.txt", notice(record["meta"]))
    for split, short in SPLIT_FOLDERS.items():
        part = text[(table["split"] == split).to_numpy()]
        if len(part):
            write_text(folder / f"{short}.csv", part.to_csv(index=False, lineterminator="\n"))
