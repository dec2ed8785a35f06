"""A small study as a researcher may have it: a CSV table and a folder of NIfTI files, all of it simulated.

It lies in ``data/samples/study`` of the repository. Where the package was installed without the repository,
:func:`study` makes the same files again.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from ..files import atomic, write_text
from ..scenario import preset
from ..simulate import brain

REPOSITORY = Path(__file__).resolve().parents[2] / "data" / "samples" / "study"
SEED, SUBJECTS, SECOND_SCANS, SHAPE, AGREEMENT = 41, 200, 40, (42, 36), 0.8
NOISE = 4.0  # of the scanner, in grey levels; differs between two scans of one subject


def study(folder: str | Path | None = None) -> Path:
    """Give the table of a small simulated study with a folder of images beside it.

    The disease reshapes one region of a template brain. The two sites have different scanners, and most of the sick
    were scanned at one of them. Sex and age are drawn without regard to anything else. Some subjects have two scans.

    Parameters
    ----------
    folder : path, optional
        Where to write it. Without it the files of the repository are used where there are any; elsewhere they are
        written to ``samples_study`` in the working directory.

    Returns
    -------
    path
        Of ``study.csv``: one line a scan, with ``file`` (8-bit NIfTI slices of 42 x 36 pixels, 1 mm), ``subject``,
        ``visit``, ``site`` (north, south), ``sex`` (F, M), ``age`` in years and ``diagnosis`` (healthy, sick).
    """
    if folder is None and (REPOSITORY / "study.csv").is_file():
        return REPOSITORY / "study.csv"
    folder = Path("samples_study" if folder is None else folder)
    cohort, draw, rows = brain(preset("intensity", AGREEMENT), SUBJECTS, SEED, SHAPE), np.random.default_rng(SEED), []
    for k in range(SUBJECTS):
        subject = cohort.table.iloc[k]
        person = {"subject": f"S{k + 1:03d}", "site": ("south", "north")[int(subject["intensity"])],
                  "sex": "FM"[draw.integers(2)], "age": int(draw.integers(40, 86)),
                  "diagnosis": ("healthy", "sick")[int(subject["disease"])]}
        for visit in (1, 2) if k < SECOND_SCANS else (1,):
            grey = 255 * cohort.images[k, 0]
            grey = grey + draw.normal(0, NOISE, SHAPE) * (grey > 0)
            name = f"images/{person['subject']}_visit{visit}.nii.gz"
            _write(folder / name, grey.round().clip(0, 255).astype(np.uint8))
            rows.append({"file": name, "visit": visit, **person})
    columns = ["file", "subject", "visit", "site", "sex", "age", "diagnosis"]
    write_text(folder / "study.csv", pd.DataFrame(rows)[columns].to_csv(index=False, lineterminator="\n"))
    return folder / "study.csv"


def _write(path: Path, pixels: np.ndarray) -> None:
    """One slice of 8 bits as NIfTI; the same pixels give the same bytes."""
    nifti = nibabel.Nifti1Image(pixels[..., None], np.eye(4))
    nifti.header.set_xyzt_units("mm")
    with atomic(path) as handle:
        handle.write(gzip.compress(nifti.to_bytes(), mtime=0))
