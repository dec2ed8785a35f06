"""Quizzes: the schema refuses what would leave a reader without an explanation, and the page works without network."""

import copy
import json
import os
import shutil

import pytest

from bias_tutorial import quiz
from bias_tutorial.claims import STORED
from bias_tutorial.quiz import check_quiz, show

CHAPTERS = sorted(path.stem for path in (STORED / "quizzes").glob("*.json"))
GOOD = [{"question": f"Question {n}?", "type": "multiple_choice", "answers": [
    {"answer": f"Option {k}", "correct": k == n % 3, "feedback": f"Because of reason {k}, which is long enough."}
    for k in range(3)]} for n in range(6)]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_stored_quizzes_are_good(chapter):
    questions = json.loads((STORED / "quizzes" / f"{chapter}.json").read_text(encoding="utf-8"))
    assert check_quiz(questions, chapter) == []
    assert "question" in show(chapter)._repr_html_()


def broken(change):
    questions = copy.deepcopy(GOOD)
    change(questions)
    return check_quiz(questions)


@pytest.mark.parametrize(("change", "message"), [
    (lambda q: q.pop(), "5 questions, expected at least 6"),
    (lambda q: q[1]["answers"][2].pop("feedback"), "question 2, option 3 needs a 'feedback'"),
    (lambda q: q[1]["answers"][2].update(feedback="Wrong."), "question 2, option 3 needs a 'feedback'"),
    (lambda q: q[1]["answers"][2].update(feedback=q[1]["answers"][0]["feedback"]), "have the same 'feedback'"),
    (lambda q: q[1]["answers"][2].update(answer=" "), "option 3 has no text"),
    (lambda q: q[0]["answers"][1].update(correct=True), "question 1 has 2 right options"),
    (lambda q: q[0]["answers"][0].update(correct=False), "question 1 has 0 right options"),
    (lambda q: q[0]["answers"][0].update(correct="yes"), "needs 'correct', true or false"),
    (lambda q: q[0].update(type="many_choice"), "many_choice needs at least two"),
    (lambda q: q[0].update(type="essay"), "question 1 has the type 'essay'"),
    (lambda q: q[0].update(question=""), "question 1 has no text"),
    (lambda q: q[0].update(answers=[]), "at least two 'answers'"),
    (lambda q: q[0]["answers"][0].update(hint="x"), "unknown field 'hint'"),
    (lambda q: q[0].update(recall=["01"]), "question 1 has the unknown field 'recall'"),
    (lambda q: [a.update(correct=i == 0) for x in q for i, a in enumerate(x["answers"])], "always number 1"),
])
def test_each_fault_is_named(change, message):
    assert check_quiz(GOOD) == []
    faults = broken(change)
    assert any(message in fault for fault in faults), faults


@pytest.mark.parametrize(("chapter", "recalled", "message"), [
    ("02", [], "0 questions recall an earlier chapter, expected at least 2"),
    ("03", [["02"]], "1 questions recall an earlier chapter, expected at least 2"),
    ("03", [["01"], ["03"]], "question 2 recalls chapter 03, which is no chapter before 03"),
    ("03", [["01"], ["02", "04"]], "question 2 recalls chapter 04, which is no chapter before 03"),
    ("01", [["01"]], "question 1 recalls chapter 01, which is no chapter before 01"),
    ("02", [["01"], "01"], "question 2 has 'recalls' '01', expected a list of chapters such as ['01']"),
    ("02", [["01"], []], "question 2 has 'recalls' []"),
    ("02", [["01"], ["1"]], "question 2 has 'recalls' ['1']"),
    ("course", [["00"]], "question 1 recalls chapter 00"),
])
def test_from_the_second_chapter_on_two_questions_recall_earlier_ones(chapter, recalled, message):
    questions = copy.deepcopy(GOOD)
    for question, chapters in zip(questions, recalled, strict=False):
        question["recalls"] = chapters
    faults = check_quiz(questions, chapter)
    assert any(message in fault for fault in faults), faults


@pytest.mark.parametrize(("chapter", "recalled"), [("01", []), ("02", [["01"], ["01"]]), ("06", [["01", "05"], ["02"]]),
                                                   ("course", []), ("course", [["06"]])])
