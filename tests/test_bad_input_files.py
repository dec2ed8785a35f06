"""Bad input files: each a clear error that names the file, the column and the value, and says what was expected."""

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from bias_tutorial.datasets import table

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples" / "table"
CALL = {
    "image": "file",
    "patient": "person",
    "split": "part",
    "targets": {"lesion": (0, 1)},
    "attributes": {"sex": ("F", "M")},
}


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SAMPLES, tmp_path / "t")
    return tmp_path / "t"


def edit(csv, line, column, value):
    """Change one cell of a CSV file; lines are counted from 1, the header."""
    rows = [r.split(",") for r in csv.read_text().splitlines()]
    rows[line - 1][rows[0].index(column)] = value
    csv.write_text("\n".join(",".join(r) for r in rows))


@pytest.mark.parametrize(
    ("line", "column", "value", "said"),
    [
        (4, "lesion", "2", r"png.csv', line 4: column 'lesion' holds '2', expected one of \[0, 1\]"),
        (4, "lesion", "yes", "line 4: column 'lesion' holds 'yes'"),
        (3, "sex", "X", r"line 3: column 'sex' holds 'X', expected one of \['F', 'M'\]"),
        (
            2,
            "part",
            "holdout",
            r"line 2: column 'part' holds 'holdout', expected one of \['train', 'validation', 'test'\]",
        ),
        (2, "part", "", "column 'split': value nan"),
        (2, "part", "test", "patient 'P0' is in several splits: test, train"),
        (3, "file", "images_png/scan0.png", "column 'file': 'images_png/scan0.png' stands in lines 2, 3"),
        (3, "file", "images_png/scan9.png", r"line 3: there is no image '.*scan9.png' \(1 of 6 images are missing\)"),
        (3, "file", "", "line 3: column 'file' is empty"),
        (3, "person", "", "line 3: column 'person' is empty"),
        (5, "age", "old", "line 5: column 'age' holds 'old', expected a number"),
        (5, "age", "130", "line 5: column 'age' holds 130, expected 0 to 120"),
        (5, "age", "inf", "line 5: column 'age' holds 'inf', expected a number"),
    ],
)
def test_a_wrong_cell_is_named(folder, line, column, value, said):
    edit(folder / "png.csv", line, column, value)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        table.read(folder / "png.csv", **CALL, bins={"age": (0, 50, 120)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": {"pneumonia": (0, 1)}}, "has no column 'pneumonia'; it has file, person, part, lesion, sex, age"),
        ({"image": "path"}, "has no column 'path'"),
        ({"patient": "mrn"}, "has no column 'mrn'"),
        ({"attributes": {"race": ("A", "B")}}, "has no column 'race'"),
        ({"split": "fold"}, "has no column 'fold'"),
        ({"bins": {"weight": (0, 1)}}, "has no column 'weight'"),
        ({"image_id": "name"}, "has no column 'name'"),
        ({"image_id": "person"}, "column 'person': 'P0' stands in lines 2, 3, expected once"),
        ({"targets": {}}, "targets must name at least one column"),
        ({"split": None}, "pass seed="),
        ({"bins": {"age": (50, 0)}}, "at least two increasing edges"),
        ({"bins": {"sex": (0, 1)}}, "'sex' is declared twice"),
    ],
)
def test_a_wrong_call_is_explained(folder, change, said):
    with pytest.raises(ValueError, match=said):
        table.read(folder / "png.csv", **{**CALL, **change})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (b"file,person,part,lesion,sex,age\n", "has no rows"),
        (b"file,person,part,lesion,sex,age\na.png,P0\n", "line 2: 2 cells, expected 6 as in the header"),
        (b"file,person\na.png,P0\nb.png,P0,train,1\n", "line 3: 4 cells, expected 2"),
        (b"file,file\na.png,P0\n", "names a column twice"),
        (b'file,person\n"a.png,P0\n', "cannot be read as a table"),
        (b"file,person\na.png,P0\n\nb.png,P1\n", "line 3: 0 cells, expected 2"),
        (b"\xff\xfe\x00\x01", "cannot be read as a table"),
    ],
)
def test_a_broken_table_is_named(folder, content, said):
    (folder / "png.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"png.csv'.*{said}"):
        table.read(folder / "png.csv", **CALL)
    with pytest.raises(FileNotFoundError, match="none.csv': there is no such table"):
        table.read(folder / "none.csv", **CALL)


def nifti(values):
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


def flip(content):
    """One bit changed near the end, where only the checksum can tell."""
    return content[:-30] + bytes([content[-30] ^ 4]) + content[-29:]


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("niigz", lambda c: c[: len(c) // 2], "cannot be read as nii.gz"),
        ("niigz", lambda c: c[:-4], "cannot be read as nii.gz"),
        ("niigz", flip, "cannot be read as nii.gz"),
        ("niigz", lambda c: b"", "cannot be read as nii.gz"),
        ("niigz", lambda c: gzip.compress(gzip.decompress(c)[:2000]), "cannot be read as nii.gz"),
        (
            "niigz",
            lambda c: gzip.compress(nifti(np.zeros((9, 8, 7), np.float32))),
            r"shape \(1, 9, 8, 7\), expected \(1, 36, 30\)",
        ),
        (
            "niigz",
            lambda c: gzip.compress(nifti(np.zeros((4, 4, 4, 2), np.float32))),
            r"expected a slice or a volume, got shape \(4, 4, 4, 2\)",
        ),
        (
            "niigz",
            lambda c: gzip.compress(nifti(np.full((36, 30), np.nan, np.float32))),
            "the image holds NaN or infinite values",
        ),
        (
            "niigz",
            lambda c: gzip.compress(nifti(np.zeros((36, 30), np.complex64))),
            "values of type complex64, expected real",
        ),
        ("png", lambda c: c[: len(c) // 2], "cannot be read as png"),
        ("jpg", lambda c: c[: len(c) // 2], "cannot be read as jpg"),
        ("jpg", lambda c: b"GIF89a", "cannot be read as jpg"),
        ("dcm", lambda c: c[:-100], "cannot be read as dcm"),
        ("dcm", lambda c: b"\0" * 400, "cannot be read as dcm"),
        ("npy", lambda c: c[:-5], "cannot be read as npy"),
        ("npy", lambda c: c.replace(b"'<f4'", b"'|O' ").ljust(len(c)), "cannot be read as npy"),
    ],
)
def test_a_broken_image_is_named(folder, name, damage, said):
    path = sorted((folder / f"images_{name}").iterdir())[2]
    path.write_bytes(damage(path.read_bytes()))
    cohort = table.read(folder / f"{name}.csv", **CALL)
    assert cohort.images[[0, 1]].shape[0] == 2  # the others can still be read
    with pytest.raises(ValueError, match=f"{path.name}'.*{said}"):
        cohort.batch([2])
    with pytest.raises(ValueError, match=f"{path.name}'.*{said}"):
        table.read(folder / f"{name}.csv", **CALL, check=True)


def test_other_shapes_formats_and_flat_images_are_named(folder):
    with pytest.raises(ValueError, match=r"scan0.png': image has shape \(1, 36, 30\), expected \(1, 64, 64\)"):
        table.read(folder / "png.csv", **CALL, shape=(1, 64, 64)).images[0]
    Image.fromarray(np.zeros((36, 30, 3), np.uint8)).save(folder / "images_png" / "scan1.png")
    with pytest.raises(ValueError, match=r"scan1.png': image has shape \(3, 36, 30\), expected \(1, 36, 30\)"):
        table.read(folder / "png.csv", **CALL).images[1]
    Image.fromarray(np.full((36, 30), 9, np.uint8)).save(folder / "images_png" / "scan1.png")
    with pytest.raises(ValueError, match="scan1.png': every value is 9"):
        table.read(folder / "png.csv", **CALL, scale="image").images[1]
    (folder / "images_png" / "scan1.gif").write_bytes(b"GIF89a")
    edit(folder / "png.csv", 3, "file", "images_png/scan1.gif")
    with pytest.raises(ValueError, match="scan1.gif': unknown format '.gif', expected one of .nii, .nii.gz, .png"):
        table.read(folder / "png.csv", **CALL).images[1]


def test_reading_never_writes(folder):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}
    for kind in ("niigz", "png", "dcm", "npy"):
        table.read(folder / f"{kind}.csv", **CALL, check=True)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")} == before
