"""The instructor's pack: numbers from their sources, sections and figures that exist, slides that can be read."""

import ast
import builtins
import io
import json
import re
import zipfile

import nbformat
import pytest

from bias_tutorial.classroom import masters, pack, slides, texts
from bias_tutorial.sources import ROOT, check_text

SOURCE = ROOT / "book" / "instructors"
CHAPTERS = pack.read_chapters()
SHEETS = pack.read_yaml(SOURCE / "run_sheets.yml")
PLANNED = pack.read_yaml(SOURCE / "slides.yml")
INCH = 914400


# ---------------------------------------------------------------------- numbers
def test_a_number_is_filled_from_its_source_with_its_digits():
    key = "<!-- =key:curve(p=.7).tpr_gap -->"
    assert texts.filled(f"The gap is 0.999{key}.", "x") == "The gap is 0.205."
    assert texts.filled(f"The gap is 99%{key}, or 0.9{key}.", "x") == "The gap is 20%, or 0.2."
    assert texts.filled("It is 0.1<!-- =-key:curve(p=.7).tpr_gap -->.", "x") == "It is −0.2."
    assert texts.filled(f"0.9{key}", "x", tags=True) == f"0.2{key}"
    assert texts.filled("of 1,234<!-- =stored:02.n_4000.settings.n_train --> images", "x") == "of 4,000 images"


@pytest.mark.parametrize(("text", "message"), [
    ("It is 0.3.", "x, line 1: '0.3' has no source"), ("It is 0.3<!-- =key:nothing(p=1).x -->.", "x: the tag"),
    ("It is 0.3<!-- =run:02.auc -->.", "x: the tag 'run:02.auc' names"), ("In 45 clinics", "'45' has no source")])
