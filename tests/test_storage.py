"""Saving and loading one file; long simulations that are killed, resumed, refused."""

import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bias_tutorial import files, folders, simulate, storage
from bias_tutorial.cohort import Cohort, Schema
from bias_tutorial.datasets import simba
from bias_tutorial.scenario import preset

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def brains():
    return simulate.brain(preset("both"), 24, 5, shape=(36, 30))


def rich_cohort():
    """Every column type a table may have, missing values, masks and several images of a patient."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "patient_id": [1, 1, 2, 3, 4, 5],
            "split": ["train", "train", "train", "test", "test", "validation"],
            "finding": [1.0, np.nan, 0.0, 1.0, np.nan, 0.0],
            "sex": ["F", "F", "M", None, "M", "F"],
            "small": np.array([1, 2, 3, 4, 5, 6], dtype=np.uint8),
            "single": np.array([0.1] * 6, dtype=np.float32),
            "flag": [True, False, True, True, False, False],
            "maybe": pd.array([1, None, 3, 4, None, 6], dtype="Int64"),
            "mixed": pd.Series([1, "one", None, np.nan, True, 2.5], dtype=object),
            "exact": rng.normal(size=6) / 3,
            "kind": pd.Categorical(["x", "y", "x", "x", "y", "x"], ["z", "y", "x"], ordered=True),
            "day": pd.to_datetime(["2020-01-01"] * 5 + [None]),
        }
    )
    schema = Schema({"finding": (0, 1)}, {"sex": ("F", "M")}, ("exact",))
    return Cohort(
        rng.random((6, 3, 5, 4), dtype=np.float32), table, schema, rng.random((6, 5, 4)) > 0.5, {"a": [1, "ü"]}
    )


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.name.endswith((".part", ".lock"))]


# ---------------------------------------------------------------------- one file
def test_every_column_type_and_mask_comes_back(tmp_path):
    cohort = rich_cohort()
    back = storage.load(storage.save(cohort, tmp_path / "new" / "c.npz"))
    pd.testing.assert_frame_equal(back.table, cohort.table)
    assert back.table["mixed"][2] is None and np.isnan(back.table["mixed"][3])
    np.testing.assert_array_equal(back.images, cohort.images)
    assert back.images.dtype == np.float32
    np.testing.assert_array_equal(back.masks, cohort.masks)
    assert back.schema == cohort.schema and back.meta == cohort.meta


def test_twins_can_be_made_after_loading(brains, tmp_path):
    back = storage.load(storage.save(brains.split("test"), tmp_path / "c.npz"))
    twins = simulate.counterfactual(back, intensity=1)
    np.testing.assert_array_equal(twins.images, simulate.counterfactual(brains.split("test"), intensity=1).images)
    assert back.table.attrs == brains.split("test").table.attrs


def test_the_same_cohort_gives_the_same_bytes(brains, tmp_path):
    one, two = storage.save(brains, tmp_path / "1.npz"), storage.save(brains, tmp_path / "2.npz")
    assert one.read_bytes() == two.read_bytes()


def test_batches_do_not_change_the_file(brains, tmp_path, monkeypatch):
    one = storage.save(brains, tmp_path / "1.npz").read_bytes()
    monkeypatch.setattr(storage, "_BATCH_VALUES", 2 * 36 * 30)
    assert storage.save(brains, tmp_path / "2.npz").read_bytes() == one


def test_uint16_is_smaller_and_as_near_as_it_says(brains, tmp_path):
    exact = storage.save(brains, tmp_path / "1.npz")
    rounded = storage.save(brains, tmp_path / "2.npz", precision="uint16")
    assert rounded.stat().st_size < 0.65 * exact.stat().st_size
    error = np.abs(storage.load(rounded).images - brains.images).max()
    assert 0 < error <= 7.7e-6
    with pytest.raises(ValueError, match=r"takes images in \[0, 1\], found 0 to 2"):
        storage.save(replace(brains, images=brains.images * 2), tmp_path / "3.npz", precision="uint16")
    with pytest.raises(ValueError, match="precision must be"):
        storage.save(brains, tmp_path / "3.npz", precision="float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.npz", "2.npz"]


def test_nan_images_are_refused_by_name(brains, tmp_path):
    images = brains.images.copy()
    images[3, 0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="image '00004' holds NaN"):
        storage.save(replace(brains, images=images), tmp_path / "c.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_cannot_be_saved_is_named(tmp_path):
    cohort = rich_cohort()
    table = cohort.table.assign(mixed=pd.Series([{1}] * 6, dtype=object))
    with pytest.raises(ValueError, match="column 'mixed': .1. of type set cannot be saved"):
        storage.save(replace(cohort, table=table), tmp_path / "c.npz")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(brains, tmp_path, share):
    path = storage.save(brains, tmp_path / "c.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="c.npz' is not a whole cohort file"):
        storage.load(path)


def test_a_changed_byte_is_noticed(brains, tmp_path):
    path = storage.save(brains, tmp_path / "c.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="c.npz' is not a whole cohort file"):
        storage.load(path)


def test_other_files_are_refused_and_never_executed(tmp_path):
    trap = tmp_path / "executed"
    (tmp_path / "p.npz").write_bytes(pickle.dumps(_Trap(str(trap))))
    np.savez(tmp_path / "o.npz", header=np.array([_Trap(str(trap))], dtype=object))
    (tmp_path / "t.npz").write_text("patient,age\n1,2\n")
    for name in ("p.npz", "o.npz", "t.npz"):
        with pytest.raises(ValueError, match=f"{name}' is not a whole cohort file"):
            storage.load(tmp_path / name)
    assert not trap.exists()
    with pytest.raises(FileNotFoundError, match="none.npz"):
        storage.load(tmp_path / "none.npz")


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


# ---------------------------------------------------------------------- disks that fail
def fail_after(monkeypatch, error, count=0):
    """Let the ``count``-th file fail when its bytes go to disk."""
    seen = []

    def fsync(handle):
        seen.append(handle)
        if len(seen) > count:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_disk_leaves_the_old_file(brains, tmp_path, monkeypatch, error):
    path = storage.save(brains, tmp_path / "c.npz")
    before = path.read_bytes()
    fail_after(monkeypatch, error)
    with pytest.raises(OSError, match="could not write '.*c.npz'") as caught:
        storage.save(brains.split("test"), path)
    assert caught.value.errno == error
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_a_folder_that_refuses_writes(brains, tmp_path, monkeypatch):
    real = open

    def refuse(path, mode="r", *rest, **options):
        if "w" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, mode, *rest, **options)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match="could not write '.*c.npz' .Permission denied."):
        storage.save(brains, tmp_path / "c.npz")
    with pytest.raises(PermissionError, match="could not write .* .Permission denied."):
        storage.to_bids(brains, tmp_path / "b")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_full_disk_in_real_life(tmp_path):
    """The system itself cuts the file off, here by a limit on its size."""
    script = """
