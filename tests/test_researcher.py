"""A researcher's own path, end to end: a table and image files, read, trained on, evaluated by group, explained."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from bias_tutorial import networks
from bias_tutorial.attribution import by_group, region_scores, smoothgrad
from bias_tutorial.datasets import table
from bias_tutorial.evaluation import accuracy_by_group, group_metrics
from bias_tutorial.files import write_nifti
from bias_tutorial.training import Recipe, fit, load, predict

SQUARE = {2: (slice(4, 10), slice(15, 21)), 3: (slice(3, 10), slice(8, 15), slice(2, 8))}
SHAPE = {2: (28, 24), 3: (20, 18, 16)}
PARTS = ("training", "training", "val", "test")


@pytest.fixture(autouse=True)
def _one_thread():
    """So small images gain nothing by more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_study(folder, dimensions, patients):
    """Noise with a bright square (a cube) in the sick; two scans of every patient; men a little brighter."""
    rng = np.random.default_rng(4)
    lines = [["scan", "file", "person", "finding", "gender", "part"]]
    for person in range(patients):
        sick, male = rng.random() < 0.5, person // len(PARTS) % 2
        for visit in (1, 2):
            image = rng.normal(0.3 + 0.05 * male, 0.08, SHAPE[dimensions])
            image[SQUARE[dimensions]] += 0.35 * sick
            name = f"images/p{person}_v{visit}.{'png' if dimensions == 2 else 'nii.gz'}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            if dimensions == 2:
                Image.fromarray((255 * image.clip(0, 1)).round().astype(np.uint8)).save(folder / name)
            else:
                write_nifti(folder / name, 1000 * image[None])  # in units of its own
            lines.append([f"p{person}_v{visit}", name, f"person {person}", "sick" if sick else "healthy", "FM"[male],
                          PARTS[person % len(PARTS)]])
    with open(folder / "study.csv", "w", newline="") as handle:
        csv.writer(handle).writerows(lines)
    return folder / "study.csv"


@pytest.mark.parametrize(("dimensions", "patients", "scale", "splitting", "smallest"), [
    (2, 256, "type", {"split": "part"}, 30),
    (3, 120, (0, 1000), {"seed": 7, "shares": (0.5, 0.2, 0.3)}, 10),
])
def test_own_files_are_read_trained_on_evaluated_and_explained(tmp_path, dimensions, patients, scale, splitting,
                                                               smallest):
    path = write_study(tmp_path / "my study", dimensions, patients)
    cohort = table.read(path, image="file", image_id="scan", patient="person", scale=scale,
                        targets={"finding": ("healthy", "sick")}, attributes={"gender": ("F", "M")}, **splitting)
    assert cohort.images.shape == (2 * patients, 1, *SHAPE[dimensions])

    network, checkpoint = networks.build("modern", dimensions), tmp_path / "runs" / "finding.pt"
    history = fit(network, cohort, "finding", Recipe(epochs=8, batch_size=16, shift=1), device="cpu", progress=False,
                  checkpoint=checkpoint)
    assert len(load(checkpoint)["history"]) == len(history)

    test = cohort.split("test")
    sick = (test.table["finding"] == "sick").to_numpy()
    probability = predict(network, test, device="cpu")[:, cohort.schema.targets["finding"].index("sick")]
    people, genders = test.table["patient_id"], test.table[["gender"]]
    found = group_metrics(sick.astype(int), probability, genders, patients=people, smallest=smallest, draws=200)
    assert list(found.index) == ["all", "gender = F", "gender = M"]
    assert (found["n"] == 2 * found["patients"]).all() and found.loc["all", "n"] == len(test)
    assert (found["auc"] > 0.9).all() and (found["accuracy"] > 0.8).all()
    right = (probability >= 0.5) == sick
    by_gender = accuracy_by_group(right, genders)
    assert by_gender["accuracy"].tolist() == found["accuracy"].iloc[1:].tolist()

    square = np.zeros(SHAPE[dimensions], bool)
    square[SQUARE[dimensions]] = True
    maps = smoothgrad(network, test, samples=4, noise=0.05, device="cpu")
    scores = region_scores(maps, {"square": square, "mirrored": square[..., ::-1], "elsewhere": ~square})
    explained = by_group(scores, genders[[]], people).set_index("region")["score"]
    assert explained["square"] > 1 > explained["elsewhere"] and explained["square"] > 2 * explained["mirrored"]


def test_what_is_wrong_in_the_files_is_named(tmp_path):
    path = write_study(tmp_path, 2, 16)
    columns = {"image": "file", "image_id": "scan", "patient": "person", "targets": {"finding": ("healthy", "sick")}}
    with_x = {"attributes": {"gender": ("F", "M", "X")}, "split": "part"}
    network = networks.build("modern")
    with pytest.raises(ValueError, match="split 'train': no row has gender = 'X'; every class and every group needs"):
        fit(network, table.read(path, **columns, **with_x), "finding", device="cpu", progress=False)
    with pytest.raises(ValueError, match="'disease', expected one of finding"):
        fit(network, table.read(path, **columns, split="part"), device="cpu", progress=False)
    (tmp_path / "images" / "p4_v1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="p4_v1.png': cannot be read as png"):
        fit(network, table.read(path, **columns, split="part"), "finding", device="cpu", progress=False)
    text = path.read_text().replace("p0_v2.png,person 0,", "p0_v2.png,person 2,")  # one in training, the other in val
    path.write_text(text)
    with pytest.raises(ValueError, match="patient 'person 2' is in several splits: train, validation"):
        table.read(path, **columns, split="part")
