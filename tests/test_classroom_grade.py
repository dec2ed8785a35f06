"""Grading: each kind of submission gets its points and costs nobody else anything; killed and resumed, none is lost."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from bias_tutorial.classroom import feedback, grade, host, masters, pool, submission  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import grading  # noqa: E402

FOLDER = ROOT / "book" / "exercises"
SHEET = grading.SHEET
ROUTINE = ["right", "wrong", "untouched", "crashing", "looping", "memory", "network", "tests_emptied", "checks_patched",
           "files", "cells_lost", "forged"]
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Twelve submissions, one of each kind, killed after four and continued."""
    folder = tmp_path_factory.mktemp("grading")
    result = grading.killed_and_resumed(folder / "submissions", folder / "grades.csv", 12, 2, 20, 512, ROUTINE)
    with (folder / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["student"][:-4]: row for row in csv.DictReader(file)}
    return folder, result, rows


def test_every_kind_gets_its_points_after_a_kill(graded):
    _, result, rows = graded
    assert not result["faults"], result["faults"]
    assert result["killed"] and result["returned"] == 0, result
    assert set(rows) == set(ROUTINE) and {row["status"] for row in rows.values()} == {"graded"}
    assert f"12 graded ({result['kept']} from before), 0 not; feedback pages in " in result["said"]
    assert "grade: 11, all on one page" in result["said"], "one of the twelve is untouched"
    assert "another seed" not in result["said"]
    assert 4 <= result["kept"] < 12


def test_the_table_names_what_a_person_grades_and_what_was_changed(graded):
    _, _, rows = graded
    assert all(row[f"{SHEET} e5_answer (of 6, by hand)"] == "" for row in rows.values())
    assert all(row["by_hand_out_of"] == "6" for row in rows.values())
    assert rows["right"]["points"] == "14" == rows["right"]["out_of"]
    assert "The tests in e3_test were changed" in rows["tests_emptied"]["notes"]
    assert "The cell e2_answer is missing." in rows["cells_lost"]["notes"] and not rows["right"]["notes"]


def test_feedback_says_why_and_escapes_what_a_student_wrote(graded):
    folder, _, _ = graded
    pages = {path.name[:-len(f"_000_{SHEET}.html")]: path.read_text(encoding="utf-8")
             for path in (folder / "grades_feedback").glob("*.html")}
    assert len(pages) == 12
    assert "This cell was stopped after 20 seconds." in pages["looping"]
    assert "its process ended" in pages["crashing"]
    assert "memory" in pages["memory"] and "No answer was written here." in pages["untouched"]
    assert "carriers are both sick and healthy" in pages["wrong"]
    assert "Error" in pages["network"] and "14 of 14 points" in pages["network"]
    for text in pages.values():
        assert "HIDDEN" not in text and "equal_classes" not in text, "neither tests nor what they compare with"
        assert "<script" not in text and "src=" not in text


def test_what_a_page_shows_is_escaped():
    master = masters.read(FOLDER / f"{SHEET}.ipynb")
    evil = "<script>alert(1)</script>\ud800"
    record = {"student": evil, "sheet": SHEET, "notes": [evil], "written": {"e1_answer": evil},
              "questions": {"e1_test": {"passed": False, "said": evil}},
              "cells": [{"label": "e1_answer", "printed": evil, "said": evil, "raised": ""}]}
    text = feedback.page(master, record, grade.points(master, record))
    assert "<script" not in text and text.count("&lt;script&gt;") >= 5 and text.encode()


def test_all_open_answers_stand_on_one_page_with_the_rubric(graded):
    folder, _, rows = graded
    text = (folder / "grades_open_answers.html").read_text(encoding="utf-8")
    assert re.findall("<h3>(.*)</h3>", text) == ["Exercise 5 (open-ended, 6 points)",
                                                 *sorted(row["student"] for row in rows.values())]
    assert text.count("No answer was written here.") == 1 and text.count("A model answer: Overall accuracy") == 11
    assert text.count("A manufacturer writes") == 1 == text.count("names one limit of simulated patients")
    assert "HIDDEN" not in text and "<script" not in text and "src=" not in text


