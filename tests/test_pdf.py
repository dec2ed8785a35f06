"""The document behind the PDF: links, quizzes, explorers and names of places, without a browser."""

import json
import re
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))

import pdf  # noqa: E402

ONE = """<html><body><nav>menu</nav><article><h1>One &amp; all<a class="headerlink" href="#one">#</a></h1>
<h2 id="part">Part</h2><p>To <a href="chapters/02.html#deep">deep</a>, <a href="#part">here</a>,
<a href="chapters/02.html">two</a>, <a href="https://example.org/x">out</a>, <a href="search.html">search</a>,
<a href="_sources/a.ipynb" download>file</a>.</p>
<svg aria-labelledby="name"><title id="name">A line</title><clipPath id="c"></clipPath><g clip-path="url(#c)"/>
<use href="#c"/></svg><img src="_images/a.png" alt="x"><details><summary>Answer</summary>told</details>
<noscript><pre>still</pre></noscript><script>alert(1)</script></article></body></html>"""
TWO = """<html><body><article><h1>Two</h1><p id="deep">Deep <a href="../one.html#part">back</a></p>
<div id="quiz01" data-numquestions="1"><noscript><pre>1. Why?</pre></noscript></div>
<div id="quizother" data-numquestions="1"><noscript><pre>1. Where?</pre></noscript></div>
<img src="../_images/b.png" alt="y"></article></body></html>"""
QUIZ = [{"question": "Why?", "type": "multiple_choice", "answers": [
    {"answer": "So", "correct": True, "feedback": "Because of this."},
    {"answer": "Not so", "correct": False, "feedback": "Because of that."}]}]


@pytest.fixture
def document(tmp_path):
    (tmp_path / "html" / "chapters").mkdir(parents=True)
    (tmp_path / "html" / "one.html").write_text(ONE)
    (tmp_path / "html" / "chapters" / "02.html").write_text(TWO)
    (tmp_path / "01.json").write_text(json.dumps(QUIZ))
    return pdf.Sheets(tmp_path / "html", ["one", "chapters/02"], tmp_path).document()


def test_every_link_leads_to_a_place_in_the_document_or_out_of_it(document):
    page = BeautifulSoup(document, "html.parser")
    places = [part["id"] for part in page.find_all(id=True)]
    assert len(places) == len(set(places))
    links = {link.get_text(): link["href"] for link in page.find_all("a")}
    assert links == {"One & all": "#p0", "Two": "#p1", "deep": "#p1-deep", "here": "#p0-part", "two": "#p1",
                     "out": "https://example.org/x", "back": "#p0-part"}
    assert all(link[1:] in places for link in links.values() if link.startswith("#"))
    assert "search" in page.get_text() and "file" in page.get_text(), "the words of a dropped link stay"


def test_references_inside_a_drawing_follow_its_names(document):
    page = BeautifulSoup(document, "html.parser")
    drawing = page.find("svg")
    assert page.find(id=drawing["aria-labelledby"]).get_text() == "A line"
    assert f'url(#{drawing.find("clippath")["id"]})' == drawing.find("g")["clip-path"]
    assert drawing.find("use")["href"] == f'#{drawing.find("clippath")["id"]}'


def test_what_needs_a_script_stands_there_without_one(document):
    assert "alert(1)" not in document and "menu" not in document and "<noscript" not in document
    assert "<pre>still</pre>" in document and "<details open" in document
    text = BeautifulSoup(document, "html.parser").find(class_="quiz").get_text(" ")
    assert re.search(r"Why\?\s+So\s+Not so\s+Answers\s+Right\.\s+Because of this\.\s+No\.\s+Because of that\.", text)
    assert "1. Where?" in document, "questions without a file keep their list"


def test_pictures_are_found_from_the_folder_of_the_document(document):
    assert re.findall(r'src="(\.\./html/_images[^"]+)"', document) == ["../html/_images/a.png", "../html/_images/b.png"]


def test_without_a_book_or_a_browser_one_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(pdf.BuildError, match="NOT made"):
        pdf.chromium()
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("root: intro\n")
    (tmp_path / "book" / "intro.md").write_text("# Home\n")
    assert pdf.main(["--root", str(tmp_path)]) == 1
    assert "has no intro.html: run `make book` first" in capsys.readouterr().err
