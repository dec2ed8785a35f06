"""The data contract: what every cohort keeps, and what it refuses by name."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from bias_tutorial.cohort import SPLITS, Cohort, Schema, split_by_patient

SCHEMA = Schema({"disease": (0, 1)}, {"sex": ("F", "M")}, ("severity",))


def table(**changes):
    columns = {"image_id": list("abcdef"), "patient_id": [1, 1, 2, 2, 3, 4],
               "split": ["train", "train", "validation", "validation", "test", "test"],
               "disease": [0, 1, 0, 1, 0, np.nan], "sex": ["F", "F", "M", "M", "F", "M"],
               "severity": np.linspace(-1, 1, 6)}
    return pd.DataFrame({**columns, **changes})


def images(n=6):
    return np.random.default_rng(0).random((n, 1, 4, 5)).astype(np.float32)


class Lazy:
    """Images read on demand: counts how many were ever asked for."""

    def __init__(self, rows):
        self.rows, self.asked = rows, []

    @property
    def shape(self):
        return self.rows.shape

    def __getitem__(self, rows):
        self.asked.append(len(rows))
        return self.rows[rows]


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy, lambda x: x.astype(np.float64)])
def test_a_batch_is_float32_whatever_holds_the_images(wrap):
    pixels = images()
    cohort = Cohort(wrap(pixels), table(), SCHEMA)
    batch = cohort.batch([4, 0])
    assert batch.dtype == np.float32 and isinstance(batch, np.ndarray)
    np.testing.assert_array_equal(batch, pixels[[4, 0]])
    assert len(cohort) == 6


def test_only_the_rows_asked_for_are_read():
    source = Lazy(images())
    Cohort(source, table(), SCHEMA).batch([1, 2])
    assert source.asked == [2]


def test_subset_and_split_keep_rows_together():
    masks = np.arange(6)
    cohort = Cohort(images(), table(), SCHEMA, masks=masks, meta={"seed": 1})
    part = cohort.subset([5, 2])
    assert part.table["image_id"].tolist() == ["f", "c"] and part.table.index.tolist() == [0, 1]
    np.testing.assert_array_equal(part.batch([0, 1]), images()[[5, 2]])
    assert part.masks.tolist() == [5, 2] and part.meta == {"seed": 1}
    assert cohort.subset(cohort.table["sex"] == "M").table["image_id"].tolist() == ["c", "d", "f"]
    for name in SPLITS:
        assert (cohort.split(name).table["split"] == name).all() and len(cohort.split(name)) == 2


def test_missing_values_are_nan_and_allowed():
    assert np.isnan(Cohort(images(), table(), SCHEMA).table["disease"].iloc[5])


@pytest.mark.parametrize(("changes", "names"), [
    ({"image_id": list("abcdea")}, ["image_id", "'a'", "2 rows"]),
    ({"disease": [0, 1, 2, 0, 1, 0]}, ["disease", "2", "row 2", r"\[0, 1\]"]),
    ({"sex": ["F", "F", "M", "x", "F", "M"]}, ["sex", "'x'", "row 3", "'F', 'M'"]),
    ({"split": ["train", "train", "dev", "dev", "test", "test"]}, ["split", "'dev'", "row 2", "validation"]),
    ({"split": ["train", "train", None, None, "test", "test"]}, ["split", "row 2"]),
    ({"patient_id": [1, 1, 1, 2, 3, 4]}, ["patient '1'", "train, validation"]),
])
def test_a_bad_table_is_refused_with_column_and_value(changes, names):
    with pytest.raises(ValueError) as error:
        Cohort(images(), table(**changes), SCHEMA)
    for name in names:
        assert error.match(name)


@pytest.mark.parametrize("column", ["image_id", "patient_id", "split", "disease", "sex", "severity"])
def test_a_missing_column_is_named(column):
    with pytest.raises(ValueError, match=f"column '{column}' is missing"):
        Cohort(images(), table().drop(columns=column), SCHEMA)


def test_counts_that_disagree_and_empty_tables_are_refused():
    with pytest.raises(ValueError, match="5 images for 6 table rows"):
        Cohort(images(5), table(), SCHEMA)
    with pytest.raises(ValueError, match="4 masks for 6 table rows"):
        Cohort(images(), table(), SCHEMA, masks=np.zeros(4))
    with pytest.raises(ValueError, match="no rows"):
        Cohort(images(0), table().iloc[:0], SCHEMA)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_named_when_read(value):
    pixels = images()
    pixels[3, 0, 1, 1] = value
    cohort = Cohort(pixels, table(), SCHEMA)
    cohort.batch([0, 2])
    with pytest.raises(ValueError, match="image 'd'"):
        cohort.batch([2, 3])


def test_empty_subsets_and_unknown_splits_are_refused():
    cohort = Cohort(images(), table(), SCHEMA)
    with pytest.raises(ValueError, match="empty"):
        cohort.subset(cohort.table["sex"] == "x")
    with pytest.raises(ValueError, match="'dev', expected one of train, validation, test"):
        cohort.split("dev")
    with pytest.raises(ValueError, match="no row in split 'test'"):
        cohort.subset([0, 1]).split("test")


def test_a_schema_survives_json():
    assert Schema.from_dict(json.loads(json.dumps(SCHEMA.to_dict()))) == SCHEMA


def test_split_by_patient_keeps_patients_whole_and_shares():
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"patient_id": rng.permutation(np.repeat(np.arange(200), rng.integers(1, 6, 200)))})
    split = split_by_patient(rows, seed=0)
    assert (split.groupby(rows["patient_id"]).nunique() == 1).all()
    patients = split.groupby(rows["patient_id"]).first().value_counts()
    assert patients[list(SPLITS)].tolist() == [100, 50, 50]
    order = np.random.default_rng(0).permutation(200)  # stored runs stand on this order
    assert set(rows["patient_id"][split == "train"]) == set(order[:100])
    assert set(rows["patient_id"][split == "test"]) == set(order[150:])
    assert split.equals(split_by_patient(rows, seed=0)) and not split.equals(split_by_patient(rows, seed=1))
    shuffled = rows.sample(frac=1, random_state=3)
    assert split_by_patient(shuffled, seed=0).sort_index().equals(split)
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_patient(rows, seed=0, shares=(0.5, 0.4, 0.3))
