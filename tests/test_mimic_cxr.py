"""The reader of MIMIC-CXR embeddings, on small files of that form: what is kept, what is left out and why."""

import gzip
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bias_tutorial import storage
from bias_tutorial.datasets import cxr, embeddings, mimic_cxr
from bias_tutorial.datasets.cxr import FINDINGS

sys.path.insert(0, str(Path(__file__).parent))
from test_tfrecord import example, write  # noqa: E402

WIDTH = 6
PEOPLE = [("F", "WHITE", 33, "Medicare"), ("M", "BLACK/CAPE VERDEAN", 19, "Medicaid"),
          ("F", "ASIAN - SOUTH EAST ASIAN", 20, "Private"), ("M", "HISPANIC/LATINO - DOMINICAN", 80, "Other"),
          ("M", "WHITE - RUSSIAN", 120, "No charge"), ("F", "UNABLE TO OBTAIN", 0, "Medicare")]
LABELS = ("1.0", "0.0", "-1.0", "")  # of findings in turn


def vector(k):
    return np.random.default_rng(k).normal(size=WIDTH).astype(np.float32)


def lines(n=24):
    """Two images a patient, in the layout of the set."""
    rows = []
    for k in range(n):
        subject, study, dicom = 10000000 + k // 2, 50000000 + k, f"{k:08x}-0a"
        sex, race, age, insurance = PEOPLE[k // 2 % len(PEOPLE)]
        row = {"subject_id": subject, "study_id": study, "dicom_id": dicom,
               "path": f"files/p10/p{subject}/s{study}/{dicom}.tfrecord", "gender": sex, "race": race,
               "anchor_age": age, "insurance": insurance, "split": "ignored"}
        rows.append(row | {finding: LABELS[(k + j) % 4] for j, finding in enumerate(FINDINGS)})
    return pd.DataFrame(rows)


def write_set(folder, table=None, ending=".tfrecord"):
    """Table and one file an image."""
    table = lines() if table is None else table
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "metadata.csv", index=False)
    for k, path in enumerate(table["path"]):
        path = (folder / path).with_suffix("")
        if ending == ".npy":
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(f"{path}.npy", vector(k))
        else:
            packer = gzip.compress if ending.endswith("gz") else bytes
            write(Path(f"{path}{ending}"), example(embedding=vector(k), **{"image/id": b"x"}), packer=packer)
    return folder / "metadata.csv"


def read(csv, **changes):
    return mimic_cxr.read(csv, **{"width": WIDTH, "progress": False, **changes})


def expected(cohort):
    return np.stack([vector(int(name[:8], 16)) for name in cohort.table["image_id"]])


@pytest.fixture
def csv(tmp_path):
    return write_set(tmp_path / "set")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(embeddings, "_PART", 5)


# ---------------------------------------------------------------------- what is read
def test_table_and_embeddings(csv):
    cohort = read(csv)
    table = cohort.table
    assert len(cohort) == 24 and cohort.images.shape == (24, WIDTH)
    np.testing.assert_array_equal(cohort.batch(np.arange(24)), expected(cohort))
    assert table["patient_id"].tolist()[:3] == ["10000000", "10000000", "10000001"]
    assert (table.groupby("patient_id")["split"].nunique() == 1).all() and table["split"].nunique() == 3
    first = table.drop_duplicates("patient_id").head(6)
    assert first["sex"].tolist() == ["F", "M", "F", "M", "M", "F"]
    assert first["race"].tolist()[:5] == ["White", "Black", "Asian", "Hispanic", "White"]
    assert first["race"].isna().tolist()[5]
    assert first["age"].tolist() == [33, 19, 20, 80, 120, 0]
    assert first["age_group"].tolist() == ["20-40", "0-20", "20-40", "80+", "80+", "0-20"]
    assert first["insurance"].tolist() == [p[3] for p in PEOPLE]
    assert list(cohort.schema.targets) == list(FINDINGS) and set(cohort.schema.attributes) == {
        "sex", "race", "age_group", "insurance"}
    assert cohort.meta["unknown"] == {"sex": {}, "race": {"UNABLE TO OBTAIN": 4}, "age_group": {}, "insurance": {}}
    assert cohort.meta["excluded"] == {"rows": 24, "kept": 24, "reasons": {}, "first": {}}
    assert cohort.meta["labels"]["Edema"] == {"1": 6, "0": 6, "-1": 6, "blank": 6}
    json.dumps(cohort.meta)


