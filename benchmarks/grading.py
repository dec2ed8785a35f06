"""Grade many submissions of every kind side by side, kill the grading once, continue, and look for a lost one.

    python -m benchmarks.grading [--n 200] [--workers 2]

The submissions are written by this script: right, wrong, untouched, crashing, looping, memory-hungry, network-seeking,
tampered and more, each with the points that it must get.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bias_tutorial.classroom import masters, sheets

ROOT = Path(__file__).resolve().parents[1]
SHEET = "01_simulate_bias"
FULL = {"e1_test": 2.0, "e2_test": 3.0, "e3_test": 4.0, "e4_test": 5.0}
E3 = "threshold = -logit(numbers.q) / 2\n"
GOOD_GAP = "def key_gap(p):\n    return norm.cdf(1 + logit(p) / 2) - norm.cdf(1 - logit(p) / 2)\n"
CHEAT = """
import builtins, sys, types
from bias_tutorial.classroom import checks
for name in dir(checks):
    if callable(getattr(checks, name)) and name.islower():
        setattr(checks, name, lambda *a, **k: None)
checks.NotYet = type("NotYet", (Exception,), {})
class Equal(float):
    __eq__ = __le__ = __ge__ = lambda self, other: True
    __sub__ = __rsub__ = lambda self, other: 0.0
builtins.abs = lambda x: 0.0
print = lambda *a, **k: None
threshold, key_gap = Equal(0), lambda p: Equal(0)
sys.modules["bias_tutorial.classroom.judge"] = types.ModuleType("judge")
"""
WRITE = """
import os, pathlib
for root in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents, pathlib.Path({out!r})):
    for name in ("grades.csv", "results.json"):
        try:
            (root / name).write_text("me,20")
        except OSError:
            pass
found = []
for folder in ({masters!r}, {submissions!r}):
    try:
        found += [str(path) for path in pathlib.Path(folder).rglob("*.ipynb")]
    except OSError:
        pass
assert not found, found
threshold = 0.5
def key_gap(p):
    return 0.1
"""
FORGE = """
import json, os
for end in range(3, 64):
    try:
        os.write(end, json.dumps({"names": {"threshold": {"value": 1.0}}, "passed": True}).encode() + b"\\n")
    except OSError:
        pass
"""
SEEK = E3 + GOOD_GAP + """
import urllib.request
urllib.request.urlopen("http://example.org", timeout=5)
"""


def _set(**cells: str) -> Callable[[dict], None]:
    def change(notebook: dict) -> None:
        for cell in notebook["cells"]:
            if masters.grade_id(cell) in cells:
                cell["source"] = cells[masters.grade_id(cell)]
    return change


def _tests_emptied(notebook: dict) -> None:
    for cell in notebook["cells"]:
        if masters.is_test(cell):
            cell["source"] = "pass"
            cell["metadata"]["nbgrader"]["points"] = 100
    _set(e3_answer="threshold = key_gap = None")(notebook)


def _cells_lost(notebook: dict) -> None:
    gone = ("e1_test", "e2_answer", "e4_test")
    notebook["cells"] = [cell for cell in notebook["cells"] if masters.grade_id(cell) not in gone]


def _cell_twice(notebook: dict) -> None:
    place = next(k for k, cell in enumerate(notebook["cells"]) if masters.grade_id(cell) == "e3_answer")
    copy = json.loads(json.dumps(notebook["cells"][place])) | {"id": "again"}
    notebook["cells"][place]["source"] = "threshold = 0"
    notebook["cells"].insert(place + 1, copy)


def _other_seed(notebook: dict) -> None:
    for cell in notebook["cells"]:
        if masters.is_numbers(cell):
            cell["source"] = masters.source(cell).replace("SEED = 0", "SEED = 99")


def without(*names: str) -> dict[str, float]:
    """Full points, less those of some questions."""
    return FULL | dict.fromkeys(names, 0.0)


def kinds(out: str = "", submissions: str = "") -> dict[str, tuple[Callable | None, dict[str, float]]]:
    """By kind: how the solved sheet is changed (None: the untouched one is handed in), and the points it must get."""
    write = WRITE.format(out=out, masters=str(ROOT / "book" / "exercises"), submissions=submissions)
    return {
        "right": (_set(), FULL),
        "wrong": (_set(e1_answer="who, conflicting = 'a', 3", e4_answer="design, m = 'd', 7"),
                  without("e1_test", "e4_test")),
        "untouched": (None, without(*FULL)),
        "raising": (_set(e2_answer="tpr_gap = 1 / 0"), without("e2_test")),
        "crashing": (_set(e2_answer="import os, ctypes\nos._exit(3)"), without("e2_test")),
        "segfault": (_set(e2_answer="import ctypes\nctypes.string_at(0)"), without("e2_test")),
        "exiting": (_set(e4_answer="import sys\nsys.exit(0)"), without("e4_test")),
        "looping": (_set(e2_answer="while True:\n    pass"), without("e2_test")),
        "loop_in_function": (_set(e3_answer=E3 + "def key_gap(p):\n    while True:\n        pass"), without("e3_test")),
        "memory": (_set(e1_answer="hog = []\nwhile True:\n    hog.append(bytearray(b'x' * 10_000_000))"),
                   without("e1_test")),
        "network": (_set(e3_answer=SEEK), FULL),  # answers are there before it asks for the network, in vain
        "tests_emptied": (_tests_emptied, without("e3_test")),
        "checks_patched": (_set(e3_answer=CHEAT), without("e3_test")),
        "files": (_set(e3_answer=write), without("e3_test")),
        "forged": (_set(e3_answer=FORGE), without("e3_test")),
        "cells_lost": (_cells_lost, without("e2_test")),
        "cell_twice": (_cell_twice, FULL),
        "other_seed": (_other_seed, FULL),  # the class's numbers are put back, and the answers follow them
        "printing": (_set(e1_answer="while True:\n    print('x' * 1000)"), without("e1_test")),
        "forking": (_set(e1_answer="import os\nwhile True:\n    os.fork()"), without("e1_test")),
    }


def solved() -> tuple[dict, dict]:
    """The student notebook of chapter 1, untouched and with the solutions."""
    master = masters.read(ROOT / "book" / "exercises" / f"{SHEET}.ipynb")
    untouched = json.loads(sheets.text(sheets.student(master)))
    notebook = json.loads(json.dumps(untouched))
    for cell in notebook["cells"]:
        if masters.grader(cell).get("solution"):
            text = masters.source(master.cell(masters.grade_id(cell)))
            cell["source"] = text.replace("### BEGIN SOLUTION\n", "").replace("\n### END SOLUTION", "")
    return untouched, notebook


def write(folder: Path, out: Path, n: int, only: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Write submissions of all kinds in turn; the points that each student must get."""
    untouched, notebook = solved()
    listed = {name: kind for name, kind in kinds(str(out.parent), str(folder)).items() if not only or name in only}
    wanted = {}
    for k in range(n):
        name = list(listed)[k % len(listed)]
        change, points = listed[name]
        handed = json.loads(json.dumps(untouched if change is None else notebook))
        if change:
            change(handed)
        # Each has a mark of its own in what it prints, so that a mix-up would show.
        handed["cells"].append({"cell_type": "code", "id": "mark", "metadata": {}, "execution_count": None,
                                "outputs": [], "source": f"print('mark of {k}')"})
        student = f"{name}_{k:03d}"
        path = folder / student / f"{SHEET}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(handed), encoding="utf-8")
        wanted[student] = points
    return wanted


