"""Readers of real data: own tables of every format, SimBA's layout, and the samples in data/."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bias_tutorial import simulate, storage
from bias_tutorial.cohort import Cohort
from bias_tutorial.datasets import brain_tumour, simba, table
from bias_tutorial.scenario import preset

sys.path.insert(0, str(Path(__file__).parent))
import make_samples  # noqa: E402

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples"
ROUNDING = {"niigz": 0, "npy": 0, "png": 0.5 / 255, "png16": 0.5 / 65535, "dcm": 0.5 / 4095, "jpg": 0.3}
COLUMNS = {
    "image": "file",
    "patient": "person",
    "split": "part",
    "targets": {"lesion": (0, 1)},
    "attributes": {"sex": ("F", "M")},
    "bins": {"age": (0, 50, 70, 90)},
}


def read_sample(folder, kind, **changes):
    return table.read(folder / "table" / f"{kind}.csv", **{**COLUMNS, **changes})


@pytest.fixture(scope="module")
def slices():
    return simulate.brain(preset("near"), 6, make_samples.SEED, shape=make_samples.SLICE)


# ---------------------------------------------------------------------- samples
def test_samples_are_small_and_can_be_made_again(tmp_path):
    make_samples.make(tmp_path / "again")
    names = [
        sorted(p.relative_to(r).as_posix() for p in r.rglob("*") if p.is_file()) for r in (SAMPLES, tmp_path / "again")
    ]
    assert names[0] == names[1] and len(names[0]) > 60
    assert sum(p.stat().st_size for p in SAMPLES.rglob("*") if p.is_file()) < 1_000_000
    for read in (
        lambda r: storage.from_bids(r / "bids"),
        lambda r: simba.read(r / "simba"),
        lambda r: brain_tumour.read(r / "brain_tumour", shape=make_samples.SLICE, seed=22),
        *(lambda r, k=k: read_sample(r, k) for k in ("colour", *ROUNDING)),
    ):
        stored, again = read(SAMPLES), read(tmp_path / "again")
        pd.testing.assert_frame_equal(stored.table, again.table, rtol=1e-6)
        # Last bits may differ between platforms; a jpg may differ by a level or two.
        np.testing.assert_allclose(stored.images[:], again.images[:], atol=0.01)


# ---------------------------------------------------------------------- own tables
@pytest.mark.parametrize("kind", list(ROUNDING))
def test_every_format_gives_the_same_cohort(slices, kind):
    cohort = read_sample(SAMPLES, kind)
    assert isinstance(cohort, Cohort) and cohort.images.shape == (6, 1, *make_samples.SLICE)
    images = cohort.batch([0, 3, 5])
    assert images.dtype == np.float32
    error = np.abs(images - slices.images[[0, 3, 5]])
    assert error.max() <= ROUNDING[kind] + 1e-6 and error.mean() < 0.03
    expected = slices.table["disease"].to_numpy(dtype=float, copy=True)
    expected[3] = np.nan  # missing stays missing
    np.testing.assert_array_equal(cohort.table["lesion"], expected)
    assert cohort.table["sex"].tolist() == ["FM"[m] for m in slices.table["morphology"]]
    assert cohort.table["age"].tolist() == ["[0, 50)", "[0, 50)", "[50, 70)", "[50, 70)", "[70, 90]", "[70, 90]"]
    assert cohort.table["age_value"].tolist() == [30, 40, 50, 60, 70, 80]
    assert cohort.schema.attributes["age"] == ("[0, 50)", "[50, 70)", "[70, 90]")
    assert cohort.table["split"].tolist() == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2


def test_colour_has_three_channels(slices):
    image = read_sample(SAMPLES, "colour").images[0]
    assert image.shape == (3, *make_samples.SLICE)
    np.testing.assert_allclose(image[0], slices.images[0, 0], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(image[2], 1 - slices.images[0, 0], atol=0.5 / 255 + 1e-6)


def test_rows_are_read_by_any_index_and_only_when_asked_for(tmp_path):
    shutil.copytree(SAMPLES / "table", tmp_path / "table")
    cohort = read_sample(tmp_path, "png")
    everything = cohort.images[:]
    for rows in ([4, 1], slice(1, 4), np.array([True, False] * 3)):
        np.testing.assert_array_equal(cohort.images[rows], everything[rows])
    np.testing.assert_array_equal(cohort.images[2], everything[2])
    np.testing.assert_array_equal(cohort.images.subset([5, 0])[1], everything[0])
    (tmp_path / "table" / "images_png" / "scan4.png").write_bytes(b"broken")
    again = read_sample(tmp_path, "png")  # found only when read, unless asked to check
    assert again.batch([0, 5]).shape[0] == 2
    with pytest.raises(ValueError, match="scan4.png': cannot be read as png"):
        again.batch([4])
    with pytest.raises(ValueError, match="scan4.png': cannot be read as png"):
        read_sample(tmp_path, "png", check=True)


def test_split_by_patient_keeps_patients_together():
    cohort = read_sample(SAMPLES, "png", split=None, seed=3, shares=(1 / 3, 1 / 3, 1 / 3))
    assert sorted(cohort.table.groupby("patient_id")["split"].first()) == ["test", "train", "validation"]
    assert cohort.table.groupby("patient_id")["split"].nunique().eq(1).all()
    assert read_sample(SAMPLES, "png", patient=None).table["patient_id"].is_unique


def test_scale_rules(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(-100, 900, (2, 5, 4)).astype(np.int16)
    lines = ["file,y"]
    for k in (0, 1):
        np.save(tmp_path / f"{k}.npy", values[k])
        lines.append(f"{k}.npy,{k}")
    (tmp_path / "t.csv").write_text("\n".join(lines))

    def read(scale):
        return table.read(
            tmp_path / "t.csv", image="file", targets={"y": (0, 1)}, patient=None, seed=0, scale=scale
        ).images[:]

    with pytest.raises(ValueError, match=r"0.npy': values of type int16 .* say scale=\(low, high\)"):
        read("type")
    for k, image in enumerate(read("image")[:, 0]):
        low, high = values[k].min(), values[k].max()
        np.testing.assert_allclose(image, (values[k] - float(low)) / (float(high) - low), atol=1e-6)
    np.testing.assert_allclose(read((0, 500))[:, 0], np.clip(values / 500, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(read("none")[:, 0], values)
    for wrong in ("minmax", (3, 1), (1,), 5):
        with pytest.raises(ValueError, match="scale must be"):
            read(wrong)


def test_dicom_says_how_bright_its_values_are(tmp_path):
    stored = np.arange(20, dtype=np.uint16).reshape(4, 5) * 200
    make_samples.write_dicom(tmp_path / "a.dcm", stored)
    make_samples.write_dicom(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    make_samples.write_dicom(tmp_path / "c.dcm", stored, RescaleSlope=2, RescaleIntercept=-1000)
    (tmp_path / "t.csv").write_text("file,y\na.dcm,0\nb.dcm,1\nc.dcm,1\n")

    def read(**changes):
        return table.read(
            tmp_path / "t.csv", image="file", targets={"y": (0, 1)}, patient=None, seed=0, **changes
        ).images

    images = read()
    np.testing.assert_allclose(images[0][0], stored / 4095, atol=1e-6)
    np.testing.assert_allclose(images[1][0], 1 - stored / 4095, atol=1e-6)
    with pytest.raises(ValueError, match="c.dcm': values of type float64 from -1000 to 6600 have no range"):
        images[2]
    np.testing.assert_allclose(read(scale=(-1000, 3000))[2][0], np.clip(stored * 2 / 4000, 0, 1), atol=1e-6)


def test_several_targets_volumes_and_features(tmp_path):
    rng = np.random.default_rng(1)
    for k in range(3):
        np.save(tmp_path / f"v{k}.npy", rng.random((6, 5, 4), dtype=np.float32))
        np.save(tmp_path / f"f{k}.npy", rng.normal(size=7))
    (tmp_path / "t.tsv").write_text(
        "vol\tfeat\tname\tedema\tgrade\tpatient\n"
        + "".join(
            f"v{k}.npy\tf{k}.npy\tx{k}\t{e}\t{g}\tp\n"
            for k, (e, g) in enumerate([("1.0", "low"), ("NA", "HIGH"), ("0", "")])
        )
    )
    call = {"targets": {"edema": (0, 1), "grade": ("low", "high")}, "patient": "patient", "seed": 0, "image_id": "name"}
    cohort = table.read(tmp_path / "t.tsv", image="vol", **call)
    assert cohort.images.shape == (3, 1, 6, 5, 4) and cohort.table["image_id"].tolist() == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(cohort.table["edema"], [1, np.nan, 0])
    assert cohort.table["grade"].tolist()[:2] == ["low", "high"] and cohort.table["grade"].isna()[2]
    features = table.read(tmp_path / "t.tsv", image="feat", **call).images
    np.testing.assert_allclose(features[1], np.load(tmp_path / "f1.npy"), rtol=1e-6)  # never scaled


# ---------------------------------------------------------------------- SimBA
@pytest.mark.parametrize("name", ["both", "near", "intensity", "no_bias"])
def test_written_in_simbas_layout_and_read(tmp_path, name):
    cohort = simulate.brain(preset(name), 20, 2, shape=(20, 24, 20) if name == "near" else (30, 26))
    simba.write(cohort, tmp_path / "s")
    back = simba.read(tmp_path / "s")
    pd.testing.assert_frame_equal(back.table, cohort.table)
    np.testing.assert_array_equal(back.images[:], cohort.images)
    assert back.schema == cohort.schema and back.meta == json.loads(json.dumps(cohort.meta))

    assert "Louis Collins" in (tmp_path / "s" / "NOTICE.txt").read_text()
    (tmp_path / "s" / ".cohort.json").unlink()  # now it is read as the public data are
    public = simba.read(tmp_path / "s", attribute="intensity" if name == "intensity" else "morphology", scale="none")
    order = [cohort.table.index[(cohort.table["split"] == s)].tolist() for s in ("train", "validation", "test")]
    order = sum(order, [])
    np.testing.assert_array_equal(public.images[:], cohort.images[order])
    for column in ("split", "disease", "severity", *cohort.schema.attributes):
        assert public.table[column].tolist() == cohort.table[column].iloc[order].tolist()
    if name == "near":
        np.testing.assert_allclose(
            public.table["morphology_strength"], cohort.table["morphology_strength"].iloc[order], atol=6e-4
        )


def test_the_public_layout(slices):
    cohort = simba.read(SAMPLES / "simba")
    made = simulate.brain(preset("both"), 8, make_samples.SEED + 1, shape=make_samples.VOLUME)
    assert cohort.schema.attributes == {"morphology": (0, 1), "intensity": (0, 1)}
    assert cohort.schema.latents == ("severity", "isv_dst")
    first = cohort.table.iloc[0]
    row = int(np.flatnonzero(made.table["split"] == "train")[0])
    assert first["split"] == "train" and first["disease"] == made.table["disease"][row]
    assert (first["morphology"], first["intensity"]) == tuple(made.table.loc[row, ["morphology", "intensity"]])
    image = made.images[row]
    np.testing.assert_allclose(cohort.images[0], (image - image.min()) / (image.max() - image.min()), atol=1e-4)


def test_the_bias_encoding_column_and_csv_inside_the_split_folder(tmp_path):
    shutil.copytree(SAMPLES / "simba", tmp_path / "s")
    for short in ("train", "val", "test"):
        rows = pd.read_csv(tmp_path / "s" / f"{short}.csv", index_col=0)
        rows = rows.assign(morph_bias_label=rows["bias_label"].isin([0, 2]).astype(int)).drop(columns="bias_label")
        (tmp_path / "s" / f"{short}.csv").unlink()
        rows.to_csv(tmp_path / "s" / short / f"{short}.csv")
    cohort, whole = simba.read(tmp_path / "s"), simba.read(SAMPLES / "simba")
    assert cohort.table["morphology"].tolist() == whole.table["morphology"].tolist() and "intensity" not in cohort.table
    np.testing.assert_array_equal(cohort.images[:], whole.images[:])


def test_what_simba_cannot_hold_is_refused(tmp_path):
    cohort = simulate.brain(preset("both"), 8, 2, shape=(30, 26))
    missing = cohort.table.assign(disease=cohort.table["disease"].astype(float).where(cohort.table.index > 0))
    for bad, said in (
        (replace(cohort, masks=np.ones((8, 30, 26))), "no masks"),
        (replace(cohort, table=missing), "column 'disease' holds nan in row 0, expected 0 or 1"),
        (replace(cohort, table=cohort.table.assign(bias_label=1)), "'bias_label' is SimBA's own"),
        (
            replace(cohort, table=cohort.table.drop(columns="severity"), schema=replace(cohort.schema, latents=())),
            "needs column 'severity'",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            simba.write(bad, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: (f / "val.csv").write_text("filename\nx.nii.gz\n"),
            "val.csv' has no column 'class_label'; it has filename",
        ),
        (
            lambda f: (f / "val.csv").write_text("filename,class_label\nx.nii.gz,1\n"),
            "line 2: there is no image '.*val/x.nii.gz'",
        ),
        (
            lambda f: (f / "val.csv").write_text("filename,class_label\n../a.nii.gz,1\n"),
            "'../a.nii.gz', expected the name of a file",
        ),
        (lambda f: (f / "val.csv").write_text((f / "val.csv").read_text().replace(",0,", ",7,")), "expected one of"),
        (
            lambda f: [(f / f"{s}.csv").unlink() for s in ("train", "val", "test")],
            "holds none of train.csv, val.csv and test.csv",
        ),
        (lambda f: (f / "val.csv").write_bytes(b""), "val.csv' has no rows"),
    ],
)
def test_a_broken_simba_folder_is_named(tmp_path, change, said):
    shutil.copytree(SAMPLES / "simba", tmp_path / "s")
    change(tmp_path / "s")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        simba.read(tmp_path / "s")


def test_our_own_simba_folder_with_a_table_missing_is_noticed(tmp_path):
    storage.write_simulation("near", 20, 2, tmp_path / "s", (30, 26), "simba", 1, progress=False)
    (tmp_path / "s" / "val.csv").unlink()
    with pytest.raises(ValueError, match=r"holds 1\d of its 20 rows: a table is missing"):
        simba.read(tmp_path / "s")
