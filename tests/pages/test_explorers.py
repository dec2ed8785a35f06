"""Explorers and games on every page: the keyboard reaches them, and they show what Python wrote into the page."""

import json
import re

import pytest
from browser import HTML

from bias_tutorial import figures

MOST_TABS = 400
# What the map tells of each point, from the one that has the ring to the last.
EVERY_POINT = """area => { const root = area.closest('.bt-explore'), found = []; let before;
    for (;;) {
        const at = root.querySelector('.bt-name').textContent;
        if (at === before) return found;
        before = at;
        found.push([...root.querySelectorAll('dd')].map(e => [e.textContent, e.dataset.value]));
        area.dispatchEvent(new KeyboardEvent('keydown', {key: 'PageDown', bubbles: true, cancelable: true}));
    } }"""
STORED = "Networks in the stored runs"
ANEW = {"chapters/01_simulate_bias.html": ("What the training data reward", lambda data: figures.key_explorer(
            [float(setting.rpartition("=")[2]) for setting in data["settings"][0]])),
        "chapters/02_train_cnn.html": (STORED, lambda data: figures.stored_explorer()),
        "chapters/04_learning_not_to_learn.html": (STORED, lambda data: figures.marks_explorer())}


@pytest.fixture
def explorers(visit, name):
    """The open page, and each explorer or game on it with its data."""
    if "bt-explore" not in (HTML / name).read_text(encoding="utf-8"):
        yield None, []
        return
    page, faults = visit(name)
    roots = page.locator(".bt-explore").all()
    yield page, [(root, json.loads(root.locator("script[type='application/json']").text_content())) for root in roots]
    assert faults.requests == [] and faults.errors == []


def reach(page, target):
    """Press Tab until `target` has the focus."""
    handle = target.element_handle()
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("element => element === document.activeElement", handle):
            return
    raise AssertionError(f"{MOST_TABS} times Tab did not reach {target}")


def compare(root, frame):
    """What the reader sees in an explorer is this frame: text, and every value as printed and in full."""
    assert root.locator(".bt-text").text_content() == frame["text"]
    seen = root.locator("dd").evaluate_all("all => all.map(e => [e.textContent, e.dataset.value])")
    assert seen == frame["values"]


def test_sliders_by_keyboard_show_what_python_computed(explorers, name):
    page, found = explorers
    for root, data in found:
        if root.get_attribute("data-kind") != "explorer":
            continue
        compare(root, data["frames"][data["start"]])
        sliders = root.locator("input[type=range]").all()
        sizes = [len(settings) for settings in data["settings"]]
        for k, slider in enumerate(sliders):
            reach(page, slider)
            start = int(slider.input_value())
            page.keyboard.press("Home")
            for step in range(sizes[k]):
                if step:
                    page.keyboard.press("ArrowRight")
                place = 0
                for size, other in zip(sizes, sliders, strict=True):
                    place = place * size + int(other.input_value())
                assert int(slider.input_value()) == step
                assert slider.get_attribute("aria-valuetext") == data["settings"][k][step]
                compare(root, data["frames"][place])
            for _ in range(sizes[k] - 1 - start):
                page.keyboard.press("ArrowLeft")
        compare(root, data["frames"][data["start"]])


def test_maps_by_keyboard_show_every_point_as_python_wrote_it(explorers, name):
    page, found = explorers
    for root, data in found:
        if root.get_attribute("data-kind") != "map":
            continue
        slider, area = root.locator("input[type=range]"), root.locator(".bt-map")
        reach(page, slider)
        page.keyboard.press("Home")
        for k, setting in enumerate(data["settings"]):
            if k:
                page.keyboard.press("ArrowRight")
            assert slider.get_attribute("aria-valuetext") == setting
            places = root.locator(".bt-map path").evaluate_all(
                "all => all.map(e => { const m = new DOMMatrix(getComputedStyle(e).transform); return [m.e, m.f]; })")
            assert places == data["maps"][k]
        for shown in data["attributes"]:
            root.locator("select").select_option(shown["name"])
            looks = root.locator(".bt-map path").evaluate_all(
                "all => all.map(e => [e.getAttribute('d'), e.getAttribute('fill')])")
            assert looks == [shown["looks"][k] for k in shown["of"]]
        reach(page, area)
        page.keyboard.press("Home")
        for values in data["values"][:3]:
            assert root.locator("dd").evaluate_all("all => all.map(e => [e.textContent, e.dataset.value])") == values
            page.keyboard.press("PageDown")
        page.keyboard.press("Home")
        assert area.evaluate(EVERY_POINT) == data["values"]


def test_every_chapter_has_an_explorer(explorers, name):
    if re.match(r"chapters/\d", name):
        assert any(root.get_attribute("data-kind") in ("explorer", "map") for root, _ in explorers[1])


def test_what_the_page_holds_is_what_python_computes_now(explorers, name):
    """Of the explorers that need no trained network: computed anew, frame by frame."""
    if name not in ANEW:
        return
    title, make = ANEW[name]
    data = next(data for root, data in explorers[1] if root.get_attribute("aria-label") == title)
    written = re.search(r'<script type="application/json">(.*?)</script>', make(data).html(), re.S)[1]
    assert [frame["values"] for frame in json.loads(written)["frames"]] == [f["values"] for f in data["frames"]]


def test_games_by_keyboard_end_with_the_score(explorers, name):
    page, found = explorers
    for root, data in found:
        if root.get_attribute("data-kind") != "game":
            continue
        right = 0
        for number, item in enumerate(data["items"]):
            choice = number % 2  # some right, some wrong
            reach(page, root.locator(".bt-choices button").nth(choice))
            page.keyboard.press("Enter")
            assert item["told"] in root.locator(".bt-text").text_content()
            right += choice == item["answer"]
            page.keyboard.press("Enter")  # the focus is on "next"
        assert root.locator(".bt-text").text_content().startswith(data["endings"][right])


def test_still_picture_and_text_without_scripts(browser, visit, name):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((HTML / name).as_uri())
    for root in page.locator(".bt-explore").all():
        assert root.locator(".bt-still").is_visible() and not root.locator("input[type=range]").first.is_visible()
        if root.get_attribute("data-kind") == "explorer":
            assert root.locator(".bt-text").text_content().strip()
    context.close()
