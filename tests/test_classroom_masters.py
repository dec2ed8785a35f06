"""Every graded cell proved both ways: what it must reject it rejects, with its hint, and what is right it accepts."""

import ast
import json
import os
import re
from pathlib import Path

import matplotlib
import pytest
import yaml

from bias_tutorial.classroom import checks, masters

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "book" / "exercises").glob("*.ipynb"))
STUB = "# YOUR CODE HERE\nraise NotImplementedError()\n"
SEEDS = (0, 7)
NAMES = [path.stem for path in PATHS]


def answers(name):
    """The wrong and right answers of a sheet, by the grade_id of the solution cell."""
    return yaml.safe_load((ROOT / "tests" / "classroom" / f"{name}.yml").read_text(encoding="utf-8"))


def outcome(namespace, *texts):
    """The exception that the last of these cells raises, or None; a student's earlier cell may stop, as in a sheet."""
    raised = None
    for text in texts:
        raised = None
        try:
            exec(masters.runnable(text), namespace)
        except Exception as error:
            raised = error
    return raised


def tried(master, listed, monkeypatch):
    """Run a sheet from above, with its solutions; at each test try everything in a copy of the names so far."""
    matplotlib.use("Agg")
    monkeypatch.chdir(os.environ.get("PYTEST_TMP", "."))
    namespace, answer, faults = {"__name__": "__main__"}, None, []
    for cell in master.cells:
        if cell["cell_type"] != "code":
            continue
        text = masters.source(cell)
        if masters.is_answer(cell):
            before, answer = dict(namespace), cell
        if masters.is_test(cell):
            faults += both_ways(before, answer, text, listed)
        try:
            exec(masters.runnable(text), namespace)
        except Exception as error:
            faults.append(f"{masters.grade_id(cell)}: the master's own run stops: {type(error).__name__}: {error}")
            break
    return faults


def both_ways(before, answer, test, listed):
    """What is wrong with one graded cell, in words."""
    name = masters.grade_id(answer)
    visible, faults = masters.HIDDEN.sub("", test), []
    if outcome(dict(before), masters.SOLUTION.sub(STUB, masters.source(answer)), test) is None:
        faults.append(f"{name}: the untouched stub is accepted")
    met = 0
    for k, wrong in enumerate(listed[name]["wrong"]):
        namespace = dict(before)
        stopped = outcome(namespace, wrong["code"])
        raised, seen = outcome(dict(namespace), test), outcome(dict(namespace), visible)
        if stopped is not None:
            faults.append(f"{name}: wrong answer {k} does not run: {stopped!r}")
        elif not isinstance(raised, checks.NotYet):
            faults.append(f"{name}: wrong answer {k} is not rejected by a check: {raised!r}")
        elif wrong["says"] not in str(raised):
            faults.append(f"{name}: wrong answer {k} is told '{raised}', not '{wrong['says']}'")
        met += isinstance(seen, checks.NotYet)
    if met < 2:
        faults.append(f"{name}: only {met} wrong answers get their hint from the visible part, which the student has")
    for k, right in enumerate(listed[name]["right"]):
        raised = outcome(dict(before), right, test)
        if raised is not None:
            faults.append(f"{name}: right answer {k} is rejected: {raised!r}")
        if re.sub(r"\s", "", right) in re.sub(r"\s", "", masters.source(answer)):
            faults.append(f"{name}: right answer {k} is the solution itself")
    return faults


