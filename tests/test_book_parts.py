"""Pages made from other files: functions with links to chapters, the map, cards, citation, licences, downloads."""

import ast
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))

import api  # noqa: E402
import build  # noqa: E402
import downloads  # noqa: E402
import parts  # noqa: E402

BOOK = build.Book(ROOT)


@pytest.fixture(scope="module")
def entries():
    return parts.used(BOOK)


# ---------------------------------------------------------------------- functions
DEEP = '''LIMIT = 3

def made(x: int, *, shape=(1, 2)) -> int:
    """Make it.

    Parameters
    ----------
    x : int, shape (n, *space)
        Size, ``(n, *space)``.
    """

def _hidden():
    pass

class Thing:
    """A thing."""

    def __init__(self, size=2):
        pass

    @property
    def area(self):
        """Its area."""
'''


@pytest.fixture
def package(tmp_path):
    """A package with a function that another module hands on, a class, and something private."""
    texts = {"__init__.py": '"""Top."""\n',
             "tools/__init__.py": '"""Tools.\n\nMore."""\nfrom . import deep\nfrom .deep import made\n',
             "tools/deep.py": DEEP}
    for name, text in texts.items():
        (tmp_path / "bias_tutorial" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bias_tutorial" / name).write_text(text)
    return tmp_path


def a_notebook(*cells):
    return new_notebook(cells=[new_markdown_cell("# First words"), *(
        new_code_cell(c) if not c.startswith("## ") else new_markdown_cell(c) for c in cells)])


def test_functions_are_found_under_the_name_and_section_of_their_first_use(package):
    pages = {"chapters/01": a_notebook("!pip install x\nfrom bias_tutorial import tools as t", "## One `idea`, here",
                                       "t.made(t.deep.LIMIT)\nother.made(1)"),
             "chapters/02": a_notebook("from bias_tutorial.tools import made, deep\nmade(2)\n"
                                       "deep.Thing().area\ndeep._hidden()")}
    found = api.used(package, pages)
    assert [(e.short, e.place.link) for e in found] == [
        ("tools.made", "chapters/01.html#one-idea-here"), ("tools.deep.Thing", "chapters/02.html#first-words")]
    page = api.page(package, found)
    assert "## `tools`" in page and ".. py:function:: bias_tutorial.tools.made(x: int, *, shape=(1, 2)) -> int" in page
    assert "section “One idea, here” <chapters/01.html#one-idea-here>`__" in page
    assert ".. py:class:: bias_tutorial.tools.deep.Thing(size=2)" in page and ".. py:property:: area" in page
    assert r"shape (n, \*space)" in page and "``(n, *space)``" in page and "__init__" not in page
    sheets = {"chapters/01": a_notebook("from bias_tutorial.tools import made, deep", "## Task", "made(deep.Thing(1))")}
    assert api.used(package, pages, sheets) == found
    only = [(e.short, e.place.link) for e in api.used(package, {"chapters/01": pages["chapters/01"]}, sheets)]
    assert only == [("tools.made", "chapters/01.html#one-idea-here"),
                    ("tools.deep.Thing", "chapters/01.html#check-yourself")]
    assert api.introduced(found, "chapters/02").count("{py:obj}") == 1 and api.introduced(found, "words") == ""


def test_every_function_that_a_chapter_calls_is_on_the_page(entries):
    names = {entry.name for entry in entries}
    for page, notebook in parts.notebooks(BOOK).items():
        for cell in notebook.cells:
            if cell.cell_type == "code" and "bias_tutorial" in cell.source:
                code = re.sub(r"^(\s*)[!%].*", r"\1pass", cell.source, flags=re.M)
                for node in ast.walk(ast.parse(code)):
                    ours = isinstance(node, ast.ImportFrom) and node.module.startswith("bias_tutorial")
                    for alias in node.names if ours else ():
                        full = f"{node.module}.{alias.name}"
                        used = any(name == full or name.startswith(f"{full}.") for name in names)
                        assert used or api.file_of(ROOT, full) or alias.name.isupper(), f"{page} imports {full}"
    assert len(names) > 100
    assert "bias_tutorial.answer_key.solve" in names and not any(".classroom." in name for name in names)


def test_every_function_says_what_it_does(entries):
    assert [entry.name for entry in entries if not ast.get_docstring(entry.node)] == []


# ---------------------------------------------------------------------- other parts
def test_every_part_is_made_and_an_unknown_one_is_named():
    asked = {name for page in BOOK.pages() if (path := BOOK.file(page)).suffix == ".md"
             for name in parts.MARK.findall(path.read_text())}
    assert asked == set(parts.PARTS)
    assert parts.filled(BOOK, "a\n<!-- made: changes -->\nb").startswith("a\nWhat a reader")
    with pytest.raises(build.BuildError, match="the part 'wrong'; there are map"):
        parts.filled(BOOK, "<!-- made: wrong -->")


def test_the_map_holds_every_chapter_once():
    shown = parts.course_map(BOOK)
    pages = [page for page in BOOK.pages() if BOOK.file(page).suffix == ".ipynb"]
    assert sorted(re.findall(r'href="([^"]+)\.html"', shown)) == sorted(pages)
    missing = SimpleNamespace(pages=lambda: ["intro"], file=BOOK.file)
    with pytest.raises(build.BuildError, match="names '01'"):
        parts.course_map(missing)


def test_the_citation_says_what_its_file_says():
    shown, known = parts.citation(BOOK), yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert known["title"] in shown and f"version = {{{known['version']}}}" in shown
    for work in known["references"]:
        assert work["title"] in shown and str(work["year"]) in shown and work.get("doi", "") in shown
    assert "Emma A. M. Stanley and others" in shown


def test_licences_stand_there_word_for_word():
    shown = parts.licences(BOOK)
    for name in ("LICENSE", "LICENSE-CONTENT", "NOTICE"):
        assert (ROOT / name).read_text().strip() in shown


def test_every_data_card_with_numbers_names_its_source_and_who_is_missing():
    cards = re.split(r"^## ", (ROOT / "data" / "README.md").read_text(), flags=re.M)[1:]
    assert len(cards) >= 10
    for card in cards:
        name = card.partition("\n")[0]
        if name not in ("samples", "your own BIDS set", "your own table"):
            assert re.search(r"doi:10\.|arXiv \d{4}\.\d+", card), f"the card '{name}' names no source"
        asks = "*Who is missing:*" in card or name == "your own BIDS set"
        assert asks, f"the card '{name}' does not ask who is missing"


def test_the_change_log_names_this_version():
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert f"## Version {version}" in (ROOT / "CHANGELOG.md").read_text()


# ---------------------------------------------------------------------- downloads
@pytest.fixture
def built(tmp_path):
    """A built book of two files."""
    html = tmp_path / "book" / "_build" / "html"
    (html / "chapters").mkdir(parents=True)
    (html / "index.html").write_text("start")
    (html / "chapters" / "01.html").write_text("one")
    (html / "downloads.html").write_text(f"{parts.kept_place('pdf')}{parts.kept_place('zip')}")
    (tmp_path / "LICENSE").write_text("MIT")
    source = tmp_path / "book" / "01_first.ipynb"
    nbformat.write(a_notebook("1"), source)
    return SimpleNamespace(root=tmp_path, source=tmp_path / "book", build=tmp_path / "book" / "_build",
                           chapters=lambda: [source])


def test_the_archive_holds_the_book_and_its_licences_and_is_always_the_same(built):
    first = downloads.whole(built).read_bytes()
    page = (built.build / "html" / "downloads.html").read_text()
    assert '<a href="downloads/where-bias-hides.zip" download>' in page and "make pdf" in page
    with zipfile.ZipFile(built.build / parts.BOOK_ZIP) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"where-bias-hides/{name}" for name in
                                      ("LICENSE", "chapters/01.html", "downloads.html", "index.html")]
    (built.build / "html" / "downloads.html").write_text(f"{parts.kept_place('pdf')}{parts.kept_place('zip')}")
    assert downloads.whole(built).read_bytes() == first
    (built.build / "html" / "index.html").unlink()
    with pytest.raises(build.BuildError, match="run `make book` first"):
        downloads.whole(built)


def test_the_notebooks_go_with_their_licence(built):
    sheet = built.source / "exercises" / "student" / "01_first.ipynb"
    sheet.parent.mkdir(parents=True)
    nbformat.write(a_notebook(), sheet)
    with zipfile.ZipFile(downloads.notebooks(built)) as archive:
        names = ("01_first.ipynb", "LICENSE", "sheets/01_first.ipynb")
        assert archive.namelist() == [f"where-bias-hides-notebooks/{name}" for name in names]
    link = re.search(r'href="(\S+)" download>01_first', "".join(parts.sheet_links(built)))[1]
    assert (built.build / "html" / link).read_bytes() == sheet.read_bytes()
