"""Cheng's brain tumours: contrast-enhanced T1 slices of meningioma, glioma and pituitary tumour.

The set is doi:10.6084/m9.figshare.1512427 (Cheng et al., PLoS ONE 2015 and 2016): 3,064 slices of 233 patients in four
zip archives, one MATLAB v7.3 file (HDF5) a slice. As its README and the code of its users show, a file holds the struct
``cjdata`` with ``label`` (1 meningioma, 2 glioma, 3 pituitary tumour), ``PID`` (the patient), ``image``, ``tumorMask``
and ``tumorBorder`` (x and y in turn). ``cvind.mat``, the authors' folds, is not read. The set itself was not at hand:
what is here was tested on files of that form made by us.

Copies without patients go round as folders of pictures, one folder a class; those are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_dilation

from ..answer_key.one_sided import KINDS
from ..cohort import SPLITS, Cohort, Schema, split_by_patient
from ..files import PICTURES, Rows, read_image
from ..simulate.marks import MARKS, choose_marks, declared_marks, draw_marks
from .matlab import Place, entries, read_struct

FIELD_OF_VIEW_MM = 512 * 0.49  # Cheng et al. 2015: 512 pixels of .49 mm; we take smaller images for the same view


def read(path: str | Path = "data/brain_tumour", shape: tuple[int, int] = (256, 256), scale="image", seed: int = 0,
         shares: Sequence[float] = (0.5, 0.25, 0.25)) -> Cohort:
    """Read the set, from its archives as they come or unpacked, or from folders of pictures.

    A slice takes some hundredths of a second, again in every epoch. To train for long, keep the resampled set in one
    file: :func:`bias_tutorial.storage.save`, then ``load``.

    Parameters
    ----------
    path : path
        A folder with ``.mat`` files or zip archives of them, however deep, or one such archive. A slice that lies
        both unpacked and in an archive is read unpacked. Where there are none: a folder with one folder of PNG or
        JPEG pictures a class, named after it (``glioma``, ``glioma_tumor``, ...); other folders are left out.
    shape : (int, int)
        Rows and columns of the images. The set has slices of two sizes; each is resampled (averaged where it shrinks).
    scale : 'image' or (float, float)
        How stored values become [0, 1]: ``'image'`` by each slice's own minimum and maximum, which removes
        differences in brightness between scans; a pair is one window for all, values outside it clipped.
    seed, shares
        Of the split by patient, see :func:`bias_tutorial.cohort.split_by_patient`.

    Returns
    -------
    Cohort
        Images ``(n, 1, H, W)``, read when their rows are asked for; target ``kind``; ``masks`` of the tumours, boolean.
        Without masks for pictures, and there every image counts as a patient of its own, since nobody knows better:
        slices of one patient can then lie in two splits, and results look better than they are.

    Raises
    ------
    ValueError
        Naming the file: not MATLAB v7.3, a missing field, another label than 1 to 3, an empty PID, a mask of another
        size than its image, a broken archive, two files of one name. And when a split lacks a kind.
    FileNotFoundError
        When there is no such folder or archive.
    ModuleNotFoundError
        Without h5py, which only MATLAB files need.
    """
    path, shape = Path(path), tuple(int(s) for s in shape)
    if scale != "image" and not (isinstance(scale, (tuple, list)) and len(scale) == 2 and scale[0] < scale[1]):
        raise ValueError(f"scale must be 'image' or a pair (low, high) with low < high, got {scale!r}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape needs rows and columns of at least 1, got {shape}")
    if not path.exists():
        raise FileNotFoundError(f"'{path}': there is no such folder or archive; data/README.md says where the set is")
    places = _find(path)
    if places:
        rows = [(name, *_head(place)) for name, place in places.items()]
        masks = Rows(list(places.values()), partial(_mask, shape=shape), shape, bool)
        patients, reader = "PID", _slice
    else:
        places, kinds = _pictures(path)
        rows = [(name, name, kind) for name, kind in zip(places, kinds, strict=True)]
        masks, patients, reader = None, "not known: each image counts as a patient of its own", _picture
    table = pd.DataFrame(rows, columns=["image_id", "patient_id", "kind"])
    table.insert(2, "split", split_by_patient(table, seed, shares))
    for split, share in zip(SPLITS, shares, strict=True):
        lacking = [k for k in KINDS if share and k not in set(table["kind"][table["split"] == split])]
        if lacking:
            raise ValueError(f"'{path}': split '{split}' has no image of kind '{lacking[0]}' "
                             f"({table['kind'].value_counts().get(lacking[0], 0)} in all; seed {seed}, shares "
                             f"{tuple(shares)}): take another seed or other shares")
    images = Rows(list(places.values()), partial(reader, shape=shape, scale=scale), (1, *shape))
    meta = {"reader": "brain_tumour", "source": "doi:10.6084/m9.figshare.1512427", "patients": patients, "seed": seed,
            "shares": list(shares), "scale": scale if scale == "image" else list(scale)}
    if shape[0] == shape[1] and masks is not None:
        meta["spacing"] = FIELD_OF_VIEW_MM / shape[0]
    return Cohort(images, table, Schema({"kind": KINDS}), masks=masks, meta=meta)


def with_marks(cohort: Cohort, rho: float, gamma: float, seed: int,
               marked_splits: Sequence[str] = ("train", "validation")) -> Cohort:
    """Draw annotation marks on real slices, as the simulator does on its own.

    Parameters
    ----------
    cohort : Cohort
        From :func:`read`, square, with masks; also after taking a subset, saving and loading.
    rho, gamma, seed, marked_splits
        Shares of gliomas and pituitary tumours with a mark, and where:
        see :func:`bias_tutorial.simulate.marks.choose_marks`. The test split stays clean.

    Returns
    -------
    Cohort
        Images ``(n, 3, H, W)``, drawn when their rows are asked for; in the table ``glioma_mark`` and
        ``pituitary_mark``, 0 or 1, attributes where their share is above 0.

    Raises
    ------
    ValueError
        For a share outside [0, 1], a cohort without masks or spacing, or one that carries marks already.
    """
    if cohort.masks is None or "spacing" not in cohort.meta:
        raise ValueError("marks need tumour masks and the edge of a pixel in mm: square slices of the .mat files have "
                         "both, folders of pictures have not")
    if set(MARKS) & set(cohort.table):
        raise ValueError("the cohort carries marks already: draw them on the one that was read")
    marks = choose_marks(cohort.table["kind"], rho, gamma, seed, cohort.table["split"], marked_splits)
    images = Rows(range(len(cohort)), partial(_marked, cohort=cohort, marks=marks[list(MARKS)].to_numpy()),
                  (3, *cohort.images.shape[2:]))
    schema = replace(cohort.schema, attributes={**cohort.schema.attributes, **declared_marks(rho, gamma)})
    meta = {**cohort.meta, "marks": {"rho": float(rho), "gamma": float(gamma), "seed": int(seed),
                                     "splits": list(marked_splits)}}
    return Cohort(images, cohort.table.assign(**{c: marks[c].to_numpy() for c in MARKS}), schema, cohort.masks, meta)


def _marked(row: int, cohort: Cohort, marks: np.ndarray) -> np.ndarray:
    mask = cohort.masks[row] if marks[row].any() else None  # a mask that nothing is drawn on need not be read
    return draw_marks(cohort.images[row], mask, cohort.meta["spacing"], *map(bool, marks[row]))


def border(place: Place) -> np.ndarray:
    """The tumour's border as the radiologists drew it, in pixels of the stored image.

    Which of the two numbers of a point is the row is not said by the set; the order that fits the mask is taken.

    Parameters
    ----------
    place : Place
        One of ``cohort.masks.places``.

    Returns
    -------
    numpy.ndarray
        Shape ``(points, 2)``: row and column, counted from 0.
    """
    fields = read_struct(place, "cjdata", ["tumorBorder", "tumorMask"])
    near = binary_dilation(fields["tumorMask"] > 0, iterations=2)
    points = fields["tumorBorder"].astype(float).reshape(-1, 2) - 1  # MATLAB counts from 1
    last = np.array(near.shape) - 1
    fits = [near[tuple(np.clip(np.round(p).astype(int), 0, last).T)].sum() for p in (points, points[:, ::-1])]
    return points if fits[0] > fits[1] else points[:, ::-1]


# ---------------------------------------------------------------------- finding
def _find(path: Path) -> dict[str, Place]:
    """Every slice in MATLAB's format by its name, in the order of their numbers."""
    loose = {} if path.is_file() else _by_name(Place(p) for p in sorted(path.rglob("*.mat")))
    packed = _by_name(Place(a, n) for a in ([path] if path.is_file() else sorted(path.rglob("*.zip")))
                      for n in entries(a))
    places = {**packed, **loose}
    return {k: places[k] for k in sorted(places, key=lambda k: (int(k) if k.isdecimal() else np.inf, k))}


