"""Make data/samples: one tiny set for each reader and format, from our own simulated brains.

    python tests/make_samples.py data/samples
"""

import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from bias_tutorial import simulate, storage
from bias_tutorial.datasets import samples
from bias_tutorial.files import write_nifti, write_text
from bias_tutorial.scenario import preset

SEED, SLICE, VOLUME = 11, (36, 30), (16, 18, 16)
FORMATS = ("nii.gz", "png", "png16", "colour", "jpg", "dcm", "npy")


def make(folder):
    """Write all samples into a new folder."""
    folder = Path(folder)
    storage.to_bids(simulate.brain(preset("both"), 8, SEED, shape=VOLUME), folder / "bids")
    make_simba(folder / "simba")
    make_brain_tumour(folder / "brain_tumour")
    samples.study(folder / "study")
    slices = simulate.brain(preset("near"), 6, SEED, shape=SLICE)
    for name in FORMATS:
        make_table(slices, folder / "table", name)


def make_simba(folder):
    """The two-bias layout as its authors' code writes it: raw brightness, paths of another machine."""
    cohort = simulate.brain(preset("both"), 8, SEED + 1, shape=VOLUME)
    label = {(1, 1): 0, (0, 1): 1, (1, 0): 2, (0, 0): 3}
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = []
        for number, k in enumerate(np.flatnonzero(cohort.table["split"] == split)):
            subject = cohort.table.iloc[k]
            code = label[subject["morphology"], subject["intensity"]]
            isv, effect = subject["subject_1"], subject["severity"]
            name = f"{number:05d}_{np.around(isv, 3)}_S_{np.around(effect, 3)}_D_{code}_B.nii.gz"
            write_nifti(folder / short / name, cohort.images[k] * 250)
            rows.append({"": k, "isv_dst": isv, "effect_dst": effect, "isv_bin": int(np.clip(isv + 5, 0, 9)),
                         "bias_label": code, "class_label": subject["disease"],
                         "filepath": f"/data/of/someone/else/{short}/{name}", "filename": name})
        write_text(folder / f"{short}.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def make_brain_tumour(folder):
    """Cheng's layout: one archive and one folder unpacked; a bright disc for a tumour, and all else made up."""
    cohort = simulate.brain(preset("near"), 12, SEED + 2, shape=SLICE)
    rows, columns = np.indices(SLICE)
    for k in range(12):
        centre, radius = (12 + k % 4, 10 + k % 5), 3 + k % 3
        mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        border = np.column_stack([centre[1] + radius * np.cos(angle), centre[0] + radius * np.sin(angle)]) + 1
        image = np.round(1000 * np.where(mask, 0.9, cohort.images[k, 0])).astype(np.int16)
        write_matlab(folder / "brainTumorDataPublic_7-12" / f"{k + 1}.mat", label=k % 3 + 1, PID=f"10{k:02d}",
                     image=image, tumorBorder=border.reshape(1, -1), tumorMask=mask)
    with zipfile.ZipFile(folder / "brainTumorDataPublic_1-6.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(1, 7):
            path = folder / "brainTumorDataPublic_7-12" / f"{number}.mat"
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
            path.unlink()


def write_matlab(path, **fields):
    """Struct ``cjdata`` in a file as MATLAB 7.3 writes it: text header, arrays transposed, letters as their codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        struct = file.create_group("cjdata")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, value in fields.items():
            kind = "char" if isinstance(value, str) else "logical" if np.asarray(value).dtype == bool else "double"
            value = np.atleast_2d([[ord(letter) for letter in value]] if kind == "char" else value)
            stored = value.astype({"char": np.uint16, "logical": np.uint8}.get(kind, value.dtype))
            stored = stored.astype(float) if stored.dtype == int else stored
            # MATLAB packs what is large enough to be worth it
            item = struct.create_dataset(name, data=stored.T, compression="gzip" if stored.size > 100 else None)
            item.attrs["MATLAB_class"] = np.bytes_("int16" if stored.dtype == np.int16 else kind)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Sat Jan 01 00:00:00 2000 HDF5 schema 1.00 ."
    with open(path, "r+b") as handle:
        handle.write(header.ljust(124) + b"\x00\x02IM")


def make_table(cohort, folder, kind):
    """A researcher's table with images of one format; one target is missing."""
    ending = {"png16": "png", "colour": "png"}.get(kind, kind)
    rows = []
    for k in range(len(cohort)):
        subject = cohort.table.iloc[k]
        path = Path(f"images_{kind.replace('.', '')}") / f"scan{k}.{ending}"
        write_picture(folder / path, cohort.images[k], kind)
        rows.append({"file": path.as_posix(), "person": f"P{k // 2}", "part": ("train", "val", "test")[k // 2],
                     "lesion": "" if k == 3 else str(subject["disease"]), "sex": "FM"[subject["morphology"]],
                     "age": 30 + 10 * k})
    write_text(folder / f"{kind.replace('.', '')}.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def write_picture(path, image, kind):
    """One image (1, H, W) in [0, 1] in the given format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    eight = np.round(image[0] * 255).astype(np.uint8)
    if kind == "nii.gz":
        write_nifti(path, image)
    elif kind == "png16":
        Image.fromarray(np.round(image[0] * 65535).astype(np.uint16)).save(path)
    elif kind == "colour":
        Image.fromarray(np.stack([eight, eight // 2, 255 - eight], axis=-1)).save(path)
    elif kind == "dcm":
        write_dicom(path, np.round(image[0] * 4095).astype(np.uint16))
    elif kind == "npy":
        np.save(path, image.astype(np.float32))
    else:
        Image.fromarray(eight).save(path)


def write_dicom(path, pixels, **elements):
    """A 12-bit grey DICOM file of nobody; further elements by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {"SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": "1.2.3", "Modality": "MR",
              "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1, "BitsAllocated": 16,
              "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
              "PixelData": pixels.astype("<u2").tobytes()}
    for name, value in {**values, **elements}.items():
        setattr(scan, name, value)
    pydicom.dcmwrite(path, scan, enforce_file_format=True)


if __name__ == "__main__":
    make(sys.argv[1])
