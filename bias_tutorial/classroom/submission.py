"""One submission: what it holds, what will be run of it, and what was changed that should not have been."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import masters, sheets

LARGEST = 20 * 2**20  # bytes of a file
MOST_CELLS = 400
_DRAWS = re.compile(r"^numbers\s*=\s*draw\(", re.M)
_SEED = re.compile(r"^SEED = (\d{1,18})\b", re.M)
_SPARE = re.compile(r"^[\s_.()-]+|[\s_.()-]+$")
UNTOUCHED = "YOUR ANSWER HERE"


class Excluded(ValueError):
    """A file that is not graded, and why."""


@dataclass(frozen=True)
class Step:
    """One thing to do, in order.

    Parameters
    ----------
    label : str
        How a person finds the cell: its name, or "cell 7".
    code : str, optional
        To run.
    judge : Question, optional
        To put the tests of this question.
    """

    label: str
    code: str | None = None
    judge: masters.Question | None = None


@dataclass
class Plan:
    """What will be done with a submission.

    Parameters
    ----------
    steps : list of Step
        In order.
    written : dict of str to str
        What the student wrote in each answer cell, by its name.
    notes : list of str
        What is unusual, in sentences.
    other_seed : int, optional
        What the sheet was drawn with, where that is not the seed of the class.
    """

    steps: list[Step] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    other_seed: int | None = None


def read(path: Path) -> dict:
    """A notebook from a file that anybody may have written.

    Raises
    ------
    Excluded
        Not a notebook of format 4, too large, or not to be read.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Excluded(f"is larger than {LARGEST // 2**20} MiB; clear its outputs and hand it in again")
        notebook = json.loads(path.read_bytes())
        cells = notebook["cells"]
        if notebook["nbformat"] != 4 or not isinstance(cells, list) or len(cells) > MOST_CELLS:
            raise Excluded(f"is not a notebook of format 4 with at most {MOST_CELLS} cells")
        for cell in cells:
            if cell["cell_type"] not in ("code", "markdown", "raw") or not isinstance(masters.source(cell), str):
                raise Excluded("holds a cell of an unknown form")
            if not isinstance(cell.setdefault("metadata", {}), dict):
                raise Excluded("holds a cell of an unknown form")
    except Excluded:
        raise
    except OSError as error:
        raise Excluded(f"cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Excluded("is not a notebook") from None
    return notebook


def sheet_of(path: Path, notebook: dict, names: list[str]) -> str:
    """Which sheet a submission belongs to: what its metadata say, else its file or folder.

    Raises
    ------
    Excluded
        When none is named, or one that there is no master for.
    """
    stated = notebook.get("metadata", {})
    stated = stated.get("classroom", {}) if isinstance(stated, dict) else {}
    stated = stated.get("sheet") if isinstance(stated, dict) else None
    if isinstance(stated, str):
        if stated not in names:
            raise Excluded(f"is of the sheet '{stated[:60]}', for which there is no master")
        return stated
    for text in (path.name, path.parent.name):
        named = [name for name in names if name in text]
        if len(named) == 1:
            return named[0]
    raise Excluded("belongs to no known sheet; its name should hold one of: " + ", ".join(names))


def student_of(path: Path, folder: Path, sheet: str) -> str:
    """Who handed a file in: the first folder, or what its name holds beside the sheet's.

    Raises
    ------
    Excluded
        When neither names anybody.
    """
    parts = path.relative_to(folder).parts
    name = parts[0] if len(parts) > 1 else _SPARE.sub("", path.stem.replace(sheet, "\0", 1).replace("\0", "_"))
    name = _SPARE.sub("", name)
    if not name or name == sheet:
        raise Excluded("names no student; put it into a folder with the student's name, or name it "
                       f"'student_{sheet}.ipynb'")
    return name


def plan(master: masters.Master, notebook: dict) -> Plan:
    """What to run and where to put the tests: the student's cells in their order, the tests from the master.

    Tests are found by their ``grade_id``; their text in the submission is never run. A test that is missing is put
    behind its answer; an answer that is missing is judged at the end, by the names that are there.
    """
    made = Plan()
    issued = {masters.grade_id(cell): masters.source(cell) for cell in sheets.student(master)["cells"]}
    questions = {q.name: q for q in master.questions}
    answers = {q.answer for q in master.questions}
    code, seen = [], {}
    for k, cell in enumerate(notebook["cells"]):
        name, text = masters.grade_id(cell), masters.source(cell)
        name = name if isinstance(name, str) and name in answers | set(questions) else None
        if name:
            seen[name] = seen.get(name, 0) + 1
        if name in answers:
            made.written[name] = text
        if cell["cell_type"] == "code":
            code.append((k, name, text, cell))
    for name, times in seen.items():
        if times > 1:
            made.notes.append(f"The cell {name} occurs {times} times; its tests were run after the last.")
    numbers = _numbers(master, code, made)
    last = {name: k for k, name, _, _ in code if name}
    waiting = [q for q in master.questions if not q.by_hand]
    if numbers is None:
        made.notes.append("The cell that draws the numbers is missing; the master's was run first.")
        made.steps.append(Step("numbers", masters.source(master.numbers)))
    for k, name, text, _ in code:
        for q in list(waiting):  # behind its answer and before the next cell that belongs to the sheet
            answered = q.answer in last and last[q.answer] < k
            if answered and last.get(q.name, -1) < last[q.answer] and name:
                made.steps.append(Step(q.name, judge=q))
                waiting.remove(q)
        if name in questions:
            if text.strip() != issued[name].strip():
                made.notes.append(f"The tests in {name} were changed; the master's were run.")
            q = questions[name]
            if q in waiting and last[name] == k and (q.answer not in last or last[q.answer] < k):
                made.steps.append(Step(name, judge=q))
                waiting.remove(q)
            continue
        made.steps.append(Step(name or f"cell {k + 1}", masters.source(master.numbers) if k == numbers else text))
    made.steps += [Step(q.name, judge=q) for q in waiting]
    for q in master.questions:
        if q.answer not in seen:
            made.notes.append(f"The cell {q.answer} is missing.")
        if not q.by_hand and q.name not in seen:
            made.notes.append(f"The cell {q.name} is missing; the master's tests were run.")
    return made


def _numbers(master: masters.Master, code: list, made: Plan) -> int | None:
    """Position of the cell that draws the numbers; the plan notes a change of it."""
    found = [(k, text) for k, name, text, cell in code
             if name is None and (masters.is_numbers(cell) or _DRAWS.search(text))]
    if not found:
        return None
    position, text = found[0]
    if text.strip() != masters.source(master.numbers).strip():
        seed, other = _SEED.search(text), ""
        if seed and int(seed[1]) != master.seed:
            made.other_seed = int(seed[1])
            other = f" The sheet has SEED = {made.other_seed}, the class {master.seed}."
        made.notes.append(f"The cell that draws the numbers was changed; the master's was run.{other}")
    return position
