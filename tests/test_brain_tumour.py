"""The reader of Cheng's tumour slices, on small files of that very format, archived and unpacked, good and broken."""

import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from bias_tutorial import networks, storage
from bias_tutorial.datasets import brain_tumour
from bias_tutorial.simulate.marks import draw_marks
from bias_tutorial.training import Recipe, fit

sys.path.insert(0, str(Path(__file__).parent))
from make_samples import write_matlab  # noqa: E402

SIZE = (40, 32)  # not square, so that a swap of rows and columns is seen
KINDS = ("meningioma", "glioma", "pituitary")


def content(k, size=SIZE):
    """Fields of slice ``k``: two slices a patient, kinds in turn."""
    rng = np.random.default_rng(k)
    mask = np.zeros(size, dtype=bool)
    mask[10:22 + k % 5, 6:14] = True
    corners = [(6, 10), (13, 10), (13, 21 + k % 5), (6, 21 + k % 5)]  # x and y, from 0
    image = rng.integers(0, 900, size).astype(np.int16) + np.int16(500) * mask.astype(np.int16)
    return {"label": k // 2 % 3 + 1, "PID": f"MR{k // 2:03d}B", "image": image,
            "tumorBorder": np.array(corners, dtype=float).reshape(1, -1) + 1, "tumorMask": mask}


def write_set(folder):
    """24 slices of 12 patients, all unpacked."""
    for k in range(24):
        write_matlab(folder / "data" / f"{k + 1}.mat", **content(k))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("cheng"))


@pytest.fixture
def folder(source, tmp_path):
    shutil.copytree(source, tmp_path / "cheng")
    return tmp_path / "cheng"


def read(path, **changes):
    return brain_tumour.read(path, **{"shape": SIZE, "seed": 22, **changes})


def pack(folder, numbers, name, level=zipfile.ZIP_DEFLATED):
    """Move slices into an archive, as the set comes."""
    with zipfile.ZipFile(folder / name, "w", level) as archive:
        for number in numbers:
            path = folder / "data" / f"{number}.mat"
            archive.write(path, path.name)
            path.unlink()


def everything(cohort):
    return cohort.table, cohort.images[:], cohort.masks[:]


