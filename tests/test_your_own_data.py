"""The page on a reader's own data: it runs, it shows the shortcut, and what it tells readers to type can be typed."""

import ast
import inspect
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from nibabel.processing import conform

from bias_tutorial import bids, cohort, networks, training
from bias_tutorial.claims import recorded
from bias_tutorial.datasets import samples, table
from bias_tutorial.files import read_image, write_nifti

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "your_own_data.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The page run in a folder of its own, with the parameters of the book: what it teaches needs them."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIAS_TUTORIAL_BOOK", "1")
        patch.setenv("TQDM_DISABLE", "1")
        papermill.execute_notebook(PAGE, folder / PAGE.name, progress_bar=False, kernel_name="python3", cwd=str(folder))
    return folder, nbformat.read(folder / PAGE.name, as_version=4)


def test_it_runs_without_a_warning(executed):
    _, notebook = executed
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count
            assert not [out for out in cell.outputs if out.output_type == "stream" and out.name == "stderr"]


def test_it_shows_what_its_text_says(executed):
    """A good number for all; within a site nothing; the one site called sick, the other healthy."""
    values = recorded(executed[1])
    assert all(math.isfinite(value) for value in values.values())
    assert values["auc all"] > 0.7 and values["read site"] > 0.9
    assert values["tpr site = north"] - values["tpr site = south"] > 0.5
    assert max(values["auc site = north"], values["auc site = south"]) < values["auc all"] - 0.1
    assert max(values["auc_low site = north"], values["auc_low site = south"]) <= 0.5 < values["auc_low all"]


def test_the_report_is_a_page_that_names_nobody(executed):
    report = (executed[0] / "report.html").read_text()
    assert "site = south" in report and "What was done" in report and "<h1>" in report
    assert not re.search(r"\bS\d{3}\b", report) and "http" not in report


def test_other_names_volumes_and_missing_cells_need_only_the_one_cell(tmp_path):
    """An unknown age counts neither as right nor as wrong, and a scan without a diagnosis is not called healthy."""
    study = samples.study()
    rows = pd.read_csv(study)
    for name in rows["file"]:
        image = read_image(study.parent / name)[0] / 255
        write_nifti(tmp_path / name, np.repeat(image[:, ::3, ::3, None], 3, axis=3))
    rows["age"] = rows["age"].astype(object).where(rows["subject"] > "S020", "")
    rows["diagnosis"] = rows["diagnosis"].where(rows["subject"] != "S150", "")
    unknown, ages = (rows["diagnosis"] == "").sum(), (rows["age"] == "").sum()
    names = {"diagnosis": "Dx", "site": "MRI Scanner (model)", "sex": "Sex"}
    rows.rename(columns=names).replace({"healthy": "CN", "sick": "AD"}).to_csv(tmp_path / "study.csv", index=False)
    page = nbformat.read(PAGE, as_version=4)
    told = next(cell for cell in page.cells if cell.source.startswith("target, values"))
    for old, new in {**names, "healthy": "CN", "sick": "AD"}.items():
        told.source = told.source.replace(f'"{old}"', f'"{new}"')
    nbformat.write(page, tmp_path / "mine.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQDM_DISABLE", "1")
        papermill.execute_notebook(tmp_path / "mine.ipynb", tmp_path / PAGE.name,
                                   {"csv": str(tmp_path / "study.csv"), "epochs": 2}, progress_bar=False,
                                   kernel_name="python3", cwd=str(tmp_path))
    said = "\n".join(out.text for cell in nbformat.read(tmp_path / PAGE.name, as_version=4).cells
                     for out in cell.get("outputs", []) if out.output_type == "stream")
    assert f"missing cells: {{'Dx': {unknown}, 'age': {ages}, 'age_value': {ages}}}" in said
    assert f"{len(rows) - unknown} scans of {rows['subject'].nunique() - 1} people, images of 14 12 3" in said
    counts = {column: int(n) for column, n in re.findall(r"(\S.*?) +alone is right for \S+ of (\d+) scans", said)}
    assert counts["age"] < counts["Sex"] == counts["MRI Scanner (model)"]