def test_each_sheet_has_its_section_and_what_students_wrote_is_escaped():
    found, evil = masters.read_all(FOLDER), '<script>alert(1)</script>"\ud800'
    records = [{"student": f"{evil}{who}", "sheet": name, "written": written}
               for name in found for who, written in (("b", {}), ("a", {"e5_answer": evil, "e6_answer": evil,
                                                                        "e7_answer": evil}))]
    asked = feedback.open_answers(found, records)
    assert [each["title"] for each in asked] == [master.title for master in found.values()]
    assert all([answer["untouched"] for answer in each["answers"]] == [False, True] for each in asked)
    assert all("ubric" in each["asked"] or "is graded" in each["asked"] for each in asked)
    text = feedback.open_page(asked)
    assert "<script" not in text and text.count("&lt;script&gt;") == 3 * len(found) and text.encode()
    assert text.count("<table>") == sum("|---|" in each["asked"] for each in asked) > 0, "rubrics are rendered"
    assert feedback.open_page([]).count("<section>") == 0


STUB = "# YOUR CODE HERE\nraise NotImplementedError()"


@pytest.mark.parametrize(("by_hand", "written", "shown"), [
    (True, "YOUR ANSWER HERE", False), (True, "YOUR ANSWER HERE\n\nThe sick pay.", True), (True, None, False),
    (True, "from the table: the sick pay", True), (True, "# The sick pay", True),
    (False, STUB, False), (False, f"import numpy\n{STUB}", False), (False, f"who = 1\n{STUB}", True),
    (False, None, False)])
def test_an_answer_beside_the_line_it_should_replace_is_shown(by_hand, written, shown):
    master = masters.read(FOLDER / f"{SHEET}.ipynb")
    asked = next(q.answer for q in master.questions if q.by_hand == by_hand)
    record = {"student": "Ann", "sheet": SHEET, "notes": [], "questions": {}, "cells": [],
              "written": {q.answer: "x = 1" for q in master.questions} | {asked: written}}
    text = feedback.page(master, record, grade.points(master, record))
    assert ("No answer was written here." not in text) == shown


def test_on_linux_the_kernel_keeps_submissions_apart_where_it_may(graded):
    _, result, rows = graded
    apart = {row["kept_apart"] for row in rows.values()}
    assert apart in ({"network, processes, files"}, {"network, processes"}, {"weaker: by Python only"})
    assert ("does not keep submissions apart" in result["said"]) == (apart == {"weaker: by Python only"})


# ---------------------------------------------------------------------- one sitting
def cells(sitting, *codes):
    return [sitting.ask({"do": "run", "code": code}) for code in codes]


@pytest.mark.parametrize("fork", [True, False])
def test_a_sitting_has_no_network_and_no_way_to_files_of_others(tmp_path, fork):
    """Held by the kernel, or in the weaker way by Python."""
    if fork and not LINUX:
        fork = False
    secret = tmp_path / "masters"
    secret.mkdir()
    (secret / "a.txt").write_text("secret")
    own = host.Host(host.Limits(120, 512), [str(secret)], fork)
    try:
        sitting = own.enter()
        network, reading, writing, scratch = cells(
            sitting, "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)",
            f"print(open({str(secret / 'a.txt')!r}).read())", f"open({str(tmp_path / 'b.txt')!r}, 'w')",
            "open('mine.txt', 'w').write('x'); print(open('mine.txt').read())")
        work = Path(sitting.settings["work"])
        sitting.close()
    finally:
        own.close()
    assert network["raised"][0] in ("OSError", "PermissionError"), network
    assert reading["raised"] and "secret" not in reading["printed"], reading
    assert writing["raised"] and not (tmp_path / "b.txt").exists()
    assert scratch["raised"] is None and "x" in scratch["printed"] and not work.exists()


def test_folders_of_a_killed_grading_are_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(host.tempfile, "gettempdir", lambda: str(tmp_path))
    ours = tmp_path / f"{host.PREFIX}-{host.os.getpid()}-a"
    old, other = tmp_path / f"{host.PREFIX}-999999999-b", tmp_path / "else"
    for folder in (ours, old, other):
        folder.mkdir()
    assert host.tidy() == 1
    assert ours.is_dir() and other.is_dir() and not old.exists()


