"""The instructor's pack: run sheets, notes for each chapter with rubric and answers, and slides.

The texts stand in ``book/instructors`` (numbers tagged as in the book), rubrics and answers are read from the masters
in ``book/exercises`` and from the quizzes, figures are drawn from the stored runs. Nothing is copied by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..claims import STORED
from ..files import atomic, write_text
from ..sources import ROOT
from . import masters, slides, texts

LETTERS = "abcdefgh"
PARTS = ("Goals", "Talking points", "Misconceptions", "Discussion", "In the room")
"""Headings that the notes of every chapter have, in this order."""
ROW = {"minutes", "what", "run", "skip", "hand_out", "offline"}
COLUMNS = ("Clock", "Minutes", "What happens", "Run", "Skip", "Hand out", "Without network")


@dataclass(frozen=True)
class Chapter:
    """What the pack needs of one chapter.

    Parameters
    ----------
    name : str
        ``NN_name``.
    title : str
        Its first heading.
    cells : dict of str to tuple of int
        For every heading, which code cells stand under it, counted from 1.
    notes : str
        The instructor's notes, with tags.
    quiz : list of dict
        Its questions.
    """

    name: str
    title: str
    cells: Mapping[str, tuple[int, ...]]
    notes: str
    quiz: list[dict]

    @property
    def number(self) -> str:
        """Two digits."""
        return self.name[:2]


def write_pack(out: str | Path, seed: int | None = None, root: Path = ROOT) -> list[Path]:
    """Write the pack to ``out/pack``.

    Parameters
    ----------
    out : path
        Such as ``dist/classroom``.
    seed : int, optional
        Of the numbers in the answers, as for the sheets; the masters' own when not given.
    root : path
        Folder of the repository.

    Returns
    -------
    list of path
        What was written: pages (.html, each complete in itself) and slides (.pptx).

    Raises
    ------
    ValueError
        For a number without a source, a section or figure that is not there, or a run sheet whose minutes do not add
        up; the message names the file.
    ModuleNotFoundError
        Without python-pptx.
    OSError
        When the texts are not there (the pack is made in a copy of the repository) or a file cannot be written.
    """
    folder, source = Path(out) / "pack", Path(root) / "book" / "instructors"
    chapters = read_chapters(root)
    sheets = [run_sheet(sheet, chapters) for sheet in read_yaml(source / "run_sheets.yml")]
    planned = read_yaml(source / "slides.yml")
    if set(planned) != set(chapters):
        raise ValueError(f"slides.yml has the chapters {sorted(planned)}, expected {sorted(chapters)}")
    graded = Path(root) / "book" / "exercises"
    found = masters.read_all(graded, seed) if any(graded.glob("[0-9][0-9]_*.ipynb")) else {}
    pages, decks = {}, {}
    for number, chapter in chapters.items():
        pages[f"{chapter.name}.html"] = (f"Chapter {int(number)}: {chapter.title}",
                                         chapter_page(chapter, found.get(chapter.name)))
        goals = texts.items(texts.filled(texts.sections(chapter.notes)["Goals"], f"{number}.md"))
        decks[f"{chapter.name}.pptx"] = slides.write(chapter.title, goals, planned[number], chapter.quiz,
                                                     f"slides.yml, {number}")
    for name, title, text in sheets:
        pages[f"{name}.html"] = (title, text)
    course = texts.filled((source / "course.md").read_text(encoding="utf-8"), "course.md")
    pages["index.html"] = ("Instructor's pack", "\n\n".join([course, _contents(sheets, chapters, found)]))

    for name, (title, text) in pages.items():
        write_text(folder / name, texts.page(title, text))
    for name, raw in decks.items():
        with atomic(folder / name) as handle:
            handle.write(raw)
    return [folder / name for name in (*pages, *decks)]


# ---------------------------------------------------------------------- reading
def read_chapters(root: Path = ROOT) -> dict[str, Chapter]:
    """All chapters by number, with their notes; a ValueError names notes that lack a part."""
    chapters = {}
    for path in sorted((Path(root) / "book" / "chapters").glob("[0-9][0-9]_*.ipynb")):
        number = path.name[:2]
        notes = (Path(root) / "book" / "instructors" / f"{number}.md").read_text(encoding="utf-8")
        headings = tuple(name for name in texts.sections(notes) if name)
        if headings != PARTS:
            raise ValueError(f"book/instructors/{number}.md has the headings {headings}, expected {PARTS}")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        quiz = json.loads((STORED / "quizzes" / f"{number}.json").read_text(encoding="utf-8"))
        title = re.search(r"^# (.+)$", masters.source(cells[0]), re.M)[1]
        chapters[number] = Chapter(path.stem, title, _cells_by_heading(cells), notes, quiz)
    return chapters


def _cells_by_heading(cells: list[dict]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {"Start": []}
    heading, count = "Start", 0
    for cell in cells:
        if cell["cell_type"] == "code":
            count += 1
            found[heading].append(count)
        elif headings := re.findall(r"^#{2,3} (.+)$", masters.source(cell), re.M):
            found |= {name.strip(): [] for name in headings}
            heading = headings[-1].strip()
    return {name: tuple(numbers) for name, numbers in found.items()}


def read_yaml(path: Path) -> Any:
    """Read a YAML file of the pack; a ValueError names it."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {error}") from None


