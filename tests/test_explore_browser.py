"""Explorers, game and map in a real browser, from a file, network cut: keyboard, touch, no scripts, accessibility."""

import ast
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from bias_tutorial import pictures, plotting
from bias_tutorial.explore import Frame, Item, explorer, guessing_game, point_map

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


# Nine points: a square of three by three, rows from the bottom; and the same one upside down.
SQUARE = np.array([[x, y] for y in range(3) for x in range(3)], dtype=float)
ABOUT = pd.DataFrame({"site": list("ABC") * 3, "age": np.linspace(40, 72, 9) + 1 / 3, "coil": [True, False, False] * 3})
SCANS = np.random.default_rng(1).random((9, 4, 6))
OUTPUTS = [explorer("The key over p", {"p": PS}, _key, labels={"p": LABEL}),
           explorer("Two controls", {"kind": ["near", "far"], "noise": [0.1, 0.2, 0.4]}, _two),
           point_map("What the map shows", {5: SQUARE, 30: SQUARE * [1, -1]}, ABOUT, SCANS, start=5), _game()]


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
    for target in page.locator("input:visible, button:visible, select:visible").all():
        assert target.bounding_box()["height"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_text_in_figures_has_nine_pixels_on_a_phone(visit):
    page = visit(viewport={"width": 375, "height": 812})
    sizes = page.evaluate("""Array.from(document.querySelectorAll('svg.bt-svg')).filter(s => s.clientWidth).map(s =>
        Math.min(...Array.from(s.querySelectorAll('text'), t => parseFloat(getComputedStyle(t).fontSize)))
        * s.getScreenCTM().a)""")
    assert len(sizes) == 2 and min(sizes) >= 9


def _map(page):
    root = page.get_by_role("group", name="What the map shows", exact=True)
    return root, root.get_by_role("application")


def _point(root):
    """Number of the point shown, after its image and values are compared with Python's."""
    k = int(root.locator(".bt-name").inner_text().split()[1]) - 1
    seen = [dd.get_attribute("data-value") for dd in root.locator("dd").all()]
    assert seen == [repr(v) for v in ABOUT.astype(object).iloc[k]]
    assert [ast.literal_eval(text) for text in seen] == list(ABOUT.iloc[k])
    image = root.locator("canvas")
    assert image.get_attribute("aria-label") == f"Image of point {k + 1}"
    pixels = image.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")
    red, green, blue, opaque = np.moveaxis(np.reshape(pixels, (4, 6, 4)), -1, 0)
    assert (red == np.round(SCANS[k] * 255)).all() and (red == green).all() and (red == blue).all()
    assert (opaque == 255).all()
    return k


def test_keyboard_reaches_every_point_of_the_map(visit):
    page = visit()
    root, area = _map(page)
    root.get_by_role("combobox", name="Coloured by").focus()
    page.keyboard.press("Tab")
    assert area.evaluate("e => e === document.activeElement")
    for k in range(9):
        page.keyboard.press("PageDown" if k else "Home")
        assert _point(root) == k
    for key, wanted in [("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("ArrowUp", 4), ("ArrowLeft", 3),
                        ("PageUp", 2), ("ArrowUp", 5), ("Alt+ArrowLeft", 5), ("ArrowDown", 2), ("End", 8),
                        ("PageDown", 8)]:
        page.keyboard.press(key)
        places = root.locator(".bt-map :is(path, circle)").evaluate_all("all => all.map(e => e.style.transform)")
        assert _point(root) == wanted and places[-1] == places[wanted]
    said = root.locator("p[aria-live=polite]").inner_text()
    assert said == "Point 9, image and values: site C, age 72.333, coil False"
    root.get_by_role("slider", name="perplexity").fill("1")
    area.focus()
    page.keyboard.press("ArrowUp")  # the other map is upside down
    assert _point(root) == 5


def test_list_and_slider_change_the_map_as_python_says(visit):
    page = visit(reduced_motion="reduce")
    root, area = _map(page)
    data = json.loads(root.locator("script[type='application/json']").text_content())
    for j, shown in enumerate(data["attributes"]):
        root.get_by_role("combobox").select_option(shown["name"])
        for m in (1, 0):
            root.get_by_role("slider").fill(str(m))
            marks = root.locator(".bt-map path").evaluate_all("""all => all.map(e =>
                [e.getAttribute('d'), e.getAttribute('fill'), new DOMMatrix(getComputedStyle(e).transform)])""")
            assert [mark[:2] for mark in marks] == [shown["looks"][k] for k in shown["of"]]
            assert [[mark[2]["e"], mark[2]["f"]] for mark in marks] == data["maps"][m]
            words = f"9 points at {data['settings'][m]}, {shown['words']}"
            assert area.get_by_role("img").get_attribute("aria-label") == words
        assert root.locator(".bt-legend li").count() == [3, 1, 2][j]
    assert root.locator(".bt-legend").inner_text().split() == ["False", "(6)", "True", "(3)"]


def test_pointer_and_touch_show_the_point_that_is_nearest(visit):
    page = visit()
    root, area = _map(page)
    area.scroll_into_view_if_needed()
    said = root.locator("p[aria-live=polite]")
    for k in (4, 2, 6):
        box = root.locator(".bt-map path").nth(k).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2 + 20, box["y"] + 15)
        assert _point(root) == k and said.inner_text() == ""
    page.mouse.down()
    page.mouse.up()
    assert said.inner_text().startswith("Point 7, image and values: site A")
    page = visit(viewport={"width": 375, "height": 812}, has_touch=True, is_mobile=True)
    root, area = _map(page)
    area.scroll_into_view_if_needed()
    box = root.locator(".bt-map path").nth(5).bounding_box()
    page.touchscreen.tap(box["x"] + 3, box["y"] + 12)
    assert _point(root) == 5
    assert root.locator("p[aria-live=polite]").inner_text().startswith("Point 6, image and values: site C")


def test_points_move_only_where_motion_is_welcome(visit):
    for motion, seconds in (("reduce", "0s"), ("no-preference", "0.2s")):
        page = visit(reduced_motion=motion)
        assert page.locator(".bt-map path").first.evaluate("e => getComputedStyle(e).transitionDuration") == seconds


def test_without_scripts_the_map_stands_still_with_its_legend(visit):
    root, _ = _map(visit(java_script_enabled=False))
    words = "9 points at perplexity = 5, coloured by site: A 3, B 3, C 3"
    assert root.get_by_role("img").get_attribute("aria-label") == words
    assert root.locator(".bt-legend").inner_text().split() == ["A", "(3)", "B", "(3)", "C", "(3)"]
    assert root.locator(".bt-still").inner_text().startswith("A still view at perplexity = 5, coloured by site.")
    assert root.locator("canvas:visible, select:visible, .bt-hint:visible, [tabindex]").count() == 0


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
    page.get_by_role("combobox").select_option("age")
    page.get_by_role("application").press("End")
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
