"""Feedback for one student: one HTML file that needs neither network nor script."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
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
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("feedback.html").read_text(encoding="utf-8"))
    cells = {}
    for cell in record["cells"]:
        cells.setdefault(cell["label"], []).append(cell)
    exercises = []
    for q in master.questions:
        written = record["written"].get(q.answer)
        untouched = _untouched(written)
        exercises.append({"question": q, "points": points[q.name], "written": written, "untouched": untouched,
                          "said": record["questions"].get(q.name, {}).get("said", ""),
                          "passed": record["questions"].get(q.name, {}).get("passed", False),
                          "cells": [] if q.by_hand else cells.get(q.answer, [])})
    reached = sum(value for value in points.values() if value is not None)
    by_hand = sum(q.points for q in master.questions if q.by_hand)
    text = template.render(title=master.title, record=record, exercises=exercises, reached=reached, by_hand=by_hand,
                           most=sum(q.points for q in master.questions) - by_hand, shown=SHOWN)
    return text.encode("utf-8", "replace").decode()


def _untouched(written: str | None) -> bool:
    """True where a cell is as handed out. Many write above or below the line they should have replaced."""
    lines = [line.strip() for line in (written or "").splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
    return not lines or lines in ([UNTOUCHED], ["raise NotImplementedError()"])


def file_name(student: str, sheet: str) -> str:
    """A name for a page that every system can write, different for different students."""
    plain = re.sub(r"[^\w.-]+", "_", student)[:60].lstrip(".")
    if plain != student or plain != plain.casefold():  # two names may look the same to a file system
        plain += "_" + hashlib.sha256(student.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{plain}_{sheet}.html"