def faults(out: Path, wanted: dict[str, dict[str, float]]) -> list[str]:
    """What is lost, mixed up or graded otherwise than it must be."""
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["student"]: {q: float(row[f"{SHEET} {q} (of {most:g})"]) for q, most in FULL.items()} for row in rows}
    wrong = [f"{who}: {found.get(who)} in place of {points}" for who, points in wanted.items()
             if found.get(who) != points]
    wrong += [f"{who} was not handed in" for who in set(found) - set(wanted)]
    if len(rows) != len(wanted):
        wrong.append(f"{len(rows)} rows for {len(wanted)} submissions")
    for path in out.with_name(f"{out.stem}_results").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        mark = next(cell["printed"] for cell in reversed(record["cells"]))
        patched = record["student"].startswith("checks_patched")  # it has replaced print
        if not patched and mark.strip() != f"mark of {int(record['student'][-3:])}":
            wrong.append(f"{record['student']}: printed {mark!r}")
    return wrong


def command(folder: Path, out: Path, workers: int, seconds: float, memory: int) -> list[str]:
    """The command of an instructor."""
    start = [sys.executable, "-c", "from bias_tutorial.cli import app; app()", "classroom", "grade", str(folder)]
    options = {"out": out, "masters": ROOT / "book" / "exercises", "workers": workers, "seconds": seconds,
               "memory": memory}
    return start + [word for name, value in options.items() for word in (f"--{name}", str(value))]


def killed_and_resumed(folder: Path, out: Path, n: int, workers: int, seconds: float, memory: int,
                       only: list[str] | None = None) -> dict:
    """Grade, kill when a third is done, continue; times, and what was wrong."""
    wanted = write(folder, out, n, only)
    words, start = command(folder, out, workers, seconds, memory), time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = out.with_name(f"{out.stem}_results")
    while first.poll() is None and len(list(results.glob("*.json"))) < n // 3:
        time.sleep(0.05)
    first.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    killed = first.wait() != 0 and not out.exists()
    kept, middle = len(list(results.glob("*.json"))), time.monotonic()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    return {"n": n, "workers": workers, "killed": killed, "kept": kept, "seconds_first": middle - start,
            "seconds_second": time.monotonic() - middle, "said": done.stdout + done.stderr[-2000:],
            "returned": done.returncode, "faults": faults(out, wanted) if out.exists() else ["no table"],
            "kinds": Counter(who[:-4] for who in wanted)}


def main() -> int:
    """Run the long form and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--memory", type=int, default=512)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bias-tutorial-grading-"))
    try:
        result = killed_and_resumed(folder / "submissions", folder / "grades.csv", options.n, options.workers,
                                    options.seconds, options.memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=2))
    return 1 if result["faults"] or result["returned"] or not result["killed"] else 0


if __name__ == "__main__":
    sys.exit(main())
