"""Slides of a chapter, from the figures that the course itself draws from its stored runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import figures, plotting, simulate
from ..scenario import balance, preset
from ..sources import Sources
from .texts import filled, said

SIMULATED = "Simulated data"
_NEEDED = "slides need python-pptx: pip install 'bias-tutorial[classroom]'"
_WIDE, _HIGH = 13.333, 7.5  # inches
_SEED = 100


# ---------------------------------------------------------------------- figures that need a few simulated subjects
def twins() -> plotting.Figure:
    """One subject of chapter 1 with each bias switched on alone."""
    cohort = simulate.brain(preset("both"), 40, _SEED)
    carriers = np.flatnonzero(cohort.table["morphology"] & cohort.table["intensity"])
    return figures.twins(cohort, int(carriers[0]))


def balanced() -> plotting.Figure:
    """Differences between groups of chapter 1, stratified and dealt out at random."""
    design = preset("both")
    drawn = {"stratified": True, "dealt out at random": False}
    return plotting.love_plot({name: balance(design.draw(2000, _SEED, stratify=way), design)
                               for name, way in drawn.items()})


def chests() -> plotting.Figure:
    """Radiographs of chapter 5."""
    return figures.chests(simulate.chest(simulate.ChestDesign(), 60, _SEED))


OWN = {"twins": twins, "balanced": balanced, "chests": chests}


def draw(call: str, arguments: Sequence[Any] = (), where: str = "slides") -> plotting.Figure | pd.DataFrame:
    """Draw a figure, or make a table, that a slide names.

    Parameters
    ----------
    call : str
        A function of :mod:`bias_tutorial.figures`, or one of ``OWN``.
    arguments : sequence
        Its arguments. A text ``'$NAME'`` is a constant of the figures, ``'=SOURCE'`` a number, as in a tag.

    Raises
    ------
    ValueError
        When there is no such function, constant or source.
    """
    function = OWN.get(call) or (getattr(figures, call) if call in figures.__all__ else None)
    if not callable(function):
        raise ValueError(f"{where}: there is no figure '{call}'")
    with plotting.printed():
        return function(*(_resolved(argument, where) for argument in arguments))


def _resolved(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _resolved(part, where) for name, part in value.items()}
    if isinstance(value, str) and value.startswith("="):
        return Sources().look_up(value[1:])[0]
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in figures.__all__:
            raise ValueError(f"{where}: the figures have no constant '{value[1:]}'")
        return getattr(figures, value[1:])
    return value


# ---------------------------------------------------------------------- the file
def write(title: str, goals: Sequence[str], planned: Sequence[Mapping[str, Any]], questions: Sequence[Mapping],
          where: str) -> bytes:
    """Make the slides of a chapter: title, goals, one slide for each figure and question; a PowerPoint file.

    Parameters
    ----------
    title : str
        Of the chapter.
    goals : sequence of str
        What learners will be able to do, without tags.
    planned : sequence of mapping
        Each with ``title``, ``figure`` (name of a function), ``with`` (its arguments, may be left out), ``says`` (key
        sentences, with tags) and ``notes`` (for the speaker, with tags).
    questions : sequence of mapping
        All of the quiz, numbered in its order, so that a run sheet can name some; the answers go to the notes.
    where : str
        What to call it in an error.

    Raises
    ------
    ValueError
        For a figure or a number that has no source.
    ModuleNotFoundError
        Without python-pptx.
    """
    try:
        from pptx import Presentation
        from pptx.util import Inches
    except ModuleNotFoundError:
        raise ModuleNotFoundError(_NEEDED) from None

    deck = Presentation()
    deck.slide_width, deck.slide_height = Inches(_WIDE), Inches(_HIGH)
    deck.core_properties.title, deck.core_properties.author = title, "Where Bias Hides"
    slide = _slide(deck, title)
    _text(slide, ["Where Bias Hides", SIMULATED + " wherever a number or picture comes from simulated patients.",
                  "Not for clinical use."], top=2.4, high=2.5, points=24)
    _notes(slide, "Say first who is harmed when this goes wrong; the chapter's first paragraph has a real case.")
    slide = _slide(deck, "You will be able to")
    _text(slide, [f"• {goal}" for goal in goals], top=1.5, high=5.0, points=24)
    _notes(slide, "Read the goals aloud, and come back to them at the end.")
    for number, plan in enumerate(planned, 1):
        here = f"{where}, slide {number}"
        slide = _slide(deck, plan["title"])
        shown = draw(plan["figure"], plan.get("with", ()), here)
        left, top = (0.6, 5.55) if isinstance(shown, pd.DataFrame) else _picture(slide, shown)
        if isinstance(shown, pd.DataFrame):
            _table(slide, shown, plan["title"])
        _text(slide, [filled(text, here) for text in plan["says"]], top=top, high=1.4, points=20, left=left)
        _text(slide, [SIMULATED], top=7.0, high=0.4, points=12)
        _notes(slide, filled(plan["notes"], here))
    for number, question in enumerate(questions, 1):
        slide = _slide(deck, f"Check yourself: question {number}")
        options = [f"{letter}) {a['answer']}" for letter, a in zip("abcdefgh", question["answers"], strict=False)]
        _text(slide, [said(text) for text in (question["question"], *options)], top=1.5, high=5.0, points=22)
        _notes(slide, "\n".join(f"{letter}) {'RIGHT. ' if a['correct'] else ''}{said(a['feedback'])}"
                                for letter, a in zip("abcdefgh", question["answers"], strict=False)))
    raw = io.BytesIO()
    deck.save(raw)
    return raw.getvalue()


def _slide(deck, title: str):
    from pptx.util import Inches, Pt

    slide = deck.slides.add_slide(deck.slide_layouts[5])  # a title and nothing else
    box = slide.shapes.title
    box.left, box.top, box.width, box.height = Inches(0.6), Inches(0.3), Inches(_WIDE - 1.2), Inches(1.0)
    box.text_frame.text, box.text_frame.word_wrap = title, True
    box.text_frame.paragraphs[0].runs[0].font.size = Pt(32)
    return slide


def _text(slide, paragraphs: Sequence[str], top: float, high: float, points: int, left: float = 0.6) -> None:
    from pptx.util import Inches, Pt

    box = slide.shapes.add_textbox(Inches(left), Inches(top), Inches(_WIDE - 0.6 - left), Inches(high))
    frame = box.text_frame
    frame.word_wrap = True
    for k, text in enumerate(paragraphs):
        paragraph = frame.paragraphs[0] if k == 0 else frame.add_paragraph()
        paragraph.text, paragraph.font.size, paragraph.space_after = text, Pt(points), Pt(6)


def _picture(slide, figure: plotting.Figure) -> tuple[float, float]:
    """Place a picture; returns where its text goes, from the left and from the top, in inches."""
    from pptx.util import Inches

    picture = slide.shapes.add_picture(io.BytesIO(figure.png), 0, 0)
    tall = picture.height > 0.8 * picture.width  # then the text stands beside it
    scale = min(Inches(7.4 if tall else _WIDE - 1.2) / picture.width, Inches(5.6 if tall else 4.1) / picture.height)
    picture.width, picture.height = int(picture.width * scale), int(picture.height * scale)
    picture.left = Inches(0.6) if tall else int((Inches(_WIDE) - picture.width) / 2)
    picture.top = Inches(1.35)
    picture.name = SIMULATED
    picture._element.nvPicPr.cNvPr.set("descr", f"{SIMULATED}. {figure.alt}")
    return (1.0 + picture.width / Inches(1), 2.5) if tall else (0.6, 5.55)


def _table(slide, shown: pd.DataFrame, title: str) -> None:
    from pptx.util import Inches, Pt

    shown = shown.reset_index() if shown.index.name or not isinstance(shown.index, pd.RangeIndex) else shown
    cells = [["" if str(name).startswith(("index", "level_")) else str(name) for name in shown.columns],
             *([_cell(value) for value in row] for row in shown.itertuples(index=False))]
    shape = slide.shapes.add_table(len(cells), len(cells[0]), Inches(0.6), Inches(1.35), Inches(_WIDE - 1.2),
                                   Inches(0.35 * len(cells)))
    shape.name = SIMULATED
    shape._element.nvGraphicFramePr.cNvPr.set("descr", f"{SIMULATED}. {title}: a table with {len(cells) - 1} rows, and "
                                                    f"the columns {', '.join(filter(None, cells[0]))}")
    for r, row in enumerate(cells):
        for c, text in enumerate(row):
            cell = shape.table.cell(r, c)
            cell.text = text
            cell.margin_top = cell.margin_bottom = Inches(0.02)
            cell.text_frame.paragraphs[0].font.size = Pt(14 if len(cells) <= 9 else 11)


def _cell(value: Any) -> str:
    return plotting.number(value) if isinstance(value, float) and np.isfinite(value) else str(value)


def _notes(slide, text: str) -> None:
    slide.notes_slide.notes_text_frame.text = text
