"""Student notebooks and solutions, made from the masters with nbgrader's own steps."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

from ..files import write_text
from . import masters

STUDENT, SOLUTION, COURSE = "student", "solution", "source"
_MARKERS = re.compile(r"^[ \t]*### (BEGIN|END) (SOLUTION|HIDDEN TESTS)[^\n]*\n?", re.M)
_NEEDED = "making and grading sheets needs nbgrader: pip install 'bias-tutorial[classroom]'"


def build(folder: str | Path = "book/exercises", out: str | Path = "dist/classroom",
          seed: int | None = None) -> list[Path]:
    """Write the sheets of all masters.

    Parameters
    ----------
    folder : path
        Holds the masters, ``NN_name.ipynb``.
    out : path
        Gets ``student/``, what a class is given; ``solution/``, the same with solutions and all tests; and ``source/``,
        the masters as a course of nbgrader wants them.
    seed : int, optional
        Of the numbers; the masters' own when not given, or given as such. Only then the student notebooks are written
        to ``student/`` beside the masters, too.

    Returns
    -------
    list of path
        What was written.

    Raises
    ------
    ValueError
        No masters, or one that is not of the form needed.
    """
    found = masters.read_all(folder)
    written = []
    for name, stated in found.items():
        master = stated if seed is None else masters.read(Path(folder) / f"{name}.ipynb", seed)
        texts = {Path(out) / STUDENT / f"{name}.ipynb": text(student(master)),
                 Path(out) / SOLUTION / f"{name}.ipynb": text(solution(master)),
                 Path(out) / COURSE / name / f"{name}.ipynb": text(master.notebook)}
        if master.seed == stated.seed:
            texts[Path(folder) / STUDENT / f"{name}.ipynb"] = text(student(master))
        for path, content in texts.items():
            write_text(path, content)
        written += texts
    return written


def student(master: masters.Master) -> dict:
    """The notebook that a student gets: no solution, no hidden test, points and locks in the metadata.

    The steps and their order are those of ``nbgrader generate_assignment``, less what needs its database.
    """
    try:
        import nbformat
        from nbgrader import preprocessors as steps
    except ModuleNotFoundError:
        raise ModuleNotFoundError(_NEEDED) from None

    notebook = nbformat.from_dict(copy.deepcopy(master.notebook))
    for cell in notebook.cells:
        cell.source = masters.source(cell)
    resources = {"language": "python", "metadata": {}}
    for step in (steps.LockCells, steps.ClearSolutions, steps.ClearOutput, steps.CheckCellMetadata,
                 steps.ClearHiddenTests, steps.ClearMarkScheme, steps.ComputeChecksums, steps.CheckCellMetadata):
        notebook, resources = step().preprocess(notebook, resources)
    notebook.metadata["classroom"] = {"sheet": master.name, "seed": master.seed}
    return notebook


def solution(master: masters.Master) -> dict:
    """The notebook with solutions and all tests, less the marks around them."""
    notebook = copy.deepcopy(master.notebook)
    for cell in notebook["cells"]:
        cell["source"] = _MARKERS.sub("", masters.source(cell)).strip("\n")
    return notebook


def text(notebook: dict) -> str:
    """A notebook as a file: the same notebook gives the same text."""
    plain = json.loads(json.dumps(notebook))
    for cell in plain["cells"]:
        cell["source"] = masters.source(cell).splitlines(keepends=True)
    return json.dumps(plain, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
