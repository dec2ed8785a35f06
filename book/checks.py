"""Checks of the built pages as files, without a browser. Also a command: ``python book/checks.py book/_build/html``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bs4 import BeautifulSoup

# A script may draw its output itself, as quizzes do; whether it did, the checks in a browser see.
SHOWS_SOMETHING = ("script", "img", "svg", "table", "canvas", "video", "input", "button", "math", "mjx-container")
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
           "embed": "src", "object": "data", "use": "href", "image": "href"}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "shortcut"}
REMOTE = re.compile(r"\s*(?:https?:)?//", re.I)
REMOTE_IN_CSS = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])\s*((?:https?:)?//[^'")\s]+)""", re.I)
SHORTEST_ALT = 15


def remote_files(page: BeautifulSoup) -> list[str]:
    """Addresses outside the book that a browser would fetch by itself (links to click on are fine)."""
    found = [tag.get(attribute, "") for name, attribute in LOADING.items() for tag in page.find_all(name)]
    found += [part for tag in page.find_all(srcset=True) for part in tag["srcset"].split(",")]
    found += [tag.get("href", "") for tag in page.find_all("link") if FETCHED_LINKS & set(tag.get("rel", []))]
    found = [url for url in found if REMOTE.match(url)]
    styles = [tag.get_text() for tag in page.find_all("style")] + [tag["style"] for tag in page.find_all(style=True)]
    return found + [url for text in styles for url in REMOTE_IN_CSS.findall(text)]


def missing_alt(article) -> list[str]:
    """Pictures whose text alternative is missing, too short to say anything, or only a file name."""
    faults = []
    for picture in article.find_all("img"):
        alt = picture.get("alt")
        is_name = alt and (alt == picture.get("src") or re.search(r"\.\w{3,4}$", alt))
        if alt is None or is_name or 0 < len(alt) < SHORTEST_ALT:
            faults.append(f"a picture without a text that says what it shows: {str(picture)[:120]}")
        elif not alt and picture.find_parent(class_="cell_output"):
            faults.append(f"a result figure with an empty alt text: {str(picture)[:120]}")
    for drawing in article.find_all("svg"):
        hidden = drawing.get("aria-hidden") == "true" or drawing.find_parent(attrs={"aria-hidden": "true"})
        named = drawing if drawing.get("aria-label") else drawing.find_parent(attrs={"role": "img", "aria-label": True})
        if not hidden and (named is None or len(named["aria-label"]) < SHORTEST_ALT):
            faults.append(f"a drawing without an aria-label that says what it shows: {str(drawing)[:120]}")
    return faults


def empty(output) -> bool:
    """Whether an output area shows nothing at all."""
    return not output.get_text(strip=True) and not output.find(SHOWS_SOMETHING)


def heading_faults(article) -> list[str]:
    """Headings that skip a level or say nothing: a screen reader's user walks through a page along them."""
    faults, before = [], 0
    for heading in article.find_all(re.compile(r"^h[1-6]$")):
        level = int(heading.name[1])
        words = heading.get_text(" ", strip=True).removesuffix("#").strip()
        if not words:
            faults.append(f"an empty heading: {str(heading)[:120]}")
        if level > before + 1:
            faults.append(f"heading '{words[:60]}' is of level {level} below one of level {before}")
        before = level
    return faults


def check_page(path: Path) -> list[str]:
    """Faults of one page, each a sentence that names what is wrong."""
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    article = page.find("article") or page
    faults = [f"fetches {url} from the network" for url in remote_files(page)]
    if "Traceback (most recent call last)" in article.get_text() or article.select(".output.traceback"):
        faults.append("shows a traceback")
    faults += [f"output {i} shows nothing" for i, out in enumerate(article.select(".cell_output")) if empty(out)]
    faults += [f"shows a warning: {out.get_text(strip=True)[:120]}" for out in article.select(".output.stderr")]
    if any(cell.get_text(strip=True) == "NaN" for cell in article.select(".cell_output td")):
        faults.append("a table shows NaN")
    if len(article.find_all("h1")) != 1:
        faults.append(f"has {len(article.find_all('h1'))} titles (h1), expected one")
    return faults + heading_faults(article) + missing_alt(article)


def check_pages(html: Path, pages: list[str]) -> list[str]:
    """Faults of a built book: every page of the table of contents is there, nothing else is, and each page is right."""
    expected = {f"{page}.html" for page in pages} | {"index.html", "search.html", "prf-prf.html"}
    found = {path.relative_to(html).as_posix(): path for path in sorted(html.rglob("*.html"))
             if "_static" not in path.relative_to(html).parts}
    faults = [f"{page}.html is missing" for page in pages if f"{page}.html" not in found]
    faults += [f"{name} is published but not in the table of contents" for name in found if name not in expected]
    for style in sorted(html.rglob("*.css")):
        faults += [f"{style.relative_to(html)} fetches {url} from the network"
                   for url in REMOTE_IN_CSS.findall(style.read_text(encoding="utf-8", errors="replace"))]
    for page in pages:
        if path := found.get(f"{page}.html"):
            faults += [f"{page}.html {fault}" for fault in check_page(path)]
    return faults


def main() -> int:
    """Check the folder given on the command line; print each fault and return how the check went."""
    html = Path(sys.argv[1])
    pages = [p.relative_to(html).with_suffix("").as_posix() for p in html.rglob("*.html")
             if p.name not in ("index.html", "search.html", "prf-prf.html")
             and "_static" not in p.relative_to(html).parts]
    faults = check_pages(html, pages)
    print("\n".join(faults) or f"{len(pages)} pages are right.")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
