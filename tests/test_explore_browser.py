"""Explorers and game in a real browser, from a file, network cut: keyboard, touch, no scripts, accessibility."""

import os
import shutil

import numpy as np
import pytest

from bias_tutorial import pictures, plotting
from bias_tutorial.explore import Frame, Item, explorer, guessing_game

PS = [0.5, 0.6, 0.7, 0.8, 0.9]
LABEL = "p, agreement of bias and disease"
ANSWERS = ["yes", "no", "yes"]


def _curve(p):
    x = np.linspace(0.5, 0.95, 10)
    return plotting.lines([plotting.Series("reward", x, x**0.3)], "p", "accuracy", mark=p, ylim=(0.7, 1))


def _key(p):
    return Frame({"overall accuracy": p / 3, "subjects": round(10_000 * p)}, _curve(p))


def _two(kind, noise):
    return Frame({"gap": noise * (1 if kind == "near" else 2)}, text=f"{kind} at noise {noise}.")


def _game():
    rng = np.random.default_rng(0)
    figures = [pictures.image_grid([rng.random((30, 24))], [f"subject {k}"]) for k in range(len(ANSWERS))]
    items = [Item(figure, answer, "Look at the rim.") for figure, answer in zip(figures, ANSWERS, strict=True)]
    return guessing_game("Can you see it?", "Was the contrast stretched?", items, ["yes", "no"])