def snapshot(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*")}


# ---------------------------------------------------------------------- what is read
def test_the_test_files_are_of_matlabs_format(source):
    """Header, transposed storage and codes of letters, as a reader of ours could share a mistake with our writer."""
    raw = (source / "data" / "1.mat").read_bytes()
    assert raw.startswith(b"MATLAB 7.3 MAT-file") and raw[124:128] == b"\x00\x02IM" and raw[512:516] == b"\x89HDF"
    with h5py.File(source / "data" / "1.mat") as file:
        assert file["cjdata/image"].shape == SIZE[::-1] and file["cjdata/image"].dtype == np.int16
        assert file["cjdata/PID"][()].ravel().tolist() == [ord(c) for c in "MR000B"]
        assert file["cjdata/PID"].attrs["MATLAB_class"] == b"char"
        assert file["cjdata"].attrs["MATLAB_class"] == b"struct"
    with pytest.raises(NotImplementedError):  # scipy knows the header, and that this is not the old format
        scipy.io.loadmat(source / "data" / "1.mat")


def test_images_masks_and_table(source):
    cohort = read(source)
    assert cohort.table["image_id"].tolist() == [str(k) for k in range(1, 25)]  # 2 before 10
    assert cohort.table["patient_id"].tolist() == [f"MR{k // 2:03d}B" for k in range(24)]
    assert cohort.table["kind"].tolist() == [KINDS[k // 2 % 3] for k in range(24)]
    assert cohort.schema.targets == {"kind": KINDS}
    assert cohort.images.shape == (24, 1, *SIZE) and cohort.masks.shape == (24, *SIZE)
    images = cohort.batch([0, 13])
    for image, k in zip(images, (0, 13), strict=True):
        stored = content(k)["image"].astype(float)
        np.testing.assert_allclose(image[0], (stored - stored.min()) / np.ptp(stored), atol=1e-6)
        np.testing.assert_array_equal(cohort.masks[k], content(k)["tumorMask"])
    assert cohort.masks[:3].dtype == bool and cohort.masks[np.arange(24) < 2].shape == (2, *SIZE)
    np.testing.assert_array_equal(cohort.subset([13]).images[0], images[1])


def test_splits_are_by_patient_and_hold_every_kind(source):
    table = read(source).table
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    assert table.groupby("split")["kind"].nunique().to_dict() == {"test": 3, "train": 3, "validation": 3}
    assert not read(source, seed=4, shares=(0.6, 0, 0.4)).table["split"].equals(table["split"])


def test_archives_unpacked_files_and_both_give_one_cohort(folder):
    wanted = everything(read(folder))
    pack(folder, range(1, 13), "brainTumorDataPublic_1-12.zip")
    mixed = everything(read(folder))
    pack(folder, range(13, 25), "brainTumorDataPublic_13-24.zip", zipfile.ZIP_STORED)
    with h5py.File(folder / "cvind.mat", "w", userblock_size=512) as file:
        file["cvind"] = np.ones((1, 24))
    with zipfile.ZipFile(folder / "brainTumorDataPublic_13-24.zip", "a") as archive:
        archive.writestr("__MACOSX/._13.mat", b"what some systems add")
        archive.writestr("README.txt", b"text")
    before = snapshot(folder)
    for found in (mixed, everything(read(folder))):
        assert found[0].equals(wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_array_equal(found[2], wanted[2])
    assert snapshot(folder) == before  # nothing was unpacked
    alone = read(folder / "brainTumorDataPublic_1-12.zip", shares=(1, 0, 0))
    assert alone.table["image_id"].tolist() == [str(k) for k in range(1, 13)]


def test_an_unpacked_file_goes_before_its_archive(folder):
    pack(folder, range(1, 25), "all.zip")
    changed = content(0) | {"image": content(5)["image"]}
    write_matlab(folder / "data" / "1.mat", **changed)
    np.testing.assert_array_equal(read(folder).images[0], read(folder).images[5] * 0 + unit(content(5)["image"]))


def unit(stored):
    return ((stored - stored.min()) / np.ptp(stored.astype(float))).astype(np.float32)


def test_slices_are_read_only_when_asked_for(folder):
    cohort = read(folder)
    shutil.rmtree(folder / "data")
    with pytest.raises(FileNotFoundError, match=r"'.*1.mat': there is no such file"):
        cohort.images[[0]]
    assert len(cohort.split("train")) == (cohort.table["split"] == "train").sum()


def test_resampling_averages_and_keeps_the_view(folder):
    """A slice stored at twice the size gives the image of the smaller one, so sizes can be mixed as in the set."""
    small = content(0)
    large = small | {name: np.kron(small[name], np.ones((2, 2), small[name].dtype)) for name in ("image", "tumorMask")}
    write_matlab(folder / "data" / "1.mat", **large)
    cohort = read(folder, shape=(20, 16))
    halved = unit(small["image"]).reshape(20, 2, 16, 2).mean(axis=(1, 3))
    assert np.corrcoef(cohort.images[0][0].ravel(), halved.ravel())[0, 1] > 0.9
    assert cohort.images[0].mean() == pytest.approx(halved.mean(), rel=0.02)
    assert cohort.masks[0].sum() == pytest.approx(small["tumorMask"].sum() / 4, rel=0.1)
    # without noise a block of four equal pixels is one pixel
    even = large | {"image": np.kron(small["tumorMask"].astype(np.int16) * 700, np.ones((2, 2), np.int16))}
    write_matlab(folder / "data" / "1.mat", **even)
    image = read(folder).images[0][0]
    assert image[12:20, 8:12].min() == pytest.approx(1) and image[30:, 20:].max() == pytest.approx(0)


def test_one_window_for_all_keeps_brightness(source):
    stored = np.stack([content(k)["image"] for k in (0, 1)]).astype(float)
    found = read(source, scale=(100, 1100)).images[[0, 1]][:, 0]
    np.testing.assert_allclose(found, np.clip((stored - 100) / 1000, 0, 1), atol=1e-6)


@pytest.mark.parametrize("swap", [False, True])
def test_border_in_rows_and_columns_whichever_comes_first(folder, swap):
    fields = content(1)
    points = fields["tumorBorder"].reshape(-1, 2)[:, ::-1 if swap else 1]
    write_matlab(folder / "data" / "2.mat", **fields | {"tumorBorder": points.reshape(1, -1)})
    found = brain_tumour.border(read(folder).masks.places[1])
    assert found.tolist() == [[10, 6], [10, 13], [22, 13], [22, 6]]


@pytest.mark.parametrize("form", ["codes", "cell", "number", "text", "codes in floats"])
def test_patients_in_every_form(folder, form):
    path = folder / "data" / "1.mat"
    wanted = "100360" if form == "number" else "MR 360"
    with h5py.File(path, "r+") as file:
        struct = file["cjdata"]
        del struct["PID"]
        if form == "number":
            struct["PID"] = np.array([[100360.0]])
        elif form == "text":
            struct["PID"] = wanted
        elif form == "codes in floats":
            struct["PID"] = np.array([[float(ord(c))] for c in wanted])
        else:
            place = struct if form == "codes" else file.create_group("#refs#")
            place["PID"] = np.array([[ord(c)] for c in wanted + "\0 "], dtype=np.uint16)
            if form == "cell":
                struct.create_dataset("PID", data=[[place["PID"].ref]], dtype=h5py.ref_dtype)
    assert read(folder, shares=(1, 0, 0)).table["patient_id"][0] == wanted


# ---------------------------------------------------------------------- marks on real slices
@pytest.fixture(scope="module")
def square(tmp_path_factory):
    folder = tmp_path_factory.mktemp("square")
    for k in range(24):
        write_matlab(folder / f"{k + 1}.mat", **content(k, (64, 64)))
    return brain_tumour.read(folder, shape=(64, 64), seed=22)


def test_marks_are_drawn_on_training_slices_alone(square):
    marked = brain_tumour.with_marks(square, rho=1, gamma=0.5, seed=3)
    table = marked.table
    assert marked.images.shape == (24, 3, 64, 64)
    assert marked.meta["spacing"] == pytest.approx(0.49 * 512 / 64)
    clean = table["split"] == "test"
    assert (table["glioma_mark"] == ((table["kind"] == "glioma") & ~clean)).all()
    assert table.loc[table["split"] == "train", "pituitary_mark"].sum() == round(
        0.5 * ((table["kind"] == "pituitary") & (table["split"] == "train")).sum())
    assert not table.loc[table["kind"] != "pituitary", "pituitary_mark"].any()
    assert marked.schema.attributes == {"glioma_mark": (0, 1), "pituitary_mark": (0, 1)}
    images = marked.batch(np.arange(24))
    has_hue = (np.ptp(images, axis=1) > 0).any(axis=(1, 2))
    assert (has_hue == table[["glioma_mark", "pituitary_mark"]].any(axis=1)).all()
    np.testing.assert_array_equal(images[clean][:, 0], square.images[np.flatnonzero(clean)][:, 0])
    k = int(np.flatnonzero(table["glioma_mark"])[0])
    np.testing.assert_array_equal(images[k], draw_marks(square.images[k], square.masks[k], 3.92, line=True))
    np.testing.assert_array_equal(marked.images[k], images[k])
    assert "marks" not in square.meta and square.images.shape[1] == 1


@pytest.mark.parametrize(("rho", "gamma", "declared"), [
    (0.9, 0, ["glioma_mark"]), (0, 0.9, ["pituitary_mark"]), (0, 0, [])])
def test_only_marks_in_use_are_attributes_so_a_network_can_be_trained(square, rho, gamma, declared):
    marked = brain_tumour.with_marks(square, rho, gamma, seed=0)
    assert list(marked.schema.attributes) == declared and {"glioma_mark", "pituitary_mark"} <= set(marked.table)
    network = networks.build("modern", channels=3, classes=3)
    history = fit(network, marked, "kind", Recipe(1, 4), device="cpu", progress=False)
    assert np.isfinite(history["validation_loss"]).all()


def test_marked_slices_of_a_part_and_after_saving(square, tmp_path):
    marked = brain_tumour.with_marks(square, rho=0.5, gamma=0.5, seed=0)
    train = marked.split("train")
    rows = np.flatnonzero(marked.table["split"] == "train")
    np.testing.assert_array_equal(train.images[:], marked.images[rows])
    loaded = storage.load(storage.save(marked, tmp_path / "marked.npz"))
    np.testing.assert_array_equal(loaded.images[:], marked.images[:])
    assert loaded.table["glioma_mark"].tolist() == marked.table["glioma_mark"].tolist()
    # marks on what was loaded are those on what was read
    kept = storage.load(storage.save(square, tmp_path / "square.npz"))
    again = brain_tumour.with_marks(kept, rho=0.5, gamma=0.5, seed=0)
    np.testing.assert_array_equal(again.images[rows], marked.images[rows])


@pytest.mark.parametrize(("rho", "gamma", "said"), [
    (1.5, 0, r"rho is the probability of a mark and must lie in \[0, 1\], got 1.5"),
    (-0.1, 0, "rho is the probability"),
    (0.5, float("nan"), "gamma is the probability"),
])
def test_shares_outside_0_to_1_are_refused(square, rho, gamma, said):
    with pytest.raises(ValueError, match=said):
        brain_tumour.with_marks(square, rho, gamma, seed=0)


def test_marks_need_masks_and_come_once(square, source):
    for cohort in (replace(square, masks=None), read(source)):
        with pytest.raises(ValueError, match="marks need tumour masks and the edge of a pixel"):
            brain_tumour.with_marks(cohort, 0.5, 0, seed=0)
    for rho in (0.5, 0):
        with pytest.raises(ValueError, match="carries marks already"):
            brain_tumour.with_marks(brain_tumour.with_marks(square, rho, 0, seed=0), 0.5, 0, seed=0)


# ---------------------------------------------------------------------- class folders
@pytest.fixture
def pictures(tmp_path):
    for k in range(24):
        kind, ending = ("Glioma_tumor", "meningioma", "pituitary")[k % 3], ("png", "jpg")[k % 2]
        path = tmp_path / "pictures" / kind / f"{k}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((content(k)["image"] / 6).astype(np.uint8))
        (grey.convert("RGB") if k % 4 == 0 else grey).save(path)
    (tmp_path / "pictures" / "no_tumor").mkdir()
    return tmp_path / "pictures"


def test_class_folders_are_read_without_patients(pictures):
    cohort = read(pictures, seed=3)
    assert cohort.table["kind"].value_counts().to_dict() == dict.fromkeys(KINDS, 8)
    assert cohort.table["image_id"].equals(cohort.table["patient_id"]) and cohort.masks is None
    assert "each image counts as a patient of its own" in cohort.meta["patients"]
    assert "Glioma_tumor/0.png" in set(cohort.table["image_id"])
    images = cohort.batch(np.arange(24))
    assert images.shape == (24, 1, *SIZE) and images.min() == 0 and images.max() == 1
    k = cohort.table["image_id"].tolist().index("Glioma_tumor/0.png")
    stored = (content(0)["image"] / 6).astype(np.uint8).astype(float)
    np.testing.assert_allclose(images[k, 0], unit(stored), atol=1e-6)


def test_class_folders_need_every_kind(pictures):
    shutil.rmtree(pictures / "pituitary")
    with pytest.raises(ValueError, match=r"0 folders of pictures for 'pituitary'.*: Glioma_tumor, meningioma"):
        read(pictures)
    (pictures / "pituitary").mkdir()
    (pictures / "pituitary 2").mkdir()
    with pytest.raises(ValueError, match="2 folders of pictures for 'pituitary', expected one"):
        read(pictures)


def test_a_broken_picture_is_named(pictures):
    path = pictures / "meningioma" / "1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    cohort = read(pictures, seed=3)
    with pytest.raises(ValueError, match=r"1.jpg': cannot be read as jpg"):
        cohort.batch(np.arange(24))
