"""Bad files and settings for the reader of Cheng's tumour slices: each a clear error that names the file."""

import os
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from bias_tutorial.datasets.matlab import Place

sys.path.insert(0, str(Path(__file__).parent))
from make_samples import write_matlab  # noqa: E402
from test_brain_tumour import SIZE, content, pack, read, snapshot, write_set  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "cheng")


def rewrite(folder, number, **changes):
    fields = content(number - 1) | changes
    write_matlab(folder / "data" / f"{number}.mat", **{k: v for k, v in fields.items() if v is not None})


@pytest.mark.parametrize(("changes", "said"), [
    ({"PID": None}, r"'cjdata' has no field 'PID'; it has image, label, tumorBorder, tumorMask"),
    ({"tumorMask": None}, "'cjdata' has no field 'tumorMask'"),
    ({"tumorBorder": None}, "'cjdata' has no field 'tumorBorder'"),
    ({"image": None}, "'cjdata' has no field 'image'"),
    ({"label": None}, "'cjdata' has no field 'label'"),
    ({"label": 4}, r"label is 4.0, expected 1, 2 or 3 \(meningioma, glioma, pituitary\)"),
    ({"PID": "  "}, "PID is empty"),
    ({"tumorMask": np.ones((40, 31), dtype=bool)}, r"tumorMask has shape \(40, 31\), image \(40, 32\)"),
    ({"tumorMask": np.ones(SIZE[::-1], dtype=bool)}, r"tumorMask has shape \(32, 40\), image \(40, 32\)"),
    ({"tumorBorder": np.ones((1, 7))}, "tumorBorder has 7 numbers, expected pairs"),
])
def test_a_bad_slice_is_named(folder, changes, said):
    rewrite(folder, 7, **changes)
    with pytest.raises(ValueError, match=rf"7.mat': {said}"):
        read(folder)
    pack(folder, range(1, 25), "all.zip")
    with pytest.raises(ValueError, match=rf"all.zip: 7.mat': {said}"):
        read(folder)


def test_another_struct_is_named(folder):
    with h5py.File(folder / "data" / "7.mat", "w", userblock_size=512) as file:
        file["other"] = 1
    with pytest.raises(ValueError, match="7.mat': 'cjdata' has no field 'label'; it has none"):
        read(folder)


def test_an_older_matlab_file_is_named_with_the_remedy(folder):
    scipy.io.savemat(folder / "data" / "7.mat", {"cjdata": content(6)})
    with pytest.raises(ValueError, match=r"7.mat' is of an older MATLAB format, expected v7.3.*'-v7.3'"):
        read(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_file_and_one_of_another_kind_are_named(folder, packed):
    path = folder / "data" / "7.mat"
    whole = path.read_bytes()
    for broken in (whole[:3000], b"", b"<html>not found</html>"):
        path.write_bytes(broken)
        if packed:
            shutil.copytree(folder, folder.parent / "packed")
            pack(folder.parent / "packed", range(1, 25), "all.zip")
        with pytest.raises(ValueError, match=r"7.mat' cannot be read as MATLAB v7.3 .*it may be truncated"):
            read(folder.parent / "packed" if packed else folder)
        shutil.rmtree(folder.parent / "packed", ignore_errors=True)


def test_broken_archives_are_named(folder):
    pack(folder, range(1, 25), "all.zip", zipfile.ZIP_STORED)
    whole = (folder / "all.zip").read_bytes()
    (folder / "all.zip").write_bytes(whole[:5000])
    with pytest.raises(ValueError, match=r"all.zip' cannot be read as a zip archive .*get it again"):
        read(folder)
    place = whole.index(b"\x89HDF", whole.index(b"7.mat")) + 2000  # a byte changed within a slice: its checksum tells
    (folder / "all.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
    with pytest.raises(ValueError, match=r"all.zip: 7.mat' cannot be read .*Bad CRC-32"):
        read(folder)


def test_two_files_of_one_name_are_named(folder):
    shutil.copytree(folder / "data", folder / "copy")
    with pytest.raises(ValueError, match=r"data/1.mat' and '.*copy/1.mat' have one name"):
        read(folder)


def test_a_kind_that_a_split_lacks_is_named(folder):
    for number in range(1, 25):
        if content(number - 1)["label"] == 2:
            rewrite(folder, number, PID="one patient")
    with pytest.raises(ValueError, match=r"split '\w+' has no image of kind 'glioma' \(8 in all; seed 22, shares"):
        read(folder)
    assert read(folder, shares=(1, 0, 0)).table["split"].eq("train").all()


def test_a_mask_without_a_pixel_and_an_even_image_are_named(folder):
    rewrite(folder, 7, tumorMask=np.zeros(SIZE, dtype=bool), image=np.full(SIZE, 3, dtype=np.int16))
    cohort = read(folder)
    with pytest.raises(ValueError, match="7.mat': tumorMask marks no pixel at 40 x 32"):
        cohort.masks[6]
    with pytest.raises(ValueError, match="7.mat': every value is 3, so the image cannot be scaled"):
        cohort.batch([6])
    rewrite(folder, 7, image=np.where(np.eye(*SIZE) > 0, np.nan, 1.0))
    with pytest.raises(ValueError, match="7.mat': the image holds NaN"):
        read(folder).batch([6])


def test_places_without_the_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere': there is no such folder or archive; data/README.md"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no .mat file .*unpacked once\).*folders: none"):
        read(tmp_path)
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.writestr("brainTumorDataPublic_1-766.zip", b"")
    with pytest.raises(ValueError, match="download.zip' holds no .mat file; an archive of archives"):
        read(tmp_path / "download.zip")


@pytest.mark.parametrize(("change", "said"), [
    ({"scale": "type"}, r"scale must be 'image' or a pair \(low, high\)"),
    ({"scale": (5, 5)}, "scale must be 'image' or a pair"),
    ({"shape": (64,)}, "shape needs rows and columns"),
    ({"shape": (0, 64)}, "shape needs rows and columns"),
])
def test_bad_settings_are_named(folder, change, said):
    with pytest.raises(ValueError, match=said):
        read(folder, **change)


def test_a_missing_library_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs h5py: pip install 'bias-tutorial\[readers\]'"):
        read(folder)


def test_a_name_in_an_archive_leads_nowhere(folder):
    """Entries are read in memory, so a name cannot write or reach a file of the machine."""
    pack(folder, range(2, 25), "all.zip")
    with zipfile.ZipFile(folder / "all.zip", "a") as archive:
        archive.write(folder / "data" / "1.mat", "../../outside/1.mat")
    os.remove(folder / "data" / "1.mat")
    before = snapshot(folder.parent)
    assert read(folder).batch([0]).shape == (1, 1, *SIZE)
    assert snapshot(folder.parent) == before
    assert str(Place(folder / "all.zip", "1.mat")).endswith("all.zip: 1.mat")