# ---------------------------------------------------------------------- run sheets
def run_sheet(sheet: Mapping[str, Any], chapters: Mapping[str, Chapter]) -> tuple[str, str, str]:
    """Name, title and Markdown of a run sheet: clock, minutes, what happens, cells to run and to skip.

    A sheet has ``sheet`` (its name), ``title``, ``minutes`` (in all), ``about``, and ``rows``; or in place of minutes
    and rows ``meetings``, each with ``title``, ``minutes`` and ``rows``. A row has ``minutes`` and ``what`` and may
    have ``run`` and ``skip`` (lists such as ``'01: Twins'``), ``hand_out`` and ``offline``.
    """
    where = f"run_sheets.yml, {sheet['sheet']}"
    meetings = sheet.get("meetings") or [sheet]
    parts = [f"# {sheet['title']}", texts.filled(sheet["about"], where)]
    for meeting in meetings:
        rows, clock = [], 0
        for row in meeting["rows"]:
            if unknown := set(row) - ROW:
                raise ValueError(f"{where}: a row has the unknown field '{sorted(unknown)[0]}'")
            cells = [_cells(reference, chapters, where) for reference in row.get("run", ())]
            skipped = [_cells(reference, chapters, where) for reference in row.get("skip", ())]
            rows.append([f"{clock // 60}:{clock % 60:02d}", row["minutes"], texts.filled(row["what"], where),
                         "; ".join(cells) or "–", "; ".join(skipped) or "–",
                         texts.filled(row.get("hand_out", "–"), where), texts.filled(row.get("offline", "–"), where)])
            clock += row["minutes"]
        if clock != meeting["minutes"]:
            raise ValueError(f"{where}: the rows of '{meeting['title']}' take {clock} minutes, expected "
                             f"{meeting['minutes']}")
        if meeting is not sheet:
            parts.append(f"## {meeting['title']} ({meeting['minutes']} minutes)")
        parts.append(texts.table(COLUMNS, rows))
    return f"run_sheet_{sheet['sheet']}", sheet["title"], "\n\n".join(parts)


def _cells(reference: str, chapters: Mapping[str, Chapter], where: str) -> str:
    number, _, heading = reference.partition(": ")
    if number not in chapters or heading not in chapters[number].cells:
        raise ValueError(f"{where}: '{reference}' names no section of a chapter")
    cells = chapters[number].cells[heading]
    span = "no code" if not cells else f"code cell {cells[0]}" if len(cells) == 1 else \
        f"code cells {cells[0]} to {cells[-1]}"
    return f"chapter {int(number)}, *{heading}* ({span})"


# ---------------------------------------------------------------------- a chapter
def chapter_page(chapter: Chapter, master: masters.Master | None) -> str:
    """Notes, answers of the quiz, and rubric and answers of the graded sheet, as Markdown."""
    notes = texts.filled(chapter.notes, f"{chapter.number}.md")
    parts = [f"# Chapter {int(chapter.number)}: {chapter.title}", notes, "## Answers: quiz"]
    for number, question in enumerate(chapter.quiz, 1):
        parts.append(f"**{number}. {_line(question['question'])}**")
        parts.append("\n".join(f"- {letter}) {_line(a['answer'])} **{'Right' if a['correct'] else 'Wrong'}.** "
                               f"{_line(a['feedback'])}"
                               for letter, a in zip(LETTERS, question["answers"], strict=False)))
    if master is None:
        return "\n\n".join([*parts, "## Answers: graded sheet", "This chapter has no graded sheet yet."])
    return "\n\n".join([*parts, "## Answers: graded sheet", *_answers(master)])


def _line(text: str) -> str:
    return " ".join(texts.said(text).split())


def _answers(master: masters.Master) -> list[str]:
    """Every exercise with its solution, and the rubrics, in the order of the sheet; drawn numbers are in the sheet."""
    questions = {question.answer: question for question in master.questions}
    points = sum(question.points for question in master.questions)
    parts = [f"{len(master.questions)} graded exercises, {points:g} points, numbers drawn with seed {master.seed}. The "
             f"folder `solution` has the notebook with all tests; run it to see the values."]
    for cell in master.cells:
        text, name = masters.source(cell), masters.grade_id(cell)
        if cell["cell_type"] == "markdown" and name not in questions:
            if masters.HEADING.search(text) or "rubric" in text.lower():
                parts.append(re.sub(r"^#", "##", text, flags=re.M))
        elif name in questions and not questions[name].by_hand:
            parts += ["**Solution**", texts.fenced(_unmarked(text))]
        elif name in questions:
            parts += ["**What a good answer holds** (graded by hand)", re.sub(r"^#", "##", _unmarked(text), flags=re.M)]
    return parts


def _unmarked(text: str) -> str:
    """A solution without the marks around it."""
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith(("### BEGIN", "### END")))


def _contents(sheets, chapters: Mapping[str, Chapter], found: Mapping[str, masters.Master]) -> str:
    rows = [[f"{int(number)}", f"[{chapter.title}]({chapter.name}.html)", f"[slides]({chapter.name}.pptx)",
             "graded sheet with answers" if chapter.name in found else "no graded sheet yet"]
            for number, chapter in chapters.items()]
    return "\n\n".join(["## Run sheets", "\n".join(f"- [{title}]({name}.html)" for name, title, _ in sheets),
                        "## Chapters", texts.table(["Chapter", "Notes and answers", "Slides", "Exercises"], rows)])