import resource, sys
from bias_tutorial import simulate, storage
from bias_tutorial.scenario import preset
cohort = simulate.brain(preset("near"), 60, 1, shape=(64, 64))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    storage.save(cohort, sys.argv[1])
except OSError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c.npz")], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert "could not write" in run.stdout and "c.npz" in run.stdout and "File too large" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_half_way_is_continued(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    storage.write_simulation("near", 20, 2, whole, shape=(32, 28), workers=1, progress=False)
    with monkeypatch.context() as patch:
        fail_after(patch, errno.ENOSPC, count=8)
        with pytest.raises(OSError, match="could not write .*_T1w.nii.gz' .No space left"):
            storage.write_simulation("near", 20, 2, tmp_path / "cut", shape=(32, 28), workers=1, progress=False)
    assert leftovers(tmp_path / "cut") == []
    with pytest.raises(ValueError, match="is unfinished: 'participants.tsv' is not there yet"):
        storage.from_bids(tmp_path / "cut")
    done = storage.write_simulation("near", 20, 2, tmp_path / "cut", shape=(32, 28), workers=1, progress=False)
    assert done == {"written": 13, "kept": 7}  # one of the eight files was the record of the folder
    assert hashes(tmp_path / "cut") == hashes(whole)


# ---------------------------------------------------------------------- long simulations
@pytest.mark.parametrize("layout", ["bids", "simba"])
def test_the_files_hold_the_cohort(tmp_path, layout):
    made = storage.write_simulation(
        "both", 24, 5, tmp_path / "d", (36, 30), layout, 1, p=0.8, progress=False, noise=0.01
    )
    assert made == {"written": 24, "kept": 0}
    cohort = simulate.brain(preset("both", 0.8), 24, 5, shape=(36, 30), noise=0.01)
    back = storage.from_bids(tmp_path / "d") if layout == "bids" else simba.read(tmp_path / "d")
    pd.testing.assert_frame_equal(back.table, cohort.table)
    np.testing.assert_array_equal(back.images[:], cohort.images)
    assert back.meta == json.loads(json.dumps(cohort.meta)) and back.schema == cohort.schema
    twins = simulate.counterfactual(back, morphology=0)
    np.testing.assert_array_equal(twins.images, simulate.counterfactual(cohort, morphology=0).images)


def test_volumes_are_the_same_for_any_workers_and_task_sizes(tmp_path, monkeypatch):
    found = []
    for workers, pixels in ((1, 1), (1, 10**9), (2, 2 * 20 * 24 * 20), (4, 10**9)):
        monkeypatch.setattr(folders, "_TASK_PIXELS", pixels)
        folder = tmp_path / f"w{workers}p{pixels}"
        storage.write_simulation("near", 16, 3, folder, (20, 24, 20), workers=workers, progress=False)
        found.append(hashes(folder))
    assert len(found[0]) == 16 + 5 and all(f == found[0] for f in found[1:])


