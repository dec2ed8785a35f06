"""The preview of a change: on a tiny repository with its own package, notebook and page."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))

import execution  # noqa: E402
import preview  # noqa: E402

CELL = "from bias_tutorial import NUMBER\nprint('result', NUMBER)"


def notebook(*sources):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_markdown_cell("# Title", id="t"), *(new_code_cell(s, id=f"c{k}") for k, s in enumerate(sources))]
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def repository(tmp_path):
    """Two notebooks, a page, a package of one number, all committed."""
    root = tmp_path / "tiny"
    (root / "book" / "chapters").mkdir(parents=True)
    (root / "bias_tutorial").mkdir()
    (root / "bias_tutorial" / "__init__.py").write_text("NUMBER = 1\n")
    (root / "book" / "words.md").write_text("# Words\n\nOne word.\n")
    (root / ".gitignore").write_text("_build/\n__pycache__/\n")
    nbformat.write(notebook(CELL), root / "book" / "chapters" / "01_first.ipynb")
    nbformat.write(notebook("print('always the same')"), root / "book" / "chapters" / "02_second.ipynb")
    for command in ("init -q -b main", "add -A", "-c user.name=a -c user.email=a@b commit -q -m first"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    return root


def made(root, base="HEAD"):
    assert preview.main([base, "--root", str(root)]) == 0
    return (root / "book" / "_build" / "preview" / "index.html").read_text()


def test_nothing_changed_runs_nothing(repository, monkeypatch):
    monkeypatch.setattr(execution, "run", lambda *a: pytest.fail("a chapter was run"))
    assert "Nothing: no page has another" in made(repository)


def test_sheets_are_no_pages_and_leave_the_runs_of_the_chapters_alone(repository):
    sheet = repository / "book" / "exercises" / "01_first.ipynb"
    sheet.parent.mkdir()
    nbformat.write(notebook("print('a sheet')"), sheet)
    (repository / "bias_tutorial" / "__init__.py").write_text("NUMBER = 22\n")
    assert "a sheet" not in made(repository)
    ran = nbformat.read(repository / "book" / "_build" / "executed" / "01_first.ipynb", as_version=4)
    assert ran.cells[1].outputs[0].text == "result 22\n"


def test_a_change_of_the_package_shows_where_the_output_differs(repository, monkeypatch):
    (repository / "bias_tutorial" / "__init__.py").write_text("NUMBER = 22\n")
    page = made(repository)
    assert "<pre>result 1\n</pre>" in page and "<pre>result 22\n</pre>" in page
    assert "chapters/01_first.ipynb</a>: output<" in page and "02_second" not in page, "it prints the same"
    assert page.index("result 1\n") < page.index("result 22"), "the old one stands first"
    monkeypatch.setattr(execution, "run", lambda *a: pytest.fail("the runs were not kept"))
    assert made(repository) == page


def test_changed_source_new_and_removed_pages(repository):
    (repository / "book" / "words.md").write_text("# Words\n\nAnother word, <b>.\n")
    (repository / "book" / "chapters" / "02_second.ipynb").unlink()
    nbformat.write(notebook("1 + 1"), repository / "book" / "chapters" / "03_third.ipynb")
    page = made(repository)
    assert "<del class='was'>-One word.</del><ins class='is'>+Another word, &lt;b&gt;.</ins>" in page
    assert "02_second.ipynb</a>: removed" in page and "03_third.ipynb</a>: new page" in page
    assert "01_first" not in page


def test_an_unknown_base_is_named(repository, capsys):
    assert preview.main(["nowhere", "--root", str(repository)]) == 1
    assert "git rev-parse --verify nowhere" in capsys.readouterr().err


def test_figures_stand_alone_and_records_are_no_difference():
    picture = new_output("display_data", {"text/html": "<svg><script>x</script></svg>", "text/plain": "x"})
    number = [new_output("display_data", {preview.RECORDS: {"name": "auc", "value": v}}) for v in (1, 2)]
    cells = [notebook("x") for _ in range(2)]
    for cell, value in zip(cells, number, strict=True):
        cell.cells[1].outputs = [picture, value]
    assert preview.compare_notebooks("x", *cells) == []
    cells[1].cells[1].outputs = [new_output("display_data", {"image/png": "QUJD\n"})]
    (change,) = preview.compare_notebooks("x", *cells)
    assert change.what == "output" and 'src="data:image/png;base64,QUJD"' in change.parts[0]
    assert 'sandbox="allow-scripts"' in change.parts[0] and "&lt;svg&gt;" in change.parts[0]


def test_a_cell_put_in_between_leaves_the_others_paired():
    one, two = notebook("a", "b", "c"), notebook("a", "new", "b", "c")
    pairs = [(old and old.source, new and new.source) for old, new in preview.paired(one.cells[1:], two.cells[1:])]
    assert pairs == [("a", "a"), (None, "new"), ("b", "b"), ("c", "c")]
