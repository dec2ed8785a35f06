"""Explorers and games on every page: the keyboard reaches them, and they show what Python wrote into the page."""

import json

import pytest

MOST_TABS = 400


@pytest.fixture
def explorers(visit, name):
    """The open page, and each explorer or game on it with its data."""
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
    from browser import HTML

    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((HTML / name).as_uri())
    for root in page.locator(".bt-explore").all():
        assert root.locator(".bt-still").is_visible() and not root.locator("input[type=range]").first.is_visible()
        if root.get_attribute("data-kind") == "explorer":
            assert root.locator(".bt-text").text_content().strip()
    context.close()