def _by_name(places) -> dict[str, Place]:
    found = {}
    for place in places:
        name = Path(place.name or place.file).stem
        if name == "cvind" or name.startswith("."):  # the authors' folds; what some systems add to archives
            continue
        if name in found:
            raise ValueError(f"'{place}' and '{found[name]}' have one name, expected one file for each slice")
        found[name] = place
    return found


def _pictures(path: Path) -> tuple[dict[str, Place], list[str]]:
    """Pictures by name, and the kind of each by its folder."""
    if path.is_file():
        raise ValueError(f"'{path}' holds no .mat file; an archive of archives has to be unpacked once")
    folders = {k: [d for d in sorted(path.iterdir()) if d.is_dir() and d.name.lower().startswith(k)] for k in KINDS}
    for kind, found in folders.items():
        if len(found) != 1:
            named = ", ".join(sorted(d.name for d in path.iterdir() if d.is_dir())) or "none"
            raise ValueError(f"'{path}' holds no .mat file (an archive of archives has to be unpacked once), and "
                             f"{len(found)} folders of pictures for '{kind}', expected one; its folders: {named}")
    files = [(p, k) for k in KINDS for p in sorted(folders[k][0].rglob("*")) if p.suffix.lower() in PICTURES]
    if not files:
        raise ValueError(f"'{path}': its folders hold no picture, expected files ending in {', '.join(PICTURES)}")
    return {p.relative_to(path).as_posix(): Place(p) for p, _ in files}, [k for _, k in files]


