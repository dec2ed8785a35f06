"""Self-test questions that need neither kernel nor network, drawn by jupyterquiz.

``stored/quizzes/NN.json`` is a list of questions in jupyterquiz's format; every option says why it is right or wrong.
A question that recalls earlier chapters names them under ``recalls``, a key that jupyterquiz does not look at.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from .claims import STORED

TYPES = ("multiple_choice", "many_choice")
LEAST_QUESTIONS = 6
LEAST_RECALLING = 2  # in the quiz of a chapter that has earlier ones
# Dark enough for white text on them (contrast at least 4.5), in light and dark pages alike.
COLOURS = {"--jq-multiple-choice-bg": "#1f3a5f", "--jq-many-choice-bg": "#4a2c5e", "--jq-mc-button-bg": "#ffffff",
           "--jq-mc-button-border": "#767676", "--jq-text-color": "#ffffff", "--jq-correct-color": "#00695c",
           "--jq-incorrect-color": "#a32100"}
# jupyterquiz hides its radio buttons through a class that only some themes know, shows the focus nowhere, tells right
# from wrong by colour alone, and animates the colour behind text that is already white.
_STYLE = """
#ID .sr-only { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
#ID .Quiz, #ID .MCButton, #ID .Feedback { font-size: 1rem; line-height: 1.4; }
#ID .MCButton { position: relative; border-radius: 6px; color: #222222; text-align: left; justify-content: flex-start; }
#ID .MCButton:focus-within { outline: 3px solid #e69f00; outline-offset: 2px; }
#ID .MCButton.correctButton, #ID .MCButton.incorrectButton { animation: none; box-shadow: none; color: #ffffff; }
#ID .MCButton.correctButton { background: var(--jq-correct-color); }
#ID .MCButton.incorrectButton { background: var(--jq-incorrect-color); }
#ID .MCButton.correctButton::before, #ID .Feedback.correct::before { content: "\\2713\\00a0"; }
#ID .MCButton.incorrectButton::before, #ID .Feedback.incorrect::before { content: "\\2717\\00a0"; }
#ID .Feedback, #ID .Feedback.correct, #ID .Feedback.incorrect { color: inherit; text-align: left; min-height: 1.4em; }
"""
# ... and does not say to a screen reader which options belong to which question, nor that an answer has come.
_SCRIPT = """
(function improve() {
  var root = document.getElementById("ID");
  if (!root || !root.querySelector(".Feedback")) { setTimeout(improve, 100); return; }
  root.querySelectorAll(".Quiz").forEach(function (quiz) {
    var answers = quiz.querySelector(".Answer");
    answers.setAttribute("role", "group");
    answers.setAttribute("aria-labelledby", quiz.querySelector("[id^=quizQn]").id);
    quiz.querySelector(".Feedback").setAttribute("aria-live", "polite");
  });
})();
"""


class Quiz:
    """Questions that show themselves; made by :func:`show`."""

    def __init__(self, questions: list[Mapping[str, Any]], name: str):
        self.questions, self.name = questions, f"quiz{re.sub(r'[^a-zA-Z0-9]', '', name)}"

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self.questions, start=1):
            lines += [f"{number}. {_text(question['question'])}"]
            lines += [f"   - {_text(answer['answer'])}" for answer in question["answers"]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from jupyterquiz.dynamic.loader import load_questions_script
        from jupyterquiz.dynamic.renderer import build_script, build_styles, render_div

        prefix, static, url = load_questions_script([dict(question) for question in self.questions], self.name)
        script = build_script(prefix, static, url, self.name, True)
        # Where MathJax has not finished loading, jupyterquiz would fetch another one from the network; and it logs.
        script = script.replace("document.head.appendChild(script);", "").replace("console.log(", "void (")
        script = re.sub(r"https://cdn[^'\"]*", "", script)
        script = (script + _SCRIPT.replace("ID", self.name)).replace("</", "<\\/")  # must not end the element
        box = render_div(self.name, False, False, False, len(self.questions), 800, 6, "left")
        style = build_styles(self.name, COLOURS) + f"<style>{_STYLE.replace('#ID', '#' + self.name)}</style>"
        still = f"<noscript><pre>{html.escape(repr(self))}</pre></noscript>"
        return f"{box}{still}</div>{style}<script>{script}</script>"


def show(chapter: str) -> Quiz:
    """Show the questions of a chapter, with an explanation behind every option.

    Parameters
    ----------
    chapter : str
        Such as ``'01'``.

    Raises
    ------
    ValueError
        When there are none, or they break the schema; the message names question and option.
    """
    path = STORED / "quizzes" / f"{chapter}.json"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json")))
        raise ValueError(f"chapter '{chapter}' has no quiz; there are: {there or 'none'}")
    try:
        questions = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    faults = check_quiz(questions, chapter)
    if faults:
        raise ValueError(f"{path.name}: " + "; ".join(faults))
    return Quiz(questions, chapter)


def check_quiz(questions: Any, chapter: str = "") -> list[str]:
    """Faults of a quiz, each a sentence that names question and option; none for a good one.

    A good quiz is a list of at least six questions. Each has ``question``, ``type`` (``multiple_choice`` with exactly
    one right option, ``many_choice`` with at least two), and at least two ``answers``; every answer has ``answer``,
    ``correct`` and a ``feedback`` of its own that says more than right or wrong. A question may have ``recalls``: the
    earlier chapters it goes back to, such as ``['01']``.

    Parameters
    ----------
    questions : Any
        What the file holds.
    chapter : str
        Whose quiz it is, such as ``'02'``: from the second chapter on at least two questions must recall earlier ones.
        With any other name none must, and a question may recall every chapter.

    Returns
    -------
    list of str
        Empty for a good quiz.
    """
    if not isinstance(questions, list) or not all(isinstance(q, Mapping) for q in questions):
        return ["a quiz must be a list of questions"]
    faults = [] if len(questions) >= LEAST_QUESTIONS else \
        [f"{len(questions)} questions, expected at least {LEAST_QUESTIONS}"]
    places = []
    for number, question in enumerate(questions, start=1):
        where, answers = f"question {number}", question.get("answers")
        if not _is_text(question.get("question")):
            faults.append(f"{where} has no text in 'question'")
        if question.get("type") not in TYPES:
            faults.append(f"{where} has the type {question.get('type')!r}, expected one of {', '.join(TYPES)}")
        unknown = set(question) - {"question", "type", "answers", "recalls", "code"}
        faults += [f"{where} has the unknown field '{field}'" for field in sorted(unknown)]
        if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(a, Mapping) for a in answers):
            faults.append(f"{where} needs a list of at least two 'answers'")
            continue
        faults += [f"{where}, {fault}" for fault in _answer_faults(answers)]
        right = [place for place, answer in enumerate(answers) if answer.get("correct") is True]
        places += right
        if question.get("type") == "multiple_choice" and len(right) != 1:
            faults.append(f"{where} has {len(right)} right options, multiple_choice needs exactly one")
        if question.get("type") == "many_choice" and len(right) < 2:
            faults.append(f"{where} has {len(right)} right options, many_choice needs at least two")
    if len(places) > 2 and len(set(places)) == 1:
        faults.append(f"the right option is always number {places[0] + 1}")
    return faults + _recall_faults(questions, chapter)


def _recall_faults(questions, chapter) -> list[str]:
    """Faults of the chapters that questions recall: which they are, and how many questions do."""
    last = int(chapter) - 1 if re.fullmatch(r"\d\d", chapter) else 99
    faults, recalling = [], 0
    for number, question in enumerate(questions, start=1):
        if "recalls" not in question:
            continue
        recalled = question["recalls"]
        if not isinstance(recalled, list) or not recalled or \
                not all(isinstance(c, str) and re.fullmatch(r"\d\d", c) for c in recalled):
            faults.append(f"question {number} has 'recalls' {recalled!r}, expected a list of chapters such as ['01']")
        elif wrong := [c for c in recalled if not 1 <= int(c) <= last]:
            faults.append(f"question {number} recalls chapter {', '.join(wrong)}, which is no chapter before {chapter}")
        else:
            recalling += 1
    if 1 <= last < 99 and recalling < LEAST_RECALLING:
        faults.append(f"{recalling} questions recall an earlier chapter, expected at least {LEAST_RECALLING}")
    return faults


def _answer_faults(answers) -> list[str]:
    faults = []
    for number, answer in enumerate(answers, start=1):
        if not _is_text(answer.get("answer")):
            faults.append(f"option {number} has no text in 'answer'")
        if not isinstance(answer.get("correct"), bool):
            faults.append(f"option {number} needs 'correct', true or false")
        if not _is_text(answer.get("feedback")) or len(answer["feedback"].split()) < 5:
            faults.append(f"option {number} needs a 'feedback' that explains it in at least five words")
        unknown = set(answer) - {"answer", "correct", "feedback", "code"}
        faults += [f"option {number} has the unknown field '{field}'" for field in sorted(unknown)]
    for what in ("answer", "feedback"):
        texts = [answer.get(what) for answer in answers if answer.get(what)]
        if len(set(texts)) < len(texts):
            faults.append(f"two options have the same '{what}'")
    return faults


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text(markup: str) -> str:
    """Leave out comments and elements."""
    return html.unescape(re.sub(r"<!--.*?-->|<[^>]+>", "", markup, flags=re.S))
