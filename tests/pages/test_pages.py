"""The built book in a browser without a network: nothing missing, nothing asked for, readable by everybody."""

import pytest
from axe_playwright_python.sync_playwright import Axe

SCROLLERS = "pre, table, .output, .pst-scrollable-table-container, .table-wrapper, mjx-container, .math, .cell_output"

FOCUSABLE = "a[href], button:not([disabled]), input:not([type=hidden]), select, summary, [tabindex='0']"
# What has the focus: whether for the first time, whether it is drawn, and whether outline, shadow or colour mark it.
FOCUS = """() => {
    const e = document.activeElement, seen = window.seenFocus ??= new Set();
    if (!e || e === document.body) return null;
    const fresh = !seen.has(e);
    seen.add(e);
    const around = [e, e.parentElement, e.closest('.MCButton')].filter(Boolean);
    const looks = x => { const s = getComputedStyle(x); return [s.outlineStyle + s.outlineWidth, s.boxShadow,
        s.borderColor + s.borderWidth, s.textDecoration, s.backgroundColor].join('|'); };
    const during = around.map(looks);
    const box = e.getBoundingClientRect();
    e.blur();
    const marked = around.some((x, k) => looks(x) !== during[k]);
    e.focus({preventScroll: true, focusVisible: true});
    return {new: fresh, drawn: box.width > 0 && box.height > 0 && e.checkVisibility({visibilityProperty: true}),
            marked: marked, html: e.outerHTML.slice(0, 160)};
}"""
MOVING = """[...document.querySelectorAll('*')].filter(e => ['', '::before', '::after'].some(part => {
    const s = getComputedStyle(e, part || null), long = t => t.split(',').some(x => parseFloat(x) > 0.01);
    return long(s.transitionDuration) || (s.animationName !== 'none' && long(s.animationDuration))
        || s.scrollBehavior === 'smooth';
})).map(e => e.outerHTML.slice(0, 120)).slice(0, 5)"""


def test_asks_for_nothing_and_shows_everything(visit, name, opened_as):
    page, faults = visit(name, served=opened_as)
    page.mouse.wheel(0, 20_000)
    assert faults.requests == [], "the page asks the network for something"
    assert faults.errors == []
    for output in page.locator(".cell_output").all():
        box = output.bounding_box()
        assert box is None or box["height"] > 8, f"an empty output: {output.inner_html()[:200]}"
    math = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container").count() >= math, "a formula was not drawn"
    assert page.locator("mjx-merror").count() == 0, "a formula could not be read"


def test_every_question_answers_without_a_network(visit, name):
    page, faults = visit(name)
    quizzes = page.locator("[data-numquestions]").all()
    asked = [int(quiz.get_attribute("data-numquestions")) for quiz in quizzes]
    assert [quiz.locator(".Quiz").count() for quiz in quizzes] == asked, "a question is missing"
    for question in page.locator(".Quiz").all():
        told = set()
        for option in question.locator(".MCButton").all():
            option.click()
            told.add(question.locator(".Feedback").inner_text())
        assert "" not in told and len(told) == question.locator(".MCButton").count(), "options without an own answer"
    assert faults.requests == [] and faults.errors == []


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


def test_keyboard_goes_through_the_page_and_shows_where_it_is(visit, name):
    """Tab reaches everything once, is caught nowhere, and every place that has the focus can be seen to have it."""
    page, _ = visit(name)
    page.evaluate("document.activeElement.blur()")
    waiting = page.locator(FOCUSABLE).filter(visible=True).count()
    seen = 0
    for _ in range(waiting + 20):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at is None:
            break
        assert at["new"], f"the keyboard is caught at {at['html']}"
        assert at["drawn"] and at["marked"], f"nobody sees that this has the focus: {at['html']}"
        seen += 1
    else:
        raise AssertionError(f"after {seen} places of {waiting} the keyboard is still on the page")
    assert seen > 10, "hardly anything could be reached"


def test_nothing_moves_where_motion_is_unwelcome(visit, name):
    page, _ = visit(name)
    assert page.evaluate(MOVING) == []


def test_the_first_file_leads_to_the_first_page(visit):
    page, faults = visit("index.html")
    page.wait_for_selector("article h1")
    assert page.url.endswith("intro.html") and faults.requests == [] and faults.errors == []


def test_search_finds_a_word_of_the_glossary(visit, opened_as):
    page, faults = visit("search.html", query="?q=attribute", served=opened_as)
    page.wait_for_selector("#search-results li a")
    assert any("glossary" in link.get_attribute("href") for link in page.locator("#search-results li a").all())
    assert faults.requests == [] and faults.errors == []


def test_search_opens_from_the_keyboard(visit):
    page, _ = visit("intro.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("attribute")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")


def test_chapters_offer_colab_binder_and_download(visit, name):
    page, _ = visit(name)
    if not name.startswith("chapters/"):
        return
    notebook = name.replace(".html", ".ipynb")
    menu = page.get_by_role("button", name="Launch interactive content")
    menu.focus()
    page.keyboard.press("Enter")
    for place in ("Binder", "Colab"):
        assert page.get_by_role("link", name=f"{place} logo {place}").is_visible()
    links = [link.get_attribute("href") for link in page.locator("header a, .article-header-buttons a").all()]
    assert any("colab.research.google.com" in link and link.endswith(f"book/{notebook}") for link in links)
    assert any("mybinder.org" in link and link.endswith(f"book/{notebook}") for link in links)
    assert any(link.endswith(f"_sources/{notebook}") for link in links)
    assert page.locator("article a[href*='colab.research.google.com']").first.get_attribute("href").endswith(notebook)
