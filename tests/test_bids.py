"""BIDS: what is written passes the official validator and comes back the same."""

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from bias_tutorial import simulate, storage
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.scenario import preset


def validate(folder):
    """Errors and warnings of the official validator, as sets of codes."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    run = subprocess.run([program, folder, "--format", "json"], capture_output=True, text=True)
    issues = json.loads(run.stdout)["issues"]["issues"]
    found = {level: {i["code"] for i in issues if i["severity"] == level} for level in ("error", "warning")}
    assert (run.returncode != 0) == bool(found["error"])
    return found


def visits():
    """Several images of a patient, text and numbers, missing values, names that BIDS does not allow."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d", "e"],
            "patient_id": ["P-1", "P 2", "P-1", "x_3", "P 2"],
            "split": ["train", "test", "train", "validation", "test"],
            "finding": [1.0, np.nan, 0.0, 1.0, 0.0],
            "sex": ["F", "M", "F", np.nan, "M"],
            "age": [61.5, 40.0, 62.5, np.nan, 41.0],
            "seen": [True, False, True, True, False],
            "count": np.array([3, 2, 1, 5, 4], dtype=np.int16),
        }
    )
    schema = Schema({"finding": (0, 1)}, {"sex": ("F", "M")}, ("age",))
    return Cohort(rng.random((5, 1, 7, 6, 5), dtype=np.float32), table, schema)


@pytest.fixture(scope="module", params=[(36, 30), (16, 18, 16)], ids=["slices", "volumes"])
def brains(request):
    return simulate.brain(preset("both"), 16, 8, shape=request.param)


@pytest.fixture(scope="module")
def written(brains, tmp_path_factory):
    return storage.to_bids(brains, tmp_path_factory.mktemp("bids") / "set")


def test_the_official_validator_finds_no_error(written):
    assert validate(written)["error"] == set()


def test_the_validator_would_find_an_error(written, tmp_path):
    broken = shutil.copytree(written, tmp_path / "broken")
    (broken / "dataset_description.json").write_text('{"Name": "x"}')
    shutil.copy(broken / "sub-00001" / "anat" / "sub-00001_T1w.nii.gz", broken / "sub-00001" / "anat" / "scan.nii.gz")
    assert {"JSON_KEY_REQUIRED", "NOT_INCLUDED"} <= validate(broken)["error"]


def test_table_images_schema_and_meta_come_back(brains, written):
    back = storage.from_bids(written)
    pd.testing.assert_frame_equal(back.table, brains.table)
    np.testing.assert_array_equal(back.images[:], brains.images)
    assert back.images[2].dtype == np.float32 and back.images.shape == brains.images.shape
    assert back.schema == brains.schema and back.meta == json.loads(json.dumps(brains.meta))
    twins = simulate.counterfactual(back, intensity=0)
    np.testing.assert_array_equal(twins.images, simulate.counterfactual(brains, intensity=0).images)


def test_files_say_where_they_lie_and_are_the_same_every_time(brains, written, tmp_path):
    one = written / "sub-00001" / "anat" / "sub-00001_T1w.nii.gz"
    nifti = nibabel.load(one)
    np.testing.assert_allclose(nifti.affine, brains.meta["affine"])
    assert nifti.get_data_dtype() == np.float32 and nifti.header.get_xyzt_units()[0] == "mm"
    assert nifti.shape == (*brains.images.shape[2:], 1)[:3]
    again = storage.to_bids(brains, tmp_path / "again")
    for path in written.rglob("*.*"):
        if path.is_file():
            assert (again / path.relative_to(written)).read_bytes() == path.read_bytes()


def test_every_column_is_described(brains, written):
    described = json.loads((written / "participants.json").read_text())
    columns = (written / "participants.tsv").read_text().splitlines()[0].split("\t")
    assert columns[0] == "participant_id" and set(columns[1:]) == set(brains.table.columns) == set(described)
    assert all(len(d["Description"]) > 10 for d in described.values())
    assert (
        "latent" in described["severity"]["Description"].lower()
        and described["severity"]["Units"] == "standard deviation"
    )
    assert described["intensity"]["Levels"] == {"0": "does not carry it", "1": "carries it"}
    description = json.loads((written / "dataset_description.json").read_text())
    assert "seed 8" in description["GeneratedBy"][0]["Description"] and "MNI" in description["License"]
    readme = (written / "README.md").read_text()
    assert "not for clinical use" in readme and "Copyright (C) 1993-2009 Louis Collins" in readme


def test_visits_become_sessions_and_come_back(tmp_path):
    cohort = visits()
    folder = storage.to_bids(cohort, tmp_path / "v")
    assert validate(folder)["error"] == set()
    assert (folder / "sub-P1" / "ses-02" / "anat" / "sub-P1_ses-02_T1w.nii.gz").is_file()
    people = pd.read_csv(folder / "participants.tsv", sep="\t", keep_default_na=False)
    assert people["participant_id"].tolist() == ["sub-P1", "sub-P2", "sub-x3"] and people["sex"].tolist() == [
        "F",
        "M",
        "n/a",
    ]
    assert "age" not in people and "n/a" in (folder / "sub-x3" / "sub-x3_sessions.tsv").read_text()
    back = storage.from_bids(folder)
    pd.testing.assert_frame_equal(back.table, cohort.table)
    np.testing.assert_array_equal(back.images[:], cohort.images)


