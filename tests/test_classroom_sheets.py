"""Student notebooks are made from the masters, hold no solution, and pass through plain nbgrader and back."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bias_tutorial.classroom import masters, sheets

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "book" / "exercises"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]


def filled(notebook, master):
    """A student notebook with the master's solutions written in."""
    written = json.loads(json.dumps(notebook))
    for cell in written["cells"]:
        if masters.grader(cell).get("solution"):
            answer = masters.source(master.cell(masters.grade_id(cell)))
            cell["source"] = re.sub(r"^### (BEGIN|END) SOLUTION\n?", "", answer, flags=re.M)
    return written


@pytest.mark.parametrize("name", NAMES)
def test_the_student_notebooks_are_the_ones_committed(name):
    made = sheets.text(sheets.student(masters.read(FOLDER / f"{name}.ipynb")))
    assert (FOLDER / "student" / f"{name}.ipynb").read_bytes() == made.encode(), "run `make classroom`"


def test_every_master_has_a_student_notebook_and_no_other_is_there():
    assert NAMES == [path.stem for path in sorted((FOLDER / "student").glob("*.ipynb"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_student_notebook_holds_no_solution_and_no_hidden_test(name):
    master = masters.read(FOLDER / f"{name}.ipynb")
    made = sheets.student(master)
    whole = "\n".join(masters.source(cell) for cell in made["cells"])
    assert "BEGIN" not in whole and "END" not in whole
    secret = [line.strip() for cell in master.cells for region in (masters.SOLUTION, masters.HIDDEN)
              for found in region.findall(masters.source(cell)) for line in found.splitlines()[1:-1]]
    secret = [line for line in secret if len(line) > 24]
    assert secret and not [line for line in secret if line in whole]
    assert sum(masters.grader(cell).get("points", 0) for cell in made["cells"]) == 20
    assert whole.count("raise NotImplementedError()") == sum(not q.by_hand for q in master.questions)
    assert f"book/exercises/student/{name}.ipynb" in whole, "the link opens this notebook"
    assert all("checksum" in masters.grader(cell) for cell in made["cells"] if masters.grader(cell))
    assert made["metadata"]["classroom"] == {"sheet": name, "seed": 0}


def test_another_seed_redraws_and_is_not_committed(tmp_path):
    folder = tmp_path / "exercises"
    folder.mkdir()
    shutil.copy(FOLDER / "01_simulate_bias.ipynb", folder)
    written = sheets.build(folder, tmp_path / "dist", seed=7)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        "dist/student/01_simulate_bias.ipynb", "dist/solution/01_simulate_bias.ipynb",
        "dist/source/01_simulate_bias/01_simulate_bias.ipynb"} == {
        path.relative_to(tmp_path).as_posix() for path in (tmp_path / "dist").rglob("*.ipynb")}
    assert not (folder / "student").exists()
    made = (tmp_path / "dist" / "student" / "01_simulate_bias.ipynb").read_text(encoding="utf-8")
    assert '"SEED = 7\\n"' in made and "SEED = 0" not in made
    assert "exercises/student" not in made and "upload this file" in made, "the public notebook has other numbers"
    solved = (tmp_path / "dist" / "solution" / "01_simulate_bias.ipynb").read_text(encoding="utf-8")
    assert "key_gap(p)" in solved and "### " not in solved and "checks.equals" in solved
    sheets.build(folder, tmp_path / "dist")
    assert (folder / "student" / "01_simulate_bias.ipynb").read_bytes() == (
        FOLDER / "student" / "01_simulate_bias.ipynb").read_bytes()


@pytest.mark.parametrize("content, words", [
    ("no notebook", "is not a notebook"), ("[]", "is not a notebook"),
    (lambda t: t.replace('"e2_test"', '"e1_test"'), "grade_id e1_test occurs more than once"),
    (lambda t: t.replace("SEED = 0", "SEED"), "tag 'numbers' and a line 'SEED = 0'"),
    (lambda t: t.replace("### BEGIN SOLUTION", "#"), "e1_answer has no region"),
    (lambda t: t.replace("### BEGIN HIDDEN TESTS", "#"), "e1_test needs an answer cell above it, and a region"),
    (lambda t: t.replace("## Exercise 1 (recall", "## Exercise one (recall"), "e1_test has no heading above it")])
def test_a_master_that_cannot_be_used_is_named(tmp_path, content, words):
    text = (FOLDER / "01_simulate_bias.ipynb").read_text(encoding="utf-8")
    path = tmp_path / "01_simulate_bias.ipynb"
    path.write_text(content if isinstance(content, str) else content(text), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        masters.read(path)
    assert str(path) in str(caught.value)


def test_no_masters_and_no_seed(tmp_path):
    with pytest.raises(ValueError, match="holds no master notebook"):
        sheets.build(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="whole number from 0 up"):
        masters.read(FOLDER / "01_simulate_bias.ipynb", -1)


def test_masters_stay_out_of_the_site():
    """Pages are what the table of contents names; build.py stages no other notebook."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    pages = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    assert pages and not [page for page in pages if page.startswith("exercises")]
    settings = yaml.safe_load((ROOT / "book" / "_config.yml").read_text(encoding="utf-8"))
    assert settings["only_build_toc_files"] is True and "exercises" in settings["exclude_patterns"]


# ---------------------------------------------------------------------- plain nbgrader
SCORES = """
import json, sys
from nbgrader.api import Gradebook
with Gradebook("sqlite:///gradebook.db") as book:
    print(json.dumps({sub.student.id: {grade.name: grade.auto_score for grade in sub.notebooks[0].grades}
                      for sub in book.assignment_submissions(sys.argv[1])}))
"""


def nbgrader(course, *words):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                                "PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1", "HOME": str(course)}
    done = subprocess.run([sys.executable, *words], cwd=course, env=environment, capture_output=True, text=True,
                          timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_sheet_goes_through_plain_nbgrader_and_back(tmp_path):
    name = "01_simulate_bias"
    master = masters.read(FOLDER / f"{name}.ipynb")
    sheets.build(FOLDER, tmp_path, seed=3)
    nbgrader(tmp_path, "-m", "nbgrader", "generate_assignment", name, "--create")
    released = json.loads((tmp_path / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8"))
    ours = json.loads((tmp_path / "student" / f"{name}.ipynb").read_text(encoding="utf-8"))
    del ours["metadata"]["classroom"]
    assert released == ours, "the same steps give the same notebook"
    solved = filled(ours, master)
    mixed = json.loads(json.dumps(solved))
    for cell in mixed["cells"]:
        if masters.grade_id(cell) == "e3_answer":
            cell["source"] = "threshold = 0.0\ndef key_gap(p):\n    return p"
        if masters.grade_id(cell) == "e4_test":
            cell["source"] = "pass  # tampered, as nbgrader finds by its checksum"
        if masters.grade_id(cell) == "e4_answer":
            cell["source"] = "design, m = 'a', 1"
    for who, notebook in (("solved", solved), ("mixed", mixed)):
        folder = tmp_path / "submitted" / who / name
        folder.mkdir(parents=True)
        (folder / f"{name}.ipynb").write_text(sheets.text(notebook), encoding="utf-8")
    nbgrader(tmp_path, "-m", "nbgrader", "autograde", name, "--create")
    scores = json.loads(nbgrader(tmp_path, "-c", SCORES, name))
    wanted = {q.name: None if q.by_hand else q.points for q in master.questions}
    assert scores == {"solved": wanted, "mixed": wanted | {"e3_test": 0.0, "e4_test": 0.0}}
