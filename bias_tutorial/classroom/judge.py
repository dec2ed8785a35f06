"""Puts the tests of the master to a submission: its code runs in a sitting, the tests here; only data goes between."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from typing import Any

from . import checks, masters, values
from .host import Gone, Host, Limits, Sitting
from .submission import Plan, Step

PASSED = "All tests passed."
_SET_UP = '"google.colab" in sys.modules'


class TooLong(BaseException):
    """The tests themselves did not end in time."""


class Bench:
    """The master's side of one sheet, worked out once: what its own cells define before each test.

    Parameters
    ----------
    master : Master
        With the numbers of the class.

    Raises
    ------
    ValueError
        When the master's own solutions do not pass its tests.
    """

    def __init__(self, master: masters.Master):
        import matplotlib

        matplotlib.use("Agg")
        self.master, self.before, self.tests = master, {}, {}
        answered, imported = set(), set()
        for cell in master.cells:
            if masters.is_answer(cell):
                answered |= masters.bound(masters.source(cell))
                imported |= masters.imported(masters.source(cell))
        self.answered = answered - imported
        names: dict[str, Any] = {"__name__": "__main__"}
        for k, cell in enumerate(master.cells):
            if cell["cell_type"] != "code":
                continue
            text, name = masters.source(cell), masters.grade_id(cell)
            if _SET_UP in text:  # it looks for the environment of a student; here it would load what nobody needs
                text = "import sys, bias_tutorial"
            label = name or f"cell {k + 1}"
            if masters.is_test(cell):
                given = {key: value for key, value in names.items() if key not in self.answered}
                self.before[name], self.tests[name] = given, masters.runnable(text, label)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(masters.runnable(text, label), names)
            except Exception as error:
                raise ValueError(f"the master {master.name} does not pass its own tests: {label} stops with "
                                 f"{type(error).__name__}: {error}") from error

    def wants(self, name: str) -> list[str]:
        """What the tests of a question take from the student."""
        return sorted(self.answered & masters.used(masters.source(self.master.cell(name))))

    def put(self, name: str, sitting: Sitting, seconds: float) -> tuple[bool, str]:
        """Run the tests of a question; whether all passed, and what is said.

        Raises
        ------
        Gone
            When the submission's process ends or does not answer.
        """
        wanted = self.wants(name)
        reply = sitting.ask({"do": "names", "names": wanted}).get("names")
        found = reply if isinstance(reply, dict) else {}
        names = dict(self.before[name])
        for key in wanted:
            held = found.get(key)
            if isinstance(held, dict):
                names[key] = _taken(sitting, held)
        try:
            with _alarm(2 * seconds + 30), contextlib.redirect_stdout(io.StringIO()):
                exec(self.tests[name], names)
        except checks.NotYet as hint:
            return False, str(hint)
        except TooLong:
            return False, "The tests did not end in time with this answer."
        except NameError as error:
            missing = getattr(error, "name", None)
            return False, f"There is no '{missing}': was it given this name, and did its cell run without an error?"
        except Exception as error:
            return False, f"The tests stop with {type(error).__name__}: {str(error)[:300]}"
        return True, PASSED


def judge(bench: Bench, plan: Plan, host: Host) -> dict:
    """Work through a submission.

    A cell that ends the process, or does not end in time, is left out: a new process runs the others again, up to
    where it stood. So it costs its own question and nothing else.

    Returns
    -------
    dict
        ``questions``: by name, ``passed`` and ``said``; ``cells``: for each cell that was run ``label``, ``printed``
        and ``said``; ``separate``: what was kept apart.
    """
    left_out: dict[int, str] = {}
    told: dict[int, dict] = {}
    results: dict[str, dict] = {}
    sitting, k = host.enter(), 0
    separate = sitting.separate
    try:
        while k < len(plan.steps):
            step = plan.steps[k]
            try:
                if not sitting.open:
                    sitting = _again(host, plan.steps[:k], left_out)
                if step.judge is None:
                    told[k] = _run(sitting, step)
                    if told[k]["raised"] == "MemoryError":  # what fills the memory goes with the process
                        raise Gone("it used too much memory")
                else:
                    passed, said = bench.put(step.judge.name, sitting, host.limits.seconds)
                    results[step.judge.name] = {"passed": passed, "said": said}
            except Gone as gone:
                sitting.close()
                _note(step, k, f"{gone}", host.limits, left_out, told, results)
            k += 1
    finally:
        sitting.close()
    cells = [{"label": plan.steps[k].label, **told[k]} for k in sorted(told)]
    return {"questions": results, "cells": cells, "separate": separate}


def _run(sitting: Sitting, step: Step) -> dict:
    reply = sitting.ask({"do": "run", "code": step.code})
    raised = reply.get("raised")
    name, said = (str(part) for part in raised[:2]) if isinstance(raised, list) and len(raised) >= 2 else ("", "")
    return {"printed": str(reply.get("printed", ""))[:20_000], "raised": name,
            "said": f"{name}: {said[:500]}" if name else ""}


def _note(step: Step, k: int, why: str, limits: Limits, left_out: dict, told: dict, results: dict) -> None:
    text = {"it took too long": f"stopped after {limits.seconds:g} seconds",
            "it used too much memory": f"stopped: more than {limits.memory_mib} MiB of memory"}.get(
        why, f"stopped: {why}")
    if step.judge is None:
        left_out[k] = text
        told[k] = {"printed": "", "raised": "stopped", "said": f"This cell was {text}."}
    else:
        results[step.judge.name] = {"passed": False, "said": f"Testing this answer was {text}."}


def _again(host: Host, steps: list[Step], left_out: dict[int, str]) -> Sitting:
    """A new sitting in which the earlier cells have run, less those that end a process."""
    for _ in range(len(steps) + 1):
        sitting = host.enter()
        for k, step in enumerate(steps):
            if step.judge is not None or k in left_out:
                continue
            try:
                _run(sitting, step)
            except Gone as gone:  # it ended well the first time; from here on it is left out
                left_out[k] = str(gone)
                break
        else:
            return sitting
    raise AssertionError("more cells were left out than there are")


def _taken(sitting: Sitting, held: dict) -> Any:
    try:
        if "cannot" in held:
            raise values.Strange(str(held["cannot"])[:200])
        return sitting.value(held.get("value"))
    except values.Strange as error:
        said = str(error)

    def refuse(request):
        raise values.Strange(said)
    return values.Remote(refuse, -1, f"<a value that cannot be tested: {said}>")


@contextlib.contextmanager
def _alarm(seconds: float):
    """Raise :class:`TooLong` after so many seconds, where the system has such an alarm."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number, frame):
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