def test_recalling_questions_pass(chapter, recalled):
    questions = copy.deepcopy(GOOD)
    for question, chapters in zip(questions, recalled, strict=False):
        question["recalls"] = chapters
    assert check_quiz(questions, chapter) == []


def test_a_missing_or_broken_file_says_so(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"chapter '77' has no quiz; there are: .*01"):
        show("77")
    (tmp_path / "quizzes").mkdir()
    monkeypatch.setattr(quiz, "STORED", tmp_path)
    (tmp_path / "quizzes" / "01.json").write_text("[")
    with pytest.raises(ValueError, match="01.json is not JSON"):
        show("01")
    (tmp_path / "quizzes" / "01.json").write_text(json.dumps(GOOD[:2]))
    with pytest.raises(ValueError, match="01.json: 2 questions"):
        show("01")


def test_the_page_holds_no_address_and_no_early_end_of_script():
    page = quiz.Quiz([*GOOD, {**GOOD[0], "question": "Is </script> safe?"}], "x")._repr_html_()
    assert "cdn" not in page and "console.log" not in page and "appendChild(script)" not in page
    assert page.count("</script>") == 1 and page.count("<div") == page.split("<script>")[0].count("</div>")
    assert repr(quiz.Quiz(GOOD, "x")).startswith("1. Question 0?\n   - Option 0")


# ---------------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sentence = "No Chromium or Chrome was found (set CHROMIUM to one), so the quiz was NOT tried in a browser."
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path, request):
    """A page with the quiz of ``GOOD``, network cut, and a list of whatever went wrong on it."""
    colours = "background:#14181e;color:#ced6dd" if getattr(request, "param", "light") == "dark" else ""
    path = tmp_path / "quiz.html"
    path.write_text(f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Quiz</title></head>'
                    f'<body style="{colours}"><main><h1>Quiz</h1>{quiz.Quiz(GOOD, "x")._repr_html_()}</main></body>'
                    '</html>', encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 375, "height": 800})
    page, faults = context.new_page(), []
    page.on("request", lambda r: None if r.url.startswith("file:") else faults.append(r.url))
    page.on("console", lambda m: faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.goto(path.as_uri())
    page.wait_for_selector("[aria-live]", state="attached")
    yield page, faults
    context.close()


def test_by_keyboard_every_option_answers_and_right_and_wrong_differ_in_more_than_colour(opened):
    page, faults = opened
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    feedback = page.locator(".Feedback").first
    assert feedback.inner_text().endswith(GOOD[0]["answers"][0]["feedback"])
    assert feedback.get_attribute("class").split() == ["Feedback", "correct"]
    page.keyboard.press("ArrowDown")
    assert feedback.inner_text().endswith(GOOD[0]["answers"][1]["feedback"])
    assert "incorrect" in feedback.get_attribute("class")
    mark = page.evaluate("getComputedStyle(document.querySelector('.Feedback'), '::before').content")
    assert "\u2717" in mark
    outline = page.evaluate("getComputedStyle(document.activeElement.closest('.MCButton')).outlineStyle")
    assert outline == "solid" and faults == []


def test_every_option_of_every_question_answers_by_click(opened):
    page, faults = opened
    for number, question in enumerate(GOOD):
        box = page.locator(".Quiz").nth(number)
        for place, answer in enumerate(question["answers"]):
            box.locator(".MCButton").nth(place).click()
            assert box.locator(".Feedback").inner_text().endswith(answer["feedback"])
            assert ("incorrect" in box.locator(".Feedback").get_attribute("class")) != answer["correct"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375 and faults == []


@pytest.mark.parametrize("opened", ["light", "dark"], indirect=True)
def test_axe_finds_nothing_serious_before_and_after_answers(opened):
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened
    for clicked in (None, 0, 1):
        for box in page.locator(".Quiz").all() if clicked is not None else ():
            box.locator(".MCButton").nth(clicked).click()
        found = Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], [(v["id"], [n["html"] for n in v["nodes"]]) for v in serious]