# ---------------------------------------------------------------------- what is handed in
def handed(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def sheet():
    return grading.solved()[0]


def test_files_that_cannot_be_graded_are_listed_with_the_reason(tmp_path, sheet):
    folder, found = tmp_path / "in", masters.read_all(FOLDER)
    plain = {key: value for key, value in sheet.items() if key != "metadata"} | {"metadata": {}}
    handed(folder, f"ann/{SHEET}.ipynb", sheet)
    handed(folder, f"bo/{SHEET}/{SHEET}.ipynb", plain)
    handed(folder, "bo/timestamp.txt", "now")
    handed(folder, f"cy_{SHEET}.ipynb", sheet)
    handed(folder, f"{SHEET}-dan.ipynb", plain)
    handed(folder, f"{SHEET}.ipynb", sheet)
    handed(folder, "eve/essay.txt", "x")
    handed(folder, f"fay/{SHEET}.ipynb", "{")
    handed(folder, f"gil/{SHEET}.ipynb", {"nbformat": 3, "cells": []})
    handed(folder, "hal/other.ipynb", plain)
    handed(folder, f"ida/{SHEET}.ipynb", sheet | {"metadata": {"classroom": {"sheet": "99_none"}}})
    handed(folder, f"Jo/{SHEET}.ipynb", sheet)
    handed(folder, f"jo_{SHEET}.ipynb", sheet)
    handed(folder, f"kim/{SHEET}.ipynb", {"nbformat": 4, "cells": [{"cell_type": "code", "source": 5}]})
    handed(folder, ".ipynb_checkpoints/x.ipynb", "x")
    tasks, excluded = grade.listed(folder, tmp_path / "results", found, host.Limits())
    assert sorted(task.student for task in tasks) == ["ann", "bo", "cy", "dan"]
    assert len({task.result for task in tasks}) == 4
    reasons = {f"{SHEET}.ipynb": "names no student", "eve/essay.txt": "is not a notebook (.ipynb)",
               f"fay/{SHEET}.ipynb": "is not a notebook", f"gil/{SHEET}.ipynb": "format 4",
               "hal/other.ipynb": "belongs to no known sheet", f"ida/{SHEET}.ipynb": "'99_none'",
               f"Jo/{SHEET}.ipynb": "one of several", f"jo_{SHEET}.ipynb": f"Jo/{SHEET}.ipynb",
               f"kim/{SHEET}.ipynb": "not a notebook"}
    assert set(excluded) == set(reasons)
    for name, words in reasons.items():
        assert words in excluded[name], (name, excluded[name])


def test_a_result_is_kept_for_the_same_file_master_and_limits_only(tmp_path, sheet):
    folder, found, limits = tmp_path / "in", masters.read_all(FOLDER), host.Limits()
    handed(folder, f"ann/{SHEET}.ipynb", sheet)

    def key(found=found, limits=limits):
        return grade.listed(folder, tmp_path, found, limits)[0][0].result

    first = key()
    assert key() == first and key(limits=host.Limits(seconds=5)) != first
    assert key(masters.read_all(FOLDER, 5)) != first
    handed(folder, f"ann/{SHEET}.ipynb", json.dumps(sheet) + " ")
    assert key() != first


@pytest.mark.parametrize("change, words", [
    ({"folder": "none"}, "there is no such folder"), ({"folder": "empty"}, "holds no submission"),
    ({"out": "grades.txt"}, "must end in .csv"), ({"out": "in/grades.csv"}, "outside the submissions"),
    ({"workers": 0}, "--workers must be above 0"), ({"limits": host.Limits(seconds=0)}, "--seconds must be above 0"),
    ({"exercises": "empty"}, "holds no master notebook")])
def test_settings_that_cannot_be_are_refused(tmp_path, sheet, change, words):
    (tmp_path / "empty").mkdir()
    handed(tmp_path / "in", f"ann/{SHEET}.ipynb", sheet)
    settings = {"folder": "in", "out": "grades.csv", "exercises": str(FOLDER)} | change
    for name in ("folder", "out", "exercises"):
        settings[name] = tmp_path / settings[name]
    with pytest.raises(ValueError, match=words):
        grade.grade(**settings)


def test_a_table_holds_no_formula():
    assert grade._harmless("=1+1") == "'=1+1" and grade._harmless("-x") == "'-x" and grade._harmless("ann") == "ann"


def test_pages_of_different_students_have_different_names():
    names = {feedback.file_name(who, SHEET) for who in ("Ann", "ann", "a/b", "a b", "a_b", "../x", "é" * 90, "é" * 91)}
    assert len(names) == 8 and not [name for name in names if "/" in name or name.startswith(".")]


# ---------------------------------------------------------------------- what will be run
def test_the_plan_of_an_ordinary_sheet(sheet):
    plan = submission.plan(masters.read(FOLDER / f"{SHEET}.ipynb"), sheet)
    assert not plan.notes and plan.other_seed is None
    judged = [step.judge.name for step in plan.steps if step.judge]
    assert judged == ["e1_test", "e2_test", "e3_test", "e4_test"]
    labels = [step.label for step in plan.steps]
    assert all(labels.index(f"e{k}_answer") < labels.index(f"e{k}_test") for k in range(1, 5))
    assert "checks.misconception" not in "".join(step.code or "" for step in plan.steps), "tests run here, not there"


def test_the_plan_when_cells_are_gone_moved_or_there_twice(sheet):
    master = masters.read(FOLDER / f"{SHEET}.ipynb")
    notebook = json.loads(json.dumps(sheet))
    by_name = {masters.grade_id(cell): cell for cell in notebook["cells"]}
    notebook["cells"] = [cell for cell in notebook["cells"] if masters.grade_id(cell) not in ("e1_test", "e2_answer")
                         and not masters.is_numbers(cell)]
    notebook["cells"].append(dict(by_name["e3_answer"]))
    plan = submission.plan(master, notebook)
    labels = [step.label for step in plan.steps]
    assert labels[0] == "numbers" and labels.index("e1_test") < labels.index("e2_test")
    assert labels.index("e3_test") > max(k for k, label in enumerate(labels) if label == "e3_answer")
    assert sorted(step.judge.name for step in plan.steps if step.judge) == ["e1_test", "e2_test", "e3_test", "e4_test"]
    said = " ".join(plan.notes)
    for words in ("e1_test is missing", "e2_answer is missing", "draws the numbers is missing", "e3_answer occurs 2"):
        assert words in said, said


def test_a_sheet_of_another_seed_is_known_by_it(sheet):
    notebook, other = json.loads(json.dumps(sheet)), masters.read(FOLDER / f"{SHEET}.ipynb", 7)
    plan = submission.plan(other, notebook)
    assert plan.other_seed == 0 and "The sheet has SEED = 0, the class 7." in " ".join(plan.notes)
    numbers = next(cell for cell in notebook["cells"] if masters.is_numbers(cell))
    for written, seed in (("SEED = 7", None), ("SEED = 8", 8), ("SEED = eight", None), ("SEED = " + "9" * 5000, None)):
        numbers["source"] = masters.source(other.numbers).replace("SEED = 7", written)
        assert submission.plan(other, notebook).other_seed == seed, written[:20]


# ---------------------------------------------------------------------- processes side by side
def test_a_process_that_ends_costs_its_task_only():
    done = dict(pool.spread(_maker, (10,), [1, 2, "end", 3, "raise"], 2))
    assert [done[k] for k in (1, 2, 3)] == [11, 12, 13]
    assert "exit code 9" in str(done["end"]) and "ValueError: no" in str(done["raise"])


def _maker(add):
    import os

    def do(task):
        if task == "end":
            os._exit(9)
        if task == "raise":
            raise ValueError("no")
        return task + add
    return do


@pytest.fixture(scope="module")
def own():
    grader = grade.Grader(str(FOLDER), None, host.Limits(120, 2048), [])
    yield grader
    grader.close()


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.ipynb"))])
def test_right_answers_of_the_lists_pass_the_grading_too(name, own, tmp_path):
    """As the student's process hands them over: the tests of a master see data and remote functions alone."""
    master = masters.read(FOLDER / f"{name}.ipynb")
    listed = yaml.safe_load((ROOT / "tests" / "classroom" / f"{name}.yml").read_text(encoding="utf-8"))
    notebook = json.loads((FOLDER / "student" / f"{name}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if masters.grade_id(cell) in listed:
            cell["source"] = listed[masters.grade_id(cell)]["right"][-1]
    handed(tmp_path, f"ann/{name}.ipynb", notebook)
    own(grade.Task(str(tmp_path / "ann" / f"{name}.ipynb"), "ann", name, str(tmp_path / "r.json")))
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert grade.points(master, record) == {q.name: None if q.by_hand else q.points for q in master.questions}, [
        record["questions"], [cell["said"] for cell in record["cells"] if cell["said"]]]
