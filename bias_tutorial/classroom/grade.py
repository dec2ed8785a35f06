"""Grade a folder of submissions: no server, no container, each one by itself, and to be continued after any stop."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from .. import __version__
from ..files import write_text
from . import feedback, host, judge, masters, pool, sheets, submission
from .host import Limits
from .submission import Excluded

FORMAT = 2  # of the kept results; another number grades everything again
IGNORED = {"timestamp.txt"}  # nbgrader puts it beside a submission


@dataclass(frozen=True)
class Task:
    """One submission to grade.

    Parameters
    ----------
    path, student, sheet : str
        Which file, of whom, and of which master.
    result : str
        File that keeps the result.
    """

    path: str
    student: str
    sheet: str
    result: str


@dataclass(frozen=True)
class Report:
    """What a grading did.

    Parameters
    ----------
    graded, kept : int
        Submissions in the table, and how many of them were graded before.
    excluded : dict of str to str
        File, and why it was not graded.
    weaker : bool
        True when the system could not keep the code apart as Linux does.
    open_answers : int
        Written by students and left to a person.
    other_seed : int
        Submissions drawn with another seed than the class's.
    """

    graded: int
    kept: int
    excluded: dict[str, str]
    weaker: bool
    open_answers: int
    other_seed: int


def beside(out: Path, what: str) -> Path:
    """Where something lies that belongs to a table: ``feedback`` and ``results`` (folders), ``open_answers.html``."""
    return out.with_name(f"{out.stem}_{what}")


def grade(folder: str | Path, out: str | Path, exercises: str | Path = "book/exercises", seed: int | None = None,
          workers: int = 2, limits: Limits | None = None) -> Report:
    """Grade every notebook below a folder.

    Parameters
    ----------
    folder : path
        Submissions, as ``<student>/<sheet>.ipynb``, as nbgrader keeps them (``<student>/<sheet>/<sheet>.ipynb``) or as
        ``<student>_<sheet>.ipynb``.
    out : path
        The table, ending in ``.csv``. Beside it (:func:`beside`) a folder of feedback pages and one of results are
        made, and a page with all answers that a person grades.
    exercises : path
        Folder of the masters.
    seed : int, optional
        Of the class; the masters' own when not given.
    workers : int
        Submissions at a time.
    limits : Limits, optional
        Time and memory.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        No submissions, no masters, impossible settings, or another grading at work on the same table.
    """
    folder, out, limits = Path(folder), Path(out), Limits() if limits is None else limits
    _check(folder, out, workers, limits)
    found = masters.read_all(exercises, seed)
    results = beside(out, "results")
    tasks, excluded = listed(folder, results, found, limits)
    try:
        with FileLock(_made(results) / ".lock", timeout=0):
            host.tidy()
            before = {task.result for task in tasks if Path(task.result).is_file()}
            to_do = [task for task in tasks if task.result not in before]
            settings = (str(exercises), seed, limits, _covered(folder, out, Path(exercises)))
            progress = tqdm(total=len(tasks), initial=len(before), desc="grading", unit="submission", disable=None)
            with progress:
                for task, ended in pool.spread(Grader, settings, to_do, workers):
                    progress.update()
                    if isinstance(ended, Exception):
                        excluded[_name(task.path, folder)] = f"the grading itself failed: {ended}"
            kept = [task for task in tasks if Path(task.result).is_file()]
            records = [json.loads(Path(task.result).read_text(encoding="utf-8")) for task in kept]
            asked = feedback.open_answers(found, records)
            write_text(beside(out, "open_answers.html"), feedback.open_page(asked))
            _pages(out, found, records)
            _table(out, folder, found, records, excluded)
    except Timeout:
        raise ValueError(f"another grading is at work on '{out}'") from None
    weaker = any("network" not in record["separate"] for record in records)
    waiting = sum(not answer["untouched"] for each in asked for answer in each["answers"])
    other_seed = sum(record["other_seed"] is not None for record in records)
    return Report(len(records), len(before), excluded, weaker, waiting, other_seed)


def listed(folder: Path, results: Path, found: Mapping[str, masters.Master],
           limits: Limits) -> tuple[list[Task], dict[str, str]]:
    """Tasks, and the files that are none, with the reason."""
    tasks, excluded, stated = [], {}, hashlib.sha256(json.dumps([FORMAT, __version__, asdict(limits)]).encode())
    paths = [path for path in sorted(folder.rglob("*")) if (path.is_file() or path.is_symlink())
             and not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.name not in IGNORED]
    if not paths:
        raise ValueError(f"'{folder}': holds no submission, expected files such as student/01_simulate_bias.ipynb")
    for path in paths:
        try:
            if path.is_symlink() or path.suffix != ".ipynb":
                raise Excluded("is a link" if path.is_symlink() else "is not a notebook (.ipynb)")
            notebook = submission.read(path)
            sheet = submission.sheet_of(path, notebook, list(found))
            student = submission.student_of(path, folder, sheet)
        except Excluded as reason:
            excluded[_name(path, folder)] = str(reason)
            continue
        key = stated.copy()
        for part in (student.encode(), sheet.encode(), path.read_bytes(), sheets.text(found[sheet].notebook).encode()):
            key.update(hashlib.sha256(part).digest())
        tasks.append(Task(str(path), student, sheet, str(results / f"{key.hexdigest()[:32]}.json")))
    people: dict[tuple, list[Task]] = {}
    for task in tasks:
        people.setdefault((task.student.casefold(), task.sheet), []).append(task)
    for same in people.values():
        for task in same if len(same) > 1 else []:
            others = ", ".join(_name(other.path, folder) for other in same if other is not task)
            excluded[_name(task.path, folder)] = f"is one of several of '{task.student}': {others}; keep one"
    return [same[0] for same in people.values() if len(same) == 1], excluded


class Grader:
    """What one process of the grading does; see :func:`bias_tutorial.classroom.pool.spread`.

    Parameters
    ----------
    exercises, seed, limits
        As for :func:`grade`.
    hidden : list of path
        What no submission may read.
    """

    def __init__(self, exercises: str, seed: int | None, limits: Limits, hidden: list[str]):
        self.exercises, self.seed = Path(exercises), seed
        self.host = host.Host(limits, hidden)
        self.benches: dict[str, judge.Bench] = {}

    def __call__(self, task: Task) -> str:
        """Grade one submission and keep its result; the file that holds it."""
        if task.sheet not in self.benches:
            master = masters.read(self.exercises / f"{task.sheet}.ipynb", self.seed)
            self.benches[task.sheet] = judge.Bench(master)
        bench = self.benches[task.sheet]
        plan = submission.plan(bench.master, submission.read(Path(task.path)))
        record = judge.judge(bench, plan, self.host)
        record |= {"student": task.student, "sheet": task.sheet, "path": task.path, "notes": plan.notes,
                   "other_seed": plan.other_seed, "written": plan.written}
        write_text(task.result, json.dumps(record, indent=1))
        return task.result

    def close(self) -> None:
        """End the process that forks sittings."""
        self.host.close()


def points(master: masters.Master, record: Mapping) -> dict[str, float | None]:
    """Points of each question; None for what a person grades."""
    return {q.name: None if q.by_hand else q.points * bool(record["questions"].get(q.name, {}).get("passed"))
            for q in master.questions}


def _table(out: Path, folder: Path, found: Mapping[str, masters.Master], records: list[dict],
           excluded: Mapping[str, str]) -> None:
    used = sorted({record["sheet"] for record in records})
    columns = {(name, q.name): f"{name} {q.name} (of {q.points:g}{', by hand' if q.by_hand else ''})"
               for name in used for q in found[name].questions}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["student", "sheet", "file", "status", "points", "out_of", "by_hand_out_of", "kept_apart", "notes",
                   *columns.values()])
    for record in sorted(records, key=lambda record: (record["sheet"], record["student"])):
        master = found[record["sheet"]]
        given = points(master, record)
        by_hand = sum(q.points for q in master.questions if q.by_hand)
        apart = ", ".join(record["separate"]) or "weaker: by Python only"
        row = [record["student"], record["sheet"], _name(record["path"], folder), "graded",
               _short(sum(value for value in given.values() if value is not None)),
               _short(sum(q.points for q in master.questions) - by_hand), _short(by_hand), apart,
               " ".join(record["notes"])]
        row += [_short(given[question]) if sheet == record["sheet"] else "" for sheet, question in columns]
        rows.writerow([_harmless(cell) for cell in row])
    for name, reason in sorted(excluded.items()):
        rows.writerow([_harmless(cell) for cell in ["", "", name, f"excluded: {reason}"] + [""] * (5 + len(columns))])
    write_text(out, text.getvalue())


def _pages(out: Path, found: Mapping[str, masters.Master], records: list[dict]) -> None:
    folder = beside(out, "feedback")
    for record in records:
        master = found[record["sheet"]]
        write_text(folder / feedback.file_name(record["student"], record["sheet"]),
                   feedback.page(master, record, points(master, record)))


def _check(folder: Path, out: Path, workers: int, limits: Limits) -> None:
    if not folder.is_dir():
        raise ValueError(f"'{folder}': there is no such folder of submissions")
    if out.suffix != ".csv":
        raise ValueError(f"--out must end in .csv, got '{out}'")
    if folder.resolve() in [*out.resolve().parents]:
        raise ValueError(f"--out must lie outside the submissions, got '{out}'")
    for name, value in (("--workers", workers), ("--seconds", limits.seconds), ("--memory", limits.memory_mib)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def _covered(folder: Path, out: Path, exercises: Path) -> list[str]:
    """What no submission may read: masters, other people's work, grades, and where these are kept once more."""
    made = [beside(out, what) for what in ("results", "feedback", "open_answers.html")]
    again = (".git", "dist", "tests/classroom")  # of the repository that the masters are kept in
    above = [parent / name for parent in exercises.resolve().parents[:2] for name in again]
    return [str(path.resolve()) for path in (folder, out, *made, exercises, *above)]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _name(path: str | Path, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix()


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _harmless(cell: str) -> str:
    """No formula for a spreadsheet, and no letter that is none."""
    cell = cell.encode("utf-8", "replace").decode()
    return f"'{cell}" if cell[:1] in "=+-@\t\r" and cell else cell