def test_a_number_without_a_source_stops_the_pack(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        texts.filled(text, "x")


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.md")), ids=lambda path: path.name)
def test_the_texts_of_this_repository_say_what_their_sources_say(path):
    assert check_text(path.read_text(encoding="utf-8"), path.name) == []
    assert "<!--" not in texts.filled(path.read_text(encoding="utf-8"), path.name)


# ---------------------------------------------------------------------- run sheets
def test_the_three_run_sheets_add_up_and_name_sections_that_exist():
    made = {sheet["sheet"]: pack.run_sheet(sheet, CHAPTERS) for sheet in SHEETS}
    assert set(made) == {"90_minutes", "half_day", "six_weeks"}
    assert SHEETS[0]["minutes"] == 90 and len(SHEETS[2]["meetings"]) == 6
    text = made["90_minutes"][2]
    assert "| 0:05 | 8 |" in text and "chapter 1, *Twins* (code cells 10 to 11)" in text
    assert made["six_weeks"][2].count("## Week") == 6
    used = {reference[:2] for meeting in SHEETS[2]["meetings"] for row in meeting["rows"]
            for reference in row.get("run", ())}
    assert used == set(CHAPTERS)


@pytest.mark.parametrize(("change", "message"), [
    ({"minutes": 91}, "expected 91"), ({"rows": [{"minutes": 90, "what": "It took 17 tries."}]}, "'17' has no source"),
    ({"rows": [{"minutes": 90, "what": "x", "run": ["01: No such thing"]}]}, "'01: No such thing' names no section"),
    ({"rows": [{"minutes": 90, "what": "x", "note": "y"}]}, "unknown field 'note'")])
def test_a_faulty_run_sheet_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        pack.run_sheet({**SHEETS[0], **change}, CHAPTERS)


def names(code):
    """Names that a cell makes, and those that it mentions."""
    tree = list(ast.walk(ast.parse(masters.plain(code))))
    made = {node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in tree if isinstance(node, ast.FunctionDef)}
    made |= {node.arg for node in tree if isinstance(node, ast.arg)}
    made |= {(alias.asname or alias.name).split(".")[0] for node in tree
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    return made, {node.id for node in tree if isinstance(node, ast.Name)}


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet["sheet"])
def test_the_cells_of_a_meeting_run_in_its_order(sheet):
    """Whoever runs only what the sheet says to run meets no name that no cell has made."""
    code = {}
    for number, chapter in CHAPTERS.items():
        notebook = nbformat.read(ROOT / "book" / "chapters" / f"{chapter.name}.ipynb", as_version=4)
        code[number] = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    missing = []
    for meeting in sheet.get("meetings") or [sheet]:
        known = {number: set(dir(builtins)) | {"get_ipython"} for number in CHAPTERS}
        for reference in (each for row in meeting["rows"] for each in row.get("run", ())):
            number, _, heading = reference.partition(": ")
            for k in CHAPTERS[number].cells[heading]:
                made, used = names(code[number][k - 1])
                missing += [(reference, name) for name in sorted(used - made - known[number])]
                known[number] |= made
    assert not missing


# ---------------------------------------------------------------------- notes
@pytest.mark.parametrize("number", sorted(CHAPTERS))
def test_each_chapter_has_goals_misconceptions_with_an_answer_and_a_labelled_case(number):
    parts = texts.sections(CHAPTERS[number].notes)
    for name in ("Goals", "Talking points", "In the room"):
        assert len(texts.items(parts[name])) >= 4, name
    misconceptions = texts.sections(parts["Misconceptions"], 3)
    misconceptions.pop("")
    assert len(misconceptions) >= 4 and all("Meet it:" in text for text in misconceptions.values())
    cases = texts.sections(parts["Discussion"], 3)
    cases.pop("")
    kinds = {"cited" if name.startswith("Cited case: ") else "invented" if name.startswith("Invented case: ") else name
             for name in cases}
    assert kinds == {"cited", "invented"}
    assert all("https://doi.org/" in text for name, text in cases.items() if name.startswith("Cited"))
    assert all("?" in text for text in cases.values())


# ---------------------------------------------------------------------- rubric and answers from the masters
def master():
    marks = {"schema_version": 3, "task": False}
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell

    def graded(**values):
        return {"nbgrader": {**marks, **values}}

    return nbformat.v4.new_notebook(cells=[
        text("# Exercises: making bias\n\nTwo of them."),
        code("from bias_tutorial.classroom import draw\nSEED = 0\nnumbers = draw(SEED, p=[.6, .7])",
             metadata={"tags": ["numbers"]}),
        text("## Exercise 1 (recall, 2 points)\n\nHow many lines?"),
        code("### BEGIN SOLUTION\nlines = 2\n### END SOLUTION",
             metadata=graded(grade=False, solution=True, grade_id="e1_answer", locked=False, cell_type="code")),
        code("assert lines\n### BEGIN HIDDEN TESTS\nassert lines == 2\n### END HIDDEN TESTS",
             metadata=graded(grade=True, solution=False, points=2, grade_id="e1_test", locked=True, cell_type="code")),
        text("## Exercise 2 (open-ended, 4 points)\n\nWho pays?"),
        text("**Rubric**\n\n- names the group: 2", metadata=graded(grade=False, solution=False, grade_id="e2_rubric",
                                                                   locked=True, cell_type="markdown")),
        text("The conflicting group, because ...",
             metadata=graded(grade=True, solution=True, points=4, grade_id="e2", locked=False, cell_type="markdown"))])


def test_rubric_and_answers_come_from_the_master(tmp_path):
    nbformat.write(master(), tmp_path / "01_simulate_bias.ipynb")
    found = masters.read(tmp_path / "01_simulate_bias.ipynb", 7)
    text = pack.chapter_page(CHAPTERS["01"], found)
    assert "2 graded exercises, 6 points, numbers drawn with seed 7" in text
    for part in ("### Exercise 1 (recall, 2 points)", "```\nlines = 2\n```", "names the group: 2", "by hand",
                 "The conflicting group, because"):
        assert part in text, part
    assert "BEGIN" not in text and "HIDDEN" not in text


def test_the_answer_to_an_open_question_is_shown_without_marks(tmp_path):
    notebook = master()
    notebook.cells[-1].source = "### BEGIN SOLUTION\nThe conflicting.\n### END SOLUTION"
    nbformat.write(notebook, tmp_path / "01_simulate_bias.ipynb")
    text = pack.chapter_page(CHAPTERS["01"], masters.read(tmp_path / "01_simulate_bias.ipynb"))
    assert "(graded by hand)\n\nThe conflicting." in text and "BEGIN" not in text


def test_every_option_of_the_quiz_is_among_the_answers():
    text = pack.chapter_page(CHAPTERS["02"], None)
    assert "no graded sheet yet" in text
    for question in CHAPTERS["02"].quiz:
        for answer in question["answers"]:
            assert " ".join(texts.said(answer["feedback"]).split()) in text
    assert text.count("**Right.**") == sum(a["correct"] for q in CHAPTERS["02"].quiz for a in q["answers"])


def test_pages_escape_what_could_be_markup_and_fences_hold():
    shown = texts.page("A <b>", "`x < y` <script>alert(1)</script>\n\n" + texts.fenced("a\n```\nb"))
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<title>A &lt;b&gt;</title>" in shown
    assert "a\n```\nb\n</code>" in shown and "http" not in shown.replace("http-equiv", "")


# ---------------------------------------------------------------------- slides and the whole
@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("classroom")
    return out, pack.write_pack(out)


def test_the_pack_holds_a_page_and_slides_for_each_chapter_and_three_run_sheets(made):
    out, written = made
    names = {path.name for path in written}
    stems = [chapter.name for chapter in CHAPTERS.values()]
    assert names == {"index.html", *(f"run_sheet_{s['sheet']}.html" for s in SHEETS),
                     *(f"{stem}.html" for stem in stems), *(f"{stem}.pptx" for stem in stems)}
    assert all(path.parent == out / "pack" and path.stat().st_size > 2000 for path in written)
    index = (out / "pack" / "index.html").read_text(encoding="utf-8")
    for target in re.findall(r'href="([^"]+)"', index):
        assert target.startswith("http") or (out / "pack" / target).exists(), target
    for path in written:
        if path.suffix == ".html":
            page = path.read_text(encoding="utf-8")
            assert "<!-- =" not in page and "Not for clinical use." in page and page.count("<h1>") == 1


def _decks(made):
    from pptx import Presentation

    return {path.stem: Presentation(path) for path in made[1] if path.suffix == ".pptx"}


def test_slides_carry_figures_with_alt_text_and_say_that_they_are_simulated(made):
    for name, deck in _decks(made).items():
        planned = PLANNED[name[:2]]
        assert len(deck.slides) == 2 + len(planned) + len(CHAPTERS[name[:2]].quiz)
        for slide, plan in zip(list(deck.slides)[2:], planned, strict=False):
            assert slide.shapes.title.text == plan["title"]
            shown, = [s for s in slide.shapes if s.name == slides.SIMULATED]
            said = shown._element.xpath(".//p:cNvPr")[0].get("descr")
            assert said.startswith("Simulated data. ") and len(said) > 35
            assert any(s.has_text_frame and s.text_frame.text == "Simulated data" for s in slide.shapes)
            assert len(slide.notes_slide.notes_text_frame.text) > 30
        text = "".join(s.text_frame.text for slide in deck.slides for s in slide.shapes if s.has_text_frame)
        assert "<!--" not in text and "=" + "stored" not in text


def test_nothing_on_a_slide_leaves_it_or_lies_on_the_figure(made):
    for name, deck in _decks(made).items():
        for number, slide in enumerate(deck.slides, 1):
            for shape in slide.shapes:
                assert shape.left >= 0 and shape.left + shape.width <= deck.slide_width, (name, number)
                assert shape.top >= 0 and shape.top + shape.height <= deck.slide_height + INCH // 10, (name, number)
            for shown in (s for s in slide.shapes if s.name == slides.SIMULATED):
                assert shown.height > INCH and not any(overlap(shown, s) for s in slide.shapes if s.has_text_frame), (
                    name, number)


def overlap(a, b):
    return (a.left < b.left + b.width and b.left < a.left + a.width
            and a.top < b.top + b.height and b.top < a.top + a.height)


def test_the_quiz_on_a_slide_has_its_answer_in_the_notes_only(made):
    deck = _decks(made)[CHAPTERS["01"].name]
    question = CHAPTERS["01"].quiz[0]
    slide = list(deck.slides)[-len(CHAPTERS["01"].quiz)]
    text = " ".join(s.text_frame.text for s in slide.shapes if s.has_text_frame)
    assert texts.said(question["question"]) in text and "RIGHT" not in text
    right = next(a for a in question["answers"] if a["correct"])
    assert f"RIGHT. {texts.said(right['feedback'])}" in slide.notes_slide.notes_text_frame.text


def test_the_slides_have_every_question_that_a_run_sheet_may_name(made):
    for name, deck in _decks(made).items():
        quiz = CHAPTERS[name[:2]].quiz
        shown = list(deck.slides)[-len(quiz):]
        assert [s.shapes.title.text for s in shown] == [f"Check yourself: question {k + 1}" for k in range(len(quiz))]
    assert "questions three to five" in pack.run_sheet(SHEETS[0], CHAPTERS)[2] and len(CHAPTERS["01"].quiz) >= 5


def test_pictures_are_pictures(made):
    path = next(path for path in made[1] if path.name == f"{CHAPTERS['01'].name}.pptx")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        pictures = [name for name in archive.namelist() if name.startswith("ppt/media/")]
        assert len(pictures) == len(PLANNED["01"])
        assert all(archive.read(name)[:4] == b"\x89PNG" for name in pictures)


@pytest.mark.parametrize(("call", "arguments", "message"), [
    ("no_such_figure", [], "there is no figure 'no_such_figure'"), ("GAPS", [], "there is no figure 'GAPS'"),
    ("stored_dots", ["$NOTHING", "x"], "no constant 'NOTHING'"), ("stored_dots", [{}, "=key:curve(p=.7).x"], "names")])
def test_a_slide_that_names_nothing_is_refused(call, arguments, message):
    with pytest.raises(ValueError, match=message):
        slides.draw(call, arguments)


def test_notes_without_a_part_are_refused(tmp_path):
    (tmp_path / "book" / "instructors").mkdir(parents=True)
    (tmp_path / "book" / "chapters").mkdir()
    (tmp_path / "book" / "chapters" / "01_x.ipynb").write_text(json.dumps({"cells": []}))
    (tmp_path / "book" / "instructors" / "01.md").write_text("## Goals\n\n- one\n")
    with pytest.raises(ValueError, match="01.md has the headings"):
        pack.read_chapters(tmp_path)
    (tmp_path / "plan.yml").write_text("a: [")
    with pytest.raises(ValueError, match="plan.yml is not YAML"):
        pack.read_yaml(tmp_path / "plan.yml")
