"""Cohorts in the Brain Imaging Data Structure (BIDS), written and read.

One folder per participant with ``anat/*_T1w.nii.gz``; ``participants.tsv`` holds the table in full precision and
``participants.json`` says what each column means; ``dataset_description.json`` says how the images were made, fully
enough to make them again. Checked with the official validator. Specification: https://bids-specification.readthedocs.io
(Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import __version__
from .cohort import Cohort, Schema, split_by_patient
from .files import ImageFiles, to_json, write_text
from .folders import from_text, notice, to_cell, to_text, unfinished, write_folder

NAME = "bids"
MISSING = "n/a"
_KEY = "BiasTutorial"  # our own entry in dataset_description.json; others ignore it
_ROW = "table_row"


def to_bids(cohort: Cohort, folder: str | Path, progress: bool = False) -> Path:
    """Write a cohort as a BIDS dataset.

    Parameters
    ----------
    cohort : Cohort
        Images ``(n, 1, H, W)`` or ``(n, 1, D, H, W)``; slices become volumes of shape (H, W, 1). A patient with several
        images gets one session for each, in table order.
    folder : path
        New or empty, or one that holds this same cohort (then every file is written again).
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        For colour images or features, masks (BIDS keeps those in a derivative dataset: use :func:`storage.save`),
        patient names that cannot be told apart once reduced to letters and digits, or a folder with other content.
    OSError
        When a file cannot be written.
    """
    if cohort.masks is not None:
        raise ValueError("to_bids does not write masks: save the cohort with storage.save, "
                         "or leave them out with dataclasses.replace(cohort, masks=None)")
    write_folder(folder, sys.modules[__name__], cohort.table, cohort.schema, cohort.meta, cohort.batch,
                 shape=cohort.images.shape[1:], progress=progress)
    return Path(folder)


def from_bids(folder: str | Path, schema: Schema | None = None, seed: int | None = None, scale=None) -> Cohort:
    """Read a BIDS dataset of T1-weighted images; the images are read from their files when needed.

    Parameters
    ----------
    folder : path
        Holds ``participants.tsv`` and ``sub-*/anat/*_T1w.nii.gz``.
    schema : Schema, optional
        Which columns of ``participants.tsv`` are targets, attributes and latents. Needed for a dataset that was not
        written by :func:`to_bids`; numbers are recognised as such, ``n/a`` is missing.
    seed : int, optional
        To split by patient where the dataset has no column ``split``.
    scale : str or pair
        See :class:`bias_tutorial.files.ImageFiles`. Left out: ``'none'`` for what we wrote, which is in [0, 1]
        already, ``'type'`` for a dataset of others.

    Returns
    -------
    Cohort
        The same table, schema, meta and images that were written.

    Raises
    ------
    ValueError
        When the dataset is unfinished, a column or an image is missing, or a schema is needed.
    """
    folder = Path(folder)
    text = _read_tsv(folder, folder / "participants.tsv")
    description = _read_json(folder, folder / "dataset_description.json")
    record = description.get(_KEY)
    sessions = [_read_tsv(folder, p) for p in sorted(folder.glob("sub-*/sub-*_sessions.tsv"))]
    if sessions:
        text = text.merge(pd.concat(sessions, ignore_index=True), on="participant_id", how="right")
    if record is not None:
        meta, schema = record["meta"], Schema.from_dict(record["schema"])
        if sessions:  # there the table is kept by participant
            text = text.iloc[text[_ROW].astype(int).argsort()].reset_index(drop=True)
        table = from_text(text, record["dtypes"], MISSING)
        paths = image_paths(table, schema)
    else:
        if schema is None:
            raise ValueError(f"'{folder}' was not written by to_bids, so say which columns mean what: "
                             f"pass schema=Schema(...); 'participants.tsv' has {', '.join(text.columns)}")
        meta, table = {}, _foreign_table(text, schema, seed)
        _known_values(folder / "participants.tsv", table, schema)
        paths = [_only_image(folder, i) for i in text["participant_id"]]
    missing = [p for p in paths if not (folder / p).is_file()]
    if missing:
        raise ValueError(f"'{folder}': {len(missing)} of {len(paths)} images are missing, first '{missing[0]}'")
    scale = scale or ("type" if record is None else "none")
    return Cohort(ImageFiles([folder / p for p in paths], scale), table, schema, meta=meta)


# ---------------------------------------------------------------------- layout
def image_paths(table: pd.DataFrame, schema: Schema) -> list[str]:
    """Path of every row's image inside the dataset."""
    for reserved in ("participant_id", "session_id", _ROW):
        if reserved in table:
            raise ValueError(f"column '{reserved}' is BIDS's own; rename it in the cohort's table")
    subjects, sessions = _labels(table)
    if sessions is None:
        return [f"{s}/anat/{s}_T1w.nii.gz" for s in subjects]
    return [f"{s}/{e}/anat/{s}_{e}_T1w.nii.gz" for s, e in zip(subjects, sessions, strict=True)]


