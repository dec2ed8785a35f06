"""Volumes as a clinic stores them: other orientations, voxels and sizes, several faults at once, too large to batch."""

import json

import nibabel
import numpy as np
import pytest
import torch

from bias_tutorial import bids, networks
from bias_tutorial.batches import scores
from bias_tutorial.cohort import Schema
from bias_tutorial.datasets import table
from bias_tutorial.training import Recipe, fit

SCHEMA = Schema({"diagnosis": ("CN", "AD")})


def write(path, shape=(6, 7, 5), axes="RAS", zooms=(2, 2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([*zooms, 1.0]))
    nibabel.save(image.as_reoriented(nibabel.orientations.axcodes2ornt(tuple(axes))), path)


def read(folder, **options):
    names = sorted(p.name for p in folder.glob("*.nii.gz"))
    lines = [f"{name},p{k},{'CN' if k % 2 else 'AD'}" for k, name in enumerate(names)]
    (folder / "scans.csv").write_text("\n".join(["file,person,diagnosis", *lines]))
    return table.read(folder / "scans.csv", image="file", patient="person", targets=SCHEMA.targets, seed=0,
                      scale=(0, 900), **options)


def test_another_orientation_is_named(tmp_path):
    """Left and right would be swapped in some files, by scanner perhaps: a mark that no shape betrays."""
    write(tmp_path / "a.nii.gz")
    write(tmp_path / "b.nii.gz", axes="LAS")
    with pytest.raises(ValueError, match=r"b.nii.gz': axes run to L, A, S, expected R, A, S as in '.*a.nii.gz'"):
        read(tmp_path, check=True)


def test_another_voxel_size_is_named(tmp_path):
    write(tmp_path / "a.nii.gz")
    write(tmp_path / "b.nii.gz", zooms=(2, 2, 4))
    with pytest.raises(ValueError, match=r"b.nii.gz': voxels of 2 x 2 x 4 mm, expected 2 x 2 x 3 as in '.*a.nii.gz'"):
        read(tmp_path, check=True)


def test_a_small_difference_of_rounding_is_none(tmp_path):
    write(tmp_path / "a.nii.gz")
    write(tmp_path / "b.nii.gz", zooms=(2, 2.0001, 3))
    assert len(read(tmp_path, check=True)) == 2


def test_all_faults_are_named_at_once(tmp_path):
    for name in "abcd":
        write(tmp_path / f"{name}.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:60])
    write(tmp_path / "c.nii.gz", shape=(6, 7, 4))
    with pytest.raises(ValueError, match="2 of 4 images cannot be used") as found:
        read(tmp_path, check=True)
    assert "b.nii.gz': cannot be read as nii.gz" in str(found.value)
    assert "c.nii.gz': image has shape (1, 6, 7, 4), expected (1, 6, 7, 5)" in str(found.value)


def test_a_bids_set_of_others_says_how_bright_it_is_and_where_a_value_stands(tmp_path):
    for k in range(2):
        write(tmp_path / f"sub-{k}" / "anat" / f"sub-{k}_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-0\tCN\nsub-1\tHC\n")
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "theirs"}))
    with pytest.raises(ValueError, match=r"participants.tsv', line 3: column 'diagnosis' holds 'HC', expected one of"):
        bids.from_bids(tmp_path, SCHEMA, seed=0, scale=(0, 900))
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-0\tCN\nsub-1\tAD\n")
    with pytest.raises(ValueError, match="have no range of their own; say scale="):
        bids.from_bids(tmp_path, SCHEMA, seed=0)


def test_two_visits_in_a_bids_set_of_others_get_a_way_out(tmp_path):
    for visit in (1, 2):
        write(tmp_path / "sub-0" / f"ses-{visit}" / "anat" / f"sub-0_ses-{visit}_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-0\tCN\n")
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "theirs"}))
    with pytest.raises(ValueError, match="2 T1w images, expected 1; for several, .* datasets.table.read"):
        bids.from_bids(tmp_path, SCHEMA, seed=0, scale=(0, 900))


def test_a_network_for_slices_refuses_volumes_in_words(tmp_path):
    for name in "abcdefgh":
        write(tmp_path / f"{name}.nii.gz")
    with pytest.raises(ValueError, match="network takes slices .*dimensions=3"):
        fit(networks.build("modern"), read(tmp_path), "diagnosis", Recipe(epochs=1), device="cpu", progress=False)


class Counting(torch.nn.Module):
    """Notes how many images it is given at a time."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return images.flatten(1)[:, :2]


def test_large_volumes_are_scored_a_few_at_a_time(tmp_path, monkeypatch):
    """Else a batch of full-size volumes needs more memory than there is, whatever the size of a training batch."""
    for name in "abcdefgh":
        write(tmp_path / f"{name}.nii.gz")
    cohort, network = read(tmp_path), Counting()
    assert scores(network, cohort, np.arange(8), device="cpu").shape == (8, 2) and network.sizes == [8]
    monkeypatch.setattr("bias_tutorial.batches.AT_ONCE", 3 * 6 * 7 * 5)
    network.sizes.clear()
    assert scores(network, cohort, np.arange(8), device="cpu").shape == (8, 2) and max(network.sizes) <= 3