# ---------------------------------------------------------------------- reading
def _head(place: Place) -> tuple[str, str]:
    """Patient and kind; the sizes are checked."""
    fields = read_struct(place, "cjdata", ["label"], ["PID"], ["image", "tumorMask", "tumorBorder"])
    label = np.ravel(fields["label"])
    if label.size != 1 or label[0] not in (1, 2, 3):
        raise ValueError(f"'{place}': label is {', '.join(map(str, label))}, expected 1, 2 or 3 ({', '.join(KINDS)})")
    if not fields["PID"]:
        raise ValueError(f"'{place}': PID is empty, so nobody knows whose slice it is")
    if len(fields["image"]) != 2 or fields["image"] != fields["tumorMask"]:
        raise ValueError(f"'{place}': tumorMask has shape {fields['tumorMask']}, image {fields['image']}, "
                         "expected two axes and one shape")
    if np.prod(fields["tumorBorder"]) % 2:
        raise ValueError(f"'{place}': tumorBorder has {int(np.prod(fields['tumorBorder']))} numbers, "
                         "expected pairs of x and y")
    return fields["PID"], KINDS[int(label[0]) - 1]


def _slice(place: Place, shape: tuple[int, int], scale) -> np.ndarray:
    return _unit(read_struct(place, "cjdata", ["image"])["image"], place, shape, scale)


def _picture(place: Place, shape: tuple[int, int], scale) -> np.ndarray:
    return _unit(read_image(place.file)[0].mean(axis=0), place, shape, scale)  # grey pictures are often stored as RGB


def _unit(stored: np.ndarray, place: Place, shape: tuple[int, int], scale) -> np.ndarray:
    if not np.isfinite(stored).all():
        raise ValueError(f"'{place}': the image holds NaN or infinite values")
    low, high = (float(stored.min()), float(stored.max())) if scale == "image" else scale
    if low == high:
        raise ValueError(f"'{place}': every value is {low:g}, so the image cannot be scaled by its own range")
    return np.clip((_resize(stored, shape) - np.float32(low)) / np.float32(high - low), 0, 1)[None]


def _mask(place: Place, shape: tuple[int, int]) -> np.ndarray:
    mask = _resize(read_struct(place, "cjdata", ["tumorMask"])["tumorMask"] > 0, shape) >= 0.5
    if not mask.any():
        raise ValueError(f"'{place}': tumorMask marks no pixel at {shape[0]} x {shape[1]}")
    return mask


def _resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    image = np.ascontiguousarray(image, dtype=np.float32)
    if image.shape == shape:
        return image
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR))