def _labels(table: pd.DataFrame) -> tuple[pd.Series, pd.Series | None]:
    """``sub-`` label of every row, and ``ses-`` label where a patient has several images: letters and digits only."""
    patients = table["patient_id"].astype(str)
    subjects = "sub-" + patients.str.replace(r"[^0-9A-Za-z]", "", regex=True)
    clash = pd.DataFrame({"s": subjects, "p": patients}).drop_duplicates()
    clash = clash[clash["s"].duplicated(keep=False) | (clash["s"] == "sub-")]
    if len(clash):
        raise ValueError(f"column 'patient_id': {sorted(clash['p'])[:3]} become the same or an empty BIDS label "
                         "once reduced to letters and digits; rename them")
    number = subjects.groupby(subjects).cumcount()
    if not number.any():
        return subjects, None
    return subjects, "ses-" + (number + 1).astype(str).str.zfill(max(2, len(str(number.max() + 1))))


def write_tables(folder: Path, table: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write everything but the images; ``dataset_description.json`` last, since it makes the folder a dataset."""
    subjects, sessions = _labels(table)
    text = to_text(table[list(record["dtypes"])], MISSING)
    for column, allowed in {**record["schema"]["targets"], **record["schema"]["attributes"]}.items():
        # As the levels are written: a 1 that a missing value made 1.0 stays "1".
        levels = {v: to_cell(v, column, MISSING) for v in allowed}
        text[column] = [levels.get(v, cell) for v, cell in zip(table[column], text[column], strict=True)]
    text.insert(0, "participant_id", subjects.to_numpy())
    meaning = {c: _meaning(c, record) for c in record["dtypes"]}
    by_image = []
    if sessions is not None:
        varies = text.groupby("participant_id").nunique().gt(1).any()
        by_image = [c for c in record["dtypes"] if varies[c]]
        per_session = text[["participant_id"]].assign(session_id=sessions.to_numpy(), **text[by_image])
        per_session[_ROW] = [str(k) for k in range(len(text))]
        for subject, part in per_session.groupby("participant_id"):
            _write_tsv(folder / subject / f"{subject}_sessions.tsv", part.drop(columns="participant_id"))
        row = {_ROW: {"Description": "Place of the image in the cohort's table, counted from 0."}}
        write_text(folder / "sessions.json", to_json({**{c: meaning[c] for c in by_image}, **row}))
    people = text.drop(columns=by_image).drop_duplicates("participant_id")
    _write_tsv(folder / "participants.tsv", people)
    write_text(folder / "participants.json", to_json({c: meaning[c] for c in people.columns if c in meaning}))
    write_text(folder / "README.md", _readme(table, record))
    write_text(folder / "dataset_description.json", to_json(_description(record)))


def _description(record: Mapping[str, Any]) -> dict[str, Any]:
    meta = record["meta"]
    design = meta.get("scenario", {}).get("name", "own data")
    made = (f"Simulated brains, design '{design}', {meta.get('n')} subjects, seed {meta.get('seed')}; the entry {_KEY} "
            "holds the whole design, from which the images can be made again.") if "simulator" in meta else (
            "Written from a cohort in memory.")
    values = {"Name": f"Where Bias Hides: {design}", "BIDSVersion": "1.10.0", "DatasetType": "raw",
              "Authors": ["Where Bias Hides"],
              "GeneratedBy": [{"Name": "bias_tutorial", "Version": __version__, "Description": made}]}
    licence = meta.get("template", {}).get("licence")
    if licence:
        values["License"] = licence
    return {**values, _KEY: {k: record[k] for k in ("schema", "dtypes", "meta")}}


_KNOWN = {
    "image_id": ("Name of the image.", None),
    "patient_id": ("Name of the patient, as in the cohort's table.", None),
    "split": ("Part of the study the patient belongs to.",
              {"train": "for fitting", "validation": "for choosing", "test": "for the final measurement"}),
    "disease": ("Disease class.", {"0": "no disease", "1": "disease"}),
    "severity": ("Latent: severity of the disease, in standard deviations of the simulated distribution.", None),
    "subject_norm": ("Latent: size of the normal anatomical variation, the Euclidean norm of its components.", None),
}


def _meaning(column: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a column means, for a reader who has only the files."""
    schema = record["schema"]
    description, levels = _KNOWN.get(column, (None, None))
    bias = {a["name"]: a for a in record["meta"].get("scenario", {}).get("attributes", ())}
    base = column.removesuffix("_strength")
    unit = None
    if column in bias:
        where = f" in region {bias[column]['region']}" if bias[column].get("region") else ""
        description = f"Bias attribute: {bias[column]['kind']}{where}."
        levels = {"0": "does not carry it", "1": "carries it"}
    elif column != base and base in bias:
        description = f"Latent: strength of the bias '{base}'; exactly 0 for everybody who does not carry it."
        unit = "standard units of the field" if bias[base].get("region") else "amount of the intensity change"
    elif re.fullmatch(r"subject_\d+", column):
        description = f"Latent: component {column.split('_')[1]} of normal anatomical variation."
        unit = "standard deviation"
    elif column == "severity":
        unit = "standard deviation"
    elif description is None:
        part = next((k for k in ("targets", "attributes", "latents") if column in schema[k]), None)
        description = {"targets": "What is to be predicted.", "attributes": "Attribute of the patient or of the image.",
                       "latents": "Latent: true value behind the image."}.get(part, "Further column of the table.")
    allowed = {**schema["targets"], **schema["attributes"]}.get(column)
    if allowed is not None:
        keys = [to_cell(v, column, MISSING) for v in allowed]
        levels = {key: (levels or {}).get(key, key) for key in keys}
    return {"Description": description, **({"Levels": levels} if levels else {}), **({"Units": unit} if unit else {})}


def _readme(table: pd.DataFrame, record: Mapping[str, Any]) -> str:
    origin = "The images come from a cohort in memory."
    if "simulator" in record["meta"]:
        origin = ("The images are simulated: one template brain, deformed into subjects, with a disease and with bias "
                  "effects of known strength. Nobody was scanned.")
    return "\n".join([
        "# A cohort of the course Where Bias Hides", "", origin, "",
        f"- {len(table)} images of {table['patient_id'].nunique()} patients",
        *(f"- {count} images in split {name}" for name, count in table["split"].value_counts(sort=False).items()),
        f"- targets: {', '.join(record['schema']['targets']) or 'none'}",
        f"- attributes: {', '.join(record['schema']['attributes']) or 'none'}",
        "",
        "`participants.json` says what each column means; `dataset_description.json` holds the design.",
        "A slice is stored as a volume with one voxel along its third axis.",
        "Simulated truth says nothing about patients: for teaching and research, not for clinical use.", "",
        notice(record["meta"])])


# ---------------------------------------------------------------------- tables
def _write_tsv(path: Path, text: pd.DataFrame) -> None:
    lines = ["\t".join(text.columns), *("\t".join(row) for row in text.itertuples(index=False))]
    write_text(path, "\n".join(lines) + "\n")


def _read_tsv(folder: Path, path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(unfinished(folder, path.name))
    try:
        text = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' cannot be read as a table with tabs: {error}") from error
    if path.name.endswith("_sessions.tsv"):
        text["participant_id"] = path.name.removesuffix("_sessions.tsv")
    if "participant_id" not in text:
        raise ValueError(f"'{path}' has no column 'participant_id'; it has {', '.join(text.columns)}")
    return text


def _read_json(folder: Path, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(unfinished(folder, path.name))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read as JSON: {error}") from error


def _foreign_table(text: pd.DataFrame, schema: Schema, seed: int | None) -> pd.DataFrame:
    """Table of a dataset that others wrote: numbers where all cells are numbers, one image a participant."""
    table = text.replace(MISSING, np.nan)
    for column in table.columns.drop("participant_id"):
        try:
            table[column] = pd.to_numeric(table[column])
        except ValueError:
            pass  # text stays text
    for column in ("image_id", "patient_id"):
        table[column] = table["participant_id"]
    if "split" not in table:
        if seed is None:
            raise ValueError("'participants.tsv' has no column 'split'; pass seed=... to split by patient")
        table["split"] = split_by_patient(table, seed)
    return table.drop(columns="participant_id")


def _known_values(path: Path, table: pd.DataFrame, schema: Schema) -> None:
    """Raise ``ValueError`` with file and line for a value that is not among the declared ones."""
    for column, allowed in {**schema.targets, **schema.attributes}.items():
        cells = table[column] if column in table else pd.Series(dtype=object)  # the cohort refuses a missing column
        for place in np.flatnonzero(~(cells.isin(allowed) | cells.isna())):
            raise ValueError(f"'{path}', line {place + 2}: column '{column}' holds {cells.iloc[place]!r}, "
                             f"expected one of {list(allowed)}")


def _only_image(folder: Path, participant: str) -> str:
    found = sorted((folder / participant).glob("**/anat/*_T1w.nii*"))
    if len(found) != 1:
        raise ValueError(f"'{folder}': participant '{participant}' has {len(found)} T1w images, expected 1"
                         + ("; for several, write a table with one line an image and use datasets.table.read"
                            if found else ""))
    return str(found[0].relative_to(folder))