def test_a_data_set_of_others_needs_a_schema(written, tmp_path):
    theirs = shutil.copytree(written, tmp_path / "theirs")
    text = json.loads((theirs / "dataset_description.json").read_text())
    (theirs / "dataset_description.json").write_text(json.dumps({k: text[k] for k in ("Name", "BIDSVersion")}))
    (theirs / "participants.tsv").write_text(
        "participant_id\tage\tdiagnosis\nsub-00002\t71.5\tn/a\nsub-00001\tn/a\tAD\n"
    )
    with pytest.raises(ValueError, match="pass schema=Schema.*participant_id, age, diagnosis"):
        storage.from_bids(theirs)
    schema = Schema({"diagnosis": ("HC", "AD")}, latents=("age",))
    with pytest.raises(ValueError, match="no column 'split'; pass seed="):
        storage.from_bids(theirs, schema)
    cohort = storage.from_bids(theirs, schema, seed=1)
    assert cohort.table["diagnosis"].isna().tolist() == [True, False] and cohort.table["age"][0] == 71.5
    np.testing.assert_array_equal(cohort.images[:], storage.from_bids(written).images[[1, 0]])
    (theirs / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-00077\tAD\n")
    with pytest.raises(ValueError, match="participant 'sub-00077' has 0 T1w images, expected 1"):
        storage.from_bids(theirs, Schema({"diagnosis": ("HC", "AD")}), seed=1)


def test_what_bids_cannot_hold_is_refused_and_nothing_written(brains, tmp_path):
    cohort = visits()
    table = cohort.table
    wrong = [
        (replace(cohort, masks=np.ones((5, 7, 6, 5))), "to_bids does not write masks"),
        (
            replace(cohort, table=table.assign(patient_id=["P-1", "P1", "a", "b", "c"])),
            "'P-1', 'P1'.* same or an empty",
        ),
        (replace(cohort, table=table.assign(session_id=1)), "'session_id' is BIDS's own"),
        (replace(cohort, table=table.assign(note="a\tb")), "column 'note'.*holds a tab"),
        (replace(cohort, table=table.assign(note="n/a")), "column 'note': the text 'n/a'"),
        (
            replace(cohort, table=table.assign(note=pd.Categorical(list("xyxyx")))),
            "'note' of type category cannot be kept",
        ),
        (replace(cohort, table=table.assign(note=pd.Series([1, "a", 2, 3, 4], dtype=object))), "'note' of type object"),
        (replace(cohort, images=np.zeros((5, 3, 8, 8), np.float32)), r"takes an image of shape .*got \(3, 8, 8\)"),
        (replace(cohort, images=np.full((5, 1, 8, 8), np.nan, np.float32)), "image 'a' holds NaN"),
    ]
    for k, (bad, said) in enumerate(wrong):
        with pytest.raises(ValueError, match=said):
            storage.to_bids(bad, tmp_path / str(k))
        assert not list((tmp_path / str(k)).rglob("*.nii.gz")) and not list((tmp_path / str(k)).rglob("*.tsv"))


def test_a_damaged_set_is_named(written, tmp_path):
    with pytest.raises(ValueError, match="holds no 'participants.tsv'"):
        storage.from_bids(tmp_path)
    damaged = shutil.copytree(written, tmp_path / "d")
    image = damaged / "sub-00003" / "anat" / "sub-00003_T1w.nii.gz"
    content = image.read_bytes()
    image.write_bytes(content[:-40])
    with pytest.raises(ValueError, match="sub-00003_T1w.nii.gz': cannot be read as nii.gz"):
        storage.from_bids(damaged).images[:]
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.float32), np.eye(4)), image)
    with pytest.raises(ValueError, match=r"sub-00003_T1w.nii.gz': image has shape \(1, 5, 4, 3\), expected"):
        storage.from_bids(damaged).images[:]
    image.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(ValueError, match="sub-00003_T1w.nii.gz': cannot be read"):
        storage.from_bids(damaged).images[:]
    image.unlink()
    with pytest.raises(ValueError, match="1 of 16 images are missing, first 'sub-00003/anat/sub-00003_T1w.nii.gz'"):
        storage.from_bids(damaged)
    table = damaged / "participants.tsv"
    table.write_text("\n".join(line.split("\t", 1)[1] for line in table.read_text().splitlines()))
    with pytest.raises(ValueError, match="has no column 'participant_id'"):
        storage.from_bids(damaged)
    (damaged / "dataset_description.json").write_text("{")
    shutil.copy(written / "participants.tsv", table)
    with pytest.raises(ValueError, match="dataset_description.json' cannot be read as JSON"):
        storage.from_bids(damaged)


def test_reading_never_writes(written):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in written.rglob("*")}
    storage.from_bids(written).images[:]
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in written.rglob("*")} == before
