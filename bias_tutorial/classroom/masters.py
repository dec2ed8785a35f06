"""Master notebooks: exercises with their solutions, hidden tests and points, as the instructor keeps them."""

from __future__ import annotations

import ast
import copy
import json
import re
import symtable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

NUMBERS = "numbers"  # the tag of the cell that draws them
KINDS = ("recall", "change one thing", "compute by hand", "design an experiment", "open-ended")
HEADING = re.compile(r"^## Exercise (\d+) \(([^,()]+), (\d+) points?\)", re.M)
SOLUTION = re.compile(r"^[ \t]*### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*\n?", re.M | re.S)
HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS.*?^[ \t]*### END HIDDEN TESTS[^\n]*\n?", re.M | re.S)
_SEED = re.compile(r"^SEED = .*$", re.M)
_LINK = re.compile(r"^\[Open in Colab\]\(.*\)$", re.M)
_UPLOAD = "To work in Colab, upload this file there: *File*, then *Upload notebook*."


@dataclass(frozen=True)
class Question:
    """One graded exercise of a sheet.

    Parameters
    ----------
    name : str
        ``grade_id`` of the cell that carries the points.
    points : float
        At most.
    answer : str
        ``grade_id`` of the cell that the student writes; the same as ``name`` for what is graded by hand.
    by_hand : bool
        True for text that a person reads.
    title : str
        Heading of the exercise, without its marks.
    kind : str
        As in the heading, one of :data:`KINDS` for the first five.
    """

    name: str
    points: float
    answer: str
    by_hand: bool
    title: str
    kind: str


@dataclass(frozen=True)
class Master:
    """A master notebook; :func:`read` makes one.

    Parameters
    ----------
    name : str
        ``NN_name``, as the chapter.
    notebook : dict
        The notebook, format 4.5.
    questions : tuple of Question
        In the order of the sheet.
    """

    name: str
    notebook: dict
    questions: tuple[Question, ...]

    @property
    def cells(self) -> list[dict]:
        """All cells, in order."""
        return self.notebook["cells"]

    @property
    def title(self) -> str:
        """First heading of the notebook."""
        return re.search(r"^# (.+)$", source(self.cells[0]), re.M)[1]

    @property
    def seed(self) -> int:
        """What the cell of the numbers states."""
        return int(_SEED.search(source(self.numbers))[0].removeprefix("SEED = "))

    @property
    def numbers(self) -> dict:
        """The cell that draws the numbers."""
        return next(cell for cell in self.cells if is_numbers(cell))

    def cell(self, name: str) -> dict:
        """The cell of this ``grade_id``."""
        return next(cell for cell in self.cells if grade_id(cell) == name)

    def answered(self) -> set[str]:
        """Every name that a solution binds: what a test takes from the student."""
        return set().union(*(bound(source(cell)) for cell in self.cells if is_answer(cell)))


def source(cell: dict) -> str:
    """Text of a cell; the format allows a list of lines."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def grader(cell: dict) -> dict[str, Any]:
    """What nbgrader keeps in the metadata of a cell; empty for a cell without."""
    found = cell.get("metadata", {}).get("nbgrader", {})
    return found if isinstance(found, dict) else {}


def grade_id(cell: dict) -> str | None:
    """The name by which nbgrader knows a cell."""
    return grader(cell).get("grade_id")


def is_answer(cell: dict) -> bool:
    """True for a code cell that the student writes."""
    marks = grader(cell)
    return cell["cell_type"] == "code" and bool(marks.get("solution")) and not marks.get("grade")


def is_test(cell: dict) -> bool:
    """True for a code cell that holds the tests of an answer."""
    marks = grader(cell)
    return cell["cell_type"] == "code" and bool(marks.get("grade")) and not marks.get("solution")


def is_numbers(cell: dict) -> bool:
    """True for the cell that draws the numbers."""
    tags = cell.get("metadata", {}).get("tags", [])
    return cell["cell_type"] == "code" and isinstance(tags, list) and NUMBERS in tags


def plain(code: str) -> str:
    """Python of a cell: the shell line of the set-up cell becomes a call, which is made on Colab only."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(code)


