"""A reader finds the way: links lead somewhere, words explain themselves, search and downloads work as plain files."""

import re
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import HTML, pages
from bs4 import BeautifulSoup

TERM = "article a.bt-term[data-definition]"


@pytest.fixture(scope="module")
def places():
    """Every page with the names of its places, read once."""
    found = {}
    for name in [*pages(), "index.html"]:
        page = BeautifulSoup((HTML / name).read_text(encoding="utf-8"), "html.parser")
        found[name] = page, {part["id"] for part in page.find_all(id=True)}
    return found


def test_every_link_inside_the_book_leads_somewhere(places, name):
    page, _ = places[name]
    for link in page.find_all("a", href=True):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc or (link["href"] == "#" and not link.find_parent("article")):
            continue
        target = (HTML / name).parent / unquote(parts.path) if parts.path else HTML / name
        target = Path(target).resolve().relative_to(HTML.resolve())
        assert (HTML / target).is_file(), f"{link['href']} leads nowhere"
        if parts.fragment and target.suffix == ".html":
            assert unquote(parts.fragment) in places[target.as_posix()][1], f"{link['href']}: there is no such place"


def test_each_word_is_explained_once_on_a_page(places, name):
    page, _ = places[name]
    links = page.select(TERM)
    assert len({link["href"] for link in links if not link.find(class_="std-term")}) == \
        len([link for link in links if not link.find(class_="std-term")])
    assert all(len(link["data-definition"]) > 20 for link in links)
    if name.startswith("chapters/"):
        assert len(links) >= 5, "a chapter without words of the glossary"


def test_a_word_shows_its_definition_on_hover_and_on_focus(visit):
    page, faults = visit("chapters/01_simulate_bias.html")
    link, box = page.locator(TERM).first, page.locator("#bt-definition")
    assert not box.is_visible()
    link.hover()
    assert box.is_visible() and box.text_content() == link.get_attribute("data-definition")
    box.hover()  # the pointer may move onto it
    page.wait_for_timeout(300)
    assert box.is_visible()
    page.keyboard.press("Escape")
    assert not box.is_visible()
    page.mouse.move(1, 1)
    link.evaluate("element => element.previousElementSibling")
    for _ in range(400):
        page.keyboard.press("Tab")
        if link.evaluate("element => element === document.activeElement"):
            break
    assert box.is_visible() and link.get_attribute("aria-describedby") == box.get_attribute("id")
    frame, width = box.bounding_box(), page.viewport_size["width"]
    assert 0 <= frame["x"] and frame["x"] + frame["width"] <= width
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"glossary\.html#term-"))
    assert faults.requests == [] and faults.errors == []


def test_a_touch_follows_the_link(visit):
    page, _ = visit("chapters/01_simulate_bias.html", size="phone")
    page.locator(TERM).first.tap()
    page.wait_for_url(re.compile(r"glossary\.html#term-"))


def test_search_finds_functions_and_data_cards(visit):
    for query, target in (("group_metrics", "functions.html"), ("radiographs", "data.html")):
        page, faults = visit("search.html", query=f"?q={query}")
        page.wait_for_selector("#search-results li a")
        links = [link.get_attribute("href") for link in page.locator("#search-results li a").all()]
        assert any(target in link for link in links), query
        assert faults.requests == [] and faults.errors == []


def test_functions_lead_to_chapters_and_back(places):
    page, _ = places["functions.html"]
    entries = page.select("dl.py > dt.sig[id^=bias_tutorial]")
    assert len(entries) > 100
    text = page.find("article").get_text(" ")
    assert text.count("First used in") == len(page.select("dl.py.function, dl.py.class"))
    for name in pages():
        if name.startswith("chapters/"):
            back = [link["href"] for link in places[name][0].select("a[href*='functions.html#bias_tutorial']")]
            assert len(back) >= 5, f"{name} names none of the functions it introduces"


def test_downloads_are_there_and_whole(places):
    page, _ = places["downloads.html"]
    links = [link["href"] for link in page.select("article a[download]")]
    there = [*(HTML / "_sources").rglob("*.ipynb"), *(HTML / "downloads" / "sheets").glob("*.ipynb")]
    assert {HTML / link for link in links if link.endswith(".ipynb")} == set(there)
    assert "downloads/where-bias-hides-notebooks.zip" in links
    for link in links:
        assert (HTML / link).stat().st_size > 1000
        if link.endswith(".zip"):
            with zipfile.ZipFile(HTML / link) as archive:
                assert archive.testzip() is None
        if link.endswith(".pdf"):
            check_pdf((HTML / link).read_bytes())


def check_pdf(data: bytes):
    """Links inside the document lead to places in it, links out of it are there, and it has many pages."""
    assert data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) > 50
    targets = set(re.findall(rb"/Dest\s*/([^\s/<>\[\]()]+)", data))
    assert len(targets) > 100 and re.search(rb"/URI\s*\(https://doi\.org", data)
    assert all(re.search(rb"/" + re.escape(name) + rb"\s*\[", data) for name in sorted(targets)[:50])


def test_the_map_can_be_followed_by_keyboard(visit):
    page, _ = visit("intro.html")
    links = page.locator("ol.bt-course a")
    assert links.count() >= 7
    links.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"01_simulate_bias\.html"))
