"""The reader of CheXpert, on small files of that form, good and broken."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bias_tutorial.datasets import chexpert, cxr
from bias_tutorial.datasets.cxr import FINDINGS

ORDER = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
         "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
         "Support Devices")  # of its tables
LABELS = ("1.0", "0.0", "-1.0", "")


def line(k, part="train"):
    lateral = k % 4 == 3
    patient = k // 2 + (64540 if part == "valid" else 1)
    path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study1/view{k % 2 + 1}_" \
           f"{'lateral' if lateral else 'frontal'}.jpg"
    row = {"Path": path, "Sex": ("Female", "Male")[k // 2 % 2], "Age": (0, 19, 20, 64, 90)[k // 2 % 5],
           "Frontal/Lateral": "Lateral" if lateral else "Frontal", "AP/PA": "" if lateral else ("AP", "PA")[k // 4 % 2]}
    return row | {finding: LABELS[(k + j) % 4] for j, finding in enumerate(ORDER)}


def grey(k):
    return np.random.default_rng(k).integers(0, 256, (10, 8), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    for part, n in (("train", 24), ("valid", 4)):
        table = pd.DataFrame([line(k, part) for k in range(n)])
        table.to_csv(tmp_path / f"{part}.csv", index=False)
        for k, path in enumerate(table["Path"]):
            file = tmp_path / path.removeprefix("CheXpert-v1.0-small/")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey(k)).save(file, quality=100)
    return tmp_path


def change(root, row, column, value, part="train"):
    table = pd.read_csv(root / f"{part}.csv", dtype=str, keep_default_na=False)
    table.loc[row, column] = value
    table.to_csv(root / f"{part}.csv", index=False)


def test_table_and_images(root):
    cohort = chexpert.read(root, size=8)
    table = cohort.table
    frontal = [k for k in range(24) if k % 4 != 3]
    assert len(cohort) == 21 and cohort.meta["excluded"]["reasons"] == {"lateral view": 7}
    assert table["image_id"][0] == "train/patient00001/study1/view1_frontal.jpg"
    assert table["patient_id"].tolist()[:18] == [f"patient{k // 2 + 1:05d}" for k in frontal]
    assert table["sex"].tolist()[:18] == ["FM"[k // 2 % 2] for k in frontal]
    assert table["view"].tolist()[:18] == [("AP", "PA")[k // 4 % 2] for k in frontal]
    assert table["age_group"].tolist()[:8] == ["0-20", "0-20", "0-20", "20-40", "20-40", "60-80", "80+", "80+"]
    for finding in FINDINGS:
        values = [(1, 0, np.nan, 0)[(k + ORDER.index(finding)) % 4] for k in frontal]
        np.testing.assert_array_equal(table[finding][:18], values)
    assert (table.groupby("patient_id")["split"].nunique() == 1).all() and table["split"].nunique() == 3
    assert cohort.schema.attributes["view"] == ("AP", "PA") and cohort.images.shape == (21, 1, 8, 8)
    images = cohort.batch([0, 4])
    for image, k in zip(images, (0, 5), strict=True):
        np.testing.assert_allclose(image[0], grey(k)[1:9] / 255, atol=0.02)  # the middle square; JPEG rounds
    assert "21 kept, 7 left out\n  7 lateral view" in cxr.summary(cohort)


def test_lateral_views_and_the_official_split(root):
    cohort = chexpert.read(root, size=4, lateral=True, split="official", shares=(0.5, 0.25, 0.25))
    table = cohort.table
    assert len(cohort) == 28 and cohort.schema.attributes["view"] == ("AP", "PA", "lateral")
    assert (table["view"] == "lateral").tolist() == [k % 4 == 3 for k in (*range(24), *range(4))]
    assert (table["split"] == "test").tolist() == [False] * 24 + [True] * 4
    patients = table.groupby("patient_id")["split"].first().value_counts()
    assert patients.to_dict() == {"train": 8, "validation": 4, "test": 2}


def test_16_bit_and_colour_images_have_the_same_scale(root):
    paths = [root / f"train/patient0000{p}/study1/view1_frontal.jpg" for p in (1, 2, 3)]
    Image.fromarray(grey(0)).convert("RGB").save(paths[0], format="PNG")
    Image.fromarray(grey(0).astype(np.uint16) * 257).save(paths[1], format="PNG")
    Image.fromarray(grey(0)).save(paths[2], format="PNG")
    images = cxr.Radiographs(paths, 5)[:]
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    np.testing.assert_allclose(images[1:], images[[0, 0]], atol=1e-6)
    uniform = Image.fromarray(np.full((30, 50), 51, np.uint8))
    uniform.save(paths[0], format="PNG")
    np.testing.assert_allclose(cxr.Radiographs(paths, 7)[0], 0.2, atol=1e-6)
    assert isinstance(cxr.Radiographs(paths, 5).subset([0, 2]), cxr.Radiographs)
    np.testing.assert_array_equal(cxr.Radiographs(paths, 5).subset([2])[0], images[2])


@pytest.mark.parametrize(("column", "value", "reason"), [
    ("Path", "CheXpert-v1.0-small/train/study1/view1_frontal.jpg", "path names no patient"),
    ("Path", "CheXpert-v1.0-small/train/../../patient00001/study1/view1.jpg", "path names no patient"),
    ("Path", "CheXpert-v1.0-small/train/patient00009/study1/none.jpg", "image file not found"),
    ("Age", "-3", "age outside 0 to 120"),
    ("Age", "old", "age is not a number"),
    ("Fracture", "3", "label other than 1, 0, -1 and blank"),
])
def test_a_bad_row_is_left_out_and_listed(root, tmp_path, column, value, reason):
    change(root, 6, column, value)
    change(root, 2, "Fracture", "x", "valid")
    cohort = chexpert.read(root, size=4, listing=tmp_path / "left_out.csv")
    reasons = cohort.meta["excluded"]["reasons"]
    assert sum(reasons.values()) == 9 and reasons[reason] >= 1
    listed = pd.read_csv(tmp_path / "left_out.csv", keep_default_na=False)
    bad = listed[listed["reason"] != "lateral view"]
    assert bad["line"].tolist() == [8, 4] and "valid/" in bad["id"].iloc[1]
    assert bad["reason"].iloc[0] == reason


def test_a_path_in_two_lines_is_left_out(root):
    change(root, 6, "Path", line(5)["Path"])
    assert chexpert.read(root, size=4).meta["excluded"]["reasons"] == {"lateral view": 7,
                                                                      "path stands in several lines": 2}


def test_what_is_not_known_is_counted(root):
    for row, column, value in ((0, "Sex", "Unknown"), (1, "AP/PA", "LL"), (2, "Age", "")):
        change(root, row, column, value)
    cohort = chexpert.read(root, size=4)
    assert cohort.meta["unknown"] == {"sex": {"Unknown": 1}, "age_group": {"(empty)": 1}, "view": {"LL": 1}}
    assert cohort.table[["sex", "view", "age"]].isna().sum().tolist() == [1, 1, 1]


def test_an_unreadable_image_is_named(root):
    broken = root / "train/patient00002/study1/view1_frontal.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    cohort = chexpert.read(root, size=4)
    for call in (cohort.images.check, lambda: cohort.batch([2])):
        with pytest.raises(ValueError, match="patient00002/study1/view1_frontal.jpg': cannot be read as jpg"):
            call()
    assert cohort.batch([0, 1]).shape == (2, 1, 4, 4)


def test_refusals(root):
    with pytest.raises(ValueError, match="split must be 'patient' or 'official', got 'random'"):
        chexpert.read(root, split="random")
    with pytest.raises(ValueError, match="policy must be one of"):
        chexpert.read(root, policy="u-ones")
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, got 0"):
        chexpert.read(root, size=0)
    (root / "valid.csv").unlink()
    with pytest.raises(FileNotFoundError, match="valid.csv': there is no such table"):
        chexpert.read(root)
