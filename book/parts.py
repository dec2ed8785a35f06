"""Parts of pages that are made from other files of the repository, so that nothing is written down twice.

A line ``<!-- made: NAME -->`` in a page's Markdown is replaced by what :data:`PARTS` gives under that name.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import api
import nbformat
import yaml
from execution import BuildError

MARK = re.compile(r"^<!-- made: ([\w-]+) -->$", re.M)
DOWNLOADS = "downloads"  # the folder of the built book that holds what readers take away
BOOK_PDF, BOOK_ZIP, NOTEBOOKS = "where-bias-hides.pdf", "where-bias-hides.zip", "where-bias-hides-notebooks.zip"
# What leads to what: a step, the chapters in it by the start of their file's name, and what they need.
MAP = (("Make", "data in which you know the bias", {"01": "Start here"}),
       ("Train", "and see who pays", {"02": "after chapter 1"}),
       ("Find", "what a network holds and what it uses", {"03": "after chapter 2", "05": "after chapter 3"}),
       ("Reduce", "and count what is left", {"04": "after chapters 2 and 3", "06": "after chapters 1 and 2"}),
       ("Apply", "to images of your own", {"your_own_data": "after chapter 2"}))


def notebooks(book) -> dict[str, nbformat.NotebookNode]:
    """The notebooks of the table of contents by the name of their page, in order."""
    return {page: nbformat.read(book.file(page), as_version=4) for page in book.pages()
            if book.file(page).suffix == ".ipynb"}


def used(book) -> list[api.Entry]:
    """The functions that the notebooks name, and the graded sheets with their solutions."""
    pages = notebooks(book)
    sheets = {page: book.source / "exercises" / f"{Path(page).name}.ipynb" for page in pages}
    return api.used(book.root, pages, {page: nbformat.read(sheet, as_version=4) for page, sheet in sheets.items()
                                       if sheet.is_file()})


def title_of(path: Path) -> str:
    """The first heading of a page."""
    if path.suffix == ".ipynb":
        return api.headings_of(nbformat.read(path, as_version=4).cells[0].source)[0]
    return api.headings_of(path.read_text(encoding="utf-8"))[0]


def read(book, name: str) -> str:
    """A text file of the repository."""
    path = book.root / name
    if not path.is_file():
        raise BuildError(f"A page is made from {name}, which is not there")
    return path.read_text(encoding="utf-8")


def without_title(markdown: str) -> str:
    """A Markdown text whose first heading is left out, for a page that has a title of its own."""
    return re.sub(r"\A# .*\n+", "", markdown)


# ---------------------------------------------------------------------- the parts
def course_map(book) -> str:
    """What leads to what, as a list of steps; it reads in order without its style, and every box is a link."""
    pages = {Path(page).name: page for page in book.pages()}
    steps = []
    for step, aim, chapters in MAP:
        boxes = []
        for start, needs in chapters.items():
            page = next((pages[name] for name in pages if name.startswith(start)), None)
            if page is None:
                raise BuildError(f"The map of the course names {start!r}, but no page of book/_toc.yml starts so")
            number = f"{int(start)}. " if start.isdigit() else ""
            title = html.escape(title_of(book.file(page)))
            boxes.append(f'<li><a href="{page}.html">{number}{title}</a> <span>{html.escape(needs)}</span></li>')
        steps.append(f'<li><strong>{step}</strong> {html.escape(aim)}<ul>{"".join(boxes)}</ul></li>')
    return f'```{{raw}} html\n<ol class="bt-course" aria-label="Map of the course">{"".join(steps)}</ol>\n```'


def data_cards(book) -> str:
    """``data/README.md`` as it stands."""
    return without_title(read(book, "data/README.md"))


def changes(book) -> str:
    """``CHANGELOG.md`` as it stands."""
    return without_title(read(book, "CHANGELOG.md"))


def citation(book) -> str:
    """How to cite this work and what it builds on, from ``CITATION.cff``."""
    known = yaml.safe_load(read(book, "CITATION.cff"))
    who, title, version, url = authors(known), known["title"], known["version"], known["repository-code"]
    lines = [known["message"], "", "## This work", "", f"> {who}. *{title}*. Version {version}. <{url}>", "",
             "```bibtex", "@software{where_bias_hides,", f"  author  = {{{{{who}}}}},", f"  title   = {{{title}}},",
             f"  version = {{{version}}},", f"  url     = {{{url}}}", "}", "```", "",
             "A version has no date or DOI before it is published: add the date on which you took it.", "",
             "## What it builds on", ""]
    for work in known.get("references", []):
        place = " ".join(str(part) for part in (work.get("journal"), work.get("volume")) if part)
        doi = f" [doi:{work['doi']}](https://doi.org/{work['doi']})" if work.get("doi") else ""
        line = f"- {authors(work)}. {work['title']}. *{place}*, {work['year']}.{doi} {work.get('notes', '')}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def authors(work: dict) -> str:
    """Names as they are printed."""
    names = [" ".join(filter(None, (a.get("given-names"), a.get("family-names")))) or a["name"]
             for a in work["authors"]]
    return ", ".join(names).replace(", and others", " and others")


def licences(book) -> str:
    """The texts of the licences and of the notice, whole and unchanged."""
    parts = [("Code: the MIT licence", "LICENSE"), ("The brain template: notice of its authors", "NOTICE"),
             ("Text and figures: CC BY", "LICENSE-CONTENT")]
    blocks = [f"## {heading}\n\nFile `{name}` of the repository, word for word:\n\n"
              f"```{{code-block}} text\n:class: bt-wrap\n\n{read(book, name).strip()}\n```" for heading, name in parts]
    return "\n\n".join(blocks)


def functions(book) -> str:
    """The page of the functions that chapters and their sheets use."""
    return api.page(book.root, used(book))


def downloads(book) -> str:
    """Links to everything a reader can take away; what is made later puts its link in the place that is kept for it."""
    rows = []
    for page, notebook in notebooks(book).items():
        name = Path(page).name
        title = html.escape(api.headings_of(notebook.cells[0].source)[0])
        rows.append(f'<li>{title}: <a href="_sources/{page}.ipynb" download>{name}.ipynb</a></li>')
    return "\n".join([
        "```{raw} html", f'<ul>{"".join(rows)}</ul>',
        f'<p><a href="{DOWNLOADS}/{NOTEBOOKS}" download>All notebooks in one archive ({NOTEBOOKS})</a></p>', "```", "",
        *sheet_links(book), "## The whole book", "", "```{raw} html", kept_place("pdf"), kept_place("zip"), "```"])


def sheets(book) -> list[Path]:
    """The students' copies of the graded sheets, in order."""
    return sorted((book.source / "exercises" / "student").glob("*.ipynb"))