def test_killed_half_way_and_resumed(tmp_path):
    """The command is killed without warning while it writes; the same command must end at the same files."""

    def command(folder):
        return [
            sys.executable,
            "-c",
            "from bias_tutorial.cli import app; app()",
            "simulate",
            "both",
            "--n",
            "80",
            "--seed",
            "4",
            "--shape",
            "24x26x24",
            "--workers",
            "2",
            "--out",
            str(folder),
        ]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen(command(cut), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(cut.glob("sub-*/anat/sub-*.nii.gz"))) < 8:
        assert process.poll() is None and time.monotonic() < deadline, "the command ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    images = sorted(cut.glob("sub-*/anat/sub-*.nii.gz"))
    assert 8 <= len(images) < 80 and not (cut / "participants.tsv").exists()
    for path in images:  # nothing half-written under a final name
        assert files.read_image(path)[0].shape == (1, 24, 26, 24)
    (images[0].parent / ".sub-half.nii.gz.1.part").write_bytes(b"half")  # what a kill may leave
    truncated = images[1].read_bytes()
    images[1].write_bytes(truncated[:-10])  # and what a copy by other means may do

    resumed = subprocess.run(command(cut), cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{80 - len(images) + 1} images written, {len(images) - 1} kept" in resumed.stdout
    assert "80/80" in resumed.stderr  # progress was shown
    storage.write_simulation("both", 80, 4, whole, (24, 26, 24), workers=1, progress=False)
    assert hashes(cut) == hashes(whole) and leftovers(cut) == []


def test_another_design_and_other_files_are_refused(tmp_path):
    storage.write_simulation("near", 20, 2, tmp_path / "d", (32, 28), workers=1, progress=False)
    before = hashes(tmp_path / "d")
    for change, said in (
        ({"seed": 3}, "its meta.seed is 2, this one's is 3"),
        ({"p": 0.9}, "its meta.scenario"),
        ({"layout": "simba"}, "its layout is bids, this one's is simba"),
        ({"n": 24}, "its meta.n is 20"),
    ):
        call = {"scenario": "near", "n": 20, "seed": 2, "shape": (32, 28), "workers": 1, "progress": False, **change}
        with pytest.raises(ValueError, match=f"holds another cohort: {said}"):
            storage.write_simulation(folder=tmp_path / "d", **call)
    assert hashes(tmp_path / "d") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds other files .thesis.txt."):
        storage.write_simulation("near", 20, 2, tmp_path / "mine", (32, 28), workers=1, progress=False)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        storage.write_simulation("near", 20, 2, tmp_path / "mine" / "thesis.txt", (32, 28), workers=1, progress=False)


def test_two_processes_never_write_to_one_folder(tmp_path):
    from filelock import FileLock

    (tmp_path / "d").mkdir()
    with FileLock(tmp_path / "d" / ".cohort.lock"):
        with pytest.raises(ValueError, match="another process is writing to '.*d'"):
            storage.write_simulation("near", 20, 2, tmp_path / "d", (32, 28), workers=1, progress=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layout": "zip"}, "unknown layout 'zip', expected one of bids, simba"),
        ({"workers": 0}, "workers must be"),
        ({"n": 0}, "n must be"),
        ({"n": -5}, "n must be"),
        ({"p": 1.5}, "p must lie in"),
        ({"seed": -1}, "seed must be"),
        ({"scenario": "unheard"}, "unknown preset 'unheard', expected one of no_bias.*or give a .json or .yaml file"),
        ({"scenario": "none.json"}, "'none.json': there is no such scenario file"),
    ],
)
def test_wrong_values_write_nothing(tmp_path, wrong, said):
    call = {"scenario": "near", "n": 20, "seed": 2, "shape": (32, 28), "workers": 1, "progress": False, **wrong}
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        storage.write_simulation(folder=tmp_path / "d", **call)
    assert not (tmp_path / "d").exists()


def test_scenarios_from_files(tmp_path):
    import yaml

    wanted = preset("both", 0.8)
    (tmp_path / "s.json").write_text(json.dumps(wanted.to_dict()))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(wanted.to_dict()))))
    assert storage.read_scenario(tmp_path / "s.json") == wanted == storage.read_scenario(str(tmp_path / "s.yaml"))
    assert storage.read_scenario("both", p=0.8) == wanted == storage.read_scenario(preset("both"), p=0.8)
    for text in (
        "[1, 2]",
        "name: x\nattributes: [{name: y}]",
        "{",
        "!!python/object/apply:os.system [echo]",
        "extra: 1\nname: x",
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match="bad.yaml' does not hold a scenario"):
            storage.read_scenario(tmp_path / "bad.yaml")
