"""The book's machinery: when a chapter runs again, what stops a build, what the page checks see, what make says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))

import build  # noqa: E402
import checks  # noqa: E402
import execution  # noqa: E402

TITLE = "# Making bias\n\nA formula $x^2$ and a word: {term}`bias`."


def notebook(*sources, tags=()):
    cells = [new_markdown_cell(TITLE), *(new_code_cell(s, metadata={"tags": list(tags)}) for s in sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def book(tmp_path):
    """A repository with one tiny chapter, the real configuration and extension, and a package of one number."""
    for name in ("_config.yml", "_ext", "_static"):
        source = ROOT / "book" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        (tmp_path / "book").mkdir(exist_ok=True)
        copy(source, tmp_path / "book" / name)
    texts = {"book/_toc.yml": "format: jb-book\nroot: intro\nchapters:\n- file: chapters/01_first\n- file: words\n",
             "book/intro.md": "# Home\n\nText.\n", "book/references.bib": "", "requirements.txt": "numpy==2.4.6\n",
             "book/words.md": "# Words\n\n:::{glossary}\nbias\n  A tilt.\n:::\n",
             "bias_tutorial/__init__.py": "NUMBER = 1\n",
             "bias_tutorial/stored/runs.csv": "seed,auc\n0,0.8\n", "bias_tutorial/assets/template.bin": "abc",
             "data/samples/table.csv": "a\n1\n", "pyproject.toml": "[project]\n"}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "book" / "chapters").mkdir()
    nbformat.write(notebook("print('result', 1 + 1)"), tmp_path / "book" / "chapters" / "01_first.ipynb")
    return build.Book(tmp_path)


def chapter(book):
    return book.source / "chapters" / "01_first.ipynb"


# ---------------------------------------------------------------------- the key of a run
@pytest.mark.parametrize("name", ["book/chapters/01_first.ipynb", "bias_tutorial/__init__.py", "requirements.txt",
                                  "bias_tutorial/stored/runs.csv", "bias_tutorial/assets/template.bin",
                                  "data/samples/table.csv", "pyproject.toml"])
def test_key_follows_every_file_a_result_can_depend_on(book, name):
    before = execution.cache_key(book.root, chapter(book))
    assert execution.cache_key(book.root, chapter(book)) == before
    path = book.root / name
    path.write_bytes(path.read_bytes() + b" ")
    assert execution.cache_key(book.root, chapter(book)) != before


def test_key_follows_new_files_versions_and_kernel_settings(book, monkeypatch):
    before = execution.cache_key(book.root, chapter(book))
    (book.root / "bias_tutorial" / "__pycache__").mkdir()
    (book.root / "bias_tutorial" / "__pycache__" / "x.pyc").write_text("x")
    assert execution.cache_key(book.root, chapter(book)) == before, "compiled files are no input"
    monkeypatch.setattr(execution, "KERNEL_ENV", {**execution.KERNEL_ENV, "OTHER": "1"})
    changed = execution.cache_key(book.root, chapter(book))
    (book.root / "bias_tutorial" / "new.py").write_text("")
    assert len({before, changed, execution.cache_key(book.root, chapter(book))}) == 3
    monkeypatch.setattr(execution, "distributions", list)
    assert execution.cache_key(book.root, chapter(book)) != changed


# ---------------------------------------------------------------------- running a chapter
def test_runs_once_and_again_when_the_package_changes(book):
    folder = book.build / "executed"
    source = f"import sys; sys.path.insert(0, {str(book.root)!r})\nfrom bias_tutorial import NUMBER\nNUMBER"
    nbformat.write(notebook(source), chapter(book))
    first, ran = execution.execute(book.root, chapter(book), folder)
    again, ran_again = execution.execute(book.root, chapter(book), folder)
    assert ran and not ran_again and first == again and first.seconds > 0
    (book.root / "bias_tutorial" / "__init__.py").write_text("NUMBER = 22\n")
    _, ran = execution.execute(book.root, chapter(book), folder)
    result = nbformat.read(folder / "01_first.ipynb", as_version=4).cells[1].outputs[0].data["text/plain"]
    assert ran and result == "22", "the page would have shown a stale result"


def test_measures_memory_and_sets_the_kernel_up(book):
    source = ("import os, time\nblock = bytearray(300 * 2**20)\ntime.sleep(0.3)\n"
              "print(os.environ['BIAS_TUTORIAL_BOOK'], os.environ['PYTHONHASHSEED'], os.listdir())")
    nbformat.write(notebook(source), chapter(book))
    ran, measured = execution.run(chapter(book), "key")
    assert ran.cells[1].outputs[0].text.startswith("1 0 ")
    assert ".ipynb" not in ran.cells[1].outputs[0].text, "a chapter must not find files of the repository beside it"
    assert measured.peak_mib > 330 and measured.seconds > 0.3


@pytest.mark.parametrize("source, tags, expected", [
    ("1 / 0", (), "01_first.ipynb, cell 1: ZeroDivisionError: division by zero"),
    ("1 / 0", ("raises-exception",), "cell 1: ZeroDivisionError"),
    ("import warnings; warnings.warn('careful')", (), "01_first.ipynb, cell 1: .*careful"),
    ("import sys; print('odd', file=sys.stderr)", (), "cell 1: odd")])
def test_a_raised_cell_or_a_warning_stops_the_build(book, source, tags, expected):
    folder = book.build / "executed"
    nbformat.write(notebook(source, tags=tags), chapter(book))
    with pytest.raises(execution.BuildError, match=f"(?s){expected}"):
        execution.execute(book.root, chapter(book), folder)
    assert execution.cached(folder, chapter(book), execution.cache_key(book.root, chapter(book))) is None


def test_half_a_measurement_counts_as_none(book):
    folder = book.build / "executed"
    execution.execute(book.root, chapter(book), folder)
    (folder / "01_first.json").write_text('{"chapter": "01_f')
    assert execution.cached(folder, chapter(book), "key") is None


# ---------------------------------------------------------------------- the page of a chapter
def test_header_and_records_at_render_time_only():
    ran = notebook("x")
    ran.cells[1].outputs = [new_output("display_data", {build.RECORD_MIME: {"name": "auc", "value": 0.8}}),
                            new_output("display_data", {build.RECORD_MIME: {}, "text/plain": "0.8"})]
    page = build.staged(ran, execution.Measured("01_first", "key", 95.0, 1536.0, 2))
    title, _, line, *_ = page.cells[0].source.splitlines()
    assert title == "# Making bias" and "1.6 min to run" in line and "1.5 GiB" in line and "1 min to read" in line
    assert [dict(out.data) for out in page.cells[1].outputs] == [{"text/plain": "0.8"}]
    assert "not run" in build.staged(notebook(), None).cells[0].source
    with pytest.raises(build.BuildError, match="title"):
        build.staged(new_notebook(cells=[new_code_cell("1")]), None)


def test_minutes_to_read_count_prose_and_visible_code():
    pages = new_notebook(cells=[new_markdown_cell("word " * 1000), new_code_cell("x = 1\n" * 60)])
    assert execution.minutes_to_read(pages) == 10
    pages.cells[1].metadata["tags"] = ["hide-input"]
    assert execution.minutes_to_read(pages) == 5


def test_the_page_on_running_holds_what_was_measured(book):
    measured = {"01_first": execution.Measured("01_first", "key", 95.2, 1536.4, 2)}
    (book.source / "words.md").write_text(f"# Words\n\n{build.running.PLACE}\n")
    text = (build.stage(book, {}) / "words.md").read_text()
    assert "| [Making bias](chapters/01_first.ipynb) | 1 | not run in this build | | [Colab](" in text
    sheet = book.source / "exercises" / "student" / "01_first.ipynb"
    sheet.parent.mkdir(parents=True)
    nbformat.write(notebook("1"), sheet)
    text = build.running.tables(book.source, book.chapters(), measured)
    assert "| [Making bias](chapters/01_first.ipynb) | 1 | 95 | 1,536 | [Colab](https://colab" in text
    assert "with 2 processor cores" in text and "1.6 minutes" in text
    config = build.yaml.safe_load((book.source / "_config.yml").read_text())["repository"]
    slug = config["url"].removeprefix("https://github.com/")
    for path in ("chapters/01_first.ipynb", "exercises/student/01_first.ipynb"):
        assert f"(https://colab.research.google.com/github/{slug}/blob/{config['branch']}/book/{path})" in text
        assert f"(https://mybinder.org/v2/gh/{slug}/{config['branch']}?urlpath=lab/tree/book/{path})" in text


def test_unknown_chapter_and_missing_page_are_named(book):
    with pytest.raises(build.BuildError, match="no chapter '07'. Chapters: 01_first"):
        build.select(book.chapters(), "07")
    assert build.select(book.chapters(), "01") == book.chapters()
    (book.source / "words.md").unlink()
    with pytest.raises(build.BuildError, match="names 'words'"):
        book.chapters()


# ---------------------------------------------------------------------- a whole build
@pytest.fixture
def no_claims(monkeypatch):
    """Leave the check of numbers out: it reads the real repository; `test_prose.py` tests it."""
    monkeypatch.setattr(build, "check_claims", lambda book, chapters: None)


def test_builds_offline_pages_and_fails_loudly(book, no_claims, capsys):
    before = chapter(book).read_bytes()
    assert build.main(["--root", str(book.root)]) == 0
    html = book.build / "html"
    page = (html / "chapters" / "01_first.html").read_text()
    assert "result 2" in page and "min to read" in page and "thebe" not in page.lower().replace("sphinx-thebe.css", "")
    assert "mathjax/tex-chtml.js" in page and (html / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert not list(html.rglob("*.map"))
    assert "colab.research.google.com/github/OWNER/where-bias-hides/blob/main/book/chapters/01_first.ipynb" in page
    assert chapter(book).read_bytes() == before == (html / "_sources" / "chapters" / "01_first.ipynb").read_bytes()
    assert json.loads((book.build / "runtimes.json").read_text())[0]["chapter"] == "01_first"
    assert "index.html" in capsys.readouterr().out
    nbformat.write(notebook("1 + 1"), chapter(book))
    (book.source / "intro.md").write_text("# Home\n\nSee [nothing](nowhere.md).\n")
    assert build.main(["--root", str(book.root)]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not html.exists(), "a failed build must not leave pages behind"
    picture = '<img src="https://example.org/x.png" alt="A picture of something">'
    (book.source / "intro.md").write_text(f"# Home\n\n{picture}\n")
    assert build.main(["--root", str(book.root)]) == 1
    assert "intro.html fetches https://example.org/x.png" in capsys.readouterr().err


def test_one_chapter_leaves_the_others_marked(book, no_claims):
    nbformat.write(notebook("if False:\n    !pip install -qq {course}"), chapter(book))  # not Python, but IPython's
    nbformat.write(notebook("print('second')"), book.source / "chapters" / "02_second.ipynb")
    toc = book.source / "_toc.yml"
    toc.write_text(toc.read_text().replace("- file: words", "- file: chapters/02_second\n- file: words"))
    build.build(book, "02")
    folder = book.build / "html" / "chapters"
    assert "not run in this build" in (folder / "01_first.html").read_text()
    assert "to run and" in (folder / "02_second.html").read_text()


# ---------------------------------------------------------------------- checks of pages as files
GOOD = ('<html><body><article><h1>T</h1><div class="cell_output"><img src="a.png" alt="Accuracy rises from .7 to .9">'
        '</div><a href="https://example.org">a link</a><div class="cell_output">'
        '<svg role="img" aria-label="Gap over p, 0 to .5"><path/></svg></div></article></body></html>')


@pytest.mark.parametrize("old, new, fault", [
    ("<body>", '<body><script src="https://cdn.example/x.js"></script>', "fetches https://cdn.example/x.js"),
    ("<body>", '<link rel="stylesheet" href="//cdn.example/x.css"><body>', "fetches //cdn.example/x.css"),
    ("<body>", "<style>@font-face{src:url(https://f.example/a.woff2)}</style><body>", "fetches https://f.example"),
    ("a.png", "http://img.example/a.png", "fetches http://img.example"),
    ("<h1>T</h1>", "<h1>T</h1><pre>Traceback (most recent call last): x</pre>", "shows a traceback"),
    ("<h1>T</h1>", '<h1>T</h1><div class="cell_output"> </div>', "output 0 shows nothing"),
    ("<h1>T</h1>", '<h1>T</h1><div class="cell_output"><table><td>NaN</td></table></div>', "shows NaN"),
    ("<h1>T</h1>", '<h1>T</h1><div class="output stderr">UserWarning: x</div>', "shows a warning"),
    ("<h1>T</h1>", "<h1>T</h1><h1>U</h1>", "has 2 titles"),
    ("<h1>T</h1>", "<h1>T</h1><h2>U</h2><h4>V</h4>", "heading 'V' is of level 4 below one of level 2"),
    ("<h1>T</h1>", "<h2>U</h2><h1>T</h1>", "heading 'U' is of level 2 below one of level 0"),
    ("<h1>T</h1>", "<h1>T</h1><h2> <a>#</a></h2>", "an empty heading"),
    ('alt="Accuracy rises from .7 to .9"', "", "without a text"),
    ('alt="Accuracy rises from .7 to .9"', 'alt=""', "empty alt"),
    ('alt="Accuracy rises from .7 to .9"', 'alt="_images/01_simulate_12.png"', "without a text"),
    ('alt="Accuracy rises from .7 to .9"', 'alt="figure"', "without a text"),
    (' role="img" aria-label="Gap over p, 0 to .5"', "", "without an aria-label")])
def test_page_check_sees(tmp_path, old, new, fault):
    path = tmp_path / "page.html"
    path.write_text(GOOD)
    assert checks.check_page(path) == []
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    assert any(fault in found for found in checks.check_page(path)), checks.check_page(path)


def test_book_check_sees_missing_and_extra_pages_and_remote_fonts(tmp_path):
    (tmp_path / "intro.html").write_text(GOOD)
    assert checks.check_pages(tmp_path, ["intro"]) == []
    (tmp_path / "draft.html").write_text(GOOD)
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "x.css").write_text('@import "https://fonts.example/a.css";')
    faults = "\n".join(checks.check_pages(tmp_path, ["intro", "chapters/01"]))
    assert "chapters/01.html is missing" in faults and "draft.html is published" in faults and "fonts.example" in faults


# ---------------------------------------------------------------------- make and CI
FAKE = """#!/bin/sh
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
    *"pip"*) [ ! -e no-network ] || exit 1;;
    *version_info*) [ ! -e too-old ] || exit 1;;
    *) echo "ran: $*";;