def sheet_links(book) -> list[str]:
    """Links to the graded sheets, if there are any; :func:`downloads.notebooks` puts them there."""
    rows = [f'<li>{html.escape(title_of(path))}: <a href="{DOWNLOADS}/sheets/{path.name}" download>{path.name}</a></li>'
            for path in sheets(book)]
    return ["## Graded sheets", "", "```{raw} html", f'<ul>{"".join(rows)}</ul>', "```", ""] if rows else []


LATER = {"pdf": "As one PDF: <code>make pdf</code> in the repository makes it.",
         "zip": "As one archive of plain files: <code>make zip</code> in the repository makes it."}


def kept_place(what: str, link: str = "") -> str:
    """The paragraph of a download that is made after the pages: a sentence that says so, or the link."""
    return f'<p data-download="{what}">{link or LATER[what]}</p>'


def offer(made: Path, html_folder: Path, what: str, words: str) -> None:
    """Copy a finished file into the folder of downloads and write the link to it into their page."""
    copy = html_folder / DOWNLOADS / made.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, copy)
    put_link(html_folder, what, made.name, words)


def command(make: Callable, about: str, arguments: list[str] | None = None) -> int:
    """Command line of what is made from a built book: 0 when the file is there, 1 with the reason otherwise."""
    import build

    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help=argparse.SUPPRESS)
    try:
        target = make(build.Book(parser.parse_args(arguments).root.resolve()))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


def put_link(html_folder: Path, what: str, name: str, words: str) -> None:
    """Write the link to a finished file into the page of downloads."""
    page = html_folder / "downloads.html"
    if not page.exists():
        return
    size = (html_folder / DOWNLOADS / name).stat().st_size / 1e6
    link = f'<a href="{DOWNLOADS}/{name}" download>{words} ({size:.1f} MB)</a>'
    before = page.read_text(encoding="utf-8")
    after = re.sub(rf'<p data-download="{what}">.*?</p>', lambda _: kept_place(what, link), before, flags=re.S)
    half = page.with_name(f".{page.name}")
    half.write_text(after, encoding="utf-8")
    os.replace(half, page)


PARTS: dict[str, Callable] = {"map": course_map, "data": data_cards, "changes": changes, "citation": citation,
                              "licences": licences, "functions": functions, "downloads": downloads}


def filled(book, text: str) -> str:
    """A page's Markdown with every part in its place."""
    def part(found: re.Match) -> str:
        if found[1] not in PARTS:
            raise BuildError(f"A page asks for the part {found[1]!r}; there are {', '.join(PARTS)}")
        return PARTS[found[1]](book)

    return MARK.sub(part, text)
