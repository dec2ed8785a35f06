"""The parts of the set-up contract that need no environment: what it refuses, and what it runs of a sheet."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import colab  # noqa: E402

NOTEBOOKS = sorted((ROOT / "book" / "chapters").glob("*.ipynb")) \
    + sorted((ROOT / "book" / "exercises" / "student").glob("*.ipynb"))
GREEN = "\x1b[32m✓ bias_tutorial 0.1.0 ready (torch 2.11.0 on CPU, fp32)\x1b[0m\n"


def printed(*texts, **more):
    """A cell that printed these texts, each in an output of its own."""
    return new_code_cell("", outputs=[new_output("stream", name="stdout", text=text, **more) for text in texts])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / "book").as_posix())
def test_every_notebook_begins_with_the_set_up_cell_and_links_to_itself(path):
    notebook = nbformat.read(path, as_version=4)
    number = colab.set_up(notebook)
    assert number == 1 and "-qq" in notebook.cells[1].source
    inside = path.relative_to(ROOT).as_posix()
    first = notebook.cells[0].source
    assert "https://colab.research.google.com/github/" in first and f"/{inside})" in first


@pytest.mark.parametrize("source", ["import bias_tutorial", "!pip install bias-tutorial\nimport bias_tutorial",
                                    'import sys\nif "google.colab" in sys.modules:\n    pass'])
def test_another_set_up_cell_is_refused(source):
    with pytest.raises(colab.Broken, match="is not the set-up cell of the template"):
        colab.set_up(new_notebook(cells=[new_markdown_cell("# T"), new_code_cell(source)]))


def test_one_green_line_is_right():
    colab.check_outputs(printed(GREEN))


@pytest.mark.parametrize("cell, said", [
    (printed("Collecting torch\n", GREEN), "one green line and nothing else"),
    (printed(GREEN.replace("\x1b[32m", "")), "one green line"),
    (printed(GREEN.replace("ready", "ready, now restart the runtime")), "frightens"),
    (printed(GREEN.replace("ready", "ERROR: pip's dependency resolver")), "frightens"),
    (printed(), "one green line"),
    (new_code_cell("", outputs=[new_output("stream", text=GREEN), new_output("display_data", {"text/plain": "x"})]),
     "display_data")])
def test_anything_else_than_one_green_line_is_refused(cell, said):
    with pytest.raises(colab.Broken, match=said):
        colab.check_outputs(cell)


def graded(source, name, **kind):
    return new_code_cell(source, metadata={"nbgrader": {"grade_id": name, "solution": False, "grade": False, **kind}})


@pytest.mark.parametrize("with_master", [True, False])
def test_a_sheet_runs_with_its_masters_answers_or_up_to_the_first_answer(tmp_path, with_master):
    cells = [new_markdown_cell("# T"), new_code_cell("set up"), graded("given", "e1_given", locked=True),
             graded("raise NotImplementedError()", "e1_answer", solution=True), graded("check", "e1_test", grade=True)]
    (tmp_path / "student").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "student" / "01.ipynb")
    if with_master:
        cells[3] = graded("x = 1", "e1_answer", solution=True)
        nbformat.write(new_notebook(cells=cells), tmp_path / "01.ipynb")
    run = [cell.source for cell in colab.answered(tmp_path / "student" / "01.ipynb").cells]
    assert run == ["# T", "set up", "given", *(["x = 1", "check"] if with_master else [])]


def test_a_sheet_that_asks_what_its_master_does_not_answer_stops_there(tmp_path):
    (tmp_path / "student").mkdir()
    first, second = (graded("", f"e{k}_answer", solution=True) for k in (1, 2))
    nbformat.write(new_notebook(cells=[first, second]), tmp_path / "student" / "01.ipynb")
    nbformat.write(new_notebook(cells=[graded("x = 1", "e1_answer", solution=True)]), tmp_path / "01.ipynb")
    assert [cell.source for cell in colab.answered(tmp_path / "student" / "01.ipynb").cells] == ["x = 1"]
