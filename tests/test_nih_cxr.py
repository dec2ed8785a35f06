"""The reader of NIH ChestX-ray14, on small files of that form, good and broken."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bias_tutorial.datasets import nih_cxr

HEADER = ("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
          "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],")  # twelve cells, the last one empty
LABELS = ("No Finding", "Cardiomegaly|Effusion", "Hernia", "Pleural_Thickening")
AGES = ("058", "19", "20", "79", "80")


def name(k):
    return f"{k // 2 + 1:08d}_{k % 2:03d}.png"


def grey(k):
    return np.random.default_rng(k).integers(0, 256, (6, 6), dtype=np.uint8)


def write(root, changes=None, n=20):
    """Two images a patient; the last four in the test list; images in two folders, as its archives unpack."""
    columns = HEADER.split(",")
    lines = []
    for k in range(n):
        cells = [name(k), LABELS[k % 4], str(k % 2), str(k // 2 + 1), AGES[k // 2 % 5], "FM"[k // 2 % 2],
                 ("PA", "AP")[k % 2], "2682", "2749", "0.143", "0.143", ""]
        for (row, column), value in (changes or {}).items():
            if row == k:
                cells[columns.index(column)] = value
        lines.append(",".join(cells))
        path = root / f"images_00{k % 2 + 1}" / "images" / name(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(k)).save(path)
    (root / "Data_Entry_2017.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (root / "train_val_list.txt").write_text("\n".join(name(k) for k in range(n - 4)))
    (root / "test_list.txt").write_text("".join(name(k) + "\n" for k in range(n - 4, n)))
    return root


def test_table_and_images(tmp_path):
    cohort = nih_cxr.read(write(tmp_path), size=6)
    table = cohort.table
    assert table["image_id"].tolist() == [name(k) for k in range(20)]
    assert table["patient_id"].tolist() == [str(k // 2 + 1) for k in range(20)]
    assert table["age"].tolist()[::2] == [58, 19, 20, 79, 80] * 2
    assert table["age_group"].tolist()[:10:2] == ["40-60", "0-20", "20-40", "60-80", "80+"]
    assert table["sex"].tolist()[:4] == ["F", "F", "M", "M"] and table["view"].tolist()[:2] == ["PA", "AP"]
    found = [set(LABELS[k % 4].split("|")) for k in range(20)]
    for finding in nih_cxr.FINDINGS:
        assert table[finding].tolist() == [float(finding in labels) for labels in found]
    assert table[list(nih_cxr.FINDINGS)].sum().sum() == 25
    assert (table["split"] == "test").tolist() == [False] * 16 + [True] * 4
    assert (table.groupby("patient_id")["split"].nunique() == 1).all() and table["split"].nunique() == 3
    for image, k in zip(cohort.batch([0, 13]), (0, 13), strict=True):
        np.testing.assert_allclose(image[0], grey(k) / 255, atol=1e-6)
    assert cohort.meta["excluded"]["reasons"] == {} and cohort.meta["unknown"]["sex"] == {}


def test_all_patients_can_be_divided(tmp_path):
    write(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="test_list.txt': there is no such list; split='patient' needs none"):
        nih_cxr.read(tmp_path)
    splits = [nih_cxr.read(tmp_path, split="patient", seed=seed).table["split"].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2] and splits[0].count("train") == 10


@pytest.mark.parametrize(("written", "years"), [("058Y", 58), ("018M", 1.5), ("073D", 0.2), ("58.5", 58.5)])
def test_ages_of_the_first_release(tmp_path, written, years):
    table = nih_cxr.read(write(tmp_path, {(4, "Patient Age"): written})).table
    assert table["age"][4] == pytest.approx(years)


@pytest.mark.parametrize(("column", "value", "reason"), [
    ("Patient Age", "411", "age outside 0 to 120"),
    ("Patient Age", "-2", "age outside 0 to 120"),
    ("Patient Age", "58 years", "age is not a number"),
    ("Finding Labels", "Cardiomegaly|Gout", "label unknown or missing"),
    ("Finding Labels", "", "label unknown or missing"),
    ("Finding Labels", "No Finding|Mass", "'No Finding' beside a finding"),
    ("Patient ID", "", "Patient ID is empty"),
    ("Image Index", "00000099_000.png", "in neither train_val_list.txt nor test_list.txt"),
])
def test_a_bad_row_is_left_out_and_listed(tmp_path, column, value, reason):
    cohort = nih_cxr.read(write(tmp_path, {(4, column): value}), listing=tmp_path / "left_out.csv")
    assert cohort.meta["excluded"]["reasons"] == {reason: 1} and len(cohort) == 19
    assert pd.read_csv(tmp_path / "left_out.csv")["line"].tolist() == [6]


def test_missing_and_doubled_images_are_left_out(tmp_path):
    write(tmp_path, {(5, "Image Index"): name(4)})
    (tmp_path / "images_001" / "images" / name(8)).unlink()
    cohort = nih_cxr.read(tmp_path)
    assert cohort.meta["excluded"]["reasons"] == {"image stands in several lines": 2, "image file not found": 1}
    np.testing.assert_allclose(nih_cxr.read(tmp_path, size=6).images[4], grey(6)[None] / 255, atol=1e-6)


def test_what_is_not_known_is_counted(tmp_path):
    changes = {(0, "Patient Gender"): "O", (1, "View Position"): "", (2, "Patient Age"): ""}
    cohort = nih_cxr.read(write(tmp_path, changes))
    assert cohort.meta["unknown"] == {"sex": {"O": 1}, "age_group": {"(empty)": 1}, "view": {"(empty)": 1}}
    assert len(cohort) == 20 and cohort.table[["sex", "view", "age"]].isna().sum().tolist() == [1, 1, 1]


def test_refusals(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="split must be 'official' or 'patient', got 'own'"):
        nih_cxr.read(tmp_path, split="own")
    (tmp_path / "images_001" / "images" / name(3)).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name(3)}' have one name"):
        nih_cxr.read(tmp_path)
    (tmp_path / "images_001" / "images" / name(3)).unlink()
    (tmp_path / "images_002" / "images" / name(3)).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name(3)}': cannot be read as png"):
        nih_cxr.read(tmp_path).images.check()
    with (tmp_path / "test_list.txt").open("a") as handle:
        handle.write(name(0))
    with pytest.raises(ValueError, match=f"image '{name(0)}' is in both lists"):
        nih_cxr.read(tmp_path)
    text = (tmp_path / "Data_Entry_2017.csv").read_text()
    (tmp_path / "Data_Entry_2017.csv").write_text(text.replace("Patient Gender", "Sex"))
    with pytest.raises(ValueError, match="2017.csv' has no column 'Patient Gender', expected one; it has Image"):
        nih_cxr.read(tmp_path)
