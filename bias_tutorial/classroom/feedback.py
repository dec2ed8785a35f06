"""Feedback for one student, and the answers of a class that a person grades: pages without network or script."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from . import masters
from .submission import UNTOUCHED

SHOWN = 4000  # characters of what a cell printed


def page(master: masters.Master, record: Mapping[str, Any], points: Mapping[str, float | None]) -> str:
    """The whole page; every text in it that a student wrote or caused is escaped.

    Parameters
    ----------
    master : Master
        Of the sheet.
    record : dict
        From :func:`bias_tutorial.classroom.judge.judge`, with student, sheet, notes and what was written.
    points : dict of str to float or None
        Of each question; None for what a person grades.
    """
    cells = {}
    for cell in record["cells"]:
        cells.setdefault(cell["label"], []).append(cell)
    exercises = []
    for q in master.questions:
        written = record["written"].get(q.answer)
        untouched = _open(record["student"], written)["untouched"] if q.by_hand else _untouched(written)
        exercises.append({"question": q, "points": points[q.name], "written": written, "untouched": untouched,
                          "said": record["questions"].get(q.name, {}).get("said", ""),
                          "passed": record["questions"].get(q.name, {}).get("passed", False),
                          "cells": [] if q.by_hand else cells.get(q.answer, [])})
    reached = sum(value for value in points.values() if value is not None)
    by_hand = sum(q.points for q in master.questions if q.by_hand)
    return _rendered("feedback.html", title=f"{master.title}: feedback for {record['student']}", heading=master.title,
                     record=record, exercises=exercises, reached=reached, by_hand=by_hand,
                     most=sum(q.points for q in master.questions) - by_hand, shown=SHOWN)


def open_answers(found: Mapping[str, masters.Master], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every question that a person grades, sheet by sheet, with what each student wrote.

    Parameters
    ----------
    found : dict of str to Master
        By name.
    records : sequence of dict
        As for :func:`page`.

    Returns
    -------
    list of dict
        ``title``, ``points``, ``asked`` (question and rubric, Markdown of the master) and ``answers``, in the order of
        the names: each with ``student``, ``written`` and ``untouched``.
    """
    asked = []
    for name in sorted({record["sheet"] for record in records}):
        handed = sorted((record for record in records if record["sheet"] == name), key=lambda each: each["student"])
        for q in (q for q in found[name].questions if q.by_hand):
            asked.append({"title": found[name].title, "points": q.points, "asked": _asked(found[name], q),
                          "answers": [_open(record["student"], record["written"].get(q.answer)) for record in handed]})
    return asked


def _open(student: str, written: str | None) -> dict[str, Any]:
    """Only what is as handed out counts as no answer: a text may begin with words that code would begin with."""
    written = written or ""
    return {"student": student, "written": written, "untouched": written.strip() in ("", UNTOUCHED)}


def open_page(asked: Sequence[Mapping[str, Any]]) -> str:
    """One page of all that :func:`open_answers` found; what students wrote, their names included, is escaped."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    sections = [{**each, "asked": Markup(reader.render(re.sub(r"^##", "###", each["asked"], flags=re.M)))}
                for each in asked]
    return _rendered("open_answers.html", title="Open answers of the class", sections=sections)


def _asked(master: masters.Master, question: masters.Question) -> str:
    """Text of the master from the heading of a question to its answer: what is asked, and the rubric."""
    said: list[str] = []
    for cell in master.cells:
        if masters.grade_id(cell) == question.answer:
            break
        if cell["cell_type"] == "markdown":
            said = [] if masters.HEADING.search(masters.source(cell)) else said
            said.append(masters.source(cell))
    return "\n\n".join(said)


def _rendered(name: str, **values: Any) -> str:
    """A page from its template: every value is escaped that is not marked as safe."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda part: files(__package__).joinpath(part).read_text(encoding="utf-8"))
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)
    return environment.get_template(name).render(**values).encode("utf-8", "replace").decode()


def _untouched(written: str | None) -> bool:
    """True where a cell for code is as handed out. Many write above or below the line they should have replaced."""
    lines = [line.strip() for line in (written or "").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
    return not lines or lines == ["raise NotImplementedError()"]  # nbgrader's stub


def file_name(student: str, sheet: str) -> str:
    """A name for a page that every system can write, different for different students."""
    plain = re.sub(r"[^\w.-]+", "_", student)[:60].lstrip(".")
    if plain != student or plain != plain.casefold():  # two names may look the same to a file system
        plain += "_" + hashlib.sha256(student.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{plain}_{sheet}.html"