def runnable(code: str, label: str = "cell") -> CodeType:
    """A cell, compiled."""
    return compile(plain(code), f"<{label}>", "exec")


def bound(code: str) -> set[str]:
    """Names that code binds at its top level: assigned, imported or defined."""
    table = symtable.symtable(plain(code), "<cell>", "exec")
    return {symbol.get_name() for symbol in table.get_symbols()
            if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()}


def imported(code: str) -> set[str]:
    """Names that code imports at its top level."""
    table = symtable.symtable(plain(code), "<cell>", "exec")
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_imported()}


def used(code: str) -> set[str]:
    """Names that code mentions anywhere."""
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def with_seed(notebook: dict, seed: int) -> dict:
    """A copy of a notebook whose numbers are drawn from another seed.

    Its link to Colab goes, for there stands the public notebook, with other numbers.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"the seed must be a whole number from 0 up, got {seed!r}")
    changed = copy.deepcopy(notebook)
    cell = next(cell for cell in changed["cells"] if is_numbers(cell))
    stated = source(cell)
    cell["source"] = _SEED.sub(f"SEED = {seed}", stated)
    if cell["source"] != stated:
        first = changed["cells"][0]
        first["source"] = _LINK.sub(_UPLOAD, source(first))
    return changed


def read(path: str | Path, seed: int | None = None) -> Master:
    """Read a master notebook and check its form.

    Parameters
    ----------
    path : path
        ``book/exercises/NN_name.ipynb``.
    seed : int, optional
        Draw its numbers from another seed than the one it states.

    Returns
    -------
    Master

    Raises
    ------
    ValueError
        When it is no notebook, or a cell is not as the grading needs it; the message names file and cell.
    """
    path = Path(path)
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}': is not a notebook ({error})") from None
    try:
        questions = _questions(cells)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None
    return Master(path.stem, notebook if seed is None else with_seed(notebook, seed), questions)


def read_all(folder: str | Path, seed: int | None = None) -> dict[str, Master]:
    """All masters of a folder, by name; a ValueError where there is none."""
    paths = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ValueError(f"'{folder}': holds no master notebook, expected files such as 01_simulate_bias.ipynb")
    return {path.stem: read(path, seed) for path in paths}


def _questions(cells: list[dict]) -> tuple[Question, ...]:
    names = [name for cell in cells if (name := grade_id(cell))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"grade_id {', '.join(twice)} occurs more than once")
    numbers = [cell for cell in cells if is_numbers(cell)]
    if len(numbers) != 1 or not _SEED.search(source(numbers[0])):
        raise ValueError(f"expected one code cell with the tag '{NUMBERS}' and a line 'SEED = 0', found {len(numbers)}")
    questions, heading, answer = [], None, None
    for cell in cells:
        marks, text = grader(cell), source(cell)
        heading = (HEADING.search(text) or heading) if cell["cell_type"] == "markdown" else heading
        if is_answer(cell):
            answer = cell
            if not SOLUTION.search(text):
                raise ValueError(f"{marks['grade_id']} has no region from '### BEGIN SOLUTION' to '### END SOLUTION'")
        if not marks.get("grade"):
            continue
        name, by_hand = marks["grade_id"], bool(marks.get("solution"))
        if heading is None:
            raise ValueError(f"{name} has no heading above it of the form '## Exercise 1 (recall, 2 points)'")
        if not by_hand and (answer is None or not HIDDEN.search(text)):
            raise ValueError(f"{name} needs an answer cell above it, and a region from '### BEGIN HIDDEN TESTS' to "
                             "'### END HIDDEN TESTS'")
        questions.append(Question(name, float(marks["points"]), name if by_hand else answer["metadata"]["nbgrader"][
            "grade_id"], by_hand, f"Exercise {heading[1]}", heading[2].strip()))
    return tuple(questions)
