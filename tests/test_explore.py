"""Explorers, the guessing game and the live control, as Python makes them."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from bias_tutorial import explore, plotting
from bias_tutorial.explore import Frame, Item, explorer, guessing_game, live

PS = [0.5, 0.6, 0.7, 0.8, 0.9]


def _line(p):
    x = np.linspace(0.5, 0.95, 46)
    return plotting.lines([plotting.Series("reward", x, x**0.3), plotting.Series("wanted", x, 0 * x + 0.841)], "p",
                          "accuracy", mark=p, ylim=(0.7, 1))


def _picture(seed):
    with plotting.style():
        canvas = Canvas(figsize=(2, 2))
        canvas.add_subplot().plot([0, seed])
    return plotting.Figure(canvas, f"A line that ends at {seed}, to be judged.")


def _data(output):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', output.html(), re.S).group(1))


class _Tree(HTMLParser):
    """Collects attributes by tag and checks that elements are closed in order."""

    VOID = {"input", "br", "img"}

    def __init__(self, page):
        super().__init__()
        self.open, self.found = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_values_in_the_page_equal_pythons():
    values = {p: {"overall": p / 3, "n": np.int64(round(10000 * p)), "tiny": -1e-17 * p} for p in PS}
    data = _data(explorer("Key", {"p": PS}, lambda p: Frame(values[p])))
    for p, frame in zip(PS, data["frames"], strict=True):
        back = [json.loads(exact) for _, exact in frame["values"]]
        assert back == list(values[p].values())
    assert data["frames"][1]["values"] == [["0.200", repr(0.6 / 3)], ["6,000", "6000"], ["0.000", repr(-1e-17 * 0.6)]]


def test_two_controls_make_their_product_with_the_last_fastest():
    called = []

    def frame(p, kind):
        called.append((p, kind))
        return Frame({"p": p}, text=f"{p} {kind}")

    output = explorer("Two", {"p": [0.5, 0.7], "kind": ["near", "far", "both"]}, frame, start={"kind": "near"})
    data = _data(output)
    assert called == [(p, k) for p in (0.5, 0.7) for k in ("near", "far", "both")]
    assert [f["text"] for f in data["frames"]] == [f"{p} {k}" for p, k in called]
    assert data["settings"] == [["p = 0.5", "p = 0.7"], ["kind: near", "kind: far", "kind: both"]]
    assert data["start"] == 3 and repr(output) == "Two. 0.7 near"


def test_start_stands_in_the_page_itself():
    output = explorer("Key", {"p": PS}, lambda p: Frame({"overall": p / 3}, _line(p)), start={"p": 0.8})
    page = output.html()
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    data = _data(output)
    assert data["pictures"][3] in outside and "Marked at 0.8" in outside
    assert f'<dd data-value="{0.8 / 3!r}">0.267</dd>' in outside and "p = 0.8: overall 0.267." in outside
    slider = next(a for tag, a in _Tree(page).found if tag == "input")
    assert slider["aria-valuetext"] == "p = 0.8" and slider["value"] == "3" and slider["max"] == "4"


def test_size_is_kept_small_and_equal_pictures_are_stored_once():
    ps = np.round(np.linspace(0.5, 0.95, 11), 3).tolist()
    page = explorer("Key", {"p": ps}, lambda p: Frame({"overall": p}, _line(p))).html()
    assert len(page.encode()) < 300_000
    still = _line(0.5)
    assert len(_data(explorer("Key", {"p": ps}, lambda p: Frame({"overall": p}, still)))["pictures"]) == 1


def test_text_from_outside_is_escaped():
    evil = '</script><script>alert("x")</script>'
    page = explorer(evil, {"p": ["<b>", "c"]}, lambda p: Frame({evil: 1.0}, text=evil), labels={"p": evil}).html()
    assert page.count("<script") == 2 and page.count("</script>") == 2
    scripts = [a for tag, a in _Tree(page).found if tag == "script"]
    assert scripts == [{"type": "application/json"}, {}]


def test_page_needs_nothing_from_elsewhere_and_has_no_id():
    page = explorer("Key", {"p": PS}, lambda p: Frame({"a": p}, _line(p))).html()
    assert set(re.findall(r'(?:https?:)?//[\w.]+[^\s"\\]*', page)) <= {"http://www.w3.org/2000/svg"}
    assert not [a for tag, a in _Tree(page).found if tag not in ("path", "clippath") and "id" in a]


def test_the_script_is_one_small_file():
    script = (files("bias_tutorial") / "assets" / "explore.js").read_text("utf-8")
    assert len(script.splitlines()) < 200 and "</" not in script


@pytest.mark.parametrize("make, message", [
    (lambda: explorer("E", {}, lambda: Frame({"a": 1})), "0 frames"),
    (lambda: explorer("E", {"p": [1]}, lambda p: Frame({"a": 1})), "control 'p' needs at least two"),
    (lambda: explorer("E", {"p": range(121)}, lambda p: Frame({"a": 1})), "would have 121 frames"),
    (lambda: explorer("E", {"p": PS}, lambda p: Frame({"a": 1}), start={"p": 0.55}), "start p=0.55 is none"),
    (lambda: explorer("E", {"p": PS}, lambda p: Frame({"a": 1}), start={"q": 1}), "start names 'q'"),
    (lambda: explorer("E", {"p": PS}, lambda p: Frame({"a": float("nan")})), r"'a' of the frame at \(0.5,\) is nan"),
    (lambda: explorer("E", {"p": PS}, lambda p: Frame({str(p): 1})), "they must agree"),
    (lambda: explorer("E", {"p": PS}, lambda p: Frame()), "neither values nor text"),
    (lambda: explorer("E", {"p": [1, 2]}, lambda p: Frame(text="x" * 800_000)), "at most 1,500,000 fit"),
    (lambda: guessing_game("G", "?", [], ["a", "b"]), "at least one item"),
    (lambda: guessing_game("G", "?", [Item(_picture(1), "c", "")], ["a", "b"]), "item 1 has the answer 'c'"),
])
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_game_compares_with_guessing():
    answers = ["yes", "no", "no", "yes", "no"]
    items = [Item(_picture(k), a, f"Look at {k}.") for k, a in enumerate(answers)]
    game = guessing_game("Spot it", "Stretched?", items, ["no", "yes"])
    data = _data(game)
    assert [i["answer"] for i in data["items"]] == [1, 0, 0, 1, 0]
    assert data["items"][1]["told"] == "The answer is: no. Look at 1."
    # Fair coin, five throws: tails counted by hand.
    assert [float(p) for p in data["luck"]] == pytest.approx([32 / 32, 31 / 32, 26 / 32, 16 / 32, 6 / 32, 1 / 32])
    assert data["endings"][4] == ("You got 4 of 5. Guessing gets 2.5 of 5 on average; a guesser gets 4 or more with "
                                  "probability 0.188.")
    outside = re.sub(r"<script.*?</script>", "", game.html(), flags=re.S)
    assert outside.count("<details>") == outside.count("<figure") == 5 and "Look at 4." in outside
    _Tree(game.html())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ipywidgets")  # its oldest version we allow uses old names
def test_live_recomputes_when_its_value_is_set(monkeypatch):
    monkeypatch.delenv("BIAS_TUTORIAL_BOOK", raising=False)
    calls = []

    def scaled(p, factor):
        calls.append((p, factor))
        return p * factor

    widget = live(scaled, p=[0.5, 0.6, 0.7], factor=(1, 4))
    widget.children[0].value = 0.7
    assert calls[-1][0] == 0.7 and widget.result == 0.7 * calls[-1][1]
    widget.children[1].value = 4
    assert calls[-1] == (0.7, 4) and widget.result == 0.7 * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ipywidgets")  # its oldest version we allow uses old names
def test_live_with_a_button_waits_for_it(monkeypatch):
    monkeypatch.delenv("BIAS_TUTORIAL_BOOK", raising=False)
    widget = live(lambda seed: seed + 1, button=True, seed=[1, 2, 3])
    widget.children[0].value = 3
    assert widget.result is None
    widget.children[1].click()
    assert widget.result == 4 and widget.children[1].description == "Compute again"


def test_live_is_a_sentence_in_the_book(monkeypatch):
    monkeypatch.setenv("BIAS_TUTORIAL_BOOK", "1")
    output = live(lambda p: p, p=[1, 2])
    bundle = output._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and bundle["text/plain"] == explore.NO_KERNEL