def test_every_reader_and_argument_of_the_recipes_exists():
    """Code that is shown and not run: its calls fit the functions they name."""
    text = "\n".join(c.source for c in nbformat.read(PAGE, as_version=4).cells if c.cell_type == "markdown")
    known = {"table.read": table.read, "networks.build": networks.build, "bids.from_bids": bids.from_bids,
             "conform": conform, "fit": training.fit, "Recipe": training.Recipe, "Schema": cohort.Schema,
             "pd.DataFrame": pd.DataFrame}
    seen = set()
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for node in ast.walk(ast.parse(block)):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else None
            if name in known:
                seen.add(name)
                arguments = inspect.signature(known[name]).bind(
                    *node.args, **{word.arg: word.value for word in node.keywords}).arguments
                assert arguments
    assert seen == set(known)


def recipe(start):
    """A recipe of the page, by how it starts."""
    text = "\n".join(c.source for c in nbformat.read(PAGE, as_version=4).cells if c.cell_type == "markdown")
    return next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if block.startswith(start))


def test_recipes_for_visits_orientations_and_files_without_a_line_run(tmp_path, monkeypatch, capsys):
    """Typed as they stand: scans of two visits in a BIDS folder, brought into one shape, one of them without a line."""
    monkeypatch.chdir(tmp_path)
    scope = {"pd": pd, "Path": Path}
    for visit in ("1", "2"):
        for name in ("sub-01", "sub-02", "sub-03"):
            path = Path(f"my_bids_folder/{name}/ses-{visit}/anat/{name}_ses-{visit}_T1w.nii.gz")
            path.parent.mkdir(parents=True)
            write_nifti(path, np.full((1, 4, 5, 6), 0.1 * int(visit), np.float32))
    Path("my_bids_folder/participants.tsv").write_text("participant_id\tdiagnosis\nsub-01\tHC\nsub-02\tAD\nsub-03\tHC\n")
    exec(recipe("folder = Path"), scope)  # noqa: S102 - the page's own recipe
    visits = table.read("scans.csv", image="file", patient="participant_id", targets={"diagnosis": ("HC", "AD")},
                        seed=0, root="my_bids_folder", scale="none")
    assert len(visits) == 6 and visits.table["patient_id"].nunique() == 3 and visits.images[5].max() == np.float32(0.2)

    Path("study/images").mkdir(parents=True)
    for k, path in enumerate(sorted(Path("my_bids_folder").rglob("*.nii.gz"))):
        path.rename(f"study/images/{k}.nii.gz")
    exec(recipe("import nibabel"), scope)  # noqa: S102
    assert {read_image(path)[0].shape for path in Path("study/alike").glob("*")} == {(1, 91, 109, 91)}
    pd.DataFrame({"file": ["images/0.nii.gz", "images/1.nii.gz"]}).to_csv("study/scans.csv")
    exec(recipe("lines = "), scope)  # noqa: S102
    assert sorted(ast.literal_eval(capsys.readouterr().out)) == [f"{k}.nii.gz" for k in range(2, 6)]


# ---------------------------------------------------------------------- the study
def test_the_study_of_the_repository_is_used_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert samples.study() == ROOT / "data" / "samples" / "study" / "study.csv"
    monkeypatch.setattr(samples, "REPOSITORY", tmp_path / "nowhere")
    made = samples.study()
    assert made == Path("samples_study") / "study.csv"
    stored, again = (pd.read_csv(path) for path in (ROOT / "data" / "samples" / "study" / "study.csv", made))
    pd.testing.assert_frame_equal(stored, again)
    assert len(list(made.parent.glob("images/*.nii.gz"))) == len(again) == samples.SUBJECTS + samples.SECOND_SCANS


def test_site_goes_with_the_disease_and_nothing_else_does():
    rows = pd.read_csv(samples.study()).drop_duplicates("subject")
    sick = rows["diagnosis"] == "sick"
    agree = ((rows["site"] == "north") == sick).mean()
    assert abs(agree - samples.AGREEMENT) < 0.05
    assert abs((rows["sex"] == "F")[sick].mean() - (rows["sex"] == "F")[~sick].mean()) < 0.2
    assert abs(rows["age"][sick].mean() - rows["age"][~sick].mean()) < 5