OUTPUTS = [explorer("The key over p", {"p": PS}, _key, labels={"p": LABEL}),
           explorer("Two controls", {"kind": ["near", "far"], "noise": [0.1, 0.2, 0.4]}, _two), _game()]


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, (
        "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)
    if found is None:
        sentence = "No Chromium or Chrome was found (set CHROMIUM to one), so explorers were NOT tried in a browser."
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "explore.html"
    body = "".join(output.html() for output in OUTPUTS)
    path.write_text(
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Explorers</title>'
        '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
        "body{margin:16px;color:#222;background:#fff}"
        "@media(prefers-color-scheme:dark){body{color:#ddd;background:#121212}}</style></head>"
        f"<body><main><h1>Explorers</h1>{body}</main></body></html>", encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    """Open the page without network; when the test ends, no request may have left and no error been logged."""
    contexts, faults = [], []

    def open_page(**settings):
        context = browser.new_context(**{"offline": True, "viewport": {"width": 900, "height": 800}} | settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
        page.on("console", lambda m: m.type == "error" and faults.append(m.text))
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _values(root):
    return [(d.inner_text(), float(d.get_attribute("data-value"))) for d in root.locator("dd").all()]


def test_keyboard_moves_the_slider_and_values_equal_pythons(visit):
    page = visit()
    root = page.get_by_role("group", name="The key over p", exact=True)
    slider = root.get_by_role("slider", name=LABEL)
    page.keyboard.press("Tab")
    assert slider.evaluate("e => e === document.activeElement")
    seen = {}
    for key in ["ArrowRight", "End", "Home", "ArrowRight", "ArrowUp", "ArrowLeft"]:
        page.keyboard.press(key)
        p = PS[int(slider.input_value())]
        frame = _key(p)
        assert slider.get_attribute("aria-valuetext") == root.locator(".bt-setting").inner_text() == f"p = {p:g}"
        assert [exact for _, exact in _values(root)] == list(frame.values.values())
        assert root.get_by_role("img").get_attribute("aria-label") == frame.figure.alt
        assert root.locator("[aria-live=polite]").inner_text().startswith(f"p = {p:g}: overall accuracy {p / 3:.3f}")
        seen[key] = p
    assert seen == {"ArrowRight": 0.6, "End": 0.9, "Home": 0.5, "ArrowUp": 0.7, "ArrowLeft": 0.6}


def test_explorers_on_one_page_do_not_touch_each_other(visit):
    page = visit()
    one, two = (page.get_by_role("group", name=n, exact=True) for n in ("The key over p", "Two controls"))
    before = _values(one)
    for k, kind in enumerate(["near", "far"]):
        for j, noise in enumerate([0.1, 0.2, 0.4]):
            two.get_by_role("slider", name="kind").fill(str(k))
            two.get_by_role("slider", name="noise").fill(str(j))
            assert _values(two)[0][1] == _two(kind, noise).values["gap"]
            assert two.locator(".bt-text").inner_text() == f"{kind} at noise {noise}."
    assert _values(one) == before


def test_touch_moves_the_slider_and_targets_are_large(visit):
    page = visit(viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True)
    root = page.get_by_role("group", name="The key over p", exact=True)
    slider = root.get_by_role("slider")
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    assert slider.get_attribute("aria-valuetext") == "p = 0.9" and _values(root)[0][1] == 0.9 / 3
    for target in page.locator("input:visible, button:visible").all():
        assert target.bounding_box()["height"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_text_in_figures_has_nine_pixels_on_a_phone(visit):
    page = visit(viewport={"width": 375, "height": 812})
    sizes = page.evaluate("""Array.from(document.querySelectorAll('svg.bt-svg')).filter(s => s.clientWidth).map(s =>
        Math.min(...Array.from(s.querySelectorAll('text'), t => parseFloat(getComputedStyle(t).fontSize)))
        * s.getScreenCTM().a)""")
    assert len(sizes) == 2 and min(sizes) >= 9


def test_game_by_keyboard_tells_counts_and_compares(visit):
    page = visit()
    root = page.get_by_role("group", name="Can you see it?", exact=True)
    text = root.locator("p[aria-live=polite]")
    for k, (guess, told) in enumerate([("yes", "Right."), ("yes", "Not this time."), ("yes", "Right.")]):
        assert root.get_by_role("img").count() == 1
        root.get_by_role("button", name=guess).focus()
        page.keyboard.press("Enter")
        assert text.inner_text() == f"{told} The answer is: {ANSWERS[k]}. Look at the rim."
        assert root.get_by_role("button", name="no").is_disabled()
        assert page.evaluate("document.activeElement.className") == "bt-next"
        page.keyboard.press("Enter")
    ending = "You got 2 of 3. Guessing gets 1.5 of 3 on average; a guesser gets 2 or more with probability 0.500."
    assert text.inner_text() == ending and float(text.get_attribute("data-value")) == pytest.approx(0.5)
    page.keyboard.press("Enter")
    assert root.locator(".bt-progress").inner_text() == "Picture 1 of 3, right so far: 0"
    for _ in ANSWERS:
        root.get_by_role("button", name="no").click()
        root.locator(".bt-next").click()
    assert text.inner_text().startswith("You got 1 of 3.") and "may be memory" in text.inner_text()


def test_without_scripts_a_still_picture_and_all_answers_stand(visit):
    page = visit(java_script_enabled=False)
    root = page.locator(".bt-explore").first
    assert root.get_by_role("img").get_attribute("aria-label") == _curve(0.7).alt
    assert root.locator(".bt-still").inner_text().startswith("A still view at p = 0.7.")
    assert root.locator(".bt-text").inner_text() == "p = 0.7: overall accuracy 0.233, subjects 7,000."
    assert [exact for _, exact in _values(root)] == [0.7 / 3, 7000]
    assert page.locator("input:visible, button:visible").count() == 0
    game = page.locator(".bt-explore").last
    assert game.get_by_role("img").count() == game.locator("details").count() == 3
    game.locator("summary").nth(1).click()
    assert game.locator("details").nth(1).inner_text().endswith("The answer is: no. Look at the rim.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    page.get_by_role("button", name="yes").click()
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_ink_follows_the_page(visit):
    inks = [visit(color_scheme=s).evaluate("getComputedStyle(document.querySelector('svg.bt-svg text')).fill")
            for s in ("light", "dark")]
    assert inks == ["rgb(34, 34, 34)", "rgb(221, 221, 221)"]


def test_works_when_a_notebook_inserts_it_later(visit):
    # JupyterLab sets innerHTML on a node outside the page, renews its scripts, then attaches the node.
    page = visit()
    page.evaluate("""html => {
        const host = document.createElement('div');
        host.innerHTML = html;
        host.id = 'later';
        host.querySelectorAll('script').forEach(old => {
            const script = document.createElement('script');
            for (const a of old.attributes) script.setAttribute(a.name, a.value);
            script.textContent = old.textContent;
            old.replaceWith(script);
        });
        document.body.append(host);
    }""", OUTPUTS[0].html())
    root = page.locator("#later .bt-explore")
    root.get_by_role("slider").fill("4")
    assert _values(root)[0][1] == 0.9 / 3
