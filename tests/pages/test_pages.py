"""The built book in a browser without a network: nothing missing, nothing asked for, readable by everybody."""

import pytest
from axe_playwright_python.sync_playwright import Axe

SCROLLERS = "pre, table, .output, .pst-scrollable-table-container, .table-wrapper, mjx-container, .math, .cell_output"


def test_asks_for_nothing_and_shows_everything(visit, name):
    page, faults = visit(name)
    page.mouse.wheel(0, 20_000)
    assert faults.requests == [], "the page asks the network for something"
    assert faults.errors == []
    for output in page.locator(".cell_output").all():
        box = output.bounding_box()
        assert box is None or box["height"] > 8, f"an empty output: {output.inner_html()[:200]}"
    math = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container").count() >= math, "a formula was not drawn"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(visit, name, theme):
    page, _ = visit(name, theme=theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    found = Axe().run(page).response["violations"]
    grave = {v["id"]: [node["html"][:160] for node in v["nodes"][:3]] for v in found
             if v["impact"] in ("serious", "critical")}
    assert grave == {}


def test_fits_a_phone(visit, name):
    page, _ = visit(name, size="phone")
    wide = page.evaluate("""allowed => [...document.querySelectorAll('article *')]
        .filter(e => e.getClientRects().length && !e.closest('[aria-hidden="true"], mjx-assistive-mml'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .filter(e => { for (let p = e.parentElement; p; p = p.parentElement)
            if (p.matches(allowed) && p.getBoundingClientRect().right <= innerWidth + 1
                && getComputedStyle(p).overflowX !== 'visible') return false; return true; })
        .map(e => e.outerHTML.slice(0, 120)).slice(0, 5)""", SCROLLERS)
    assert wide == [], "wider than the phone"
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_keyboard_reaches_the_text(visit, name):
    page, _ = visit(name)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_the_first_file_leads_to_the_first_page(visit):
    page, faults = visit("index.html")
    page.wait_for_selector("article h1")
    assert page.url.endswith("intro.html") and faults.requests == [] and faults.errors == []


def test_search_finds_a_word_of_the_glossary(visit):
    page, faults = visit("search.html", query="?q=attribute")
    page.wait_for_selector("#search-results li a")
    assert any("glossary" in link.get_attribute("href") for link in page.locator("#search-results li a").all())
    assert faults.requests == [] and faults.errors == []


def test_search_opens_from_the_keyboard(visit):
    page, _ = visit("intro.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("attribute")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")


def test_chapters_offer_colab_and_download(visit, name):
    page, _ = visit(name)
    if not name.startswith("chapters/"):
        return
    notebook = name.replace(".html", ".ipynb")
    links = [link.get_attribute("href") for link in page.locator("header a, .article-header-buttons a").all()]
    assert any("colab.research.google.com" in link and link.endswith(f"book/{notebook}") for link in links)
    assert any(link.endswith(f"_sources/{notebook}") for link in links)
