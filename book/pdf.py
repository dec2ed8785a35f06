"""The whole book as one PDF, printed by a Chromium: ``make pdf`` writes ``book/_build/where-bias-hides.pdf``.

    python book/pdf.py

The pages of the built book are put into one document, in the order of its table of contents. A link from page to page
becomes a link inside that document, so that it works in the PDF. Explorers stand there as their still picture, quizzes
as a list with the explanations behind it, and nothing stays folded.
"""

from __future__ import annotations

import html
import json
import os
import posixpath
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import parts
from bs4 import BeautifulSoup
from execution import BuildError, write_atomic

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
REFERS = ("aria-labelledby", "aria-describedby", "for", "data-target")
DROPPED = "script, style.jq, .headerlink, .cell_output .copybtn, .bt-hint, link, iframe, .prev-next-footer"
MATH = ('<script>window.MathJax = {"options": {"processHtmlClass": "math", "ignoreHtmlClass": "tex2jax_ignore"}};'
        "</script>")
FOOTER = ('<div style="width:100%;font:8px sans-serif;text-align:center;color:#444">'
          '<span class="pageNumber"></span> / <span class="totalPages"></span></div>')
MOST_SECONDS = 300


@dataclass
class Sheets:
    """The pages of a built book on their way into one document.

    Parameters
    ----------
    html : path
        Folder of the built book.
    pages : list of str
        Its pages in order, without suffix.
    quizzes : path
        Folder with the questions as JSON.
    """

    html: Path
    pages: list[str]
    quizzes: Path
    titles: dict[str, str] = field(default_factory=dict)

    def document(self) -> str:
        """The whole document; files beside the pages are found from a folder next to that of the pages."""
        articles = [self.article(page) for page in self.pages]
        contents = "".join(f'<li><a href="#{self.place(page)}">{self.titles[page]}</a></li>' for page in self.pages)
        style = (Path(__file__).parent / "print.css").read_text(encoding="utf-8")
        name = self.html.name
        return ('<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Where Bias Hides</title>'
                f'<link rel="stylesheet" href="../{name}/_static/pygments.css"><style>{style}</style>{MATH}'
                f'<script src="../{name}/_static/mathjax/tex-chtml.js"></script></head><body>'
                f'<nav><p class="title">Where Bias Hides</p><h2>Contents</h2><ol>{contents}</ol></nav>'
                f'{"".join(articles)}</body></html>')

    def place(self, page: str, anchor: str = "") -> str:
        """The name of a page, or of a place on it, inside the document."""
        return f"p{self.pages.index(page)}" + (f"-{anchor}" if anchor else "")

    def article(self, page: str) -> str:
        """One page, ready for paper."""
        source = BeautifulSoup((self.html / f"{page}.html").read_text(encoding="utf-8"), "html.parser").find("article")
        self.titles[page] = html.escape(source.find("h1").get_text().rstrip("#¶").strip())
        for quiz in source.select("div[id^=quiz][data-numquestions]"):
            self.print_quiz(quiz)
        for part in source.select(DROPPED):
            part.decompose()
        for part in source.find_all("noscript"):
            part.unwrap()
        for part in source.find_all("details"):
            part["open"] = ""
        for part in source.find_all(src=True):
            if not re.match(r"data:|https?:", part["src"]):
                part["src"] = f"../{self.html.name}/{beside(page, part['src'])}"
        for link in source.find_all("a", href=True):
            self.lead(link, page)
        for name in REFERS:
            for part in source.find_all(attrs={name: True}):
                part[name] = " ".join(self.place(page, word) for word in part[name].split())
        for part in source.find_all(id=True):
            part["id"] = self.place(page, part["id"])
        text = re.sub(r"url\((&quot;|[\"']?)#", rf"url(\1#{self.place(page)}-", str(source))
        text = re.sub(r'(<use[^>]*href=")#', rf"\1#{self.place(page)}-", text)
        return text.replace("<article", f'<article id="{self.place(page)}"', 1)

    def lead(self, link, page: str) -> None:
        """Make a link lead to its place in the document; to a file that is no page of the book, plain text."""
        target, _, anchor = link["href"].partition("#")
        if re.match(r"[a-z]+:", target):
            return
        where = beside(page, target).removesuffix(".html") if target else page
        if where in self.pages:
            link["href"] = f"#{self.place(where, unquote(anchor))}"
        else:
            link.unwrap()

    def print_quiz(self, quiz) -> None:
        """Put the questions of a quiz in its place, and what is said to each option behind them."""
        file = self.quizzes / f"{quiz['id'].removeprefix('quiz')}.json"
        if not file.is_file():
            return  # its list without scripts stands there
        lines = ['<div class="quiz"><ol>']
        for question in json.loads(file.read_text(encoding="utf-8")):
            options = "".join(f"<li>{answer['answer']}</li>" for answer in question["answers"])
            said = "".join(f"<li><strong>{'Right' if answer['correct'] else 'No'}.</strong> {answer['feedback']}</li>"
                           for answer in question["answers"])
            lines.append(f'<li><p>{question["question"]}</p><ol class="letters">{options}</ol>'
                         f'<div class="said"><p>Answers</p><ol class="letters">{said}</ol></div></li>')
        quiz.replace_with(BeautifulSoup("".join(lines) + "</ol></div>", "html.parser"))


def beside(page: str, address: str) -> str:
    """A relative address on a page, seen from the top folder of the book."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), address))


def chromium() -> str:
    """Path of a Chromium or Chrome: the variable CHROMIUM, or the first one on PATH."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise BuildError("No Chromium or Chrome was found (set CHROMIUM to one), so the PDF was NOT made.")
    return found


def print_document(source: Path, target: Path) -> None:
    """Print an HTML file as PDF with page numbers, outline and tags, whole or not at all."""
    from playwright.sync_api import sync_playwright

    handle, half = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
            page = browser.new_context(offline=True).new_page()
            page.set_default_timeout(MOST_SECONDS * 1000)
            page.goto(source.as_uri(), wait_until="load")
            page.wait_for_function("!window.MathJax || !MathJax.startup || !MathJax.startup.promise ||"
                                   "MathJax.startup.promise.then(() => true)")
            page.pdf(path=half, format="A4", margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
                     display_header_footer=True, header_template="<span></span>", footer_template=FOOTER,
                     print_background=True, outline=True, tagged=True)
            browser.close()
        os.chmod(half, 0o644)
        os.replace(half, target)
    except BaseException:
        Path(half).unlink(missing_ok=True)
        raise


def make(book) -> Path:
    """Print the built book; the page of downloads then links to the PDF."""
    built = book.build / "html"
    missing = [page for page in book.pages() if not (built / f"{page}.html").exists()]
    if missing:
        raise BuildError(f"The built book in {built} has no {missing[0]}.html: run `make book` first.")
    sheets = Sheets(built, book.pages(), book.root / "bias_tutorial" / "stored" / "quizzes")
    write_atomic(book.build / "pdf" / "book.html", sheets.document())
    target = book.build / parts.BOOK_PDF
    print_document(book.build / "pdf" / "book.html", target)
    parts.offer(target, built, "pdf", "The whole book as one PDF")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when the PDF is there, 1 with the reason otherwise."""
    return parts.command(make, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