@pytest.mark.parametrize(("policy", "blank", "values"), [
    ("missing", "negative", [1, 0, np.nan, 0]),
    ("missing", "missing", [1, 0, np.nan, np.nan]),
    ("negative", "missing", [1, 0, 0, np.nan]),
    ("positive", "negative", [1, 0, 1, 0]),
])
def test_labels_follow_the_policy(csv, policy, blank, values):
    table = read(csv, policy=policy, blank=blank).table
    for j, finding in enumerate(FINDINGS):
        np.testing.assert_array_equal(table[finding], [values[(k + j) % 4] for k in range(24)])


@pytest.mark.parametrize("ending", [".tfrecord", ".tfrecord.gz", ".npy"])
def test_files_are_found_by_name_in_a_folder(tmp_path, ending):
    csv = write_set(tmp_path / "files", ending=ending)
    table = pd.read_csv(csv).drop(columns="path")
    table.to_csv(tmp_path / "own.csv", index=False)
    cohort = read(tmp_path / "own.csv", embeddings=tmp_path / "files")
    np.testing.assert_array_equal(cohort.images[:], expected(cohort))


@pytest.mark.parametrize("name", ["s{}", "{}"])
def test_a_study_may_have_one_file(tmp_path, name):
    table = lines(8).assign(study_id=[50000000 + k // 2 for k in range(8)])
    table.to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "studies").mkdir()
    for k in range(4):
        np.save(tmp_path / "studies" / (name.format(50000000 + k) + ".npy"), vector(k)[None])
    images = read(tmp_path / "own.csv", embeddings=tmp_path / "studies").images[:]
    np.testing.assert_array_equal(images, np.stack([vector(k // 2) for k in range(8)]))


def test_one_file_of_all_rows_is_mapped_and_not_copied(csv, tmp_path):
    values = np.stack([vector(k) for k in range(24)]).astype(np.float16)
    values[3], values[4, 2], values[20, 0] = 0, np.nan, np.inf
    np.save(tmp_path / "all.npy", values)
    cohort = read(csv, embeddings=tmp_path / "all.npy")
    assert cohort.meta["excluded"]["reasons"] == {embeddings.NOT_FINITE: 2, embeddings.ZEROS: 1}
    assert cohort.meta["excluded"]["first"][embeddings.ZEROS] == [
        {"line": 5, "id": "00000003-0a", "detail": "row 3 of all.npy"}]
    kept = [k for k in range(24) if k not in (3, 4, 20)]
    np.testing.assert_array_equal(cohort.images[:], values[kept].astype(np.float32))
    assert not list(csv.parent.glob("*.embeddings"))
    for wrong, said in ((values[:23], r"shape \(23, 6\), expected .* \(24, 6\)"), (values[:, :5], r"shape \(24, 5\)"),
                        (np.ones((24, 6), int), "int64 of shape")):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(ValueError, match=f"wrong.npy' holds .*{said}"):
            read(csv, embeddings=tmp_path / "wrong.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "all.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut.npy' cannot be read as .npy"):
        read(csv, embeddings=tmp_path / "cut.npy")


def test_rows_come_by_any_index_in_parts_and_in_other_processes(csv, tmp_path):
    images = read(csv).images
    whole = images[:]
    for rows in ([23, 0, 7, 7], slice(3, 12, 2), np.arange(24) % 5 == 0, []):
        np.testing.assert_array_equal(images[rows], whole[rows])
    np.testing.assert_array_equal(images[9], whole[9])
    np.testing.assert_array_equal(images.subset([8, 2]).subset([1])[0], whole[2])
    sent = pickle.dumps(images)
    assert b"part" not in sent and len(sent) < 4000
    np.testing.assert_array_equal(pickle.loads(sent)[:], whole)
    cohort = read(csv)
    loaded = storage.load(storage.save(cohort, tmp_path / "c.npz"))
    np.testing.assert_array_equal(loaded.images, whole)
    pd.testing.assert_frame_equal(loaded.table, cohort.table)


# ---------------------------------------------------------------------- the store
def counted(monkeypatch):
    calls, one = [], embeddings.read_one
    monkeypatch.setattr(embeddings, "read_one", lambda path, width: calls.append(path.name) or one(path, width))
    return calls


def test_the_second_call_reads_no_file_again(csv, monkeypatch):
    whole = read(csv).images[:]
    calls = counted(monkeypatch)
    np.testing.assert_array_equal(read(csv).images[:], whole)
    assert calls == [] and len(list((csv.parent / "metadata.embeddings").iterdir())) == 2 * 5  # 24 files, 5 a part


def test_a_changed_file_makes_its_part_new_and_the_old_one_goes(csv, monkeypatch):
    read(csv)
    store, seventh = csv.parent / "metadata.embeddings", csv.parent / lines()["path"][7]
    before = {p.name for p in store.iterdir()}
    write(seventh, example(embedding=vector(99), note=b"longer than before"))
    calls = counted(monkeypatch)
    cohort = read(csv)
    assert len(calls) == 5 and seventh.name in calls
    np.testing.assert_array_equal(cohort.images[7], vector(99))
    after = {p.name for p in store.iterdir()}
    assert len(after) == 10 and len(before & after) == 8


def test_a_stopped_pass_goes_on(csv, monkeypatch):
    one, calls = embeddings.read_one, []

    def stopped(path, width):
        calls.append(path)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return one(path, width)

    monkeypatch.setattr(embeddings, "read_one", stopped)
    with pytest.raises(KeyboardInterrupt):
        read(csv)
    store = csv.parent / "metadata.embeddings"
    assert len(list(store.iterdir())) == 4  # two whole parts, nothing by halves
    monkeypatch.setattr(embeddings, "read_one", one)
    calls = counted(monkeypatch)
    cohort = read(csv)
    np.testing.assert_array_equal(cohort.images[:], expected(cohort))
    assert len(calls) == 14  # 24 less two parts


def test_a_cut_part_is_made_again_and_the_store_may_lie_elsewhere(csv, tmp_path):
    read(csv, store=tmp_path / "elsewhere")
    assert not (csv.parent / "metadata.embeddings").exists()
    part = sorted((tmp_path / "elsewhere").glob("*.npy"))[0]
    part.write_bytes(part.read_bytes()[:-4])
    (tmp_path / "elsewhere" / "note.txt").write_text("mine")
    cohort = read(csv, store=tmp_path / "elsewhere")
    np.testing.assert_array_equal(cohort.images[:], expected(cohort))
    assert (tmp_path / "elsewhere" / "note.txt").read_text() == "mine"


# ---------------------------------------------------------------------- what is left out
def test_bad_embeddings_are_listed_and_left_out(csv, tmp_path):
    files = [csv.parent / path for path in lines()["path"]]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-5])
    write(files[2], example(embedding=np.ones(WIDTH + 1)))
    write(files[3], example(embedding=np.full(WIDTH, np.nan)))
    write(files[4], example(embedding=np.zeros(WIDTH)))
    write(files[5], example(other=vector(5)))
    write(files[6], example(embedding=vector(6)), example(embedding=vector(6)))
    files[7].write_bytes(b"")
    for _ in range(2):  # from the files, then from the store
        cohort = read(csv, listing=tmp_path / "left_out.csv")
        assert cohort.table["image_id"].tolist() == [f"{k:08x}-0a" for k in range(8, 24)]
        np.testing.assert_array_equal(cohort.images[:], expected(cohort))
        assert cohort.meta["excluded"]["reasons"] == {
            embeddings.UNREADABLE: 4, embeddings.NOT_FOUND: 1, embeddings.OTHER_WIDTH: 1, embeddings.NOT_FINITE: 1,
            embeddings.ZEROS: 1}
        listed = pd.read_csv(tmp_path / "left_out.csv")
        assert listed["line"].tolist() == list(range(2, 10))
        for k, said in ((1, "truncated"), (2, r"shape \(7,\), expected \(6,\)"), (5, "features are other"),
                        (6, "holds 2 records"), (7, "holds no record")):
            assert listed["detail"].str.contains(said)[k] and files[k].name in listed["detail"][k]
    said = cxr.summary(cohort).splitlines()
    assert said[0] == "24 rows read, 16 kept, 8 left out" and said[1] == "  4 embedding cannot be read"
    assert said[-1] == "race not known for 4: UNABLE TO OBTAIN 4"
    write(files[0], example(embedding=vector(0)))  # it turns up later
    assert len(read(csv)) == 17


@pytest.mark.parametrize("content", [
    b"",
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n",
    b"PK\x03\x04 an archive",
])
def test_damaged_npy_is_left_out(tmp_path, content):
    csv = write_set(tmp_path / "set", ending=".npy")
    (tmp_path / "set" / lines()["path"][0]).with_suffix(".npy").write_bytes(content)
    np.save((tmp_path / "set" / lines()["path"][1]).with_suffix(".npy"), np.array([None] * WIDTH), allow_pickle=True)
    np.save((tmp_path / "set" / lines()["path"][2]).with_suffix(".npy"), np.arange(WIDTH))
    cohort = read(csv, embeddings=tmp_path / "set")
    assert cohort.meta["excluded"]["reasons"] == {embeddings.UNREADABLE: 3}
    assert "00000000-0a" in cohort.meta["excluded"]["first"][embeddings.UNREADABLE][0]["detail"]


@pytest.mark.parametrize(("column", "value", "reason"), [
    ("anchor_age", "sixty", "age is not a number"),
    ("anchor_age", "121", "age outside 0 to 120"),
    ("anchor_age", "-1", "age outside 0 to 120"),
    ("anchor_age", "inf", "age outside 0 to 120"),
    ("Pneumonia", "2", "label other than 1, 0, -1 and blank"),
    ("Pneumonia", "yes", "label other than 1, 0, -1 and blank"),
    ("Pneumonia", "0.5", "label other than 1, 0, -1 and blank"),
    ("subject_id", "", "subject_id is empty"),
    ("dicom_id", "", "dicom_id is empty"),
])
def test_a_row_that_contradicts_the_format_is_left_out(csv, column, value, reason):
    table = lines().astype(object)
    table.loc[[3, 8], column] = [value, f" {value} "]
    table.to_csv(csv, index=False)
    cohort = read(csv)
    assert cohort.meta["excluded"]["reasons"] == {reason: 2} and len(cohort) == 22
    assert [row["line"] for row in cohort.meta["excluded"]["first"][reason]] == [5, 10]
    np.testing.assert_array_equal(cohort.images[:], np.stack([vector(k) for k in range(24) if k not in (3, 8)]))


def test_duplicates_are_kept_once_or_not_at_all(csv):
    table = lines()
    same, other = table.iloc[[4]], table.iloc[[9]].assign(race="WHITE")
    pd.concat([table, same, same, other]).to_csv(csv, index=False)
    cohort = read(csv)
    assert cohort.meta["excluded"]["reasons"] == {"dicom_id stands in an earlier line that says the same": 2,
                                                  "dicom_id stands in lines that contradict each other": 2}
    assert cohort.table["image_id"].tolist() == [f"{k:08x}-0a" for k in range(24) if k != 9]


def test_what_is_not_known_stays_in_and_is_counted(csv):
    table = lines().astype(object)
    table["race"] = ["UNKNOWN", "", "KLINGON", " white ", "White - Other European", "PATIENT DECLINED TO ANSWER"] * 4
    table.loc[0, "gender"], table.loc[1, "insurance"], table.loc[2, "anchor_age"] = "X", "", "NA"
    table.to_csv(csv, index=False)
    cohort = read(csv)
    assert len(cohort) == 24 and cohort.table["race"].dropna().tolist() == ["White"] * 8
    assert cohort.meta["unknown"] == {
        "sex": {"X": 1}, "age_group": {"NA": 1}, "insurance": {"(empty)": 1},
        "race": {"UNKNOWN": 4, "(empty)": 4, "KLINGON": 4, "PATIENT DECLINED TO ANSWER": 4}}
    assert np.isnan(cohort.table["age"][2]) and pd.isna(cohort.table["age_group"][2])
    own = read(csv, races={"klingon": "K", "white - other european": "E", "WHITE": "W"})
    assert own.table["race"].tolist()[2:5] == ["K", "W", "E"] and own.schema.attributes["race"] == ("K", "E", "W")


# ---------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("column", ["dicom_id", "anchor_age", "path", "Lung Lesion"])
def test_a_missing_column_is_named(csv, column):
    lines().drop(columns=column).to_csv(csv, index=False)
    with pytest.raises(ValueError, match=rf"metadata.csv' has no column '{column}', expected one; it has subject_id"):
        read(csv)


@pytest.mark.parametrize(("change", "said"), [
    (lambda text: text + "1,2,3\n", "line 26: 3 cells, expected 23"),
    (lambda text: text[:-30] + "\n", r"line 25: 1\d cells, expected 23"),
    (lambda text: text.replace("\n", "\n\n", 3), "line 2: 0 cells, expected 23"),
    (lambda text: text.replace("split", "race", 1), "has 2 columns 'race', expected one"),
    (lambda text: text.splitlines()[0] + "\n", "has no rows below its header"),
    (lambda text: "", "has no column 'subject_id'"),
    (lambda text: text + '"', "cannot be read as a table"),
])
def test_a_broken_table_is_named(csv, change, said):
    csv.write_text(change(csv.read_text()))
    with pytest.raises(ValueError, match=f"metadata.csv'.*{said}"):
        read(csv)


def test_empty_lines_at_the_end_and_a_byte_order_mark_do_no_harm(csv):
    csv.write_text("\ufeff" + csv.read_text() + "\n\n", encoding="utf-8")
    assert len(read(csv)) == 24


def test_other_refusals(csv, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv': there is no such table"):
        read(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="none': there is no such folder or .npy file"):
        read(csv, embeddings=tmp_path / "none")
    with pytest.raises(ValueError, match="policy must be one of missing, negative, positive, got 'ones'"):
        read(csv, policy="ones")
    with pytest.raises(ValueError, match="blank must be one of missing, negative, got 'positive'"):
        read(csv, blank="positive")
    with pytest.raises(ValueError, match=r"none of 24 rows can be used: embedding of another width \(24\)"):
        read(csv, width=WIDTH + 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"none of 24 rows can be used: embedding file not found \(24\)"):
        read(csv, embeddings=tmp_path / "empty")
    np.save(csv.parent / "00000003-0a.npy", vector(3))
    with pytest.raises(ValueError, match="00000003-0a.* have one name, expected one file"):
        read(csv, embeddings=csv.parent)


def test_a_table_that_points_to_images_says_what_it_expects(csv):
    table = lines()
    table["path"] = table["path"].str.replace(".tfrecord", ".jpg")
    table.to_csv(csv, index=False)
    for path in table["path"]:
        (csv.parent / path).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"cannot be read \(24\).*ending in .npy, .tfrecord, .tfrecord.gz"):
        read(csv)