esac
"""


@pytest.fixture
def fresh(tmp_path):
    """A fresh copy of what make reads, with a stand-in for Python; files named no-network and too-old break it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "tests").mkdir()
    for name in ("requirements.txt", "pyproject.toml", "tests/oldest.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "python").write_text(FAKE)
    (tmp_path / "python").chmod(0o755)

    def make(*arguments):
        command = ["make", *arguments, f"PYTHON={tmp_path}/python"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return tmp_path, make


def test_make_names_a_wrong_python_and_goes_on_after_a_failed_download(fresh):
    folder, make = fresh
    (folder / "too-old").touch()
    code, text = make("book")
    assert code and "needs Python 3.11 or newer" in text and "Traceback" not in text
    (folder / "too-old").unlink()
    (folder / "no-network").touch()
    code, text = make("book")
    assert code and "run make again" in text and not list(folder.glob(".venv/.ready-*"))
    (folder / "no-network").unlink()
    code, text = make("book", "CHAPTER=01")
    assert code == 0 and "ran: book/build.py --chapter 01" in text
    stamps = list(folder.glob(".venv/.ready-*"))
    (folder / "requirements.txt").write_text("numpy\n")
    (folder / "no-network").touch()
    assert make("book")[0], "changed requirements must be installed"
    (folder / "no-network").unlink()
    assert make("book")[0] == 0 and list(folder.glob(".venv/.ready-*")) != stamps


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = "book test pages shots pdf zip preview colab test-oldest guards claims bench address samples".split()
    assert [name for name in targets if f"make {name} " not in done.stdout] == []


@pytest.mark.parametrize("cases, code", [
    ('<testcase name="a"/>', 0), ("", 1), ('<testcase name="a"/><testcase name="b"><skipped/></testcase>', 1)])
def test_ci_counts_a_skip_as_a_failure(tmp_path, cases, code):
    report = tmp_path / "report.xml"
    report.write_text(f'<testsuites><testsuite tests="{cases.count("<testcase")}">{cases}</testsuite></testsuites>')
    done = subprocess.run([sys.executable, ROOT / ".ci" / "no_skips.py", report], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