@pytest.mark.parametrize("name", NAMES)
def test_the_form_of_a_master(name):
    path = ROOT / "book" / "exercises" / f"{name}.ipynb"
    master = masters.read(path)
    assert (ROOT / "book" / "chapters" / path.name).is_file(), "a master belongs to a chapter"
    assert master.seed == 0 and sum(q.points for q in master.questions) == 20
    assert 4 <= sum(q.points for q in master.questions if q.by_hand) <= 6
    order = [masters.KINDS.index(q.kind) for q in master.questions if q.kind in masters.KINDS]
    assert set(order) == set(range(len(masters.KINDS))), f"kinds are {[q.kind for q in master.questions]}"
    assert order == sorted(order) and len(order) == len(master.questions) >= 5, "exercises rise"
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in raw["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in raw["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count"), f"{cell['id']} holds outputs"
        marks = masters.grader(cell)
        if marks:
            assert set(marks) == {"grade", "solution", "schema_version", "grade_id", "locked", "cell_type", "task"} | (
                {"points"} if marks["grade"] else set())
            assert marks["schema_version"] == 3 and marks["cell_type"] == cell["cell_type"] and not marks["task"]
        if masters.is_test(cell):
            assert marks["locked"] and "checks." in masters.HIDDEN.sub("", masters.source(cell)), marks["grade_id"]
    shown = {int(found[1]): int(found[3]) for cell in raw["cells"]
             for found in masters.HEADING.finditer(masters.source(cell)) if cell["cell_type"] == "markdown"}
    per_exercise = {}
    for q in master.questions:
        number = int(q.title.split()[1])
        per_exercise[number] = per_exercise.get(number, 0) + q.points
    assert shown == per_exercise, "points in the headings"
    hand = [k for k, cell in enumerate(raw["cells"]) if masters.grader(cell).get("grade") and
            cell["cell_type"] == "markdown"]
    for k in hand:
        rubric = raw["cells"][k - 1]
        assert masters.grader(rubric).get("locked") and "points" in masters.source(rubric), "a rubric above it, locked"


def unanswered(master):
    """Questions for a person whose master has no model answer of some length between the marks of a solution."""
    found = {q.name: masters.SOLUTION.search(masters.source(master.cell(q.answer))) for q in master.questions
             if q.by_hand}
    return [name for name, region in found.items() if not region or not 80 <= len(region[0].split()) <= 250]


@pytest.mark.parametrize("name", NAMES)
def test_every_open_question_has_a_model_answer(name):
    assert not unanswered(masters.read(ROOT / "book" / "exercises" / f"{name}.ipynb"))


@pytest.mark.parametrize("written", ["*Your answer here.*", "### BEGIN SOLUTION\nYour answer.\n### END SOLUTION"])
def test_a_master_without_a_model_answer_is_found(written):
    master = masters.read(PATHS[0])
    master.cell("e5_answer")["source"] = written
    assert unanswered(master) == ["e5_answer"]


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_answers_covers_every_graded_cell(name):
    master, listed = masters.read(ROOT / "book" / "exercises" / f"{name}.ipynb"), answers(name)
    assert set(listed) == {q.answer for q in master.questions if not q.by_hand}
    for cell, both in listed.items():
        assert set(both) == {"wrong", "right"}, cell
        assert len(both["wrong"]) >= 2 and len(both["right"]) >= 1, cell
        assert all(set(entry) == {"code", "says"} and len(entry["says"]) >= 8 for entry in both["wrong"]), cell
        assert len({entry["says"] for entry in both["wrong"]}) >= 2, f"{cell}: two wrong answers, two hints"


@pytest.mark.parametrize("name", NAMES)
def test_a_test_reads_only_what_it_can_get(name):
    """Names from given cells, its own, or those that a solution binds; and no test leans on another test."""
    import builtins

    master = masters.read(ROOT / "book" / "exercises" / f"{name}.ipynb")
    known = set(dir(builtins)) | master.answered()
    for cell in master.cells:
        if cell["cell_type"] != "code":
            continue
        text = masters.source(cell)
        if masters.is_test(cell):
            stored = {node.id for node in ast.walk(ast.parse(text))
                      if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            arguments = {node.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.arg)}
            strange = masters.used(text) - known - masters.bound(text) - stored - arguments
            assert not strange, f"{masters.grade_id(cell)} reads {strange}"
        elif not masters.is_answer(cell):
            known |= masters.bound(text)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_proved_both_ways(name, seed, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))
    master = masters.read(ROOT / "book" / "exercises" / f"{name}.ipynb", seed)
    faults = tried(master, answers(name), monkeypatch)
    assert not faults, "\n".join(faults)


def test_masters_and_lists_of_answers_come_in_pairs():
    assert NAMES and NAMES == [path.stem for path in sorted((ROOT / "tests" / "classroom").glob("*.yml"))]


# ---------------------------------------------------------------------- the proof itself can fail
ANSWER = {"cell_type": "code", "metadata": {"nbgrader": {"grade_id": "e1_answer", "solution": True}},
          "source": "### BEGIN SOLUTION\ngap = 0.5\n### END SOLUTION\n"}
TEST = ('from bias_tutorial.classroom import checks\n'
        'checks.misconception("gap", gap, {0.1: "upside down", 0.2: "half"})\n'
        '### BEGIN HIDDEN TESTS\nchecks.equals("gap", gap, 0.5)\n### END HIDDEN TESTS\n')
FAIR = {"e1_answer": {"wrong": [{"code": "gap = 0.1", "says": "upside down"}, {"code": "gap = 0.2", "says": "half"}],
                      "right": ["gap = 1 / 2"]}}


def changed(**parts):
    return {"e1_answer": {**FAIR["e1_answer"], **parts}}


@pytest.mark.parametrize(("test", "listed", "words"), [
    (TEST, FAIR, None),
    ("pass", FAIR, "stub is accepted"),
    (TEST, changed(wrong=[{"code": "gap = 0.1", "says": "another"}] * 2), "is told 'gap = 0.1: upside down'"),
    (TEST, changed(wrong=[{"code": "gap = 1 / 2", "says": "half"}] * 2), "is not rejected"),
    (TEST, changed(wrong=[{"code": "gap = 1 / 0", "says": "half"}] * 2), "does not run"),
    (TEST, changed(wrong=[{"code": "gap = 0.3", "says": "not right"}] * 2), "only 0 wrong answers get their hint"),
    (TEST, changed(right=["gap = 0.3"]), "right answer 0 is rejected"),
    (TEST, changed(right=["gap = 0.5"]), "is the solution itself"),
    (TEST.replace("gap, 0.5", "gapp, 0.5"), FAIR, "right answer 0 is rejected")])
def test_the_proof_finds_a_weak_checker(test, listed, words):
    faults = both_ways({}, ANSWER, test, listed)
    assert (not faults) if words is None else any(words in fault for fault in faults), faults
